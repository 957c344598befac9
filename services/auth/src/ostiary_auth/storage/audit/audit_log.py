"""The audit log on SQL."""

from dataclasses import asdict, replace

from sqlalchemy import and_, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from ostiary_auth.domain.audit.model import SELF_SERVICE_ACTORS, AuditEntry
from ostiary_auth.storage.append_lock import AppendLock
from ostiary_auth.storage.audit.tables import audit_log

_ADD = insert(audit_log)
_LAST = select(audit_log).order_by(audit_log.c.number.desc()).limit(1)


class SqlAuditLog:
    """Implements `AuditRows`."""

    def __init__(self, connection: AsyncConnection, lock: AppendLock) -> None:
        self._connection = connection
        self._lock = lock
        # Nobody else appends while the lock is held.
        self._last: AuditEntry | None = None

    async def last_entry(self) -> AuditEntry | None:
        await self._lock.acquire()
        if self._last is None:
            row = (await self._connection.execute(_LAST)).one_or_none()
            self._last = AuditEntry(**row._mapping) if row else None
        return self._last

    async def add_entry(self, entry: AuditEntry, mac: bytes) -> None:
        self._last = replace(entry, mac=mac)
        await self._connection.execute(_ADD, asdict(self._last))

    async def entries(self, after: int, limit: int, subject: str | None = None) -> list[AuditEntry]:
        query = select(audit_log).where(audit_log.c.number > after).order_by(audit_log.c.number).limit(limit)
        if subject is not None:
            query = query.where(audit_log.c.subject == subject)
        return [AuditEntry(**row._mapping) for row in await self._connection.execute(query)]

    async def entries_about(self, actor: str) -> list[AuditEntry]:
        theirs = or_(audit_log.c.subject == actor, audit_log.c.actor == actor)
        query = select(audit_log).where(theirs).order_by(audit_log.c.number)
        return [AuditEntry(**row._mapping) for row in await self._connection.execute(query)]

    async def erase_personal(self, actor: str) -> None:
        by_themselves = and_(audit_log.c.subject == actor, audit_log.c.actor.in_(SELF_SERVICE_ACTORS))
        theirs = or_(audit_log.c.actor == actor, by_themselves)
        await self._connection.execute(update(audit_log).where(theirs).values(personal=None))
