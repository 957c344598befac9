"""The database's clock on SQL. SQLite's is that of the machine."""

from datetime import datetime

from sqlalchemy import Column, ColumnElement, Integer, Table, bindparam, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from ostiary_auth.domain.clock import Reading
from ostiary_auth.storage.metadata import metadata
from ostiary_chassis.sql import Database, UtcDateTime

#: The latest time that the clock has shown, in one row.
database_time = Table(
    "database_time",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("latest", UtcDateTime, nullable=False),
)

#: The time of the statement; that of the transaction's begin would be too early.
_SQLITE: ColumnElement[datetime] = func.strftime("%Y-%m-%d %H:%M:%f000", "now", type_=UtcDateTime)
_POSTGRESQL: ColumnElement[datetime] = func.clock_timestamp(type_=UtcDateTime)

_READ = {is_sqlite: select(now, database_time.c.latest) for is_sqlite, now in ((True, _SQLITE), (False, _POSTGRESQL))}
_PUT = update(database_time).values(latest=bindparam("time"))
_ADVANCE = _PUT.where(database_time.c.latest < bindparam("time"))


class SqlTime:
    """Implements `TimeRows`."""

    def __init__(self, connection: AsyncConnection, database: Database) -> None:
        self._connection = connection
        self._read = _READ[database.is_sqlite]

    async def read(self) -> Reading:
        return Reading(*(await self._connection.execute(self._read)).one())

    async def lock(self) -> Reading:
        return Reading(*(await self._connection.execute(self._read.with_for_update(of=database_time))).one())

    async def advance(self, latest: datetime) -> None:
        await self._connection.execute(_ADVANCE, {"time": latest})

    async def put_back(self, latest: datetime) -> None:
        await self._connection.execute(_PUT, {"time": latest})
