import os
from collections.abc import Iterator

import httpx
import pytest
from clusters import Cluster, ComposeCluster, LocalCluster, engine_answers
from people import People


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
