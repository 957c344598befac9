"""Throttles on SQL."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import bindparam, delete, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from ostiary_auth.domain.throttle import Counter
from ostiary_auth.storage.tables import throttles
from ostiary_chassis.sql import UtcDateTime

#: Adds one, or begins anew; in one statement, so that no two first attempts count as one.
_ADD_ATTEMPT = text(
    """
    INSERT INTO throttles (key, attempts, blocked_until, expires_at) VALUES (:key, 1, :now, :expires_at)
    ON CONFLICT (key) DO UPDATE SET
        attempts = CASE WHEN throttles.expires_at > :now THEN throttles.attempts + 1 ELSE 1 END,
        expires_at = :expires_at
    RETURNING attempts
    """
).bindparams(bindparam("now", type_=UtcDateTime), bindparam("expires_at", type_=UtcDateTime))


class SqlThrottles:
    """Rows of `throttles`."""

    def __init__(self, connection: AsyncConnection) -> None:
        """Use an open transaction."""
        self._connection = connection

    async def lock(self, keys: Sequence[bytes]) -> dict[bytes, Counter]:
        """Return the counters with these keys, and let nobody else change them until the end."""
        query = select(throttles).where(throttles.c.key.in_(keys)).order_by(throttles.c.key).with_for_update()
        rows = await self._connection.execute(query)
        return {row.key: Counter(row.attempts, row.blocked_until, row.expires_at) for row in rows}

    async def add_attempt(self, key: bytes, now: datetime, expires_at: datetime) -> int:
        """Count an attempt, from nothing if the counter has expired; return how many there are."""
        given = {"key": key, "now": now, "expires_at": expires_at}
        result = await self._connection.execute(_ADD_ATTEMPT, given)
        count: int = result.scalar_one()
        return count

    async def block(self, key: bytes, until: datetime) -> None:
        """Refuse attempts until then."""
        await self._connection.execute(update(throttles).where(throttles.c.key == key).values(blocked_until=until))

    async def take_back(self, key: bytes) -> None:
        """Count one attempt less."""
        counted = (throttles.c.key == key) & (throttles.c.attempts > 0)
        await self._connection.execute(update(throttles).where(counted).values(attempts=throttles.c.attempts - 1))

    async def forget(self, key: bytes) -> None:
        """Delete a counter."""
        await self._connection.execute(delete(throttles).where(throttles.c.key == key))
