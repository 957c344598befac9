"""A real gateway in front of an upstream that misbehaves: a raw socket on either side."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest
from clusters import wait_until
from gateways import PATIENCE, GatewayProcess
from upstreams import OK, RawUpstream

ROUTES = """\
upstreams:
  raw: {{url: "http://127.0.0.1:{port}"}}
  nobody: {{url: "http://127.0.0.1:1"}}
routes:
  - name: all
    match: {{path: "/r/{{rest...}}", methods: [GET, HEAD, POST]}}
    upstream: raw
    access: public
    timeouts: {{first_byte: 1, idle: 1}}
  - name: patient
    match: {{path: /patient/hang, methods: [GET]}}
    upstream: raw
    access: public
    timeouts: {{first_byte: 120}}
  - {{name: nobody, match: {{path: /nobody, methods: [GET]}}, upstream: nobody, access: public}}
"""

POISON = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nPOISON"


@pytest.fixture(scope="module")
def gateway(upstream: RawUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    with GatewayProcess(tmp_path_factory.mktemp("gateway"), ROUTES.format(port=upstream.port)) as gateway:
        yield gateway


def ask(gateway: GatewayProcess, name: str, method: str = "GET", fields: bytes = b"", body: bytes = b"") -> bytes:
    """Send one request and return all that comes back."""
    return gateway.ask(f"/r/{name}", method, fields, body)


@pytest.mark.parametrize(
    ("method", "answer"),
    [
        ("GET", OK + POISON),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n" + POISON),
        ("GET", b"HTTP/1.1 304 Not Modified\r\n\r\n" + POISON),
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 44\r\n\r\n" + POISON),
    ],
)
def test_surplus_bytes_are_nobodys_response(
    gateway: GatewayProcess, upstream: RawUpstream, method: str, answer: bytes
) -> None:
    upstream.answer("sloppy", answer)
    for _ in range(3):
        ask(gateway, "sloppy", method)
        assert ask(gateway, "good").endswith(b"\r\n\r\nok")


@pytest.mark.parametrize(
    ("answer", "status", "code"),
    [
        (b"garbage\r\n\r\n", 502, b"upstream_failed"),
        (b"HTTP/1.1 999 Odd\r\nContent-Length: 0\r\n\r\n", 502, b"upstream_failed"),
        (b"HTTP/1.1 200 OK\r\nX: a\x1bb\r\nContent-Length: 0\r\n\r\n", 502, b"upstream_failed"),
        (b"", 504, b"upstream_timeout"),
    ],
)
def test_an_answer_that_is_none_is_a_problem_document(
    gateway: GatewayProcess, upstream: RawUpstream, answer: bytes, status: int, code: bytes
) -> None:
    upstream.answer("broken", answer)
    received = ask(gateway, "broken")
    assert received.startswith(f"HTTP/1.1 {status} ".encode())
    assert code in received


def test_a_header_that_drips_has_a_deadline(gateway: GatewayProcess, upstream: RawUpstream) -> None:
    def drip(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nX: ")
        while True:
            connection.sendall(b"x")
            time.sleep(0.1)

    upstream.answers["drip"] = drip
    started_at = time.monotonic()
    assert b"upstream_timeout" in ask(gateway, "drip")
    assert time.monotonic() - started_at < PATIENCE


def test_a_client_that_leaves_frees_the_upstream(gateway: GatewayProcess, upstream: RawUpstream) -> None:
    def hang(connection: socket.socket) -> None:
        upstream.closed.clear()
        with suppress(OSError):
            if connection.recv(1) == b"":
                upstream.closed.set()

    upstream.answers["hang"] = hang
    with gateway.connect() as connection:
        before = len(upstream.received)
        connection.sendall(b"GET /patient/hang HTTP/1.1\r\nHost: localhost\r\n\r\n")
        wait_until(lambda: len(upstream.received) > before, "the request arrived")
    # Before the time-out for a first byte, which would free it too.
    assert upstream.closed.wait(PATIENCE)


def test_a_stream_without_an_end_stops_with_its_client(gateway: GatewayProcess, upstream: RawUpstream) -> None:
    ended = threading.Event()

    def stream(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        try:
            while True:
                connection.sendall(b"1\r\nx\r\n")
                time.sleep(0.01)
        except OSError:
            ended.set()
            raise

    upstream.answers["endless"] = stream
    with gateway.connect() as connection:
        connection.sendall(b"GET /r/endless HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 200 ")
    assert ended.wait(PATIENCE)


def test_an_answer_that_breaks_off_ends_short(gateway: GatewayProcess, upstream: RawUpstream) -> None:
    def half(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
        raise OSError

    upstream.answers["half"] = half
    received = ask(gateway, "half")
    assert b"content-length: 100" in received.lower()
    assert received.endswith(b"half")


def test_what_is_between_neighbours_and_who_somebody_is_stay_outside(
    gateway: GatewayProcess, upstream: RawUpstream
) -> None:
    fields = (
        b"X-User-Id: 1\r\nX_User_Id: 1\r\nTE: trailers\r\nX-A: 1\r\n"
        b"Connection: X-A, Authorization\r\nAuthorization: Bearer t\r\n"
    )
    assert ask(gateway, "good", fields=fields + b"X-B: 2 \r\n").endswith(b"ok")
    sent = upstream.received[-1].lower()
    names = [line.partition(b":")[0] for line in sent.split(b"\r\n")[1:] if line]
    assert sorted(names) == sorted(
        [
            b"host",
            b"authorization",
            b"x-b",
            b"forwarded",
            b"via",
            b"x-forwarded-for",
            b"x-forwarded-proto",
            b"x-forwarded-host",
            b"x-request-id",
        ]
    )
    assert b"x-b: 2\r\n" in sent


def test_one_upstream_that_is_away_is_not_the_others_matter(gateway: GatewayProcess) -> None:
    assert gateway.ask("/nobody").startswith(b"HTTP/1.1 503 ")
    assert ask(gateway, "good").endswith(b"ok")
