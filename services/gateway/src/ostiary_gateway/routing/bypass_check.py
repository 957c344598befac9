"""Proof before serving: that no rule of a routes file reaches a path that another rule protects better.

A service sees the path that it gets, and neither host nor header fields: so each rule is tried with paths that it may
turn into those of another one at the same address, with each host and the header fields that it is for.

And services read paths in their own ways: they decode once more, resolve dots, cut at a semicolon. So each rule is
tried with paths that some of them would take for a protected one; whatever is let through must not be readable as what
another rule guards. And where two rules cross, so that it takes a closer look to say which one decides, they must ask
for the same.
"""

from collections.abc import Iterator, Sequence
from itertools import zip_longest

from ostiary_gateway.http1 import headers
from ostiary_gateway.routing import paths
from ostiary_gateway.routing.config import Route, RoutesFile
from ostiary_gateway.routing.loader import Mistake
from ostiary_gateway.routing.overlap import Guards, Space
from ostiary_gateway.routing.path_tricks import EXAMPLE, Tricks, on_the_wire, readings
from ostiary_gateway.routing.paths import AmbiguousPath, PathTemplate
from ostiary_gateway.routing.table import NoRoute, PathTree, RepeatedField, RouteTable, WrongMethod


class _Reached(Exception):
    def __init__(self, route: Route, other: Route, sent: str) -> None:
        super().__init__(f"lets {sent} through, which is a path that route '{other.name}' protects in another way")
        self.route = route


def prove(file: RoutesFile) -> None:
    """See that no rule of a file can be got around. Raises Mistake."""
    table, guards = RouteTable(file.routes), Guards(file)
    for index, route in enumerate(table.routes):
        for name in route.match.headers:
            if not headers.passes_to_upstream(name.lower().encode()):
                location = ("routes", index, "match", "headers", name)
                raise Mistake(location, "the gateway does not pass this field on, and so it tells no routes apart")
    try:
        _prove(table, guards)
    except _Reached as error:
        raise Mistake(("routes", table.routes.index(error.route)), str(error)) from None


def _prove(table: RouteTable, guards: Guards) -> None:
    for one, other in that_may_meet(table.routes):
        _check_crossing(one, other)
    for route in table.routes:
        space = guards.space(route)
        for other in space.meeting(route.target):
            _check_reach(table, space, route, other)
    _try_tricks(table, guards)


def _try_tricks(table: RouteTable, guards: Guards) -> None:
    tricks = Tricks()
    examples: dict[int, list[str]] = {}
    for route in table.routes:
        path = example(route.target)
        examples.setdefault(path.count("/"), []).append(path)
    for guard in [route for route in table.routes if not route.is_public]:
        protected, space = example(guard.target), guards.space(guard)
        made = tricks.alone(protected)
        for depth, others in examples.items():
            made += [
                trick(other, protected) for trick in tricks.together(depth, protected.count("/")) for other in others
            ]
        for path in made:
            _check_trick(table, space, path)


def that_may_meet(routes: Sequence[Route]) -> Iterator[tuple[Route, Route]]:
    """Yield the pairs of routes whose templates share a path."""
    tree = PathTree()
    for route in routes:
        yield from ((route, other) for other in tree.meeting(route.match.template))
        tree.add(route.match.template, route)


def _check_crossing(one: Route, other: Route) -> None:
    """Where neither rule is an exception to the other, they must ask for the same. Raises _Reached."""
    if one.access == other.access or one.match.methods.isdisjoint(other.match.methods):
        return
    if one.match.hosts and other.match.hosts and one.match.hosts.isdisjoint(other.match.hosts):
        return
    first, second = one.match.template, other.match.template
    witness = common_path(first, second)
    if witness is None or first.contains(second) or second.contains(first):
        return
    decides, overruled = (one, other) if first.precedence <= second.precedence else (other, one)
    raise _Reached(decides, overruled, witness)


