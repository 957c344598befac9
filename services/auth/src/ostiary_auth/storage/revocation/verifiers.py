"""Registered verifiers on SQL."""

from collections.abc import Collection
from dataclasses import asdict
from datetime import datetime

from sqlalchemy import bindparam, delete, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from ostiary_auth.domain.revocation.model import RegisteredVerifier
from ostiary_auth.storage.revocation.tables import verifiers
from ostiary_chassis.sql import UtcDateTime

#: Values only grow: the replica that a verifier polled before may store older ones after the replica that it polls now.
#: (SQLite and PostgreSQL have different functions for the larger of two values.)
_PUT = text(
    "INSERT INTO verifiers AS known (id, acknowledged, keys, lease_ms, live_until)"
    " VALUES (:id, :acknowledged, :keys, :lease_ms, :live_until)"
    " ON CONFLICT (id) DO UPDATE SET keys = excluded.keys,"
    " acknowledged = CASE WHEN excluded.acknowledged > known.acknowledged"
    " THEN excluded.acknowledged ELSE known.acknowledged END,"
    " lease_ms = CASE WHEN excluded.lease_ms > known.lease_ms THEN excluded.lease_ms ELSE known.lease_ms END,"
    " live_until = CASE WHEN excluded.live_until > known.live_until THEN excluded.live_until ELSE known.live_until END"
).bindparams(bindparam("live_until", type_=UtcDateTime))
#: Only of rows that exist: a verifier that was removed meanwhile must not come back.
_ACKNOWLEDGE = text("UPDATE verifiers SET acknowledged = :acknowledged WHERE id = :id AND acknowledged < :acknowledged")
_LIVE = select(verifiers).where(verifiers.c.live_until > bindparam("now"))


class SqlVerifiers:
    """Implements `VerifierRows`."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def put(self, changed: Collection[RegisteredVerifier]) -> None:
        # In a fixed order, so that replicas that store the same rows cannot deadlock.
        rows = [asdict(verifier) for verifier in sorted(changed, key=lambda verifier: verifier.id)]
        await self._connection.execute(_PUT, rows)

    async def acknowledge(self, changed: Collection[RegisteredVerifier]) -> None:
        rows = [
            {"id": verifier.id, "acknowledged": verifier.acknowledged}
            for verifier in sorted(changed, key=lambda verifier: verifier.id)
        ]
        await self._connection.execute(_ACKNOWLEDGE, rows)

    async def live(self, now: datetime) -> list[RegisteredVerifier]:
        return [RegisteredVerifier(**row._mapping) for row in await self._connection.execute(_LIVE, {"now": now})]

    async def remove(self, verifier_id: str) -> None:
        await self._connection.execute(delete(verifiers).where(verifiers.c.id == verifier_id))
