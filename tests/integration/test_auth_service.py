"""The auth service as processes: several replicas, sudden deaths, key rotation under load, and a database that goes."""

import os
import signal
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Self

import httpx
import jwt
import pytest
from clusters import NO_TLS, READY_SECONDS, LocalCluster, client_of, is_ready, wait_until
from databases import PostgresServer, replicas
from people import PASSWORD, People, User


def kids(url: str) -> list[str]:
    return [
        key["kid"] for key in httpx.get(f"{url}/.well-known/jwks.json", trust_env=False, verify=NO_TLS).json()["keys"]
    ]


class Replicas:
    """Two auth services on one PostgreSQL database and one key-encryption key."""

    def __init__(self, server: PostgresServer, database: str, members: list[LocalCluster]) -> None:
        self.server, self.database, self.members = server, database, members
        for member in members:
            member.start("auth", wait=False)
        self.urls = [member.urls["auth"] for member in members]
        for url in self.urls:
            wait_until(partial(is_ready, url), "both replicas are ready")


@pytest.fixture(scope="module")
def both(postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replicas]:
    directory = tmp_path_factory.mktemp("replicas")
    members = [LocalCluster(directory / name, OSTIARY_JWKS_MAX_AGE="1") for name in ("one", "two")]
    with replicas(postgres_server, *members) as database:
        yield Replicas(postgres_server, database, members)


@pytest.mark.docker
class TestReplicas:
    @pytest.fixture
    def clients(self, both: Replicas) -> Iterator[list[httpx.Client]]:
        clients = [client_of(url) for url in both.urls]
        yield clients
        for client in clients:
            client.close()

    def test_two_that_start_at_once_on_nothing_agree(self, both: Replicas) -> None:
        migrated = [member.log("auth").count("schema migrated") for member in both.members]
        assert sorted(migrated) == [0, 1]
        assert kids(both.urls[0]) == kids(both.urls[1])
        listed = both.members[0].auth_command("keys", "list")
        assert listed.count("signing") == 1

    def test_fifty_refreshes_of_one_token_on_both_are_one(self, clients: list[httpx.Client]) -> None:
        body = {"refresh_token": People(clients[0]).new().tokens["refresh_token"]}

        def refresh(number: int) -> str:
            response = clients[number % 2].post("/auth/refresh", json=body)
            assert response.status_code == 200, response.text
            token: str = response.json()["refresh_token"]
            return token

        with ThreadPoolExecutor(50) as pool:
            assert len(set(pool.map(refresh, range(50)))) == 1

    def test_a_session_goes_on_at_whichever_replica(self, clients: list[httpx.Client]) -> None:
        tokens = People(clients[0]).new().tokens
        for client in [*clients, *clients]:
            tokens = client.post("/auth/refresh", json={"refresh_token": tokens["refresh_token"]}).json()
        bearer = {"Authorization": f"Bearer {tokens['access_token']}"}
        assert [client.get("/auth/me", headers=bearer).status_code for client in clients] == [200, 200]

    def test_a_token_that_was_just_used_at_one_gets_the_newest_of_its_chain_at_the_other(
        self, clients: list[httpx.Client]
    ) -> None:
        first = People(clients[0]).new().tokens["refresh_token"]
        second = clients[0].post("/auth/refresh", json={"refresh_token": first}).json()["refresh_token"]
        third = clients[1].post("/auth/refresh", json={"refresh_token": second}).json()["refresh_token"]
        for client in clients:
            again = client.post("/auth/refresh", json={"refresh_token": first})
            assert (again.status_code, again.json()["refresh_token"]) == (200, third)

    def test_both_follow_a_rotation(self, both: Replicas) -> None:
        before = kids(both.urls[0])
        wait_until(both.members[0].rotate_keys, "the next key has been public long enough")
        wait_until(lambda: kids(both.urls[0]) == kids(both.urls[1]) != before, "both publish the new keys")
        signing = [sign(url) for url in both.urls]
        assert signing[0] == signing[1]
        assert signing[0] in before

    def test_guesses_at_both_count_together(self, clients: list[httpx.Client]) -> None:
        wrong = {"email": f"nobody-{os.urandom(4).hex()}@example.com", "password": "wrong"}
        statuses: list[int] = []
        # Each alone would let five guesses pass. On a slow machine, the first waits are over before the next guess.
        while 429 not in statuses:
            statuses.append(clients[len(statuses) % 2].post("/auth/login", json=wrong).status_code)
            assert statuses.count(401) < 10

    def test_what_is_logged_at_both_is_one_chain(self, both: Replicas, clients: list[httpx.Client]) -> None:
        wrong = [{"email": f"nobody-{number}@example.com", "password": "wrong"} for number in range(12)]

        def fail(number: int) -> int:
            return clients[number % 2].post("/auth/login", json=wrong[number]).status_code

        with ThreadPoolExecutor(6) as pool:
            assert set(pool.map(fail, range(12))) == {401}
        assert both.members[1].auth_command("audit", "verify")

    def test_a_database_that_goes_is_said_so_and_the_verify_path_does_not_notice(
        self, both: Replicas, clients: list[httpx.Client]
    ) -> None:
        ada = People(clients[0]).new()
        refresh = {"refresh_token": ada.tokens["refresh_token"]}
        both.server.close_to_all(both.database)
        try:
            for path, body in (
                ("/auth/refresh", refresh),
                ("/auth/login", {"email": ada.email, "password": PASSWORD}),
                ("/auth/register", {"email": "eve@example.com", "password": PASSWORD}),
            ):
                response = clients[0].post(path, json=body)
                assert (response.status_code, response.json()["code"]) == (503, "storage_unavailable"), path
                assert response.headers["Content-Type"] == "application/problem+json"
                assert int(response.headers["Retry-After"]) > 0
            assert clients[0].get("/readyz").status_code == 503
            assert clients[0].get("/livez").status_code == 200
            assert clients[0].get("/.well-known/jwks.json").status_code == 200
            assert clients[0].get("/auth/me", headers=ada.headers).status_code == 200
        finally:
            both.server.open_to_all(both.database)
        wait_until(lambda: is_ready(both.urls[0]), "it is ready again")
        assert clients[0].post("/auth/refresh", json=refresh).status_code == 200


