"""On SQLite; the containers' tests run the same statements on PostgreSQL."""

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Annotated, Any

import pytest
import sqlalchemy.exc
from pydantic import Field
from sqlalchemy import Column, Integer, MetaData, Table, event, insert, select, text

from ostiary_chassis import sql
from ostiary_chassis.settings import ConfigError, Settings
from ostiary_chassis.sql import Database, DatabaseAddress, DatabaseUrl, UtcDateTime, is_unavailable
from ostiary_chassis.sql.address import Host
from ostiary_chassis.sql.schema import Schema


class Config(Settings):
    url: Annotated[DatabaseUrl, Field(alias="OSTIARY_TEST_URL", repr=False)]


metadata = MetaData()
moments = Table("moments", metadata, Column("id", Integer, primary_key=True), Column("at", UtcDateTime))


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    database = Database(DatabaseAddress.of("test", f"sqlite:///{tmp_path / 'test.db'}"))
    async with database.write() as connection:
        await connection.run_sync(metadata.create_all)
    yield database
    await database.close()


async def test_a_datetime_is_stored_and_loaded_unchanged(database: Database) -> None:
    moment = datetime(2026, 1, 2, 3, 4, 5, 678901, timezone(timedelta(hours=5)))
    async with database.write() as connection:
        await connection.execute(insert(moments).values(id=1, at=moment))
    async with database.read() as connection:
        stored = (await connection.execute(select(moments.c.at))).scalar_one()
    assert stored == moment
    assert stored.tzinfo == UTC


async def test_a_naive_datetime_is_rejected(database: Database) -> None:
    with pytest.raises(sqlalchemy.exc.StatementError, match="zone"):
        async with database.write() as connection:
            await connection.execute(insert(moments).values(id=1, at=datetime(2026, 1, 2)))  # noqa: DTZ001 - refused


async def test_an_exception_rolls_back(database: Database) -> None:
    async def half_done() -> None:
        async with database.write() as connection:
            await connection.execute(insert(moments).values(id=1))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await half_done()
    async with database.read() as connection:
        assert (await connection.execute(select(moments))).all() == []


async def test_writers_wait_for_each_other(database: Database) -> None:
    async def add_one() -> None:
        async with database.write() as connection:
            count = len((await connection.execute(select(moments))).all())
            await connection.execute(insert(moments).values(id=count))

    await asyncio.gather(*(add_one() for _ in range(20)))
    async with database.read() as connection:
        assert len((await connection.execute(select(moments))).all()) == 20


async def test_commits_are_durable(database: Database) -> None:
    async with database.read() as connection:
        assert (await connection.execute(text("PRAGMA journal_mode"))).scalar_one() == "wal"
        assert (await connection.execute(text("PRAGMA synchronous"))).scalar_one() == 2
        assert (await connection.execute(text("PRAGMA foreign_keys"))).scalar_one() == 1


async def test_a_database_that_cannot_be_opened_is_unavailable(tmp_path: Path) -> None:
    database = Database(DatabaseAddress.of("test", f"sqlite:///{tmp_path / 'none' / 'test.db'}"))
    with pytest.raises(ConfigError, match="OSTIARY_TEST_DATABASE_URL: cannot use"):
        await database.migrate(Path(__file__).parent)
    await database.close()


