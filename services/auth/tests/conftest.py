import asyncio
import shutil
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import argon2
import httpx
import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric import ec
from databases import PostgresServer
from fastapi import FastAPI
from oauth_harness import OAuth
from serving import opened, serving
from users import ADA

from ostiary_auth.app import create_app
from ostiary_auth.config import AuthConfig
from ostiary_auth.domain.accounts import hashing_queue, password_hashing
from ostiary_auth.services import Services, ServiceSecrets
from ostiary_auth.startup import prepare
from ostiary_auth.storage.store import AuthStore

#: As it is before tests that may open none.
SOCKET = socket.socket


@pytest.fixture(scope="module", autouse=True)
def cheap_password_hashes(request: pytest.FixtureRequest) -> Iterator[None]:
    """Hash passwords with the least effort, except where hashing is what is tested."""
    if request.path.stem == "test_password_hashing":
        yield
        return
    dummy = argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash("a password that nobody has")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(password_hashing, "ITERATIONS", 1)
        patch.setattr(password_hashing, "MEMORY_KIB", 8)
        patch.setattr(password_hashing, "_DUMMY_HASH", dummy)
        # A busy machine may take longer for what waits here.
        patch.setattr(hashing_queue, "PATIENCE_SECONDS", 60.0)
        yield


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
        # This may come when the next test, which may open none, is set up.
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(socket, "socket", SOCKET)
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
    async with opened(config, own) as services:
        yield services


@pytest.fixture
def store(services: Services) -> AuthStore:
    return services.store


@pytest.fixture
async def client(config: AuthConfig, own: ServiceSecrets) -> AsyncIterator[httpx.AsyncClient]:
    async with serving(create_app(config, own)) as client:
        yield client


@pytest.fixture(scope="module")
def shared_config(
    copy: Callable[[Path], AbstractContextManager[AuthConfig]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[AuthConfig]:
    with copy(tmp_path_factory.mktemp("shared")) as config:
        yield config


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_services(shared_config: AuthConfig, own: ServiceSecrets) -> AsyncIterator[Services]:
    """The parts of a second replica beside `shared_app`."""
    async with opened(shared_config, own) as services:
        yield services


@pytest.fixture(scope="module")
def shared_app(shared_config: AuthConfig, own: ServiceSecrets) -> FastAPI:
    """An application for all tests of a module, as creating one takes longer than most tests."""
    return create_app(shared_config, own)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_client(shared_app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with serving(shared_app) as client:
        yield client


@pytest.fixture
async def tokens(client: httpx.AsyncClient) -> dict[str, Any]:
    """The tokens of a user who has registered and logged in."""
    await client.post("/auth/register", json=ADA)
    response = await client.post("/auth/login", json=ADA)
    body: dict[str, Any] = response.json()
    return body


@pytest_asyncio.fixture(loop_scope="module")
async def oauth(shared_client: httpx.AsyncClient, shared_services: Services) -> OAuth:
    """The OAuth endpoints, with the confidential client `worker`."""
    oauth = OAuth(shared_client, shared_services)
    oauth.worker = await oauth.register("worker")
    return oauth


@pytest.fixture(scope="session")
def ec_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())
