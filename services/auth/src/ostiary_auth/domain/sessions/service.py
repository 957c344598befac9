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
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum, auto
from typing import Literal
from uuid import UUID, uuid4

from ostiary.feed import Kind
from ostiary_auth.domain.accounts.model import User
from ostiary_auth.domain.audit.log import Event, Journal
from ostiary_auth.domain.base64url import base64url
from ostiary_auth.domain.context import Context, user_actor
from ostiary_auth.domain.errors import InvalidRefreshToken, OAuthError, SessionNotFound
from ostiary_auth.domain.ports import Store, Transaction

#: Bytes of randomness in a refresh token: not to be guessed (RFC 6749 section 10.10 asks for 2^-128 or less).
REFRESH_TOKEN_BYTES = 32

#: Characters of a refresh token from outside; ours have 43.
MAX_REFRESH_TOKEN_CHARACTERS = 128

#: How long a client that lost our answer may ask again.
REPLAY_GRACE = timedelta(seconds=10)

#: Sessions of one user that can be open at a time; a login beyond that ends the one used longest ago.
MAX_SESSIONS_PER_USER = 100

LogoutScope = Literal["local", "others", "global"]
EndReason = Literal[
    "logout",
    "theft",
    "password_changed",
    "user_disabled",
    "user_deleted",
    "ended_by_admin",
    "token_revoked",
    "too_many",
]


@dataclass(frozen=True, slots=True)
class Session:
    """A login on one device."""

    id: UUID
    user_id: UUID
    #: The client that its tokens are given to.
    client_id: str
    user_agent: str | None
    #: The network address that it was opened from.
    source: str | None
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
class Chain:
    """A refresh token, the one after it if there is one, and whose they are."""

    token: RefreshToken
    successor: RefreshToken | None
    session: Session
    user: User
    #: The number of the last revocation when this was so.
    as_of: int


