"""Readiness and metrics are on a port of their own; the public one tells only that the gateway lives."""

import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from clusters import BIN, NO_TLS, LocalCluster, clean_environment, free_ports, run, wait_until
from gateways import PATIENCE, GatewayProcess, head, read_all
from upstreams import RawUpstream, listens

ROUTES = """\
upstreams:
  up: {{url: "http://127.0.0.1:{port}"}}
routes:
  - {{name: any, match: {{path: "/r/{{name}}", methods: [GET]}}, upstream: up, access: public}}
"""

CLAIMED = """\
  - {{name: theirs, match: {{path: "{path}", methods: [GET]}}, upstream: up, access: public}}
"""


@pytest.fixture
def gateway_with(upstream: RawUpstream, tmp_path: Path) -> Callable[..., GatewayProcess]:
    def gateway(routes: str = "", **settings: str) -> GatewayProcess:
        text = ROUTES.format(port=upstream.port) + routes
        return GatewayProcess(
            tmp_path, text, **{f"OSTIARY_GATEWAY_{name.upper()}": each for name, each in settings.items()}
        )

    return gateway


@pytest.fixture(scope="module")
def gateway(upstream: RawUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    with GatewayProcess(tmp_path_factory.mktemp("gateway"), ROUTES.format(port=upstream.port)) as gateway:
        yield gateway


def status(gateway: GatewayProcess, path: str) -> int:
    """Return what the public port answers."""
    return int(gateway.ask(path).split(b" ", 2)[1])


def ask_admin(gateway: GatewayProcess, request: bytes) -> bytes:
    host, port = gateway.operations.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=PATIENCE) as connection:
        connection.sendall(request)
        return read_all(connection)


def test_the_public_port_answers_liveness_only(gateway: GatewayProcess) -> None:
    assert [status(gateway, path) for path in ("/livez", "/readyz", "/metrics")] == [200, 404, 404]


def test_the_admin_port_answers_all_three_and_no_route(gateway: GatewayProcess) -> None:
    found = {
        path: httpx.get(f"{gateway.operations}{path}", timeout=PATIENCE, trust_env=False, verify=NO_TLS).status_code
        for path in ("/livez", "/readyz", "/metrics", "/r/good", "/")
    }
    # Not ready: the gateway of this test has no keys.
    assert found == {"/livez": 200, "/readyz": 503, "/metrics": 200, "/r/good": 404, "/": 404}


