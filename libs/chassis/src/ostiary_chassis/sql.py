"""A SQL database behind a service: SQLite for one process, PostgreSQL for several replicas.

Transactions are short and say up front whether they write. On SQLite a writer takes the write lock
when it begins (`BEGIN IMMEDIATE`), so it never fails half-way for having read first; on PostgreSQL
rows that a decision rests on are locked with `SELECT ... FOR UPDATE`.
"""

import asyncio
import hashlib
import os
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

import aiosqlite
import asyncpg
import sqlalchemy.exc
import structlog
from fastapi import Request, Response
from pydantic import AfterValidator
from sqlalchemy import URL, Connection, DateTime, Dialect, event, inspect, make_url, text
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry
from sqlalchemy.types import TypeDecorator

from ostiary.fastapi import problem_response
from ostiary.http import Problem
from ostiary_chassis.problems import ExceptionHandlers
from ostiary_chassis.settings import ConfigError

_log = structlog.stdlib.get_logger("sql")

#: Seconds that a writer on SQLite waits for the one before it.
SQLITE_BUSY_SECONDS = 5.0

#: Seconds that a transaction that writes waits until it begins.
WRITE_WAIT_SECONDS = 5.0

#: Rows that a cursor on SQLite takes from the driver at a time.
FETCHED_AT_ONCE = 64

#: How a transaction on SQLite begins that takes the write lock.
_BEGIN_WRITE = "BEGIN IMMEDIATE"

#: Connections of one process; a PostgreSQL server takes a hundred by default.
POOL_SIZE = 10

#: Seconds to wait for a free connection, and for one to be made, before a request is answered with 503.
POOL_TIMEOUT = 3.0
CONNECT_TIMEOUT = 2.0

#: Parameters of statements stay out of errors, and so out of logs: they are hashes and addresses.
_POOL: dict[str, Any] = {
    "pool_size": POOL_SIZE,
    "max_overflow": 0,
    "pool_timeout": POOL_TIMEOUT,
    "hide_parameters": True,
}

#: Seconds for one statement on PostgreSQL.
COMMAND_TIMEOUT = 10.0

#: A replica that stops in the middle of a transaction, as a paused machine does, must not hold the others up.
_POSTGRES_SETTINGS = {
    "idle_in_transaction_session_timeout": "5000",
    "lock_timeout": "5000",
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
}

#: The channel that replicas send each other messages on; it is the database's own.
_CHANNEL = "ostiary"
_NOTIFY = text("SELECT pg_notify('ostiary', :message)")

#: Seconds until a lost listener connects again, and between two looks at whether it is lost.
LISTEN_AGAIN_SECONDS = 0.5
LISTENER_CHECK_SECONDS = 1.0

#: Seconds for one readiness check.
PING_TIMEOUT = 2.0

_DRIVERS = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg"}

UNAVAILABLE_PROBLEM = Problem(
    503,
    "storage_unavailable",
    "The data store cannot be reached at the moment; try again shortly.",
    {"Retry-After": "1"},
)


_STORAGE_ERRORS: tuple[type[Exception], ...] = (sqlalchemy.exc.SQLAlchemyError, OSError)

#: PostgreSQL's error codes, whole or by their class, that are not the statement's fault (its manual, appendix A):
#: connection, resources, operator intervention, system; read-only, serialisation, deadlock, closed to all,
#: lock not to be had.
_UNAVAILABLE_STATES = ("08", "53", "57", "58", "25006", "40001", "40P01", "55000", "55P03")

#: Those that mean a wrong password, user or database.
_UNUSABLE_STATES = ("28", "3D000")


def is_unavailable(error: Exception) -> bool:
    """Return whether an error means that the database is away, busy or full, as against a wrong statement."""
    if isinstance(error, sqlalchemy.exc.DBAPIError):
        away = (sqlalchemy.exc.OperationalError, sqlalchemy.exc.InterfaceError)
        # SQLite says DatabaseError itself, and none of its kinds, of a file that is broken.
        broken = type(error) is sqlalchemy.exc.DatabaseError
        state = _sqlstate(error).startswith(_UNAVAILABLE_STATES)
        return error.connection_invalidated or isinstance(error, away) or broken or state
    return isinstance(error, sqlalchemy.exc.TimeoutError | OSError)


