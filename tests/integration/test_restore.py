"""What was ended after a backup is not good again after it was restored, by whatever means and whoever runs."""

import shutil
import signal
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest
from clusters import BIN, NO_TLS, SERVICES, LocalCluster, client_of, is_ready, wait_until
from databases import PostgresServer, replicas
from people import PASSWORD, People, User

pytestmark = pytest.mark.serial

#: Rows whose restoring takes a second or two, and bytes that are a part of them, and more than a service writes.
MANY = 40_000
MUCH = 1_000_000


class Site:
    """A cluster, and what is good on it."""

    def __init__(self, cluster: LocalCluster) -> None:
        self.cluster = cluster
        self.client = client_of(cluster.url)
        self.people = People(self.client)

    def close(self) -> None:
        self.client.close()

    def refresh(self, user: User) -> httpx.Response:
        return self.client.post("/auth/refresh", json={"refresh_token": user.tokens["refresh_token"]})

    def log_out(self, user: User) -> None:
        answer = self.client.post("/auth/logout", headers={**user.headers, "Prefer": "wait=30"})
        assert answer.json()["complete"], answer.text

    def is_served(self, user: User) -> bool:
        """Return whether a new session of a user is good everywhere: at the gateway, and for the service behind it."""
        login = self.client.post("/auth/login", json={"email": user.email, "password": PASSWORD})
        if login.status_code != 200:
            return False
        headers = {"Authorization": f"Bearer {login.json()['access_token']}"}
        return self.client.get("/profiles/me", headers=headers).status_code == 200

    def check_all_over(self, *users: User) -> None:
        """Nothing from before the restore is good, and whoever logs in is served, without a restart of anything."""
        wait_until(lambda: self.is_served(users[0]), "all go on with the new log")
        for user in users:
            assert self.refresh(user).status_code == 401
            assert self.client.get("/profiles/me", headers=user.headers).status_code == 401
            # By the service alone, which was not told by the gateway.
            direct = httpx.get(
                f"{self.cluster.urls['profile']}/profiles/me", headers=user.headers, trust_env=False, verify=NO_TLS
            )
            assert direct.status_code == 401
        assert all(is_ready(self.cluster.operations[service]) for service in SERVICES)

    def has_noticed(self) -> bool:
        """Return whether the auth service itself has begun a new log, and said so."""
        said = self.cluster.log("auth")
        return "revocation log replaced" in said and "revocation_log.restarted" in said

    def restarts(self) -> int:
        return self.cluster.auth_command("audit", "list", "--limit", "1000").count("revocation_log.restarted")


@pytest.fixture(params=["SQLite", pytest.param("PostgreSQL", marks=pytest.mark.docker)])
def site(request: pytest.FixtureRequest, own_cluster: LocalCluster) -> Iterator[Site]:
    if request.param == "SQLite":
        own_cluster.start_all()
        with closing(Site(own_cluster)) as site:
            yield site
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    with replicas(server, own_cluster):
        own_cluster.start_all()
        with closing(Site(own_cluster)) as site:
            yield site


def test_by_our_own_commands_while_everything_runs(site: Site, tmp_path: Path) -> None:
    ada, bob, file = site.people.new(), site.people.new(), tmp_path / "backup"
    site.cluster.auth_command("backup", str(file))
    site.log_out(ada)
    code, said = site.cluster.try_auth_command("restore", str(file))
    assert (code, "2 users" in said) == (1, True)
    assert site.client.get("/profiles/me", headers=bob.headers).status_code == 200
    said = site.cluster.auth_command("restore", str(file), "--replace")
    assert "2 users restored" in said
    assert "2 sessions ended" in said
    site.check_all_over(ada, bob)
    assert site.restarts() == 1


def test_a_restore_that_is_killed_leaves_everything_as_it_was(site: Site, tmp_path: Path) -> None:
    ada, file = site.people.new(), tmp_path / "backup"
    is_restoring = make_restoring_long(site.cluster)
    site.cluster.auth_command("backup", str(file))
    bob = site.people.new()
    command = [str(BIN / "ostiary-auth"), "restore", str(file), "--replace"]
    with subprocess.Popen(command, env=site.cluster.environ) as restoring:  # noqa: S603 - our own command
        try:
            wait_until(is_restoring, "the transaction has replaced rows")
        finally:
            restoring.kill()
    assert restoring.returncode == -signal.SIGKILL
    wait_until(lambda: site.refresh(bob).status_code == 200, "the database serves again")
    assert site.client.get("/profiles/me", headers=ada.headers).status_code == 200
    assert site.restarts() == 0


def make_restoring_long(cluster: LocalCluster) -> Callable[[], bool]:
    """Add so many rows that restoring them takes a while. Return what tells that a transaction is replacing them."""
    add = "INSERT INTO throttles (key, attempts, blocked_until, expires_at) SELECT {key}, 0, {time}, {time} FROM {rows}"
    time = "'2100-01-01 00:00:00'"
    if url := cluster.environ.get("OSTIARY_AUTH_DATABASE_URL"):
        server, name = PostgresServer(url), url.rpartition("/")[2]
        rows = f"generate_series(1, {MANY}) AS n"
        server.execute(add.format(key="sha256(n::text::bytea)", time=time, rows=rows), database=name)
        inserting = (
            "SELECT count(*) FROM pg_stat_activity"  # noqa: S608 - ours
            f" WHERE datname = '{name}' AND xact_start IS NOT NULL AND query LIKE 'INSERT INTO throttles%'"
        )
        return lambda: server.value(inserting) == 1
    path = cluster.data_dir / "auth.db"
    rows = f"(WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {MANY}) SELECT i FROM n)"  # noqa: S608 - ours
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(add.format(key="randomblob(32)", time=time, rows=rows))
        # What a transaction writes goes to the log, before the commit too if it is much. Here that is emptied.
        (is_busy, *_) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    assert not is_busy
    log = path.with_name("auth.db-wal")
    return lambda: log.stat().st_size > MUCH


def test_a_file_that_is_put_back_is_noticed_by_those_that_follow_the_log(own_cluster: LocalCluster) -> None:
    own_cluster.start_all()
    database = own_cluster.data_dir / "auth.db"
    with closing(Site(own_cluster)) as site:
        ada, bob = site.people.new(), site.people.new()
        own_cluster.stop("auth")
        shutil.copyfile(database, own_cluster.data_dir / "copy")
        own_cluster.start("auth")
        site.log_out(ada)
        own_cluster.stop("auth")
        shutil.copyfile(own_cluster.data_dir / "copy", database)
        # The auth service itself has nothing left by which it could know.
        database.with_name("auth.db-receipt").unlink()
        own_cluster.start("auth")
        wait_until(site.has_noticed, "it is noticed")
        site.check_all_over(ada, bob)
        assert site.restarts() == 1


@pytest.mark.docker
def test_a_server_that_is_set_back_is_noticed_by_a_replica_that_runs(
    own_cluster: LocalCluster, postgres_server: PostgresServer
) -> None:
    with replicas(postgres_server, own_cluster) as name, closing(Site(own_cluster)) as site:
        own_cluster.start_all()
        ada, bob = site.people.new(), site.people.new()
        postgres_server.close_to_all(name)
        copy = postgres_server.create_database(template=name)
        postgres_server.open_to_all(name)
        wait_until(lambda: site.is_served(bob), "the database is back")
        site.log_out(ada)
        postgres_server.close_to_all(name)
        postgres_server.drop_database(name)
        postgres_server.rename_database(copy, name)
        wait_until(site.has_noticed, "it is noticed")
        site.check_all_over(ada, bob)
        assert site.restarts() == 1
