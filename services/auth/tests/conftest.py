import asyncio
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from databases import PostgresServer
from session_tokens import ADA

from ostiary_auth.app import create_app
from ostiary_auth.config import AuthConfig
from ostiary_auth.services import Services, ServiceSecrets
from ostiary_auth.startup import prepare
from ostiary_auth.storage.store import AuthStore


@dataclass(frozen=True)
class Prepared:
    """A folder with the key-encryption key, what it opens, and the name of a database or one in the folder."""

    directory: Path
    own: ServiceSecrets
    database: str | None = None


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """A migrated database with its first keys, made once and copied for each test."""
    directory = tmp_path_factory.mktemp("prepared")
    return Prepared(directory, asyncio.run(prepare(AuthConfig(data_dir=directory))))


@pytest.fixture(scope="session")
def prepared_on_postgres(
    postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Prepared]:
    """The same on PostgreSQL."""
    directory = tmp_path_factory.mktemp("prepared-on-postgres")
    name = postgres_server.create_database()
    config = AuthConfig(data_dir=directory, database_url=f"{postgres_server.url}/{name}")
    yield Prepared(directory, asyncio.run(prepare(config)), name)
    postgres_server.drop_database(name)


@pytest.fixture(scope="session", params=["prepared", pytest.param("prepared_on_postgres", marks=pytest.mark.docker)])
def template(request: pytest.FixtureRequest) -> Prepared:
    """What a test's own database is a copy of: everything here holds on both kinds."""
    found: Prepared = request.getfixturevalue(request.param)
    return found


@pytest.fixture(scope="session")
def copy(template: Prepared, request: pytest.FixtureRequest) -> Callable[[Path], AbstractContextManager[AuthConfig]]:
    """Copy the template for as long as it is needed, with its files in a folder."""

    @contextmanager
    def copied(directory: Path) -> Iterator[AuthConfig]:
        shutil.copytree(template.directory, directory, dirs_exist_ok=True)
        if template.database is None:
            yield AuthConfig(data_dir=directory)
            return
        server: PostgresServer = request.getfixturevalue("postgres_server")
        name = server.create_database(template.database)
        yield AuthConfig(data_dir=directory, database_url=f"{server.url}/{name}")
        server.drop_database(name)

    return copied


@pytest.fixture
def config(copy: Callable[[Path], AbstractContextManager[AuthConfig]], tmp_path: Path) -> Iterator[AuthConfig]:
    with copy(tmp_path) as config:
        yield config


@pytest.fixture(scope="session")
def own(template: Prepared) -> ServiceSecrets:
    return template.own


@pytest.fixture
async def services(config: AuthConfig, own: ServiceSecrets) -> AsyncIterator[Services]:
    services = Services(config, own)
    services.local_keys.use(await services.keys.load())
    yield services
    await services.close()


@pytest.fixture
def store(services: Services) -> AuthStore:
    return services.store


@pytest.fixture
async def client(config: AuthConfig, own: ServiceSecrets) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(config, own)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False, client=("192.0.2.7", 40000))
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://auth") as client,
    ):
        yield client


@pytest.fixture
async def tokens(client: httpx.AsyncClient) -> dict[str, Any]:
    """The tokens of a user who has registered and logged in."""
    await client.post("/auth/register", json=ADA)
    response = await client.post("/auth/login", json=ADA)
    body: dict[str, Any] = response.json()
    return body