def _sqlstate(error: Exception) -> str:
    return str(getattr(getattr(error, "orig", None), "sqlstate", None) or "")


def storage_handlers() -> ExceptionHandlers:
    """Return the handlers that answer 503 while the database is away."""
    return dict.fromkeys(_STORAGE_ERRORS, _on_storage_error)


async def _on_storage_error(_request: Request, error: Exception) -> Response:
    if not is_unavailable(error):
        raise error
    _log.warning("storage unavailable", error=str(getattr(error, "orig", None) or type(error).__name__))
    return problem_response(UNAVAILABLE_PROBLEM)


class UtcDateTime(TypeDecorator[datetime]):
    """An aware point in time. SQLite has no zones: there it is kept in UTC and made aware again."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, _dialect: Dialect) -> datetime | None:
        """Make the value UTC; a naive one is a mistake."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a point in time needs a zone")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, _dialect: Dialect) -> datetime | None:
        """Make the value aware."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def _check_url(url: str) -> str:
    try:
        parsed = make_url(url)
        supported = parsed.get_backend_name() in _DRIVERS and parsed.database not in {None, "", ":memory:"}
        # asyncpg has other names for options, and fails on those it does not know.
        supported = supported and not parsed.query
    except sqlalchemy.exc.ArgumentError:
        supported = False
    if not supported:
        raise ValueError("must be sqlite:///path/of/file or postgresql://user@host/database")
    return url


#: The setting that names a database. Give the field `repr=False`: the URL may hold a password.
DatabaseUrl = Annotated[str, AfterValidator(_check_url)]


def engine_url(url: DatabaseUrl, password: str | None = None) -> URL:
    """Return a database URL for our driver of its kind, with a password if that is kept apart (not for SQLite)."""
    parsed = make_url(url)
    if password is not None and parsed.get_backend_name() != "sqlite":
        parsed = parsed.set(password=password)
    return parsed.set(drivername=_DRIVERS[parsed.get_backend_name()])


def sqlite_url(path: Path) -> URL:
    """Return the URL of a SQLite file, whatever characters its path has."""
    return URL.create(_DRIVERS["sqlite"], database=str(path))


class Database:
    """A pool of connections to one database."""

    def __init__(self, url: URL) -> None:
        """Make the pool; nothing is connected yet."""
        self._url = url
        # SQLite lets one writer in at a time and makes the others poll; here they queue instead.
        self._writer: AbstractAsyncContextManager[object] = asyncio.Lock() if self.is_sqlite else nullcontext()
        if self.is_sqlite:
            self._engine = create_async_engine(url, **_POOL, async_creator=self._open_sqlite)
            event.listen(self._engine.sync_engine, "connect", _prepare_sqlite)
            event.listen(self._engine.sync_engine, "begin", _begin_sqlite)
        else:
            self._engine = create_async_engine(
                url,
                **_POOL,
                # A restarted server leaves dead connections in the pool; they are tried before use.
                pool_pre_ping=True,
                connect_args={
                    "timeout": CONNECT_TIMEOUT,
                    "command_timeout": COMMAND_TIMEOUT,
                    "server_settings": _POSTGRES_SETTINGS,
                },
            )

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
        """Run a transaction that writes; it is committed at the end, or rolled back if the block raises."""
        async with AsyncExitStack() as stack:
            # All the waiting together has one limit: who gave up meanwhile must not be served after all.
            async with asyncio.timeout(WRITE_WAIT_SECONDS):
                await stack.enter_async_context(self._writer)
                connection = await stack.enter_async_context(self._engine.connect())
                await connection.execution_options(ostiary_writes=True)
                await stack.enter_async_context(connection.begin())
            yield connection

    async def lock(self, connection: AsyncConnection, name: str) -> None:
        """Let only one transaction past here, over all replicas, until it ends. SQLite's writers are alone anyway."""
        if not self.is_sqlite:
            await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _lock_key(name)})

    async def notify(self, connection: AsyncConnection, message: str) -> None:
        """Send a message to all who listen, when this transaction is committed. On SQLite nobody can."""
        if not self.is_sqlite:
            await connection.execute(_NOTIFY, {"message": message})

    async def publish(self, message: str) -> None:
        """Send a message to all who listen, now."""
        if not self.is_sqlite:
            async with self.write() as connection:
                await self.notify(connection, message)

    async def listen(self, on_message: Callable[[str], None], on_connect: Callable[[], None]) -> None:
        """Have messages of all replicas handed over, until cancelled.

        Messages can be lost with the connection; `on_connect` is called when there is one again.
        """
        while not self.is_sqlite:
            try:
                await self._listen_once(on_message, on_connect)
            except Exception as error:  # noqa: BLE001 - whatever it was, it is tried again
                _log.warning("not listening for messages", error=type(error).__name__)
            await asyncio.sleep(LISTEN_AGAIN_SECONDS)

    async def _listen_once(self, on_message: Callable[[str], None], on_connect: Callable[[], None]) -> None:
        url = self._url
        connection = await asyncpg.connect(
            host=url.host,
            port=url.port,
            user=url.username,
            password=url.password,
            database=url.database,
            timeout=CONNECT_TIMEOUT,
            command_timeout=PING_TIMEOUT,
        )
        try:
            await connection.add_listener(_CHANNEL, lambda _connection, _pid, _channel, message: on_message(message))
            on_connect()
            while True:
                await asyncio.sleep(LISTENER_CHECK_SECONDS)
                await connection.execute("SELECT 1")
        finally:
            connection.terminate()

    async def ping(self) -> bool:
        """Return whether the database answers."""
        try:
            async with asyncio.timeout(PING_TIMEOUT), self.read() as connection:
                await connection.execute(text("SELECT 1"))
        except _STORAGE_ERRORS as error:
            if is_unavailable(error):
                return False
            raise
        return True

    async def migrate(self, scripts: Path, service: str) -> None:
        """Bring the schema up to date with the Alembic scripts in a folder; of several replicas, one does it.

        Raises ConfigError, naming the setting of `service`, if the database cannot be used.
        """
        setting = f"OSTIARY_{service.upper()}_DATABASE_URL"
        try:
            if self.is_sqlite:
                _create_private(Path(self._url.database or ""))
            async with self.write() as connection:
                await self.lock(connection, "migrate")
                await connection.run_sync(_upgrade, setting, scripts, f"{service}_schema_version")
        except _STORAGE_ERRORS as error:
            if not is_unavailable(error) and not _sqlstate(error).startswith(_UNUSABLE_STATES):
                raise
            raise self._unusable(setting, error) from None

    async def require_migrated(self, scripts: Path, service: str) -> None:
        """Check that the schema is the one that these scripts make, without making it. Raises ConfigError."""
        setting = f"OSTIARY_{service.upper()}_DATABASE_URL"
        missing = self.is_sqlite and not os.path.exists(self._url.database or "")  # noqa: ASYNC240, PTH110 - a look
        try:
            current = None
            if not missing:
                async with self.read() as connection:
                    current = await connection.run_sync(_current_revision, f"{service}_schema_version")
        except _STORAGE_ERRORS as error:
            raise self._unusable(setting, error) from None
        if current != _head(scripts):
            raise ConfigError(f"{setting}: {self!r} has not been prepared by this release; start the service first")

    async def close(self) -> None:
        """Close all connections."""
        await self._engine.dispose()

    def __repr__(self) -> str:
        """Return the URL as people write it, without its password."""
        return repr(self._url.set(drivername=self._url.get_backend_name()))

    def _unusable(self, setting: str, error: Exception) -> ConfigError:
        cause = error.orig if isinstance(error, sqlalchemy.exc.DBAPIError) else error
        return ConfigError(f"{setting}: cannot use {self!r}: {cause}")

    def _open_sqlite(self) -> "_SqliteConnection":
        path = self._url.database or ""
        # Used by the event loop's thread and the connection's own in turn.
        return _SqliteConnection(
            lambda: sqlite3.connect(path, timeout=SQLITE_BUSY_SECONDS, check_same_thread=False), FETCHED_AT_ONCE
        )


