"""Refresh token rotation, and detection of reuse (RFC 9700 section 4.14.2).

The refresh tokens of a session form a chain: each is used once, and using it creates its successor. A used token that
is presented again comes from a client that lost our response, or from a thief:

    not used yet                                            -> rotate
    used moments ago, and its successor is not used yet     -> the same successor again
    used otherwise                                          -> theft: the session ends

A successor is `HMAC-SHA256(key = its parent, random nonce)`. The nonce is stored, of the tokens only hashes are. So a
lost response can be repeated for a client that presents the parent, while the database alone yields no token.
"""

import hashlib
import hmac
from datetime import datetime, timedelta
from enum import Enum, auto

from jwt.utils import base64url_encode

from ostiary_auth.domain.sessions.model import RefreshToken, Session, SessionLimits

#: Bytes of randomness in a refresh token; RFC 6749 section 10.10 asks for a chance to guess of 2^-128 or less.
REFRESH_TOKEN_BYTES = 32

#: Characters of a presented refresh token; ours have 43.
MAX_REFRESH_TOKEN_CHARACTERS = 128

#: How long a client that lost our response may repeat its request.
REPLAY_GRACE = timedelta(seconds=10)


class Verdict(Enum):
    """How to respond to a presented refresh token."""

    ROTATE = auto()
    REPEAT = auto()
    REJECT = auto()
    THEFT = auto()


def decide(
    token: RefreshToken,
    successor: RefreshToken | None,
    session: Session,
    limits: SessionLimits,
    now: datetime,
) -> Verdict:
    """Decide about a refresh token, given its successor if it has been used."""
    if session.ended_at is not None or now >= session.expires_at:
        return Verdict.REJECT
    if token.used_at is None:
        return Verdict.REJECT if now >= token.created_at + limits.idle else Verdict.ROTATE
    if successor is not None and successor.used_at is None and now <= token.used_at + REPLAY_GRACE:
        return Verdict.REPEAT
    return Verdict.THEFT


def hash_of(token: str) -> bytes:
    """Hash a refresh token for storage. It has too much entropy to be guessed, so a fast hash is enough."""
    return hashlib.sha256(token.encode()).digest()


def successor_of(parent: str, nonce: bytes) -> str:
    digest = hmac.digest(parent.encode(), nonce, hashlib.sha256)
    return base64url_encode(digest).decode()
