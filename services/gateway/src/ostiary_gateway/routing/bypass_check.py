"""Checks a routes file before it is used: no route bypasses a stricter route to the same upstream path.

A service sees the path that it gets, and neither host nor header fields. So each route is tried with paths that it may
turn into those of another route to the same address, with each of its hosts, and with its header fields. Where
services may take all paths of two routes for the same, as with and without a slash at the end, the rules must be, too.

And where two templates overlap without one containing the other, both routes must have the same access rules if there
is a host that both take, wherever they lead: which of them a path takes is not what anybody reads out of them.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile

from ostiary_gateway.http1 import headers
from ostiary_gateway.routing import paths, templates
from ostiary_gateway.routing.completion import InvalidRoutes
from ostiary_gateway.routing.config import Route, RoutesFile
from ostiary_gateway.routing.overlap import AddressIndex, OwnerIndex
from ostiary_gateway.routing.paths import InvalidPath
from ostiary_gateway.routing.table import DuplicateField, NoRoute, RouteTable, WrongMethod
from ostiary_gateway.routing.templates import (
    EXAMPLE,
    PARAMETER,
    PathTemplate,
    Segment,
    common_path,
    common_segments,
    raw_segments,
    segment_example,
)


class _Bypass(Exception):
    def __init__(self, route: Route, other: Route, request: str) -> None:
        super().__init__(f"lets {request} bypass route '{other.name}', which protects this path with other rules")
        self.route = route


@dataclass(frozen=True, slots=True)
class IndexedRoutes:
    """A routes file, and the indexes of its routes: they are made once, for its proof and for requests."""

    file: RoutesFile
    table: RouteTable
    owners: OwnerIndex


def indexed(file: RoutesFile, previous: IndexedRoutes | None = None) -> IndexedRoutes:
    """Return a file with its indexes, and no proof."""
    return IndexedRoutes(file, RouteTable(file.routes), OwnerIndex(file, previous.owners if previous else None))


def prove(file: RoutesFile, previous: IndexedRoutes | None = None) -> IndexedRoutes:
    """Raise InvalidRoutes if a route bypasses another one.

    What has been proved of `previous` is not proved again where no change can have affected it. The proof of a route
    rests upon the routes that take a path of its template, and those that own one of its upstream paths: so a route
    that comes, goes or changes affects just the routes that it overlaps with in one of these ways.
    """
    routes = indexed(file, previous)
    suspects = _suspects(routes, is_all=previous is None)
    for position, route in suspects:
        for name in route.match.headers:
            if headers.request_filter(route.drop_headers, route.pass_headers).fault(name.lower().encode()):
                location = ("routes", position, "match", "headers", name)
                raise InvalidRoutes(location, "the gateway does not forward this header, so no route can match it")
    try:
        for _, route in suspects:
            for other in routes.table.overlapping(route):
                _check_partial_overlap(route, other)
        for _, route in suspects:
            _check_upstream_paths(routes.table, routes.owners.index_of(route), route)
    except _Bypass as error:
        raise InvalidRoutes(("routes", routes.table.routes.index(error.route)), str(error)) from None
    return routes


def _suspects(routes: IndexedRoutes, *, is_all: bool) -> list[tuple[int, Route]]:
    """Return the positions of routes that have to be proved, and these."""
    affected = set(routes.owners.affected)
    for change in routes.owners.changes if not is_all else ():
        affected.update(route.name for route in routes.table.overlapping(change))
    return [(position, route) for position, route in enumerate(routes.table.routes) if route.name in affected]


def _check_partial_overlap(one: Route, other: Route) -> None:
    """Where templates overlap and neither contains the other, access rules must be the same. Raises _Bypass."""
    if one.admits_like(other) or one.match.methods.isdisjoint(other.match.methods):
        return
    if not _share_host(one, other):
        return
    first, second = one.match.template, other.match.template
    witness = common_path(first, second)
    if witness is None or first.contains(second) or second.contains(first):
        return
    taken, bypassed = (one, other) if first.precedence <= second.precedence else (other, one)
    raise _Bypass(taken, bypassed, witness)


def _share_host(one: Route, other: Route) -> bool:
    """Return whether there is a host whose requests both routes take."""
    if not one.match.hosts or not other.match.hosts:
        return True
    return any(_is_below(a, b) or _is_below(b, a) for a in one.match.hosts for b in other.match.hosts)


def _is_below(host: str, wanted: str) -> bool:
    """Return whether a host, or all that `*.` stands for, is among the wanted ones."""
    return host == wanted or (wanted.startswith("*.") and host.endswith(wanted[1:]))


def _check_upstream_paths(table: RouteTable, index: AddressIndex, route: Route) -> None:
    """Check a route against all others to the same addresses. Raises _Bypass."""
    for other in index.overlapping(route):
        _check_reach(table, index, route, other)
    for other in index.routes if route.allows_encoded else ():
        _check_encoded(table, index, route, other)


def _check_reach(table: RouteTable, index: AddressIndex, route: Route, other: Route) -> None:
    """Reject a route to upstream paths of a stricter one, unless it is an exception to that. Raises _Bypass."""
    if route.implies_access_to(other) or route.match.methods.isdisjoint(other.match.methods):
        return
    mine, theirs = route.upstream_template, other.upstream_template
    is_same = index.is_same(route, other)
    if theirs.contains(mine) and not is_same:
        return
    methods = sorted(route.match.methods & other.match.methods)
    if is_same and mine.shape != theirs.shape:
        _check_path(table, route, other, methods, "/" + "/".join(mine.example()))
    shared = common_path(mine, theirs)
    if shared is None:
        return
    # A more specific route may own the shortest common path, but not the longer ones.
    for path in (shared, f"{shared}/{EXAMPLE}", f"{shared}/{EXAMPLE}/{EXAMPLE}"):
        segments = paths.canonicalise(path.encode()).segments
        if not mine.matches(segments) or not theirs.matches(segments):
            return
        if any(each is other for each in index.exact_owners(path.encode())) or not mine.contains(theirs):
            _check_path(table, route, other, methods, path)


def _check_encoded(table: RouteTable, index: AddressIndex, route: Route, other: Route) -> None:
    """Reject a route whose ordinary values, if services decode them first, lead to a stricter one. Raises _Bypass.

    Paths that its own template matches in both readings are left to the look-up at run time, as are values that nobody
    sends in good faith: the stricter rules apply to these.
    """
    methods = sorted(route.match.methods & other.match.methods)
    if not methods or route.implies_access_to(other):
        return
    for path, reading in encoded_examples(route.upstream_template, other.upstream_template, route.allows_encoded):
        for method in methods:
            request = _request_for(table, route, method, path)
            if request and any(each is other for each in index.owners_for(method, path.encode())):
                raise _Bypass(route, other, f"{request}, read as {reading},")


def encoded_examples(mine: PathTemplate, theirs: PathTemplate, allowed: Collection[str]) -> Iterator[tuple[str, str]]:
    """Yield paths of a template that services may read as paths of another one alone, and these paths."""
    if not _begin_alike(mine, theirs):
        return
    slots = [*mine.without_slash().segments, *([PARAMETER] if mine.tail else [])]
    end = [""] if mine.without_slash() is not mine else []
    more = range(len(slots) + 1) if theirs.tail else (0,)
    for target in ([*theirs.without_slash().segments, *[PARAMETER] * count] for count in more):
        found: list[tuple[list[str], list[str]]] = []
        for special, separator in (("/", "%2F"), ("\\", "%5C")):
            if special in allowed:
                found += _joined(slots, target, separator)
        for special, escape in (("#", "%23"), ("?", "%3F")):
            read = common_segments(slots[: len(target)], target)
            if special in allowed and read and len(target) <= len(slots):
                rest = [segment_example(each) for each in slots[len(target) :]]
                found.append(([*read[:-1], f"{read[-1]}{escape}{EXAMPLE}", *rest], read))
        for segments, read in found:
            if mine.matches((*segments, *end)) and not mine.without_slash().matches(tuple(read), tail_least=0):
                yield "/" + "/".join([*segments, *end]), "/" + "/".join(read)


def _begin_alike(mine: PathTemplate, theirs: PathTemplate) -> bool:
    """Return whether the literal segments before the first parameter fit: they are read in one way only."""
    literals = list(takewhile(lambda each: isinstance(each, str), mine.segments))
    return common_segments(literals, theirs.segments) is not None


def _joined(
    slots: Sequence[Segment], target: Sequence[Segment], separator: str
) -> Iterator[tuple[list[str], list[str]]]:
    """Yield segments of which one has several of the target's, and the target's."""
    size = len(target) - len(slots) + 1
    for start in range(len(slots)) if size > 1 else ():
        before = common_segments(slots[:start], target[:start])
        after = common_segments(slots[start + 1 :], target[start + size :])
        if before is not None and after is not None:
            joined = [segment_example(each) for each in target[start : start + size]]
            yield [*before, separator.join(joined), *after], [*before, *joined, *after]


def _check_path(table: RouteTable, route: Route, other: Route, methods: Sequence[str], path: str) -> None:
    """Raise _Bypass if a request that takes `route` reaches an upstream path."""
    for method in methods:
        if request := _request_for(table, route, method, path):
            raise _Bypass(route, other, request)


def _request_for(table: RouteTable, route: Route, method: str, path: str) -> str | None:
    """Describe a request that takes a route and reaches an upstream path; None if there is none."""
    try:
        sent = _before_rewrite(route, path.encode())
    except InvalidPath:
        return None
    fields = [(name.lower().encode(), value.encode()) for name, value in route.match.headers.items()]
    # A route for any host is found with a host that no route names.
    for host in sorted(route.match.hosts) or [""]:
        name = host.replace("*", EXAMPLE)
        try:
            found = table.find(method, name.encode(), sent, fields)
        except (InvalidPath, NoRoute, DuplicateField, WrongMethod):
            continue
        if found is route:
            request = sent.decode() + (f" as {path}" if route.rewrite is not None else "")
            conditions = {"Host": name, **route.match.headers} if name else route.match.headers
            return " with ".join([request, *(f"{header}: {value}" for header, value in conditions.items())])
    return None


def _before_rewrite(route: Route, path: bytes) -> bytes:
    """Return the path of a request that a route turns into this one. Raises InvalidPath."""
    if route.rewrite is None:
        return path
    values = route.upstream_template.values(raw_segments(path)) or {}
    sent = paths.canonicalise(route.match.template.filled(lambda name: values.get(name, EXAMPLE)).encode()).raw
    # What a pattern takes for the value of a parameter depends on the text around it.
    if templates.rewrite(sent, route.match.path, route.rewrite) != path:
        raise paths.AmbiguousPath
    return sent
