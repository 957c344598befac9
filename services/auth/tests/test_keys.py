import asyncio
import base64
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import select

from ostiary import KeySet
from ostiary_auth.domain.keys import KeysCannotBeOpened, create_kek, load_kek, load_key_ring
from ostiary_auth.storage.store import SqlTransaction
from ostiary_auth.storage.tables import signing_keys
from ostiary_chassis.sql import SqlStore

NOW = datetime(2026, 1, 1, tzinfo=UTC)
KEK = bytes(32)


@pytest.fixture
async def empty_store(store: SqlStore[SqlTransaction]) -> SqlStore[SqlTransaction]:
    async with store.database.write() as connection:
        await connection.execute(signing_keys.delete())
    return store


async def test_of_many_starting_replicas_one_makes_the_first_key(empty_store: SqlStore[SqlTransaction]) -> None:
    rings = await asyncio.gather(*(load_key_ring(empty_store, KEK, NOW) for _ in range(5)))
    assert len({ring.signing.kid for ring in rings}) == 1
    assert len({ring.jwks() for ring in rings}) == 1


async def test_the_published_document_holds_public_keys_only(empty_store: SqlStore[SqlTransaction]) -> None:
    ring = await load_key_ring(empty_store, KEK, NOW)
    (key,) = json.loads(ring.jwks())["keys"]
    assert set(key) == {"kty", "kid", "use", "alg", "n", "e"}
    assert list(KeySet.from_json(ring.jwks()).keys) == [ring.signing.kid]


async def test_private_keys_are_stored_sealed(empty_store: SqlStore[SqlTransaction]) -> None:
    ring = await load_key_ring(empty_store, KEK, NOW)
    async with empty_store.database.read() as connection:
        sealed = (await connection.execute(select(signing_keys.c.sealed_private_key))).scalar_one()
    prime = ring.signing.private_key.private_numbers().p
    assert prime.to_bytes(128, "big") not in sealed
    assert b"PRIVATE" not in sealed


async def test_another_key_encryption_key_opens_nothing(empty_store: SqlStore[SqlTransaction]) -> None:
    await load_key_ring(empty_store, KEK, NOW)
    with pytest.raises(KeysCannotBeOpened):
        await load_key_ring(empty_store, bytes([1]) * 32, NOW)


async def test_a_sealed_key_cannot_take_another_keys_name(empty_store: SqlStore[SqlTransaction]) -> None:
    await load_key_ring(empty_store, KEK, NOW)
    async with empty_store.database.write() as connection:
        await connection.execute(signing_keys.update().values(kid="other"))
    with pytest.raises(KeysCannotBeOpened):
        await load_key_ring(empty_store, KEK, NOW)


def test_the_kek_is_made_once_and_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "kek"
    create_kek(path)
    kek = load_kek(path)
    assert len(kek) == 32
    create_kek(path)
    assert load_kek(path) == kek
    assert path.stat().st_mode & 0o777 == 0o600
    assert [file.name for file in tmp_path.iterdir()] == ["kek"]


@pytest.mark.parametrize("content", [b"", b"short", base64.b64encode(bytes(31)), bytes(32), b"\xff" * 44])
def test_a_file_that_is_no_kek_is_refused_and_kept(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "kek"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="32 random bytes"):
        load_kek(path)
    assert path.read_bytes() == content
