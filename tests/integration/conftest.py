import os
from collections.abc import Iterator
from dataclasses import dataclass

import httpx
import pytest
from clusters import Cluster, ComposeCluster, LocalCluster, engine_answers

PASSWORD = "correct horse battery staple"


@dataclass(frozen=True)
class User:
    """Somebody who has registered and logged in."""

    id: str
    email: str
    tokens: dict[str, str]

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.tokens['access_token']}"}


class People:
    """Registers people at a cluster and logs them in."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client
        self._count = 0

    def new(self) -> User:
        self._count += 1
        email = f"person-{self._count}-{os.urandom(4).hex()}@example.com"
        account = {"email": email, "password": PASSWORD}
        registered = self._client.post("/auth/register", json=account)
        assert registered.status_code == 201, registered.text
        login = self._client.post("/auth/login", json=account)
        assert login.status_code == 200, login.text
        return User(registered.json()["id"], email, login.json())


@pytest.fixture(scope="session")
def local_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    cluster = LocalCluster(tmp_path_factory.mktemp("cluster"))
    cluster.start_all()
    yield cluster
    cluster.stop_all()


@pytest.fixture(scope="session")
def compose_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComposeCluster]:
    if not engine_answers():
        if os.environ.get("CI") == "true":
            pytest.fail("no Docker engine with compose v2 answers, and CI=true makes that a failure")
        pytest.skip("no Docker engine with compose v2 answers")
    cluster = ComposeCluster(tmp_path_factory.mktemp("compose"))
    try:
        cluster.up()
        yield cluster
    finally:
        cluster.down()


@pytest.fixture(params=["processes", pytest.param("containers", marks=pytest.mark.docker)], scope="session")
def cluster(request: pytest.FixtureRequest) -> Cluster:
    """The same tests against both ways to run the cluster."""
    name = "local_cluster" if request.param == "processes" else "compose_cluster"
    found: Cluster = request.getfixturevalue(name)
    return found


@pytest.fixture
def client(cluster: Cluster) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=cluster.url, timeout=20, trust_env=False) as client:
        yield client


@pytest.fixture
def people(client: httpx.Client) -> People:
    return People(client)
