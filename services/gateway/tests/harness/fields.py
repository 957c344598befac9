"""Fields of messages, as tests compare them."""

from collections.abc import Iterable

#: Lower-case names and values.
Fields = list[tuple[str, str]]


def parse_lines(lines: list[str]) -> Fields:
    pairs = [line.partition(":") for line in lines]
    return [(name.lower(), value.strip(" \t")) for name, _, value in pairs]


def decode(fields: Iterable[tuple[bytes, bytes]]) -> Fields:
    return [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in fields]
