"""Rate limits of several gateways, and of workers of one, in a real Redis."""

import io
import time
from collections.abc import Iterator
from pathlib import Path

import docker
import httpx
import pytest
from clusters import NO_TLS, LocalCluster, free_ports, wait_until
from upstreams import RawUpstream

pytestmark = pytest.mark.docker

REDIS = """\
FROM python:3.13-slim-trixie
RUN apt-get update -q && apt-get install -q --yes --no-install-recommends redis-server
USER redis
CMD ["redis-server", "--bind", "0.0.0.0", "--save", "", "--requirepass", "letmein"]
"""

ROUTES = """\
upstreams:
  up: {{url: "http://127.0.0.1:{port}"}}
routes:
  - name: scarce
    match: {{path: /scarce, methods: [GET]}}
    upstream: up
    access: public
    rate_limits: [{{by: address, requests: 20, seconds: 3600}}]
  - name: plenty
    match: {{path: /plenty, methods: [GET]}}
    upstream: up
    access: public
    rate_limits: [{{by: address, requests: 100000, seconds: 1}}]
"""
LIMIT = 20


class Redis:
    """A container with a Redis."""

    def __init__(self) -> None:
        self.engine = docker.from_env()
        (self.port,) = free_ports(1)
        self.engine.images.build(fileobj=io.BytesIO(REDIS.encode()), tag="ostiary-test-redis", rm=True)
        self.container = self.engine.containers.run(
            "ostiary-test-redis", detach=True, auto_remove=False, ports={"6379/tcp": ("127.0.0.1", self.port)}
        )

    def close(self) -> None:
        self.container.remove(force=True, v=True)
        self.engine.close()


@pytest.fixture(scope="module")
def redis() -> Iterator[Redis]:
    redis = Redis()
    try:
        wait_until(lambda: b"Ready to accept connections" in redis.container.logs(), "Redis is ready")
        yield redis
    finally:
        redis.close()


class Gateways:
    """Two gateways of two workers each, which share what they count."""

    def __init__(self, directory: Path, redis: Redis, upstream: RawUpstream) -> None:
        (directory / "routes.yaml").write_text(ROUTES.format(port=upstream.port))
        (directory / "password").write_text("letmein\n")
        settings = {
            "OSTIARY_GATEWAY_ROUTES": str(directory / "routes.yaml"),
            "OSTIARY_GATEWAY_RATE_LIMIT_STORE": f"redis://127.0.0.1:{redis.port}",
            "OSTIARY_GATEWAY_RATE_LIMIT_STORE_PASSWORD_FILE": str(directory / "password"),
            "OSTIARY_GATEWAY_WORKERS": "2",
        }
        self.clusters = [LocalCluster(directory / name, **settings) for name in "ab"]

    def start(self) -> None:
        for cluster in self.clusters:
            cluster.start("auth", wait=False)
            cluster.start("gateway")

    def close(self) -> None:
        for cluster in self.clusters:
            cluster.stop_all()

    def ask(self, number: int, path: str) -> int:
        """Ask on a connection of its own."""
        return httpx.get(f"{self.clusters[number].url}{path}", trust_env=False, verify=NO_TLS).status_code

    def passed_until_refused(self, path: str) -> int:
        """Ask each gateway in turn until both refuse; return how many requests got through."""
        passed, refused = 0, 0
        until = time.monotonic() + 20
        while refused < 8 and time.monotonic() < until:
            status = self.ask((passed + refused) % 2, path)
            assert status in {200, 429}
            passed, refused = passed + (status == 200), refused + 1 if status == 429 else 0
        assert refused == 8, "they go on and on"
        return passed


@pytest.fixture(scope="module")
def gateways(tmp_path_factory: pytest.TempPathFactory, redis: Redis, upstream: RawUpstream) -> Iterator[Gateways]:
    gateways = Gateways(tmp_path_factory.mktemp("limits"), redis, upstream)
    try:
        gateways.start()
        yield gateways
    finally:
        gateways.close()


def test_gateways_and_workers_have_one_limit_together(gateways: Gateways) -> None:
    passed = gateways.passed_until_refused("/scarce")
    # What four processes let through in a tenth of a second, they have not told each other.
    assert LIMIT <= passed <= 2 * LIMIT
    assert not any("letmein" in cluster.log("gateway") for cluster in gateways.clusters)


def test_without_the_store_each_limits_alone_and_together_again_afterwards(gateways: Gateways, redis: Redis) -> None:
    def asks_until(said: str) -> None:
        def is_said() -> bool:
            assert gateways.ask(0, "/plenty") == 200
            return said in gateways.clusters[0].log("gateway")

        wait_until(is_said, said)

    redis.container.stop(timeout=1)
    asks_until("rate limit store unavailable")
    redis.container.start()
    asks_until("rate limit store available again")
