"""One address of an upstream: its connections, its health, and whether it is ejected.

An endpoint is ejected for some seconds when requests to it fail several times in a row, for longer each time. Then the
gateway tries to connect: no request has to find out whether the endpoint is back.

    AVAILABLE -- failures in a row; one, until a first response --> EJECTED -- its time is over --> ON_TRIAL
       ^  ^                                                         |    ^                           |   |
       |  +---------------------- a connection succeeds ------------+    +-- no connection ----------+   |
       +------------------------- a connection succeeds ------------------------------------------------+
"""

import asyncio
import time
from collections.abc import Sequence
from typing import Final

import structlog

from ostiary_gateway.http1.parser import DEFAULT_RESPONSE_HEAD_BYTES
from ostiary_gateway.routing.config import HealthCheck
from ostiary_gateway.state import State
from ostiary_gateway.upstream.circuit_breaker import CircuitBreaker
from ostiary_gateway.upstream.dialer import DIAL_ERRORS, Dialer
from ostiary_gateway.upstream.health import HealthMonitor
from ostiary_gateway.upstream.pool import Pool

#: Failures in a row that eject an endpoint. After an ejection, the first one does.
FAILURES_IN_A_ROW = 5

#: Seconds of the first ejection; each further one takes twice as long, up to the maximum.
EJECTION_SECONDS = 5.0
MAX_EJECTION_SECONDS = 60.0

#: Seconds that a trial's connection may take.
TRIAL_SECONDS = 1.0

AVAILABLE: Final = State("available")
EJECTED: Final = State("ejected")
ON_TRIAL: Final = State("on trial")
AVAILABLE.leads_to(EJECTED)
EJECTED.leads_to(ON_TRIAL, AVAILABLE)
ON_TRIAL.leads_to(EJECTED, AVAILABLE)

_log = structlog.stdlib.get_logger("upstream")


class Endpoint:
    """One address of an upstream; the module's head draws its states. The Outcomes of its pool."""

    def __init__(
        self,
        name: str,
        dialer: Dialer,
        connections: int,
        breaker: CircuitBreaker,
        *,
        host: bytes,
        header_bytes: int = DEFAULT_RESPONSE_HEAD_BYTES,
        endpoints: Sequence["Endpoint"] = (),
    ) -> None:
        """Make an endpoint of the upstream `name`, whose circuit breaker is `breaker`; `endpoints` are all it has.

        `host` is the value of `Host` in the gateway's own requests; b"" for that of the address.
        """
        self.address = dialer.address
        self.pool = Pool(name, dialer, connections, self, header_bytes=header_bytes)
        self._name = name
        self._breaker = breaker
        self._endpoints = endpoints
        self._health = HealthMonitor(name, dialer, host or self.pool.host)
        self._state: State = AVAILABLE
        self._failures = 0
        #: Ejections since the last response.
        self._ejections = 0
        self._ejected_until = 0.0
        self._trial: asyncio.Task[None] | None = None
        #: Whether it has ever taken a connection.
        self.has_connected = False
        self.is_retired = False

    @property
    def is_failing(self) -> bool:
        """Whether it gets no requests, or the last one to it has failed."""
        return self._failures > 0 or not self.is_available

    @property
    def is_available(self) -> bool:
        """Whether it gets requests."""
        return self._state is AVAILABLE and self._health.is_healthy

    def on_tick(self, now: float, health: HealthCheck | None) -> None:
        """Close idle connections, check its health when it is time, and end its ejection."""
        self.pool.sweep(now)
        if health is not None:
            self._health.on_tick(now, health)
        if self._state is EJECTED and now >= self._ejected_until:
            self._enter(ON_TRIAL)
            self._trial = asyncio.create_task(self._try())

    def retire(self) -> None:
        """Take no more requests."""
        self.is_retired = True
        self.pool.retire()
        self._health.stop()
        if self._trial is not None:
            self._trial.cancel()

    async def connects(self) -> bool:
        """Try to connect, so that no caller has to; return whether that works."""
        try:
            transport, _ = await self.pool.dialer.dial(asyncio.Protocol, TRIAL_SECONDS)
        except DIAL_ERRORS:
            return False
        transport.abort()
        self.connected()
        return True

    def connected(self) -> None:
        """Give it requests again: it takes connections."""
        self.has_connected = True
        if self._state is not AVAILABLE:
            self._enter(AVAILABLE)

    def succeeded(self) -> None:
        """Count a response."""
        # A response during an ejection is one to a request from before.
        if (self._failures or self._ejections) and self._state is AVAILABLE:
            self._failures = self._ejections = 0
        if self._breaker.succeeded():
            _log.info("circuit breaker closed", upstream=self._name)

    def failed(self, caller: str | None) -> None:
        """Count a request without a response; of no caller if a connection failed."""
        if self.is_retired:
            return
        # While others take its requests, an endpoint that cannot be connected to says nothing about the upstream.
        if (caller is not None or not self._has_others()) and self._breaker.failed(caller):
            _log.warning("circuit breaker opened", upstream=self._name)
        if self._state is not AVAILABLE:
            # A request from before the ejection.
            return
        self._failures += 1
        if self._ejections or self._failures >= FAILURES_IN_A_ROW:
            self._eject()

    def _has_others(self) -> bool:
        return any(each is not self and each.is_available for each in self._endpoints)

    def _eject(self) -> None:
        seconds = min(MAX_EJECTION_SECONDS, EJECTION_SECONDS * 2.0 ** min(self._ejections, 8))
        self._ejected_until = time.monotonic() + seconds
        self._failures, self._ejections = 0, self._ejections + 1
        self._enter(EJECTED)
        _log.warning("endpoint ejected", upstream=self._name, endpoint=self.address, seconds=seconds)

    async def _try(self) -> None:
        if not await self.connects() and self._state is ON_TRIAL:
            self._eject()

    def _enter(self, state: State) -> None:
        self._state = self._state.to(state)
