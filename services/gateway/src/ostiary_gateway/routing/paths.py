"""Request paths: one canonical form, which is what is matched and what the upstream gets.

Gateways are bypassed with paths that they read in one way and the service behind them in another. So

- spellings with one meaning get one spelling (RFC 3986 section 6.2.2): escapes of unreserved characters are decoded,
  others get upper-case digits, and characters that clients send as they are, but that no path may have, are escaped;
- characters that can have two meanings are `specials`: a route allows them with `allows_encoded`, or they are refused;
- what has no meaning (dot segments, control characters, invalid escapes and UTF-8) is refused.

What services may take a canonical path for besides is the subject of `readings`.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final
from unicodedata import normalize
from urllib.parse import quote, unquote, unquote_to_bytes

#: Bytes of a path: URIs of 8000 are to be supported (RFC 9110 section 4.1). Longer ones have their length in the query.
MAX_PATH_BYTES: Final = 8192

#: Paths of which each cache keeps what it knows.
PATH_CACHE_SIZE: Final = 4096

#: The same where it takes much memory: the segments of a long path are 160 KB, its readings 300 KB.
_LARGE_CACHE_SIZE: Final = 64

#: Bytes of paths that are not long.
_MAX_SHORT_PATH: Final = 256

# RFC 3986 section 3.3, without ';', where some servers cut a segment, and without '.', where some drop it.
_CHARS = r"A-Za-z0-9_~!$&'()*+,=:@\-"

#: What is canonical at first sight: no escapes, no empty segment but the last one, none that ends with a dot.
_PLAIN = re.compile(rf"(?=/)(?:/[{_CHARS}.]*[{_CHARS}])*/?\Z".encode())

# What is canonical at second sight: with escapes that have to be there, in upper case. Its length makes it worth while.
_NORMAL = re.compile(
    rf"[{_CHARS}./;]*(?:%(?:2[0-9A-CF]|3[A-F]|40|5[B-E]|60|7[B-D]|[89A-F][0-9A-F])[{_CHARS}./;]*)*\Z".encode()
)

# What may not stay as it is: escapes, and characters that no path may have.
_UNIT = re.compile(rf"%([0-9A-Fa-f]{{2}})|([^{_CHARS}./;])".encode(), re.DOTALL)
_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_CONTROLS = frozenset([*range(0x20), 0x7F])
_ALWAYS_ESCAPED_RAW = frozenset(b'"<>[]^`{|}\\') | frozenset(range(0x80, 0x100))

# Characters that mean the same as their escapes to services that decode a path before they look at it.
_RESERVED_ESCAPE = re.compile("%(21|24|26|27|28|29|2A|2B|2C|3A|3D|40)")

#: Characters with two meanings, by their spelling in canonical paths.
_SPECIALS = {"%2F": "/", "%5C": "\\", "%23": "#", "%3F": "?", "%25": "%", "%3B": ";", ";": ";"}
_SPECIAL = re.compile("|".join(_SPECIALS))

# Invisible characters: those of the category Cf, fillers and variation selectors.
_INVISIBLE = re.compile(
    "[\u00ad\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff"
    "\ufff9-\ufffb\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e007f"
    "\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)

#: Ways to read one path, and characters of all of them. Paths of people have two or three ways; more is an attack, and
#: costs time.
_MAX_READINGS = 64
_MAX_READ_CHARACTERS = 2 * MAX_PATH_BYTES


class InvalidPath(Exception):
    """A path that no route takes. The message tells a client what is wrong, and what to send instead.

    InvalidPath
    ├── AmbiguousPath
    ├── EncodedCharacter
    └── PathTooLong
    """


class AmbiguousPath(InvalidPath):
    """A path with more than one interpretation, or with none."""


class PathTooLong(InvalidPath):
    """A path with more than MAX_PATH_BYTES bytes."""

    def __init__(self) -> None:
        super().__init__(f"The path is too long: send at most {MAX_PATH_BYTES} bytes.")


class EncodedCharacter(InvalidPath):
    """A path with a character of two meanings, which its route does not allow."""

    def __init__(self, character: str) -> None:
        escape = quote(character, "")
        # Where these stand as they are, they have one meaning.
        unescaped = "" if character in {"/", "?", "#", "%"} else f"'{character}' or "
        what = "an empty segment, '//'" if character == "//" else f"{unescaped}the escape '{escape}'"
        super().__init__(
            f"The path has {what}, which services may read in two ways: send a path without it, or list"
            f" '{character}' in 'allows_encoded' of its route."
        )
        self.character = character


@dataclass(frozen=True, slots=True)
class CanonicalPath:
    """A path in its canonical form."""

    #: What the upstream gets.
    raw: bytes
    #: What templates match: escapes of reserved characters, such as '@', are decoded, all others are not.
    segments: tuple[str, ...]
    #: The characters in it that routes must allow.
    specials: frozenset[str]


_NO_SPECIALS: frozenset[str] = frozenset()


def canonicalise(raw: bytes) -> CanonicalPath:
    """Return the canonical form of a request's path. Raises InvalidPath."""
    return _canonicalise_short(raw) if len(raw) <= _MAX_SHORT_PATH else _canonicalise_long(raw)


