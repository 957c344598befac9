"""Which route a request takes."""

from collections.abc import Collection, Iterable, Mapping
from functools import lru_cache

from ostiary_gateway.http1.fields import Fields
from ostiary_gateway.routing import paths
from ostiary_gateway.routing.config import Match, Route
from ostiary_gateway.routing.paths import PathTemplate

#: Paths whose routes are kept at hand. What a path may mean does not depend on who asks.
REMEMBERED_PATHS = 4096

#: Routes by method, those that ask for most header fields first. Of two that ask for as many, the one whose fields come
#: first in the alphabet.
Candidates = Mapping[str, tuple[Route, ...]]


class NoRoute(Exception):
    """No route has this path on this host."""


class WrongMethod(Exception):
    """Routes have this path, but not with this method. `allowed` are the methods they have."""

    def __init__(self, allowed: frozenset[str]) -> None:
        """Make the error."""
        super().__init__()
        self.allowed = allowed


class RepeatedField(Exception):
    """A field by which the route is chosen stands there more than once, so that services may take either."""


class PathTree:
    """A place in a tree of path templates: what may come next, and the routes that end here."""

    def __init__(self) -> None:
        """Make an empty tree."""
        self.literals: dict[str, PathTree] = {}
        self.parameter: PathTree | None = None
        self.routes: list[Route] = []
        #: The routes of templates that take all that comes from here on.
        self.tail: list[Route] = []

    def add(self, template: PathTemplate, route: Route) -> None:
        """Put a route where a template ends."""
        place = self
        for segment in template.segments:
            if segment is None:
                place.parameter = place.parameter or PathTree()
                place = place.parameter
            else:
                place = place.literals.setdefault(segment, PathTree())
        (place.tail if template.tail else place.routes).append(route)

    def find(self, segments: tuple[str, ...], depth: int, host: str | None) -> list[Route]:
        """Return the routes of the most specific template that fits: from the left, a literal, a parameter, a tail.

        Without a host, those of all hosts.
        """
        if depth == len(segments):
            return _of_host(self.routes, host)
        literal = self.literals.get(segments[depth])
        found = literal.find(segments, depth + 1, host) if literal is not None else []
        if not found and self.parameter is not None and segments[depth]:
            found = self.parameter.find(segments, depth + 1, host)
        # A tail is one segment or more, and the last one is not empty.
        return found or (_of_host(self.tail, host) if segments[-1] else [])

    def meeting(self, template: PathTemplate, depth: int = 0) -> list[Route]:
        """Return the routes of all templates that share a path with this one."""
        if depth == len(template.segments):
            return self.below() if template.tail else list(self.routes)
        segment = template.segments[depth]
        if segment == "":
            # The root, and paths that end in a slash: neither parameters nor tails take these.
            return list(self.literals[""].routes) if "" in self.literals else []
        found = list(self.tail)
        if segment is None:
            places = [place for word, place in self.literals.items() if word]
        else:
            places = [self.literals[segment]] if segment in self.literals else []
        if self.parameter is not None:
            places.append(self.parameter)
        for place in places:
            found += place.meeting(template, depth + 1)
        return found

    def below(self) -> list[Route]:
        """Return the routes of all templates that take one segment more, or several."""
        found = list(self.tail)
        places = [place for word, place in self.literals.items() if word]
        if self.parameter is not None:
            places.append(self.parameter)
        for place in places:
            found += place.routes
            found += place.below()
        return found


class RouteTable:
    """All routes; the order in the file does not matter."""

    def __init__(self, routes: Iterable[Route]) -> None:
        """Make the table."""
        self.routes = tuple(routes)
        self._root = PathTree()
        for route in self.routes:
            self._root.add(route.match.template, route)
        #: The names of fields by which routes are chosen, in lower case.
        self.routing_headers = frozenset(name.lower().encode() for route in self.routes for name in route.match.headers)
        self._has_hosts = any(route.match.hosts for route in self.routes)
        self._of_path = lru_cache(REMEMBERED_PATHS)(self._look_up)

    def find(
        self, method: str, host: bytes, path: bytes, fields: Fields, announced: Collection[str] | None = None
    ) -> Route:
        """Return the route of a request. Raises AmbiguousPath, NoRoute, RepeatedField or WrongMethod.

        `announced` are the names of fields that a request will have about which a browser asks; in lower case.
        """
        candidates = self.candidates(host, path)
        for route in candidates.get(method, ()):
            if not route.match.headers or _has(fields, route.match) or _will_have(announced, route.match):
                return route
        if not candidates or method in candidates:
            raise NoRoute
        # The most specific template decides alone: a method that it lacks does not fall through to a wider one, whose
        # access was not meant for this path.
        raise WrongMethod(frozenset(candidates))

    def candidates(self, host: bytes, path: bytes) -> Candidates:
        """Return the routes of the most specific template for a path. Raises AmbiguousPath."""
        return self._of_path(path, host if self._has_hosts else b"")

    def _look_up(self, path: bytes, host: bytes) -> Candidates:
        routes = self._root.find(paths.split(path), 0, _name_of(host))
        routes.sort(key=_order)
        methods = {method for route in routes for method in route.match.methods}
        return {method: tuple(route for route in routes if method in route.match.methods) for method in methods}


def _name_of(host: bytes) -> str:
    """Return a host's name, without port and final dot."""
    name = host.decode("ascii").lower()
    return (name if name.endswith("]") else name.rpartition(":")[0] or name).rstrip(".")


def _order(route: Route) -> tuple[int, list[tuple[str, str]]]:
    headers = route.match.headers
    return -len(headers), sorted((name.lower(), value) for name, value in headers.items())


def _of_host(routes: Iterable[Route], host: str | None) -> list[Route]:
    """Return those routes that name this host best: itself, then with `*.`, then none. Without a host, all."""
    if host is None:
        return list(routes)
    ranks = [(_rank(route.match, host), route) for route in routes]
    best = max((rank for rank, _ in ranks), default=-1)
    return [route for rank, route in ranks if rank == best] if best >= 0 else []


def _rank(match: Match, host: str) -> int:
    if not match.hosts:
        return 0
    if host in match.hosts:
        return len(host) + 1
    # The longest one that fits; it takes one label or more.
    fitting = [len(wanted) for wanted in match.hosts if wanted.startswith("*.") and host.endswith(wanted[1:])]
    return max(fitting, default=-1)


def _will_have(announced: Collection[str] | None, match: Match) -> bool:
    """Return whether a request may turn out to fit: what the values are, a browser does not say."""
    return announced is not None and all(name.lower() in announced for name in match.headers)


def _has(fields: Fields, match: Match) -> bool:
    """Return whether a request has the fields. Raises RepeatedField."""
    for name, value in match.headers.items():
        wanted = name.lower().encode()
        given = [value for field, value in fields if field == wanted]
        if len(given) > 1:
            raise RepeatedField
        if given != [value.encode()]:
            return False
    return True
