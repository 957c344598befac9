"""Checks a routes file before it is used: no route bypasses a stricter route to the same upstream path.

A service sees the path that it gets, and neither host nor header fields. So each route is tried with paths that it may
turn into those of another route to the same address, with each of its hosts, and with its header fields.

Services also interpret paths in their own ways: they decode twice, resolve dot segments, cut at a semicolon. So each
route is tried with paths that some services would take for a protected one. And where two templates overlap without
one containing the other, both routes must have the same access rules.
"""

from collections.abc import Iterator, Sequence
from itertools import zip_longest

from ostiary_gateway.http1 import headers
from ostiary_gateway.routing import paths
from ostiary_gateway.routing.config import Route, RoutesFile
from ostiary_gateway.routing.loader import InvalidRoutes
from ostiary_gateway.routing.overlap import AddressIndex, OwnerIndex
from ostiary_gateway.routing.path_tricks import EXAMPLE, Tricks, interpretations, on_the_wire
from ostiary_gateway.routing.paths import AmbiguousPath, PathTemplate
from ostiary_gateway.routing.table import DuplicateField, NoRoute, PathTree, RouteTable, WrongMethod


class _Bypass(Exception):
    def __init__(self, route: Route, other: Route, request: str) -> None:
        super().__init__(f"lets {request} bypass route '{other.name}', which protects this path with other rules")
        self.route = route


def check_no_bypass(file: RoutesFile) -> None:
    """Raise InvalidRoutes if a route bypasses another one."""
    table, index = RouteTable(file.routes), OwnerIndex(file)
    for position, route in enumerate(table.routes):
        for name in route.match.headers:
            if not headers.passes_to_upstream(name.lower().encode()):
                location = ("routes", position, "match", "headers", name)
                raise InvalidRoutes(location, "the gateway does not forward this header, so no route can match it")
    try:
        _check_overlaps(table, index)
        _check_tricks(table, index)
    except _Bypass as error:
        raise InvalidRoutes(("routes", table.routes.index(error.route)), str(error)) from None


def _check_overlaps(table: RouteTable, index: OwnerIndex) -> None:
    for one, other in overlapping_pairs(table.routes):
        _check_partial_overlap(one, other)
    for route in table.routes:
        addresses = index.index_of(route)
        for other in addresses.overlapping(route.upstream_template):
            _check_reach(table, addresses, route, other)


def _check_tricks(table: RouteTable, index: OwnerIndex) -> None:
    tricks = Tricks()
    examples: dict[int, list[str]] = {}
    for route in table.routes:
        path = example_path(route.upstream_template)
        examples.setdefault(path.count("/"), []).append(path)
    for route in [route for route in table.routes if not route.is_public]:
        protected, addresses = example_path(route.upstream_template), index.index_of(route)
        candidates = tricks.respellings(protected)
        for depth, others in examples.items():
            candidates += [
                trick(other, protected)
                for trick in tricks.combinations(depth, protected.count("/"))
                for other in others
            ]
        for path in candidates:
            _check_trick(table, addresses, path)


def overlapping_pairs(routes: Sequence[Route]) -> Iterator[tuple[Route, Route]]:
    """Yield the pairs of routes whose templates match a common path."""
    tree = PathTree()
    for route in routes:
        yield from ((route, other) for other in tree.overlapping(route.match.template))
        tree.add(route.match.template, route)


def _check_partial_overlap(one: Route, other: Route) -> None:
    """Where templates overlap and neither contains the other, access rules must be the same. Raises _Bypass."""
    if one.access == other.access or one.match.methods.isdisjoint(other.match.methods):
        return
    if one.match.hosts and other.match.hosts and one.match.hosts.isdisjoint(other.match.hosts):
        return
    first, second = one.match.template, other.match.template
    witness = common_path(first, second)
    if witness is None or first.contains(second) or second.contains(first):
        return
    taken, bypassed = (one, other) if first.precedence <= second.precedence else (other, one)
    raise _Bypass(taken, bypassed, witness)


