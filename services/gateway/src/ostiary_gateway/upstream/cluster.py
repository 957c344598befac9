"""Which address of a service a request goes to, and whether it goes there at all.

An address is left out for a while when it fails several times in a row, or when it does not answer its health check.
When too many are left out, something else is wrong, and all are asked again. When most requests to a service fail, it
is asked nothing for a moment: who cannot be served hears so at once, and the service gets to recover.
"""

import asyncio
import random
import ssl
import time
from collections import Counter
from collections.abc import Sequence

import structlog

from ostiary.prometheus import Timings
from ostiary_chassis.metrics import REQUEST_BUCKETS
from ostiary_gateway.routing.config import Upstream as UpstreamConfig
from ostiary_gateway.upstream.circuit_breaker import CircuitBreaker
from ostiary_gateway.upstream.endpoint import Endpoint
from ostiary_gateway.upstream.pool import Failure, Pool

_log = structlog.stdlib.get_logger("upstream")

#: When fewer than this share of the addresses are left in, all are.
PANIC_SHARE = 0.5

#: Seconds for a connection that shows that an upstream is back.
LOOK_SECONDS = 1.0

#: Requests that are sent once more: as a share of all, and how many at once.
RETRY_SHARE = 0.2
RETRIES_AT_ONCE = 10.0


class Upstream:
    """A service: its addresses, and what it can be asked now."""

    def __init__(self, name: str, config: UpstreamConfig, tls: ssl.SSLContext | None) -> None:
        """Make an upstream that has no connections yet."""
        self.name = name
        self.config = config
        self._circuit_breaker = CircuitBreaker()
        self._endpoints = [
            Endpoint(name, url, config.connections, tls, self._circuit_breaker) for url in config.addresses
        ]
        self._retries = RETRIES_AT_ONCE
        self._look: asyncio.Task[None] | None = None
        #: Seconds until an answer began, how often none came and why, and how many requests were sent once more.
        self.answers = Timings(REQUEST_BUCKETS)
        self.failures: Counter[Failure] = Counter()
        self.sent_again = 0

    @property
    def is_asked(self) -> bool:
        """Whether requests are sent, and not refused for a while."""
        return not self._circuit_breaker.is_open

    @property
    def left_out(self) -> int:
        """How many addresses get no requests for now."""
        now = time.monotonic()
        return sum(not endpoint.is_left_in(now) for endpoint in self._endpoints)

    @property
    def pools(self) -> Sequence[Pool]:
        """The connections to each address."""
        return [endpoint.pool for endpoint in self._endpoints]

    def choose(self, after: Pool | None) -> Pool | None:
        """Return who is to be asked for a connection for a request; None if nobody is for now.

        `after` is for a request that was sent before, and who was asked then: another one if there is one.
        """
        if self._circuit_breaker.is_open:
            return None
        if after is not None:
            self.sent_again += 1
        else:
            self._retries = min(RETRIES_AT_ONCE, self._retries + RETRY_SHARE)
        return self._choose(after).pool

    def may_retry(self) -> bool:
        """Return whether a request may be sent once more, and count it: retries must not keep an upstream down."""
        if self._retries < 1:
            return False
        self._retries -= 1
        return True

    def on_tick(self, now: float) -> None:
        """Do what is to be done now and then."""
        for endpoint in self._endpoints:
            endpoint.on_tick(now, self.config.health)
        if self._circuit_breaker.waits_for_a_connection and (self._look is None or self._look.done()):
            self._look = asyncio.create_task(self._look_whether_it_is_back())

    def retire(self) -> None:
        """Get no more requests; what is going on goes on."""
        if self._look is not None:
            self._look.cancel()
        for endpoint in self._endpoints:
            endpoint.retire()

    def close(self) -> None:
        """Close all connections."""
        self.retire()
        for endpoint in self._endpoints:
            endpoint.pool.close()

    async def _look_whether_it_is_back(self) -> None:
        """Try by ourselves: so nobody has to fail for that, and a service that was started again is asked at once."""
        for endpoint in self._endpoints:
            if await endpoint.pool.can_be_connected_to(LOOK_SECONDS):
                self._circuit_breaker.connected()
                return

    def _choose(self, after: Pool | None) -> Endpoint:
        """Return the less busy one of two that are left in: nearly as good as the least busy one, without a herd."""
        endpoints = self._endpoints
        if len(endpoints) == 1:
            return endpoints[0]
        now = time.monotonic()
        left_in = [endpoint for endpoint in endpoints if endpoint.is_left_in(now)]
        if len(left_in) < len(endpoints) * PANIC_SHARE:
            left_in = endpoints
        others = [endpoint for endpoint in left_in if endpoint.pool is not after] or left_in
        if len(others) == 1:
            return others[0]
        return min(random.sample(others, 2), key=lambda endpoint: endpoint.pool.outstanding)
