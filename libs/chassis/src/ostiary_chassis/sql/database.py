"""A pool of connections to one database, and the store that a service's domain uses through it."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, nullcontext
from pathlib import Path
from typing import Any, Generic, TypeVar

import sqlalchemy.exc
import structlog
from sqlalchemy import URL, Connection, inspect, text
from sqlalchemy.ext.asyncio import AsyncConnection

from ostiary_chassis.settings import ConfigError
from ostiary_chassis.sql import postgres, sqlite
from ostiary_chassis.sql.errors import STORAGE_ERRORS, is_misconfigured, is_unavailable

_log = structlog.stdlib.get_logger("sql")

#: Seconds for a transaction that writes to begin.
WRITE_WAIT_SECONDS = 5.0

#: Connections of one process; a PostgreSQL server accepts a hundred by default.
POOL_SIZE = 10

#: Seconds to wait for a free connection, after which a request is answered with 503.
POOL_TIMEOUT = 3.0

#: Seconds for one readiness check.
PING_TIMEOUT = 2.0

_POOL: dict[str, Any] = {
    "pool_size": POOL_SIZE,
    "max_overflow": 0,
    "pool_timeout": POOL_TIMEOUT,
    # Parameters of statements stay out of errors, and so out of logs: they are hashes and addresses.
    "hide_parameters": True,
}


class Database:
    """A pool of connections to one database. The first use connects."""

    def __init__(self, url: URL) -> None:
        self._url = url
        # SQLite admits one writer at a time and makes the others poll; here they queue instead.
        self._writer: AbstractAsyncContextManager[object] = asyncio.Lock() if self.is_sqlite else nullcontext()
        self._engine = (sqlite if self.is_sqlite else postgres).create_engine(url, _POOL)

    @property
    def is_sqlite(self) -> bool:
        """Whether this is SQLite, where `FOR UPDATE` neither exists nor is needed."""
        return self._url.get_backend_name() == "sqlite"

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """Run a transaction that only reads."""
        async with self._engine.connect() as connection, connection.begin():
            yield connection

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncConnection]:
        """Run a transaction that writes: commit at the end of the block, roll back if it raises."""
        async with AsyncExitStack() as stack:
            # One limit for all the waiting: a caller that has given up must not be served after all.
            async with asyncio.timeout(WRITE_WAIT_SECONDS):
                await stack.enter_async_context(self._writer)
                connection = await stack.enter_async_context(self._engine.connect())
                await connection.execution_options(**{sqlite.WRITES: True})
                await stack.enter_async_context(connection.begin())
            yield connection

    async def lock(self, connection: AsyncConnection, name: str) -> None:
        """Take the lock of this name, over all replicas, until the transaction ends. SQLite's writers need none."""
        if not self.is_sqlite:
            await postgres.lock(connection, name)

    async def notify(self, connection: AsyncConnection, message: str) -> None:
        """Send a message to all listeners when this transaction is committed. With SQLite there are none."""
        if not self.is_sqlite:
            await postgres.notify(connection, message)

    async def publish(self, message: str) -> None:
        """Send a message to all listeners now."""
        if not self.is_sqlite:
            async with self.write() as connection:
                await self.notify(connection, message)

    async def listen(self, on_message: Callable[[str], None], on_connect: Callable[[], None]) -> None:
        """Pass on the messages of all replicas until cancelled; returns at once for SQLite.

        Messages can be lost with the connection; `on_connect` is called whenever there is a new one.
        """
        if not self.is_sqlite:
            await postgres.listen(self._url, on_message, on_connect)

    async def ping(self) -> str:
        """Return why the database does not respond, as a text for the log; "" if it does."""
        try:
            async with asyncio.timeout(PING_TIMEOUT), self.read() as connection:
                await connection.execute(text("SELECT 1"))
        except STORAGE_ERRORS as error:
            if is_unavailable(error):
                return f"the database does not respond: {type(error).__name__}"
            raise
        return ""

    async def migrate(self, scripts: Path, service: str) -> None:
        """Run the Alembic scripts in a folder that have not run yet; one of several replicas does.

        Raises ConfigError, naming the setting of `service`, if the database cannot be used.
        """
        setting = _setting(service)
        try:
            if self.is_sqlite:
                sqlite.create_private_file(Path(self._url.database or ""))
            async with self.write() as connection:
                await self.lock(connection, "migrate")
                await connection.run_sync(_upgrade, setting, scripts, f"{service}_schema_version")
        except STORAGE_ERRORS as error:
            if not is_unavailable(error) and not is_misconfigured(error):
                raise
            raise self._unusable(setting, error) from None

    async def require_migrated(self, scripts: Path, service: str) -> None:
        """Check that all of these scripts have run, without running any. Raises ConfigError."""
        setting = _setting(service)
        missing = self.is_sqlite and not os.path.exists(self._url.database or "")  # noqa: ASYNC240, PTH110 - one stat
        try:
            current = None
            if not missing:
                async with self.read() as connection:
                    current = await connection.run_sync(_current_revision, f"{service}_schema_version")
        except STORAGE_ERRORS as error:
            raise self._unusable(setting, error) from None
        if current != _head(scripts):
            raise ConfigError(f"{setting}: {self!r} has not been prepared by this release; start the service first")

    async def close(self) -> None:
        """Close all connections."""
        await self._engine.dispose()

    def __repr__(self) -> str:
        """Return the URL as operators write it, without its password."""
        return repr(self._url.set(drivername=self._url.get_backend_name()))

    def _unusable(self, setting: str, error: Exception) -> ConfigError:
        cause = error.orig if isinstance(error, sqlalchemy.exc.DBAPIError) else error
        return ConfigError(f"{setting}: cannot use {self!r}: {cause}")


