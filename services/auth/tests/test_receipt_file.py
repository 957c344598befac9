"""The file that remembers how far the log of a SQLite database has come, when everything is stopped."""

import shutil
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from serving import serving
from users import log_in

from ostiary_auth import receipt_file
from ostiary_auth.app import create_app
from ostiary_auth.config import AuthConfig
from ostiary_auth.domain.context import Context
from ostiary_auth.services import Services, ServiceSecrets
from ostiary_auth.startup import prepare


@pytest.fixture
def config(tmp_path: Path) -> AuthConfig:
    return AuthConfig(data_dir=tmp_path)


@pytest.fixture
async def own(config: AuthConfig) -> ServiceSecrets:
    return await prepare(config)


async def serve(config: AuthConfig, own: ServiceSecrets) -> None:
    async with serving(create_app(config, own)):
        pass


@asynccontextmanager
async def opened(config: AuthConfig, own: ServiceSecrets) -> AsyncIterator[Services]:
    """Open the parts of the service; after that, all that was committed is in one file."""
    services = Services(config, own)
    services.local_keys.use(await services.keys.load())
    yield services
    await services.close()


async def log_out_after_a_copy(config: AuthConfig, own: ServiceSecrets) -> tuple[Path, str]:
    """Log in, copy the database, and log out; return the copy and the refresh token."""
    async with opened(config, own) as services:
        grant, _ = await log_in(services)
    copy = config.data_dir / "copy"
    shutil.copyfile(config.database().path, copy)
    async with opened(config, own) as services:
        await services.sessions.end(grant.user.id, grant.session.id, "local", Context(datetime.now(UTC)))
    return copy, grant.refresh_token


async def refreshes(config: AuthConfig, own: ServiceSecrets, refresh_token: str) -> int:
    async with serving(create_app(config, own)) as client:
        return (await client.post("/auth/refresh", json={"refresh_token": refresh_token})).status_code


async def test_a_copy_that_is_put_back_is_noticed_at_the_start(config: AuthConfig, own: ServiceSecrets) -> None:
    copy, refresh_token = await log_out_after_a_copy(config, own)
    await serve(config, own)
    shutil.copyfile(copy, config.database().path)
    assert await refreshes(config, own, refresh_token) == 401
    assert await refreshes(config, own, refresh_token) == 401


async def test_without_the_file_it_is_not(config: AuthConfig, own: ServiceSecrets) -> None:
    copy, refresh_token = await log_out_after_a_copy(config, own)
    await serve(config, own)
    receipt_file.path_of(config.database().path).unlink()
    shutil.copyfile(copy, config.database().path)
    assert await refreshes(config, own, refresh_token) == 200


async def test_a_restart_ends_nothing(config: AuthConfig, own: ServiceSecrets) -> None:
    async with opened(config, own) as services:
        grant, _ = await log_in(services)
    for content in (None, "garbage", "a.1.b.c", ""):
        if content is not None:
            receipt_file.path_of(config.database().path).write_text(content)
        await serve(config, own)
    assert await refreshes(config, own, grant.refresh_token) == 200


async def test_it_is_private_and_a_folder_in_its_place_is_no_reason_to_fail(
    config: AuthConfig, own: ServiceSecrets
) -> None:
    path = receipt_file.path_of(config.database().path)
    await serve(config, own)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.unlink()
    path.mkdir()
    await serve(config, own)
