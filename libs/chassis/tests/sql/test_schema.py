"""Migrations: of one replica or several, interrupted, and by releases that are older than the schema."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from sqlalchemy import text
from structlog.testing import capture_logs

from ostiary_chassis.settings import ConfigError
from ostiary_chassis.sql import Database, DatabaseAddress, postgres, schema, sqlite

CREATE = 'op.create_table("things", sa.Column("id", sa.Integer, primary_key=True))'
ADD = 'op.add_column("things", sa.Column("name", sa.Text))'

Release = Callable[..., Path]


@asynccontextmanager
async def opened(address: DatabaseAddress) -> AsyncIterator[Database]:
    database = Database(address)
    try:
        yield database
    finally:
        await database.close()


async def execute(database: Database, *statements: str) -> None:
    async with database.write() as connection:
        for statement in statements:
            await connection.execute(text(statement))


async def rows(database: Database, query: str) -> list[tuple[object, ...]]:
    async with database.read() as connection:
        return [tuple(row) for row in await connection.execute(text(query))]


async def test_scripts_run_once(address: DatabaseAddress, release: Release) -> None:
    scripts = release(CREATE, ADD)
    async with opened(address) as database:
        with pytest.raises(ConfigError, match="start the service first"):
            await database.require_migrated(scripts)
        with capture_logs() as records:
            for _ in range(2):
                await database.migrate(scripts)
        await database.require_migrated(scripts)
        await execute(database, "INSERT INTO things (id, name) VALUES (1, 'a')")
    assert [(each["event"], each["from_revision"], each["to_revision"]) for each in records] == [
        ("schema migrated", None, "0002")
    ]


async def test_a_release_goes_on_with_the_schema_of_the_next(address: DatabaseAddress, release: Release) -> None:
    older, newer = release(CREATE), release(CREATE, ADD)
    async with opened(address) as database:
        await database.migrate(older)
        await execute(database, "INSERT INTO things (id) VALUES (1)")
        await database.migrate(newer)
        # It is rolled back, and forward again.
        for scripts in (older, newer):
            await database.migrate(scripts)
            await database.require_migrated(scripts)
        assert await rows(database, "SELECT * FROM things") == [(1, None)]


async def test_a_release_that_cannot_work_on_a_schema_says_which_could(
    address: DatabaseAddress, release: Release
) -> None:
    drop = 'op.execute("DROP TABLE things") #needs_release = "0002"'
    async with opened(address) as database:
        await database.migrate(release(CREATE, ADD, drop))
        await database.migrate(release(CREATE, ADD))
        message = "has schema 0003, which needs a release that knows schema 0002; this one knows 0001"
        for attempt in (database.migrate, database.require_migrated):
            with pytest.raises(ConfigError, match=message):
                await attempt(release(CREATE))


async def test_a_database_of_a_release_that_had_one_table_is_taken_over(
    address: DatabaseAddress, release: Release
) -> None:
    async with opened(address) as database:
        await execute(
            database,
            "CREATE TABLE things (id INTEGER PRIMARY KEY)",
            "CREATE TABLE test_schema_version (version_num VARCHAR(32) PRIMARY KEY)",
            "INSERT INTO test_schema_version VALUES ('0001')",
        )
        await database.migrate(release(CREATE))
        await database.migrate(release(CREATE, ADD))
        await execute(database, "INSERT INTO things (id, name) VALUES (1, 'a')")
        # What that release looks for, if it is started again.
        assert await rows(database, "SELECT version_num FROM test_schema_version") == [("0001",)]
        assert await rows(database, "SELECT version_num FROM test_schema_revision") == [("0002",)]


async def test_a_failing_script_is_named_by_its_cause_and_leaves_nothing(
    address: DatabaseAddress, release: Release
) -> None:
    async with opened(address) as database:
        with pytest.raises(ConfigError, match=r"OSTIARY_TEST_DATABASE_URL: cannot use .*nowhere"):
            await database.migrate(release(CREATE, 'op.execute("INSERT INTO nowhere VALUES (1)")'))
        await database.migrate(release(CREATE, ADD))


async def test_a_migrated_database_can_be_written_to(address: DatabaseAddress, release: Release) -> None:
    async with opened(address) as database:
        await database.migrate(release(CREATE))
        assert await database.unready_reason() == ""
        assert await rows(database, "SELECT * FROM test_write_probe") == []


@pytest.mark.docker
class TestPostgres:
    async def test_a_statement_may_take_long(
        self, on_postgres: DatabaseAddress, release: Release, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(postgres, "COMMAND_TIMEOUT", 0.2)
        async with opened(on_postgres) as database:
            await database.migrate(release('op.execute("SELECT pg_sleep(1)")'))

    async def test_of_several_replicas_one_migrates_and_the_others_wait(
        self, on_postgres: DatabaseAddress, release: Release
    ) -> None:
        scripts = release(CREATE, 'op.execute("SELECT pg_sleep(2)")', ADD)
        async with opened(on_postgres) as one, opened(on_postgres) as other, opened(on_postgres) as third:
            with capture_logs() as records:
                await asyncio.gather(*(each.migrate(scripts) for each in (one, other, third)))
        assert sorted(each["event"] for each in records) == ["schema migrated", *["schema migration awaited"] * 2]

    async def test_waiting_for_a_lock_keeps_nobody_else_waiting(
        self, on_postgres: DatabaseAddress, release: Release
    ) -> None:
        async with opened(on_postgres) as database:
            await database.migrate(release(CREATE))
            async with database.read() as connection:
                await connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
                await connection.execute(text("SELECT * FROM things"))
                with capture_logs() as records:
                    migrating = asyncio.create_task(database.migrate(release(CREATE, ADD)))
                    while len(records) < 2:
                        # Each second, readers that came after the migration get their turn.
                        await rows(database, "SELECT * FROM things")
            await migrating
            assert {each["event"] for each in records} == {"schema migration waits for a lock"}
            await rows(database, "SELECT name FROM things")

    async def test_an_index_is_built_while_rows_are_written(
        self, on_postgres: DatabaseAddress, release: Release
    ) -> None:
        index = 'create_index("ix_things", "things", ["id"])'
        async with opened(on_postgres) as database:
            await database.migrate(release(CREATE))
            async with database.write() as connection:
                await connection.execute(text("INSERT INTO things VALUES (1)"))
                migrating = asyncio.create_task(database.migrate(release(CREATE, index)))
                await until(
                    database,
                    "SELECT 1 FROM pg_index JOIN pg_class c ON c.oid = indexrelid "
                    "WHERE relname = 'ix_things' AND NOT indisvalid",
                )
                await execute(database, "INSERT INTO things VALUES (2)")
            await migrating
            assert await is_valid(database)

    async def test_an_index_that_was_interrupted_is_replaced(
        self, on_postgres: DatabaseAddress, release: Release
    ) -> None:
        scripts = release(CREATE, ADD, 'create_index("ix_things", "things", ["name"], unique=True)')
        async with opened(on_postgres) as database:
            await database.migrate(release(CREATE, ADD))
            await execute(database, "INSERT INTO things VALUES (1, 'a'), (2, 'a')")
            with pytest.raises(ConfigError, match="could not create unique index"):
                await database.migrate(scripts)
            assert not await is_valid(database)
            await execute(database, "DELETE FROM things WHERE id = 2")
            await database.migrate(scripts)
            assert await is_valid(database)


async def is_valid(database: Database) -> bool:
    found = await rows(
        database, "SELECT indisvalid FROM pg_index JOIN pg_class c ON c.oid = indexrelid WHERE relname = 'ix_things'"
    )
    return found == [(True,)]


async def until(database: Database, query: str) -> None:
    async with asyncio.timeout(10):
        while not await rows(database, query):
            await asyncio.sleep(0.01)


REFERRING = (
    'op.create_table("things", sa.Column("id", sa.Integer, primary_key=True)); '
    'op.create_table("parts", sa.Column("thing", sa.Integer, sa.ForeignKey("things.id", ondelete="CASCADE")))'
)


async def test_a_table_that_is_replaced_keeps_what_refers_to_it(address: DatabaseAddress, release: Release) -> None:
    replace = 'with op.batch_alter_table("things", recreate="auto") as things: things.add_column({column})'
    column = 'sa.Column("is_new", sa.Boolean, nullable=False, server_default=sa.true())'
    async with opened(address) as database:
        await database.migrate(release(REFERRING))
        await execute(database, "INSERT INTO things VALUES (1)", "INSERT INTO parts VALUES (1)")
        await database.migrate(release(REFERRING, replace.format(column=column)))
        assert await rows(database, "SELECT * FROM parts") == [(1,)]
        await execute(database, "DELETE FROM things")
        assert await rows(database, "SELECT * FROM parts") == []


async def test_a_script_may_not_leave_references_to_nothing(on_sqlite: DatabaseAddress, release: Release) -> None:
    async with opened(on_sqlite) as database:
        await database.migrate(release(REFERRING))
        await execute(database, "INSERT INTO things VALUES (1)", "INSERT INTO parts VALUES (1)")
        with pytest.raises(ConfigError, match="parts refers to missing rows"):
            await database.migrate(release(REFERRING, 'op.execute("DELETE FROM things")'))
        assert await rows(database, "SELECT * FROM things") == [(1,)]


async def test_a_process_waits_for_another_ones_migration_of_a_file(
    on_sqlite: DatabaseAddress, release: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "BUSY_SECONDS", 0.05)
    monkeypatch.setattr(schema, "RETRY_SECONDS", 0.05)
    other = sqlite3.connect(on_sqlite.path, isolation_level=None)
    async with opened(on_sqlite) as database:
        await database.migrate(release(CREATE))
        other.execute("BEGIN IMMEDIATE")
        with capture_logs() as records:
            migrating = asyncio.create_task(database.migrate(release(CREATE, ADD)))
            while len(records) < 3:
                await asyncio.sleep(0.01)
        assert {each["event"] for each in records} == {"schema migration waits for a lock"}
        other.execute("ROLLBACK")
        other.close()
        await migrating
        await rows(database, "SELECT name FROM things")
