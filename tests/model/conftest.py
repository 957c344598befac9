from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from databases import PostgresServer

from ostiary_auth.config import AuthConfig
from ostiary_auth.services import Services
from ostiary_auth.startup import prepare
from ostiary_auth.storage.store import AuthStore


@pytest.fixture(params=["SQLite", "PostgreSQL"])
def config(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[AuthConfig]:
    if request.param == "SQLite":
        yield AuthConfig(data_dir=tmp_path)
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    name = server.create_database()
    yield AuthConfig(data_dir=tmp_path, database_url=f"{server.url}/{name}")
    server.drop_database(name)


@pytest.fixture
async def store(config: AuthConfig) -> AsyncIterator[AuthStore]:
    """The real store, on both kinds of database."""
    services = Services(config, await prepare(config))
    yield services.store
    await services.close()
