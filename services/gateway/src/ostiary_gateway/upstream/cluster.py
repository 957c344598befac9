"""An upstream: its endpoints, load balancing among them, retries and the circuit breaker.

When too many endpoints are unavailable, something else is wrong, and all of them get requests again (panic mode).
"""

import asyncio
import random
import ssl
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from urllib.parse import urlsplit

from ostiary.prometheus import Timings
from ostiary_chassis.metrics import REQUEST_BUCKETS
from ostiary_chassis.urls import DEFAULT_PORTS
from ostiary_gateway.routing.config import Upstream as UpstreamConfig
from ostiary_gateway.routing.hosts import authority, normalise_name, parse_authority
from ostiary_gateway.upstream.circuit_breaker import CircuitBreaker
from ostiary_gateway.upstream.connection import Failure
from ostiary_gateway.upstream.dialer import UNIX_HOST, Dialer
from ostiary_gateway.upstream.endpoint import Endpoint
from ostiary_gateway.upstream.fetch import fetch
from ostiary_gateway.upstream.name import Name
from ostiary_gateway.upstream.pool import Pool
from ostiary_gateway.upstream.replicas import Replicas

#: With fewer available endpoints than this share, all get requests.
PANIC_SHARE = 0.5

#: Retries as a share of requests, and how many may come together (retry budget).
RETRY_SHARE = 0.2
MAX_RETRY_BUDGET = 10.0


