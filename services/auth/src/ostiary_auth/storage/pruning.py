"""Deleting rows that are no longer needed, a few in each transaction."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Row, Table, delete, select
from sqlalchemy.ext.asyncio import AsyncConnection

from ostiary_auth.storage.accounts.tables import throttles
from ostiary_auth.storage.oauth.tables import used_assertions
from ostiary_auth.storage.pruned import find_over
from ostiary_auth.storage.removal import remove_rows
from ostiary_auth.storage.revocation.tables import revocations, verifiers
from ostiary_auth.storage.sessions.sessions import SESSIONS_KEPT, remove_sessions
from ostiary_auth.storage.sessions.tables import refresh_tokens, sessions

#: How long a verifier is kept after its lease: a replica whose clock is ahead must not delete a live one.
VERIFIERS_KEPT = timedelta(hours=1)


async def prune(connection: AsyncConnection, now: datetime, *, idle: timedelta, limit: int) -> int:
    """Look at up to `limit` rows, delete those that are over, and return how many were looked at.

    `idle` is how long a session may go unused.
    """
    done = await _prune_sessions(connection, now, idle, limit)
    for table, over_at in (
        # A used token is needed to detect reuse, until it would have expired unused. One that is not used goes with its
        # session; if it is used, then from now on.
        (refresh_tokens, lambda token: (token.used_at or now) + idle),
        (throttles, lambda counter: counter.expires_at),
    ):
        if done < limit:
            done += await _prune_due(connection, table, now, limit - done, over_at)
    for key, ends_at, before in (
        (revocations.c.number, revocations.c.expires_at, now),
        (verifiers.c.id, verifiers.c.live_until, now - VERIFIERS_KEPT),
        (used_assertions.c.hash, used_assertions.c.expires_at, now),
    ):
        if done < limit:
            over = select(key).where(ends_at < before).order_by(ends_at)
            done += await remove_rows(connection, key, over, limit - done)
    return done


async def _prune_sessions(connection: AsyncConnection, now: datetime, idle: timedelta, limit: int) -> int:
    def over_at(session: Row[Any]) -> datetime:
        ended_at: datetime = session.ended_at or min(session.expires_at, session.last_used_at + idle)
        return ended_at + SESSIONS_KEPT

    found = await find_over(connection, sessions, now, limit, over_at)
    return found.others + await remove_sessions(connection, found.over, limit - found.others)


async def _prune_due(
    connection: AsyncConnection, table: Table, now: datetime, limit: int, over_at: Callable[[Row[Any]], datetime]
) -> int:
    found = await find_over(connection, table, now, limit, over_at)
    if found.over:
        (key,) = table.primary_key
        await connection.execute(delete(table).where(key.in_(found.over)))
    return found.others + len(found.over)
