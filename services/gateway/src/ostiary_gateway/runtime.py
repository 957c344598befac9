"""The routes in use, and their reload while the gateway runs: as a whole, between two requests.

States of the reload:

              reload()                  reload()
    IDLE ------------------> LOADING -------------> LOADING_OUTDATED
      ^                       |   ^                   |
      +---- load finished ----+   +-- load finished --+   (and is started again)

What is being loaded when `reload` is called may be the version before the change: so it is loaded once more. An
unexpected exception leads back to IDLE from both other states.
"""

import asyncio
import random
import ssl
from dataclasses import dataclass
from typing import Self

import structlog

from ostiary import Verifier
from ostiary.browser import cookie_names
from ostiary_chassis.proxies import TrustedProxies
from ostiary_chassis.settings import ConfigError
from ostiary_chassis.threads import in_thread
from ostiary_gateway.access.admission import Admission
from ostiary_gateway.access.authentication import Authentication
from ostiary_gateway.access.credentials import Browser
from ostiary_gateway.access.request import RequestContext
from ostiary_gateway.http1.parser import DEFAULT_HEAD_BYTES
from ostiary_gateway.routing.bypass_check import IndexedRoutes
from ostiary_gateway.routing.collection import free_in_pieces, without_collections
from ostiary_gateway.routing.config import OWN_PATHS, RoutesFile
from ostiary_gateway.routing.hosts import KnownHosts
from ostiary_gateway.routing.source import RoutesSource
from ostiary_gateway.sessions.renewals import SessionRenewals
from ostiary_gateway.state import State
from ostiary_gateway.upstream.cluster import Cluster

_log = structlog.stdlib.get_logger("routes")

#: Seconds between two polls of the routes file.
POLL_SECONDS = 1.0

IDLE = State("idle")
LOADING = State("loading")
LOADING_OUTDATED = State("loading outdated")

IDLE.leads_to(LOADING)
LOADING.leads_to(LOADING_OUTDATED, IDLE)
LOADING_OUTDATED.leads_to(LOADING_OUTDATED, LOADING, IDLE)


@dataclass(frozen=True, slots=True)
class Prepared:
    """What follows from a routes file and the issuer alone."""

    routes: IndexedRoutes
    hosts: KnownHosts
    tls: ssl.SSLContext | None
    browser: Browser | None


def prepare(routes: IndexedRoutes, issuer: str) -> Prepared:
    """Load certificates, and what else takes a while. `issuer` is the gateway's public URL."""
    file = routes.file
    hosts = KnownHosts(issuer, file.hosts, file.hosts_internal)
    browser = Browser(cookie_names(issuer), file.browser) if file.browser is not None else None
    return Prepared(routes, hosts, _tls_context(file), browser)


class Snapshot:
    """A routes file in use: route table, admission and upstreams."""

    def __init__(
        self,
        prepared: Prepared,
        verifier: Verifier,
        proxies: TrustedProxies,
        own_paths: frozenset[str],
        *,
        renewals: SessionRenewals,
        previous: Self | None = None,
    ) -> None:
        """Take over rate limiters and upstreams of `previous` that have not changed."""
        self._routes = prepared.routes
        routes, hosts, self.table = prepared.routes.file, prepared.hosts, prepared.routes.table
        self.admission: Admission = Admission(
            self.table,
            prepared.routes.owners,
            Authentication(verifier, prepared.browser, renewals),
            proxies,
            hosts,
            previous=previous.admission if previous is not None else None,
            default_cors=routes.defaults.cors,
            own_paths=own_paths,
        )
        known = previous.upstreams if previous is not None else {}
        self.upstreams: dict[str, Cluster] = {
            name: known[name]
            if name in known and known[name].config == config
            else Cluster(name, config, prepared.tls, hosts.issuer_host)
            for name, config in routes.upstreams.items()
        }
        #: The auth service of browser sessions; None without those.
        self.issuer = self.upstreams[prepared.browser.upstream] if prepared.browser is not None else None
        #: Bytes of the largest head that any route takes.
        self.head_bytes = max([DEFAULT_HEAD_BYTES, *(route.limits.header_bytes for route in routes.routes)])
        self._weighted = {
            route.name: ([self.upstreams[name] for name in route.upstreams], list(route.upstreams.values()))
            for route in routes.routes
        }

    def free_in_pieces(self) -> None:
        """Once nobody uses this any more, free it without holding up the event loop."""
        owners = self._routes.owners
        parts = [*self.table.parts(), *owners.parts(), *self.admission.parts()]
        free_in_pieces(owners, parts)

    def upstream_for(self, context: RequestContext) -> Cluster:
        """Choose the upstream of an admitted request by weight."""
        assert context.route is not None  # noqa: S101 - admitted
        upstreams, weights = self._weighted[context.route.name]
        if len(upstreams) == 1:
            return upstreams[0]
        return random.choices(upstreams, weights)[0]  # noqa: S311 - load balancing


