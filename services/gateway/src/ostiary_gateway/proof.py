"""Proof before serving: that no public rule of a routes file reaches a path that another rule protects.

Services read paths in their own ways: they decode once more, resolve dots, cut at a semicolon. So each public rule is
tried with paths that some of them would take for a protected one; whatever is let through by a public rule must not be
readable as what a protected rule of the same upstream guards. And where two rules cross, so that it takes a
closer look to say which one decides, they must ask for the same.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import zip_longest
from posixpath import normpath
from urllib.parse import unquote

from ostiary_gateway import paths
from ostiary_gateway.paths import AmbiguousPath, PathTemplate
from ostiary_gateway.routes_file import Mistake, Route, RoutesFile
from ostiary_gateway.routing import NoRoute, RouteTable, WrongMethod

#: What stands for a parameter.
_EXAMPLE = "x"

#: Ways to write that a path goes up, or that a segment ends, which some take for one and some do not.
_UP = ("..", "%2e%2e", "%2E%2E", ".%2e", "%2e.", "%252e%252e", "..;", "..%00", ".. ", "%2e%2e;x")
_SEPARATORS = ("/", "%2f", "%2F", "//", "/./", "\\", "%5c", "%5C", "%252f", "/;/", ";/")
_ENDS = ("", "/", "//", "/.", "%20", "%00", "%23", "#", "?", "%3f", ";", ";x=1", ".", "%09", "%0a")


class _Reached(Exception):
    def __init__(self, route: Route, other: Route, path: str) -> None:
        super().__init__(f"lets {path} through, which is a path that route '{other.name}' protects in another way")
        self.route = route


def prove(file: RoutesFile) -> None:
    """See that no rule of a file can be got around. Raises Mistake."""
    table = RouteTable(file.routes)
    try:
        _prove(table)
    except _Reached as error:
        raise Mistake(("routes", table.routes.index(error.route)), str(error)) from None


def _prove(table: RouteTable) -> None:
    for one, other in that_may_meet(table.routes):
        _check_crossing(one, other)
    # With what all its paths begin with.
    public = [
        (route, example(route.match.template), f"/{next(iter(route.match.template.segments), None) or ''}")
        for route in table.routes
        if route.access == "public"
    ]
    tricks = Tricks()
    for guard in table.routes:
        if guard.access == "public":
            continue
        protected = example(guard.match.template)
        alone = tricks.alone(protected)
        for route, its_example, beginning in public:
            if not route.upstreams.keys().isdisjoint(guard.upstreams):
                for path in (*alone, *tricks.together(its_example, protected)):
                    if path.startswith(beginning):
                        _check_trick(table, route, guard, path)


def that_may_meet(routes: Sequence[Route]) -> Iterator[tuple[Route, Route]]:
    """Yield pairs of routes, but for those whose paths begin with different words."""
    first_words = [next(iter(route.match.template.segments), None) for route in routes]
    positions: dict[str | None, list[int]] = {}
    for position, word in enumerate(first_words):
        positions.setdefault(word, []).append(position)
    for position, word in enumerate(first_words):
        near = range(position) if word is None else [*positions[word], *positions.get(None, ())]
        yield from ((routes[position], routes[other]) for other in near if other < position)


def _check_crossing(one: Route, other: Route) -> None:
    """Where neither rule is an exception to the other, they must ask for the same. Raises _Reached."""
    if one.access == other.access or one.match.methods.isdisjoint(other.match.methods):
        return
    if one.match.hosts and other.match.hosts and one.match.hosts.isdisjoint(other.match.hosts):
        return
    first, second = one.match.template, other.match.template
    witness = common_path(first, second)
    if witness is None or contains(first, second) or contains(second, first):
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


def contains(wide: PathTemplate, narrow: PathTemplate) -> bool:
    """Return whether all paths of one template fit another one."""
    if narrow.tail and not wide.tail:
        return False
    if wide.tail:
        if len(narrow.segments) + narrow.tail < len(wide.segments) + 1:
            return False
    elif len(wide.segments) != len(narrow.segments):
        return False
    pairs = zip(wide.segments, narrow.segments, strict=False)
    return all(mine is None or mine == yours for mine, yours in pairs)


def _check_trick(table: RouteTable, public: Route, guard: Route, path: str) -> None:
    """Try a public rule with a path that may be read as a protected one's. Raises _Reached."""
    for method in guard.match.methods & public.match.methods:
        if _route(table, method, path) is public:
            for reading in readings(path):
                found = _route(table, method, reading)
                if found is not None and found.access != "public":
                    raise _Reached(public, found, path)


def _route(table: RouteTable, method: str, path: str) -> Route | None:
    try:
        return table.find(method, b"", _on_the_wire(path), [])
    except (AmbiguousPath, NoRoute, WrongMethod):
        return None


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
        alone, _ = self._that_are_accepted("/x", protected)
        return [trick("", protected) for trick in (*alone, *_BY_LETTER)]

    def together(self, public: str, protected: str) -> list[str]:
        """Return paths with a public one in them."""
        _, together = self._that_are_accepted(public, protected)
        return [trick(public, protected) for trick in together]

    def _that_are_accepted(self, public: str, protected: str) -> tuple[tuple[Trick, ...], tuple[Trick, ...]]:
        depths = public.count("/"), protected.count("/")
        if depths not in self._accepted:
            made = [f"/{'/'.join([_EXAMPLE] * depth)}" for depth in depths]
            self._accepted[depths] = (
                tuple(trick for trick in _ALONE if _is_accepted(trick(*made))),
                tuple(trick for trick in _TOGETHER if _is_accepted(trick(*made))),
            )
        return self._accepted[depths]


def _is_accepted(path: str) -> bool:
    try:
        paths.split(_on_the_wire(path))
    except AmbiguousPath:
        return False
    return True


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
