"""Field lines (RFC 9112 section 5), and what `Connection` lists."""

import re

from ostiary_gateway.http1.errors import BadMessage, TooLarge
from ostiary_gateway.http1.memo import MAX_CACHED_BYTES, BoundedCache

MAX_FIELDS = 128

#: Lower-case names and values, in their order.
Fields = list[tuple[bytes, bytes]]
TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
VALUE = rb"[\t\x20-\x7e\x80-\xff]*"
_NAME = re.compile(TOKEN)

# What a value may be made of (section 5.5): no control characters but tabs.
_VALUE_BYTES = bytes([0x09, *range(0x20, 0x7F), *range(0x80, 0x100)])


def parse_name(name: bytes) -> bytes:
    """Return a field's name in lower case. Without space before the colon, no line folding. Raises BadMessage."""
    if _NAME.fullmatch(name) is None:
        raise BadMessage("field line")
    return name.lower()


def parse_field(line: bytes) -> tuple[bytes, bytes]:
    """Return name and value (RFC 9112 section 5). Raises BadMessage."""
    name, colon, value = line.partition(b":")
    # Values may be long; so the bytes that they may have are taken out, and nothing may be left.
    if not colon or value.translate(None, _VALUE_BYTES):
        raise BadMessage("field line")
    return _FIELD_NAMES[name], value.strip(b"\t ")


# No secrets are kept: they stand in queries and in these.
_SECRET = re.compile(rb"auth|cookie|key|token|secret|session|password|signature|assertion|jwt")
_FIELD_NAMES = BoundedCache(parse_name, lambda name, _: len(name) <= MAX_CACHED_BYTES)
_FIELDS = BoundedCache(
    parse_field, lambda line, field: len(line) <= MAX_CACHED_BYTES and _SECRET.search(field[0]) is None
)


def is_cacheable(field: tuple[bytes, bytes], _: object) -> bool:
    """Return whether something about a field may be kept."""
    return len(field[1]) <= MAX_CACHED_BYTES and _SECRET.search(field[0]) is None


def parse_fields(lines: list[bytes]) -> Fields:
    """Read field lines. Raises BadMessage."""
    if len(lines) > MAX_FIELDS:
        raise TooLarge("fields")
    return [_FIELDS[line] for line in lines]


_SINGLE = frozenset(
    {b"host", b"content-length", b"transfer-encoding", b"content-type", b"expect", b"origin", b"upgrade"}
)


def check_single(fields: Fields) -> None:
    """See that what may stand once does. Raises BadMessage."""
    seen: set[bytes] = set()
    for name, _ in fields:
        if name in seen and name in _SINGLE:
            raise BadMessage(f"several {name.decode()} fields")
        seen.add(name)


def connection_options(fields: Fields) -> frozenset[bytes]:
    return _OPTIONS[b",".join([value for name, value in fields if name == b"connection"])]


def parse_options(value: bytes) -> frozenset[bytes]:
    return frozenset(option.strip(b"\t ") for option in value.lower().split(b","))


_OPTIONS = BoundedCache(parse_options, lambda value, _: len(value) <= MAX_CACHED_BYTES)
