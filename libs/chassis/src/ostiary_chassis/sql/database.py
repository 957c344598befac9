"""A pool of connections to one database, and the store that a service's domain uses through it."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Generic, TypeVar

import sqlalchemy.exc
from sqlalchemy import delete, insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from ostiary_chassis.settings import ConfigError
from ostiary_chassis.sql import postgres, sqlite
from ostiary_chassis.sql.address import DatabaseAddress
from ostiary_chassis.sql.errors import STORAGE_ERRORS, CannotConnect, describe, is_disk_full, is_unavailable
from ostiary_chassis.sql.schema import Schema

#: Seconds for a transaction that writes to begin.
WRITE_WAIT_SECONDS = 5.0

#: Connections of one process; a PostgreSQL server accepts a hundred by default.
POOL_SIZE = 10

#: Those of them that transactions which queue for one lock may have.
QUEUEING_AT_ONCE = 4

#: Further connections for following the database: one that may hang, and others for when it does.
FOLLOWING_POOL_SIZE = 3

#: Seconds to wait for a free connection, after which a request is answered with 503.
POOL_TIMEOUT = 3.0

#: Seconds for one test whether the database can be written to, and for which its outcome counts.
PROBE_TIMEOUT = 2.0
PROBE_SECONDS = 1.0

#: Bytes that a test writes, and those after a full disk: more than the tables' pages have left.
PROBE_BYTES = 1
FULL_PROBE_BYTES = 256 * 1024

_POOL: dict[str, Any] = {
    "max_overflow": 0,
    "pool_timeout": POOL_TIMEOUT,
    # Parameters of statements stay out of errors, and so out of logs: they are hashes and addresses.
    "hide_parameters": True,
}


class Database:
    """A pool of connections to one database. The first use connects."""

    def __init__(self, address: DatabaseAddress) -> None:
        self.address = address
        # SQLite admits one writer at a time and makes the others poll; here they queue instead.
        self._writer: AbstractAsyncContextManager[object] = asyncio.Lock() if self.is_sqlite else nullcontext()
        self._connector = postgres.Connector(address)
        self._engine = self._create_engine(POOL_SIZE)
        # Of its own, as others may wait in the pool for a slow database. Without transactions, which cost two round
        # trips, or turns of a thread: processes without any load do this all the time.
        autocommit = {sqlite.AUTOCOMMIT: True} if self.is_sqlite else {"isolation_level": "AUTOCOMMIT"}
        self._following = self._create_engine(FOLLOWING_POOL_SIZE).execution_options(**autocommit)
        self._probe = _WriteProbe(self)

    @property
    def is_sqlite(self) -> bool:
        """Whether this is SQLite, where `FOR UPDATE` neither exists nor is needed."""
        return self.address.is_sqlite

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """Run a transaction that only reads."""
        async with self._engine.connect() as connection, connection.begin():
            yield connection

    @asynccontextmanager
    async def follow(self) -> AsyncIterator[AsyncConnection]:
        """Run statements that only read and of which each sees what is committed, on connections kept for that."""
        async with self._following.connect() as connection:
            yield connection

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[AsyncConnection]:
        """Run a transaction that only reads, and sees nothing that is committed after its first statement.

        It may take long, and pause.
        """
        async with self._engine.connect() as connection:
            if not self.is_sqlite:
                await connection.execution_options(isolation_level="REPEATABLE READ")
            async with connection.begin():
                if not self.is_sqlite:
                    await postgres.allow_pauses(connection)
                yield connection

    @asynccontextmanager
    async def write(self, turn: AbstractAsyncContextManager[object] | None = None) -> AsyncIterator[AsyncConnection]:
        """Run a transaction that writes: commit at the end of the block, roll back if it raises.

        With a `turn`, it begins when that has been entered.
        """
        try:
            async with AsyncExitStack() as stack:
                # One limit for all the waiting: a caller that has given up must not be served after all.
                async with asyncio.timeout(WRITE_WAIT_SECONDS):
                    if turn is not None:
                        await stack.enter_async_context(turn)
                    await stack.enter_async_context(self._writer)
                    connection = await stack.enter_async_context(self._engine.connect())
                    await connection.execution_options(**{sqlite.WRITES: True})
                    await stack.enter_async_context(connection.begin())
                yield connection
        except STORAGE_ERRORS as error:
            if is_unavailable(error):
                self._probe.on_failure(error)
            raise
        self._probe.on_commit()

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
            await self._connector.listen(on_message, on_connect)

    async def unready_reason(self) -> str:
        """Return why the database cannot be written to now, as a text for the log; "" if it can."""
        return await self._probe.run()

    async def migrate(self, scripts: Path) -> None:
        """Run the Alembic scripts in a folder that have not run yet; one of several replicas does.

        Raises ConfigError, naming the service's setting, if the database cannot be used.
        """
        try:
            if self.is_sqlite:
                sqlite.create_private_file(self.address.path)
                await self._migrate_sqlite(Schema(self.address, scripts))
            else:
                await self._migrate_postgres(Schema(self.address, scripts))
        except STORAGE_ERRORS as error:
            raise self._unusable(error) from None

    async def _migrate_sqlite(self, schema: Schema) -> None:
        engine = sqlite.create_migration_engine(self.address)

        async def run() -> None:
            async with engine.connect() as connection:
                await connection.execution_options(**{sqlite.WRITES: True})
                async with connection.begin():
                    await connection.run_sync(schema.upgrade)

        await schema.when_free(run)

    async def _migrate_postgres(self, schema: Schema) -> None:
        await self._connector.check_sessions()
        async with self.read() as connection:
            if await connection.run_sync(schema.is_current):
                return
        engine = postgres.create_migration_engine(self._connector, self.address)
        async with engine.connect() as connection:

            async def run() -> None:
                await connection.run_sync(schema.upgrade)

            await schema.when_locked(lambda: postgres.try_lock_session(connection, "migrate"), connection)
            await schema.when_free(run)

    async def require_migrated(self, scripts: Path) -> None:
        """Check that these scripts have run, without running any. Raises ConfigError."""
        schema = Schema(self.address, scripts)
        try:
            is_missing = self.is_sqlite and not self.address.path.exists()
            if not is_missing:
                async with self.read() as connection:
                    if await connection.run_sync(schema.is_current):
                        return
        except STORAGE_ERRORS as error:
            raise self._unusable(error) from None
        raise ConfigError(
            f"{self.address.setting}: {self.address} has not been prepared by this release; start the service first"
        )

    @contextmanager
    def naming_the_setting(self) -> Iterator[None]:
        """Raise ConfigError if the database becomes unavailable, for what is done before serving or by a command."""
        try:
            yield
        except (sqlalchemy.exc.SQLAlchemyError, CannotConnect, TimeoutError) as error:
            if not is_unavailable(error):
                raise
            raise self._unusable(error) from None

    def _unusable(self, error: Exception) -> ConfigError:
        return ConfigError(f"{self.address.setting}: cannot use {self.address}: {describe(error)}")

    async def close(self) -> None:
        """Close all connections."""
        await self._engine.dispose()
        await self._following.dispose()

    def _create_engine(self, pool_size: int) -> AsyncEngine:
        pool = {**_POOL, "pool_size": pool_size}
        if self.is_sqlite:
            return sqlite.create_engine(self.address, pool)
        return postgres.create_engine(self._connector, self.address, pool)


class _WriteProbe:
    """Tests whether the database can be written to: by writing, as nothing else tells."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = asyncio.Lock()
        self._outcome, self._expires_at = "", 0.0
        self._committed_at = 0.0
        self._is_disk_full = False

    def on_commit(self) -> None:
        """Note that a transaction was committed."""
        self._committed_at = time.monotonic()

    def on_failure(self, error: Exception) -> None:
        """Note why a transaction has failed: the next test is due, and needs space if that was missing."""
        self._expires_at = 0.0
        self._is_disk_full = self._is_disk_full or is_disk_full(error)

    async def run(self) -> str:
        """Return why the database cannot be written to; "" if it can. Whoever asks at the same time shares a test."""
        async with self._lock:
            if time.monotonic() >= self._expires_at:
                self._outcome = await self._test()
                self._expires_at = time.monotonic() + PROBE_SECONDS
            return self._outcome

    async def _test(self) -> str:
        started_at = time.monotonic()
        try:
            async with asyncio.timeout(PROBE_TIMEOUT):
                await self._write(FULL_PROBE_BYTES if self._is_disk_full else PROBE_BYTES)
        except TimeoutError as error:
            # If others get through, it is busy.
            return "" if self._committed_at >= started_at else f"the database does not respond: {describe(error)}"
        except STORAGE_ERRORS as error:
            if not is_unavailable(error):
                raise
            return f"the database cannot be written to: {describe(error)}"
        self._is_disk_full = False
        return ""

    async def _write(self, size: int) -> None:
        """Write a row and delete it again; nothing of it is seen by others, or waits for them."""
        table, key = Schema.probe_table(self._database.address), secrets.token_hex(8)
        async with self._database.write() as connection:
            await connection.execute(insert(table).values(id=key, content=secrets.token_bytes(size)))
            await connection.execute(delete(table).where(table.c.id == key))


