"""Request paths and path templates.

Gateways are bypassed with paths that they interpret in one way and the service behind them in another. So paths are
not normalised here: a path is forwarded as it came or, if it has more than one interpretation, rejected (RFC 3986
section 6).
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

# For the reasons of rejections: the first part of a path that does not match _SEGMENTS.
_INVALID = re.compile(rf"(?!{_PCHAR}|/|%[0-9A-F]{{2}})(?:%[0-9A-Fa-f]{{0,2}}|.)", re.DOTALL)

# Wildcards in the syntax of other gateways. As literal segments, they would protect nothing.
_FOREIGN_WILDCARD = re.compile(r":|<.*>\Z|.*\*")

# Escapes that are never needed (unreserved characters, section 2.3), or that turn into something
# else when decoded twice: separators, the escape character itself, and control characters.
_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_NOT_ENCODABLE = frozenset(b"/\\%;?#") | frozenset(range(0x20)) | {0x7F}
_REJECTED_ESCAPES = _UNRESERVED | _NOT_ENCODABLE

# Invisible characters outside of the category Cf: fillers and variation selectors.
_INVISIBLE = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]")


class AmbiguousPath(Exception):
    """A path with more than one interpretation. The message tells a client what is wrong, and what to send instead."""


@dataclass(frozen=True, slots=True)
class PathTemplate:
    """A path with parameters.

    A segment is a literal, or None for a parameter. A `tail` matches one or more further segments.
    """

    segments: tuple[str | None, ...]
    tail: bool

    @property
    def shape(self) -> tuple[tuple[str | None, ...], bool]:
        """Equal for templates that match the same paths."""
        return self.segments, self.tail

    @property
    def precedence(self) -> tuple[int, ...]:
        """Sort key: from the left, literals before parameters before tails."""
        return *(int(segment is None) for segment in self.segments), *([2] if self.tail else [])

    def matches(self, segments: tuple[str, ...]) -> bool:
        if self.tail:
            if len(segments) <= len(self.segments) or not segments[-1]:
                return False
        elif len(segments) != len(self.segments):
            return False
        pairs = zip(self.segments, segments, strict=False)
        return all(actual if wanted is None else wanted == actual for wanted, actual in pairs)

    def contains(self, other: "PathTemplate") -> bool:
        """Return whether this template matches all paths that the other one matches."""
        if other.tail and not self.tail:
            return False
        if self.tail:
            if len(other.segments) + other.tail < len(self.segments) + 1:
                return False
        elif len(self.segments) != len(other.segments):
            return False
        pairs = zip(self.segments, other.segments, strict=False)
        return all(mine is None or mine == theirs for mine, theirs in pairs)


def parse_template(text: str) -> PathTemplate:
    """Parse a template such as `/profiles/{id}` or `/files/{rest...}`. Raises ValueError."""
    if not text.startswith("/"):
        raise ValueError("a path must start with '/'")
    names = [name.removesuffix("...") for name in parameters(text)]
    if len(set(names)) != len(names):
        raise ValueError("duplicate parameter in path")
    parts = text[1:].split("/") if text != "/" else [""]
    segments: list[str | None] = []
    for position, part in enumerate(parts):
        parameter = _PARAMETER.match(part)
        if parameter and parameter[1]:
            if position != len(parts) - 1:
                raise ValueError(f"'{part}' is only allowed at the end of a path")
            return PathTemplate(tuple(segments), tail=True)
        if _FOREIGN_WILDCARD.match(part):
            raise ValueError(
                f"wildcard '{part}' is not supported: {{id}} matches one segment, {{rest...}} all remaining segments"
            )
        if not parameter and (part.endswith(".") or not (_LITERAL.match(part) or text == "/")):
            raise ValueError(f"'{part}' is neither a literal segment nor a parameter such as {{id}}")
        segments.append(None if parameter else part)
    return PathTemplate(tuple(segments), tail=False)


def parameters(text: str) -> tuple[str, ...]:
    """Return the names of a template's parameters; those of tails with their dots."""
    return tuple(part[1:-1] for part in text.split("/") if _PARAMETER.match(part))


