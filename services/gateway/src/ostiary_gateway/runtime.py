"""What a routes file makes of requests: who gets in, and where to. It is changed as a whole, between two requests."""

import asyncio
import random
import ssl
from pathlib import Path
from typing import Self

import structlog

from ostiary import Verifier
from ostiary_chassis.proxies import TrustedProxies
from ostiary_chassis.settings import ConfigError
from ostiary_gateway.access.admission import Admission
from ostiary_gateway.access.request import RequestContext
from ostiary_gateway.routing.config import RoutesFile
from ostiary_gateway.routing.loader import SETTING
from ostiary_gateway.routing.overlap import Guards
from ostiary_gateway.routing.source import RoutesSource
from ostiary_gateway.routing.table import RouteTable
from ostiary_gateway.upstream.cluster import Cluster

_log = structlog.stdlib.get_logger("routes")

#: Seconds between two looks at the file.
LOOK_SECONDS = 1.0


def load_routes(path: Path, setting: str = SETTING) -> RoutesFile:
    """Read a routes file, which `setting` names, and see that it can be used. Raises ConfigError."""
    return RoutesSource(path, setting).load()


class Snapshot:
    """A routes file at work."""

    def __init__(
        self, routes: RoutesFile, verifier: Verifier, proxies: TrustedProxies, before: Self | None = None
    ) -> None:
        """Put a file to work; what has not changed is taken over from the policy `before`."""
        self.table = RouteTable(routes.routes)
        self.admission: Admission = Admission(
            self.table, Guards(routes), verifier, proxies, before.admission if before else None
        )
        known = before.upstreams if before is not None else {}
        tls = _tls_for(routes)
        self.upstreams: dict[str, Cluster] = {
            name: known[name] if name in known and known[name].config == config else Cluster(name, config, tls)
            for name, config in routes.upstreams.items()
        }
        self._choices = {
            route.name: ([self.upstreams[name] for name in route.upstreams], list(route.upstreams.values()))
            for route in routes.routes
        }

    def upstream_for(self, context: RequestContext) -> Cluster:
        """Return where an admitted request goes."""
        assert context.route is not None  # noqa: S101 - admitted
        upstreams, shares = self._choices[context.route.name]
        if len(upstreams) == 1:
            return upstreams[0]
        return random.choices(upstreams, shares)[0]  # noqa: S311 - a share of the load


def _tls_for(routes: RoutesFile) -> ssl.SSLContext | None:
    """Return how certificates are verified, if there are any: to hold all authorities takes megabytes."""
    addresses = [address for upstream in routes.upstreams.values() for address in upstream.addresses]
    return ssl.create_default_context() if any(each.startswith("https://") for each in addresses) else None


class Runtime:
    """The policy that counts now, and where it comes from."""

    def __init__(
        self, routes: RoutesFile, verifier: Verifier, proxies: TrustedProxies, source: RoutesSource | None = None
    ) -> None:
        """Begin with `routes`, loaded from `source`; without one, they do not change."""
        self.current = Snapshot(routes, verifier, proxies)
        self._verifier = verifier
        self._proxies = proxies
        self._source = source
        self._next_look = 0.0
        self._reading: asyncio.Task[None] | None = None
        self._is_asked_again = False

    def on_tick(self, now: float) -> None:
        """Look after the upstreams, and see now and then whether the file has changed."""
        for upstream in self.current.upstreams.values():
            upstream.on_tick(now)
        if now >= self._next_look:
            self._next_look = now + LOOK_SECONDS
            if self._source is not None and not self._is_reading and self._source.has_changed():
                self.reload()

    def reload(self) -> None:
        """Read the file again, and once more if that is going on: what is being read may be what was there before.

        A file that cannot be used is reported, and what is there goes on.
        """
        if self._is_reading:
            self._is_asked_again = True
        elif self._source is not None:
            self._reading = asyncio.create_task(self._read(self._source))

    def close(self) -> None:
        """Close all connections."""
        for upstream in self.current.upstreams.values():
            upstream.close()

    @property
    def _is_reading(self) -> bool:
        return self._reading is not None and not self._reading.done()

    async def _read(self, source: RoutesSource) -> None:
        await self._read_once(source)
        while self._is_asked_again:
            self._is_asked_again = False
            await self._read_once(source)

    async def _read_once(self, source: RoutesSource) -> None:
        before = self.current
        try:
            # A long file takes a while, and requests go on.
            routes = await asyncio.to_thread(source.load)
            snapshot = Snapshot(routes, self._verifier, self._proxies, before)
        except (ConfigError, ValueError) as error:
            _log.error("routes not changed: the file cannot be used", error=str(error))
            return
        self.current = snapshot
        for name, upstream in before.upstreams.items():
            if snapshot.upstreams.get(name) is not upstream:
                upstream.retire()
        _log.info("routes changed", routes=len(routes.routes), upstreams=len(routes.upstreams))
