"""One address of an upstream: its pool, its health, and whether it is ejected."""

import asyncio
import ssl
import time

import structlog

from ostiary_gateway.http1.errors import BadMessage
from ostiary_gateway.routing.config import HealthCheck
from ostiary_gateway.upstream.circuit_breaker import CircuitBreaker
from ostiary_gateway.upstream.pool import Pool

_log = structlog.stdlib.get_logger("upstream")

#: Failures in a row after which an address is left out; for so many seconds, more each time, up to the last.
FAILURES_IN_A_ROW = 5
LEFT_OUT_SECONDS = (5.0, 60.0)

#: Failed health checks in a row after which an address is left out until one succeeds.
FAILED_CHECKS = 2


class Endpoint:
    """One address of a service, and how it has been doing."""

    def __init__(
        self, name: str, url: str, connections: int, tls: ssl.SSLContext | None, breaker: CircuitBreaker
    ) -> None:
        """Make it, as good as any."""
        self.url = url
        self.pool = Pool(name, url, connections, tls, self)
        self._name = name
        self._circuit_breaker = breaker
        self._failures = 0
        self._times_left_out = 0
        self._left_out_until = 0.0
        self._failed_checks = 0
        self._check: asyncio.Task[None] | None = None
        self._next_check = 0.0

    def is_left_in(self, now: float) -> bool:
        """Return whether it gets requests, as far as it alone is concerned."""
        return now >= self._left_out_until and self._failed_checks < FAILED_CHECKS

    def on_tick(self, now: float, health: HealthCheck | None) -> None:
        """Close what is idle, and check its health if it is time."""
        self.pool.sweep(now)
        if health is not None and now >= self._next_check and (self._check is None or self._check.done()):
            self._next_check = now + health.seconds
            self._check = asyncio.create_task(self._check_health(health))

    def retire(self) -> None:
        """Get no more requests."""
        self.pool.retire()
        if self._check is not None:
            self._check.cancel()

    def succeeded(self) -> None:
        """Note an answer. One of the Outcomes."""
        if self._failures or self._times_left_out:
            self._failures = self._times_left_out = 0
        if self._circuit_breaker.succeeded():
            _log.info("upstream answers again", upstream=self._name)

    def failed(self, client: str | None) -> None:
        """Note that there was none. One of the Outcomes."""
        if self._circuit_breaker.failed(client):
            _log.warning("upstream is asked nothing for a while: most requests fail", upstream=self._name)
        now = time.monotonic()
        if now < self._left_out_until:
            # Of what was asked before.
            return
        self._failures += 1
        if self._failures >= FAILURES_IN_A_ROW:
            first, last = LEFT_OUT_SECONDS
            seconds = min(last, first * 2.0 ** min(self._times_left_out, 8))
            self._left_out_until = now + seconds
            self._failures, self._times_left_out = 0, self._times_left_out + 1
            _log.warning("address left out", upstream=self._name, address=self.url, seconds=seconds)

    async def _check_health(self, health: HealthCheck) -> None:
        try:
            status, _ = await self.pool.get(health.path, health.timeout)
            is_good = 200 <= status < 300  # noqa: PLR2004 - HTTP
        except (OSError, BadMessage, ValueError):
            is_good = False
        failed = 0 if is_good else self._failed_checks + 1
        if (failed >= FAILED_CHECKS) is not (self._failed_checks >= FAILED_CHECKS):
            _log.warning("health has changed", upstream=self._name, address=self.url, is_good=is_good)
        self._failed_checks = failed