def sign(url: str) -> str:
    with client_of(url) as client:
        kid: str = jwt.get_unverified_header(People(client).new().tokens["access_token"])["kid"]
        return kid


@pytest.fixture
def settings() -> dict[str, str]:
    return {"OSTIARY_JWKS_MAX_AGE": "1"}


class Load:
    """People who use the cluster all the time; every answer that is not a success is kept."""

    def __init__(self, url: str, users: list[User]) -> None:
        self.failures: list[str] = []
        self.kids: set[str] = set()
        self.count = 0
        self._url = url
        self._stopped = threading.Event()
        self._threads = [threading.Thread(target=self._use, args=(user,)) for user in users]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join(READY_SECONDS)

    def _use(self, user: User) -> None:
        tokens = user.tokens
        with client_of(self._url) as client:
            while not self._stopped.is_set():
                bearer = {"Authorization": f"Bearer {tokens['access_token']}"}
                for path in ("/profiles/me", "/auth/me"):
                    self._check(client.get(path, headers=bearer))
                renewed = client.post("/auth/refresh", json={"refresh_token": tokens["refresh_token"]})
                if self._check(renewed):
                    tokens = renewed.json()
                    self.kids.add(jwt.get_unverified_header(tokens["access_token"])["kid"])

    def _check(self, response: httpx.Response) -> bool:
        self.count += 1
        if response.status_code != 200:
            self.failures.append(f"{response.request.url} {response.status_code} {response.text}")
        return response.status_code == 200


def test_no_request_fails_while_keys_rotate(own_cluster: LocalCluster) -> None:
    own_cluster.start("auth")
    before = kids(own_cluster.urls["auth"])
    assert len(before) == 2
    own_cluster.start("profile")
    own_cluster.start("gateway")
    with client_of(own_cluster.url) as client:
        people = People(client)
        users = [people.new() for _ in range(4)]
    old = users[0].headers
    with Load(own_cluster.url, users) as load:
        wait_until(lambda: len(load.kids) == 1 and load.count > 40, "the load is on")
        wait_until(own_cluster.rotate_keys, "the next key has been public long enough")
        wait_until(lambda: len(load.kids) == 2, "the next key signs")
        seen = load.count
        wait_until(lambda: load.count > seen + 40, "the load goes on")
    assert load.failures == []
    assert load.kids == set(before)
    with client_of(own_cluster.url) as client:
        assert client.get("/profiles/me", headers=old).status_code == 200
        assert len(kids(own_cluster.urls["auth"])) == 3