@pytest.mark.parametrize("path", ["/livez", "/metrics"])
@pytest.mark.parametrize(
    "head_of",
    [
        "GET {} HTTP/1.0\r\n\r\n",
        "GET {} HTTP/1.0\r\nHost: anything.example\r\n\r\n",
        "GET {} HTTP/1.1\r\nHost: 10.1.2.3:9080\r\nConnection: close\r\n\r\n",
        "GET {} HTTP/1.1\r\nHost: gateway-admin.prod.svc\r\nConnection: close\r\n\r\n",
        "GET {} HTTP/1.1\r\nHost:\r\nConnection: close\r\nUser-Agent: kube-probe/1.32\r\nAccept: */*\r\n\r\n",
        "HEAD {} HTTP/1.0\r\n\r\n",
        "HEAD {} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    ],
)
def test_probes_and_scrapers_need_no_name_of_ours(gateway: GatewayProcess, path: str, head_of: str) -> None:
    response = ask_admin(gateway, head_of.format(path).encode())
    start, _, content = response.partition(b"\r\n\r\n")
    assert re.match(rb"HTTP/1\.[01] 200 ", start)
    assert b"\r\ndate: " in start.lower()
    assert bool(content) is not head_of.startswith("HEAD")


def test_nobody_reaches_an_upstream_or_changes_anything_there(gateway: GatewayProcess, upstream: RawUpstream) -> None:
    before = len(upstream.received)
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        for path in ("/livez", "/readyz", "/metrics"):
            answer = ask_admin(gateway, head(path, method, b"Connection: close\r\nContent-Length: 0\r\n"))
            assert answer.startswith(b"HTTP/1.1 405 ")
    assert b" 404 " in ask_admin(gateway, head("/r/good", fields=b"Connection: close\r\n"))
    assert len(upstream.received) == before


@pytest.mark.parametrize("path", ["/metrics", "/readyz"])
def test_a_route_may_have_a_path_that_is_not_the_gateways_any_more(
    gateway_with: Callable[..., GatewayProcess], path: str
) -> None:
    with gateway_with(CLAIMED.format(path=path)) as gateway:
        assert gateway.ask(path).endswith(b"ok")
        assert b" 200 " in ask_admin(gateway, b"GET /metrics HTTP/1.0\r\n\r\n").partition(b"\r\n")[0]


@pytest.mark.parametrize(
    ("operations", "expected"),
    [("/readyz", [200, 503, 404]), ("/metrics", [200, 404, 200]), ("/readyz, /metrics", [200, 503, 200])],
)
def test_what_is_to_be_public_is(
    gateway_with: Callable[..., GatewayProcess], operations: str, expected: list[int]
) -> None:
    with gateway_with(public_operations=operations) as gateway:
        assert [status(gateway, path) for path in ("/livez", "/readyz", "/metrics")] == expected
        path = operations.rpartition(" ")[2]
        with gateway.connect() as connection:
            connection.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
            assert b'"unknown_host"' not in read_all(connection)


def test_what_is_public_cannot_be_a_routes(gateway_with: Callable[..., GatewayProcess]) -> None:
    gateway = gateway_with(CLAIMED.format(path="/metrics"), public_operations="/metrics")
    with gateway.starting():
        assert gateway.process.wait(PATIENCE) == 2
        assert "route 'theirs': OSTIARY_GATEWAY_PUBLIC_OPERATIONS reserves /metrics" in gateway.log


def test_the_metrics_of_all_workers_are_there(gateway_with: Callable[..., GatewayProcess]) -> None:
    with gateway_with(workers="2") as gateway:

        def workers() -> set[bytes]:
            return set(re.findall(rb'worker="(\d)"', ask_admin(gateway, b"GET /metrics HTTP/1.0\r\n\r\n")))

        wait_until(lambda: workers() == {b"0", b"1"}, "both workers are counted")
        assert [status(gateway, path) for path in ("/livez", "/metrics")] == [200, 404]


def test_it_is_on_loopback_a_thousand_above_the_public_port(own_cluster: LocalCluster) -> None:
    port = int(own_cluster.urls["gateway"].rpartition(":")[2])
    del own_cluster.environ["OSTIARY_GATEWAY_ADMIN_PORT"]
    own_cluster.environ["OSTIARY_GATEWAY_HOST"] = "0.0.0.0"  # noqa: S104 - so that the two differ
    own_cluster.start("gateway", wait=False)
    wait_until(lambda: listens(port + 1000), "the admin port is open")
    bound = re.findall(r"^ *\d+: 0100007F:(\w+) 00000000:0000 0A", Path("/proc/net/tcp").read_text(), re.MULTILINE)
    assert port + 1000 in {int(each, 16) for each in bound}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ADMIN_PORT": "{port}"}, "OSTIARY_GATEWAY_ADMIN_PORT must differ from OSTIARY_GATEWAY_PORT"),
        ({"ADMIN_PORT": "0"}, "OSTIARY_GATEWAY_ADMIN_PORT: "),
        ({"ADMIN_HOST": "192.0.2.1"}, "OSTIARY_GATEWAY_ADMIN_HOST: cannot listen on 192.0.2.1"),
        ({"PUBLIC_OPERATIONS": "/readyz,/health"}, "OSTIARY_GATEWAY_PUBLIC_OPERATIONS: must be /metrics or /readyz"),
        ({"PUBLIC_OPERATIONS": "metrics"}, "OSTIARY_GATEWAY_PUBLIC_OPERATIONS: must be /metrics or /readyz"),
    ],
)
def test_a_setting_that_makes_no_sense_is_one_line(settings: dict[str, str], message: str) -> None:
    (port,) = free_ports(1)
    given = {f"OSTIARY_GATEWAY_{name}": value.format(port=port) for name, value in settings.items()}
    done = run(BIN / "ostiary-gateway", "serve", env=clean_environment(OSTIARY_GATEWAY_PORT=str(port), **given))
    assert done.returncode == 2
    assert done.stderr.startswith(f"ostiary-gateway: {message}")
    assert done.stderr.count("\n") == 1
