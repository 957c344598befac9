"""A set of public keys, parsed from a JWKS document (RFC 7517).

The document is untrusted input: keys of other kinds than ours are skipped, and the others are used.
"""

import hashlib
import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey, RSAPublicNumbers
from cryptography.hazmat.primitives.hashes import SHA256

from ostiary import _base64url, _json
from ostiary._jws import ALGORITHM, MAX_KID_LENGTH
from ostiary.errors import BadSignature, UnknownKey

_log = logging.getLogger("ostiary.keys")

#: Bits of an RSA modulus. RFC 7518 section 3.3 requires 2048; above 8192 a verification takes milliseconds.
MIN_RSA_BITS = 2048
MAX_RSA_BITS = 8192

#: Bytes of a public exponent; 65537 takes three. A long one makes each verification slow.
MAX_EXPONENT_BYTES = 8

#: Keys in one document; an issuer has two or three. More are a mistake or an attack.
MAX_KEYS = 64

#: Bytes of a set's version: enough that no two sets have the same.
_VERSION_BYTES = 16

_PADDING = PKCS1v15()
_HASH = SHA256()


class InvalidKeySet(Exception):
    """A document without a usable key set."""


@dataclass(frozen=True)
class KeySet:
    """Public keys by their `kid`."""

    keys: dict[str, RSAPublicKey]

    @cached_property
    def version(self) -> str:
        """A hash of the set's kids, which identify its keys (RFC 7638)."""
        return version_of(self.keys)

    @classmethod
    def from_json(cls, document: bytes) -> "KeySet":
        """Parse a JWKS document. Unusable keys are skipped and logged.

        Raises InvalidKeySet if the document is not a JWKS, has too many keys, or no usable one.
        """
        try:
            entries = _json.parse_object(document).get("keys")
        except ValueError as error:
            raise InvalidKeySet(f"not a JSON object: {error}") from error
        if not isinstance(entries, list):
            raise InvalidKeySet("member 'keys' is not an array")
        if len(entries) > MAX_KEYS:
            raise InvalidKeySet(f"more than {MAX_KEYS} keys")
        pairs = list(_usable_keys(entries))
        times = Counter(kid for kid, _ in pairs)
        for kid, count in times.items():
            if count > 1:
                _log.warning("key skipped", extra={"kid": kid, "reason": "duplicate kid"})
        keys = {kid: key for kid, key in pairs if times[kid] == 1}
        if not keys:
            raise InvalidKeySet("no usable key")
        return cls(keys)

    def verify(self, kid: str, signing_input: bytes, signature: bytes) -> None:
        """Verify an RS256 signature (RFC 7518 section 3.3). Raises UnknownKey or BadSignature."""
        key = self.keys.get(kid)
        if key is None:
            raise UnknownKey
        try:
            key.verify(signature, signing_input, _PADDING, _HASH)
        except InvalidSignature as error:
            raise BadSignature from error


def version_of(kids: Iterable[str]) -> str:
    """Return the version of the set of these keys."""
    listed = "\n".join(sorted(kids))
    return _base64url.encode(hashlib.sha256(listed.encode()).digest()[:_VERSION_BYTES]).decode()


def _usable_keys(entries: list[object]) -> Iterator[tuple[str, RSAPublicKey]]:
    for position, entry in enumerate(entries):
        try:
            yield _read_key(entry)
        except ValueError as error:
            _log.warning("key skipped", extra={"position": position, "reason": str(error)})


def _read_key(entry: object) -> tuple[str, RSAPublicKey]:
    """Return kid and key of one JWK. Raises ValueError with the reason why it is unusable."""
    if not isinstance(entry, dict):
        raise ValueError("not an object")
    if entry.get("kty") != "RSA":
        raise ValueError("kty is not RSA")
    if "d" in entry:
        raise ValueError("private key")
    if entry.get("alg", ALGORITHM) != ALGORITHM:
        raise ValueError(f"alg is not {ALGORITHM}")
    if entry.get("use", "sig") != "sig":
        raise ValueError("use is not sig")
    operations = entry.get("key_ops", ["verify"])
    if not isinstance(operations, list) or "verify" not in operations:
        raise ValueError("key_ops lacks verify")
    kid = entry.get("kid")
    if not isinstance(kid, str) or not 0 < len(kid) <= MAX_KID_LENGTH:
        raise ValueError("kid is not a short string")
    return kid, _rsa_key(_read_integer(entry.get("n")), _read_integer(entry.get("e")))


def _rsa_key(n: int, e: int) -> RSAPublicKey:
    if not MIN_RSA_BITS <= n.bit_length() <= MAX_RSA_BITS:
        raise ValueError(f"modulus must have {MIN_RSA_BITS} to {MAX_RSA_BITS} bits")
    if e < 3 or e % 2 == 0 or e.bit_length() > MAX_EXPONENT_BYTES * 8:  # noqa: PLR2004 - RSA
        raise ValueError("exponent is even, below 3 or too large")
    return RSAPublicNumbers(e, n).public_key()


def _read_integer(value: object) -> int:
    """Parse a Base64urlUInt (RFC 7518 section 2)."""
    if not isinstance(value, str):
        raise ValueError("n or e is not a string")
    return int.from_bytes(_base64url.decode(value.encode("ascii")), "big")
