from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from clusters import Cluster, ComposeCluster, LocalCluster, client_of, need_engine
from ordinary import Ordinary
from people import People
from upstreams import RawUpstream


@pytest.fixture(scope="session")
def local_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    cluster = LocalCluster(tmp_path_factory.mktemp("cluster"))
    cluster.start_all()
    yield cluster
    cluster.stop_all()


@pytest.fixture(scope="session")
def compose_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComposeCluster]:
    need_engine()
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
def settings() -> dict[str, str]:
    """Settings of `own_cluster`, for modules to override."""
    return {}


@pytest.fixture
def own_cluster(tmp_path: Path, settings: dict[str, str]) -> Iterator[LocalCluster]:
    """A cluster to break, not started yet."""
    cluster = LocalCluster(tmp_path / "data", **settings)
    yield cluster
    cluster.stop_all()


@pytest.fixture
def client(cluster: Cluster) -> Iterator[httpx.Client]:
    with client_of(cluster.url) as client:
        yield client


@pytest.fixture
def people(client: httpx.Client) -> People:
    return People(client)


@pytest.fixture(scope="module")
def upstream() -> Iterator[RawUpstream]:
    upstream = RawUpstream()
    yield upstream
    upstream.close()


@pytest.fixture(scope="session")
def ordinary(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ordinary]:
    """Services as everybody has them, behind a gateway; each is started when it is asked for."""
    with Ordinary(tmp_path_factory.mktemp("ordinary")) as ordinary:
        yield ordinary


@pytest.fixture(scope="session")
def base(ordinary: Ordinary) -> str:
    """Return the URL of the service that tells what it got, by a name that every resolver knows."""
    ordinary.start("aiohttp")
    return f"http://localhost:{ordinary.gateway.port}"
