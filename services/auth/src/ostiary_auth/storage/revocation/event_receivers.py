"""Receivers of security events on SQL."""

from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from ostiary_auth.storage.revocation.tables import event_receivers

_ACKNOWLEDGE = text(
    "INSERT INTO event_receivers (client_id, acknowledged) VALUES (:client_id, :number)"
    " ON CONFLICT (client_id) DO UPDATE SET acknowledged = excluded.acknowledged"
    " WHERE event_receivers.acknowledged < excluded.acknowledged"
)


class SqlEventReceivers:
    """Implements `EventReceiverRows`."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def acknowledged(self, client_id: str) -> int:
        query = select(event_receivers.c.acknowledged).where(event_receivers.c.client_id == client_id)
        return (await self._connection.execute(query)).scalar_one_or_none() or 0

    async def acknowledge(self, client_id: str, number: int) -> None:
        await self._connection.execute(_ACKNOWLEDGE, {"client_id": client_id, "number": number})
