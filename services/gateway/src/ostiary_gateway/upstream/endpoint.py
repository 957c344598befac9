"""One address of an upstream: its connections, its health, and whether it is ejected.

An endpoint is ejected for some seconds when requests to it fail several times in a row, for longer each time.
"""

import ssl
import time

import structlog

from ostiary_gateway.routing.config import HealthCheck
from ostiary_gateway.upstream.circuit_breaker import CircuitBreaker
from ostiary_gateway.upstream.health import HealthMonitor
from ostiary_gateway.upstream.pool import Pool

#: Failures in a row that eject an endpoint.
FAILURES_IN_A_ROW = 5

#: Seconds of the first ejection; each further one takes twice as long, up to the maximum.
EJECTION_SECONDS = 5.0
MAX_EJECTION_SECONDS = 60.0

_log = structlog.stdlib.get_logger("upstream")


class Endpoint:
    """One address of an upstream. The Outcomes of its pool."""

    def __init__(
        self,
        name: str,
        url: str,
        connections: int,
        tls: ssl.SSLContext | None,
        breaker: CircuitBreaker,
        *,
        host: bytes,
    ) -> None:
        """Make an endpoint of the upstream `name`, whose circuit breaker is `breaker`.

        `host` is the value of `Host` in the gateway's own requests; b"" for that of the address.
        """
        self.url = url
        self.pool = Pool(name, url, connections, tls, self)
        self._name = name
        self._breaker = breaker
        self._health = HealthMonitor(name, url, self.pool.dialer, host or self.pool.host)
        self._failures = 0
        self._ejections = 0
        self._ejected_until = 0.0

    def is_available(self, now: float) -> bool:
        """Return whether it gets requests."""
        return now >= self._ejected_until and self._health.is_healthy

    def on_tick(self, now: float, health: HealthCheck | None) -> None:
        """Close idle connections, and check its health when it is time."""
        self.pool.sweep(now)
        if health is not None:
            self._health.on_tick(now, health)

    def retire(self) -> None:
        """Take no more requests."""
        self.pool.retire()
        self._health.stop()

    def succeeded(self) -> None:
        """Count a response."""
        if self._failures or self._ejections:
            self._failures = self._ejections = 0
        if self._breaker.succeeded():
            _log.info("circuit breaker closed", upstream=self._name)

    def failed(self, caller: str | None) -> None:
        """Count a request without a response; of no caller if a connection failed."""
        if self._breaker.failed(caller):
            _log.warning("circuit breaker opened", upstream=self._name)
        now = time.monotonic()
        if now < self._ejected_until:
            # A request from before the ejection.
            return
        self._failures += 1
        if self._failures >= FAILURES_IN_A_ROW:
            seconds = min(MAX_EJECTION_SECONDS, EJECTION_SECONDS * 2.0 ** min(self._ejections, 8))
            self._ejected_until = now + seconds
            self._failures, self._ejections = 0, self._ejections + 1
            _log.warning("endpoint ejected", upstream=self._name, endpoint=self.url, seconds=seconds)
