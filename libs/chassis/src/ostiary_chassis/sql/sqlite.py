"""SQLite: the standard library's driver, with a thread for each connection.

Nothing here blocks the event loop. SQLAlchemy's dialect is the one for aiosqlite, but aiosqlite goes to its thread and
back four times for each statement: for a cursor, to execute, to fetch and to close. `ThreadConnection` does it once,
which saves a fifth of the time of a transaction, and keeps up with a driver that blocks the loop.
"""

import asyncio
import os
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any, ParamSpec, Self, TypeVar

from sqlalchemy import Connection, ExceptionContext, event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry, NullPool

from ostiary_chassis.sql.address import DatabaseAddress

P = ParamSpec("P")
T = TypeVar("T")

#: Seconds that a writer waits for one in another process.
BUSY_SECONDS = 5.0

#: Error codes after which a file has to be opened anew: it may have been opened while it could not be written to.
_FILE_ERRORS = {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_CORRUPT}

#: The execution options of a connection whose transactions write, and of one without any: each statement is by itself.
WRITES = "ostiary_writes"
AUTOCOMMIT = "ostiary_autocommit"

#: FULL: a committed transaction is on disk, also after a power failure.
_PRAGMAS = ("journal_mode=WAL", "synchronous=FULL")

#: A migration that changes a table replaces it, and dropping the old one must not delete the rows that refer to it.
_FOREIGN_KEYS, _NO_FOREIGN_KEYS = "foreign_keys=ON", "foreign_keys=OFF"


def create_engine(address: DatabaseAddress, pool: dict[str, Any]) -> AsyncEngine:
    """Return an engine; `pool` are the settings of its pool."""
    return _create_engine(address, _FOREIGN_KEYS, pool)


def create_migration_engine(address: DatabaseAddress) -> AsyncEngine:
    """Return an engine on which tables can be replaced: what refers to a row is not looked at."""
    return _create_engine(address, _NO_FOREIGN_KEYS, {"poolclass": NullPool})


def table_with_broken_references(connection: Connection) -> str | None:
    """Return a table whose rows refer to nothing, as nobody has looked at that during a migration."""
    broken = connection.exec_driver_sql("PRAGMA foreign_key_check").first()
    return str(broken[0]) if broken is not None else None