def _canonicalise(raw: bytes) -> CanonicalPath:
    if len(raw) > MAX_PATH_BYTES:
        raise PathTooLong
    if _PLAIN.match(raw) is not None:
        return CanonicalPath(raw, tuple(raw.decode("ascii")[1:].split("/")), _NO_SPECIALS)
    if not raw.startswith(b"/"):
        raise AmbiguousPath("The path does not start with '/'.")
    path = normalise_text(raw)
    if len(path) > MAX_PATH_BYTES:
        raise PathTooLong
    segments = path[1:].split("/")
    specials = specials_of(path)
    if "" in segments[:-1]:
        specials.add("//")
    for position, segment in enumerate(segments, 1):
        specials |= _forms_of_separators(segment, position)
    return CanonicalPath(path.encode(), tuple(matched(each) for each in segments), frozenset(specials))


_canonicalise_short = lru_cache(PATH_CACHE_SIZE)(_canonicalise)
_canonicalise_long = lru_cache(_LARGE_CACHE_SIZE)(_canonicalise)


def normalise_text(raw: bytes) -> str:
    """Return the canonical form of a path, or of a part of one. Raises AmbiguousPath."""
    return (raw if _NORMAL.match(raw) is not None else _UNIT.sub(_normalise_unit, raw)).decode("ascii")


def _normalise_unit(match: re.Match[bytes]) -> bytes:
    if match[1] is None:
        byte = match[2][0]
        if byte not in _ALWAYS_ESCAPED_RAW:
            raise AmbiguousPath(_character_error(raw=match.string[match.start() : match.start() + 3]))
        return b"%%%02X" % byte
    byte = int(match[1], 16)
    if byte in _CONTROLS:
        raise AmbiguousPath(f"The path has the escape '%{byte:02X}', a control character: send a path without it.")
    return bytes([byte]) if byte in _UNRESERVED else b"%%%02X" % byte


def _character_error(raw: bytes) -> str:
    byte = raw[0]
    if byte == ord("%"):
        found = raw.decode("latin-1")
        return f"The path has the invalid escape '{found}': send '%' and two hexadecimal digits."
    if byte == ord(" "):
        return "The path has a space: send it as '%20'."
    quoted = f"'{chr(byte)}'" if byte not in _CONTROLS else f"0x{byte:02X}"
    return f"The path has the character {quoted}: send a path without it."


def specials_of(text: str) -> set[str]:
    """Return the characters with two meanings in a canonical path, or in a part of one."""
    return {_SPECIALS[each] for each in _SPECIAL.findall(text)}


def matched(segment: str) -> str:
    """Return a segment as templates match it."""
    return _RESERVED_ESCAPE.sub(_decode, segment) if "%" in segment else segment


def _decode(match: re.Match[str]) -> str:
    return chr(int(match[1], 16))


def _forms_of_separators(segment: str, position: int) -> set[str]:
    """Return the separators that a segment has to lenient services in other forms. Raises AmbiguousPath.

    Some read compatibility forms (NFKC) as the plain characters, such as a fullwidth full stop or slash, and ignore
    what cannot be seen. To some, a segment of dots and spaces is a dot segment.
    """
    if not segment:
        return set()
    text = decoded(segment)
    plain = plain_text(text)
    if is_dots(plain):
        raise AmbiguousPath(
            f"Segment {position} of the path is a dot segment, or one to some services: send the path that it leads"
            " to (RFC 3986 section 5.2.4)."
        )
    return {each for each in ("/", "\\") if each in plain and each not in text}


