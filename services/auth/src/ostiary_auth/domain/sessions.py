"""Sessions and their refresh tokens.

A login opens a session. Its refresh tokens form a chain: each is used once, and using it makes its
successor. Somebody who presents a used one is either a client that lost our answer or a thief:

    not used yet                                            -> rotate
    used moments ago, and its successor is not used yet     -> the same successor again
    used otherwise                                          -> theft: the session ends

A successor is `HMAC-SHA256(key = its parent, random nonce)`. The nonce is stored, the tokens are
not, only their hashes: so a lost answer can be given again, by whoever shows the parent, while the
database alone opens nothing.
"""

import hashlib
import hmac
import secrets
from base64 import urlsafe_b64encode
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum, auto
from typing import Literal
from uuid import UUID, uuid4

import structlog

from ostiary_auth.domain.accounts import User
from ostiary_auth.domain.errors import InvalidRefreshToken
from ostiary_auth.domain.store import Store, Transaction

_log = structlog.stdlib.get_logger("sessions")

#: Bytes of randomness in a refresh token: not to be guessed (RFC 6749 section 10.10 asks for 2^-128 or less).
REFRESH_TOKEN_BYTES = 32

#: Characters of a refresh token from outside; ours have 43.
MAX_REFRESH_TOKEN_CHARACTERS = 128

#: How long a client that lost our answer may ask again.
REPLAY_GRACE = timedelta(seconds=10)

#: Characters kept of a client's User-Agent, to tell one's devices apart.
MAX_USER_AGENT_CHARACTERS = 256

LogoutScope = Literal["local", "others", "global"]
EndReason = Literal["logout", "theft"]


@dataclass(frozen=True, slots=True)
class Session:
    """A login on one device."""

    id: UUID
    user_id: UUID
    user_agent: str | None
    created_at: datetime
    last_used_at: datetime
    #: The absolute limit; no refresh moves it.
    expires_at: datetime
    ended_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class RefreshToken:
    """What is stored of a refresh token. `successor_*` are set when it is used."""

    hash: bytes
    session_id: UUID
    created_at: datetime
    used_at: datetime | None = None
    successor_nonce: bytes | None = None
    successor_hash: bytes | None = None


@dataclass(frozen=True, slots=True)
class Grant:
    """The outcome of a login or a refresh: who, in which session, with which refresh token next."""

    user: User
    session: Session
    refresh_token: str


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """How long a session may go without use, and how long it may last at all."""

    idle: timedelta
    absolute: timedelta


class Verdict(Enum):
    """What is to be done about a refresh token that was presented."""

    ROTATE = auto()
    REPEAT = auto()
    REFUSE = auto()
    THEFT = auto()


def judge(
    token: RefreshToken,
    successor: RefreshToken | None,
    session: Session,
    limits: SessionLimits,
    now: datetime,
) -> Verdict:
    """Decide about a refresh token, given its successor if it has one."""
    if session.ended_at is not None or now >= session.expires_at:
        return Verdict.REFUSE
    if token.used_at is None:
        return Verdict.REFUSE if now >= token.created_at + limits.idle else Verdict.ROTATE
    if successor is not None and successor.used_at is None and now <= token.used_at + REPLAY_GRACE:
        return Verdict.REPEAT
    return Verdict.THEFT


class Sessions:
    """Opens, continues and ends sessions."""

    def __init__(self, store: Store, limits: SessionLimits) -> None:
        """Keep sessions in `store`."""
        self._store = store
        self._limits = limits

    async def open(self, user: User, user_agent: str | None, now: datetime) -> Grant:
        """Open a session for a user who has just proved who they are."""
        session = Session(
            id=uuid4(),
            user_id=user.id,
            user_agent=user_agent[:MAX_USER_AGENT_CHARACTERS] if user_agent else None,
            created_at=now,
            last_used_at=now,
            expires_at=now + self._limits.absolute,
        )
        refresh_token = secrets.token_urlsafe(REFRESH_TOKEN_BYTES)
        async with self._store.write() as transaction:
            await transaction.add_session(session)
            await transaction.add_refresh_token(RefreshToken(_hash(refresh_token), session.id, now))
        _log.info("session opened", session_id=str(session.id), user_id=str(user.id))
        return Grant(user, session, refresh_token)

    async def refresh(self, presented: str, now: datetime) -> Grant:
        """Continue the session that a refresh token belongs to. Raises InvalidRefreshToken."""
        if len(presented) > MAX_REFRESH_TOKEN_CHARACTERS:
            raise InvalidRefreshToken
        async with self._store.write() as transaction:
            grant = await self._refresh(transaction, presented, now)
        # Raised outside of the transaction, because ending a stolen session must be committed.
        if grant is None:
            raise InvalidRefreshToken
        return grant

    async def end(self, user_id: UUID, session_id: UUID | None, scope: LogoutScope, now: datetime) -> int:
        """End sessions of a user and return how many were alive.

        local: the given one; others: all but the given one; global: all.
        """
        chosen: Callable[[Session], bool] = {
            "local": lambda session: session.id == session_id,
            "others": lambda session: session.id != session_id,
            "global": lambda _: True,
        }[scope]
        async with self._store.write() as transaction:
            live = await transaction.live_sessions(user_id, now)
            ending = [s for s in live if chosen(s) and now < s.last_used_at + self._limits.idle]
            for session in ending:
                await _end(transaction, session, "logout", now)
        return len(ending)

    async def _refresh(self, transaction: Transaction, presented: str, now: datetime) -> Grant | None:
        token = await transaction.lock_refresh_token(_hash(presented))
        if token is None:
            return None
        session = await transaction.session(token.session_id)
        user = await transaction.user(session.user_id)
        successor = await transaction.refresh_token(token.successor_hash) if token.successor_hash else None
        verdict = judge(token, successor, session, self._limits, now)
        if verdict is Verdict.THEFT:
            _log.warning("refresh token replayed", session_id=str(session.id), user_id=str(user.id))
            await _end(transaction, session, "theft", now)
        if verdict in {Verdict.THEFT, Verdict.REFUSE} or user.disabled_at is not None:
            return None
        if verdict is Verdict.REPEAT:
            assert token.successor_nonce is not None  # noqa: S101 - there is a successor
            return Grant(user, session, _successor(presented, token.successor_nonce))
        nonce = secrets.token_bytes(REFRESH_TOKEN_BYTES)
        following = _successor(presented, nonce)
        await transaction.rotate(token.hash, nonce, RefreshToken(_hash(following), session.id, now))
        return Grant(user, session, following)


async def _end(transaction: Transaction, session: Session, reason: EndReason, now: datetime) -> None:
    """End one session. Every way of ending comes through here."""
    await transaction.end_session(session.id, reason, now)
    _log.info("session ended", session_id=str(session.id), user_id=str(session.user_id), reason=reason)


def _hash(token: str) -> bytes:
    """Hash a refresh token for storage. It is random and long, so a fast hash will do."""
    return hashlib.sha256(token.encode()).digest()


def _successor(parent: str, nonce: bytes) -> str:
    digest = hmac.new(parent.encode(), nonce, hashlib.sha256).digest()
    return urlsafe_b64encode(digest).rstrip(b"=").decode()
