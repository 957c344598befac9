"""Active health checks: each endpoint is asked at intervals whether it is well."""

import asyncio

import structlog

from ostiary_chassis.descriptors import CONNECT, shortage
from ostiary_gateway.routing.config import HealthCheck
from ostiary_gateway.upstream.dialer import Dialer
from ostiary_gateway.upstream.fetch import fetch

#: Failed checks in a row after which an endpoint is unhealthy, until one succeeds.
MAX_FAILED_CHECKS = 2

_log = structlog.stdlib.get_logger("upstream")


class HealthMonitor:
    """Checks one endpoint, and knows what came of it. An endpoint is healthy until checks fail."""

    def __init__(self, name: str, dialer: Dialer, host: bytes) -> None:
        """`host` is the value of `Host`."""
        self._name = name
        self._dialer = dialer
        self._host = host
        self._failed_checks = 0
        self._next_check = 0.0
        self._check: asyncio.Task[None] | None = None

    @property
    def is_healthy(self) -> bool:
        """Whether the last checks allow requests."""
        return self._failed_checks < MAX_FAILED_CHECKS

    def on_tick(self, now: float, config: HealthCheck) -> None:
        """Begin a check if it is time for one and none is running."""
        if now >= self._next_check and (self._check is None or self._check.done()):
            self._next_check = now + config.seconds
            self._check = asyncio.create_task(self._run(config))

    def stop(self) -> None:
        """End a running check."""
        if self._check is not None:
            self._check.cancel()

    async def _run(self, config: HealthCheck) -> None:
        try:
            status, _ = await fetch(self._name, self._dialer, self._host, config.path, config.timeout)
            succeeded = 200 <= status < 300  # noqa: PLR2004 - RFC 9110 section 15.3
        except OSError as error:
            if shortage.is_cause(error, CONNECT):
                # It says nothing about the endpoint.
                return
            succeeded = False
        was_healthy = self.is_healthy
        self._failed_checks = 0 if succeeded else self._failed_checks + 1
        if self.is_healthy is not was_healthy:
            _log.warning("health changed", upstream=self._name, endpoint=self._dialer.address, healthy=self.is_healthy)
