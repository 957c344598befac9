"""The domain's store on SQL, with the same statements on SQLite and PostgreSQL.

`domain.ports` specifies the methods. Rows are locked in this order: time, user, throttles, sessions, logs; so no two
transactions deadlock.
"""

from datetime import datetime, timedelta
from functools import cached_property

from ostiary_auth.storage import pruning
from ostiary_auth.storage.accounts.throttles import SqlThrottles
from ostiary_auth.storage.accounts.users import SqlUsers
from ostiary_auth.storage.audit.audit_log import SqlAuditLog
from ostiary_auth.storage.database_time import SqlTime
from ostiary_auth.storage.keys.keys import SqlKeys
from ostiary_auth.storage.log_ends import LogEnds
from ostiary_auth.storage.oauth.clients import SqlClients
from ostiary_auth.storage.revocation.event_receivers import SqlEventReceivers
from ostiary_auth.storage.revocation.revocation_log import SqlRevocationLog
from ostiary_auth.storage.revocation.verifiers import SqlVerifiers
from ostiary_auth.storage.sessions.sessions import SqlSessions
from ostiary_chassis.sql import SqlStore, SqlTransaction


class AuthTransaction(SqlTransaction):
    """Implements the domain's `Transaction`."""

    @cached_property
    def users(self) -> SqlUsers:
        return SqlUsers(self._connection)

    @cached_property
    def throttles(self) -> SqlThrottles:
        return SqlThrottles(self._connection)

    @cached_property
    def sessions(self) -> SqlSessions:
        return SqlSessions(self._connection, self._database)

    @cached_property
    def keys(self) -> SqlKeys:
        return SqlKeys(self._connection)

    @cached_property
    def clients(self) -> SqlClients:
        return SqlClients(self._connection)

    @cached_property
    def audit(self) -> SqlAuditLog:
        return SqlAuditLog(self._connection, self._log_ends)

    @cached_property
    def revocations(self) -> SqlRevocationLog:
        return SqlRevocationLog(self._connection, self._database, self._log_ends)

    @cached_property
    def event_receivers(self) -> SqlEventReceivers:
        return SqlEventReceivers(self._connection)

    @cached_property
    def verifiers(self) -> SqlVerifiers:
        return SqlVerifiers(self._connection)

    @cached_property
    def time(self) -> SqlTime:
        return SqlTime(self._connection, self._database)

    @cached_property
    def _log_ends(self) -> LogEnds:
        return LogEnds(self._connection, self._database)

    async def flush(self) -> None:
        await self._log_ends.write()

    async def prune(self, now: datetime, *, idle: timedelta, limit: int) -> int:
        return await pruning.prune(self._connection, now, idle=idle, limit=limit)


AuthStore = SqlStore[AuthTransaction]
