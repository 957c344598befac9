"""Proof before serving: that no public rule of a routes file reaches a path that another rule protects.

Services read paths in their own ways: they decode once more, resolve dots, cut at a semicolon. So each public rule is
tried with paths that some of them would take for a protected one; whatever is let through by a public rule must not be
readable as what a protected rule of the same upstream guards. And where two rules cross, so that it takes a
closer look to say which one decides, they must ask for the same.
"""

import re
from collections.abc import Iterator
from itertools import zip_longest
from posixpath import normpath
from urllib.parse import unquote

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
    public = [route for route in table.routes if route.access == "public"]
    protected = [route for route in table.routes if route.access != "public"]
    for one in table.routes:
        for other in table.routes:
            _check_crossing(one, other)
    for guard in protected:
        for each in public:
            if not each.upstreams.keys().isdisjoint(guard.upstreams):
                _check_tricks(table, each, guard)


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


def _check_tricks(table: RouteTable, public: Route, guard: Route) -> None:
    """Try a public rule with paths that may be read as a protected one's. Raises _Reached."""
    for path in tricks(example(public.match.template), example(guard.match.template)):
        for method in guard.match.methods & public.match.methods:
            if _route(table, method, path) is not public:
                continue
            for reading in readings(path):
                found = _route(table, method, reading)
                if found is not None and found.access != "public":
                    raise _Reached(public, found, path)


def _route(table: RouteTable, method: str, path: str) -> Route | None:
    try:
        return table.find(method, b"", path.encode("latin-1", "replace").partition(b"?")[0], [])
    except (AmbiguousPath, NoRoute, WrongMethod):
        return None


def example(template: PathTemplate) -> str:
    """Return a path that fits a template."""
    segments = [segment or _EXAMPLE for segment in template.segments]
    return "/" + "/".join([*segments, _EXAMPLE] if template.tail else segments)


def tricks(public: str, protected: str) -> Iterator[str]:
    """Return paths that begin as one and may be read as the other, and paths that may be read as the other anyway."""
    depth = public.count("/")
    for up in _UP:
        for separator in _SEPARATORS:
            climb = separator.join([up] * depth)
            yield f"{public}{separator}{climb}{protected}"
            yield f"{public}{separator}{climb}{separator}{protected[1:]}"
    for separator in _SEPARATORS:
        yield separator + protected[1:]
        yield protected.replace("/", separator)
        yield "/" + protected[1:].replace("/", separator)
    for end in _ENDS:
        yield protected + end
        yield f"{protected}{end}{public}"
    yield "/" + "".join(f"%{ord(letter):02x}" if letter != "/" else letter for letter in protected[1:])
    yield "/" + "".join(f"%{ord(letter):02X}" if letter != "/" else letter for letter in protected[1:])


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
