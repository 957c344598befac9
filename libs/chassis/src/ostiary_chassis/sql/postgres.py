"""PostgreSQL: connections to the server that takes writes, advisory locks, and messages between replicas."""

import asyncio
import hashlib
import secrets
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, NoReturn

import asyncpg
import sqlalchemy.exc
import structlog
from sqlalchemy import ColumnElement, ExceptionContext, Text, bindparam, event, func, select, text
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry, NullPool, PoolProxiedConnection

from ostiary_chassis.settings import ConfigError
from ostiary_chassis.sql.address import DatabaseAddress, Host
from ostiary_chassis.sql.errors import CannotConnect, describe
from ostiary_chassis.threads import in_thread

_log = structlog.stdlib.get_logger("sql")

#: Seconds to connect to one host, and for the check of a pooled connection; then a request is answered with 503.
CONNECT_TIMEOUT = 2.0

#: Seconds for one statement.
COMMAND_TIMEOUT = 10.0

#: A server notices within half a minute that a client's machine is gone.
_KEEPALIVES = {"tcp_keepalives_idle": "10", "tcp_keepalives_interval": "5", "tcp_keepalives_count": "3"}

#: A replica that stops in the middle of a transaction, as a paused machine does, must not block the others.
_SERVING = {"idle_in_transaction_session_timeout": "5000", "lock_timeout": "5000", **_KEEPALIVES}

#: A migration may take hours; but others queue behind it while it waits for a lock, so it does not wait for long.
_MIGRATING = {
    "idle_in_transaction_session_timeout": "0",
    "statement_timeout": "0",
    "lock_timeout": "1000",
    **_KEEPALIVES,
}

#: Error codes after which a server is of no use: connection lost or rejected, shutting down, no longer the primary.
_LEAVING_STATES = ("08", "57P", "25006")

#: Those of a prepared statement that is missing or there already: somebody else's session.
_FOREIGN_SESSION = (asyncpg.InvalidSQLStatementNameError, asyncpg.DuplicatePreparedStatementError)

#: What connecting, and a statement without parameters, may raise. The last one is how asyncpg may take it that a server
#: ends a connection while it waits for a response.
_DRIVER_ERRORS = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)

#: The channel for messages between replicas; its scope is the database.
_CHANNEL = "ostiary"

#: Seconds before a lost listener reconnects, between two checks of its connection, and for one check.
RECONNECT_SECONDS = 0.5
LISTENER_CHECK_SECONDS = 1.0
LISTENER_CHECK_TIMEOUT = 2.0

#: Seconds for a message to arrive through a connection pooler.
MESSAGE_TIMEOUT = 5.0

#: In the info of a pooled connection: it was used before, and has to be checked.
_USED = "ostiary_used"

_SHARED_SESSIONS = (
    "a connection pooler in between shares sessions among clients, so that messages do not arrive; connect to the "
    "server itself, as each process keeps its own pool, or set pool_mode = session in PgBouncer"
)


class Connector:
    """Connects to whichever host takes writes now, with the password of now.

    A server that takes none is not even read from: the log of revocations goes on elsewhere.
    """

    def __init__(self, address: DatabaseAddress) -> None:
        self._address = address
        #: The one that was found last comes first.
        self._hosts: list[Host] = list(address.hosts)
        self._fault = ""

    async def connect(self, settings: Mapping[str, str], command_timeout: float | None) -> asyncpg.Connection:
        """Return a new connection. Raises CannotConnect."""
        faults = []
        for host in tuple(self._hosts):
            try:
                async with asyncio.timeout(CONNECT_TIMEOUT):
                    connection = await self._connect_to(host, settings, command_timeout)
            except (*_DRIVER_ERRORS, ConfigError) as error:
                faults.append(_reason(error) if len(self._hosts) == 1 else f"{host.name}: {_reason(error)}")
            else:
                self._hosts.sort(key=lambda each: each != host)
                self._note("")
                return connection
        fault = "; ".join(faults)
        self._note(fault)
        raise CannotConnect(fault)

    async def _connect_to(
        self, host: Host, settings: Mapping[str, str], command_timeout: float | None
    ) -> asyncpg.Connection:
        url = self._address.url
        # In a thread, as the file may be on a network.
        password = await in_thread(self._address.password)
        connection = await asyncpg.connect(
            host=host.name,
            port=host.port,
            user=url.username,
            password=password,
            database=url.database,
            command_timeout=command_timeout,
        )
        try:
            # Not as startup parameters, which connection poolers refuse.
            await connection.execute("; ".join(f"SET {name} = {value}" for name, value in settings.items()))
            await _require_writable(connection)
        except BaseException:
            connection.terminate()
            raise
        return connection

    def _note(self, fault: str) -> None:
        """Log a fault once, however many connections are tried."""
        if fault != self._fault:
            self._fault = fault
            if fault:
                _log.warning("cannot connect to the database", error=fault)
            else:
                _log.info("database connected again")

    async def listen(self, on_message: Callable[[str], None], on_connect: Callable[[], None]) -> NoReturn:
        """Pass on the messages of all replicas until cancelled; reconnect when the connection is lost.

        Messages can be lost with the connection; `on_connect` is called whenever there is a new one.
        """
        while True:
            with suppress(CannotConnect):  # it is logged once
                connection = await self.connect(_KEEPALIVES, LISTENER_CHECK_TIMEOUT)
                try:
                    await _follow(connection, on_message, on_connect)
                except Exception as error:  # noqa: BLE001 - whatever happened, the listener reconnects
                    _log.warning("message listener disconnected", error=describe(error))
                finally:
                    connection.terminate()
            await asyncio.sleep(RECONNECT_SECONDS)

    async def check_sessions(self) -> None:
        """Check that a connection is a session of its own, as messages need one. Raises CannotConnect."""
        connections = [await self.connect(_SERVING, COMMAND_TIMEOUT) for _ in range(2)]
        try:
            async with asyncio.timeout(MESSAGE_TIMEOUT):
                await _check_messages(*connections)
        except (TimeoutError, *_FOREIGN_SESSION):
            raise CannotConnect(_SHARED_SESSIONS) from None
        finally:
            for connection in connections:
                connection.terminate()


