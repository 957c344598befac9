"""Connections to SQLite, each on a thread of its own."""

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import sqlalchemy.exc
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from ostiary_chassis.sql import Database, DatabaseAddress
from ostiary_chassis.sql.sqlite import ThreadConnection


class Gate:
    """A SQL function, `gate()`, that waits until it is opened. It returns 0 if that takes too long."""

    def __init__(self) -> None:
        self.is_entered = threading.Event()
        self.is_open = threading.Event()

    async def install(self, connection: AsyncConnection) -> None:
        raw = await connection.get_raw_connection()
        thread = raw.driver_connection
        assert isinstance(thread, ThreadConnection)
        await thread.create_function("gate", 0, self.wait)

    def wait(self) -> int:
        self.is_entered.set()
        return int(self.is_open.wait(10))

    async def entered(self) -> None:
        while not self.is_entered.is_set():
            await asyncio.sleep(0.001)


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    database = Database(DatabaseAddress.of_file("test", tmp_path / "test.db"))
    async with database.write() as connection:
        await connection.execute(text("CREATE TABLE items (id INTEGER PRIMARY KEY)"))
    yield database
    await database.close()


async def ids(database: Database) -> list[int]:
    async with database.read() as connection:
        return list((await connection.execute(text("SELECT id FROM items ORDER BY id"))).scalars())


#: Threads of tests before, some of which close nothing.
OTHERS: set[threading.Thread] = set()


def threads() -> list[threading.Thread]:
    """Return the threads of connections that were opened in this test."""
    return [each for each in threading.enumerate() if each.name == "ostiary-sqlite" and each not in OTHERS]


@pytest.fixture(autouse=True)
def _others() -> None:
    OTHERS.clear()
    OTHERS.update(threads())


async def until_threads_end() -> None:
    for thread in threads():
        await asyncio.to_thread(thread.join, 5)
    assert threads() == []


async def test_a_slow_statement_does_not_block_the_event_loop(database: Database, gate: Gate) -> None:
    async with database.read() as connection:
        await gate.install(connection)
        statement = asyncio.create_task(connection.scalar(text("SELECT gate()")))
        await gate.entered()
        gate.is_open.set()
        assert await statement == 1


async def test_a_transaction_that_is_cancelled_in_a_statement_is_rolled_back(database: Database, gate: Gate) -> None:
    async def write() -> None:
        async with database.write() as connection:
            await gate.install(connection)
            await connection.execute(text("INSERT INTO items VALUES (1)"))
            await connection.execute(text("INSERT INTO items SELECT 1 + gate()"))

    task = asyncio.create_task(write())
    await gate.entered()
    task.cancel()
    await asyncio.sleep(0)
    gate.is_open.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await ids(database) == []
    async with database.write() as connection:
        await connection.execute(text("INSERT INTO items VALUES (3)"))
    assert await ids(database) == [3]


async def test_a_reader_does_not_wait_for_a_writer(database: Database) -> None:
    async with database.write() as connection:
        await connection.execute(text("INSERT INTO items VALUES (1)"))
        assert await ids(database) == []
    assert await ids(database) == [1]


async def test_a_writer_holds_the_write_lock_from_its_beginning(database: Database, tmp_path: Path) -> None:
    async with database.write():
        other = sqlite3.connect(tmp_path / "test.db", timeout=0, isolation_level=None)
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            other.execute("BEGIN IMMEDIATE")
        other.close()


async def test_many_rows_are_written_and_counted(database: Database) -> None:
    async with database.write() as connection:
        await connection.execute(text("INSERT INTO items VALUES (:id)"), [{"id": number} for number in range(500)])
        assert (await connection.execute(text("DELETE FROM items WHERE id >= 100"))).rowcount == 400
    assert await ids(database) == list(range(100))


async def test_an_error_of_the_driver_reaches_the_caller(database: Database) -> None:
    async with database.read() as connection:
        with pytest.raises(sqlalchemy.exc.OperationalError, match="no such table"):
            await connection.execute(text("SELECT * FROM others"))


async def test_closing_the_database_ends_its_threads(database: Database) -> None:
    await ids(database)
    assert threads()
    await database.close()
    await until_threads_end()


async def test_a_file_that_cannot_be_opened_leaves_no_thread(tmp_path: Path) -> None:
    with pytest.raises(sqlite3.OperationalError):
        await ThreadConnection().open(str(tmp_path / "none" / "test.db"))
    await until_threads_end()


async def test_a_connection_can_be_closed_without_waiting(tmp_path: Path) -> None:
    connection = await ThreadConnection().open(str(tmp_path / "test.db"))
    raw = connection.connection
    connection.stop()
    connection.stop()
    await connection.close()
    await until_threads_end()
    with pytest.raises(sqlite3.ProgrammingError):
        raw.execute("SELECT 1")
    with pytest.raises(ValueError, match="no active connection"):
        connection.cursor()._connection.connection  # noqa: B018 - it raises


def test_a_call_that_outlasts_the_event_loop_is_forgotten(tmp_path: Path, gate: Gate) -> None:
    async def leave_running() -> None:
        connection = await ThreadConnection().open(str(tmp_path / "test.db"))
        connection.call(gate.wait)
        connection.stop()
        await gate.entered()

    asyncio.run(leave_running())
    gate.is_open.set()
    for thread in threads():
        thread.join(5)
    assert threads() == []
