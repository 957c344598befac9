"""Opening, listing, refreshing and ending sessions."""

import secrets
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from uuid import UUID, uuid4

from ostiary.feed import Kind
from ostiary_auth.domain.accounts.model import User
from ostiary_auth.domain.audit.log import AuditLog
from ostiary_auth.domain.audit.model import Event
from ostiary_auth.domain.batched import Batched
from ostiary_auth.domain.clock import Clock
from ostiary_auth.domain.context import Context, user_actor
from ostiary_auth.domain.errors import InvalidRefreshToken, OAuthError, SessionNotFound
from ostiary_auth.domain.ports import Store, Transaction
from ostiary_auth.domain.revocation.log import RevocationLog
from ostiary_auth.domain.revocation.model import RevokedNumbers
from ostiary_auth.domain.sessions import session_secrets
from ostiary_auth.domain.sessions.model import (
    BrowserGrant,
    EndReason,
    Grant,
    LogoutScope,
    RefreshToken,
    Session,
    SessionEnd,
    SessionLimits,
)
from ostiary_auth.domain.sessions.refresh_tokens import (
    MAX_REFRESH_TOKEN_CHARACTERS,
    MAX_SUCCESSORS,
    REFRESH_TOKEN_BYTES,
    Verdict,
    decide,
    hash_of,
    newest,
    rotation_after,
    successor_of,
)
from ostiary_auth.domain.sessions.session_secrets import SessionProof

#: Open sessions per user; a login beyond that ends the least recently used one.
MAX_SESSIONS_PER_USER = 100

#: Sessions that one transaction ends for several callers, and how many such transactions run at once: in the second,
#: sessions are found while the first one waits for the logs, or for a row that somebody else has locked.
ENDED_AT_ONCE = 16
ENDING_LANES = 2


@dataclass(frozen=True, slots=True, eq=False)
class _Ending:
    """A caller's request to end a session, if it is theirs: each counts by itself, also if they are alike."""

    session_id: UUID
    is_theirs: Callable[[Session], bool]
    reason: EndReason
    context: Context
    requested_at: float