def _create_engine(address: DatabaseAddress, foreign_keys: str, pool: dict[str, Any]) -> AsyncEngine:
    async def connect() -> ThreadConnection:
        return await ThreadConnection().open(str(address.path))

    def configure(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
        cursor = connection.cursor()
        for pragma in (*_PRAGMAS, foreign_keys):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    engine = create_async_engine(address.url, **pool, async_creator=connect)
    event.listen(engine.sync_engine, "connect", configure)
    event.listen(engine.sync_engine, "begin", _begin)
    event.listen(engine.sync_engine, "handle_error", _on_error)
    return engine


def create_private_file(path: Path) -> None:
    """Create a database file that only its owner can read, as it holds personal data; SQLite's default is wider."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))


def _begin(connection: Connection) -> None:
    options = connection.get_execution_options()
    if not options.get(AUTOCOMMIT, False):
        connection.exec_driver_sql("BEGIN IMMEDIATE" if options.get(WRITES, False) else "BEGIN")


def _on_error(context: ExceptionContext) -> None:
    """Drop all connections when the file fails: the next attempt opens it again."""
    # The primary code is in the lowest byte.
    if getattr(context.original_exception, "sqlite_errorcode", 0) & 0xFF in _FILE_ERRORS:
        context.is_disconnect = True


#: What to call, and where its outcome goes, if anywhere.
_Job = tuple[Callable[[], Any], asyncio.Future[Any] | None]


class ThreadConnection:
    """A connection on a thread of its own, with what SQLAlchemy uses of the interface of an aiosqlite connection.

    Calls run in the order in which they were made. Cancelling one does not interrupt it: SQLAlchemy then closes the
    connection, which comes after it and rolls back.
    """

    # SQLAlchemy looks at this attribute to see whether the connection is open.
    _connection: sqlite3.Connection | None = None

    def __init__(self) -> None:
        # None ends the thread.
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        # The thread has no reference to the connection. As a daemon, it cannot delay the exit of the process.
        Thread(target=_work, args=(self._jobs,), name="ostiary-sqlite", daemon=True).start()

    async def open(self, path: str) -> Self:
        """Connect to a file. The driver begins no transactions by itself. Raises sqlite3.Error."""
        try:
            self._connection = await self.call(_connect, path)
        except BaseException:
            self._jobs.put(None)
            raise
        return self

    def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> "asyncio.Future[T]":
        """Run a function on the thread."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._jobs.put((lambda: function(*args, **kwargs), future))
        return future

    def cursor(self) -> "ThreadCursor":
        return ThreadCursor(self)

    async def create_function(self, *args: Any, **kwargs: Any) -> None:
        await self.call(self.connection.create_function, *args, **kwargs)

    async def commit(self) -> None:
        if self.connection.in_transaction:
            await self.call(self.connection.commit)

    async def rollback(self) -> None:
        # The pool rolls back each connection that it gets back; most have committed.
        if self.connection.in_transaction:
            await self.call(self.connection.rollback)

    async def close(self) -> None:
        if self._connection is not None:
            connection, self._connection = self._connection, None
            closed = self.call(connection.close)
            self._jobs.put(None)
            await closed

    def stop(self) -> None:
        """Close without waiting, for a connection that is garbage collected or whose closing was cancelled."""
        if self._connection is not None:
            self._jobs.put((self._connection.close, None))
            self._connection = None
            self._jobs.put(None)

    @property
    def connection(self) -> sqlite3.Connection:
        if self._connection is None:
            # The exception with which SQLAlchemy expects aiosqlite to report it.
            raise ValueError("no active connection")
        return self._connection


class ThreadCursor:
    """A cursor that executes and fetches in one call of the thread."""

    def __init__(self, connection: ThreadConnection) -> None:
        self._connection = connection
        self._rows: list[Any] = []
        self.description: Any = None
        self.rowcount = -1
        self.lastrowid: int | None = None
        self.arraysize = 1

    async def __aenter__(self) -> Self:
        return self

    async def execute(self, statement: str, parameters: Sequence[Any] = ()) -> None:
        await self._connection.call(self._run, self._connection.connection.execute, statement, parameters)

    async def executemany(self, statement: str, parameters: Sequence[Sequence[Any]]) -> None:
        await self._connection.call(self._run, self._connection.connection.executemany, statement, parameters)

    async def fetchall(self) -> list[Any]:
        return self._rows

    async def close(self) -> None:
        self._rows = []

    def _run(self, execute: Callable[[str, Any], sqlite3.Cursor], statement: str, parameters: Sequence[Any]) -> None:
        cursor = execute(statement, parameters)
        self._rows = cursor.fetchall()
        self.description, self.rowcount, self.lastrowid = cursor.description, cursor.rowcount, cursor.lastrowid
        cursor.close()


def _connect(path: str) -> sqlite3.Connection:
    # Calls are never concurrent, but the last reference may be dropped on another thread.
    return sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)


def _work(jobs: "SimpleQueue[_Job | None]") -> None:
    while (job := jobs.get()) is not None:
        function, future = job
        try:
            result = function()
        except BaseException as error:  # noqa: BLE001 - raised where the future is awaited
            _settle(future, _set_exception, error)
        else:
            _settle(future, _set_result, result)
        # Nothing of the last call is kept while waiting for the next.
        result = None
        del job, future, function


def _settle(
    future: asyncio.Future[Any] | None, settle: Callable[[asyncio.Future[Any], Any], None], outcome: object
) -> None:
    if future is not None:
        with suppress(RuntimeError):  # the event loop was closed meanwhile
            future.get_loop().call_soon_threadsafe(settle, future, outcome)


def _set_result(future: asyncio.Future[T], result: T) -> None:
    if not future.done():  # it may have been cancelled
        future.set_result(result)


def _set_exception(future: asyncio.Future[Any], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)
