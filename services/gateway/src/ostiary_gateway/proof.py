"""Proof before serving: that no rule of a routes file reaches a path that another rule protects better.

A service sees the path that it gets, and neither host nor header fields: so each rule is tried with paths that it may
turn into those of another one at the same address, with each host and the header fields that it is for.

And services read paths in their own ways: they decode once more, resolve dots, cut at a semicolon. So each rule is
tried with paths that some of them would take for a protected one; whatever is let through must not be readable as what
another rule guards. And where two rules cross, so that it takes a closer look to say which one decides, they must ask
for the same.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import zip_longest
from posixpath import normpath
from urllib.parse import unquote

from ostiary_gateway import fields, paths
from ostiary_gateway.guards import Guards, Space
from ostiary_gateway.paths import AmbiguousPath, PathTemplate
from ostiary_gateway.routes_file import Mistake, Route, RoutesFile
from ostiary_gateway.routing import NoRoute, PathTree, RepeatedField, RouteTable, WrongMethod

#: What stands for a parameter.
_EXAMPLE = "x"

#: Ways to write that a path goes up, or that a segment ends, which some take for one and some do not.
_UP = ("..", "%2e%2e", "%2E%2E", ".%2e", "%2e.", "%252e%252e", "..;", "..%00", ".. ", "%2e%2e;x")
_SEPARATORS = ("/", "%2f", "%2F", "//", "/./", "\\", "%5c", "%5C", "%252f", "/;/", ";/")
_ENDS = ("", "/", "//", "/.", "%20", "%00", "%23", "#", "?", "%3f", ";", ";x=1", ".", "%09", "%0a")


class _Reached(Exception):
    def __init__(self, route: Route, other: Route, sent: str) -> None:
        super().__init__(f"lets {sent} through, which is a path that route '{other.name}' protects in another way")
        self.route = route


def prove(file: RoutesFile) -> None:
    """See that no rule of a file can be got around. Raises Mistake."""
    table, guards = RouteTable(file.routes), Guards(file)
    for index, route in enumerate(table.routes):
        for name in route.match.headers:
            if not fields.passes_to_upstream(name.lower().encode()):
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
        segments.append(fixed.pop() if fixed else _EXAMPLE)
    shorter, longer = sorted((len(one.segments), len(other.segments)))
    if one.tail or other.tail:
        # A tail takes one segment at least.
        needs = [len(each.segments) + 1 for each in (one, other) if each.tail]
        exact = [len(each.segments) for each in (one, other) if not each.tail]
        while len(segments) < max(needs):
            if exact:
                return None
            segments.append(_EXAMPLE)
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
    for path in (shared, f"{shared}/{_EXAMPLE}", f"{shared}/{_EXAMPLE}/{_EXAMPLE}"):
        if not mine.matches(segments := tuple(path[1:].split("/"))) or not theirs.matches(segments):
            return
        if any(each is other for each in space.owners(path.encode())) or not mine.contains(theirs):
            for method in route.match.methods & other.match.methods:
                if sent := _sent(table, route, method, path):
                    raise _Reached(route, other, sent)


def _check_trick(table: RouteTable, space: Space, path: str) -> None:
    """Try a path that may be read as a protected one with all rules that lead there. Raises _Reached."""
    raw = _on_the_wire(path)
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
            owners = space.owners(_on_the_wire(reading))
        except AmbiguousPath:
            continue
        yield from (owner for owner in owners if method in owner.match.methods)


def _sent(table: RouteTable, route: Route, method: str, path: str) -> str | None:
    """Return a request that takes a route and gets to a path of its service, in words; None if there is none."""
    try:
        sent = _before(route, _on_the_wire(path).decode("latin-1")).encode("latin-1")
    except AmbiguousPath:
        return None
    given = [(name.lower().encode(), value.encode()) for name, value in route.match.headers.items()]
    # Without hosts, a route is found for a host that nobody names, if it is for any.
    for host in sorted(route.match.hosts) or [""]:
        name = host.replace("*", _EXAMPLE)
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
    target = "/".join(_EXAMPLE if part in dropped else part for part in route.match.path.split("/"))
    return paths.rewritten(tuple(path[1:].split("/")), route.rewrite, target).decode()


def example(template: PathTemplate) -> str:
    """Return a path that fits a template."""
    segments = [segment or _EXAMPLE for segment in template.segments]
    return "/" + "/".join([*segments, _EXAMPLE] if template.tail else segments)


#: Makes a path of one that is public and one that is protected.
Trick = Callable[[str, str], str]


def _climb(up: str, separator: str, public: str, protected: str) -> str:
    """Begin as the public path, and go up from there."""
    return public + separator + separator.join([up] * public.count("/")) + protected


def _climb_to(up: str, separator: str, public: str, protected: str) -> str:
    return public + separator + separator.join([up] * public.count("/")) + separator + protected[1:]


def _begin_with(separator: str, _: str, protected: str) -> str:
    return separator + protected[1:]


def _separate_by(separator: str, _: str, protected: str) -> str:
    return protected.replace("/", separator)


def _separate_later_by(separator: str, _: str, protected: str) -> str:
    return "/" + protected[1:].replace("/", separator)


def _end_with(end: str, _: str, protected: str) -> str:
    return protected + end


def _go_on_after(end: str, public: str, protected: str) -> str:
    return protected + end + public


def _escape(form: str, _: str, protected: str) -> str:
    return "/" + "".join(form % ord(letter) if letter != "/" else letter for letter in protected[1:])


_ALONE: tuple[Trick, ...] = (
    *(partial(way, each) for each in _SEPARATORS for way in (_begin_with, _separate_by, _separate_later_by)),
    *(partial(_end_with, end) for end in _ENDS),
)
#: What becomes of these depends on the letters.
_BY_LETTER: tuple[Trick, ...] = (partial(_escape, "%%%02x"), partial(_escape, "%%%02X"))
_TOGETHER: tuple[Trick, ...] = (
    *(partial(way, up, each) for up in _UP for each in _SEPARATORS for way in (_climb, _climb_to)),
    *(partial(_go_on_after, end) for end in _ENDS),
)


class Tricks:
    """Paths that may be read as a protected one, without those that nobody can send.

    Whether a path is in the form that the gateway accepts depends on how its words are put together, and not on the
    words; so that is looked at once for all paths of as many words.
    """

    def __init__(self) -> None:
        """Nothing is looked at yet."""
        self._accepted: dict[tuple[int, int], tuple[tuple[Trick, ...], tuple[Trick, ...]]] = {}

    def alone(self, protected: str) -> list[str]:
        """Return spellings of a protected path."""
        alone, _ = self._that_are_accepted(1, protected.count("/"))
        return [trick("", protected) for trick in (*alone, *_BY_LETTER)]

    def together(self, public: int, protected: int) -> tuple[Trick, ...]:
        """Return what makes paths with a public one in them, of paths with so many words."""
        return self._that_are_accepted(public, protected)[1]

    def _that_are_accepted(self, public: int, protected: int) -> tuple[tuple[Trick, ...], tuple[Trick, ...]]:
        depths = public, protected
        if depths not in self._accepted:
            made = [f"/{'/'.join([_EXAMPLE] * depth)}" for depth in depths]
            self._accepted[depths] = (
                tuple(trick for trick in _ALONE if _may_deceive(trick(*made))),
                tuple(trick for trick in _TOGETHER if _may_deceive(trick(*made))),
            )
        return self._accepted[depths]


def _may_deceive(path: str) -> bool:
    """Return whether anybody can send a path that somebody takes for another one."""
    sent = _on_the_wire(path)
    try:
        paths.split(sent)
    except AmbiguousPath:
        return False
    return readings(sent.decode("latin-1")) != {sent.decode("latin-1")}


def _on_the_wire(path: str) -> bytes:
    return path.encode("latin-1", "replace").partition(b"?")[0]


def readings(path: str) -> set[str]:
    """Return what services may take a path for. That some on Windows forget a final dot is not among it."""
    found = {path}
    for _ in range(2):
        found |= {unquote(each, "latin-1") for each in found}
        found |= {re.split(r"[?#\x00]", each, maxsplit=1)[0] for each in found}
        found |= {re.sub(r";[^/]*", "", each) for each in found}
        found |= {each.replace("\\", "/") for each in found}
        found |= {re.sub(r"/+", "/", each) for each in found}
        found |= {normpath(each) for each in found if each.startswith("/")}
        found |= {each.rstrip("/") for each in found}
    return {each for each in found if each.startswith("/")}
