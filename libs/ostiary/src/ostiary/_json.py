"""Strict JSON objects: what two parsers could interpret differently is rejected (RFC 8259, RFC 7515 section 4)."""

import json
from typing import NoReturn


def parse_object(data: bytes) -> dict[str, object]:
    """Return the JSON object in `data`.

    Raises ValueError for other than strict UTF-8 without a byte order mark, a duplicate member
    (RFC 7515 section 4), NaN or infinities, lone surrogates, nesting too deep to parse, white space
    around the object, or a value that is not an object.
    """
    text = data.decode("utf-8")  # UnicodeDecodeError is a ValueError
    try:
        value, end = _decoder.raw_decode(text)
        if end != len(text) or not isinstance(value, dict):
            raise ValueError("not a JSON object")
        if "\\u" in text:
            # A surrogate pair is one character; a lone surrogate cannot be encoded.
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    return value


def _without_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("duplicate member")
    return members


def _reject_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_decoder = json.JSONDecoder(object_pairs_hook=_without_duplicates, parse_constant=_reject_constant)
