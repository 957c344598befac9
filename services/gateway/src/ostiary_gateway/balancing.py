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
from ostiary_gateway.http1 import BadMessage
from ostiary_gateway.routes_file import HealthCheck
from ostiary_gateway.routes_file import Upstream as UpstreamOfFile
from ostiary_gateway.upstream import Failure, Pool

_log = structlog.stdlib.get_logger("upstream")

#: Failures in a row after which an address is left out; for so many seconds, more each time, up to the last.
FAILURES_IN_A_ROW = 5
LEFT_OUT_SECONDS = (5.0, 60.0)

#: When fewer than this share of the addresses are left in, all are.
PANIC_SHARE = 0.5

#: Failed health checks in a row after which an address is left out until one succeeds.
FAILED_CHECKS = 2

#: A breaker looks at this many seconds; it opens when of so many requests at least this share fails, for so long.
BREAKER_WINDOW = 10.0
BREAKER_REQUESTS = 20
BREAKER_SHARE = 0.5
BREAKER_OPEN_SECONDS = 2.0

#: Seconds for a connection that shows that an upstream is back.
LOOK_SECONDS = 1.0

#: Requests that are sent once more: as a share of all, and how many at once.
RETRY_SHARE = 0.2
RETRIES_AT_ONCE = 10.0


class Breaker:
    """Opens when most requests fail, for a moment.

    What a caller may have brought about itself counts once for each caller, so that nobody can take a service away
    from the others by requests that it does not like.
    """

    def __init__(self) -> None:
        """Start closed."""
        self._window_ends_at = 0.0
        self._requests = self._failures = 0
        self._callers: set[str] = set()
        self._opened_until = 0.0
        #: Whether it was open, and nothing has succeeded since.
        self._is_on_trial = False
        #: Whether it opened because nobody could be connected to.
        self._is_unreachable = False

    @property
    def is_open(self) -> bool:
        """Whether requests are refused."""
        return self._opened_until > 0.0 and self._opened_until > time.monotonic()

    def succeeded(self) -> bool:
        """Note an answer; return whether it is the first one after the breaker was open."""
        self._requests += 1
        if not self._is_on_trial or self.is_open:
            # What comes while it is open was asked for before.
            return False
        self._is_on_trial = False
        self._begin_window(time.monotonic())
        return True

    def failed(self, client: str | None) -> bool:
        """Note that there was none; return whether the breaker opened with it."""
        now = time.monotonic()
        if now < self._opened_until:
            return False
        if now >= self._window_ends_at:
            self._begin_window(now)
        if client is not None:
            if client in self._callers:
                return False
            self._callers.add(client)
        self._requests += 1
        self._failures += 1
        is_clear = self._requests >= BREAKER_REQUESTS and self._failures >= self._requests * BREAKER_SHARE
        if not is_clear and not (self._is_on_trial and client is None):
            return False
        self._opened_until, self._is_on_trial = now + BREAKER_OPEN_SECONDS, True
        self._is_unreachable = client is None
        self._begin_window(self._opened_until)
        return True

    @property
    def waits_for_a_connection(self) -> bool:
        """Whether it would close if somebody could be connected to."""
        return self._is_unreachable and self.is_open

    def connected(self) -> None:
        """Close, as somebody can be connected to again."""
        self._opened_until = 0.0

    def _begin_window(self, now: float) -> None:
        self._window_ends_at, self._requests, self._failures = now + BREAKER_WINDOW, 0, 0
        self._callers.clear()


class Backend:
    """One address of a service, and how it has been doing."""

    def __init__(self, name: str, url: str, connections: int, tls: ssl.SSLContext | None, breaker: Breaker) -> None:
        """Make it, as good as any."""
        self.url = url
        self.pool = Pool(name, url, connections, tls, self)
        self._name = name
        self._breaker = breaker
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
        if self._breaker.succeeded():
            _log.info("upstream answers again", upstream=self._name)

    def failed(self, client: str | None) -> None:
        """Note that there was none. One of the Outcomes."""
        if self._breaker.failed(client):
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


class Upstream:
    """A service: its addresses, and what it can be asked now."""

    def __init__(self, name: str, config: UpstreamOfFile, tls: ssl.SSLContext | None) -> None:
        """Make an upstream that has no connections yet."""
        self.name = name
        self.config = config
        self._breaker = Breaker()
        self._backends = [Backend(name, url, config.connections, tls, self._breaker) for url in config.addresses]
        self._retries = RETRIES_AT_ONCE
        self._look: asyncio.Task[None] | None = None
        #: Seconds until an answer began, how often none came and why, and how many requests were sent once more.
        self.answers = Timings(REQUEST_BUCKETS)
        self.failures: Counter[Failure] = Counter()
        self.sent_again = 0

    @property
    def is_asked(self) -> bool:
        """Whether requests are sent, and not refused for a while."""
        return not self._breaker.is_open

    @property
    def left_out(self) -> int:
        """How many addresses get no requests for now."""
        now = time.monotonic()
        return sum(not backend.is_left_in(now) for backend in self._backends)

    @property
    def pools(self) -> Sequence[Pool]:
        """The connections to each address."""
        return [backend.pool for backend in self._backends]

    def choose(self, after: Pool | None) -> Pool | None:
        """Return who is to be asked for a connection for a request; None if nobody is for now.

        `after` is for a request that was sent before, and who was asked then: another one if there is one.
        """
        if self._breaker.is_open:
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
        for backend in self._backends:
            backend.on_tick(now, self.config.health)
        if self._breaker.waits_for_a_connection and (self._look is None or self._look.done()):
            self._look = asyncio.create_task(self._look_whether_it_is_back())

    def retire(self) -> None:
        """Get no more requests; what is going on goes on."""
        if self._look is not None:
            self._look.cancel()
        for backend in self._backends:
            backend.retire()

    def close(self) -> None:
        """Close all connections."""
        self.retire()
        for backend in self._backends:
            backend.pool.close()

    async def _look_whether_it_is_back(self) -> None:
        """Try by ourselves: so nobody has to fail for that, and a service that was started again is asked at once."""
        for backend in self._backends:
            if await backend.pool.can_be_connected_to(LOOK_SECONDS):
                self._breaker.connected()
                return

    def _choose(self, after: Pool | None) -> Backend:
        """Return the less busy one of two that are left in: nearly as good as the least busy one, without a herd."""
        backends = self._backends
        if len(backends) == 1:
            return backends[0]
        now = time.monotonic()
        left_in = [backend for backend in backends if backend.is_left_in(now)]
        if len(left_in) < len(backends) * PANIC_SHARE:
            left_in = backends
        others = [backend for backend in left_in if backend.pool is not after] or left_in
        if len(others) == 1:
            return others[0]
        return min(random.sample(others, 2), key=lambda backend: backend.pool.outstanding)
