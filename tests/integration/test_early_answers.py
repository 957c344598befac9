"""Responses that an upstream sends while the request's content is still coming; then it closes, as real servers do."""

import shutil
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from certificates import Authority
from clusters import NO_TLS, free_ports, wait_until
from gateways import GatewayProcess
from upstreams import RawUpstream, listens

ROUTES = """\
upstreams:
  early: {{url: "http://127.0.0.1:{port}"}}
routes:
  - name: upload
    match: {{path: /upload, methods: [POST, PUT]}}
    upstream: early
    access: public
    limits: {{body_bytes: 1000000000}}
"""

#: How often each is tried: before, about half of the responses were lost.
RUNS = 40

#: The same with a client that is a process of its own, which takes longer.
SENDER_RUNS = 4

#: Content: what the system's buffers take at once, and more than all buffers on the way hold.
CONTENTS = b"x" * 100_000, b"x" * 20_000_000

NODE = """
require("http").createServer((request, response) => {
  response.writeHead(413, {"Content-Type": "text/plain", "Connection": "close"});
  response.end("too large");
  response.on("finish", () => request.socket.destroy());
}).listen(Number(process.argv[1]), "127.0.0.1");
"""

WSGI = """
def app(environ, start_response):
    start_response("413 Content Too Large", [("Content-Type", "text/plain"), ("Content-Length", "9")])
    return [b"too large"]
"""

#: Senders: undici, which reads while it sends, and a client that first sends all of its content.
FETCH = """
const [url, file] = process.argv.slice(1);
fetch(url, {{method: "PUT", body: require("fs").readFileSync(file)}})
  .then(async (response) => process.stdout.write(await response.text() + response.status));
"""

HTTP_CLIENT = """
import http.client, pathlib, sys, urllib.parse
url = urllib.parse.urlsplit(sys.argv[1])
connection = http.client.HTTPConnection(url.hostname, url.port)
connection.request("PUT", url.path, pathlib.Path(sys.argv[2]).read_bytes())
response = connection.getresponse()
sys.stdout.write(response.read().decode() + str(response.status))
"""

_END = b"Connection: close\r\nContent-Length: 9\r\n\r\ntoo large"

TOO_LARGE = b"HTTP/1.1 413 Content Too Large\r\n" + _END
REDIRECTION = b"HTTP/1.1 307 Temporary Redirect\r\nLocation: /elsewhere\r\n" + _END
NO_LENGTH = b"HTTP/1.0 413 Content Too Large\r\n\r\ntoo large"
CHUNKED = b"HTTP/1.1 413 No\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n9\r\ntoo large\r\n0\r\n\r\n"


@contextmanager
def running(*command: str | Path) -> Iterator[int]:
    """Run a server, whose port is its last argument."""
    (port,) = free_ports(1)
    process = subprocess.Popen([*command[:-1], str(command[-1]).format(port=port)])  # noqa: S603 - of this file
    try:
        wait_until(lambda: listens(port), "the upstream listens")
        yield port
    finally:
        process.terminate()
        process.wait()


def close(_: socket.socket) -> None:
    """Close, with content that has not been read: this resets the connection."""


