"""Base64url without padding, in its one canonical form (RFC 7515 section 2, RFC 4648 section 3.5)."""

import base64
import binascii

# To the decoder's alphabet; characters that are not base64url ('+', '/', '=') become one that it rejects.
_TO_STANDARD = bytes.maketrans(b"-_+/=", b"+/!!!")

#: By the length of the last group of four: its missing padding, and the characters that it may end with,
#: as they have no bits beyond the last byte (RFC 4648 section 3.5).
_PADDING = {0: b"", 2: b"==", 3: b"="}
_LAST = {0: None, 2: frozenset(b"AQgw"), 3: frozenset(b"AEIMQUYcgkosw048")}


def encode(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def decode(text: bytes) -> bytes:
    """Raise ValueError for anything but the canonical form.

    That is padding, white space, characters of standard base64, an impossible length, or spare bits that are not zero.
    """
    rest = len(text) % 4
    padding = _PADDING.get(rest)
    if padding is None:
        raise ValueError("not base64url")
    last = _LAST[rest]
    if last is not None and text[-1] not in last:
        raise ValueError("not canonical base64url")
    # binascii.Error is a ValueError.
    return binascii.a2b_base64(text.translate(_TO_STANDARD) + padding, strict_mode=True)
