"""Upgrades keep what there is, and a release that is rolled back works on the schema of the next."""

import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from databases import PostgresServer
from serving import serving
from sqlalchemy import Connection, insert, inspect, select
from users import ADA

from ostiary_auth.app import create_app
from ostiary_auth.config import AuthConfig
from ostiary_auth.services import ServiceSecrets
from ostiary_auth.startup import MIGRATIONS, prepare
from ostiary_auth.storage.schema import metadata
from ostiary_chassis.sql import Database

REVISIONS = sorted(script.name[:4] for script in (MIGRATIONS / "versions").glob("[0-9]*.py"))

#: Those that upgrades start from: the last one without browser sessions, and the previous release's.
OLDER = sorted({"0003", REVISIONS[-2]})

#: Steps of the schema that a release takes, and may be rolled back from. Older releases refuse any other schema.
STEPS = list(pairwise(REVISIONS[REVISIONS.index("0004") :]))

#: The rows of a database, by its tables in the order in which they can be inserted.
Rows = dict[str, list[dict[str, Any]]]


@pytest.fixture
def scripts(tmp_path: Path) -> Callable[[str], Path]:
    """Return the scripts of the release that had a revision as its newest."""

    def up_to(revision: str) -> Path:
        folder = tmp_path / f"release-{revision}"
        shutil.copytree(MIGRATIONS, folder)
        for script in (folder / "versions").glob("[0-9]*.py"):
            if script.name[:4] > revision:
                script.unlink()
        return folder

    return up_to


@pytest.fixture
def empty(config: AuthConfig, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[AuthConfig]:
    """Settings with the same secrets, and a database that nothing was done to."""
    with _empty_database(config, tmp_path / "empty", request) as found:
        yield found


@contextmanager
def _empty_database(config: AuthConfig, directory: Path, request: pytest.FixtureRequest) -> Iterator[AuthConfig]:
    directory.mkdir()
    for file in config.data_dir.iterdir():
        if file.is_file() and "auth.db" not in file.name:
            shutil.copy(file, directory)
    if config.database_url is None:
        yield config.model_copy(update={"data_dir": directory})
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    name = server.create_database()
    yield config.model_copy(update={"data_dir": directory, "database_url": f"{server.url}/{name}"})
    server.drop_database(name)


@asynccontextmanager
async def opened(config: AuthConfig) -> AsyncIterator[Database]:
    database = Database(config.database())
    try:
        yield database
    finally:
        await database.close()


async def rows_of(config: AuthConfig) -> Rows:
    async with opened(config) as database, database.read() as connection:
        return {
            table.name: [dict(row._mapping) for row in await connection.execute(select(table))]
            for table in metadata.sorted_tables
        }


def columns(connection: Connection) -> dict[str, set[str]]:
    """Return the names of the columns of all tables."""
    found = inspect(connection)
    return {name: {column["name"] for column in found.get_columns(name)} for name in found.get_table_names()}


async def fill(database: Database, rows: Rows, known: dict[str, set[str]]) -> None:
    """Insert rows as a release does that knows only these tables and columns."""
    async with database.write() as connection:
        for table in metadata.sorted_tables:
            if table.name in known:
                # What a migration itself has put in.
                await connection.execute(table.delete())
            for row in rows[table.name] if table.name in known else ():
                values = {name: value for name, value in row.items() if name in known[table.name]}
                await connection.execute(insert(table).values(values))


@pytest.fixture
async def used(config: AuthConfig, own: ServiceSecrets) -> tuple[Rows, dict[str, Any]]:
    """Return the rows of a database that was used, and the tokens of a session in it."""
    async with serving(create_app(config, own)) as client:
        await client.post("/auth/register", json=ADA)
        tokens: dict[str, Any] = (await client.post("/auth/login", json=ADA)).json()
    return await rows_of(config), tokens


@pytest.mark.parametrize("revision", OLDER)
async def test_an_upgrade_keeps_users_sessions_and_keys(
    used: tuple[Rows, dict[str, Any]], empty: AuthConfig, scripts: Callable[[str], Path], revision: str
) -> None:
    rows, tokens = used
    async with opened(empty) as database:
        await database.migrate(scripts(revision))
        async with database.read() as connection:
            known = await connection.run_sync(columns)
        await fill(database, rows, known)
    async with serving(create_app(empty, await prepare(empty))) as client:
        bearer = {"Authorization": f"Bearer {tokens['access_token']}"}
        assert (await client.get("/auth/me", headers=bearer)).status_code == 200
        renewed = await client.post("/auth/refresh", json={"refresh_token": tokens["refresh_token"]})
        assert renewed.status_code == 200, renewed.text
        assert renewed.json()["session_id"] == tokens["session_id"]
        assert (await client.post("/auth/login", json=ADA)).status_code == 200
        logout = await client.post("/auth/logout", headers={**bearer, "Prefer": "wait=5"})
        assert logout.status_code == 200, logout.text
        assert (await client.get("/auth/me", headers=bearer)).json()["code"] == "revoked"


@pytest.mark.parametrize(("revision", "following"), STEPS)
async def test_a_release_works_on_the_schema_of_the_next(
    used: tuple[Rows, dict[str, Any]],
    empty: AuthConfig,
    scripts: Callable[[str], Path],
    revision: str,
    following: str,
) -> None:
    rows, _ = used
    previous = scripts(revision)
    async with opened(empty) as database:
        await database.migrate(previous)
        async with database.read() as connection:
            known = await connection.run_sync(columns)
        await database.migrate(scripts(following))
        # It is started again, on purpose or because it has died while the other one migrated.
        await database.migrate(previous)
        await database.require_migrated(previous)
        await fill(database, rows, known)
        async with database.read() as connection:
            found = await connection.execute(select(metadata.tables["sessions"].c.id))
    assert set(found.scalars()) == {row["id"] for row in rows["sessions"]}


async def test_addresses_with_characters_that_look_like_others_since_still_log_in(
    used: tuple[Rows, dict[str, Any]], empty: AuthConfig, scripts: Callable[[str], Path]
) -> None:
    rows, _ = used
    (script,) = (MIGRATIONS / "versions").glob("*_more_look_alikes.py")
    (ada,) = rows["users"]
    one, other = "o\u02bcbrien@example.com", "\u00e9ve@example.com"
    users = [
        {**ada, "email": one, "email_key": one},
        {**ada, "id": uuid4(), "email": other, "email_key": other},
        {**ada, "id": uuid4(), "email": "erased", "email_key": "deleted:x"},
    ]
    async with opened(empty) as database:
        await database.migrate(scripts(REVISIONS[REVISIONS.index(script.name[:4]) - 1]))
        async with database.read() as connection:
            known = await connection.run_sync(columns)
        await fill(database, {**rows, "users": users}, known)
    async with serving(create_app(empty, await prepare(empty))) as client:
        for address in (one, "o'brien@example.com", other):
            login = await client.post("/auth/login", json={**ADA, "email": address})
            assert login.status_code == 200, login.text
    keys = {row["email_key"] for row in (await rows_of(empty))["users"]}
    assert keys == {"o'brien@example.com", other, "deleted:x"}
