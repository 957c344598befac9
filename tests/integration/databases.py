"""A real PostgreSQL for tests: one that OSTIARY_TEST_POSTGRES_URL names, or a container of one's own."""

import asyncio
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg
import docker
import pytest
from clusters import engine_answers, free_ports, wait_until

IMAGE = "postgres:17-trixie"

#: What is safe with data that nobody needs, and makes tests fast.
CAREFREE = [
    "-c",
    "fsync=off",
    "-c",
    "synchronous_commit=off",
    "-c",
    "full_page_writes=off",
    "-c",
    "max_connections=200",
]


class PostgresServer:
    """A server on which databases can be made. `url` names it, without a database."""

    def __init__(self, url: str) -> None:
        """Take the URL of any of its databases."""
        self.url = url.rpartition("/")[0]

    def create_database(self, template: str = "template1") -> str:
        """Make a database as a copy of another, and return its name."""
        name = f"test_{secrets.token_hex(6)}"
        self._execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        return name

    def drop_database(self, name: str) -> None:
        """Drop a database, whoever is still connected."""
        self._execute(f"DROP DATABASE {name} WITH (FORCE)")

    def close_to_all(self, name: str) -> None:
        """Let nobody connect to a database, and end all connections."""
        self._execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        end_all = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"  # noqa: S608 - ours
        self._execute(end_all)

    def open_to_all(self, name: str) -> None:
        """Let connections in again."""
        self._execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")

    def answers(self) -> bool:
        """Return whether the server takes connections."""
        try:
            self._execute("SELECT 1")
        except (OSError, asyncpg.PostgresError):
            return False
        return True

    def _execute(self, statement: str) -> None:
        async def execute() -> None:
            connection = await asyncpg.connect(f"{self.url}/postgres", timeout=5)
            try:
                await connection.execute(statement)
            finally:
                await connection.close()

        asyncio.run(execute())


@contextmanager
def running_postgres() -> Iterator[PostgresServer]:
    """Yield a server. Without an engine the test is skipped, or fails if CI=true."""
    if url := os.environ.get("OSTIARY_TEST_POSTGRES_URL"):
        yield PostgresServer(url)
        return
    if not engine_answers():
        if os.environ.get("CI") == "true":
            pytest.fail("no Docker engine answers, and CI=true makes that a failure")
        pytest.skip("no Docker engine answers, and OSTIARY_TEST_POSTGRES_URL is not set")
    engine = docker.from_env()
    password = secrets.token_hex(16)
    (port,) = free_ports(1)
    container = engine.containers.run(
        IMAGE,
        ["postgres", *CAREFREE],
        environment={"POSTGRES_PASSWORD": password},
        ports={"5432/tcp": ("127.0.0.1", port)},
        tmpfs={"/var/lib/postgresql/data": ""},
        detach=True,
        auto_remove=True,
    )
    try:
        server = PostgresServer(f"postgresql://postgres:{password}@127.0.0.1:{port}/postgres")
        wait_until(server.answers, "PostgreSQL answers")
        yield server
    finally:
        container.remove(force=True)
        engine.close()
