"""The revocation log on SQL."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Row, and_, bindparam, delete, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from ostiary.feed import GENESIS, Kind
from ostiary_auth.domain.revocation.messages import REVOKED
from ostiary_auth.domain.revocation.model import LoggedRevocation, LogHead
from ostiary_auth.storage.log_ends import LogEnds
from ostiary_auth.storage.revocation.tables import revocation_head, revocations
from ostiary_chassis.sql import Database

_HEAD = select(revocation_head.c.epoch, revocation_head.c.number, revocation_head.c.digest)
_AFTER = (
    select(revocations)
    .where(revocations.c.number > bindparam("number"), revocations.c.number <= bindparam("head"))
    .order_by(revocations.c.number)
    .limit(bindparam("rows"))
)


class SqlRevocationLog:
    """Implements `RevocationRows`."""

    def __init__(self, connection: AsyncConnection, database: Database, ends: LogEnds) -> None:
        self._connection = connection
        self._database = database
        self._ends = ends

    async def head(self) -> LogHead:
        return self._ends.changed_head or LogHead(**(await self._connection.execute(_HEAD)).one()._mapping)

    async def lock_head(self) -> LogHead:
        return await self._ends.lock_revocations()

    def add(self, logged: LoggedRevocation) -> None:
        self._ends.add_revocation(logged)

    async def restart(self, epoch: str, number: int) -> None:
        await self._connection.execute(delete(revocations).where(revocations.c.kind != Kind.KEY))
        values: Any = {"epoch": epoch, "number": number, "digest": GENESIS}
        await self._connection.execute(update(revocation_head).values(**values))
        self._ends.restart(LogHead(**values))
        await self._database.notify(self._connection, REVOKED)

    async def after(self, number: int, head: int, limit: int) -> list[LoggedRevocation]:
        rows = await self._connection.execute(_AFTER, {"number": number, "head": head, "rows": limit})
        return [_logged(row) for row in rows]

    async def of(self, targets: Mapping[Kind, str]) -> list[LoggedRevocation]:
        chosen = (and_(revocations.c.kind == kind, revocations.c.target == target) for kind, target in targets.items())
        query = select(revocations).where(or_(*chosen))
        return [_logged(row) for row in await self._connection.execute(query)]


def _logged(row: Row[Any]) -> LoggedRevocation:
    values = dict(row._mapping)
    return LoggedRevocation(**{**values, "kind": Kind(values["kind"])})