class Sessions:
    """Opens, lists, refreshes and ends sessions."""

    def __init__(
        self, store: Store, audit: AuditLog, revocations: RevocationLog, limits: SessionLimits, clock: Clock
    ) -> None:
        self._store = store
        self._audit = audit
        self._revocations = revocations
        self.limits = limits
        self.clock = clock
        self._ending = Batched(self._end_each, lanes=ENDING_LANES, most=ENDED_AT_ONCE)

    async def open(self, transaction: Transaction, user: User, client_id: str, context: Context) -> Grant:
        """Open a session for a user who has just authenticated."""
        session = self._new(user, client_id, context)
        await self._make_room(transaction, user.id, context)
        refresh_token = secrets.token_urlsafe(REFRESH_TOKEN_BYTES)
        await transaction.sessions.add(session, self.limits.ends_at(session))
        token = RefreshToken(hash_of(refresh_token), session.id, context.now)
        await transaction.sessions.add_refresh_token(token, self.limits.ends_at(session))
        # The user is locked, so revocations of their tokens are ordered before or after this.
        as_of = (await transaction.revocations.head()).number
        return Grant(user, session, user.scopes, as_of, refresh_token)

    async def open_in_browser(
        self,
        transaction: Transaction,
        user: User,
        client_id: str,
        context: Context,
        *,
        persistent: bool,
        replaced: SessionProof | None = None,
    ) -> BrowserGrant:
        """Open a session in a browser for a user who has just authenticated.

        The one that the browser had before ends, whoever it belongs to: nobody can make it go on under another name.
        """
        secret = session_secrets.new_secret()
        session = replace(
            self._new(user, client_id, context), secret_hash=session_secrets.hash_of(secret), persistent=persistent
        )
        previous = await transaction.sessions.lock_proven(replaced) if replaced else None
        await self._make_room(transaction, user.id, context, previous)
        await transaction.sessions.add(session, self.limits.ends_at(session))
        as_of = (await transaction.revocations.head()).number
        return BrowserGrant(user, session, user.scopes, as_of, session_secrets.credential_of(session.id, secret))

    async def of_user(self, user_id: UUID, now: datetime) -> list[Session]:
        """Return a user's live sessions, the most recently used first."""
        async with self._store.read() as transaction:
            sessions = await transaction.sessions.not_ended(user_id, now)
        live = [session for session in sessions if self.limits.alive(session, now)]
        return sorted(live, key=lambda session: session.last_used_at, reverse=True)

    async def refresh(
        self, presented: str, client_id: str, context: Context, scopes: frozenset[str] | None = None
    ) -> Grant:
        """Refresh the session of a refresh token, optionally with fewer scopes.

        Raises InvalidRefreshToken, or OAuthError for a scope that the user does not have.
        """
        if len(presented) > MAX_REFRESH_TOKEN_CHARACTERS:
            raise InvalidRefreshToken
        requested_at = self.clock.monotonic()
        async with self._store.write() as transaction:
            grant = await self._refresh(
                transaction, presented, client_id, context, scopes=scopes, requested_at=requested_at
            )
        # Raised after the transaction, because the end of a stolen session must be committed.
        if grant is None:
            raise InvalidRefreshToken
        return grant

    async def end(self, user_id: UUID, session_id: UUID, scope: LogoutScope, context: Context) -> RevokedNumbers:
        """End those of a user's live sessions that are in `scope`.

        local: the given one; others: all but the given one; global: all.
        """
        if scope == "local":
            return await self._end_with_others(
                session_id, lambda session: session.user_id == user_id, "logout", context
            )
        async with self._store.queue() as transaction:
            live = await self._live(transaction, user_id, context.now)
            ended = [session for session in live if scope == "global" or session.id != session_id]
            return await self._end(transaction, ended, "logout", context)

    async def end_one(self, user_id: UUID, session_id: UUID, context: Context) -> RevokedNumbers:
        """End one of a user's sessions. Raises SessionNotFound."""
        ended = await self.end(user_id, session_id, "local", context)
        if not ended:
            raise SessionNotFound
        return ended

    async def end_by_refresh_token(self, presented: str, client_id: str, context: Context) -> RevokedNumbers | None:
        """End the session of a refresh token (RFC 7009). None if it is not a refresh token of this client."""
        if len(presented) > MAX_REFRESH_TOKEN_CHARACTERS:
            return None
        async with self._store.read() as transaction:
            session = await transaction.sessions.of_refresh_token(hash_of(presented))
        if session is None or session.client_id != client_id:
            return None
        # Neither the session of a token nor its client ever changes.
        return await self._end_with_others(session.id, lambda _: True, "token_revoked", context)

    async def end_by_proof(self, proof: SessionProof, context: Context) -> RevokedNumbers:
        """End a browser's session. One that is unknown or has ended is not an error."""
        return await self._end_with_others(
            proof.session_id, lambda session: session.secret_hash == proof.secret_hash, "logout", context
        )

    async def end_all_of(
        self, transaction: Transaction, user_id: UUID, reason: EndReason, context: Context
    ) -> RevokedNumbers:
        """End all sessions of a user."""
        live = await self._live(transaction, user_id, context.now)
        return await self._end(transaction, live, reason, context)

    async def keep_one_of(
        self, transaction: Transaction, user: User, session_id: UUID, proof: SessionProof | None, context: Context
    ) -> tuple[RevokedNumbers, BrowserGrant | None]:
        """End all sessions of a user who has changed their password, but the one in which they did.

        A browser's goes on with a new secret, which only a browser with the old one gets, and whoever else has the old
        one has no use of it: the access tokens that it was exchanged for are revoked, too.
        """
        live = await self._live(transaction, user.id, context.now)
        others = [session for session in live if session.id != session_id]
        revoked = await self._end(transaction, others, "password_changed", context)
        kept = next((session for session in live if session.id == session_id and session.secret_hash), None)
        if kept is None:
            return revoked, None
        secret = session_secrets.new_secret()
        await transaction.sessions.set_secret(kept.id, session_secrets.hash_of(secret))
        (number,) = await self._revocations.revoke(transaction, context, Kind.SUBJECT, str(user.id))
        grant = BrowserGrant(user, kept, user.scopes, number, session_secrets.credential_of(kept.id, secret))
        is_proven = proof is not None and (proof.session_id, proof.secret_hash) == (kept.id, kept.secret_hash)
        return (*revoked, number), grant if is_proven else None

    async def _refresh(
        self,
        transaction: Transaction,
        presented: str,
        client_id: str,
        context: Context,
        *,
        scopes: frozenset[str] | None,
        requested_at: float,
    ) -> Grant | None:
        chain = await transaction.sessions.lock_chain(hash_of(presented))
        asked_at, context = context.now, context.after(self.clock.monotonic() - requested_at)
        if chain is None or chain.session.client_id != client_id:
            return None
        token, session, user = chain.token, chain.session, chain.user
        verdict = decide(token, session, self.limits, asked_at, context.now)
        if verdict is Verdict.THEFT:
            subject = user_actor(user.id)
            facts = {"session_id": str(session.id)}
            await self._end(transaction, [session], "theft", context)
            await self._audit.record(transaction, context, Event.REFRESH_TOKEN_REPLAYED, subject=subject, facts=facts)
        if verdict in {Verdict.THEFT, Verdict.REJECT} or user.disabled_at is not None:
            return None
        granted = _narrow(user.scopes, scopes)
        if verdict is Verdict.KEEP:
            return Grant(user, session, granted, chain.as_of, presented)
        if verdict is Verdict.REPEAT:
            successors = await transaction.sessions.successors(token, MAX_SUCCESSORS)
            following = newest(presented, (token, *successors))
            return Grant(user, session, granted, chain.as_of, following) if following is not None else None
        nonce = secrets.token_bytes(REFRESH_TOKEN_BYTES)
        successor = successor_of(presented, nonce)
        made = RefreshToken(hash_of(successor), session.id, context.now)
        await transaction.sessions.rotate(
            token.hash,
            nonce,
            made,
            next_rotation_at=rotation_after(session, context.now),
            ends_at=self.limits.ends_at(replace(session, last_used_at=context.now)),
        )
        return Grant(user, session, granted, chain.as_of, successor)

    def _new(self, user: User, client_id: str, context: Context) -> Session:
        return Session(
            id=uuid4(),
            user_id=user.id,
            client_id=client_id,
            user_agent=context.user_agent,
            source=context.source,
            created_at=context.now,
            last_used_at=context.now,
            expires_at=context.now + self.limits.absolute,
        )

    async def _make_room(
        self, transaction: Transaction, user_id: UUID, context: Context, leaving: Session | None = None
    ) -> None:
        """End a locked session that is left, and the user's other ones that are too many beside a new one."""
        surplus: list[Session] = []
        if await transaction.sessions.count_not_ended(user_id, context.now) >= MAX_SESSIONS_PER_USER:
            live = await self._live(transaction, user_id, context.now)
            staying = [session for session in live if leaving is None or session.id != leaving.id]
            oldest_first = sorted(staying, key=lambda session: session.last_used_at)
            surplus = oldest_first[: max(0, len(staying) - MAX_SESSIONS_PER_USER + 1)]
        if leaving is not None and self.limits.alive(leaving, context.now):
            await self._end(transaction, [leaving], "logout", context)
        await self._end(transaction, surplus, "too_many", context)

    async def _live(self, transaction: Transaction, user_id: UUID, now: datetime) -> list[Session]:
        """Return and lock a user's live sessions."""
        sessions = await transaction.sessions.lock_not_ended(user_id, now)
        return [session for session in sessions if self.limits.alive(session, now)]

    async def _end_with_others(
        self, session_id: UUID, is_theirs: Callable[[Session], bool], reason: EndReason, context: Context
    ) -> RevokedNumbers:
        """End a session, together with those of others."""
        return await self._ending(_Ending(session_id, is_theirs, reason, context, self.clock.monotonic())) or ()

    async def _end_each(self, endings: Sequence[_Ending]) -> Mapping[_Ending, RevokedNumbers]:
        """End sessions for several callers in one transaction; nobody's request makes another's fail."""
        async with self._store.queue() as transaction:
            locked = await transaction.sessions.lock({ending.session_id for ending in endings})
            locked_at = self.clock.monotonic()
            found = {session.id: session for session in locked}
            hit: dict[_Ending, SessionEnd] = {}
            for ending in endings:
                session = found.get(ending.session_id)
                if session is not None and ending.is_theirs(session) and self.limits.alive(session, ending.context.now):
                    # Until now the session may have got tokens, which the revocation has to outlive.
                    context = ending.context.after(locked_at - ending.requested_at)
                    # Whoever logs out is the session's user, however that was proven.
                    by = context.by(user_actor(session.user_id)) if ending.reason == "logout" else context
                    hit[ending] = SessionEnd(found.pop(session.id), ending.reason, by)
            numbers = await self._end_locked(transaction, hit.values())
        return {ending: (number,) for ending, number in zip(hit, numbers, strict=True)}

    async def _end(
        self, transaction: Transaction, sessions: Iterable[Session], reason: EndReason, context: Context
    ) -> RevokedNumbers:
        """End locked sessions for one caller."""
        return await self._end_locked(transaction, [SessionEnd(session, reason, context) for session in sessions])

    async def _end_locked(self, transaction: Transaction, ends: Collection[SessionEnd]) -> RevokedNumbers:
        """End locked sessions and revoke their access tokens: the only place where sessions end."""
        if ends:
            await transaction.sessions.end(ends)
        revoked: RevokedNumbers = ()
        for end in ends:
            context, session_id = end.context, str(end.session.id)
            revoked += await self._revocations.revoke(transaction, context, Kind.SESSION, session_id)
            subject, facts = user_actor(end.session.user_id), {"session_id": session_id, "reason": end.reason}
            await self._audit.record(transaction, context, Event.SESSION_ENDED, subject=subject, facts=facts)
        return revoked


def _narrow(scopes: tuple[str, ...], requested: frozenset[str] | None) -> tuple[str, ...]:
    """Return the requested scopes, which must be among the granted ones (RFC 6749 section 6)."""
    if requested is None:
        return scopes
    if not requested <= set(scopes):
        raise OAuthError("invalid_scope", "A requested scope was not granted.")
    return tuple(scope for scope in scopes if scope in requested)