class Cluster:
    """The endpoints of one upstream."""

    def __init__(self, name: str, config: UpstreamConfig, tls: ssl.SSLContext | None, public_host: bytes) -> None:
        """Make it; there are no connections yet.

        `public_host` is the gateway's own host, which its own requests name where the client's is passed on.
        """
        self.name = name
        self.config = config
        self._keeps_host = config.host == "client"
        #: The value of `Host` that is not the client's; b"" for that of the endpoint's address.
        self._host = {"client": public_host, "upstream": b""}.get(config.host, config.host.encode())
        #: By which hosts the service may know itself: those of its addresses, or what it is told.
        self.hosts = _own_hosts(config)
        #: Where it listens.
        self.ports = frozenset(
            url.port or DEFAULT_PORTS[url.scheme] for url in map(urlsplit, config.addresses) if url.hostname
        )
        self.is_tls = config.addresses[0].startswith("https:")
        self._breaker = CircuitBreaker()
        self._endpoints: list[Endpoint] = []
        self._replicas = [Replicas(name, url, self._maker(url, tls)) for url in config.addresses]
        self._collect_endpoints()
        self._retry_budget = MAX_RETRY_BUDGET
        self._probe: asyncio.Task[None] | None = None
        #: Seconds from a request to the head of its response; failures by reason; requests sent again.
        self.response_seconds = Timings(REQUEST_BUCKETS)
        self.failures: Counter[Failure] = Counter()
        self.retries = 0

    @property
    def is_circuit_closed(self) -> bool:
        """Whether requests are sent, and not rejected by the circuit breaker."""
        return not self._breaker.is_open

    @property
    def ejected_endpoints(self) -> int:
        """How many endpoints get no requests: ejected or unhealthy ones."""
        return sum(not endpoint.is_available for endpoint in self._endpoints)

    @property
    def pools(self) -> Sequence[Pool]:
        """The connections to each endpoint, also to those that have left and still have requests under way."""
        return [endpoint.pool for each in self._replicas for endpoint in (*each.current, *each.leaving)]

    def host_for(self, client: bytes, address: bytes) -> bytes:
        """Return the value of `Host` for a request, given the client's and that of the endpoint's address."""
        return client if self._keeps_host else self._host or address

    def own_host(self, address: bytes) -> bytes:
        """Return the value of `Host` for a request of the gateway's own, given that of the endpoint's address."""
        return self._host or address

    def choose(self, tried: Collection[Pool] = ()) -> Pool | None:
        """Return the pool for a request, None while the circuit breaker is open.

        `tried` are those that the request had before: it gets another one if there is one.
        """
        if self._breaker.is_open:
            return None
        if not tried:
            self._retry_budget = min(MAX_RETRY_BUDGET, self._retry_budget + RETRY_SHARE)
        return self._balance(tried).pool

    def has_others(self, tried: Collection[Pool]) -> bool:
        """Return whether there is an endpoint besides those of the pools `tried`."""
        return any(endpoint.pool not in tried for endpoint in self._endpoints)

    def may_retry(self) -> bool:
        """Take a retry from the budget; return False if it is used up: retries must not keep an upstream down."""
        if self._retry_budget < 1:
            return False
        self._retry_budget -= 1
        return True

    async def fetch(self, path: str, seconds: float) -> tuple[int, bytes]:
        """Return status and content of what an endpoint serves at a path. Raises OSError."""
        *others, last = sorted(self._endpoints, key=lambda endpoint: not endpoint.is_available)
        for endpoint in others:
            with suppress(OSError):
                return await self._fetch(endpoint.pool, path, seconds)
        return await self._fetch(last.pool, path, seconds)

    async def _fetch(self, pool: Pool, path: str, seconds: float) -> tuple[int, bytes]:
        return await fetch(self.name, pool.dialer, self.own_host(pool.host), path, seconds)

    def on_tick(self, now: float) -> None:
        """Look after the endpoints, and probe them while connections fail."""
        for each in self._replicas:
            each.on_tick(now)
        self._collect_endpoints()
        for endpoint in self._endpoints:
            endpoint.on_tick(now, self.config.health)
        if self._breaker.awaits_connection and (self._probe is None or self._probe.done()):
            self._probe = asyncio.create_task(self._probe_endpoints())

    def retire(self) -> None:
        """Take no more requests; those under way go on."""
        if self._probe is not None:
            self._probe.cancel()
        for each in self._replicas:
            each.retire()

    def close(self) -> None:
        """Close all connections."""
        self.retire()
        for pool in self.pools:
            pool.close()

    def _maker(self, url: str, tls: ssl.SSLContext | None) -> Callable[[Name | None, str], Endpoint]:
        def make(host_name: Name | None, address: str) -> Endpoint:
            return Endpoint(
                self.name,
                Dialer(url, tls, host_name, address),
                self.config.connections,
                self._breaker,
                host=self._host,
                header_bytes=self.config.header_bytes,
                endpoints=self._endpoints,
            )

        return make

    def _collect_endpoints(self) -> None:
        # In place: each endpoint knows the others by this list.
        self._endpoints[:] = [endpoint for each in self._replicas for endpoint in each.current]

    async def _probe_endpoints(self) -> None:
        """Try to connect: a restarted service gets requests at once, and no caller has to fail for that."""
        for endpoint in tuple(self._endpoints):
            if await endpoint.connects():
                self._breaker.connected()
                return

    def _balance(self, tried: Collection[Pool]) -> Endpoint:
        """Return the less busy of two random endpoints: nearly the least busy one, without a herd."""
        endpoints = self._endpoints
        if len(endpoints) == 1:
            return endpoints[0]
        available = [endpoint for endpoint in endpoints if endpoint.is_available]
        if len(available) < len(endpoints) * PANIC_SHARE:
            available = endpoints
        if tried:
            # Those that are not available are better than none.
            available = _untried(available, tried) or _untried(endpoints, tried) or available
        if len(available) == 1:
            return available[0]
        return min(random.sample(available, 2), key=lambda endpoint: endpoint.pool.outstanding)


def _untried(endpoints: list[Endpoint], tried: Collection[Pool]) -> list[Endpoint]:
    return [endpoint for endpoint in endpoints if endpoint.pool not in tried]


def _own_hosts(config: UpstreamConfig) -> frozenset[bytes]:
    """Return the values of `Host`, normalised, that name the service itself."""
    urls = [urlsplit(address) for address in config.addresses]
    own = {authority(normalise_name(url.hostname), url.port, url.scheme) for url in urls if url.hostname}
    if config.host == "upstream" and any(url.scheme == "unix" for url in urls):
        own.add(UNIX_HOST)
    if config.host not in {"client", "upstream"}:
        own |= {authority(*parse_authority(config.host.encode()), scheme) for scheme in DEFAULT_PORTS}
    return frozenset(own)
