"""PostgreSQL: connections, advisory locks, and messages between replicas."""

import asyncio
import hashlib
from collections.abc import Callable
from typing import Any, NoReturn

import asyncpg
import structlog
from sqlalchemy import URL, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

_log = structlog.stdlib.get_logger("sql")

#: Seconds to connect, after which a request is answered with 503.
CONNECT_TIMEOUT = 2.0

#: Seconds for one statement.
COMMAND_TIMEOUT = 10.0

#: A replica that stops in the middle of a transaction, as a paused machine does, must not block the others.
_SERVER_SETTINGS = {
    "idle_in_transaction_session_timeout": "5000",
    "lock_timeout": "5000",
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
}

#: The channel for messages between replicas; its scope is the database.
_CHANNEL = "ostiary"
_NOTIFY = text("SELECT pg_notify('ostiary', :message)")

#: Seconds before a lost listener reconnects, between two checks of its connection, and for one check.
RECONNECT_SECONDS = 0.5
LISTENER_CHECK_SECONDS = 1.0
LISTENER_CHECK_TIMEOUT = 2.0


def create_engine(url: URL, pool: dict[str, Any]) -> AsyncEngine:
    """Return an engine; `pool` are the settings of its pool."""
    return create_async_engine(
        url,
        **pool,
        # A restarted server leaves dead connections in the pool; they are tested before use.
        pool_pre_ping=True,
        connect_args={
            "timeout": CONNECT_TIMEOUT,
            "command_timeout": COMMAND_TIMEOUT,
            "server_settings": _SERVER_SETTINGS,
        },
    )


async def lock(connection: AsyncConnection, name: str) -> None:
    """Take the advisory lock of this name until the transaction ends."""
    await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _lock_key(name)})


async def notify(connection: AsyncConnection, message: str) -> None:
    """Send a message to all listeners when the transaction is committed."""
    await connection.execute(_NOTIFY, {"message": message})


async def listen(url: URL, on_message: Callable[[str], None], on_connect: Callable[[], None]) -> NoReturn:
    """Pass on the messages of all replicas until cancelled; reconnect when the connection is lost.

    Messages can be lost with the connection; `on_connect` is called whenever there is a new one.
    """
    while True:
        try:
            await _listen_once(url, on_message, on_connect)
        except Exception as error:  # noqa: BLE001 - whatever happened, the listener reconnects
            _log.warning("message listener disconnected", error=type(error).__name__)
        await asyncio.sleep(RECONNECT_SECONDS)


async def _listen_once(url: URL, on_message: Callable[[str], None], on_connect: Callable[[], None]) -> None:
    connection = await asyncpg.connect(
        host=url.host,
        port=url.port,
        user=url.username,
        password=url.password,
        database=url.database,
        timeout=CONNECT_TIMEOUT,
        command_timeout=LISTENER_CHECK_TIMEOUT,
    )
    try:
        await connection.add_listener(_CHANNEL, lambda _connection, _pid, _channel, message: on_message(message))
        on_connect()
        while True:
            await asyncio.sleep(LISTENER_CHECK_SECONDS)
            await connection.execute("SELECT 1")
    finally:
        connection.terminate()


def _lock_key(name: str) -> int:
    """Return the key of a lock: 63 bits of a hash of its name."""
    return int.from_bytes(hashlib.sha256(f"ostiary:{name}".encode()).digest()[:8], "big") >> 1