def decoded(segment: str) -> str:
    """Return a segment, or a part of one, without escapes. Raises AmbiguousPath."""
    if "%" not in segment:
        return segment
    try:
        return unquote_to_bytes(segment).decode()
    except UnicodeDecodeError:
        raise AmbiguousPath("The path is not valid UTF-8 when decoded: send percent-encoded UTF-8.") from None


def is_dots(plain: str) -> bool:
    """Return whether a segment has nothing but dots and spaces."""
    return not "".join(plain.split()).rstrip(".")


def plain_text(text: str) -> str:
    """Return a text as lenient services see it: in compatibility form (NFKC), without invisible characters."""
    if text.isascii():
        return text
    return normalize("NFKC", _INVISIBLE.sub("", text))


def fold_text(text: str, *, ignores_case: bool) -> str:
    """Return a part of a segment as lenient services see it: decoded and plain, its '%' encoded."""
    plain = plain_text(unquote(text)).replace("%", "%25")
    # Java's comparison takes the two letters of Turkish for "i" as well.
    return plain.casefold().replace("i\u0307", "i").replace("\u0131", "i") if ignores_case else plain


def fold(segment: str, *, ignores_case: bool) -> str:
    """Return a segment as lenient services see it: also without the spaces and dots that file systems drop."""
    return strip_end(fold_text(segment, ignores_case=ignores_case).lstrip())


def strip_end(text: str) -> str:
    """Drop dots and spaces at the end."""
    while (shorter := text.rstrip().rstrip(".")) != text:
        text = shorter
    return text


# Ways to read a path with special characters.


def _without_parameters(path: str) -> str:
    return re.sub(r";[^/]*", "", path)


def _without_last_parameters(path: str) -> str:
    return re.sub(r";[^/;]*\Z", "", path)


def _without_authority(path: str) -> str:
    """Drop what some take for a host: the beginning of a reference such as `//host/path` (RFC 3986 section 4.2)."""
    return re.sub(r"\A//[^/]*", "", path) or "/"


def _cut(path: str) -> str:
    return re.split(r"[?#]", path, maxsplit=1)[0]


def _merged(path: str) -> str:
    return re.sub(r"/+", "/", path)


def _with_slashes(path: str) -> str:
    return path.replace("\\", "/")


def _unquoted(path: str) -> str:
    return unquote(path, errors="surrogateescape")


_STEPS: tuple[Callable[[str], str], ...] = (
    _unquoted,
    _cut,
    _without_authority,
    _without_parameters,
    _without_last_parameters,
    _with_slashes,
    _merged,
    plain_text,
)


_CONTROL = re.compile("[\x00-\x1f\x7f]")

# Segments that may be dot segments, as they have no letter or digit.
_DOUBTFUL = re.compile("(?<=/)[^A-Za-z0-9/]+(?=/|\\Z)")


@lru_cache(_LARGE_CACHE_SIZE)
def readings(path: bytes) -> frozenset[tuple[str, ...]]:
    """Return what services may take a canonical path for, as segments. Raises AmbiguousPath.

    Services decode once or twice, before or after they split it; they take a backslash for a slash, drop empty
    segments, and end a segment at ';' or the path at '?' and '#', in any order.
    """
    found = {path.decode()}
    latest = found
    while latest:
        latest = {step(each) for each in latest for step in _STEPS} - found
        found |= latest
        if len(found) > _MAX_READINGS or sum(map(len, found)) > _MAX_READ_CHARACTERS:
            raise AmbiguousPath("The path is encoded several times, or in too many ways: send it encoded once.")
    for each in found:
        if _CONTROL.search(each) is not None:
            raise AmbiguousPath("The path has a control character when decoded: send a path without it.")
        if any(is_dots(plain_text(segment)) for segment in _DOUBTFUL.findall(each)):
            raise AmbiguousPath("The path has a dot segment when decoded: send the path that it leads to.")
    return frozenset(tuple(each[1:].split("/")) for each in found if each.startswith("/"))