async def test_a_wrong_statement_is_not_an_outage(database: Database) -> None:
    async with database.write() as connection:
        await connection.execute(insert(moments).values(id=1))
        with pytest.raises(sqlalchemy.exc.IntegrityError) as caught:
            await connection.execute(insert(moments).values(id=1))
    assert not is_unavailable(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "sqlite://",
        "sqlite:///:memory:",
        "postgresql://u:hunter2@host",
        "postgresql://u:hunter2@host/db?sslmode=disable",
        "postgresql://u:hunter2@one,two/db?target_session_attrs=any",
        "postgresql://u:hunter2@one,/db",
        "postgresql://u:hunter2@one:x,two/db",
        "mysql://u:hunter2@host/db",
        "nonsense hunter2",
        "oracle:hunter2",
    ],
)
def test_an_unusable_url_is_rejected_without_repeating_it(url: str) -> None:
    with pytest.raises(ConfigError, match="OSTIARY_TEST_URL: must be sqlite") as caught:
        Config.load({"OSTIARY_TEST_URL": url})
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "hosts"),
    [
        ("postgresql://user@host/db", [("host", None)]),
        ("postgresql:///db", [(None, None)]),
        ("postgresql://user@one,two/db", [("one", None), ("two", None)]),
        ("postgresql://user:p%2Fw@one:1,[::1]:2/db", [("one", 1), ("::1", 2)]),
        ("postgresql://user:p,w@host/db", [("host", None)]),
        ("postgresql://user:p,w/p@host/db", [("host", None)]),
        ("postgresql://user:p,w@one,two/db", [("one", None), ("two", None)]),
        ("postgresql://one,two:2/db?target_session_attrs=read-write", [("one", None), ("two", 2)]),
    ],
)
def test_a_url_may_name_several_hosts(url: str, hosts: list[tuple[str | None, int | None]]) -> None:
    Config.load({"OSTIARY_TEST_URL": url})
    address = DatabaseAddress.of("test", url)
    assert list(address.hosts) == hosts
    assert (address.url.database, address.url.drivername) == ("db", "postgresql+asyncpg")
    assert not address.url.query


def test_an_address_is_shown_with_its_hosts_and_without_its_password() -> None:
    shown = str(DatabaseAddress.of("test", "postgresql://user:hunter2@one:1,two/db"))
    assert shown == "postgresql://user:***@one:1,two/db"


def test_a_password_file_is_read_each_time(tmp_path: Path) -> None:
    file = tmp_path / "password"
    address = DatabaseAddress.of("test", "postgresql://user@host/db", file)
    for password in ("p@ss/word", "another"):
        file.write_text(f"{password}\n")
        assert address.password() == password
        assert password not in str(address) + repr(address)
    file.unlink()
    with pytest.raises(ConfigError, match="OSTIARY_TEST_DATABASE_PASSWORD_FILE: cannot read"):
        address.password()