def _tls_context(routes: RoutesFile) -> ssl.SSLContext | None:
    """Return a context that verifies certificates; None if nothing needs it, as the authorities take megabytes."""
    addresses = [address for upstream in routes.upstreams.values() for address in upstream.addresses]
    return ssl.create_default_context() if any(each.startswith("https://") for each in addresses) else None


class Runtime:
    """The current snapshot, which is replaced when the routes file changes."""

    def __init__(
        self,
        routes: IndexedRoutes,
        verifier: Verifier,
        proxies: TrustedProxies,
        issuer: str,
        source: RoutesSource | None = None,
        *,
        renewals: SessionRenewals,
        own_paths: frozenset[str] = OWN_PATHS,
    ) -> None:
        """Start with `routes`, loaded from `source`; without a source, they never change."""
        self.renewals = renewals
        self.current = Snapshot(prepare(routes, issuer), verifier, proxies, own_paths, renewals=renewals)
        renewals.upstream = self.current.issuer
        self._own_paths = own_paths
        self._verifier = verifier
        self._proxies = proxies
        self._issuer = issuer
        self._source = source
        self._next_poll = 0.0
        self._poll: asyncio.Task[None] | None = None
        self._state = IDLE
        self._task: asyncio.Task[None] | None = None

    def on_tick(self, now: float) -> None:
        for upstream in self.current.upstreams.values():
            upstream.on_tick(now)
        self.renewals.on_tick(now)
        if now >= self._next_poll:
            self._next_poll = now + POLL_SECONDS
            if self._source is not None and self._state is IDLE and (self._poll is None or self._poll.done()):
                self._poll = asyncio.create_task(self._reload_if_changed(self._source))

    def reload(self) -> None:
        """Load the routes file in the background. If it is invalid, that is logged, and the current routes stay."""
        if self._source is None:
            return
        if self._state is IDLE:
            self._enter(LOADING)
            self._task = asyncio.create_task(self._load_until_current(self._source))
        else:
            self._enter(LOADING_OUTDATED)

    def close(self) -> None:
        """Close all connections to upstreams."""
        self.renewals.close()
        for upstream in self.current.upstreams.values():
            upstream.close()

    def _enter(self, state: State) -> None:
        self._state = self._state.to(state)

    async def _reload_if_changed(self, source: RoutesSource) -> None:
        # A network file system may not answer.
        if await in_thread(source.has_changed) and self._state is IDLE:
            self.reload()

    async def _load_until_current(self, source: RoutesSource) -> None:
        try:
            await self._load(source)
            while self._state is LOADING_OUTDATED:
                self._enter(LOADING)
                await self._load(source)
        finally:
            self._enter(IDLE)

    async def _load(self, source: RoutesSource) -> None:
        previous = self.current
        try:
            # A long file takes time, up to the last step.
            snapshot = await in_thread(self._read, source, previous)
        except (ConfigError, ValueError) as error:
            _log.error("routes file rejected", error=str(error))
            return
        self.current = snapshot
        self.renewals.upstream = snapshot.issuer
        for name, upstream in previous.upstreams.items():
            if snapshot.upstreams.get(name) is not upstream:
                upstream.retire()
        _log.info("routes reloaded", routes=len(snapshot.table.routes), upstreams=len(snapshot.upstreams))

    def _read(self, source: RoutesSource, previous: Snapshot) -> Snapshot:
        """Load the file into a snapshot. Raises ConfigError or ValueError."""
        with without_collections():
            prepared = prepare(source.load(), self._issuer)
            snapshot = Snapshot(
                prepared, self._verifier, self._proxies, self._own_paths, renewals=self.renewals, previous=previous
            )
            previous.free_in_pieces()
            return snapshot
