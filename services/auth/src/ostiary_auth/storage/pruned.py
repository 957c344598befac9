"""Rows that say when the pruning is to look at them.

When such a row is over depends on columns that change with each refresh or attempt. An index of those would have to
change with them; and on PostgreSQL, updates that change no indexed column cost a fraction ("heap-only tuples"). So the
index is on a column of its own, `check_at`: the row cannot be over before. Only the pruning moves it, when it finds
that the row is not over, to the time at which it will be unless it changes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Column, Row, Table, bindparam, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from ostiary_chassis.sql import UtcDateTime


def check_at() -> Column[datetime]:
    """Return the column. Rows of releases that do not know it are looked at as soon as possible."""
    return Column("check_at", UtcDateTime, nullable=False, index=True, server_default="1970-01-01 00:00:00.000000")


@dataclass(frozen=True, slots=True)
class Found:
    """What was looked at: the keys of rows that are over, which are locked, and how many others there were."""

    over: Sequence[Any]
    others: int


async def find_over(
    connection: AsyncConnection, table: Table, now: datetime, limit: int, over_at: Callable[[Row[Any]], datetime]
) -> Found:
    """Look at up to `limit` rows that are due. `over_at` tells when one is over unless it changes."""
    (key,) = table.primary_key
    due = (
        select(table)
        .where(table.c.check_at < now)
        .order_by(table.c.check_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    times = {row._mapping[key]: over_at(row) for row in await connection.execute(due)}
    later = [{"row": row_key, "at": time} for row_key, time in times.items() if time >= now]
    if later:
        postpone = update(table).where(key == bindparam("row")).values(check_at=bindparam("at"))
        await connection.execute(postpone, later)
    return Found([row_key for row_key, time in times.items() if time < now], len(later))