class _SqliteConnection(aiosqlite.Connection):
    """A connection that leaves the event loop for what waits: for another writer, and for the disk.

    All else is a matter of microseconds, and handing it to a thread and back would take several times as long.
    """

    def __init__(self, connector: Callable[[], sqlite3.Connection], iter_chunk_size: int) -> None:
        """Connect with `connector`."""
        super().__init__(connector, iter_chunk_size)
        self._thread.daemon = True

    async def _execute(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        waits = fn.__name__ in {"commit", "close"} or args[:1] == (_BEGIN_WRITE,)
        if waits:
            return await super()._execute(fn, *args, **kwargs)  # type: ignore[no-untyped-call]  # the library has no types here
        return fn(*args, **kwargs)


class SqlTransaction:
    """The base of a service's transactions: a connection on which one has begun."""

    def __init__(self, connection: AsyncConnection, database: Database) -> None:
        """Use an open transaction."""
        self._connection = connection
        self._database = database
        self._on_commit: list[Callable[[], None]] = []

    async def lock(self, name: str) -> None:
        """Let only one transaction past here, over all replicas, until it ends."""
        await self._database.lock(self._connection, name)

    def on_commit(self, work: Callable[[], None]) -> None:
        """Do something when the transaction has been committed, and not if it is rolled back."""
        self._on_commit.append(work)

    def committed(self) -> None:
        """Do what was to be done then."""
        for work in self._on_commit:
            work()


Transaction = TypeVar("Transaction", bound=SqlTransaction)


class SqlStore(Generic[Transaction]):
    """A domain's store on a database; `kind` is what its transactions are."""

    def __init__(self, database: Database, kind: Callable[[AsyncConnection, Database], Transaction]) -> None:
        """Use `database`, which somebody else migrates and closes."""
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


def _create_private(path: Path) -> None:
    """Make a database file that only its owner reads, as it holds personal data; SQLite would let others."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))


def _upgrade(connection: Connection, setting: str, scripts: Path, version_table: str) -> None:
    head, current = _head(scripts), _current_revision(connection, version_table)
    if current == head:
        return
    from ostiary_chassis import migrations  # noqa: PLC0415 - Alembic takes a tenth of a second to import

    try:
        migrations.upgrade(connection, scripts, version_table)
    except migrations.UnknownRevision as error:
        raise ConfigError(f"{setting}: its schema is not one that this release knows: {error}") from None
    _log.info("schema migrated", from_revision=current, to_revision=head)


def _head(scripts: Path) -> str:
    """Return the newest revision; see `migrations` for how scripts are named."""
    return max(script.name for script in (scripts / "versions").glob("[0-9]*.py")).partition("_")[0]


def _current_revision(connection: Connection, version_table: str) -> str | None:
    if not inspect(connection).has_table(version_table):
        return None
    current: str | None = connection.scalar(text(f"SELECT version_num FROM {version_table}"))  # noqa: S608 - ours
    return current


def _prepare_sqlite(dbapi_connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
    # The driver must not begin transactions of its own; _begin_sqlite does.
    dbapi_connection.isolation_level = None
    cursor = dbapi_connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    # FULL: what was acknowledged is on disk, also when the machine loses power.
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get("ostiary_writes", False)
    connection.exec_driver_sql(_BEGIN_WRITE if writes else "BEGIN")


def _lock_key(name: str) -> int:
    """Return a lock's number: 63 bits of a hash of its name."""
    return int.from_bytes(hashlib.sha256(f"ostiary:{name}".encode()).digest()[:8], "big") >> 1
