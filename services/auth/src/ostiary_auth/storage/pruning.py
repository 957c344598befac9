"""Deleting rows that are no longer needed, in batches, so that other transactions do not have to wait."""

from datetime import datetime, timedelta

from sqlalchemy import Column, ColumnElement, Table, delete, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from ostiary_auth.storage.accounts.tables import throttles
from ostiary_auth.storage.oauth.tables import used_assertions
from ostiary_auth.storage.revocation.tables import revocations, verifiers
from ostiary_auth.storage.sessions.tables import refresh_tokens, sessions

#: How long a session is kept after it has ended or expired, so that support can tell why a user was logged out.
SESSIONS_KEPT = timedelta(days=1)

#: How long a verifier is kept after its lease: a replica whose clock is ahead must not delete a live one.
VERIFIERS_KEPT = timedelta(hours=1)


async def prune(connection: AsyncConnection, now: datetime, *, idle: timedelta, limit: int) -> int:
    """Delete up to `limit` rows per table; return how many. `idle` is how long a session may go unused."""
    cutoff = now - SESSIONS_KEPT
    over = or_(sessions.c.ended_at < cutoff, sessions.c.expires_at < cutoff, sessions.c.last_used_at < cutoff - idle)
    # A used token is needed to detect reuse, until it would have expired unused.
    used = (refresh_tokens.c.created_at < now - idle) & (refresh_tokens.c.used_at < now - idle)
    return sum(
        [
            await _delete(connection, sessions, sessions.c.id, over, limit),
            await _delete(connection, refresh_tokens, refresh_tokens.c.hash, used, limit),
            await _delete(connection, revocations, revocations.c.number, revocations.c.expires_at < now, limit),
            await _delete(connection, verifiers, verifiers.c.id, verifiers.c.live_until < now - VERIFIERS_KEPT, limit),
            await _delete(connection, throttles, throttles.c.key, throttles.c.expires_at < now, limit),
            await _delete(
                connection, used_assertions, used_assertions.c.hash, used_assertions.c.expires_at < now, limit
            ),
        ]
    )


async def _delete(
    connection: AsyncConnection, table: Table, key: Column[object], condition: ColumnElement[bool], limit: int
) -> int:
    # Locked rows are left for the next run.
    batch = select(key).where(condition).limit(limit).with_for_update(skip_locked=True)
    result = await connection.execute(delete(table).where(key.in_(batch)))
    return result.rowcount