@pytest.mark.usefixtures("database")
async def test_waiting_writers_share_one_time_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sql.database, "WRITE_WAIT_SECONDS", 0.5)
    monkeypatch.setattr(sql.sqlite, "BUSY_SECONDS", 0.5)
    impatient = Database(DatabaseAddress.of("test", f"sqlite:///{tmp_path / 'test.db'}"))

    async def write() -> None:
        async with impatient.write() as connection:
            await connection.execute(insert(moments).values(at=None))

    with sqlite3.connect(tmp_path / "test.db", isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        started_at = time.monotonic()
        outcomes = await asyncio.gather(*(write() for _ in range(5)), return_exceptions=True)
        # One after the other, they would take 2.5 s.
        assert time.monotonic() - started_at < 2
        assert all(isinstance(outcome, Exception) and is_unavailable(outcome) for outcome in outcomes)
        other.execute("ROLLBACK")
    other.close()
    await write()
    await impatient.close()


async def test_a_cancelled_writer_leaves_no_lock(database: Database) -> None:
    async def write(number: int) -> None:
        async with database.write() as connection:
            await connection.execute(insert(moments).values(id=number))
            await asyncio.sleep(0)

    tasks = [asyncio.create_task(write(number)) for number in range(20)]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await write(100)
    async with database.read() as connection:
        stored = set((await connection.execute(select(moments.c.id))).scalars())
    assert {*range(1, 20, 2), 100} <= stored


async def test_a_file_that_could_not_be_written_to_is_opened_again(tmp_path: Path) -> None:
    address = DatabaseAddress.of_file("test", tmp_path / "test.db")
    database = Database(address)
    async with database.write() as connection:
        await connection.run_sync(Schema.probe_table(address).create)
        # As if it had been opened while its file system was read-only.
        await connection.execute(text("PRAGMA query_only = ON"))
    assert "readonly" in await database.unready_reason()
    async with database.write() as connection:
        await connection.run_sync(metadata.create_all)
    await database.close()


async def test_who_asks_at_the_same_time_shares_a_test_of_the_database(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    tests = 0

    def count(*_: object) -> None:
        nonlocal tests
        tests += 1

    async with database.write() as connection:
        await connection.run_sync(Schema.probe_table(database.address).create)
    monkeypatch.setattr(sql.database, "PROBE_SECONDS", 60.0)
    event.listen(database._engine.sync_engine, "commit", count)
    assert await asyncio.gather(*(database.unready_reason() for _ in range(20))) == [""] * 20
    assert tests == 1


async def test_a_busy_database_is_no_fault(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sql.database, "PROBE_TIMEOUT", 0.5)
    monkeypatch.setattr(sql.database, "PROBE_SECONDS", 0.0)
    first, second = asyncio.Event(), asyncio.Event()

    async def hold(end: asyncio.Event) -> None:
        async with database.write():
            await end.wait()

    # The test waits behind both; nobody gets through.
    holding = [asyncio.create_task(hold(end)) for end in (first, second)]
    await asyncio.sleep(0)
    assert "does not respond: no answer in time" in await database.unready_reason()
    # The first one does.
    testing = asyncio.create_task(database.unready_reason())
    await asyncio.sleep(0)
    first.set()
    assert await testing == ""
    second.set()
    await asyncio.gather(*holding)


async def test_what_fails_before_serving_names_the_setting_and_the_cause(database: Database) -> None:
    # Its text is empty.
    message = r"OSTIARY_TEST_DATABASE_URL: cannot use sqlite:.*: no answer in time"
    with pytest.raises(ConfigError, match=message), database.naming_the_setting():
        raise TimeoutError
    # A defect is no setting's fault.
    defect = sqlalchemy.exc.ProgrammingError(None, None, Exception("no such column"))
    with pytest.raises(sqlalchemy.exc.ProgrammingError), database.naming_the_setting():
        raise defect


@pytest.mark.docker
@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"password": "wrong"}, "password rejected"),
        ({"database": "nowhere"}, 'database "nowhere" does not exist'),
        ({"port": 1}, "Connect"),
        ({"host": "nowhere.invalid"}, "nowhere.invalid|Name or service|name resolution"),
    ],
)
async def test_a_database_that_cannot_be_connected_to_names_the_cause(
    on_postgres: DatabaseAddress, change: dict[str, Any], cause: str
) -> None:
    url = on_postgres.url.set(**change)
    address = replace(on_postgres, url=url, hosts=(Host(url.host, url.port),))
    database = Database(address)
    with pytest.raises(ConfigError, match=rf"OSTIARY_TEST_DATABASE_URL: cannot use postgresql:.*: .*({cause})"):
        await database.migrate(Path(__file__).parent)
    await database.close()


async def test_a_write_that_fails_makes_a_test_due(
    database: Database, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sql.database, "PROBE_SECONDS", 60.0)
    async with database.write() as connection:
        await connection.run_sync(Schema.probe_table(database.address).create)
    assert await database.unready_reason() == ""
    async with database.write() as connection:
        await connection.execute(text("PRAGMA query_only = ON"))
    # What is known is still told.
    assert await database.unready_reason() == ""
    with pytest.raises(sqlalchemy.exc.OperationalError, match="readonly"):
        async with database.write() as connection:
            await connection.execute(insert(moments).values(id=1))
    with sqlite3.connect(tmp_path / "test.db") as other:
        other.execute("DROP TABLE test_write_probe")
    other.close()
    assert "no such table" in await database.unready_reason()
