"""Signing keys and sealed secrets on SQL."""

from dataclasses import asdict

from sqlalchemy import delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from ostiary_auth.domain.keys.model import KeyState, StoredKey
from ostiary_auth.storage.keys.tables import sealed_secrets, signing_keys


class SqlKeys:
    """Implements `KeyRows`."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def all(self) -> list[StoredKey]:
        query = select(signing_keys).order_by(signing_keys.c.created_at.desc(), signing_keys.c.kid)
        rows = (row._mapping for row in await self._connection.execute(query))
        return [StoredKey(**{**row, "state": KeyState(row["state"])}) for row in rows]

    async def add(self, key: StoredKey) -> None:
        await self._connection.execute(insert(signing_keys).values(**asdict(key)))

    async def replace(self, key: StoredKey) -> None:
        await self._connection.execute(update(signing_keys).where(signing_keys.c.kid == key.kid).values(**asdict(key)))

    async def remove(self, kid: str) -> None:
        await self._connection.execute(delete(signing_keys).where(signing_keys.c.kid == kid))

    async def secrets(self) -> dict[str, bytes]:
        rows = await self._connection.execute(select(sealed_secrets))
        return {row.name: row.sealed for row in rows}

    async def put_secret(self, name: str, sealed: bytes) -> None:
        await self._connection.execute(delete(sealed_secrets).where(sealed_secrets.c.name == name))
        await self._connection.execute(insert(sealed_secrets).values(name=name, sealed=sealed))
