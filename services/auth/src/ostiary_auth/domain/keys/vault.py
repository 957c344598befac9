"""Secrets at rest: sealed with AES-256-GCM under a key-encryption key (KEK) from a file.

The KEK lives outside of the database, so that neither of the two alone opens anything. Its file has
one key per line; the first one seals and all of them open. To change it, write a new line above the
old one, run `ostiary-auth keys rewrap`, and remove the old line.
"""

import base64
import secrets
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import structlog
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_log = structlog.stdlib.get_logger("sealing")

#: Bytes of a key-encryption key, and of AES-GCM's nonce (NIST SP 800-38D section 8.2).
KEK_BYTES = 32
NONCE_BYTES = 12


class UnsealError(Exception):
    """Sealed with a key-encryption key that is not in the file, or damaged, or in another's place."""


@dataclass(frozen=True, slots=True, repr=False)
class Vault:
    """Seals and opens. `keks` has at least one key; the first one seals."""

    keks: tuple[bytes, ...]

    def seal(self, plain: bytes, name: str) -> bytes:
        """Return `plain` sealed. The name is authenticated with it, so that secrets cannot change places."""
        nonce = secrets.token_bytes(NONCE_BYTES)
        return nonce + AESGCM(self.keks[0]).encrypt(nonce, plain, name.encode())

    def open(self, sealed: bytes, name: str) -> bytes:
        """Return what was sealed under this name. Raises UnsealError."""
        nonce, ciphertext = sealed[:NONCE_BYTES], sealed[NONCE_BYTES:]
        for kek in self.keks:
            # ValueError: too short to be anything that was sealed.
            with suppress(InvalidTag, ValueError):
                return AESGCM(kek).decrypt(nonce, ciphertext, name.encode())
        raise UnsealError


def load_vault(path: Path) -> Vault:
    """Return the vault of a file's keys. Raises ValueError if it holds something else, OSError if it cannot be read."""
    lines = path.read_text(encoding="ascii", errors="replace").split()
    try:
        keks = tuple(base64.b64decode(line, validate=True) for line in lines)
    except ValueError:
        keks = ()
    if not keks or any(len(kek) != KEK_BYTES for kek in keks):
        raise ValueError(f"must hold {KEK_BYTES} random bytes in base64; several keys in a line each, the newest first")
    return Vault(keks)


def new_kek() -> str:
    """Return a new key-encryption key as it stands in its file."""
    return base64.b64encode(secrets.token_bytes(KEK_BYTES)).decode()
