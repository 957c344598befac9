"""Registered verifiers on SQL.

The id in the table is VERIFIER@REPLICA. Neither of them contains an `@`. A row of an earlier release is of no replica.
"""

from collections.abc import Collection, Iterable
from datetime import datetime
from typing import Any

from sqlalchemy import Row, bindparam, delete, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from ostiary_auth.domain.revocation.model import RegisteredVerifier
from ostiary_auth.storage.revocation.tables import verifiers
from ostiary_chassis.sql import UtcDateTime

_VALUES = "acknowledged = :acknowledged, keys = :keys, lease_ms = :lease_ms, live_until = :live_until"
_PUT = text(
    "INSERT INTO verifiers (id, acknowledged, keys, lease_ms, live_until)"  # noqa: S608 - a constant
    " VALUES (:id, :acknowledged, :keys, :lease_ms, :live_until)"
    f" ON CONFLICT (id) DO UPDATE SET {_VALUES}"
).bindparams(bindparam("live_until", type_=UtcDateTime))
_UPDATE = text(f"UPDATE verifiers SET {_VALUES} WHERE id = :id").bindparams(  # noqa: S608 - a constant
    bindparam("live_until", type_=UtcDateTime)
)
_ALL = select(verifiers)
_LIVE = _ALL.where(verifiers.c.live_until > bindparam("now"))
_IDS = select(verifiers.c.id)
_DELETE = delete(verifiers).where(verifiers.c.id == bindparam("row_id"))


class SqlVerifiers:
    """Implements `VerifierRows`."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def put(self, changed: Collection[RegisteredVerifier]) -> None:
        await self._connection.execute(_PUT, _parameters(changed))

    async def update(self, changed: Collection[RegisteredVerifier]) -> None:
        await self._connection.execute(_UPDATE, _parameters(changed))

    async def all(self) -> list[RegisteredVerifier]:
        return [_verifier(row) for row in await self._connection.execute(_ALL)]

    async def live(self, now: datetime) -> list[RegisteredVerifier]:
        return [_verifier(row) for row in await self._connection.execute(_LIVE, {"now": now})]

    async def remove(self, verifier_ids: Collection[str], replica: str | None = None) -> None:
        if replica is None:
            stored = (await self._connection.execute(_IDS)).scalars()
            rows = [row_id for row_id in stored if row_id.partition("@")[0] in verifier_ids]
        else:
            rows = [f"{verifier_id}@{replica}" for verifier_id in verifier_ids]
        if rows:
            await self._connection.execute(_DELETE, [{"row_id": row_id} for row_id in sorted(rows)])


def _parameters(changed: Iterable[RegisteredVerifier]) -> list[dict[str, object]]:
    # In a fixed order, so that replicas that change the same rows cannot deadlock.
    return [
        {
            "id": f"{verifier.id}@{verifier.replica}",
            "acknowledged": verifier.acknowledged,
            "keys": verifier.keys,
            "lease_ms": verifier.lease_ms,
            "live_until": verifier.live_until,
        }
        for verifier in sorted(changed, key=lambda verifier: verifier.id)
    ]


def _verifier(row: Row[Any]) -> RegisteredVerifier:
    values = dict(row._mapping)
    verifier_id, _, replica = values.pop("id").partition("@")
    return RegisteredVerifier(verifier_id, replica, **values)
