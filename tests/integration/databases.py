"""A real PostgreSQL for tests: one that OSTIARY_TEST_POSTGRES_URL names, or a container of one's own."""

import asyncio
import fcntl
import json
import os
import secrets
import shlex
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Self

import asyncpg
import docker
from clusters import LocalCluster, free_ports, need_engine, wait_until
from docker.models.containers import Container

IMAGE = "postgres:17-trixie"

PGDATA = "/var/lib/postgresql/data/own"

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
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        return name

    def drop_database(self, name: str) -> None:
        """Drop a database, whoever is still connected."""
        self.execute(f"DROP DATABASE {name} WITH (FORCE)")

    def rename_database(self, name: str, new_name: str) -> None:
        """Rename a database that nobody is connected to."""
        self.execute(f"ALTER DATABASE {name} RENAME TO {new_name}")

    def close_to_all(self, name: str) -> None:
        """Let nobody connect to a database, and end all connections."""
        self.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        end_all = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"  # noqa: S608 - ours
        self.execute(end_all)

    def open_to_all(self, name: str) -> None:
        """Let connections in again."""
        self.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")

    def answers(self) -> bool:
        """Return whether the server takes connections."""
        try:
            self.execute("SELECT 1")
        except (OSError, asyncpg.PostgresError):
            return False
        return True

    def execute(self, statement: str, database: str = "postgres") -> None:
        """Run a statement, outside of a transaction."""
        asyncio.run(self._run(lambda connection: connection.execute(statement), database))

    def value(self, query: str) -> object:
        """Return what a query returns."""
        return asyncio.run(self._run(lambda connection: connection.fetchval(query)))

    async def _run(self, work: Callable[[asyncpg.Connection], Awaitable[object]], database: str = "postgres") -> object:
        connection = await asyncpg.connect(f"{self.url}/{database}", timeout=5)
        try:
            return await work(connection)
        finally:
            await connection.close()


class SharedPostgres:
    """A server for all processes of a test run. The first that needs it starts it; the run's main process ends it."""

    def __init__(self, directory: Path) -> None:
        """Take the folder that the processes of the run share."""
        self._lock, self._started = directory / "postgres.lock", directory / "postgres.json"

    def server(self) -> PostgresServer:
        """Return the server. Without one, and without an engine, the test is skipped, or fails if CI=true."""
        if url := os.environ.get("OSTIARY_TEST_POSTGRES_URL"):
            return PostgresServer(url)
        with self._lock.open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not self._started.exists():
                self._started.write_text(json.dumps(_start_container()))
            return PostgresServer(json.loads(self._started.read_text())["url"])

    def close(self) -> None:
        """End the server, if one was started."""
        if self._started.exists():
            with closing(docker.from_env()) as engine:
                engine.containers.get(json.loads(self._started.read_text())["container"]).remove(force=True)


class PostgresContainer(PostgresServer):
    """A server of a test's own, to break. With `primary`, it is a standby that follows that one."""

    def __init__(self, engine: docker.DockerClient, *, size: str = "", primary: Self | None = None) -> None:
        """Start it; its data have `size` (such as "100m") at most."""
        self.password: str = primary.password if primary is not None else secrets.token_hex(16)
        (self.port,) = free_ports(1)
        super().__init__(f"postgresql://postgres:{self.password}@127.0.0.1:{self.port}/postgres")
        command = ["postgres", *CAREFREE, "-c", "listen_addresses=*"]
        if primary is not None:
            source = f"--host={primary.address} --username=postgres"
            copy = f"pg_basebackup --pgdata={PGDATA} {source} --checkpoint=fast --write-recovery-conf"
            command = ["bash", "-c", f"{copy} && exec {shlex.join(command)}"]
        self.container: Container = engine.containers.run(
            IMAGE,
            command,
            environment={"POSTGRES_PASSWORD": self.password, "PGPASSWORD": self.password, "PGDATA": PGDATA},
            ports={"5432/tcp": ("127.0.0.1", self.port)},
            tmpfs={"/var/lib/postgresql/data": f"mode=1777{',size=' if size else ''}{size}"},
            user="postgres",
            detach=True,
            auto_remove=True,
        )
        wait_until(self.answers, "PostgreSQL answers")

    @property
    def address(self) -> str:
        """The address in the engine's network."""
        self.container.reload()
        address: str = self.container.attrs["NetworkSettings"]["Networks"]["bridge"]["IPAddress"]
        return address

    def run(self, *command: str) -> int:
        """Run a command in the container and return its exit code."""
        code = self.container.exec_run(list(command)).exit_code
        assert code is not None
        return code

    def allow_standby(self) -> None:
        """Let a standby connect."""
        rule = "host replication all all scram-sha-256"
        assert self.run("bash", "-c", f"echo {rule} >> {PGDATA}/pg_hba.conf && pg_ctl --pgdata={PGDATA} reload") == 0

    def close(self) -> None:
        self.container.remove(force=True)


def _start_container() -> dict[str, str]:
    need_engine()
    with closing(docker.from_env()) as engine:
        server = PostgresContainer(engine)
        return {"url": f"{server.url}/postgres", "container": server.container.id or ""}


@contextmanager
def replicas(server: PostgresServer, *members: LocalCluster) -> Iterator[str]:
    """Make clusters replicas of the first one: one issuer, database and secrets. Yield the database's name."""
    name = server.create_database()
    shared = {
        "OSTIARY_ISSUER": members[0].url,
        "OSTIARY_AUTH_DATABASE_URL": f"{server.url}/{name}",
        "OSTIARY_AUTH_KEK_FILE": str(members[0].data_dir / "kek"),
        "OSTIARY_FEED_SECRET_FILE": members[0].environ["OSTIARY_FEED_SECRET_FILE"],
        "OSTIARY_GATEWAY_SECRET_FILE": members[0].environ["OSTIARY_GATEWAY_SECRET_FILE"],
    }
    try:
        for member in members:
            member.environ |= shared
        yield name
    finally:
        for member in members:
            member.stop_all()
        server.drop_database(name)
