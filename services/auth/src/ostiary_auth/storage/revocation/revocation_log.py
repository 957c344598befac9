"""The revocation log on SQL."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from sqlalchemy import DateTime, Row, TextClause, and_, bindparam, delete, or_, select, text, type_coerce, update
from sqlalchemy.ext.asyncio import AsyncConnection

from ostiary.feed import GENESIS, Kind
from ostiary_auth.domain.revocation.messages import REVOKED
from ostiary_auth.domain.revocation.model import Entry, EntryColumns, LoggedRevocation, LogHead, expiry_of
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
#: What is published of entries. Its time is converted here, as `UtcDateTime` takes longer.
_ENTRIES = (
    select(
        revocations.c.number,
        revocations.c.kind,
        revocations.c.target,
        type_coerce(revocations.c.expires_at, DateTime(timezone=True)),
        revocations.c.digest,
    )
    .where(revocations.c.number > bindparam("number"), revocations.c.number <= bindparam("head"))
    .order_by(revocations.c.number)
    .limit(bindparam("rows"))
)
_KINDS = {kind.value: kind for kind in Kind}

#: What no target contains.
_SEPARATOR = "\n"


def _columns(joined: str, expiry: str, order: str) -> TextClause:
    """Return the query for entries as one text, and the digests before the first and at the last of them.

    To read a text takes a tenth of the time that thousands of rows take.
    """
    return text(f"""
        SELECT joined,
            (SELECT digest FROM revocations WHERE number = :number),
            (SELECT digest FROM revocations WHERE number = last)
        FROM (
            SELECT {joined}(number || '{_SEPARATOR}' || kind || '{_SEPARATOR}' || target || '{_SEPARATOR}' || expiry,
                '{_SEPARATOR}'{order}) AS joined, max(number) AS last
            FROM (
                SELECT number, kind, target, {expiry} AS expiry
                FROM revocations
                WHERE number > :number AND number <= :head AND number < (
                    SELECT min(number) - min(number) % :span + :span FROM revocations WHERE number > :number
                )
                ORDER BY number
            ) AS entries
        ) AS part
    """)  # noqa: S608 - constants


#: By whether it is for SQLite. The expiry is that of `expiry_of`; SQLite stores a time with six digits after the point.
_COLUMNS = {
    True: _columns(
        "group_concat",
        "CAST(strftime('%s', substr(expires_at, 1, 19)) AS INTEGER) + (substr(expires_at, 21) <> '000000')",
        # That of the rows: SQLite keeps the order of a subquery for this, and takes no other before 3.44.
        "",
    ),
    False: _columns("string_agg", "CAST(ceil(date_part('epoch', expires_at)) AS bigint)", " ORDER BY number"),
}


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

    async def restart(self, epoch: str, number: int) -> list[LoggedRevocation]:
        kept = select(revocations).where(revocations.c.kind == Kind.KEY).order_by(revocations.c.number)
        keys = [_logged(row) for row in await self._connection.execute(kept)]
        await self._connection.execute(delete(revocations))
        values: Any = {"epoch": epoch, "number": number, "digest": GENESIS}
        await self._connection.execute(update(revocation_head).values(**values))
        self._ends.restart(LogHead(**values))
        await self._database.notify(self._connection, REVOKED)
        return keys

    async def after(self, number: int, head: int, limit: int) -> list[LoggedRevocation]:
        rows = await self._connection.execute(_AFTER, {"number": number, "head": head, "rows": limit})
        return [_logged(row) for row in rows]

    async def entries(self, number: int, head: int, limit: int) -> list[Entry]:
        rows = await self._connection.execute(_ENTRIES, {"number": number, "head": head, "rows": limit})
        return [
            Entry(number, _KINDS[kind], target, expiry_of(expires_at), digest)
            # At once: to fetch one row after the other takes twice as long.
            for number, kind, target, expires_at, digest in rows.all()
        ]

    async def columns(self, number: int, head: int, span: int) -> AsyncGenerator[EntryColumns, None]:
        coming = asyncio.ensure_future(self._read_columns(number, head, span))
        try:
            while (found := await coming) is not None:
                coming = asyncio.ensure_future(self._read_columns(found.numbers[-1], head, span))
                # It is sent before the caller computes.
                await asyncio.sleep(0)
                yield found
        finally:
            # Until then, the connection is in use.
            coming.cancel()
            await asyncio.wait({coming})

    async def _read_columns(self, number: int, head: int, span: int) -> EntryColumns | None:
        given = {"number": number, "head": head, "span": span}
        joined, base, digest = (await self._connection.execute(_COLUMNS[self._database.is_sqlite], given)).one()
        if joined is None:
            return None
        values = joined.split(_SEPARATOR)
        return EntryColumns(
            numbers=list(map(int, values[::4])),
            kinds=values[1::4],
            targets=values[2::4],
            expiries=list(map(int, values[3::4])),
            base=base,
            digest=digest,
        )

    async def of(self, targets: Mapping[Kind, str]) -> list[LoggedRevocation]:
        chosen = (and_(revocations.c.kind == kind, revocations.c.target == target) for kind, target in targets.items())
        query = select(revocations).where(or_(*chosen))
        return [_logged(row) for row in await self._connection.execute(query)]


def _logged(row: Row[Any]) -> LoggedRevocation:
    values = dict(row._mapping)
    return LoggedRevocation(**{**values, "kind": Kind(values["kind"])})
