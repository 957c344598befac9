"""Event streams and WebSockets of a real application (Starlette on uvicorn), through a gateway, with real clients."""

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from clusters import NO_TLS, free_ports, wait_until
from gateways import GatewayProcess
from upstreams import listens
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

APP = """
import asyncio

from starlette.applications import Starlette
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocketDisconnect

ended = []


async def events(request):
    async def ticks():
        try:
            for number in range(1000):
                yield f"data: {number}\\n\\n"
                await asyncio.sleep(float(request.query_params["every"]))
        finally:
            ended.append("events")

    return StreamingResponse(ticks(), media_type="text/event-stream")


async def echo(socket):
    await socket.accept()
    try:
        while True:
            await socket.send_text(await socket.receive_text())
    except WebSocketDisconnect as error:
        ended.append(f"{error.code} {error.reason}")


async def headers(request):
    return JSONResponse(dict(request.headers))


async def what_ended(request):
    return JSONResponse(ended)


app = Starlette(routes=[
    Route("/events", events),
    Route("/headers", headers),
    Route("/ended", what_ended),
    WebSocketRoute("/{echo:path}", echo),
])
"""

ROUTES = """\
upstreams:
  app: {{url: "http://127.0.0.1:{port}"}}
defaults:
  timeouts: {{idle: 0.5}}
routes:
  - {{name: events, match: {{path: /events, methods: [GET]}}, upstream: app, access: public}}
  - {{name: headers, match: {{path: /headers, methods: [GET]}}, upstream: app, access: public}}
  - {{name: ended, match: {{path: /ended, methods: [GET]}}, upstream: app, access: public}}
  - {{name: echo, match: {{path: /echo, methods: [GET]}}, upstream: app, access: public, websocket: true}}
  - name: brief
    match: {{path: /brief, methods: [GET]}}
    upstream: app
    access: public
    websocket: true
    timeouts: {{stream_idle: 1}}
"""


@contextmanager
def serving(directory: Path, port: int) -> Iterator[None]:
    (directory / "streaming.py").write_text(APP)
    command = [sys.executable, "-m", "uvicorn", "streaming:app", "--port", str(port), "--log-level", "warning"]
    with subprocess.Popen(command, cwd=directory) as process:  # noqa: S603 - our own command
        try:
            wait_until(lambda: listens(port), "the application listens")
            yield
        finally:
            process.kill()


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    directory = tmp_path_factory.mktemp("streams")
    (port,) = free_ports(1)
    with serving(directory, port), GatewayProcess(directory, ROUTES.format(port=port)) as process:
        yield process


@pytest.fixture(scope="module")
def client(gateway: GatewayProcess) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"http://127.0.0.1:{gateway.port}", trust_env=False, verify=NO_TLS) as client:
        yield client


def open_websocket(gateway: GatewayProcess, path: str, ping_interval: float | None = None) -> ClientConnection:
    return connect(f"ws://127.0.0.1:{gateway.port}{path}", proxy=None, ping_interval=ping_interval)


def ended(client: httpx.Client) -> list[str]:
    answer = client.get("/ended").json()
    assert isinstance(answer, list)
    return answer


def failures(gateway: GatewayProcess) -> list[str]:
    """Return the metrics of failures that are not zero."""
    lines = httpx.get(f"{gateway.operations}/metrics", trust_env=False, verify=NO_TLS).text.splitlines()
    return [each for each in lines if each.startswith("gateway_upstream_failures_total") and not each.endswith(" 0.0")]


def test_events_come_as_they_are_sent_however_long_they_take(gateway: GatewayProcess, client: httpx.Client) -> None:
    with client.stream("GET", "/events?every=1.5") as response:
        lines = response.iter_lines()
        times = []
        for number in range(3):
            assert next(lines) == f"data: {number}"
            times.append(time.monotonic())
            assert next(lines) == ""
    assert times[1] - times[0] > 1.0
    assert times[2] - times[1] > 1.0
    assert failures(gateway) == []


def test_a_client_that_leaves_ends_the_stream_of_the_service(client: httpx.Client) -> None:
    before = ended(client).count("events")
    with client.stream("GET", "/events?every=0.05") as response:
        next(response.iter_lines())
    wait_until(lambda: ended(client).count("events") > before, "the stream has ended", seconds=5)


def test_a_websocket_is_open_for_longer_than_other_responses_may_be_silent(gateway: GatewayProcess) -> None:
    with open_websocket(gateway, "/echo") as socket:
        time.sleep(1.5)
        socket.send("still here")
        assert socket.recv(timeout=5) == "still here"


def test_an_idle_websocket_is_closed_for_both_sides(gateway: GatewayProcess, client: httpx.Client) -> None:
    with open_websocket(gateway, "/brief") as socket:
        socket.send("hello")
        assert socket.recv(timeout=5) == "hello"
        with pytest.raises(ConnectionClosed) as caught:
            socket.recv(timeout=10)
    assert caught.value.rcvd is not None
    assert (caught.value.rcvd.code, caught.value.rcvd.reason) == (1001, "idle")
    wait_until(lambda: "1001 idle" in ended(client), "the service knows why", seconds=5)
    assert failures(gateway) == []


def test_pings_keep_a_websocket_open(gateway: GatewayProcess) -> None:
    with open_websocket(gateway, "/brief", ping_interval=0.3) as socket:
        time.sleep(2.5)
        socket.send("still here")
        assert socket.recv(timeout=5) == "still here"


def test_a_service_gets_the_fields_of_its_clients_and_no_forged_identity(client: httpx.Client) -> None:
    passed = {"api_key": "1", "x-scope-orgid": "2", "x-auth-token": "3", "subscription-key": "4", "x-smoke-test": "5"}
    forged = {"X-User-Id": "6", "x_user_id": "7", "X_Forwarded_For": "8", "Remote-User": "9", "X-Original-URL": "10"}
    received = client.get("/headers", headers={**passed, **forged}).json()
    assert passed.items() <= received.items()
    assert not {"6", "7", "8", "9", "10"} & set(received.values())


@pytest.mark.parametrize(
    ("arguments", "output"),
    [
        (["--head", "/livez"], "200"),
        (["--http1.0", "--header", "Host:", "/livez"], "200"),
        (["--http1.0", "/headers"], "200"),
        (["--http1.0", "--header", "Host:", "/headers"], "400"),
        (["--request", "OPTIONS", "/headers"], "204"),
        (["--request", "OPTIONS", "--request-target", "*", "/"], "204"),
    ],
)
def test_curl_probes(gateway: GatewayProcess, arguments: list[str], output: str) -> None:
    if shutil.which("curl") is None:
        pytest.skip("needs curl")
    *options, path = arguments
    command = ["curl", "--silent", "--output", "/dev/null", "--write-out", "%{http_code}", "--max-time", "10", *options]
    result = subprocess.run(  # noqa: S603 - our own command
        [*command, f"http://127.0.0.1:{gateway.port}{path}"], capture_output=True, text=True, check=True
    )
    assert result.stdout == output
