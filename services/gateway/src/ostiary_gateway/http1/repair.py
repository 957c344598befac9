"""Heads of responses that deviate from the grammar, or repeat themselves, in ways that a proxy mends.

Whatever could be taken for framing is not mended. What is serialized for the client is correct in any case, and the
connection on which a mended head came is not reused: so no other message is read differently.
"""

import re

from ostiary_gateway.http1.errors import BadMessage
from ostiary_gateway.http1.fields import TOKEN, VALUE, Fields

_NAME = re.compile(TOKEN)
_LINE = re.compile(VALUE)

#: In a name, or in what somebody takes for one.
_FRAMING = re.compile(rb"content-length|transfer-encoding", re.IGNORECASE)

#: Fields with one value. Those that decide where the message ends must not differ.
_FRAMING_FIELDS = frozenset({b"content-length", b"transfer-encoding", b"upgrade"})
_SINGLE_FIELDS = _FRAMING_FIELDS | {b"content-type"}


def repair(lines: list[bytes]) -> list[bytes]:
    """Return a response's field lines without what the grammar does not allow. Raises BadMessage.

    Folded lines become one, and spaces before a colon are removed, as RFC 9112 sections 5.1 and 5.2 demand of a proxy.
    A line without a name is dropped; there is no way to forward it.
    """
    unfolded: list[bytes] = []
    for line in lines:
        if not line.startswith((b" ", b"\t")):
            unfolded.append(line)
        elif unfolded and _FRAMING.search(unfolded[-1].partition(b":")[0]) is None:
            unfolded[-1] += b" " + line.strip(b"\t ")
        else:
            raise BadMessage("folded line")
    return [line for line in map(_repair_name, unfolded) if line]


def _repair_name(line: bytes) -> bytes:
    """Return a line with a valid name; empty if it has none. Raises BadMessage."""
    name, colon, value = line.partition(b":")
    trimmed = name.rstrip(b"\t ")
    if colon and _NAME.fullmatch(name) is not None:
        return line
    if _FRAMING.search(name) is not None or _LINE.fullmatch(line) is None:
        raise BadMessage("invalid field line")
    return trimmed + colon + value if colon and _NAME.fullmatch(trimmed) is not None else b""


def merge_repeated(fields: Fields) -> Fields:
    """Return a response's fields; of single ones that are identical, one (RFC 9110 sections 5.3, 8.6).

    Raises BadMessage.
    """
    first: dict[bytes, bytes] = {}
    merged: Fields = []
    for name, value in fields:
        if name in _SINGLE_FIELDS:
            earlier = first.get(name)
            if earlier is None:
                first[name] = value
            elif earlier.lower() == value.lower():
                continue
            elif name in _FRAMING_FIELDS:
                raise BadMessage(f"different values of {name.decode()}")
        merged.append((name, value))
    return merged


def merge_lengths(value: bytes) -> bytes:
    """Return the only length in a list of identical ones (RFC 9110 section 8.6). Raises BadMessage."""
    first, *others = [each.strip(b"\t ") for each in value.split(b",")]
    if any(each != first for each in others):
        raise BadMessage("different values of Content-Length")
    return first
