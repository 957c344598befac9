"""The audit log and the revocation log on SQL."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from sqlalchemy import Row, and_, bindparam, insert, or_, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from ostiary.feed import GENESIS, Kind
from ostiary_auth.domain.audit.log import AuditEntry, LoggedRevocation, LogHead
from ostiary_auth.domain.oauth.clients import PERSONS_OWN_ACTORS
from ostiary_auth.domain.revocation.verifiers import REVOKED
from ostiary_auth.storage.tables import audit_log, event_receivers, revocation_head, revocations
from ostiary_chassis.sql import Database

_ADD_ENTRY = insert(audit_log)
_ADD_REVOCATION = insert(revocations)
_HEAD = select(revocation_head.c.epoch, revocation_head.c.number, revocation_head.c.digest)
_MOVE_HEAD = update(revocation_head).values(number=bindparam("to"), digest=bindparam("end"))
_AFTER = (
    select(revocations)
    .where(revocations.c.number > bindparam("number"), revocations.c.number <= bindparam("head"))
    .order_by(revocations.c.number)
    .limit(bindparam("rows"))
)
_ACKNOWLEDGE = text(
    "INSERT INTO event_receivers (client_id, acknowledged) VALUES (:client_id, :number)"
    " ON CONFLICT (client_id) DO UPDATE SET acknowledged = excluded.acknowledged"
    " WHERE event_receivers.acknowledged < excluded.acknowledged"
)
_LAST_ENTRY = select(audit_log).order_by(audit_log.c.number.desc()).limit(1)


class SqlJournal:
    """Rows of `audit_log` and `revocations`."""

    def __init__(self, connection: AsyncConnection, database: Database) -> None:
        """Use an open transaction."""
        self._connection = connection
        self._database = database
        self._is_locked = False
        # While the lock is held nobody else appends.
        self._last: AuditEntry | None = None

    async def last_entry(self) -> AuditEntry | None:
        """Return the audit log's last entry, and let nobody else append until the end."""
        await self._lock()
        if self._last is None:
            row = (await self._connection.execute(_LAST_ENTRY)).one_or_none()
            self._last = AuditEntry(**row._mapping) if row else None
        return self._last

    async def add_entry(self, entry: AuditEntry, mac: bytes) -> None:
        """Append to the audit log, under this MAC."""
        self._last = replace(entry, mac=mac)
        await self._connection.execute(_ADD_ENTRY, asdict(self._last))

    async def entries(self, after: int, limit: int, subject: str | None = None) -> list[AuditEntry]:
        """Return the entries after a number, in their order."""
        query = select(audit_log).where(audit_log.c.number > after).order_by(audit_log.c.number).limit(limit)
        if subject is not None:
            query = query.where(audit_log.c.subject == subject)
        return [AuditEntry(**row._mapping) for row in await self._connection.execute(query)]

    async def entries_about(self, who: str) -> list[AuditEntry]:
        """Return all entries with this subject or actor, in their order."""
        theirs = or_(audit_log.c.subject == who, audit_log.c.actor == who)
        query = select(audit_log).where(theirs).order_by(audit_log.c.number)
        return [AuditEntry(**row._mapping) for row in await self._connection.execute(query)]

    async def erase_personal(self, who: str) -> None:
        """Erase what is personal in what somebody did, and in what is about them by their own programs."""
        by_themselves = and_(audit_log.c.subject == who, audit_log.c.actor.in_(PERSONS_OWN_ACTORS))
        theirs = or_(audit_log.c.actor == who, by_themselves)
        await self._connection.execute(update(audit_log).where(theirs).values(personal=None))

    async def head(self) -> LogHead:
        """Return where the revocation log ends."""
        return LogHead(**(await self._connection.execute(_HEAD)).one()._mapping)

    async def lock_head(self) -> LogHead:
        """Return where the revocation log ends, and let nobody else append until the end."""
        await self._lock()
        return await self.head()

    async def add_revocation(self, logged: LoggedRevocation) -> None:
        """Append to the revocation log, whose head has been locked; replicas are told when this is committed."""
        await self._connection.execute(_ADD_REVOCATION, asdict(logged))
        await self._connection.execute(_MOVE_HEAD, {"to": logged.number, "end": logged.digest})
        await self._database.notify(self._connection, REVOKED)

    async def restart_log(self, epoch: str, number: int) -> None:
        """Give the revocation log another name, and go on after a number; its head has been locked."""
        values = {"epoch": epoch, "number": number, "digest": GENESIS}
        await self._connection.execute(update(revocation_head).values(**values))
        await self._database.notify(self._connection, REVOKED)

    async def revocations_after(self, number: int, head: int, limit: int) -> list[LoggedRevocation]:
        """Return revocations that are kept with numbers over `number` and up to `head`, in their order."""
        rows = await self._connection.execute(_AFTER, {"number": number, "head": head, "rows": limit})
        return [_logged(row) for row in rows]

    async def revocations_of(self, targets: Mapping[Kind, str]) -> list[LoggedRevocation]:
        """Return the revocations of these targets, given by kind."""
        chosen = (and_(revocations.c.kind == kind, revocations.c.target == target) for kind, target in targets.items())
        query = select(revocations).where(or_(*chosen))
        return [_logged(row) for row in await self._connection.execute(query)]

    async def acknowledged_by(self, client_id: str) -> int:
        """Return the number of the last revocation that a receiver of events has acknowledged; 0 if it has none."""
        query = select(event_receivers.c.acknowledged).where(event_receivers.c.client_id == client_id)
        return (await self._connection.execute(query)).scalar_one_or_none() or 0

    async def acknowledge(self, client_id: str, number: int) -> None:
        """Note that a receiver of events has all up to a number."""
        await self._connection.execute(_ACKNOWLEDGE, {"client_id": client_id, "number": number})

    async def _lock(self) -> None:
        if not self._is_locked:
            await self._database.lock(self._connection, "journal")
            self._is_locked = True


def _logged(row: Row[Any]) -> LoggedRevocation:
    values = dict(row._mapping)
    return LoggedRevocation(**{**values, "kind": Kind(values["kind"])})
