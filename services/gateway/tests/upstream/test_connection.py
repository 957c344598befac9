"""Connections to an upstream are used again, and nothing of one answer ever becomes part of another."""

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest
from harness import (
    PATIENCE,
    Clock,
    GatewayHarness,
    ReceivedRequest,
    RecordingUpstream,
    parse_responses,
    respond_and_close,
    respond_and_stall,
    settled,
    until,
)

from ostiary.testing import Issuer
from ostiary_gateway.upstream.pool import IDLE_SECONDS

ROUTES = """\
upstreams:
  up: {url: "${UPSTREAM}"}
routes:
  - {name: any, match: {path: "/any/{rest...}", methods: [GET, HEAD, POST, PUT, DELETE, OPTIONS]}, upstream: up,
     access: public, timeouts: {connect: 0.3, first_byte: 2.0}, limits: {body_bytes: 100000000}}
"""

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@pytest.fixture(autouse=True)
def idle_connections_stay_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the idle time-out from closing connections that something else should close while a test waits."""
    monkeypatch.setattr("ostiary_gateway.upstream.pool.IDLE_SECONDS", 10 * PATIENCE)


@pytest.fixture
async def harness(issuer: Issuer, upstream: RecordingUpstream) -> AsyncIterator[GatewayHarness]:
    async with GatewayHarness.open(ROUTES, upstream.url, issuer.verifier()) as harness:
        yield harness


async def idle(harness: GatewayHarness, count: int = 1) -> None:
    """Return when the gateway has so many connections at hand."""
    (upstream,) = harness.gateway.runtime.current.upstreams.values()
    (pool,) = upstream.pools
    await until(lambda: len(pool._idle) == count)


async def use(harness: GatewayHarness, upstream: RecordingUpstream) -> None:
    """Have a request answered, so that a connection that was used before is at hand."""
    upstream.response = OK
    await harness.request("/any/x")
    await idle(harness)


async def test_one_connection_serves_several_requests_of_several_clients(
    harness: GatewayHarness, upstream: RecordingUpstream
) -> None:
    for method, body in [("GET", b""), ("POST", b"body"), ("OPTIONS", b""), ("DELETE", b""), ("PUT", b"")]:
        length = f"Content-Length: {len(body)}"
        answer = await harness.request("/any/x", length, method=method, body=body)
        assert (answer.status, upstream.last.body) == (200, body)
    assert (len(upstream.connections), len(upstream.requests)) == (1, 5)


async def test_requests_at_the_same_time_have_connections_of_their_own(
    harness: GatewayHarness, upstream: RecordingUpstream
) -> None:
    async def wait(_: ReceivedRequest, writer: asyncio.StreamWriter) -> None:
        await until(lambda: len(upstream.requests) == 3)
        writer.write(OK)

    upstream.response = wait
    given = await asyncio.gather(*(harness.request(f"/any/{number}") for number in range(3)))
    assert [answer.body for answer in given] == [b"ok"] * 3
    assert len(upstream.connections) == 3


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\n",
        b"HTTP/1.0 200 OK\r\n",
        b"HTTP/1.1 200 OK\r\nConnection: X, Close\r\n",
    ],
)
async def test_a_connection_that_the_upstream_ends_is_not_used_again(
    harness: GatewayHarness, upstream: RecordingUpstream, head: bytes
) -> None:
    upstream.response = head + b"Content-Length: 2\r\n\r\nok"
    for _ in range(2):
        answer = await harness.request("/any/x")
        assert (answer.body, answer.values("connection")) == (b"ok", ["close"])
    assert len(upstream.connections) == 2


async def test_a_connection_that_is_idle_for_long_is_closed(
    harness: GatewayHarness, upstream: RecordingUpstream, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ostiary_gateway.upstream.pool.IDLE_SECONDS", IDLE_SECONDS)
    await harness.request("/any/x")
    await idle(harness)
    clock.skip(IDLE_SECONDS + 0.1)
    await until(lambda: upstream.connections[0].is_closed)
    await harness.request("/any/x")
    assert len(upstream.connections) == 2


class Stale:
    """Answers once on each connection, and closes it: at once, or at the next request."""

    def __init__(self, upstream: RecordingUpstream, *, at_once: bool) -> None:
        self._upstream = upstream
        self._at_once = at_once

    async def __call__(self, request: ReceivedRequest, writer: asyncio.StreamWriter) -> None:
        before = [each for each in self._upstream.requests if each.connection is request.connection]
        if len(before) == 1:
            writer.write(OK)
            await writer.drain()
        if self._at_once or len(before) > 1:
            writer.close()


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
async def test_a_safe_request_is_sent_again_if_a_used_connection_was_closed(
    harness: GatewayHarness, upstream: RecordingUpstream, method: str
) -> None:
    await use(harness, upstream)
    upstream.response = Stale(upstream, at_once=False)
    answer = await harness.request("/any/y", method=method)
    assert (answer.status, len(upstream.requests), len(upstream.connections)) == (200, 3, 2)


@pytest.mark.parametrize(
    ("method", "body"), [("POST", b""), ("POST", b"x"), ("PUT", b"x"), ("DELETE", b""), ("GET", b"x")]
)
async def test_another_request_is_sent_once(
    harness: GatewayHarness, upstream: RecordingUpstream, method: str, body: bytes
) -> None:
    await use(harness, upstream)
    upstream.response = Stale(upstream, at_once=False)
    answer = await harness.request(
        "/any/y", *([f"Content-Length: {len(body)}"] if body else []), method=method, body=body
    )
    assert (answer.status, answer.code) == (502, "upstream_failed")
    assert (len(upstream.requests), len(upstream.connections)) == (2, 1)


async def test_a_request_is_sent_again_once_only(harness: GatewayHarness, upstream: RecordingUpstream) -> None:
    await use(harness, upstream)
    upstream.response = respond_and_close()
    assert (await harness.request("/any/y")).status == 502
    assert (len(upstream.requests), len(upstream.connections)) == (3, 2)


async def test_a_request_that_has_an_answer_in_part_is_not_sent_again(
    harness: GatewayHarness, upstream: RecordingUpstream
) -> None:
    await use(harness, upstream)
    upstream.response = respond_and_close(b"HTTP/1.1 2")
    assert (await harness.request("/any/y")).status == 502
    assert len(upstream.requests) == 2


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_connection_that_was_closed_meanwhile_is_nobodys_problem(
    harness: GatewayHarness, upstream: RecordingUpstream, method: str
) -> None:
    upstream.response = Stale(upstream, at_once=True)
    for _ in range(3):
        assert (await harness.request("/any/x", method=method)).body == b"ok"
        await idle(harness, 0)
    assert len(upstream.requests) == 3


@pytest.mark.parametrize(
    "answer",
    [
        OK + b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n" + OK,
        OK + b"x",
    ],
)
async def test_what_comes_after_an_answer_is_not_the_next_one(
    harness: GatewayHarness, upstream: RecordingUpstream, answer: bytes
) -> None:
    upstream.response = answer
    for _ in range(2):
        assert (await harness.request("/any/x")).body == b"ok"
    assert len(upstream.connections) == 2


@pytest.mark.parametrize(
    "head", [b"HTTP/1.1 200 OK\r\nContent-Length: 45", b"HTTP/1.1 304 Not Modified", b"HTTP/1.1 204 No Content"]
)
async def test_a_body_where_there_can_be_none_is_not_the_next_answer(
    harness: GatewayHarness, upstream: RecordingUpstream, head: bytes
) -> None:
    upstream.response = head + b"\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged"
    for _ in range(2):
        answer = await harness.request("/any/x", method="HEAD")
        assert (answer.body, answer.is_complete) == (b"", True)
    assert len(upstream.connections) == 2


async def test_what_comes_when_nobody_has_asked_closes_the_connection(
    harness: GatewayHarness, upstream: RecordingUpstream
) -> None:
    await use(harness, upstream)
    upstream.connections[0].writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged")
    await until(lambda: upstream.connections[0].is_closed)
    assert (await harness.request("/any/x")).body == b"ok"
    assert len(upstream.connections) == 2


async def test_an_answer_before_the_request_was_sent_ends_the_connection(
    harness: GatewayHarness, upstream: RecordingUpstream
) -> None:
    upstream.response, upstream.responds_before_body = OK, True
    line = await harness.connect()
    line.send(b"POST /any/x HTTP/1.1\r\nHost: gw\r\nContent-Length: 20\r\n\r\n")
    (answer,) = parse_responses(await line.wait_closed(), "POST")
    assert (answer.body, answer.values("connection")) == (b"ok", ["close"])
    await until(lambda: upstream.connections[0].is_closed)


@pytest.mark.parametrize(
    ("method", "answer"),
    [
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"),
        ("HEAD", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
        ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\n\r\n"),
        ("GET", b"HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n"),
        ("GET", b"HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\n"),
    ],
)
async def test_a_connection_is_not_used_again_where_a_body_may_come_that_there_is_not(
    harness: GatewayHarness, upstream: RecordingUpstream, method: str, answer: bytes
) -> None:
    upstream.response = answer
    for count in (1, 2):
        assert (await harness.request("/any/x", method=method)).is_complete
        await until(lambda count=count: upstream.connections[count - 1].is_closed)  # type: ignore[misc]  # a default
    assert len(upstream.connections) == 2


@pytest.mark.parametrize("method", ["HEAD", "GET"])
async def test_a_connection_is_used_again_where_there_is_plainly_no_body(
    harness: GatewayHarness, upstream: RecordingUpstream, method: str
) -> None:
    upstream.response = b"HTTP/1.1 304 Not Modified\r\n\r\n"
    for _ in range(2):
        assert (await harness.request("/any/x", method=method)).is_complete
        await idle(harness)
    assert len(upstream.connections) == 1


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "DELETE"])
@pytest.mark.parametrize("framing", ["Content-Length: 4", "Transfer-Encoding: chunked"])
async def test_a_connection_is_not_used_again_after_a_body_that_means_nothing(
    harness: GatewayHarness, upstream: RecordingUpstream, method: str, framing: str
) -> None:
    upstream.response = b"HTTP/1.1 204 No Content\r\n\r\n"
    body = b"body" if "Length" in framing else b"4\r\nbody\r\n0\r\n\r\n"
    assert (await harness.request("/any/x", framing, method=method, body=body)).status == 204
    await until(lambda: upstream.connections[0].is_closed)
    await idle(harness, 0)


async def test_a_connection_whose_upstream_has_not_taken_the_body_is_not_used_again(
    harness: GatewayHarness, upstream: RecordingUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = 5_000_000
    monkeypatch.setattr("ostiary_gateway.upstream.connection.HIGH_WATER", size)
    may_answer = asyncio.Event()

    async def answer_early(request: ReceivedRequest, writer: asyncio.StreamWriter) -> None:
        await may_answer.wait()
        writer.write(OK)
        await request.connection.wait_closed()

    upstream.response, upstream.responds_before_body = answer_early, True
    line = await harness.connect()
    line.send(b"POST /any/x HTTP/1.1\r\nHost: gw\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size)
    (pool,) = harness.upstream().pools
    await until(lambda: any(each.is_request_sent for each in pool._open))
    (connection,) = pool._open
    assert await settled(lambda: connection.unsent) > 0
    may_answer.set()
    await line.wait_for(b"\r\n\r\nok")
    await until(lambda: upstream.connections[0].is_closed)
    # For the client, all is well.
    upstream.response = OK
    line.send(b"GET /any/y HTTP/1.1\r\nHost: gw\r\nConnection: close\r\n\r\n")
    assert [each.body for each in parse_responses(await line.wait_closed(), "POST", "GET")] == [b"ok", b"ok"]
    assert len(upstream.connections) == 2


async def test_more_requests_than_connections_wait_for_one(
    harness: GatewayHarness, upstream: RecordingUpstream
) -> None:
    harness.limit_connections(2)
    given = await asyncio.gather(*(harness.request(f"/any/{number}") for number in range(10)))
    assert [answer.status for answer in given] == [200] * 10
    assert sorted(answer.body for answer in given) == sorted(
        b'{"target": "/any/%d", "body": ""}' % number for number in range(10)
    )
    assert len(upstream.connections) == 2


async def test_who_waits_for_a_connection_gets_a_new_one_if_the_last_one_ended(
    harness: GatewayHarness, upstream: RecordingUpstream
) -> None:
    harness.limit_connections(1)
    upstream.response = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"
    given = await asyncio.gather(*(harness.request(f"/any/{number}") for number in range(5)))
    assert [answer.status for answer in given] == [200] * 5
    assert len(upstream.connections) == 5


async def test_who_waits_too_long_or_is_one_too_many_hears_so(
    harness: GatewayHarness, upstream: RecordingUpstream, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    harness.limit_connections(1)
    monkeypatch.setattr("ostiary_gateway.upstream.fair_queue.MAX_WAITING", 1)
    upstream.response = respond_and_stall()
    first = await harness.connect()
    first.send(b"GET /any/x HTTP/1.1\r\nHost: gw\r\n\r\n")
    await until(lambda: upstream.requests)
    asked = [asyncio.create_task(harness.request(target)) for target in ("/any/y", "/any/z")]
    await until(lambda: asked[0].done() or asked[1].done())
    clock.skip(0.4)
    given = await asyncio.gather(*asked)
    assert [(answer.status, answer.code) for answer in given] == [(503, "upstream_unavailable")] * 2
    assert [answer.values("retry-after") for answer in given] == [["1"]] * 2
    assert len(upstream.requests) == 1


async def test_a_connection_that_was_held_up_is_good_for_the_next_request(
    harness: GatewayHarness, upstream: RecordingUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ostiary_gateway.proxy.downstream.HIGH_WATER", 1024)
    big = b"HTTP/1.1 200 OK\r\nContent-Length: 150000\r\n\r\n" + b"x" * 150_000
    slow = await harness.connect()
    slow.transport.pause_reading()
    await until(lambda: harness.transports)
    (transport,) = harness.transports
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    # The whole answer comes in one piece, more than the client's side takes.
    upstream.response = big
    slow.send(b"GET /any/big HTTP/1.1\r\nHost: gw\r\nConnection: close\r\n\r\n")
    await until(transport.get_write_buffer_size)
    upstream.response = OK
    assert (await harness.request("/any/small")).body == b"ok"
    slow.transport.resume_reading()
    assert parse_responses(await slow.wait_closed())[0].body == b"x" * 150_000


def test_a_connection_is_kept_for_less_time_than_servers_keep_it() -> None:
    assert IDLE_SECONDS < 5.0
