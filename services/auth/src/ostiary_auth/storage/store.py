"""The domain's store on SQL, the same statements on SQLite and PostgreSQL.

What each method promises is said by the protocols of `domain.ports`. Rows are locked in this order: user,
throttles, sessions, journal; so no two transactions wait for each other.
"""

from datetime import datetime, timedelta
from functools import cached_property

from ostiary_auth.storage import pruning
from ostiary_auth.storage.accounts.throttles import SqlThrottles
from ostiary_auth.storage.accounts.users import SqlUsers
from ostiary_auth.storage.audit.audit_log import SqlJournal
from ostiary_auth.storage.keys.keys import SqlKeys
from ostiary_auth.storage.oauth.clients import SqlClients
from ostiary_auth.storage.revocation.verifiers import SqlVerifiers
from ostiary_auth.storage.sessions.sessions import SqlSessions
from ostiary_chassis.sql import SqlStore, SqlTransaction


class AuthTransaction(SqlTransaction):
    """A Transaction on a SQL connection."""

    @cached_property
    def users(self) -> SqlUsers:
        """Users."""
        return SqlUsers(self._connection)

    @cached_property
    def sessions(self) -> SqlSessions:
        """Sessions and refresh tokens."""
        return SqlSessions(self._connection, self._database)

    @cached_property
    def keys(self) -> SqlKeys:
        """Signing keys and secrets."""
        return SqlKeys(self._connection)

    @cached_property
    def clients(self) -> SqlClients:
        """OAuth clients."""
        return SqlClients(self._connection)

    @cached_property
    def journal(self) -> SqlJournal:
        """Audit log and revocation log."""
        return SqlJournal(self._connection, self._database)

    @cached_property
    def throttles(self) -> SqlThrottles:
        """Counters of attempts."""
        return SqlThrottles(self._connection)

    @cached_property
    def verifiers(self) -> SqlVerifiers:
        """Verifiers that follow the revocation log."""
        return SqlVerifiers(self._connection)

    async def prune(self, now: datetime, *, idle: timedelta, limit: int) -> int:
        """Delete up to `limit` rows of each kind that nothing depends on any more; return how many."""
        return await pruning.prune(self._connection, now, idle=idle, limit=limit)


AuthStore = SqlStore[AuthTransaction]
