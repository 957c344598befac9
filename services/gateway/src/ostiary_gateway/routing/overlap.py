"""Which routes own a path of an upstream address, whichever route leads there.

A service sees the path that it gets, and neither the host nor the header fields by which the gateway chose a route. So
that path is looked up once more among all routes to the same addresses: as it is, and in each way in which the service
may read it. A client that may not use the most specific of these routes does not reach the path through another one.

What services may read a path as:

- with or without a slash at its end: to many frameworks, `/admin/` is `/admin`;
- decoded, in compatibility form, without invisible characters, in another case (`ignores_case`), and without the dots
  and spaces at the end of segments, which file systems drop: the path, and all templates, are *folded*;
- with other segments, if it has characters that routes have to allow (`paths.readings`).

A route that is an exception to another one stays one: `/users` may be public where `/users/{rest...}` is not, although
the latter owns `/users/`.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import lru_cache
from ipaddress import IPv6Address, ip_address
from itertools import chain
from posixpath import normpath
from urllib.parse import urlsplit

from ostiary_chassis.urls import DEFAULT_PORTS
from ostiary_gateway.routing import paths
from ostiary_gateway.routing.config import Route, RoutesFile
from ostiary_gateway.routing.paths import PATH_CACHE_SIZE
from ostiary_gateway.routing.table import PathTree
from ostiary_gateway.routing.templates import PathTemplate, common_path


class AddressIndex:
    """All routes that lead to one of some addresses, of all hosts and header fields, by the path that is sent there."""

    def __init__(self, routes: Iterable[Route], *, ignores_case: bool) -> None:
        self.routes = tuple(routes)
        self.ignores_case = ignores_case
        self._folds = {route.name: route.upstream_template.folded(ignores_case=ignores_case) for route in self.routes}
        self._encoded = [route for route in self.routes if route.allows_encoded]
        self._exact, self._folded = PathTree(), PathTree()
        for route in self.routes:
            self._exact.add(route.upstream_template, route)
            self._folded.add(self._folds[route.name], route)

    def parts(self) -> list[object]:
        """Return what this is made of, parents first."""
        return [*self._exact.nodes(), *self._folded.nodes(), *self._folds.values()]

    def overlapping(self, route: Route) -> list[Route]:
        """Return the routes whose upstream paths some services may take for those of this one."""
        return self._folded.overlapping(self._fold(route))

    def affected_by(self, change: Route) -> Iterator[Route]:
        """Yield the routes for which another answer may hold once this route is here, or is not here any more."""
        template = change.upstream_template
        yield from self._exact.overlapping(template)
        yield from self._folded.overlapping(template.folded(ignores_case=self.ignores_case))
        # Paths of these may be read as those of any other route.
        yield from self._encoded

    def exact_owners(self, path: bytes) -> list[Route]:
        """Return the routes of the most specific template for an upstream path as it is. Raises InvalidPath."""
        return self._exact.find(paths.canonicalise(path).segments, 0, None)

    def conflicts(self, route: Route, *, by_plain_paths: bool) -> bool:
        """Return whether a request may reach the paths of routes with other access rules through `route`.

        Plain paths have no escapes, and no dots and slashes at ends of segments.
        """
        if route.allows_encoded and not by_plain_paths:
            # A path with special characters may be read as one that the route's template does not match.
            return any(not _is_no_stricter(other, route) for other in self.routes)
        return any(
            not by_plain_paths or self.ignores_case or not _takes_precedence(other, route) or _adds_slash(other, route)
            for other in self.overlapping(route)
            if not (_is_no_stricter(other, route) or self._is_exception(route, other))
        )

    def is_same(self, route: Route, other: Route) -> bool:
        """Return whether services may take all paths of these routes for the same."""
        return self._fold(route).without_slash().shape == self._fold(other).without_slash().shape

    def _is_exception(self, route: Route, other: Route) -> bool:
        """Return whether `route` is for some paths of the other one, or for other methods of the same paths."""
        if self.is_same(route, other):
            return route.match.methods.isdisjoint(other.match.methods)
        return _is_narrower(self._fold(route), self._fold(other))

    def owners_for(self, method: str, path: bytes) -> tuple[Route, ...]:
        """Return the owners with this method for each way to read a path, or all of them. Raises InvalidPath."""
        found: dict[str, Route] = {}
        for owners in self._owners(path):
            with_method = [each for each in owners if method in each.match.methods]
            found |= {each.name: each for each in with_method or owners}
        return tuple(found.values())

    def _owners(self, path: bytes) -> Iterator[list[Route]]:
        """Yield the routes of the most specific template, for each way to read a path. Raises InvalidPath."""
        own = self.exact_owners(path)
        yield own
        for segments in self._readings(path):
            owners = self._folded.find(segments, 0, None)
            if owners and own:
                mine, theirs = self._fold(own[0]), self._fold(owners[0])
                if mine.without_slash().matches(_without_slash(segments), tail_least=0):
                    if _is_narrower(mine, theirs):
                        continue
                    if self.is_same(own[0], owners[0]):
                        owners = [*own, *owners]
            yield owners

    def _readings(self, path: bytes) -> Iterator[tuple[str, ...]]:
        canonical = paths.canonicalise(path)
        ways = paths.readings(path) if canonical.specials else {canonical.segments}
        for way in ways:
            segments = _without_slash(tuple(paths.fold(each, ignores_case=self.ignores_case) for each in way))
            yield from ((*segments, ""), segments) if segments else [("",)]

    def _fold(self, route: Route) -> PathTemplate:
        return self._folds[route.name]


class OwnerIndex:
    """Finds the routes whose access rules apply to a request besides those of the route that it takes."""

    def __init__(self, file: RoutesFile, previous: "OwnerIndex | None" = None) -> None:
        """Take over what `previous` has found out about routes that no change of the file affects."""
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
        self.routes = {route.name: route for route in file.routes}
        routes_by_address: dict[str, list[Route]] = {}
        for route in file.routes:
            for address in self.addresses_of(route):
                routes_by_address.setdefault(address, []).append(route)
        self._cached_owners_for = lru_cache(PATH_CACHE_SIZE)(AddressIndex.owners_for)
        self._indexes: dict[frozenset[str], AddressIndex] = {}
        for addresses in dict.fromkeys(self.addresses_of(route) for route in file.routes):
            leading = {route.name: route for address in addresses for route in routes_by_address[address]}
            ignores_case = not case_insensitive.isdisjoint(addresses)
            self._indexes[addresses] = AddressIndex(leading.values(), ignores_case=ignores_case)
        #: Routes that came, went, or lead to other addresses than in `previous`; and their names, with those of all
        #: routes that may have other owners than there.
        self.changes, self.affected = self._changes_since(previous)
        #: The index of each route that can conflict with others, so that requests of others need no second lookup; and
        #: whether it can by plain paths.
        self.contested: dict[str, tuple[AddressIndex, bool]] = {}
        for route in file.routes:
            index = self.index_of(route)
            if previous is not None and route.name not in self.affected:
                if (known := previous.contested.get(route.name)) is not None:
                    self.contested[route.name] = index, known[1]
            elif route.rewrite is not None and len(index.overlapping(route)) > 1:
                self.contested[route.name] = index, True
            elif index.conflicts(route, by_plain_paths=False):
                self.contested[route.name] = index, index.conflicts(route, by_plain_paths=True)

    def _changes_since(self, previous: "OwnerIndex | None") -> tuple[Sequence[Route], Collection[str]]:
        if previous is None:
            return tuple(self.routes.values()), self.routes.keys()
        new, old = self.missing_in(previous), previous.missing_in(self)
        affected = {route.name for route in new}
        indexes: dict[str, list[AddressIndex]] = {}
        for addresses, index in self._indexes.items():
            for address in addresses:
                indexes.setdefault(address, []).append(index)
        led_to = [(route, self.addresses_of(route)) for route in new]
        led_to += [(route, previous.addresses_of(route)) for route in old]
        for route, addresses in led_to:
            for index in chain.from_iterable(indexes.get(address, ()) for address in addresses):
                affected.update(each.name for each in index.affected_by(route))
        return (*new, *old), affected

    def missing_in(self, other: "OwnerIndex") -> list[Route]:
        return [
            route
            for name, route in self.routes.items()
            if other.routes.get(name) is not route or other.place_of(route) != self.place_of(route)
        ]

    def place_of(self, route: Route) -> tuple[frozenset[str], bool]:
        """Return all that counts of a route's upstreams."""
        addresses = self.addresses_of(route)
        return addresses, self._indexes[addresses].ignores_case

    def parts(self) -> list[object]:
        """Return what this is made of, parents first."""
        indexes = self._indexes.values()
        return [*indexes, *self.contested.values(), *chain.from_iterable(index.parts() for index in indexes)]

    def index_of(self, route: Route) -> AddressIndex:
        """Return the index of the addresses that a route leads to."""
        return self._indexes[self.addresses_of(route)]

    def owners_for(self, route: Route, method: str, path: bytes) -> Sequence[Route]:
        """Return the routes that own an upstream path; none if it can be `route` alone. Raises InvalidPath.

        Those with this method, for each way in which services may read the path; all of these, if none has it.
        """
        contested = self.contested.get(route.name)
        if contested is None or not (contested[1] or _is_unusual(path)):
            return ()
        return self._cached_owners_for(contested[0], method, path)

    def addresses_of(self, route: Route) -> frozenset[str]:
        return frozenset().union(*(self._addresses[name] for name in route.upstreams))


