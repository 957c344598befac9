"""Which routes own a path of an upstream address, whichever route leads there.

A service sees the path that it gets, and neither the host nor the header fields by which the gateway chose a route. So
that path is looked up once more among all routes to the same addresses, in the form in which the service may read it:
a client that may not use the most specific of these routes does not reach the path through another one.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from ipaddress import ip_address
from posixpath import normpath
from urllib.parse import unquote, urlsplit

from ostiary_gateway.routing import paths
from ostiary_gateway.routing.config import Route, RoutesFile
from ostiary_gateway.routing.paths import PathTemplate
from ostiary_gateway.routing.table import PATH_CACHE_SIZE, PathTree

_DEFAULT_PORTS = {"http": 80, "https": 443}


class AddressIndex:
    """All routes that lead to one of some addresses, of all hosts and header fields, by the path that is sent there."""

    def __init__(self, routes: Iterable[Route], *, ignores_case: bool) -> None:
        self._ignores_case = ignores_case
        self._tree = PathTree()
        for route in routes:
            self._tree.add(self._normalise(route.upstream_template), route)
        self.owners = lru_cache(PATH_CACHE_SIZE)(self._look_up)

    def overlapping(self, template: PathTemplate) -> list[Route]:
        """Return the routes whose upstream paths overlap with a template."""
        return self._tree.overlapping(self._normalise(template))

    def conflicts(self, route: Route, *, by_escapes: bool) -> list[Route]:
        """Return the routes with other access rules whose paths a request may reach through `route`.

        `by_escapes` considers percent-encoded paths, too, which the gateway does not match with a literal but a
        service may.
        """
        return [
            other
            for other in self.overlapping(route.upstream_template)
            if not (_is_no_stricter(other, route) or self._is_exception(route, other))
            and (by_escapes or self._ignores_case or not _takes_precedence(other, route))
        ]

    def _is_exception(self, route: Route, other: Route) -> bool:
        """Return whether `route` is for some paths of the other one, or for other methods of the same paths."""
        mine, theirs = self._normalise(route.upstream_template), self._normalise(other.upstream_template)
        if mine.shape == theirs.shape:
            return route.match.methods.isdisjoint(other.match.methods)
        return theirs.contains(mine)

    def _look_up(self, path: bytes) -> tuple[Route, ...]:
        """Return the routes of the most specific template for an upstream path. Raises AmbiguousPath."""
        segments = tuple(self._normalise_segment(segment) for segment in paths.split(path))
        return tuple(self._tree.find(segments, 0, None))

    def _normalise(self, template: PathTemplate) -> PathTemplate:
        if not self._ignores_case:
            return template
        return PathTemplate(tuple(each and each.casefold() for each in template.segments), template.tail)

    def _normalise_segment(self, segment: str) -> str:
        text = paths.plain_text(unquote(segment)) if "%" in segment else segment
        return text.casefold() if self._ignores_case else text


class OwnerIndex:
    """Finds the routes whose access rules apply to a request besides those of the route that it takes."""

    def __init__(self, file: RoutesFile) -> None:
        self._addresses = {
            name: frozenset(_normalise_address(address) for address in upstream.addresses)
            for name, upstream in file.upstreams.items()
        }
        case_insensitive = {
            address
            for name, upstream in file.upstreams.items()
            if upstream.ignores_case
            for address in self._addresses[name]
        }
        routes_by_address: dict[str, list[Route]] = {}
        for route in file.routes:
            for address in self._addresses_of(route):
                routes_by_address.setdefault(address, []).append(route)
        self._indexes: dict[frozenset[str], AddressIndex] = {}
        for addresses in {self._addresses_of(route) for route in file.routes}:
            routes = {route.name: route for address in addresses for route in routes_by_address[address]}
            ignores_case = not case_insensitive.isdisjoint(addresses)
            self._indexes[addresses] = AddressIndex(routes.values(), ignores_case=ignores_case)
        # Only for routes that can conflict with others, so that requests of others need no second lookup; and whether
        # they can by plain paths, or by percent-encoded ones only.
        self._contested: dict[str, tuple[AddressIndex, bool]] = {}
        for route in file.routes:
            index = self.index_of(route)
            if route.rewrite is not None:
                if len(index.overlapping(route.upstream_template)) > 1:
                    self._contested[route.name] = index, True
            elif index.conflicts(route, by_escapes=True):
                self._contested[route.name] = index, bool(index.conflicts(route, by_escapes=False))

    def index_of(self, route: Route) -> AddressIndex:
        """Return the index of the addresses that a route leads to."""
        return self._indexes[self._addresses_of(route)]

    def owners(self, route: Route, path: bytes) -> Sequence[Route]:
        """Return the routes that own an upstream path; none if it can be `route` alone. Raises AmbiguousPath."""
        contested = self._contested.get(route.name)
        if contested is None or not (contested[1] or b"%" in path):
            return ()
        return contested[0].owners(path)

    def owners_for(self, route: Route, method: str, path: bytes) -> Sequence[Route]:
        """Return the owners with this method; all owners, if none has it. Raises AmbiguousPath."""
        owners = self.owners(route, path)
        return [each for each in owners if method in each.match.methods] or owners

    def _addresses_of(self, route: Route) -> frozenset[str]:
        return frozenset().union(*(self._addresses[name] for name in route.upstreams))


def _is_no_stricter(other: Route, route: Route) -> bool:
    """Return whether the other route accepts each request that `route` accepts."""
    return other.is_public or (route.implies_access_to(other) and route.max_staleness == other.max_staleness)


def _takes_precedence(other: Route, route: Route) -> bool:
    """Return whether a plain path of both always takes the other route."""
    if route.rewrite is not None or other.rewrite is not None:
        return False
    if route.upstream_template.shape == other.upstream_template.shape:
        return False
    return not other.match.hosts or (bool(route.match.hosts) and route.match.hosts <= other.match.hosts)


def _normalise_address(address: str) -> str:
    """Return the same text for all spellings of an address."""
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
    return f"{host}:{parts.port or _DEFAULT_PORTS[parts.scheme]}"
