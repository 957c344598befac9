"""Signing keys in use, and their public halves as a JWKS document (RFC 7517)."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)
from jwt.utils import base64url_encode, to_base64url_uint

from ostiary.feed import version_of
from ostiary_auth.domain.keys.model import KeyState, StoredKey
from ostiary_auth.domain.keys.vault import Vault

#: Built once, as building one takes longer than using it.
_JSON = json.JSONEncoder(separators=(",", ":"))


#: Characters of a key id: a SHA-256 thumbprint in base64url.
KID_CHARACTERS = 43


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A key that can sign."""

    kid: str
    private_key: rsa.RSAPrivateKey

    def sign(self, media_type: str, claims: Mapping[str, object]) -> str:
        """Return a JWS in compact form (RFC 7515 section 3.1), with RS256 (RFC 7518 section 3.3)."""
        signing_input = _signing_input(self.kid, media_type, claims)
        signature = self.private_key.sign(signing_input, PKCS1v15(), SHA256())
        return (signing_input + b"." + base64url_encode(signature)).decode()

    @staticmethod
    def signed_characters(media_type: str, claims: Mapping[str, object], bits: int) -> int:
        """Return how long a JWS of a key with so many bits would be."""
        signature = base64url_encode(bytes(bits // 8))
        return len(_signing_input("k" * KID_CHARACTERS, media_type, claims)) + 1 + len(signature)

    def public_jwk(self) -> dict[str, str]:
        """Return the public half as a JWK (RFC 7517 section 4, RFC 7518 section 6.3.1)."""
        return {**_public_members(self.private_key), "use": "sig", "alg": "RS256", "kid": self.kid}


@dataclass(frozen=True, slots=True)
class KeyRing:
    """The signing key and all published keys, also as a JWKS document with its ETag."""

    signing: SigningKey
    published: tuple[SigningKey, ...]
    document: bytes
    etag: str
    #: Identifies the set of published keys to verifiers.
    version: str
    #: The keys and states it was loaded from; it is outdated when they change.
    states: frozenset[tuple[str, KeyState]]

    @classmethod
    def open(cls, stored: list[StoredKey], vault: Vault) -> "KeyRing":
        """Decrypt stored keys, one of which signs. Raises UnsealError."""
        keys = {key.kid: _open(key, vault) for key in stored}
        (signing,) = (key.kid for key in stored if key.state is KeyState.SIGNING)
        document = json.dumps({"keys": [key.public_jwk() for key in keys.values()]}).encode()
        return cls(
            signing=keys[signing],
            published=tuple(keys.values()),
            document=document,
            etag=f'"{hashlib.sha256(document).hexdigest()[:32]}"',
            version=version_of(keys),
            states=states_of(stored),
        )


def seal(private_key: rsa.RSAPrivateKey, vault: Vault, state: KeyState, now: datetime) -> StoredKey:
    kid = _thumbprint(private_key)
    plain = private_key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    return StoredKey(kid, state, now, now, vault.seal(plain, kid))


def states_of(stored: list[StoredKey]) -> frozenset[tuple[str, KeyState]]:
    return frozenset((key.kid, key.state) for key in stored)


def _signing_input(kid: str, media_type: str, claims: Mapping[str, object]) -> bytes:
    header = {"alg": "RS256", "typ": media_type, "kid": kid}
    return base64url_encode(_encode(header)) + b"." + base64url_encode(_encode(claims))


def _encode(value: Mapping[str, object]) -> bytes:
    return _JSON.encode(value).encode()


def _open(stored: StoredKey, vault: Vault) -> SigningKey:
    # Authenticated by the seal, so the key needs no validation, which would take most of the start-up time.
    private_key = load_der_private_key(
        vault.open(stored.sealed_private_key, stored.kid), password=None, unsafe_skip_rsa_key_validation=True
    )
    assert isinstance(private_key, rsa.RSAPrivateKey)  # noqa: S101 - sealed by `seal`
    return SigningKey(stored.kid, private_key)


def _public_members(private_key: rsa.RSAPrivateKey) -> dict[str, str]:
    numbers = private_key.public_key().public_numbers()
    return {"e": to_base64url_uint(numbers.e).decode(), "kty": "RSA", "n": to_base64url_uint(numbers.n).decode()}


def _thumbprint(private_key: rsa.RSAPrivateKey) -> str:
    """Return the JWK thumbprint (RFC 7638 section 3)."""
    canonical = json.dumps(_public_members(private_key), sort_keys=True, separators=(",", ":"))
    return base64url_encode(hashlib.sha256(canonical.encode()).digest()).decode()
