import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
from databases import PostgresServer

from ostiary_auth.app import create_app
from ostiary_auth.config import AuthConfig
from ostiary_auth.services import OwnSecrets, Services, prepare
from ostiary_auth.storage.store import SqlTransaction
from ostiary_chassis.sql import SqlStore


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated database with its first keys, made once and copied for each test."""
    directory = tmp_path_factory.mktemp("prepared")
    asyncio.run(prepare(AuthConfig(data_dir=directory)))
    return directory


@pytest.fixture(scope="session")
def prepared_on_postgres(
    postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Path, str]]:
    """The same on PostgreSQL: the folder with the key-encryption key, and the name of the database."""
    directory = tmp_path_factory.mktemp("prepared-on-postgres")
    name = postgres_server.create_database()
    asyncio.run(prepare(AuthConfig(data_dir=directory, database_url=f"{postgres_server.url}/{name}")))
    yield directory, name
    postgres_server.drop_database(name)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.docker)])
def config(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[AuthConfig]:
    """Settings for a prepared database of the test's own: everything here holds on both kinds."""
    if request.param == "sqlite":
        shutil.copytree(request.getfixturevalue("prepared"), tmp_path, dirs_exist_ok=True)
        yield AuthConfig(data_dir=tmp_path)
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    directory, template = request.getfixturevalue("prepared_on_postgres")
    shutil.copytree(directory, tmp_path, dirs_exist_ok=True)
    name = server.create_database(template)
    yield AuthConfig(data_dir=tmp_path, database_url=f"{server.url}/{name}")
    server.drop_database(name)


@pytest.fixture
async def own(config: AuthConfig) -> OwnSecrets:
    return await prepare(config)


@pytest.fixture
async def services(config: AuthConfig, own: OwnSecrets) -> AsyncIterator[Services]:
    services = Services(config, own)
    services.own_keys.use(await services.keys.load())
    yield services
    await services.close()


@pytest.fixture
def store(services: Services) -> SqlStore[SqlTransaction]:
    return services.store


@pytest.fixture
async def client(config: AuthConfig, own: OwnSecrets) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(config, own)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False, client=("192.0.2.7", 40000))
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://auth") as client,
    ):
        yield client
