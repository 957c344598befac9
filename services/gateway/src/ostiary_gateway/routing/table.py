"""Finds the route of a request."""

from collections.abc import Collection, Iterable, Mapping
from functools import lru_cache

from ostiary_gateway.http1.fields import Fields
from ostiary_gateway.routing import paths
from ostiary_gateway.routing.config import Match, Route
from ostiary_gateway.routing.paths import PathTemplate

#: Paths whose candidate routes are cached.
PATH_CACHE_SIZE = 4096

#: Routes by method: those with most header conditions first, then in the alphabetical order of the headers.
Candidates = Mapping[str, tuple[Route, ...]]


class NoRoute(Exception):
    """No route matches the path and the host."""


class WrongMethod(Exception):
    """Routes match the path, but not with this method."""

    def __init__(self, allowed: frozenset[str]) -> None:
        super().__init__()
        self.allowed = allowed


class DuplicateField(Exception):
    """A header field that a route matches is there more than once: services may use either."""


class PathTree:
    """A tree of path templates by segment. Each node has the routes whose templates end there."""

    def __init__(self) -> None:
        self.literals: dict[str, PathTree] = {}
        self.parameter: PathTree | None = None
        self.routes: list[Route] = []
        #: Routes whose templates match all further segments.
        self.tail: list[Route] = []

    def add(self, template: PathTemplate, route: Route) -> None:
        node = self
        for segment in template.segments:
            if segment is None:
                node.parameter = node.parameter or PathTree()
                node = node.parameter
            else:
                node = node.literals.setdefault(segment, PathTree())
        (node.tail if template.tail else node.routes).append(route)

    def find(self, segments: tuple[str, ...], depth: int, host: str | None) -> list[Route]:
        """Return the routes of the most specific matching template: from the left, literal, parameter, tail.

        Without a host, those of all hosts.
        """
        if depth == len(segments):
            return _best_for_host(self.routes, host)
        literal = self.literals.get(segments[depth])
        found = literal.find(segments, depth + 1, host) if literal is not None else []
        if not found and self.parameter is not None and segments[depth]:
            found = self.parameter.find(segments, depth + 1, host)
        # A tail matches one segment or more, and the last one is not empty.
        return found or (_best_for_host(self.tail, host) if segments[-1] else [])

    def overlapping(self, template: PathTemplate, depth: int = 0) -> list[Route]:
        """Return the routes of all templates that match a path of this one."""
        if depth == len(template.segments):
            return self.descendants() if template.tail else list(self.routes)
        segment = template.segments[depth]
        if segment == "":
            # The root, and paths with a trailing slash: neither parameters nor tails match these.
            return list(self.literals[""].routes) if "" in self.literals else []
        found = list(self.tail)
        if segment is None:
            children = [child for literal, child in self.literals.items() if literal]
        else:
            children = [self.literals[segment]] if segment in self.literals else []
        if self.parameter is not None:
            children.append(self.parameter)
        for child in children:
            found += child.overlapping(template, depth + 1)
        return found

    def descendants(self) -> list[Route]:
        """Return the routes of all templates with one segment more, or several."""
        found = list(self.tail)
        children = [child for literal, child in self.literals.items() if literal]
        if self.parameter is not None:
            children.append(self.parameter)
        for child in children:
            found += child.routes
            found += child.descendants()
        return found


class RouteTable:
    """All routes of a file. Their order does not matter."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self.routes = tuple(routes)
        self._root = PathTree()
        for route in self.routes:
            self._root.add(route.match.template, route)
        #: Names of the header fields that routes match, in lower case.
        self.routing_headers = frozenset(name.lower().encode() for route in self.routes for name in route.match.headers)
        #: The methods of all routes.
        self.methods = frozenset(method for route in self.routes for method in route.match.methods)
        self._has_hosts = any(route.match.hosts for route in self.routes)
        self._cached_candidates = lru_cache(PATH_CACHE_SIZE)(self._look_up)

    def find(
        self, method: str, host: bytes, path: bytes, fields: Fields, preflight_headers: Collection[str] | None = None
    ) -> Route:
        """Return the route of a request. Raises AmbiguousPath, NoRoute, DuplicateField or WrongMethod.

        For a preflight, `preflight_headers` are the names, in lower case, of the header fields of the request to come.
        """
        candidates = self.candidates(host, path)
        for route in candidates.get(method, ()):
            if (
                not route.match.headers
                or _matches_headers(fields, route.match)
                or _may_match_headers(preflight_headers, route.match)
            ):
                return route
        if not candidates or method in candidates:
            raise NoRoute
        # The most specific template decides alone: a method that it lacks does not fall through to a wider template,
        # whose access rules are not meant for this path.
        raise WrongMethod(frozenset(candidates))

    def candidates(self, host: bytes, path: bytes) -> Candidates:
        """Return the routes of the most specific template for a path. Raises AmbiguousPath."""
        return self._cached_candidates(path, host if self._has_hosts else b"")

    def _look_up(self, path: bytes, host: bytes) -> Candidates:
        routes = self._root.find(paths.split(path), 0, _host_name(host))
        routes.sort(key=_sort_key)
        methods = {method for route in routes for method in route.match.methods}
        return {method: tuple(route for route in routes if method in route.match.methods) for method in methods}


def _host_name(host: bytes) -> str:
    """Strip port and final dot."""
    name = host.decode("ascii").lower()
    return (name if name.endswith("]") else name.rpartition(":")[0] or name).rstrip(".")


def _sort_key(route: Route) -> tuple[int, list[tuple[str, str]]]:
    headers = route.match.headers
    return -len(headers), sorted((name.lower(), value) for name, value in headers.items())


def _best_for_host(routes: Iterable[Route], host: str | None) -> list[Route]:
    """Return the routes that match a host best: by its name, then with `*.`, then for all hosts."""
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
    # The longest wildcard that matches; it stands for one label or more.
    lengths = [len(wanted) for wanted in match.hosts if wanted.startswith("*.") and host.endswith(wanted[1:])]
    return max(lengths, default=-1)


def _may_match_headers(preflight_headers: Collection[str] | None, match: Match) -> bool:
    """Return whether the request after a preflight may match: the preflight does not tell the values."""
    return preflight_headers is not None and all(name.lower() in preflight_headers for name in match.headers)


def _matches_headers(fields: Fields, match: Match) -> bool:
    """Compare the header conditions with a request. Raises DuplicateField."""
    for name, value in match.headers.items():
        wanted = name.lower().encode()
        given = [value for field, value in fields if field == wanted]
        if len(given) > 1:
            raise DuplicateField
        if given != [value.encode()]:
            return False
    return True
