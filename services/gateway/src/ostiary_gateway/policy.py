"""What a routes file makes of requests: who gets in, and where to. It is changed as a whole, between two requests."""

import asyncio
import random
import ssl
from pathlib import Path
from typing import Self

import structlog

from ostiary import Verifier
from ostiary_chassis.proxies import TrustedProxies
from ostiary_chassis.settings import ConfigError, environment
from ostiary_gateway import routes_file
from ostiary_gateway.balancing import Upstream
from ostiary_gateway.gate import Arrival, Gate
from ostiary_gateway.guards import Guards
from ostiary_gateway.proof import prove
from ostiary_gateway.routes_file import RoutesFile
from ostiary_gateway.routing import RouteTable

_log = structlog.stdlib.get_logger("routes")

#: Seconds between two looks at the file.
LOOK_SECONDS = 1.0


def load_routes(path: Path) -> RoutesFile:
    """Read a routes file and see that it can be used. Raises ConfigError."""
    return routes_file.load(path, environment(), prove)


class Policy:
    """A routes file at work."""

    def __init__(
        self, routes: RoutesFile, verifier: Verifier, proxies: TrustedProxies, before: Self | None = None
    ) -> None:
        """Put a file to work; what has not changed is taken over from the policy `before`."""
        self.table = RouteTable(routes.routes)
        self.gate: Gate = Gate(self.table, Guards(routes), verifier, proxies, before.gate if before else None)
        known = before.upstreams if before is not None else {}
        tls = ssl.create_default_context()
        self.upstreams: dict[str, Upstream] = {
            name: known[name] if name in known and known[name].config == config else Upstream(name, config, tls)
            for name, config in routes.upstreams.items()
        }
        self._choices = {
            route.name: ([self.upstreams[name] for name in route.upstreams], list(route.upstreams.values()))
            for route in routes.routes
        }

    def upstream_for(self, arrival: Arrival) -> Upstream:
        """Return where an admitted request goes."""
        assert arrival.route is not None  # noqa: S101 - admitted
        upstreams, shares = self._choices[arrival.route.name]
        if len(upstreams) == 1:
            return upstreams[0]
        return random.choices(upstreams, shares)[0]  # noqa: S311 - a share of the load


class Policies:
    """The policy that counts now, and the file that it comes from."""

    def __init__(
        self, routes: RoutesFile, verifier: Verifier, proxies: TrustedProxies, path: Path | None = None
    ) -> None:
        """Begin with `routes`, read from `path`; without one, it does not change."""
        self.current = Policy(routes, verifier, proxies)
        self._verifier = verifier
        self._proxies = proxies
        self._path = path
        self._seen = self._look()
        self._next_look = 0.0
        self._reading: asyncio.Task[None] | None = None

    def on_tick(self, now: float) -> None:
        """Look after the upstreams, and see now and then whether the file has changed."""
        for upstream in self.current.upstreams.values():
            upstream.on_tick(now)
        if now >= self._next_look:
            self._next_look = now + LOOK_SECONDS
            if self._look() != self._seen:
                self.reload()

    def reload(self) -> None:
        """Read the file again. One that cannot be used is reported, and what is there goes on."""
        if self._path is not None and (self._reading is None or self._reading.done()):
            self._seen = self._look()
            self._reading = asyncio.create_task(self._read(self._path))

    def close(self) -> None:
        """Close all connections."""
        for upstream in self.current.upstreams.values():
            upstream.close()

    async def _read(self, path: Path) -> None:
        before = self.current
        try:
            # A long file takes a while, and requests go on.
            routes = await asyncio.to_thread(load_routes, path)
            policy = Policy(routes, self._verifier, self._proxies, before)
        except (ConfigError, ValueError) as error:
            _log.error("routes not changed: the file cannot be used", error=str(error))
            return
        self.current = policy
        for name, upstream in before.upstreams.items():
            if policy.upstreams.get(name) is not upstream:
                upstream.retire()
        _log.info("routes changed", routes=len(routes.routes), upstreams=len(routes.upstreams))

    def _look(self) -> tuple[int, int, int] | None:
        """Return what tells a file from the one that was there before."""
        try:
            status = self._path.stat() if self._path is not None else None
        except OSError:
            return None
        return (status.st_mtime_ns, status.st_size, status.st_ino) if status is not None else None
