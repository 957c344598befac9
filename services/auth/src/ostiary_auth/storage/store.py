"""The domain's store on SQL, the same statements on SQLite and PostgreSQL.

What each method promises is said by the protocols of `domain.store`. Rows are locked in this order: user,
sessions, throttles, journal; so no two transactions wait for each other.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from functools import cached_property

from sqlalchemy.ext.asyncio import AsyncConnection

from ostiary_auth.storage import pruning
from ostiary_auth.storage.clients import SqlClients
from ostiary_auth.storage.journal import SqlJournal
from ostiary_auth.storage.keys import SqlKeys
from ostiary_auth.storage.sessions import SqlSessions
from ostiary_auth.storage.throttles import SqlThrottles
from ostiary_auth.storage.users import SqlUsers
from ostiary_chassis.sql import Database


class AuthStore:
    """Where transactions on a database come from."""

    def __init__(self, database: Database) -> None:
        """Use `database`, which somebody else migrates and closes."""
        self.database = database

    @asynccontextmanager
    async def read(self) -> AsyncIterator["SqlTransaction"]:
        """Begin a transaction that only reads."""
        async with self.database.read() as connection:
            yield SqlTransaction(connection, self.database)

    @asynccontextmanager
    async def write(self) -> AsyncIterator["SqlTransaction"]:
        """Begin a transaction that writes; an exception rolls it back."""
        async with self.database.write() as connection:
            transaction = SqlTransaction(connection, self.database)
            yield transaction
        transaction.committed()


class SqlTransaction:
    """A Transaction on a SQL connection."""

    def __init__(self, connection: AsyncConnection, database: Database) -> None:
        """Use an open transaction."""
        self._connection = connection
        self._database = database
        self._on_commit: list[Callable[[], None]] = []

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

    def on_commit(self, work: Callable[[], None]) -> None:
        """Do something when the transaction has been committed, and not if it is rolled back."""
        self._on_commit.append(work)

    def committed(self) -> None:
        """Do what was to be done then."""
        for work in self._on_commit:
            work()

    async def lock(self, name: str) -> None:
        """Let only one transaction past here, over all replicas, until it ends."""
        await self._database.lock(self._connection, name)

    async def prune(self, now: datetime, *, idle: timedelta, limit: int) -> int:
        """Delete up to `limit` rows of each kind that nothing depends on any more; return how many."""
        return await pruning.prune(self._connection, now, idle=idle, limit=limit)