def reset(connection: socket.socket) -> None:
    """Close without a trace of what has been sent."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def close_after_some(connection: socket.socket) -> None:
    """Read on for a while."""
    for _ in range(9):
        connection.recv(1000)


def shut_down(connection: socket.socket) -> None:
    """Send nothing more, but read all there is."""
    connection.shutdown(socket.SHUT_WR)
    while connection.recv(65536):
        pass


@contextmanager
def gateway_to(directory: Path, port: int) -> Iterator[GatewayProcess]:
    with GatewayProcess(directory, ROUTES.format(port=port)) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def gateway(upstream: RawUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    with gateway_to(tmp_path_factory.mktemp("gateway"), upstream.port) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[GatewayProcess, RawUpstream]]:
    directory = tmp_path_factory.mktemp("tls")
    authority = Authority(directory)
    upstream = RawUpstream(tls=authority.context("127.0.0.1"))
    routes = ROUTES.format(port=upstream.port).replace("http://", "https://")
    with GatewayProcess(directory, routes, SSL_CERT_FILE=str(authority.file)) as gateway:
        yield gateway, upstream
    upstream.close()


def upload(gateway: GatewayProcess, status: int = 413) -> None:
    """Send requests with content. Each must get the response."""
    with httpx.Client(
        base_url=f"http://127.0.0.1:{gateway.port}", timeout=30, trust_env=False, verify=NO_TLS
    ) as client:
        responses = [client.post("/upload", content=CONTENTS[run % 2]) for run in range(RUNS)]
    assert [(response.status_code, response.text) for response in responses] == [(status, "too large")] * RUNS


def test_responses_of_node_arrive(tmp_path: Path) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("Node is not installed")
    with running(node, "-e", NODE, "{port}") as port, gateway_to(tmp_path, port) as gateway:
        upload(gateway)


def test_responses_of_gunicorn_arrive(tmp_path: Path) -> None:
    (tmp_path / "early.py").write_text(WSGI)
    command = (sys.executable, "-m", "gunicorn", "--chdir", tmp_path, "--log-level", "error", "early:app", "-b")
    with running(*command, "127.0.0.1:{port}") as port, gateway_to(tmp_path, port) as gateway:
        upload(gateway)


@pytest.mark.parametrize("end", [close, reset, close_after_some, shut_down])
@pytest.mark.parametrize(
    "answer", [TOO_LARGE, NO_LENGTH, CHUNKED, REDIRECTION], ids=["length", "no length", "chunked", "redirection"]
)
def test_responses_of_raw_sockets_arrive(
    gateway: GatewayProcess, upstream: RawUpstream, end: Callable[[socket.socket], None], answer: bytes
) -> None:
    def respond(connection: socket.socket) -> None:
        connection.sendall(answer)
        end(connection)
        raise OSError

    upstream.answers["upload"] = respond
    upload(gateway, 307 if answer is REDIRECTION else 413)


@pytest.mark.parametrize("end", [close, close_after_some, shut_down])
def test_responses_over_tls_arrive(
    tls: tuple[GatewayProcess, RawUpstream], end: Callable[[socket.socket], None]
) -> None:
    gateway, upstream = tls

    def respond(connection: socket.socket) -> None:
        # As servers have it: else the system may keep the response until what was sent before is acknowledged.
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(TOO_LARGE)
        end(connection)
        raise OSError

    upstream.answers["upload"] = respond
    upload(gateway)


SENDERS = {
    "curl": ["curl", "-sS", "-H", "Expect:", "-T", "{file}", "-w", "%{{http_code}}", "{url}"],
    "curl-expect": ["curl", "-sS", "-T", "{file}", "-w", "%{{http_code}}", "{url}"],
    "curl-chunked": [
        "curl",
        "-sS",
        "-H",
        "Transfer-Encoding: chunked",
        "-T",
        "{file}",
        "-w",
        "%{{http_code}}",
        "{url}",
    ],
    "fetch": ["node", "-e", FETCH, "{url}", "{file}"],
    "http.client": [sys.executable, "-c", HTTP_CLIENT, "{url}", "{file}"],
}


@pytest.mark.parametrize("name", SENDERS)
def test_clients_that_go_on_sending_get_the_response(
    gateway: GatewayProcess, upstream: RawUpstream, tmp_path: Path, name: str
) -> None:
    program, *arguments = SENDERS[name]
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    file = tmp_path / "content"
    file.write_bytes(CONTENTS[1] * 5)
    upstream.answer("upload", TOO_LARGE)
    url = f"http://127.0.0.1:{gateway.port}/upload"
    command = [program, *(each.format(url=url, file=file) for each in arguments)]
    outputs = [
        subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)  # noqa: S603 - from above
        for _ in range(SENDER_RUNS)
    ]
    assert [(each.stdout, each.returncode) for each in outputs] == [("too large413", 0)] * SENDER_RUNS