class SqlTransaction:
    """The base of a service's transactions: a connection on which a transaction has begun."""

    def __init__(self, connection: AsyncConnection, database: Database) -> None:
        self._connection = connection
        self._database = database
        self._on_commit: list[Callable[[], None]] = []

    async def lock(self, name: str) -> None:
        """Take the lock of this name, over all replicas, until the transaction ends."""
        await self._database.lock(self._connection, name)

    def on_commit(self, work: Callable[[], None]) -> None:
        """Call `work` after the commit, and not after a rollback."""
        self._on_commit.append(work)

    def committed(self) -> None:
        """Make the calls that `on_commit` registered."""
        for work in self._on_commit:
            work()


Transaction = TypeVar("Transaction", bound=SqlTransaction)


class SqlStore(Generic[Transaction]):
    """A domain's store on a database that the caller migrates and closes; `kind` is the class of its transactions."""

    def __init__(self, database: Database, kind: Callable[[AsyncConnection, Database], Transaction]) -> None:
        self.database = database
        self._kind = kind

    @asynccontextmanager
    async def read(self) -> AsyncIterator[Transaction]:
        """Begin a transaction that only reads."""
        async with self.database.read() as connection:
            yield self._kind(connection, self.database)

    @asynccontextmanager
    async def write(self) -> AsyncIterator[Transaction]:
        """Begin a transaction that writes; an exception rolls it back."""
        async with self.database.write() as connection:
            transaction = self._kind(connection, self.database)
            yield transaction
        transaction.committed()


def _setting(service: str) -> str:
    return f"OSTIARY_{service.upper()}_DATABASE_URL"


def _upgrade(connection: Connection, setting: str, scripts: Path, version_table: str) -> None:
    head, current = _head(scripts), _current_revision(connection, version_table)
    if current == head:
        return
    from ostiary_chassis import migrations  # noqa: PLC0415 - Alembic takes a tenth of a second to import

    try:
        migrations.upgrade(connection, scripts, version_table)
    except migrations.UnknownRevision as error:
        raise ConfigError(f"{setting}: this release does not know the database's schema: {error}") from None
    _log.info("schema migrated", from_revision=current, to_revision=head)


def _head(scripts: Path) -> str:
    """Return the newest revision; see `migrations` for the names of scripts."""
    return max(script.name for script in (scripts / "versions").glob("[0-9]*.py")).partition("_")[0]


def _current_revision(connection: Connection, version_table: str) -> str | None:
    if not inspect(connection).has_table(version_table):
        return None
    current: str | None = connection.scalar(text(f"SELECT version_num FROM {version_table}"))  # noqa: S608 - a constant
    return current