async def _follow(
    connection: asyncpg.Connection, on_message: Callable[[str], None], on_connect: Callable[[], None]
) -> NoReturn:
    await connection.add_listener(_CHANNEL, lambda _connection, _pid, _channel, message: on_message(message))
    on_connect()
    while True:
        await asyncio.sleep(LISTENER_CHECK_SECONDS)
        await _require_writable(connection)


async def _check_messages(listener: asyncpg.Connection, sender: asyncpg.Connection) -> None:
    """Return when a message has gone from one to the other; at once if each talks to the server itself."""
    if await listener.fetchval("SELECT pg_backend_pid()") == listener.get_server_pid():
        return
    arrived = asyncio.Event()
    channel = f"ostiary_{secrets.token_hex(8)}"
    await listener.add_listener(channel, lambda *_: arrived.set())
    await sender.execute(f"NOTIFY {channel}")
    await arrived.wait()


def create_engine(connector: Connector, address: DatabaseAddress, pool: dict[str, Any]) -> AsyncEngine:
    """Return an engine; `pool` are the settings of its pool."""

    async def connect() -> asyncpg.Connection:
        return await connector.connect(_SERVING, COMMAND_TIMEOUT)

    engine = create_async_engine(address.url, **pool, async_creator=connect)
    event.listen(engine.sync_engine, "checkout", _check_out)
    event.listen(engine.sync_engine, "handle_error", _on_error)
    return engine


def create_migration_engine(connector: Connector, address: DatabaseAddress) -> AsyncEngine:
    """Return an engine whose statements may take as long as they need, on a connection for each use."""

    async def connect() -> asyncpg.Connection:
        return await connector.connect(_MIGRATING, None)

    return create_async_engine(address.url, poolclass=NullPool, async_creator=connect)


async def lock(connection: AsyncConnection, name: str) -> None:
    """Take the advisory lock of this name until the transaction ends."""
    await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _lock_key(name)})


async def try_lock_session(connection: AsyncConnection, name: str) -> bool:
    """Take the advisory lock of this name until the connection ends, if it is free. Return whether it was."""
    taken: bool = (
        await connection.execute(text("SELECT pg_try_advisory_lock(:key)"), {"key": _lock_key(name)})
    ).scalar_one()
    return taken


def notification(message: ColumnElement[str]) -> ColumnElement[Any]:
    """Return what sends a message to all listeners when the transaction is committed, as a part of a statement."""
    return func.pg_notify(_CHANNEL, message)


_NOTIFY = select(notification(bindparam("message", type_=Text)))


async def notify(connection: AsyncConnection, message: str) -> None:
    """Send a message to all listeners when the transaction is committed."""
    await connection.execute(_NOTIFY, {"message": message})


async def allow_pauses(connection: AsyncConnection) -> None:
    """Let a transaction that only reads pause as long as it takes. What it has locked holds up migrations only."""
    await connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))


def _check_out(connection: DBAPIConnection, record: ConnectionPoolEntry, _proxied: PoolProxiedConnection) -> None:
    """Leave a server that has gone or become read-only, with all connections, before anything is asked of it."""
    if not record.info.get(_USED):
        record.info[_USED] = True
        return
    try:
        # PostgreSQL 14 reports with any response that it has become read-only.
        connection.run_async(lambda driver: driver.fetchrow(";", timeout=CONNECT_TIMEOUT))
    except _DRIVER_ERRORS:
        raise sqlalchemy.exc.InvalidatePoolError from None
    if _reports_read_only(record.driver_connection):
        raise sqlalchemy.exc.InvalidatePoolError


def _on_error(context: ExceptionContext) -> None:
    """Drop a connection whose server cannot serve any more, and idle ones to it: the next attempt finds another."""
    error = context.original_exception
    state = str(getattr(error, "sqlstate", None) or "")
    is_cut_off = isinstance(getattr(error, "orig", None), asyncpg.InternalClientError)
    if state.startswith(_LEAVING_STATES) or is_cut_off or isinstance(error, TimeoutError):
        context.is_disconnect = True


async def _require_writable(connection: asyncpg.Connection) -> None:
    """Raise CannotConnect if the server takes no writes."""
    if _reports_read_only(connection) or await connection.fetchval("SHOW transaction_read_only") == "on":
        raise CannotConnect("the server is read-only")


def _reports_read_only(connection: Any) -> bool:
    """Return whether the server has reported that it takes no writes, without asking it."""
    reported = connection.get_settings()
    return "on" in {getattr(reported, name, "off") for name in ("in_hot_standby", "default_transaction_read_only")}


def _reason(error: Exception) -> str:
    """Return why connecting has failed."""
    if isinstance(error, asyncpg.InvalidPasswordError):
        return f"password rejected: {describe(error)}"
    return _SHARED_SESSIONS if isinstance(error, _FOREIGN_SESSION) else describe(error)


def _lock_key(name: str) -> int:
    """Return the key of a lock: 63 bits of a hash of its name."""
    return int.from_bytes(hashlib.sha256(f"ostiary:{name}".encode()).digest()[:8], "big") >> 1
