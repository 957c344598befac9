"""Databases that fail: they move, fill up, stall, and change their password."""

import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import docker
import httpx
import pytest
from clusters import NO_TLS, LocalCluster, client_of, need_engine, wait_until
from databases import PGDATA, PostgresContainer
from people import PASSWORD, People, User

#: Seconds from a promotion until logins succeed, on a busy machine.
FAILOVER_SECONDS = 5.0

#: A file that fills the disk of a server.
FILLER = f"{PGDATA}/../filler"


@dataclass
class Stack:
    """An auth service on a primary that has a standby. Each test leaves it as it was; the last one promotes."""

    primary: PostgresContainer
    standby: PostgresContainer
    cluster: LocalCluster
    password_file: Path
    client: httpx.Client
    ada: User

    def failing(self) -> list[str]:
        return failing(self.cluster)

    def log_in(self) -> int:
        return log_in(self.client, self.ada)

    def log(self) -> str:
        log = self.cluster.log("auth")
        assert "Traceback" not in log
        return log


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    need_engine()
    cluster = LocalCluster(tmp_path_factory.mktemp("cluster"))
    file = tmp_path_factory.mktemp("secrets") / "password"
    with ExitStack() as ends:
        engine = ends.enter_context(closing(docker.from_env()))
        primary = ends.enter_context(closing(PostgresContainer(engine, size="256m")))
        primary.allow_standby()
        standby = ends.enter_context(closing(PostgresContainer(engine, primary=primary)))
        file.write_text(primary.password)
        hosts = f"127.0.0.1:{primary.port},127.0.0.1:{standby.port}"
        cluster.environ["OSTIARY_AUTH_DATABASE_URL"] = f"postgresql://postgres@{hosts}/postgres"
        cluster.environ["OSTIARY_AUTH_DATABASE_PASSWORD_FILE"] = str(file)
        ends.callback(cluster.stop_all)
        cluster.start("auth")
        client = ends.enter_context(client_of(cluster.urls["auth"]))
        yield Stack(primary, standby, cluster, file, client, People(client).new())


def failing(cluster: LocalCluster) -> list[str]:
    """Return the readiness checks of the auth service that fail."""
    response = httpx.get(f"{cluster.urls['auth']}/readyz", timeout=10, trust_env=False, verify=NO_TLS)
    found: list[str] = response.json().get("failing", [])
    assert (response.status_code == 503) == bool(found)
    return found


def log_in(client: httpx.Client, user: User) -> int:
    """Log in, and return the status: a database that fails is always named as the cause."""
    response = client.post("/auth/login", json={"email": user.email, "password": PASSWORD})
    assert response.status_code == 200 or response.json()["code"] == "storage_unavailable"
    return response.status_code


def listeners(server: PostgresContainer) -> object:
    return server.value("SELECT count(*) FROM pg_stat_activity WHERE query = 'SHOW transaction_read_only'")


@pytest.mark.docker
class TestPostgres:
    def test_a_password_that_was_rotated_is_picked_up(self, stack: Stack) -> None:
        primary, old = stack.primary, stack.primary.password
        primary.execute("ALTER ROLE postgres PASSWORD 'rotated'")
        primary.url = primary.url.replace(old, "rotated")
        wait_until(lambda: not stack.standby.answers(), "the standby knows of it")
        stack.standby.url = stack.standby.url.replace(old, "rotated")
        # What is open stays open.
        assert stack.log_in() == 200
        primary.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
        )
        wait_until(lambda: stack.log_in() == 503, "the old password is rejected")
        wait_until(lambda: stack.failing() == ["database"], "it is not ready")
        assert "password rejected" in stack.log()
        stack.password_file.write_text("rotated\n")
        wait_until(lambda: stack.log_in() == 200, "the new password is used")
        wait_until(lambda: stack.failing() == [], "it is ready again")
        wait_until(lambda: listeners(primary) == 1, "the listener is back")
        causes = re.findall(r"cannot connect to the database .*error=(.*)", stack.log())
        # Each is logged once, whoever tries.
        assert causes
        assert all(cause != following for cause, following in pairwise(causes))
        assert old not in stack.log()

    def test_a_server_that_stalls_is_not_ready_in_time(self, stack: Stack) -> None:
        stack.primary.container.pause()
        try:
            # It takes a second until a test's outcome is forgotten, two for a test, and some for a busy machine.
            wait_until(lambda: stack.failing() == ["database"], "it is not ready", 6)
        finally:
            stack.primary.container.unpause()
        wait_until(lambda: stack.failing() == [], "it is ready again")

    def test_a_full_disk_is_seen_and_its_end_too(self, stack: Stack) -> None:
        stack.primary.run("bash", "-c", f"cat /dev/zero > {FILLER}")
        # There is space left in the tables' pages for some more logins.
        wait_until(lambda: stack.log_in() == 503, "logins fail")
        wait_until(lambda: stack.failing() == ["database"], "it is not ready")
        assert stack.primary.run("rm", FILLER) == 0
        wait_until(lambda: stack.failing() == [], "it is ready again")
        assert stack.log_in() == 200

    def test_after_a_promotion_logins_go_on(self, stack: Stack) -> None:
        # The primary stays alive, keeps its connections, and takes no more writes.
        stack.primary.execute("ALTER SYSTEM SET default_transaction_read_only = on")
        stack.primary.execute("SELECT pg_reload_conf()")
        wait_until(lambda: stack.failing() == ["database"], "it is not ready without a primary")
        assert stack.log_in() == 503
        stack.standby.execute("SELECT pg_promote()")
        wait_until(lambda: stack.log_in() == 200, "logins succeed", FAILOVER_SECONDS)
        wait_until(lambda: stack.failing() == [], "it is ready again", FAILOVER_SECONDS)
        wait_until(lambda: listeners(stack.standby) == 1 and listeners(stack.primary) == 0, "the listener follows")
        assert stack.client.post("/auth/logout", headers=stack.ada.headers).status_code == 200
        assert "the server is read-only" in stack.log()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "ostiary-test", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode != 0:  # noqa: S603 - our own command
        pytest.skip("file systems can be mounted by root only")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)  # noqa: S603, S607 - our own command


def test_a_full_disk_of_sqlite_is_seen_and_its_end_too(small_disk: Path) -> None:
    cluster = LocalCluster(small_disk)
    try:
        cluster.start("auth")
        with client_of(cluster.urls["auth"]) as client:
            ada = People(client).new()
            fill(small_disk / "filler")
            wait_until(lambda: failing(cluster) == ["database"], "it is not ready")
            assert log_in(client, ada) == 503
            (small_disk / "filler").unlink()
            wait_until(lambda: failing(cluster) == [], "it is ready again")
            assert log_in(client, ada) == 200
    finally:
        cluster.stop_all()


def fill(path: Path) -> None:
    """Leave no space on a disk."""
    with path.open("wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError:
            return
