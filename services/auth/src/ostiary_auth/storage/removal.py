"""Deleting rows a few at a time, so that no other transaction has to wait for long."""

from typing import Any

from sqlalchemy import Column, Select, delete
from sqlalchemy.ext.asyncio import AsyncConnection


async def remove_rows(connection: AsyncConnection, key: Column[Any], chosen: Select[Any], limit: int) -> int:
    """Delete up to `limit` rows of the keys that are chosen, and return how many. Locked ones are left."""
    batch = chosen.limit(limit).with_for_update(of=key.table, skip_locked=True)
    result = await connection.execute(delete(key.table).where(key.in_(batch)))
    return result.rowcount
