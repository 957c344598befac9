"""Finds the route of a request."""

import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import lru_cache, partial
from typing import Final

from ostiary_gateway.http1.fields import Fields
from ostiary_gateway.routing import paths
from ostiary_gateway.routing.config import Match, Route
from ostiary_gateway.routing.paths import PATH_CACHE_SIZE, CanonicalPath, EncodedCharacter, InvalidPath
from ostiary_gateway.routing.templates import (
    PathTemplate,
    Pattern,
    Segment,
    common_segment,
    segment_precedence,
)

#: Routes that are put into a table before other threads may go on; a hundred take a millisecond.
_ROUTES_AT_ONCE: Final = 100

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
        #: In the order of precedence.
        self.patterns: list[tuple[Pattern, PathTree]] = []
        self.routes: list[Route] = []
        #: Routes whose templates match all further segments.
        self.tail: list[Route] = []

    def add(self, template: PathTemplate, route: Route) -> None:
        node = self
        for segment in template.segments:
            node = node._child(segment)
        (node.tail if template.tail else node.routes).append(route)

    def _child(self, segment: Segment) -> "PathTree":
        if isinstance(segment, str):
            return self.literals.setdefault(segment, PathTree())
        for pattern, child in self.patterns:
            if pattern == segment:
                return child
        self.patterns.append((segment, PathTree()))
        child = self.patterns[-1][1]
        self.patterns.sort(key=_pattern_precedence)
        return child

    def find(self, segments: tuple[str, ...], depth: int, host: str | None) -> list[Route]:
        """Return the routes of the most specific matching template: from the left, literal, pattern, tail.

        Without a host, those of all hosts.
        """
        if depth == len(segments):
            return _best_for_host(self.routes, host)
        segment = segments[depth]
        literal = self.literals.get(segment)
        found = literal.find(segments, depth + 1, host) if literal is not None else []
        for pattern, child in self.patterns:
            if found:
                return found
            if pattern.matches(segment):
                found = child.find(segments, depth + 1, host)
        return found or _best_for_host(self.tail, host)

    def overlapping(self, template: PathTemplate, depth: int = 0) -> list[Route]:
        """Return the routes of all templates that match a path of this one, with or without a slash at its end."""
        if depth == len(template.segments):
            if template.tail:
                return self.descendants()
            return [*self.routes, *self.tail, *(self.literals[""].routes if "" in self.literals else [])]
        segment = template.segments[depth]
        if segment == "":
            return self.overlapping(template.without_slash(), depth)
        found = list(self.tail)
        for child in self._matching(segment):
            found += child.overlapping(template, depth + 1)
        return found

    def _matching(self, segment: Segment) -> Iterator["PathTree"]:
        """Yield the children for segments that match this one, too."""
        if isinstance(segment, str):
            if segment in self.literals:
                yield self.literals[segment]
        else:
            yield from (child for literal, child in self.literals.items() if segment.matches(literal))
        yield from (child for pattern, child in self.patterns if common_segment(pattern, segment) is not None)

    def nodes(self) -> "list[PathTree]":
        """Return this node and all below it, parents first."""
        found = [self]
        for node in found:
            found += node.literals.values()
            found += [child for _, child in node.patterns]
        return found

    def descendants(self) -> list[Route]:
        """Return the routes of all templates that end here or further down."""
        found = [*self.routes, *self.tail]
        for child in (*self.literals.values(), *(child for _, child in self.patterns)):
            found += child.descendants()
        return found


def _pattern_precedence(item: tuple[Pattern, PathTree]) -> tuple[object, ...]:
    return segment_precedence(item[0])


class RouteTable:
    """All routes of a file. Their order does not matter."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self.routes = tuple(routes)
        self._root = PathTree()
        headers: set[bytes] = set()
        methods: set[str] = set()
        allowed: set[str] = set()
        hosts: set[str] = set()
        for number, route in enumerate(self.routes):
            self._root.add(route.match.template, route)
            headers.update(name.lower().encode() for name in route.match.headers)
            methods.update(route.match.methods)
            allowed.update(route.allows_encoded)
            hosts.update(route.match.hosts)
            if number % _ROUTES_AT_ONCE == 0:
                # Compiled code goes on until it lets the event loop's thread in.
                time.sleep(0)
        #: Names of the header fields that routes match, in lower case.
        self.routing_headers = frozenset(headers)
        #: The methods of all routes.
        self.methods = frozenset(methods)
        #: Special characters that any route allows.
        self._allowed = frozenset(allowed)
        self._has_hosts = bool(hosts)
        # Of the tree, not of this object, which would keep itself alive then.
        self._cached_candidates = lru_cache(PATH_CACHE_SIZE)(partial(_look_up, self._root))

    def find(
        self, method: str, host: bytes, path: bytes, fields: Fields, preflight_headers: Collection[str] | None = None
    ) -> Route:
        """Return the route of a request. Raises InvalidPath, NoRoute, DuplicateField or WrongMethod.

        For a preflight, `preflight_headers` are the names, in lower case, of the header fields of the request to come.
        """
        candidates = self.candidates(host, path)
        for route in candidates.get(method, ()):
            if (
                not route.match.headers
                or _matches_headers(fields, route.match)
                or _may_match_headers(preflight_headers, route.match)
            ):
                if self._allowed:
                    _check_specials(paths.canonicalise(path), [route])
                return route
        if not candidates or method in candidates:
            raise NoRoute
        # The most specific template decides alone: a method that it lacks does not fall through to a wider template,
        # whose access rules are not meant for this path.
        raise WrongMethod(frozenset(candidates))

    def candidates(self, host: bytes, path: bytes) -> Candidates:
        """Return the routes of the most specific template for a path. Raises InvalidPath."""
        return self._cached_candidates(path, host if self._has_hosts else b"")

    def parts(self) -> list[object]:
        """Return what this is made of, parents first."""
        return [*self._root.nodes(), *self.routes]

    def overlapping(self, route: Route) -> list[Route]:
        """Return the routes whose templates match a path of this one's, with or without a slash at its end."""
        return self._root.overlapping(route.match.template)

    def takes(self, host: bytes, path: bytes) -> bool:
        """Return whether a route takes a path, with any method."""
        try:
            return bool(self.candidates(host, path))
        except InvalidPath:
            return False


def _look_up(root: PathTree, path: bytes, host: bytes) -> Candidates:
    canonical = paths.canonicalise(path)
    routes = root.find(canonical.segments, 0, _host_name(host))
    _check_specials(canonical, routes)
    if canonical.specials:
        # For some there is a way to read them that has no meaning.
        paths.readings(canonical.raw)
    routes.sort(key=_sort_key)
    methods = {method for route in routes for method in route.match.methods}
    return {method: tuple(route for route in routes if method in route.match.methods) for method in methods}


def _check_specials(path: CanonicalPath, routes: Collection[Route]) -> None:
    """Raise EncodedCharacter if a path has special characters that none of the routes allows."""
    if path.specials:
        allowed = [route.allows_encoded for route in routes]
        if not any(path.specials <= each for each in allowed):
            raise EncodedCharacter(min(path.specials.difference(*allowed) or path.specials))


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
