"""The signing keys, and the public half of them as a JWKS document (RFC 7517).

Private keys are stored encrypted (AES-256-GCM) under a key-encryption key that lives in a file
outside of the database, so that neither of the two alone can sign.
"""

import asyncio
import base64
import hashlib
import json
import os
import secrets
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import structlog
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)

from ostiary_auth.domain.store import Store

_log = structlog.stdlib.get_logger("keys")

#: Bits of a new key's modulus (RFC 7518 section 3.3: 2048 or more).
RSA_BITS = 2048
PUBLIC_EXPONENT = 65537

#: Bytes of the key-encryption key, and of AES-GCM's nonce (NIST SP 800-38D section 8.2).
KEK_BYTES = 32
NONCE_BYTES = 12


class KeysCannotBeOpened(Exception):
    """The key-encryption key is not the one that the stored keys were sealed with."""


@dataclass(frozen=True, slots=True)
class StoredKey:
    """A signing key as it is stored."""

    kid: str
    sealed_private_key: bytes
    created_at: datetime


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A key that can sign."""

    kid: str
    private_key: rsa.RSAPrivateKey

    def public_jwk(self) -> dict[str, str]:
        """Return the public half as a JWK (RFC 7517 section 4, RFC 7518 section 6.3.1)."""
        return {**_public_members(self.private_key), "use": "sig", "alg": "RS256", "kid": self.kid}


@dataclass(frozen=True, slots=True)
class KeyRing:
    """The key that signs now, and all that are published."""

    signing: SigningKey
    published: tuple[SigningKey, ...]

    def jwks(self) -> bytes:
        """Return the JWKS document."""
        return json.dumps({"keys": [key.public_jwk() for key in self.published]}).encode()


async def load_key_ring(store: Store, kek: bytes, now: datetime) -> KeyRing:
    """Open the stored keys; the first one ever is made here, by one of the replicas.

    Raises KeysCannotBeOpened.
    """
    async with store.write() as transaction:
        await transaction.lock("signing-keys")
        stored = await transaction.signing_keys()
        if not stored:
            key = await asyncio.to_thread(_generate, kek, now)
            await transaction.add_signing_key(key)
            _log.info("signing key made", kid=key.kid)
            stored = [key]
    keys = tuple(_open(key, kek) for key in stored)
    return KeyRing(signing=keys[0], published=keys)


def load_kek(path: Path) -> bytes:
    """Return the key-encryption key in a file. Raises ValueError if it holds something else, OSError if it fails."""
    text = path.read_text(encoding="ascii", errors="replace").strip()
    try:
        kek = base64.b64decode(text, validate=True)
    except ValueError:
        kek = b""
    if len(kek) != KEK_BYTES:
        raise ValueError(f"must hold {KEK_BYTES} random bytes in base64")
    return kek


def create_kek(path: Path) -> None:
    """Make a key-encryption key, with mode 0600, unless there is one. Raises OSError."""
    if path.exists():
        return
    # Written beside and then linked: whoever sees the file sees all of it, and two starting
    # replicas end up with the same one.
    draft = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(base64.b64encode(secrets.token_bytes(KEK_BYTES)) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):
            os.link(draft, path)
            _log.info("key-encryption key made", path=str(path))
    finally:
        draft.unlink()


def _generate(kek: bytes, now: datetime) -> StoredKey:
    private_key = rsa.generate_private_key(PUBLIC_EXPONENT, RSA_BITS)
    kid = _thumbprint(private_key)
    plain = private_key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    nonce = secrets.token_bytes(NONCE_BYTES)
    # The kid is authenticated with it, so that sealed keys cannot be swapped between rows.
    return StoredKey(kid, nonce + AESGCM(kek).encrypt(nonce, plain, kid.encode()), now)


def _open(stored: StoredKey, kek: bytes) -> SigningKey:
    nonce, sealed = stored.sealed_private_key[:NONCE_BYTES], stored.sealed_private_key[NONCE_BYTES:]
    try:
        plain = AESGCM(kek).decrypt(nonce, sealed, stored.kid.encode())
    except InvalidTag:
        raise KeysCannotBeOpened from None
    private_key = load_der_private_key(plain, password=None)
    assert isinstance(private_key, rsa.RSAPrivateKey)  # noqa: S101 - authenticated, and made above
    return SigningKey(stored.kid, private_key)


def _public_members(private_key: rsa.RSAPrivateKey) -> dict[str, str]:
    numbers = private_key.public_key().public_numbers()
    return {"e": _base64url_integer(numbers.e), "kty": "RSA", "n": _base64url_integer(numbers.n)}


def _thumbprint(private_key: rsa.RSAPrivateKey) -> str:
    """Return the key's JWK thumbprint (RFC 7638 section 3): its members sorted, without white space, hashed."""
    canonical = json.dumps(_public_members(private_key), sort_keys=True, separators=(",", ":"))
    return _base64url(hashlib.sha256(canonical.encode()).digest())


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _base64url_integer(value: int) -> str:
    """Encode a Base64urlUInt (RFC 7518 section 2)."""
    return _base64url(value.to_bytes((value.bit_length() + 7) // 8, "big"))
