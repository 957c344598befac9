"""The ends of the audit log and the revocation log, and appending to both.

One transaction at a time appends, over all replicas: from the first look at the ends until its commit. All others wait
meanwhile, so little is done in between: one statement reads both ends, and one writes all that is appended.
"""

from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import cache
from typing import Any

from sqlalchemy import (
    CTE,
    BigInteger,
    LargeBinary,
    String,
    Table,
    Text,
    bindparam,
    column,
    func,
    insert,
    select,
    true,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.types import TypeEngine

from ostiary_auth.domain.audit.model import AuditEntry, AuditHead
from ostiary_auth.domain.revocation.messages import REVOKED
from ostiary_auth.domain.revocation.model import LoggedRevocation, LogHead
from ostiary_auth.storage.audit.tables import audit_log
from ostiary_auth.storage.revocation.tables import revocation_head, revocations
from ostiary_chassis.sql import Database, notification

#: One lock for both, as most transactions append to both, in either order: two locks could deadlock.
_LOCK = "journal"

_last = select(audit_log.c.number, audit_log.c.mac).order_by(audit_log.c.number.desc()).limit(1).subquery()
_ENDS = select(
    revocation_head.c.epoch,
    revocation_head.c.number,
    revocation_head.c.digest,
    _last.c.number.label("audit_number"),
    _last.c.mac.label("audit_mac"),
).select_from(revocation_head.outerjoin(_last, true()))
_MOVE_HEAD = update(revocation_head).values(
    number=bindparam("to", type_=BigInteger), digest=bindparam("end", type_=LargeBinary)
)


class LogEnds:
    """The ends of both logs in one transaction, with what it has appended so far."""

    def __init__(self, connection: AsyncConnection, database: Database) -> None:
        self._connection = connection
        self._database = database
        self._is_locked = False
        self._audit = AuditHead(0, b"")
        self._revocations: LogHead | None = None
        # What is not yet written.
        self._entries: list[AuditEntry] = []
        self._revoked: list[LoggedRevocation] = []

    @property
    def changed_head(self) -> LogHead | None:
        """The head of the revocation log, if this transaction keeps others from appending."""
        return self._revocations

    async def lock_audit(self) -> AuditHead:
        """Keep others from appending until the end of the transaction, and return the end of the audit log."""
        await self._lock()
        return self._audit

    async def lock_revocations(self) -> LogHead:
        """Keep others from appending until the end of the transaction, and return the head of the revocation log."""
        await self._lock()
        assert self._revocations is not None  # noqa: S101 - it has been read
        return self._revocations

    async def _lock(self) -> None:
        if self._is_locked:
            return
        await self._database.lock(self._connection, _LOCK)
        # In a statement of its own, which sees what was committed until the lock was free.
        row = (await self._connection.execute(_ENDS)).one()
        self._revocations = LogHead(row.epoch, row.number, row.digest)
        if row.audit_number is not None:
            self._audit = AuditHead(row.audit_number, row.audit_mac)
        self._is_locked = True

    def add_entry(self, entry: AuditEntry) -> None:
        self._audit = AuditHead(entry.number, entry.mac)
        self._entries.append(entry)

    def add_revocation(self, logged: LoggedRevocation) -> None:
        assert self._revocations is not None  # noqa: S101 - it is locked
        self._revocations = replace(self._revocations, number=logged.number, digest=logged.digest)
        self._revoked.append(logged)

    def restart(self, head: LogHead) -> None:
        """Go on from another head."""
        self._revocations = head

    async def write(self) -> None:
        """Write what was appended; replicas are notified of revocations at the commit."""
        entries, revoked = self._entries, self._revoked
        self._entries, self._revoked = [], []
        moved = {"to": revoked[-1].number, "end": revoked[-1].digest} if revoked else {}
        if self._database.is_sqlite:
            for table, added in ((audit_log, entries), (revocations, revoked)):
                if added:
                    await self._connection.execute(insert(table), [asdict(each) for each in added])
            if moved:
                await self._connection.execute(_MOVE_HEAD, moved)
        elif revoked:
            given = {**_columns(audit_log, entries), **_columns(revocations, revoked), **moved, "message": REVOKED}
            await self._connection.execute(_append_both(), given)
        elif entries:
            await self._connection.execute(_append_entries(), _columns(audit_log, entries))


def _columns(table: Table, added: Sequence[AuditEntry | LoggedRevocation]) -> dict[str, list[Any]]:
    """Return values as a parameter for each column, for `_insert_all`."""
    return {_parameter(table, column.name): [getattr(each, column.name) for each in added] for column in table.c}


def _parameter(table: Table, name: str) -> str:
    return f"{table.name}_{name}"


def _insert_all(table: Table) -> Any:
    """Return the statement that inserts any number of rows, given by column."""
    given = (
        func.unnest(*(bindparam(_parameter(table, each.name), type_=ARRAY(_unlimited(each.type))) for each in table.c))
        .table_valued(*(column(each.name, each.type) for each in table.c), name="given")
        .render_derived()
    )
    return insert(table).from_select(table.c.keys(), select(*given.c))


def _unlimited(kind: TypeEngine[Any]) -> TypeEngine[Any]:
    """Return a column's type without a limit: a cast to one would cut what is longer, which the column refuses."""
    return Text() if isinstance(kind, String) else kind


@cache
def _append_entries() -> Any:
    return _insert_all(audit_log)


@cache
def _append_both() -> Any:
    """Return the statement that appends to both logs, moves the head, and notifies the replicas."""
    added: list[CTE] = [_insert_all(table).cte(f"added_{table.name}") for table in (audit_log, revocations)]
    return _MOVE_HEAD.returning(notification(bindparam("message", type_=Text))).add_cte(*added)