def _is_unusual(path: bytes) -> bool:
    """Return whether folding may change a canonical path, or a slash at its end."""
    return b"%" in path or path.endswith((b"/", b".")) or b"./" in path or b";" in path or b"//" in path


def _without_slash(segments: tuple[str, ...]) -> tuple[str, ...]:
    return segments[:-1] if segments[-1] == "" else segments


def _is_narrower(mine: PathTemplate, theirs: PathTemplate) -> bool:
    """Return whether a template is for some of the other one's paths, be there a slash at the end or not."""
    narrow, wide = mine.without_slash(), theirs.without_slash()
    return narrow.shape != wide.shape and wide.contains(narrow, tail_least=0)


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


def _adds_slash(other: Route, route: Route) -> bool:
    """Return whether a path of `route`, with a slash at its end, may be one of the other route."""
    template = other.upstream_template
    if not template.tail and template.without_slash() is template:
        return False
    longer = PathTemplate(template.without_slash().segments, tail=False)
    return common_path(longer, route.upstream_template) is not None


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
        if isinstance(ip, IPv6Address):
            ip = ip.ipv4_mapped or ip
        # Who connects to 0.0.0.0 or [::] gets to this machine.
        host = "localhost" if ip.is_loopback or ip.is_unspecified else ip.compressed
    return f"{host}:{parts.port or DEFAULT_PORTS[parts.scheme]}"
