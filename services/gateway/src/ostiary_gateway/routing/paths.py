"""Request paths: one canonical form is accepted, and what is matched is what is sent on.

Gateways are fooled by paths that they read in one way and the service behind them in another. So
nothing is rewritten here: a path that could be read in two ways is refused (RFC 3986 section 6).
"""

import re
from dataclasses import dataclass
from unicodedata import category, normalize
from urllib.parse import unquote

#: Bytes of a path.
MAX_PATH_BYTES = 4096

# RFC 3986 section 3.3, without ';': some servers cut a segment there.
_PCHAR = r"[A-Za-z0-9._~!$&'()*+,=:@-]"
_SEGMENTS = re.compile(rf"(?:/(?:{_PCHAR}|%[0-9A-F]{{2}})*)+\Z")
_LITERAL = re.compile(rf"{_PCHAR}+\Z")
_PARAMETER = re.compile(r"\{[a-z][a-z0-9_]*(\.\.\.)?\}\Z")
_ESCAPE = re.compile(r"%([0-9A-F]{2})")

# How other gateways write parameters and tails; taken for a word, it would guard nothing.
_FOREIGN = re.compile(r":|<.*>\Z|.*\*")

# Escapes that are never needed (unreserved characters, section 2.3) or that turn into something
# else when decoded once more: separators, the escape character itself, and control characters.
_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_REFUSED_ESCAPES = _UNRESERVED | frozenset(b"/\\%;?#") | frozenset(range(0x20)) | {0x7F}

# What is not seen besides the characters of the category for that (Cf): fillers, and variants of the one before.
_UNSEEN = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]")


class AmbiguousPath(Exception):
    """A path that could be read in more than one way."""


@dataclass(frozen=True, slots=True)
class PathTemplate:
    """A path with parameters. A segment is a literal, or None for a parameter; `tail` takes one or more segments."""

    segments: tuple[str | None, ...]
    tail: bool

    @property
    def shape(self) -> tuple[tuple[str | None, ...], bool]:
        """What two templates share that match the same paths."""
        return self.segments, self.tail

    @property
    def precedence(self) -> tuple[int, ...]:
        """Sort key: from the left, a literal goes before a parameter and that before a tail."""
        return *(int(segment is None) for segment in self.segments), *([2] if self.tail else [])

    def matches(self, segments: tuple[str, ...]) -> bool:
        """Return whether a path, cut into segments, fits."""
        if self.tail:
            if len(segments) <= len(self.segments) or not segments[-1]:
                return False
        elif len(segments) != len(self.segments):
            return False
        pairs = zip(self.segments, segments, strict=False)
        return all(actual if wanted is None else wanted == actual for wanted, actual in pairs)

    def contains(self, other: "PathTemplate") -> bool:
        """Return whether all paths of another template fit this one."""
        if other.tail and not self.tail:
            return False
        if self.tail:
            if len(other.segments) + other.tail < len(self.segments) + 1:
                return False
        elif len(self.segments) != len(other.segments):
            return False
        pairs = zip(self.segments, other.segments, strict=False)
        return all(mine is None or mine == yours for mine, yours in pairs)


def parse_template(text: str) -> PathTemplate:
    """Read a template such as `/profiles/{id}` or `/files/{rest...}`. Raises ValueError."""
    if not text.startswith("/"):
        raise ValueError("a path starts with '/'")
    names = [name.removesuffix("...") for name in parameters(text)]
    if len(set(names)) != len(names):
        raise ValueError("a parameter stands here twice")
    parts = text[1:].split("/") if text != "/" else [""]
    segments: list[str | None] = []
    for position, part in enumerate(parts):
        parameter = _PARAMETER.match(part)
        if parameter and parameter[1]:
            if position != len(parts) - 1:
                raise ValueError("'{name...}' stands only at the end")
            return PathTemplate(tuple(segments), tail=True)
        if _FOREIGN.match(part):
            raise ValueError(f"'{part}' is no pattern here: {{id}} takes a segment, {{rest...}} all that comes")
        if not parameter and (part.endswith(".") or not (_LITERAL.match(part) or text == "/")):
            raise ValueError(f"'{part}' is neither a plain segment nor a parameter such as {{id}}")
        segments.append(None if parameter else part)
    return PathTemplate(tuple(segments), tail=False)


def parameters(text: str) -> tuple[str, ...]:
    """Return the names of a template's parameters, `{name...}` with its dots."""
    return tuple(part[1:-1] for part in text.split("/") if _PARAMETER.match(part))


def rewritten(segments: tuple[str, ...], template: str, target: str) -> bytes:
    """Return the path that `target` makes of a path with the form of `template`. Raises AmbiguousPath."""
    values: dict[str, tuple[str, ...]] = {}
    for position, part in enumerate(template[1:].split("/")):
        if _PARAMETER.match(part):
            values[part] = segments[position:] if part.endswith("...}") else (segments[position],)
    path = "".join(f"/{segment}" for part in target[1:].split("/") for segment in values.get(part, (part,))).encode()
    split(path)
    return path


def split(raw_path: bytes) -> tuple[str, ...]:
    """Return the segments of a request path as they came. Raises AmbiguousPath."""
    path = raw_path.decode("latin-1")
    if len(path) > MAX_PATH_BYTES or _SEGMENTS.match(path) is None:
        raise AmbiguousPath
    if any(int(escape, 16) in _REFUSED_ESCAPES for escape in _ESCAPE.findall(path)):
        raise AmbiguousPath
    segments = tuple(path[1:].split("/"))
    if "" in segments[:-1] or any(_is_ambiguous(segment) for segment in segments):
        raise AmbiguousPath
    return segments


def _is_ambiguous(segment: str) -> bool:
    """Return whether somebody takes a segment for another one, for several, or for none.

    Some servers forget dots and spaces at an end, some characters that cannot be seen, and some read compatible forms
    (NFKC) as the plain ones, as of a full stop or a slash that is as wide as a Chinese character.
    """
    if segment.endswith("."):
        return True
    if "%" not in segment:
        return False
    try:
        text = unquote(segment, errors="strict")
    except UnicodeDecodeError:
        return True
    plain = seen(text)
    return plain != plain.strip() or "/" in plain or "\\" in plain or not "".join(plain.split()).rstrip(".")


def seen(text: str) -> str:
    """Return a text as who reads it loosely sees it: with plain characters alone, and all of them to be seen."""
    return normalize("NFKC", "".join(letter for letter in _UNSEEN.sub("", text) if category(letter) != "Cf"))
