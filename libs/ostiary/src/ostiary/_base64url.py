"""Base64url without padding, in its one canonical form (RFC 7515 section 2, RFC 4648 section 3.5)."""

import base64
import binascii

# To the alphabet that the decoder knows; what is not ours ('+', '/', '=') becomes what it refuses.
_TO_STANDARD = bytes.maketrans(b"-_+/=", b"+/!!!")

#: By how many characters stand in the last group of four: the padding it lacks, and the characters
#: that may stand last, as they carry no bits beyond the last byte (RFC 4648 section 3.5).
_PADDING = {0: b"", 2: b"==", 3: b"="}
_LAST = {0: None, 2: frozenset(b"AQgw"), 3: frozenset(b"AEIMQUYcgkosw048")}


def encode(data: bytes) -> bytes:
    """Return `data` as base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def decode(text: bytes) -> bytes:
    """Return what `text` encodes.

    Raises ValueError for anything but the canonical form: padding, white space, characters of
    the other alphabet, an impossible length, or spare bits that are not zero.
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
