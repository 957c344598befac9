"""Starting: settings that cannot be used are one line; starting twice changes nothing."""

import asyncio
import stat
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ostiary_auth.config import AuthConfig
from ostiary_auth.domain.keys.model import KeyState
from ostiary_auth.domain.keys.vault import new_kek
from ostiary_auth.services import Services, check_token_size
from ostiary_auth.startup import open_prepared, prepare
from ostiary_auth.storage.keys.tables import sealed_secrets, signing_keys
from ostiary_chassis.settings import ConfigError, create_secret
from ostiary_chassis.sql import Database


async def test_starting_again_changes_nothing(config: AuthConfig) -> None:
    before = (config.data_dir / "auth-kek").read_bytes()
    await asyncio.gather(prepare(config), prepare(config))
    assert (config.data_dir / "auth-kek").read_bytes() == before


async def test_what_is_secret_is_its_owners_only(tmp_path: Path) -> None:
    config = AuthConfig(data_dir=tmp_path / "data")
    await prepare(config)
    assert stat.S_IMODE(config.data_dir.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in config.data_dir.iterdir()} == {0o600}


async def test_a_lost_kek_names_its_setting(config: AuthConfig) -> None:
    config.kek_path.unlink()
    with pytest.raises(ConfigError, match=r"OSTIARY_AUTH_KEK_FILE: cannot use .*: No such file"):
        await prepare(config)
    assert not config.kek_path.exists()


async def test_another_kek_names_its_setting(config: AuthConfig) -> None:
    config.kek_path.unlink()
    create_secret(config.kek_path, new_kek())
    with pytest.raises(ConfigError, match=r"OSTIARY_AUTH_KEK_FILE: .* does not open the keys"):
        await prepare(config)


async def test_a_broken_kek_names_its_setting(config: AuthConfig) -> None:
    config.kek_path.write_text("broken")
    with pytest.raises(ConfigError, match=r"OSTIARY_AUTH_KEK_FILE: .* 32 random bytes"):
        await prepare(config)


async def test_a_kek_that_cannot_be_read_names_its_setting(tmp_path: Path) -> None:
    config = AuthConfig(data_dir=tmp_path, kek_file=tmp_path)
    with pytest.raises(ConfigError, match=r"OSTIARY_AUTH_KEK_FILE: cannot use "):
        await prepare(config)


@pytest.mark.parametrize("bits", [2048, 4096])
async def test_tokens_that_would_fit_no_cookie_name_what_is_too_long(tmp_path: Path, bits: int) -> None:
    for audience, fits in (("a" * 1500, True), ("a" * 3000, False)):
        config = AuthConfig(data_dir=tmp_path, audience=audience, rsa_bits=bits)
        if fits:
            check_token_size(config, ("user",), datetime.now(UTC))
            continue
        with pytest.raises(ConfigError, match="OSTIARY_ISSUER, OSTIARY_AUDIENCE: too long: access tokens would have"):
            await prepare(config)
        # Where browsers have no sessions, no token has to be short.
        check_token_size(config.model_copy(update={"issuer": "http://shop.example"}), ("user",), datetime.now(UTC))


async def test_a_file_that_is_no_database_names_the_setting(tmp_path: Path) -> None:
    (tmp_path / "auth.db").write_bytes(b"this is not a database" * 100)
    with pytest.raises(ConfigError, match="OSTIARY_AUTH_DATABASE_URL: cannot use"):
        await prepare(AuthConfig(data_dir=tmp_path))


def test_an_idle_limit_over_the_absolute_one_is_refused() -> None:
    with pytest.raises(ConfigError, match="OSTIARY_SESSION_IDLE_TTL must not exceed OSTIARY_SESSION_MAX_TTL"):
        AuthConfig.load({"OSTIARY_SESSION_IDLE_TTL": "120", "OSTIARY_SESSION_MAX_TTL": "60"})


async def test_without_the_kek_one_starts_again_as_the_readme_says(config: AuthConfig) -> None:
    config.kek_path.unlink()
    database = Database(config.database())
    async with database.write() as connection:
        for table in (signing_keys, sealed_secrets):
            await connection.execute(table.delete())
    await database.close()
    services = Services(config, await prepare(config))
    assert {key.state for key in await services.keys.stored()} == {KeyState.SIGNING, KeyState.NEXT}
    assert (await services.audit.verify(services.store)).broken_at == 1
    await services.close()


async def test_commands_make_nothing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="start the service first"):
        await open_prepared(AuthConfig(data_dir=tmp_path))
    assert list(tmp_path.iterdir()) == []


async def test_commands_have_the_secrets_of_the_service(config: AuthConfig) -> None:
    assert await open_prepared(config) == await prepare(config)
