"""Field lines (RFC 9112 section 5) and the options in `Connection` (RFC 9110 section 7.6.1).

Clients repeat most of their field lines in each request, so parsed lines are cached. Lines that may carry a secret are
not.
"""

import re

from ostiary_gateway.http1.bounded_cache import MAX_CACHED_BYTES, BoundedCache, is_short
from ostiary_gateway.http1.errors import BadMessage, TooLarge

#: Lower-case names and values, in the order of the message.
Fields = list[tuple[bytes, bytes]]

#: Field lines in a head or a trailer section. Browsers send about 20. Some services send many cookies or links.
MAX_FIELDS = 128
MAX_RESPONSE_FIELDS = 1024

#: Bytes of all `Connection` fields of a message. Few have more than 30.
MAX_CONNECTION_BYTES = 4096

#: Regular expressions of a token (RFC 9110 section 5.6.2) and of a field's value (section 5.5).
TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
VALUE = rb"[\t\x20-\x7e\x80-\xff]*"

_NAME = re.compile(TOKEN)

# The same bytes as in VALUE: no control characters but tabs.
_VALUE_BYTES = bytes([0x09, *range(0x20, 0x7F), *range(0x80, 0x100)])

_SINGLETONS = frozenset(
    {b"host", b"content-length", b"transfer-encoding", b"content-type", b"expect", b"origin", b"upgrade"}
)

#: Header fields and query parameters with such names may carry secrets.
SENSITIVE_NAMES = "auth|cookie|credential|key|token|secret|session|passw|sig|assertion|jwt"
_SECRET = re.compile(SENSITIVE_NAMES.encode())


def parse_fields(lines: list[bytes], limit: int = MAX_FIELDS) -> Fields:
    """Parse field lines, given without their CRLF. Raises BadMessage."""
    if len(lines) > limit:
        raise TooLarge("too many fields")
    return [_FIELDS[line] for line in lines]


def parse_field(line: bytes) -> tuple[bytes, bytes]:
    """Parse a field line into name and value. Raises BadMessage."""
    name, colon, value = line.partition(b":")
    # Deleting the allowed bytes is faster than a regular expression on long values.
    if not colon or value.translate(None, _VALUE_BYTES):
        raise BadMessage("invalid field line")
    return _NAMES[name], value.strip(b"\t ")


def parse_name(name: bytes) -> bytes:
    """Return the name in lower case. Raises BadMessage, also for space before the colon and for line folding."""
    if _NAME.fullmatch(name) is None:
        raise BadMessage("invalid field line")
    return name.lower()


def check_singletons(fields: Fields) -> None:
    """Raise BadMessage if a request's field occurs more than once that must not (RFC 9110 section 5.3)."""
    seen: set[bytes] = set()
    for name, _ in fields:
        if name in seen and name in _SINGLETONS:
            raise BadMessage(f"duplicate field {name.decode()}")
        seen.add(name)


def connection_options(fields: Fields) -> frozenset[bytes]:
    """Return the options in all `Connection` fields, in lower case. Raises TooLarge."""
    value = b",".join([value for name, value in fields if name == b"connection"])
    if len(value) > MAX_CONNECTION_BYTES:
        raise TooLarge("too many connection options")
    return _OPTIONS[value]


def parse_options(value: bytes) -> frozenset[bytes]:
    return frozenset(option.strip(b"\t ") for option in value.lower().split(b","))


def is_cacheable(field: tuple[bytes, bytes], _value: object = None) -> bool:
    """Whether a field may be a key or a value of a cache."""
    return len(field[0]) + len(field[1]) <= MAX_CACHED_BYTES and _SECRET.search(field[0]) is None


_NAMES = BoundedCache(parse_name, is_short)
_FIELDS = BoundedCache(parse_field, lambda line, field: is_short(line) and is_cacheable(field))
_OPTIONS = BoundedCache(parse_options, is_short)


def with_member(fields: Fields, name: bytes, member: bytes) -> Fields:
    """Return fields with a member in a list, unless it is there, or all that it could say is (RFC 9110 section 12.5.5).

    In one line: some caches read no more.
    """
    value = b", ".join([value for each, value in fields if each == name and value])
    if not {b"*", member.lower()}.isdisjoint([each.strip() for each in value.lower().split(b",")]):
        return fields
    return [*[field for field in fields if field[0] != name], (name, b"%b, %b" % (value, member) if value else member)]
