"""Base64url without padding, in its one canonical form (RFC 7515 section 2, RFC 4648 section 3.5)."""

import base64
import binascii
import re

_ALPHABET = re.compile(rb"[A-Za-z0-9_-]*\Z")


def encode(data: bytes) -> bytes:
    """Return `data` as base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def decode(text: bytes) -> bytes:
    """Return what `text` encodes.

    Raises ValueError for anything but the canonical form: padding, white space, characters of
    the other alphabet, an impossible length, or spare bits that are not zero.
    """
    if _ALPHABET.match(text) is None:
        raise ValueError("not base64url")
    try:
        data = base64.urlsafe_b64decode(text + b"=" * (-len(text) % 4))
    except binascii.Error as error:
        raise ValueError("not base64url") from error
    # A last character may carry bits that belong to no byte; only zero bits are canonical.
    if encode(data) != text:
        raise ValueError("not canonical base64url")
    return data
