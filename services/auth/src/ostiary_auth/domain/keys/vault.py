"""Encryption of secrets at rest: AES-256-GCM under a key-encryption key (KEK) from a file.

The KEK is kept outside of the database, so that neither of the two alone reveals anything. The file has one key per
line: the first one encrypts, all of them decrypt. To rotate it, add a new line at the top, run `ostiary-auth keys
rewrap`, and remove the old line.
"""

import base64
import secrets
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

#: Bytes of a key-encryption key, and of AES-GCM's nonce (NIST SP 800-38D section 8.2).
KEK_BYTES = 32
NONCE_BYTES = 12


class UnsealError(Exception):
    """The KEK is not in the file, or the ciphertext is damaged or stored under another name."""


@dataclass(frozen=True, slots=True, repr=False)
class Vault:
    """Seals and opens secrets. `keks` has at least one key; the first one seals."""

    keks: tuple[bytes, ...]

    def seal(self, plain: bytes, name: str) -> bytes:
        """Return `plain` encrypted. The name is authenticated with it, so that secrets cannot be swapped."""
        nonce = secrets.token_bytes(NONCE_BYTES)
        return nonce + AESGCM(self.keks[0]).encrypt(nonce, plain, name.encode())

    def open(self, sealed: bytes, name: str) -> bytes:
        """Return the secret sealed under this name. Raises UnsealError."""
        nonce, ciphertext = sealed[:NONCE_BYTES], sealed[NONCE_BYTES:]
        for kek in self.keks:
            # ValueError: too short.
            with suppress(InvalidTag, ValueError):
                return AESGCM(kek).decrypt(nonce, ciphertext, name.encode())
        raise UnsealError


def load_vault(path: Path) -> Vault:
    """Read the keys in a file. Raises ValueError if the format is wrong, OSError if it cannot be read."""
    lines = path.read_text(encoding="ascii", errors="replace").split()
    try:
        keks = tuple(base64.b64decode(line, validate=True) for line in lines)
    except ValueError:
        keks = ()
    if not keks or any(len(kek) != KEK_BYTES for kek in keks):
        raise ValueError(
            f"must contain {KEK_BYTES} random bytes in base64; with several keys, one per line, the newest first"
        )
    return Vault(keks)


def new_kek() -> str:
    """Return a new key-encryption key, encoded as in the file."""
    return base64.b64encode(secrets.token_bytes(KEK_BYTES)).decode()
