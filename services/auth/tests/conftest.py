import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from ostiary_auth.app import create_app, prepare
from ostiary_auth.config import AuthConfig
from ostiary_auth.storage.store import SqlTransaction
from ostiary_chassis.sql import Database, SqlStore


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated database with its first key, made once and copied for each test."""
    directory = tmp_path_factory.mktemp("prepared")
    asyncio.run(prepare(AuthConfig(data_dir=directory)))
    return directory


@pytest.fixture
def config(prepared: Path, tmp_path: Path) -> AuthConfig:
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    return AuthConfig(data_dir=tmp_path)


@pytest.fixture
async def store(config: AuthConfig) -> AsyncIterator[SqlStore[SqlTransaction]]:
    database = Database(config.database())
    yield SqlStore(database, SqlTransaction)
    await database.close()


@pytest.fixture
async def client(config: AuthConfig) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(config)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://auth") as client,
    ):
        yield client
