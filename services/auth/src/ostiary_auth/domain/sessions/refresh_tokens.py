"""Refresh token rotation, and detection of reuse (RFC 9700 section 4.14.2).

The refresh tokens of a session form a chain: each is used once, and using it creates its successor. A used token that
is presented again comes from a client that lost our response, from another tab that has the same token, or from a
thief:

    not used yet          -> rotate; the same token again while the session has had too many
    used moments ago      -> the newest token of the chain, which is not used yet
    used in the future    -> no token: the clock was put back, so we cannot tell how long ago it was
    used longer ago       -> theft: the session ends

So a session has one token at a time that continues it. How long ago a token was used is what counts for that token,
however often those after it were used meanwhile. Used tokens are kept as long as an unused one would be valid, so a
session that refreshes all the time gets new ones at a limited rate.

A successor is `HMAC-SHA256(key = its parent, random nonce)`. The nonce is stored, of the tokens only hashes are. So a
client that presents a token can be given any that followed, while the database alone yields none.
"""

import hashlib
import hmac
from collections.abc import Sequence
from datetime import datetime, timedelta
from enum import Enum, auto

from jwt.utils import base64url_encode

from ostiary_auth.domain.clock import CLOCK_MARGIN
from ostiary_auth.domain.sessions.model import RefreshToken, Session, SessionLimits

#: Bytes of randomness in a refresh token; RFC 6749 section 10.10 asks for a chance to guess of 2^-128 or less.
REFRESH_TOKEN_BYTES = 32

#: Characters of a presented refresh token; ours have 43.
MAX_REFRESH_TOKEN_CHARACTERS = 128

#: How long a client may repeat its request, or other tabs make theirs, after a token was used. Clients wait half a
#: minute for an answer that is lost, and then until another replica or database has taken over.
REPLAY_GRACE = timedelta(seconds=60)

#: Refresh tokens that a session may get at once, and how long each further one takes. It needs one in the lifetime of
#: an access token.
FREE_ROTATIONS = 120
ROTATION_INTERVAL = timedelta(minutes=1)

#: Tokens that are followed from a used one on. Within the grace, a session cannot get more, also if its shortest idle
#: time makes it get one in half a minute.
MAX_SUCCESSORS = FREE_ROTATIONS + 4


class Verdict(Enum):
    """How to respond to a presented refresh token."""

    ROTATE = auto()
    KEEP = auto()
    REPEAT = auto()
    REJECT = auto()
    THEFT = auto()


def decide(token: RefreshToken, session: Session, limits: SessionLimits, asked_at: datetime, now: datetime) -> Verdict:
    """Decide about a refresh token. It was presented at `asked_at`, and may have waited for its turn since."""
    if session.ended_at is not None or now >= session.expires_at:
        return Verdict.REJECT
    if token.used_at is None:
        if now >= token.created_at + limits.idle:
            return Verdict.REJECT
        # One that is kept does not get younger, and the client must not be taken for idle by its next request.
        is_old = now >= token.created_at + limits.idle / 2
        return Verdict.ROTATE if is_old or may_rotate(session, now) else Verdict.KEEP
    if now < token.used_at - CLOCK_MARGIN:
        return Verdict.REJECT
    return Verdict.REPEAT if asked_at <= token.used_at + REPLAY_GRACE else Verdict.THEFT


def may_rotate(session: Session, now: datetime) -> bool:
    """Return whether a session may get another refresh token."""
    return _due(session, now) <= now + (FREE_ROTATIONS - 1) * ROTATION_INTERVAL


def rotation_after(session: Session, now: datetime) -> datetime:
    """Return when the next refresh token is due after one that is made now."""
    return min(_due(session, now), now + (FREE_ROTATIONS - 1) * ROTATION_INTERVAL) + ROTATION_INTERVAL


def _due(session: Session, now: datetime) -> datetime:
    """Return when the next refresh token is due: now if that is past, or if the clock was put back."""
    due, latest = session.next_rotation_at, now + FREE_ROTATIONS * ROTATION_INTERVAL + CLOCK_MARGIN
    return due if due is not None and now < due <= latest else now


def hash_of(token: str) -> bytes:
    """Hash a refresh token for storage. It has too much entropy to be guessed, so a fast hash is enough."""
    return hashlib.sha256(token.encode()).digest()


def successor_of(parent: str, nonce: bytes) -> str:
    digest = hmac.digest(parent.encode(), nonce, hashlib.sha256)
    return base64url_encode(digest).decode()


def newest(presented: str, chain: Sequence[RefreshToken]) -> str | None:
    """Return the newest token of a chain that begins with the presented one; None if that is not the chain's end."""
    if chain[-1].used_at is not None:
        return None
    following = presented
    for used in chain[:-1]:
        assert used.successor_nonce is not None  # noqa: S101 - it has a successor
        following = successor_of(following, used.successor_nonce)
    return following