class Changes:
    """People who refresh, and people who log out, until the service dies; what was acknowledged is kept."""

    def __init__(self, url: str, refreshing: list[User], leaving: list[User]) -> None:
        self.newest = {user.id: user.tokens["refresh_token"] for user in refreshing}
        self.ended: set[str] = set()
        self._url = url
        self._steps = threading.Semaphore(0)
        self._pool = ThreadPoolExecutor(len(refreshing) + len(leaving))
        for user in refreshing:
            self._pool.submit(self._until_it_dies, self._refresh, user)
        for user in leaving:
            self._pool.submit(self._until_it_dies, self._log_out, user)

    def wait_for(self, steps: int) -> None:
        for _ in range(steps):
            assert self._steps.acquire(timeout=READY_SECONDS)

    def close(self) -> None:
        self._pool.shutdown()

    def _until_it_dies(self, step: Callable[[httpx.Client, User], bool], user: User) -> None:
        with client_of(self._url) as client, suppress(httpx.HTTPError):
            while step(client, user):
                self._steps.release()

    def _refresh(self, client: httpx.Client, user: User) -> bool:
        response = client.post("/auth/refresh", json={"refresh_token": self.newest[user.id]})
        self.newest[user.id] = response.json()["refresh_token"]
        return True

    def _log_out(self, client: httpx.Client, user: User) -> bool:
        if user.id in self.ended:
            return False
        assert client.post("/auth/logout", headers=user.headers).status_code == 200
        self.ended.add(user.id)
        return True


def test_no_refresh_or_logout_that_was_acknowledged_is_lost_when_auth_is_killed(own_cluster: LocalCluster) -> None:
    own_cluster.start("auth")
    url = own_cluster.urls["auth"]
    with client_of(url) as client:
        people = People(client)
        users = [people.new() for _ in range(6)]
    changes = Changes(url, refreshing=users[:4], leaving=users[4:])
    changes.wait_for(steps=40)
    own_cluster.signal("auth", signal.SIGKILL)
    changes.close()
    own_cluster.start("auth")
    assert changes.ended
    with client_of(url) as client:
        for token in changes.newest.values():
            # The answer to a later refresh may have been lost; within the grace it is given again.
            response = client.post("/auth/refresh", json={"refresh_token": token})
            assert response.status_code == 200, response.text
        for user in users[4:]:
            response = client.post("/auth/refresh", json={"refresh_token": user.tokens["refresh_token"]})
            assert (response.status_code == 401) >= (user.id in changes.ended)
    assert own_cluster.auth_command("audit", "verify")


#: Logins of each kind in a round, and by how much their medians may differ. One Argon2 hash takes some 20 ms here; a
#: path that left it out, or did it twice, would be off by all of that, in every round. What else a machine does
#: is another thing in each.
ATTEMPTS = 20
TOLERANCE = 0.15
ROUNDS = 10


@pytest.mark.serial
def test_the_time_of_a_refused_login_does_not_tell_why(own_cluster: LocalCluster) -> None:
    own_cluster.start("auth")
    measured = []
    with client_of(own_cluster.urls["auth"]) as client:
        for number in range(ROUNDS):
            medians = refused_logins(own_cluster, client, number)
            measured.append(medians)
            if max(medians.values()) <= min(medians.values()) * (1 + TOLERANCE):
                return
    pytest.fail(f"in no round were the medians alike: {measured}")


def refused_logins(cluster: LocalCluster, client: httpx.Client, number: int) -> dict[str, float]:
    """Return the median seconds of logins that are refused for different reasons, and check that they answer alike."""
    people = People(client)
    known, disabled = people.new(), people.new()
    cluster.auth_command("users", "disable", disabled.email)
    client.cookies.clear()
    kinds = {
        "wrong password": (known.email, "a wrong password"),
        "empty password": (known.email, ""),
        "disabled, right password": (disabled.email, PASSWORD),
        "disabled, wrong password": (disabled.email, "a wrong password"),
        "unknown": (f"nobody-{number}@example.com", PASSWORD),
        "unknown, empty password": (f"nobody-{number}@example.com", ""),
        "no address": (f"no address {number}", PASSWORD),
    }
    seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
    answers = set()
    # In turn, so that what else the machine does hits all alike; each from an address of its own, and few enough
    # for the counter of an account.
    for attempt in range(ATTEMPTS):
        for kind_number, (kind, (email, password)) in enumerate(kinds.items()):
            source = {"X-Forwarded-For": f"10.{number}.{kind_number}.{attempt}"}
            started_at = time.perf_counter()
            response = client.post("/auth/login", json={"email": email, "password": password}, headers=source)
            seconds[kind].append(time.perf_counter() - started_at)
            answers.add((response.status_code, response.text, response.headers["WWW-Authenticate"]))
    assert len(answers) == 1
    return {kind: statistics.median(times) for kind, times in seconds.items()}
