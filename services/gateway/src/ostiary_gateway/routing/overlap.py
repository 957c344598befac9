"""Who may reach a path of a service, whichever route leads there.

A service sees the path that it gets, and neither the host nor the header fields by which the gateway chose a route. So
that path is looked up once more, among all routes to the same addresses, and in the form that a service may read it:
whoever may not use the most specific of these routes does not get there by another one.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from ipaddress import ip_address
from posixpath import normpath
from urllib.parse import unquote, urlsplit

from ostiary_gateway.routing import paths
from ostiary_gateway.routing.config import Route, RoutesFile
from ostiary_gateway.routing.paths import PathTemplate
from ostiary_gateway.routing.table import REMEMBERED_PATHS, PathTree

_PORTS = {"http": 80, "https": 443}


class Space:
    """The paths of some addresses, and all routes that lead there: those of all hosts and header fields."""

    def __init__(self, routes: Iterable[Route], *, ignores_case: bool) -> None:
        """Make it of the routes that lead to one of the addresses."""
        self._ignores_case = ignores_case
        self._tree = PathTree()
        for route in routes:
            self._tree.add(self._as_read(route.target), route)
        self.owners = lru_cache(REMEMBERED_PATHS)(self._look_up)

    def meeting(self, template: PathTemplate) -> list[Route]:
        """Return the routes that share a path of the service with a template."""
        return self._tree.meeting(self._as_read(template))

    def rivals(self, route: Route, *, in_any_spelling: bool) -> list[Route]:
        """Return the routes that ask for something else than a route, and whose paths it may reach nevertheless.

        In a spelling with percent signs it may be one more: there, a word need not be found where it stands plainly.
        """
        return [
            other
            for other in self.meeting(route.target)
            if not (_asks_no_more(other, route) or self._gives_way(other, route))
            and (in_any_spelling or self._ignores_case or not _is_found_first(other, route))
        ]

    def _gives_way(self, other: Route, route: Route) -> bool:
        """Return whether a route is an exception to another one, or the other one is for other methods of its paths."""
        mine, theirs = self._as_read(route.target), self._as_read(other.target)
        if mine.shape == theirs.shape:
            return route.match.methods.isdisjoint(other.match.methods)
        return theirs.contains(mine)

    def _look_up(self, path: bytes) -> tuple[Route, ...]:
        """Return the routes of the most specific template for a path of the service. Raises AmbiguousPath."""
        segments = tuple(self._word(segment) for segment in paths.split(path))
        return tuple(self._tree.find(segments, 0, None))

    def _as_read(self, template: PathTemplate) -> PathTemplate:
        if not self._ignores_case:
            return template
        return PathTemplate(tuple(each and each.casefold() for each in template.segments), template.tail)

    def _word(self, segment: str) -> str:
        """Return what a service may read in a segment."""
        word = paths.seen(unquote(segment)) if "%" in segment else segment
        return word.casefold() if self._ignores_case else word


class Guards:
    """Finds the routes whose access a request needs besides that of its own route."""

    def __init__(self, file: RoutesFile) -> None:
        """Work out which routes can get into another one's way at all: no other pays for it when it is used."""
        self._addresses = {
            name: frozenset(_place(address) for address in upstream.addresses)
            for name, upstream in file.upstreams.items()
        }
        without_case = {
            address
            for name, upstream in file.upstreams.items()
            if upstream.ignores_case
            for address in self._addresses[name]
        }
        leading: dict[str, list[Route]] = {}
        for route in file.routes:
            for address in self._addresses_of(route):
                leading.setdefault(address, []).append(route)
        self._spaces: dict[frozenset[str], Space] = {}
        for addresses in {self._addresses_of(route) for route in file.routes}:
            routes = {route.name: route for address in addresses for route in leading[address]}
            self._spaces[addresses] = Space(routes.values(), ignores_case=not without_case.isdisjoint(addresses))
        #: Where routes can, and whether they can by plain paths, too.
        self._watched: dict[str, tuple[Space, bool]] = {}
        for route in file.routes:
            space = self.space(route)
            if route.rewrite is not None:
                if len(space.meeting(route.target)) > 1:
                    self._watched[route.name] = space, True
            elif space.rivals(route, in_any_spelling=True):
                self._watched[route.name] = space, bool(space.rivals(route, in_any_spelling=False))

    def space(self, route: Route) -> Space:
        """Return the paths of the addresses that a route leads to."""
        return self._spaces[self._addresses_of(route)]

    def owners(self, route: Route, path: bytes) -> Sequence[Route]:
        """Return the routes that a path of a route's service belongs to; none where it can be that route alone."""
        watched = self._watched.get(route.name)
        if watched is None or not (watched[1] or b"%" in path):
            return ()
        return watched[0].owners(path)

    def asked(self, route: Route, method: str, path: bytes) -> Sequence[Route]:
        """Return those of the owners that have a say about a method; all, if none of them has it."""
        owners = self.owners(route, path)
        return [each for each in owners if method in each.match.methods] or owners

    def _addresses_of(self, route: Route) -> frozenset[str]:
        return frozenset().union(*(self._addresses[name] for name in route.upstreams))


def _asks_no_more(other: Route, route: Route) -> bool:
    """Return whether a request that a route lets in is one that another one would let in, too."""
    return other.is_public or (route.suffices_for(other) and route.max_staleness == other.max_staleness)


def _is_found_first(other: Route, route: Route) -> bool:
    """Return whether the other one's paths are never taken for the route's: both have them, and in plain sight."""
    if route.rewrite is not None or other.rewrite is not None or route.target.shape == other.target.shape:
        return False
    return not other.match.hosts or (bool(route.match.hosts) and route.match.hosts <= other.match.hosts)


def _place(address: str) -> str:
    """Return an address in one of its spellings."""
    if address.startswith("unix:"):
        return f"unix:{normpath(address.removeprefix('unix:'))}"
    parts = urlsplit(address)
    host = parts.hostname or ""
    try:
        ip = ip_address(host)
    except ValueError:
        pass
    else:
        host = "localhost" if ip.is_loopback else ip.compressed
    return f"{host}:{parts.port or _PORTS[parts.scheme]}"
