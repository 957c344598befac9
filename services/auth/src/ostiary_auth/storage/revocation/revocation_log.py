"""The revocation log on SQL."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from sqlalchemy import Row, and_, bindparam, delete, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from ostiary.feed import GENESIS, Kind
from ostiary_auth.domain.revocation.messages import REVOKED
from ostiary_auth.domain.revocation.model import LoggedRevocation, LogHead
from ostiary_auth.storage.append_lock import AppendLock
from ostiary_auth.storage.revocation.tables import revocation_head, revocations
from ostiary_chassis.sql import Database

_ADD = insert(revocations)
_HEAD = select(revocation_head.c.epoch, revocation_head.c.number, revocation_head.c.digest)
_MOVE_HEAD = update(revocation_head).values(number=bindparam("to"), digest=bindparam("end"))
_AFTER = (
    select(revocations)
    .where(revocations.c.number > bindparam("number"), revocations.c.number <= bindparam("head"))
    .order_by(revocations.c.number)
    .limit(bindparam("rows"))
)


class SqlRevocationLog:
    """Implements `RevocationRows`."""

    def __init__(self, connection: AsyncConnection, database: Database, lock: AppendLock) -> None:
        self._connection = connection
        self._database = database
        self._lock = lock
        # Nobody else appends while the lock is held.
        self._end: LogHead | None = None
        self._is_announced = False

    async def head(self) -> LogHead:
        return LogHead(**(await self._connection.execute(_HEAD)).one()._mapping)

    async def lock_head(self) -> LogHead:
        await self._lock.acquire()
        if self._end is None:
            self._end = await self.head()
        return self._end

    async def add(self, logged: LoggedRevocation) -> None:
        self._end = replace(await self.lock_head(), number=logged.number, digest=logged.digest)
        await self._connection.execute(_ADD, asdict(logged))
        await self._connection.execute(_MOVE_HEAD, {"to": logged.number, "end": logged.digest})
        await self._announce()

    async def restart(self, epoch: str, number: int) -> None:
        await self._connection.execute(delete(revocations).where(revocations.c.kind != Kind.KEY))
        values: Any = {"epoch": epoch, "number": number, "digest": GENESIS}
        await self._connection.execute(update(revocation_head).values(**values))
        self._end = LogHead(**values)
        await self._announce()

    async def after(self, number: int, head: int, limit: int) -> list[LoggedRevocation]:
        rows = await self._connection.execute(_AFTER, {"number": number, "head": head, "rows": limit})
        return [_logged(row) for row in rows]

    async def of(self, targets: Mapping[Kind, str]) -> list[LoggedRevocation]:
        chosen = (and_(revocations.c.kind == kind, revocations.c.target == target) for kind, target in targets.items())
        query = select(revocations).where(or_(*chosen))
        return [_logged(row) for row in await self._connection.execute(query)]

    async def _announce(self) -> None:
        """Notify all replicas at the commit, once for all entries."""
        if not self._is_announced:
            self._is_announced = True
            await self._database.notify(self._connection, REVOKED)


def _logged(row: Row[Any]) -> LoggedRevocation:
    values = dict(row._mapping)
    return LoggedRevocation(**{**values, "kind": Kind(values["kind"])})