class SqlTransaction:
    """The base of a service's transactions: a connection on which a transaction has begun."""

    def __init__(self, connection: AsyncConnection, database: Database) -> None:
        self._connection = connection
        self._database = database
        self._on_commit: list[Callable[[], None]] = []
        self._on_rollback: list[Callable[[], None]] = []

    async def lock(self, name: str) -> None:
        """Take the lock of this name, over all replicas, until the transaction ends."""
        await self._database.lock(self._connection, name)

    async def flush(self) -> None:
        """Write what has been kept back until the commit."""

    def on_commit(self, work: Callable[[], None]) -> None:
        """Call `work` after the commit, and not after a rollback."""
        self._on_commit.append(work)

    def on_rollback(self, work: Callable[[], None]) -> None:
        """Call `work` if the transaction is not committed, or nobody knows whether it is."""
        self._on_rollback.append(work)

    def rolled_back(self) -> None:
        """Make the calls that `on_rollback` registered."""
        for work in self._on_rollback:
            work()

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
        self._turns = asyncio.Semaphore(QUEUEING_AT_ONCE)

    @asynccontextmanager
    async def read(self) -> AsyncIterator[Transaction]:
        """Begin a transaction that only reads."""
        async with self.database.read() as connection:
            yield self._kind(connection, self.database)

    @asynccontextmanager
    async def follow(self) -> AsyncIterator[Transaction]:
        """Begin to read what is committed, without a transaction, on a connection that is kept for that."""
        async with self.database.follow() as connection:
            yield self._kind(connection, self.database)

    def write(self) -> AbstractAsyncContextManager[Transaction]:
        """Begin a transaction that writes; an exception rolls it back."""
        return self._write(None)

    def queue(self) -> AbstractAsyncContextManager[Transaction]:
        """Begin a transaction that writes, and that waits for others in a lock that all of its kind need.

        Only a few of this process wait there at once, so that all other transactions find a connection.
        """
        return self._write(self._turns)

    @asynccontextmanager
    async def _write(self, turn: AbstractAsyncContextManager[object] | None) -> AsyncIterator[Transaction]:
        transaction = None
        try:
            async with self.database.write(turn) as connection:
                transaction = self._kind(connection, self.database)
                yield transaction
                await transaction.flush()
        except BaseException:
            if transaction is not None:
                transaction.rolled_back()
            raise
        transaction.committed()
