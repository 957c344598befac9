"""OAuth clients on SQL."""

from datetime import datetime
from typing import Any

from sqlalchemy import bindparam, delete, insert, select, text, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from ostiary_auth.domain.errors import ClientTaken
from ostiary_auth.domain.oauth.model import Client
from ostiary_auth.storage.oauth.tables import clients
from ostiary_auth.storage.revocation.tables import revocation_head
from ostiary_chassis.sql import UtcDateTime

# One statement, so that the client and the number are of the same moment.
_GET = (
    select(clients, revocation_head.c.number.label("as_of"))
    .join(revocation_head, revocation_head.c.id == 1)
    .where(clients.c.id == bindparam("client_id"))
)
_USE_ASSERTION = text(
    "INSERT INTO used_assertions (hash, expires_at) VALUES (:hash, :expires_at) ON CONFLICT (hash) DO NOTHING"
).bindparams(bindparam("expires_at", type_=UtcDateTime))


class SqlClients:
    """Implements `ClientRows`."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def add(self, client: Client) -> None:
        try:
            await self._connection.execute(insert(clients).values(**_values(client)))
        except IntegrityError as error:
            raise ClientTaken from error

    async def get(self, client_id: str) -> Client | None:
        row = (await self._connection.execute(_GET, {"client_id": client_id})).one_or_none()
        return _client(row._mapping) if row else None

    async def lock(self, client_id: str) -> Client | None:
        query = select(clients).where(clients.c.id == client_id).with_for_update()
        row = (await self._connection.execute(query)).one_or_none()
        return _client(row._mapping) if row else None

    async def page(self, after: str | None, limit: int) -> list[Client]:
        query = select(clients).where(clients.c.id > (after or "")).order_by(clients.c.id).limit(limit)
        return [_client(row._mapping) for row in await self._connection.execute(query)]

    async def replace(self, client: Client) -> None:
        await self._connection.execute(update(clients).where(clients.c.id == client.id).values(**_values(client)))

    async def delete(self, client_id: str) -> None:
        await self._connection.execute(delete(clients).where(clients.c.id == client_id))

    async def use_assertion(self, assertion_hash: bytes, expires_at: datetime) -> bool:
        given = {"hash": assertion_hash, "expires_at": expires_at}
        result = await self._connection.execute(_USE_ASSERTION, given)
        return result.rowcount == 1


def _values(client: Client) -> dict[str, object]:
    return {column.name: getattr(client, column.name) for column in clients.c}


def _client(values: Any) -> Client:
    lists = {name: tuple(values[name]) for name in ("grants", "scopes", "audiences")}
    return Client(**{**values, **lists})
