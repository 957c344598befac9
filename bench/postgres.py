"""A database of PostgreSQL for a benchmark: on the server that a setting names, or in a container."""

import asyncio
import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import asyncpg
from common import HOST, Cores, free_ports

SERVER = "OSTIARY_TEST_POSTGRES_URL"
IMAGE = "postgres:17-trixie"

#: Seconds for a container to start.
START_SECONDS = 60.0


@contextmanager
def new_database(cores: Cores) -> Iterator[str]:
    """Yield the URL of a new database. Raises RuntimeError if there is neither a server nor a container engine."""
    with ExitStack() as stack:
        server = os.environ.get(SERVER) or stack.enter_context(_container(cores))
        name = f"bench_{secrets.token_hex(6)}"
        asyncio.run(_execute(server, f"CREATE DATABASE {name}"))
        try:
            yield f"{server.rpartition('/')[0]}/{name}"
        finally:
            asyncio.run(_execute(server, f"DROP DATABASE {name} WITH (FORCE)"))


@contextmanager
def _container(cores: Cores) -> Iterator[str]:
    """Run PostgreSQL on these cores, with its data in memory."""
    docker = shutil.which("docker")
    if docker is None:
        raise RuntimeError(f"PostgreSQL is needed: set {SERVER}, or install Docker")
    password, (port,) = secrets.token_hex(16), free_ports(1)
    options = [
        f"--cpuset-cpus={','.join(map(str, sorted(cores)))}",
        f"--publish={HOST}:{port}:5432",
        f"--env=POSTGRES_PASSWORD={password}",
        "--tmpfs=/var/lib/postgresql/data",
    ]
    command = [docker, "run", "--detach", "--rm", *options, IMAGE]
    started = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603 - the engine's own
    try:
        url = f"postgresql://postgres:{password}@{HOST}:{port}/postgres"
        _wait_for(url)
        yield url
    finally:
        remove = [docker, "rm", "--force", started.stdout.strip()]
        subprocess.run(remove, capture_output=True, check=True)  # noqa: S603 - the engine's own


def _wait_for(url: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            asyncio.run(_execute(url, "SELECT 1"))
        except (OSError, asyncpg.PostgresError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
        else:
            return


async def _execute(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url, timeout=5)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()
