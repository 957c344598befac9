"""The secrets of browsers' sessions.

A browser presents `SID.SECRET`: the id of its session, which is no secret, and 256 random bits. Only a hash of them is
stored.
"""

import hashlib
import secrets
from dataclasses import dataclass, field
from uuid import UUID

from ostiary.browser import session_parts
from ostiary_auth.domain.errors import SessionEnded

#: Bytes of randomness in a secret: too many to be guessed, so a fast hash is enough.
SECRET_BYTES = 32


@dataclass(frozen=True, slots=True)
class SessionProof:
    """What proves that a browser has a session."""

    session_id: UUID
    secret_hash: bytes = field(repr=False)


def new_secret() -> str:
    return secrets.token_urlsafe(SECRET_BYTES)


def hash_of(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


def credential_of(session_id: UUID, secret: str) -> str:
    return f"{session_id}.{secret}"


def parse(presented: str) -> SessionProof:
    """Parse `SID.SECRET`. Raises SessionEnded: what was cut or invented opens no session."""
    parts = session_parts(presented.encode()) if presented.isascii() else None
    if parts is None:
        raise SessionEnded
    session_id, secret = parts
    return SessionProof(UUID(session_id), hash_of(secret))
