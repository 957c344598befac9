"""Paths that some services interpret as another path, and how they interpret them."""

import re
from collections.abc import Callable
from functools import partial
from posixpath import normpath
from urllib.parse import unquote

from ostiary_gateway.routing import paths
from ostiary_gateway.routing.paths import AmbiguousPath

#: Value of parameters in example paths.
EXAMPLE = "x"

# Spellings of parent segments, separators and endings that only some services recognise.
_PARENTS = ("..", "%2e%2e", "%2E%2E", ".%2e", "%2e.", "%252e%252e", "..;", "..%00", ".. ", "%2e%2e;x")
_SEPARATORS = ("/", "%2f", "%2F", "//", "/./", "\\", "%5c", "%5C", "%252f", "/;/", ";/")
_ENDINGS = ("", "/", "//", "/.", "%20", "%00", "%23", "#", "?", "%3f", ";", ";x=1", ".", "%09", "%0a")

#: Makes a path from a public and a protected one.
Trick = Callable[[str, str], str]


def _climb(parent: str, separator: str, public: str, protected: str) -> str:
    """Start with the public path and go up from there."""
    return public + separator + separator.join([parent] * public.count("/")) + protected


def _climb_to(parent: str, separator: str, public: str, protected: str) -> str:
    return public + separator + separator.join([parent] * public.count("/")) + separator + protected[1:]


def _start_with(separator: str, _: str, protected: str) -> str:
    return separator + protected[1:]


def _separate_by(separator: str, _: str, protected: str) -> str:
    return protected.replace("/", separator)


def _separate_rest_by(separator: str, _: str, protected: str) -> str:
    return "/" + protected[1:].replace("/", separator)


def _end_with(ending: str, _: str, protected: str) -> str:
    return protected + ending


def _append_after(ending: str, public: str, protected: str) -> str:
    return protected + ending + public


def _escape(form: str, _: str, protected: str) -> str:
    return "/" + "".join(form % ord(letter) if letter != "/" else letter for letter in protected[1:])


# Tricks that change the spelling of the protected path alone.
_RESPELLINGS: tuple[Trick, ...] = (
    *(partial(way, each) for each in _SEPARATORS for way in (_start_with, _separate_by, _separate_rest_by)),
    *(partial(_end_with, ending) for ending in _ENDINGS),
)

# The same, but whether the result is accepted depends on the letters.
_ESCAPED: tuple[Trick, ...] = (partial(_escape, "%%%02x"), partial(_escape, "%%%02X"))

# Tricks that combine the public with the protected path.
_COMBINATIONS: tuple[Trick, ...] = (
    *(partial(way, up, each) for up in _PARENTS for each in _SEPARATORS for way in (_climb, _climb_to)),
    *(partial(_append_after, ending) for ending in _ENDINGS),
)


class Tricks:
    """Tricks whose results the gateway's path syntax accepts.

    Whether it does depends on the number of segments and not on the literals in them, and is worked out once for each
    number: files may have thousands of routes.
    """

    def __init__(self) -> None:
        self._accepted: dict[tuple[int, int], tuple[tuple[Trick, ...], tuple[Trick, ...]]] = {}

    def respellings(self, protected: str) -> list[str]:
        """Return other spellings of a protected path."""
        respellings, _ = self._accepted_for(1, protected.count("/"))
        return [trick("", protected) for trick in (*respellings, *_ESCAPED)]

    def combinations(self, public_depth: int, protected_depth: int) -> tuple[Trick, ...]:
        """Return the tricks that combine paths of so many segments."""
        return self._accepted_for(public_depth, protected_depth)[1]

    def _accepted_for(self, public_depth: int, protected_depth: int) -> tuple[tuple[Trick, ...], tuple[Trick, ...]]:
        depths = public_depth, protected_depth
        if depths not in self._accepted:
            examples = [f"/{'/'.join([EXAMPLE] * depth)}" for depth in depths]
            self._accepted[depths] = (
                tuple(trick for trick in _RESPELLINGS if _is_accepted_and_ambiguous(trick(*examples))),
                tuple(trick for trick in _COMBINATIONS if _is_accepted_and_ambiguous(trick(*examples))),
            )
        return self._accepted[depths]


def _is_accepted_and_ambiguous(path: str) -> bool:
    sent = on_the_wire(path)
    try:
        paths.split(sent)
    except AmbiguousPath:
        return False
    return interpretations(sent.decode("latin-1")) != {sent.decode("latin-1")}


def on_the_wire(path: str) -> bytes:
    return path.encode("latin-1", "replace").partition(b"?")[0]


def interpretations(path: str) -> set[str]:
    """Return the paths that services may take a path for. Trailing dots, which Windows drops, are not considered."""
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