@dataclass(frozen=True, slots=True)
class Grant:
    """The outcome of a login or a refresh: who, in which session, with which scopes, and the refresh token next."""

    user: User
    session: Session
    scopes: tuple[str, ...]
    refresh_token: str
    #: The number of the last revocation when this was decided: those up to there do not hit it.
    as_of: int


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """How long a session may go without use, and how long it may last at all."""

    idle: timedelta
    absolute: timedelta

    def ends_at(self, session: Session) -> datetime:
        """Return when a session ends if it is not used any more."""
        return min(session.last_used_at + self.idle, session.expires_at)

    def alive(self, session: Session, now: datetime) -> bool:
        """Return whether a session can still be continued."""
        return session.ended_at is None and now < self.ends_at(session)


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
    """Opens, lists, continues and ends sessions."""

    def __init__(self, store: Store, journal: Journal, limits: SessionLimits) -> None:
        """Keep sessions in `store`."""
        self._store = store
        self._journal = journal
        self.limits = limits

    async def open(self, transaction: Transaction, user: User, client_id: str, context: Context) -> Grant:
        """Open a session for a user who has just proved who they are."""
        now = context.now
        session = Session(
            id=uuid4(),
            user_id=user.id,
            client_id=client_id,
            user_agent=context.user_agent,
            source=context.source,
            created_at=now,
            last_used_at=now,
            expires_at=now + self.limits.absolute,
        )
        if await transaction.sessions.count_not_ended(user.id, now) >= MAX_SESSIONS_PER_USER:
            await self._make_room(transaction, user.id, context)
        refresh_token = secrets.token_urlsafe(REFRESH_TOKEN_BYTES)
        await transaction.sessions.add(session)
        await transaction.sessions.add_refresh_token(RefreshToken(_hash(refresh_token), session.id, now))
        # The user is locked: what is revoked of theirs comes before all this, or after it.
        as_of = (await transaction.journal.head()).number
        return Grant(user, session, user.scopes, refresh_token, as_of)

    async def of_user(self, user_id: UUID, now: datetime) -> list[Session]:
        """Return a user's sessions that can be continued, the one used last first."""
        async with self._store.read() as transaction:
            sessions = await transaction.sessions.not_ended(user_id, now)
        live = [session for session in sessions if self.limits.alive(session, now)]
        return sorted(live, key=lambda session: session.last_used_at, reverse=True)

    async def refresh(
        self, presented: str, client_id: str, context: Context, scopes: frozenset[str] | None = None
    ) -> Grant:
        """Continue the session that a refresh token belongs to, with fewer scopes if some are named.

        Raises InvalidRefreshToken, or OAuthError for a scope that the user does not have.
        """
        if len(presented) > MAX_REFRESH_TOKEN_CHARACTERS:
            raise InvalidRefreshToken
        asked_at = time.monotonic()
        async with self._store.write() as transaction:
            grant = await self._refresh(transaction, presented, client_id, context, scopes=scopes, asked_at=asked_at)
        # Raised outside of the transaction, because ending a stolen session must be committed.
        if grant is None:
            raise InvalidRefreshToken
        return grant

    async def end(self, user_id: UUID, session_id: UUID, scope: LogoutScope, context: Context) -> int:
        """End sessions of a user and return how many were alive.

        local: the given one; others: all but the given one; global: all.
        """
        chosen: Callable[[Session], bool] = {
            "local": lambda session: session.id == session_id,
            "others": lambda session: session.id != session_id,
            "global": lambda _: True,
        }[scope]
        async with self._store.write() as transaction:
            live = await self._live(transaction, user_id, context.now)
            return await self._end(transaction, filter(chosen, live), "logout", context)

    async def end_one(self, user_id: UUID, session_id: UUID, context: Context) -> int:
        """End one session from the list of a user's. Raises SessionNotFound."""
        ended = await self.end(user_id, session_id, "local", context)
        if not ended:
            raise SessionNotFound
        return ended

    async def end_by_refresh_token(self, presented: str, client_id: str, context: Context) -> bool:
        """End the session of a refresh token that was given to this client; return whether it was (RFC 7009)."""
        if len(presented) > MAX_REFRESH_TOKEN_CHARACTERS:
            return False
        async with self._store.write() as transaction:
            chain = await transaction.sessions.lock_chain(_hash(presented))
            if chain is None or chain.session.client_id != client_id:
                return False
            alive = [chain.session] if self.limits.alive(chain.session, context.now) else []
            await self._end(transaction, alive, "token_revoked", context)
        return True

    async def end_all_of(
        self,
        transaction: Transaction,
        user_id: UUID,
        reason: EndReason,
        context: Context,
        keep: UUID | None = None,
    ) -> int:
        """End all sessions of a user, but for one to keep; return how many."""
        live = await self._live(transaction, user_id, context.now)
        return await self._end(transaction, [session for session in live if session.id != keep], reason, context)

    async def _refresh(
        self,
        transaction: Transaction,
        presented: str,
        client_id: str,
        context: Context,
        *,
        scopes: frozenset[str] | None,
        asked_at: float,
    ) -> Grant | None:
        chain = await transaction.sessions.lock_chain(_hash(presented))
        context = context.after_waiting(asked_at)
        if chain is None or chain.session.client_id != client_id:
            return None
        token, session, user = chain.token, chain.session, chain.user
        verdict = judge(token, chain.successor, session, self.limits, context.now)
        if verdict is Verdict.THEFT:
            subject = user_actor(user.id)
            facts = {"session_id": str(session.id)}
            await self._end(transaction, [session], "theft", context)
            await self._journal.record(transaction, context, Event.REFRESH_TOKEN_REPLAYED, subject=subject, facts=facts)
        if verdict in {Verdict.THEFT, Verdict.REFUSE} or user.disabled_at is not None:
            return None
        granted = _narrow(user.scopes, scopes)
        if verdict is Verdict.REPEAT:
            assert token.successor_nonce is not None  # noqa: S101 - there is a successor
            return Grant(user, session, granted, _successor(presented, token.successor_nonce), chain.as_of)
        nonce = secrets.token_bytes(REFRESH_TOKEN_BYTES)
        following = _successor(presented, nonce)
        successor = RefreshToken(_hash(following), session.id, context.now)
        await transaction.sessions.rotate(token.hash, nonce, successor)
        return Grant(user, session, granted, following, chain.as_of)

    async def _make_room(self, transaction: Transaction, user_id: UUID, context: Context) -> None:
        live = await self._live(transaction, user_id, context.now)
        oldest_first = sorted(live, key=lambda session: session.last_used_at)
        surplus = max(0, len(live) - MAX_SESSIONS_PER_USER + 1)
        await self._end(transaction, oldest_first[:surplus], "too_many", context)

    async def _live(self, transaction: Transaction, user_id: UUID, now: datetime) -> list[Session]:
        """Return and lock a user's sessions that can be continued."""
        sessions = await transaction.sessions.lock_not_ended(user_id, now)
        return [session for session in sessions if self.limits.alive(session, now)]

    async def _end(
        self, transaction: Transaction, sessions: Iterable[Session], reason: EndReason, context: Context
    ) -> int:
        """End sessions and revoke their access tokens; return how many. Every way of ending comes through here."""
        count = 0
        for session in sessions:
            await transaction.sessions.end(session.id, reason, context.now)
            await self._journal.revoke(transaction, context, Kind.SESSION, str(session.id))
            await self._journal.record(
                transaction,
                context,
                Event.SESSION_ENDED,
                subject=user_actor(session.user_id),
                facts={"session_id": str(session.id), "reason": reason},
            )
            count += 1
        return count


def _narrow(scopes: tuple[str, ...], asked: frozenset[str] | None) -> tuple[str, ...]:
    """Return the scopes asked for, none of which may be beyond those that there are (RFC 6749 section 6)."""
    if asked is None:
        return scopes
    if not asked <= set(scopes):
        raise OAuthError("invalid_scope", "A scope was asked for that was not granted.")
    return tuple(scope for scope in scopes if scope in asked)


def _hash(token: str) -> bytes:
    """Hash a refresh token for storage. It is random and long, so a fast hash will do."""
    return hashlib.sha256(token.encode()).digest()


def _successor(parent: str, nonce: bytes) -> str:
    digest = hmac.new(parent.encode(), nonce, hashlib.sha256).digest()
    return base64url(digest)