def rewrite(segments: tuple[str, ...], template: str, target: str) -> bytes:
    """Fill the parameters of `target` from a path that matches `template`. Raises AmbiguousPath."""
    values: dict[str, tuple[str, ...]] = {}
    for position, part in enumerate(template[1:].split("/")):
        if _PARAMETER.match(part):
            values[part] = segments[position:] if part.endswith("...}") else (segments[position],)
    path = "".join(f"/{segment}" for part in target[1:].split("/") for segment in values.get(part, (part,))).encode()
    split(path)
    return path


def split(raw_path: bytes) -> tuple[str, ...]:
    """Split a request path into its segments, which stay percent-encoded. Raises AmbiguousPath."""
    path = raw_path.decode("latin-1")
    if len(path) > MAX_PATH_BYTES or _SEGMENTS.match(path) is None:
        raise AmbiguousPath(_syntax_error(path))
    for escape in _ESCAPE.findall(path):
        if int(escape, 16) in _REJECTED_ESCAPES:
            raise AmbiguousPath(_escape_error(escape))
    segments = tuple(path[1:].split("/"))
    if "" in segments[:-1]:
        raise AmbiguousPath("The path has an empty segment: send '/' instead of '//'.")
    for position, segment in enumerate(segments, 1):
        fault = _ambiguity(segment)
        if fault:
            raise AmbiguousPath(f"Segment {position} of the path {fault}.")
    return segments


def _syntax_error(path: str) -> str:
    if len(path) > MAX_PATH_BYTES:
        return f"The path is too long: send at most {MAX_PATH_BYTES} bytes."
    invalid = _INVALID.search(path)
    if not path.startswith("/") or invalid is None:
        return "The path does not start with '/'."
    found = invalid[0]
    if found.startswith("%"):
        return f"The path has the invalid escape '{found}': send '%' and two upper-case hexadecimal digits."
    byte = ord(found)
    if byte in _NOT_ENCODABLE:
        return f"The path has the character {_quoted(byte)}: send a path without it."
    if byte > 0x7F:  # noqa: PLR2004 - the end of ASCII
        return f"The path has the byte 0x{byte:02X}: send characters outside of ASCII as percent-encoded UTF-8."
    return f"The path has the character {_quoted(byte)}: send it as '%{byte:02X}'."


def _escape_error(escape: str) -> str:
    byte = int(escape, 16)
    if byte in _UNRESERVED:
        return f"The path has the escape '%{escape}': send {_quoted(byte)} instead."
    return f"The path has the escape '%{escape}': send a path without it."


def _quoted(byte: int) -> str:
    return f"'{chr(byte)}'" if 0x20 < byte < 0x7F else f"0x{byte:02X}"  # noqa: PLR2004 - printable ASCII


def _ambiguity(segment: str) -> str:
    """Return why some servers take a segment for another one, for several, or for none; "" if none does.

    Some drop trailing dots and spaces, some ignore invisible characters, and some read compatibility forms (NFKC) as
    the plain characters, such as a fullwidth full stop or slash.
    """
    if segment.endswith("."):
        return "ends with '.': remove dot segments and trailing dots"
    if "%" not in segment:
        return ""
    try:
        text = unquote(segment, errors="strict")
    except UnicodeDecodeError:
        return "is not valid UTF-8 when decoded: send percent-encoded UTF-8"
    return _lookalike(plain_text(text))


def _lookalike(plain: str) -> str:
    if plain != plain.strip():
        return "starts or ends with a space when decoded: remove it"
    if "/" in plain or "\\" in plain:
        return "has a form of '/' or '\\' when decoded: remove it"
    if not "".join(plain.split()).rstrip("."):
        return "has nothing but dots, spaces and invisible characters when decoded: remove it"
    return ""


def plain_text(text: str) -> str:
    """Return a text as lenient servers see it: in compatibility form (NFKC), without invisible characters."""
    return normalize("NFKC", "".join(letter for letter in _INVISIBLE.sub("", text) if category(letter) != "Cf"))
