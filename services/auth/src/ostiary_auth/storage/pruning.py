"""Deleting rows that are no longer needed, a few in each transaction."""

from datetime import datetime, timedelta

from sqlalchemy import or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from ostiary_auth.storage.accounts.tables import throttles
from ostiary_auth.storage.oauth.tables import used_assertions
from ostiary_auth.storage.removal import remove_rows
from ostiary_auth.storage.revocation.tables import revocations, verifiers
from ostiary_auth.storage.sessions.sessions import remove_sessions
from ostiary_auth.storage.sessions.tables import refresh_tokens, sessions

#: How long a session is kept after it has ended or expired, so that support can tell why a user was logged out.
SESSIONS_KEPT = timedelta(days=1)

#: How long a verifier is kept after its lease: a replica whose clock is ahead must not delete a live one.
VERIFIERS_KEPT = timedelta(hours=1)


async def prune(connection: AsyncConnection, now: datetime, *, idle: timedelta, limit: int) -> int:
    """Delete up to `limit` rows; return how many. `idle` is how long a session may go unused."""
    cutoff = now - SESSIONS_KEPT
    over = or_(sessions.c.ended_at < cutoff, sessions.c.expires_at < cutoff, sessions.c.last_used_at < cutoff - idle)
    # A used token is needed to detect reuse, until it would have expired unused.
    used = (refresh_tokens.c.created_at < now - idle) & (refresh_tokens.c.used_at < now - idle)
    removed = await remove_sessions(connection, over, limit)
    for key, is_over in (
        (refresh_tokens.c.hash, used),
        (revocations.c.number, revocations.c.expires_at < now),
        (verifiers.c.id, verifiers.c.live_until < now - VERIFIERS_KEPT),
        (throttles.c.key, throttles.c.expires_at < now),
        (used_assertions.c.hash, used_assertions.c.expires_at < now),
    ):
        if removed < limit:
            removed += await remove_rows(connection, key, select(key).where(is_over), limit - removed)
    return removed