def common_path(one: PathTemplate, other: PathTemplate) -> str | None:
    """Return a path that fits both templates, if there is one."""
    segments: list[str] = []
    for mine, yours in zip_longest(one.segments, other.segments, fillvalue=""):
        # "" is what is beyond a template's end: a tail takes it, nothing else does.
        if (mine == "" and not one.tail) or (yours == "" and not other.tail):
            return None
        fixed = {segment for segment in (mine, yours) if segment}
        if len(fixed) > 1:
            return None
        segments.append(fixed.pop() if fixed else EXAMPLE)
    shorter, longer = sorted((len(one.segments), len(other.segments)))
    if one.tail or other.tail:
        # A tail takes one segment at least.
        needs = [len(each.segments) + 1 for each in (one, other) if each.tail]
        exact = [len(each.segments) for each in (one, other) if not each.tail]
        while len(segments) < max(needs):
            if exact:
                return None
            segments.append(EXAMPLE)
    elif shorter != longer:
        return None
    return "/" + "/".join(segments)


def _check_reach(table: RouteTable, space: Space, route: Route, other: Route) -> None:
    """See that a rule does not lead to what another one guards, unless it is an exception to that. Raises _Reached."""
    mine, theirs = route.target, other.target
    if route.suffices_for(other) or route.match.methods.isdisjoint(other.match.methods):
        return
    if theirs.contains(mine) and mine.shape != theirs.shape:
        return
    shared = common_path(mine, theirs)
    if shared is None:
        return
    # What is longer may be nobody else's where what is short is.
    for path in (shared, f"{shared}/{EXAMPLE}", f"{shared}/{EXAMPLE}/{EXAMPLE}"):
        if not mine.matches(segments := tuple(path[1:].split("/"))) or not theirs.matches(segments):
            return
        if any(each is other for each in space.owners(path.encode())) or not mine.contains(theirs):
            for method in route.match.methods & other.match.methods:
                if sent := _sent(table, route, method, path):
                    raise _Reached(route, other, sent)


def _check_trick(table: RouteTable, space: Space, path: str) -> None:
    """Try a path that may be read as a protected one with all rules that lead there. Raises _Reached."""
    raw = on_the_wire(path)
    segments = tuple(raw.decode("latin-1")[1:].split("/"))
    for route in space.meeting(PathTemplate(segments, tail=False)):
        if not route.target.matches(segments):
            continue
        for method in route.match.methods:
            if _sent(table, route, method, path) is None:
                continue
            for owner in _owners(space, method, readings(path)):
                if not route.suffices_for(owner):
                    raise _Reached(route, owner, path)


def _owners(space: Space, method: str, found: set[str]) -> Iterator[Route]:
    for reading in sorted(found):
        try:
            owners = space.owners(on_the_wire(reading))
        except AmbiguousPath:
            continue
        yield from (owner for owner in owners if method in owner.match.methods)


def _sent(table: RouteTable, route: Route, method: str, path: str) -> str | None:
    """Return a request that takes a route and gets to a path of its service, in words; None if there is none."""
    try:
        sent = _before(route, on_the_wire(path).decode("latin-1")).encode("latin-1")
    except AmbiguousPath:
        return None
    given = [(name.lower().encode(), value.encode()) for name, value in route.match.headers.items()]
    # Without hosts, a route is found for a host that nobody names, if it is for any.
    for host in sorted(route.match.hosts) or [""]:
        name = host.replace("*", EXAMPLE)
        try:
            found = table.find(method, name.encode(), sent, given)
        except (AmbiguousPath, NoRoute, RepeatedField, WrongMethod):
            continue
        if found is route:
            words = sent.decode("latin-1") + (f" as {path}" if route.rewrite is not None else "")
            conditions = {"Host": name, **route.match.headers} if name else route.match.headers
            return " with ".join([words, *(f"{header}: {value}" for header, value in conditions.items())])
    return None


def _before(route: Route, path: str) -> str:
    """Return the request's path of which a route makes this one. Raises AmbiguousPath."""
    if route.rewrite is None:
        return path
    kept = {f"{{{name}}}" for name in paths.parameters(route.rewrite)}
    dropped = {f"{{{name}}}" for name in paths.parameters(route.match.path)} - kept
    target = "/".join(EXAMPLE if part in dropped else part for part in route.match.path.split("/"))
    return paths.rewritten(tuple(path[1:].split("/")), route.rewrite, target).decode()


def example(template: PathTemplate) -> str:
    """Return a path that fits a template."""
    segments = [segment or EXAMPLE for segment in template.segments]
    return "/" + "/".join([*segments, EXAMPLE] if template.tail else segments)
