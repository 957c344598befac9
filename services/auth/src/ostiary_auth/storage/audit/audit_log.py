"""The audit log on SQL."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import and_, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from ostiary_auth.domain.audit.model import SELF_SERVICE_ACTORS, AuditEntry, AuditHead
from ostiary_auth.storage.audit.tables import IS_CHECKPOINT, audit_log
from ostiary_auth.storage.log_ends import LogEnds
from ostiary_auth.storage.removal import remove_rows

_LAST = select(audit_log).order_by(audit_log.c.number.desc()).limit(1)


class SqlAuditLog:
    """Implements `AuditRows`."""

    def __init__(self, connection: AsyncConnection, ends: LogEnds) -> None:
        self._connection = connection
        self._ends = ends

    async def lock_head(self) -> AuditHead:
        return await self._ends.lock_audit()

    def add(self, entry: AuditEntry) -> None:
        self._ends.add_entry(entry)

    async def entries(self, after: int, limit: int, subject: str | None = None) -> list[AuditEntry]:
        query = select(audit_log).where(audit_log.c.number > after).order_by(audit_log.c.number).limit(limit)
        if subject is not None:
            query = query.where(audit_log.c.subject == subject)
        return [AuditEntry(**row._mapping) for row in await self._connection.execute(query)]

    async def last_before(self, at: datetime, limit: int) -> AuditEntry | None:
        examined = audit_log.c.number < limit
        first = select(func.min(audit_log.c.number)).where(examined, audit_log.c.at >= at).scalar_subquery()
        query = _LAST.where(audit_log.c.number < func.coalesce(first, limit))
        row = (await self._connection.execute(query)).one_or_none()
        return AuditEntry(**row._mapping) if row else None

    async def checkpoints(self, event: str) -> list[AuditEntry]:
        query = select(audit_log).where(IS_CHECKPOINT, audit_log.c.event == event).order_by(audit_log.c.number)
        return [AuditEntry(**row._mapping) for row in await self._connection.execute(query)]

    async def remove_through(self, number: int, limit: int) -> int:
        oldest = select(audit_log.c.number).where(audit_log.c.number <= number).order_by(audit_log.c.number)
        return await remove_rows(self._connection, audit_log.c.number, oldest, limit)

    async def entries_about(self, actor: str) -> list[AuditEntry]:
        theirs = or_(audit_log.c.subject == actor, audit_log.c.actor == actor)
        query = select(audit_log).where(theirs).order_by(audit_log.c.number)
        return [AuditEntry(**row._mapping) for row in await self._connection.execute(query)]

    async def with_personal(self, actor: str, limit: int) -> list[int]:
        by_themselves = and_(audit_log.c.subject == actor, audit_log.c.actor.in_(SELF_SERVICE_ACTORS))
        theirs = or_(audit_log.c.actor == actor, by_themselves)
        query = select(audit_log.c.number).where(theirs, audit_log.c.personal.is_not(None)).limit(limit)
        return list((await self._connection.execute(query)).scalars())

    async def erase_personal(self, numbers: Sequence[int]) -> None:
        await self._connection.execute(update(audit_log).where(audit_log.c.number.in_(numbers)).values(personal=None))