def common_path(one: PathTemplate, other: PathTemplate) -> str | None:
    """Return a path that both templates match; None if there is none."""
    segments: list[str] = []
    for mine, theirs in zip_longest(one.segments, other.segments, fillvalue=""):
        # "" is beyond a template's end, where only a tail matches.
        if (mine == "" and not one.tail) or (theirs == "" and not other.tail):
            return None
        literals = {segment for segment in (mine, theirs) if segment}
        if len(literals) > 1:
            return None
        segments.append(literals.pop() if literals else EXAMPLE)
    shorter, longer = sorted((len(one.segments), len(other.segments)))
    if one.tail or other.tail:
        # A tail matches at least one segment.
        minimums = [len(each.segments) + 1 for each in (one, other) if each.tail]
        exact = [len(each.segments) for each in (one, other) if not each.tail]
        while len(segments) < max(minimums):
            if exact:
                return None
            segments.append(EXAMPLE)
    elif shorter != longer:
        return None
    return "/" + "/".join(segments)


def _check_reach(table: RouteTable, index: AddressIndex, route: Route, other: Route) -> None:
    """Reject a route to upstream paths of a stricter one, unless it is an exception to that. Raises _Bypass."""
    mine, theirs = route.upstream_template, other.upstream_template
    if route.implies_access_to(other) or route.match.methods.isdisjoint(other.match.methods):
        return
    if theirs.contains(mine) and mine.shape != theirs.shape:
        return
    shared = common_path(mine, theirs)
    if shared is None:
        return
    # A more specific route may own the shortest common path, but not the longer ones.
    for path in (shared, f"{shared}/{EXAMPLE}", f"{shared}/{EXAMPLE}/{EXAMPLE}"):
        if not mine.matches(segments := tuple(path[1:].split("/"))) or not theirs.matches(segments):
            return
        if any(each is other for each in index.owners(path.encode())) or not mine.contains(theirs):
            for method in route.match.methods & other.match.methods:
                if request := _request_for(table, route, method, path):
                    raise _Bypass(route, other, request)


def _check_trick(table: RouteTable, index: AddressIndex, path: str) -> None:
    """Try all routes with a path that may be interpreted as a protected one. Raises _Bypass."""
    raw = on_the_wire(path)
    segments = tuple(raw.decode("latin-1")[1:].split("/"))
    for route in index.overlapping(PathTemplate(segments, tail=False)):
        if not route.upstream_template.matches(segments):
            continue
        for method in route.match.methods:
            if _request_for(table, route, method, path) is None:
                continue
            for owner in _owners(index, method, interpretations(path)):
                if not route.implies_access_to(owner):
                    raise _Bypass(route, owner, path)


def _owners(index: AddressIndex, method: str, candidates: set[str]) -> Iterator[Route]:
    for path in sorted(candidates):
        try:
            owners = index.owners(on_the_wire(path))
        except AmbiguousPath:
            continue
        yield from (owner for owner in owners if method in owner.match.methods)


def _request_for(table: RouteTable, route: Route, method: str, path: str) -> str | None:
    """Describe a request that takes a route and reaches an upstream path; None if there is none."""
    try:
        sent = _before_rewrite(route, on_the_wire(path).decode("latin-1")).encode("latin-1")
    except AmbiguousPath:
        return None
    fields = [(name.lower().encode(), value.encode()) for name, value in route.match.headers.items()]
    # A route for any host is found with a host that no route names.
    for host in sorted(route.match.hosts) or [""]:
        name = host.replace("*", EXAMPLE)
        try:
            found = table.find(method, name.encode(), sent, fields)
        except (AmbiguousPath, NoRoute, DuplicateField, WrongMethod):
            continue
        if found is route:
            request = sent.decode("latin-1") + (f" as {path}" if route.rewrite is not None else "")
            conditions = {"Host": name, **route.match.headers} if name else route.match.headers
            return " with ".join([request, *(f"{header}: {value}" for header, value in conditions.items())])
    return None


def _before_rewrite(route: Route, path: str) -> str:
    """Return the path of the request that a route rewrites to this one. Raises AmbiguousPath."""
    if route.rewrite is None:
        return path
    kept = {f"{{{name}}}" for name in paths.parameters(route.rewrite)}
    dropped = {f"{{{name}}}" for name in paths.parameters(route.match.path)} - kept
    target = "/".join(EXAMPLE if part in dropped else part for part in route.match.path.split("/"))
    return paths.rewrite(tuple(path[1:].split("/")), route.rewrite, target).decode()


def example_path(template: PathTemplate) -> str:
    segments = [segment or EXAMPLE for segment in template.segments]
    return "/" + "/".join([*segments, EXAMPLE] if template.tail else segments)
