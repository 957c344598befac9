"""The audit log and the revocation log on SQL."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from datetime import datetime

from sqlalchemy import and_, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from ostiary_auth.domain.clients import PERSONS_OWN_ACTORS
from ostiary_auth.domain.journal import AuditEntry, Revocation
from ostiary_auth.storage.tables import audit_log, revocation_head, revocations
from ostiary_chassis.sql import Database

_ADD_ENTRY = insert(audit_log)
_ADD_REVOCATION = insert(revocations)
_NEXT_NUMBER = update(revocation_head).values(number=revocation_head.c.number + 1).returning(revocation_head.c.number)
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

    async def add_revocation(self, kind: str, target: str, now: datetime, expires_at: datetime) -> None:
        """Append to the revocation log, with the next number in the order of commits."""
        await self._lock()
        number = (await self._connection.execute(_NEXT_NUMBER)).scalar_one()
        await self._connection.execute(_ADD_REVOCATION, asdict(Revocation(number, kind, target, now, expires_at)))

    async def revocations_of(self, targets: Mapping[str, str]) -> list[Revocation]:
        """Return the revocations of these targets, given by kind."""
        chosen = (and_(revocations.c.kind == kind, revocations.c.target == target) for kind, target in targets.items())
        query = select(revocations).where(or_(*chosen))
        return [Revocation(**row._mapping) for row in await self._connection.execute(query)]

    async def _lock(self) -> None:
        if not self._is_locked:
            await self._database.lock(self._connection, "journal")
            self._is_locked = True
