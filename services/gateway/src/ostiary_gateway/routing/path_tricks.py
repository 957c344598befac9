"""Paths that some services read as another path, and what they read."""

import re
from collections.abc import Callable
from functools import partial
from posixpath import normpath
from urllib.parse import unquote

from ostiary_gateway.routing import paths
from ostiary_gateway.routing.paths import AmbiguousPath

#: What stands for a parameter.
EXAMPLE = "x"

#: Ways to write that a path goes up, or that a segment ends, which some take for one and some do not.
_UP = ("..", "%2e%2e", "%2E%2E", ".%2e", "%2e.", "%252e%252e", "..;", "..%00", ".. ", "%2e%2e;x")
_SEPARATORS = ("/", "%2f", "%2F", "//", "/./", "\\", "%5c", "%5C", "%252f", "/;/", ";/")
_ENDS = ("", "/", "//", "/.", "%20", "%00", "%23", "#", "?", "%3f", ";", ";x=1", ".", "%09", "%0a")

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
            made = [f"/{'/'.join([EXAMPLE] * depth)}" for depth in depths]
            self._accepted[depths] = (
                tuple(trick for trick in _ALONE if _may_deceive(trick(*made))),
                tuple(trick for trick in _TOGETHER if _may_deceive(trick(*made))),
            )
        return self._accepted[depths]


def _may_deceive(path: str) -> bool:
    """Return whether anybody can send a path that somebody takes for another one."""
    sent = on_the_wire(path)
    try:
        paths.split(sent)
    except AmbiguousPath:
        return False
    return readings(sent.decode("latin-1")) != {sent.decode("latin-1")}


def on_the_wire(path: str) -> bytes:
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
