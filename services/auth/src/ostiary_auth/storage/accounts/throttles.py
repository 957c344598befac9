"""Attempt counters on SQL."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cache

from sqlalchemy import TextualSelect, bindparam, delete, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from ostiary_auth.domain.accounts.attempts import FORGOTTEN_AFTER, Counter
from ostiary_auth.storage.accounts.tables import throttles
from ostiary_chassis.sql import UtcDateTime

_PUT = (
    update(throttles)
    .where(throttles.c.key == bindparam("counted"))
    .values(
        attempts=bindparam("attempts"), blocked_until=bindparam("blocked_until"), expires_at=bindparam("expires_at")
    )
)
_FORGET = delete(throttles).where(throttles.c.key.in_(bindparam("keys", expanding=True)))


class SqlThrottles:
    """Implements `ThrottleRows`."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def lock(self, keys: Sequence[bytes], now: datetime) -> dict[bytes, Counter]:
        given = {f"key_{number}": key for number, key in enumerate(keys)}
        rows = await self._connection.execute(
            _lock(len(keys)), {**given, "now": now, "check_at": now + FORGOTTEN_AFTER}
        )
        return {row.key: Counter(row.attempts, row.blocked_until, row.expires_at) for row in rows}

    async def put(self, counters: Mapping[bytes, Counter]) -> None:
        rows = [
            {
                "counted": key,
                "attempts": counter.attempts,
                "blocked_until": counter.blocked_until,
                "expires_at": counter.expires_at,
            }
            for key, counter in counters.items()
        ]
        if rows:
            await self._connection.execute(_PUT, rows)

    async def forget(self, keys: Sequence[bytes]) -> None:
        await self._connection.execute(_FORGET, {"keys": keys})


@cache
def _lock(count: int) -> TextualSelect:
    """Return the statement that locks `count` rows in the order given, and inserts missing ones.

    `SELECT ... FOR UPDATE` would lock existing rows only; two transactions that then insert the others could deadlock.
    """
    values = ", ".join(f"(:key_{number}, 0, :now, :now, :check_at)" for number in range(count))
    return (
        text(
            f"INSERT INTO throttles (key, attempts, blocked_until, expires_at, check_at) VALUES {values} "  # noqa: S608 - names of ours
            "ON CONFLICT (key) DO UPDATE SET attempts = throttles.attempts "
            "RETURNING key, attempts, blocked_until, expires_at"
        )
        .bindparams(*(bindparam(name, type_=UtcDateTime) for name in ("now", "check_at")))
        .columns(blocked_until=UtcDateTime, expires_at=UtcDateTime)
    )
