"""Connections to upstreams are reused, and no response leaks into another."""

import asyncio
import socket

import pytest
from harness import (
    Clock,
    GatewayHarness,
    ReceivedRequest,
    RecordingUpstream,
    parse_responses,
    respond_and_stall,
    settled,
    until,
)
from harness.pool import RespondOncePerConnection, pool_a_connection, wait_idle

from ostiary_gateway.upstream.pool import IDLE_SECONDS

ROUTES = """\
upstreams:
  up: {url: "${UPSTREAM}"}
routes:
  - {name: any, match: {path: "/any/{rest...}", methods: [GET, HEAD, POST, PUT, DELETE, OPTIONS]}, upstream: up,
     access: public, timeouts: {connect: 0.3, first_byte: 2.0}, limits: {body_bytes: 100000000}}
"""

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


async def test_a_connection_is_reused_for_requests_of_several_clients(
    harness: GatewayHarness, upstream: RecordingUpstream
) -> None:
    for method, body in [("GET", b""), ("POST", b"body"), ("OPTIONS", b""), ("DELETE", b""), ("PUT", b"")]:
        length = f"Content-Length: {len(body)}"
        response = await harness.request("/any/x", length, method=method, body=body)
        assert (response.status, upstream.last.body) == (200, body)
    assert (len(upstream.connections), len(upstream.requests)) == (1, 5)


async def test_concurrent_requests_have_connections_of_their_own(
    harness: GatewayHarness, upstream: RecordingUpstream
) -> None:
    async def wait(_: ReceivedRequest, writer: asyncio.StreamWriter) -> None:
        await until(lambda: len(upstream.requests) == 3)
        writer.write(OK)

    upstream.response = wait
    responses = await asyncio.gather(*(harness.request(f"/any/{number}") for number in range(3)))
    assert [response.body for response in responses] == [b"ok"] * 3
    assert len(upstream.connections) == 3


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\n",
        b"HTTP/1.0 200 OK\r\n",
        b"HTTP/1.1 200 OK\r\nConnection: X, Close\r\n",
    ],
)
async def test_a_connection_that_the_upstream_closes_is_not_reused(
    harness: GatewayHarness, upstream: RecordingUpstream, head: bytes
) -> None:
    upstream.response = head + b"Content-Length: 2\r\n\r\nok"
    for _ in range(2):
        response = await harness.request("/any/x")
        assert (response.body, response.values("connection")) == (b"ok", ["close"])
    assert len(upstream.connections) == 2


async def test_idle_connections_are_closed(harness: GatewayHarness, upstream: RecordingUpstream, clock: Clock) -> None:
    await harness.request("/any/x")
    await wait_idle(harness)
    clock.skip(IDLE_SECONDS + 0.1)
    await until(lambda: upstream.connections[0].is_closed)
    await harness.request("/any/x")
    assert len(upstream.connections) == 2


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_connection_closed_while_idle_affects_no_request(
    harness: GatewayHarness, upstream: RecordingUpstream, method: str
) -> None:
    upstream.response = RespondOncePerConnection(upstream, at_once=True)
    for _ in range(3):
        assert (await harness.request("/any/x", method=method)).body == b"ok"
        await wait_idle(harness, 0)
    assert len(upstream.requests) == 3


@pytest.mark.parametrize(
    "response",
    [
        OK + b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n" + OK,
        OK + b"x",
    ],
)
async def test_surplus_data_is_not_the_next_response(
    harness: GatewayHarness, upstream: RecordingUpstream, response: bytes
) -> None:
    upstream.response = response
    for _ in range(2):
        assert (await harness.request("/any/x")).body == b"ok"
    assert len(upstream.connections) == 2


@pytest.mark.parametrize(
    "head", [b"HTTP/1.1 200 OK\r\nContent-Length: 45", b"HTTP/1.1 304 Not Modified", b"HTTP/1.1 204 No Content"]
)
async def test_an_unexpected_body_is_not_the_next_response(
    harness: GatewayHarness, upstream: RecordingUpstream, head: bytes
) -> None:
    upstream.response = head + b"\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged"
    for _ in range(2):
        response = await harness.request("/any/x", method="HEAD")
        assert (response.body, response.is_complete) == (b"", True)
    assert len(upstream.connections) == 2


async def test_data_on_an_idle_connection_closes_it(harness: GatewayHarness, upstream: RecordingUpstream) -> None:
    await pool_a_connection(harness, upstream)
    upstream.connections[0].writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged")
    await until(lambda: upstream.connections[0].is_closed)
    assert (await harness.request("/any/x")).body == b"ok"
    assert len(upstream.connections) == 2


async def test_a_response_before_the_request_was_sent_closes_the_connection(
    harness: GatewayHarness, upstream: RecordingUpstream
) -> None:
    upstream.response, upstream.responds_before_body = OK, True
    client = await harness.connect()
    client.send(b"POST /any/x HTTP/1.1\r\nHost: gw\r\nContent-Length: 20\r\n\r\n")
    (response,) = parse_responses(await client.wait_closed(), "POST")
    assert (response.body, response.values("connection")) == (b"ok", ["close"])
    await until(lambda: upstream.connections[0].is_closed)


@pytest.mark.parametrize(
    ("method", "response"),
    [
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"),
        ("HEAD", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
        ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\n\r\n"),
        ("GET", b"HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n"),
        ("GET", b"HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\n"),
    ],
)
async def test_a_connection_is_not_reused_after_a_length_without_a_body(
    harness: GatewayHarness, upstream: RecordingUpstream, method: str, response: bytes
) -> None:
    upstream.response = response
    for count in (1, 2):
        assert (await harness.request("/any/x", method=method)).is_complete
        await until(lambda count=count: upstream.connections[count - 1].is_closed)  # type: ignore[misc]  # a default
    assert len(upstream.connections) == 2


@pytest.mark.parametrize("method", ["HEAD", "GET"])
async def test_a_connection_is_reused_after_a_response_without_body_and_length(
    harness: GatewayHarness, upstream: RecordingUpstream, method: str
) -> None:
    upstream.response = b"HTTP/1.1 304 Not Modified\r\n\r\n"
    for _ in range(2):
        assert (await harness.request("/any/x", method=method)).is_complete
        await wait_idle(harness)
    assert len(upstream.connections) == 1


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "DELETE"])
@pytest.mark.parametrize("framing", ["Content-Length: 4", "Transfer-Encoding: chunked"])
async def test_a_connection_is_not_reused_after_a_body_without_meaning(
    harness: GatewayHarness, upstream: RecordingUpstream, method: str, framing: str
) -> None:
    upstream.response = b"HTTP/1.1 204 No Content\r\n\r\n"
    body = b"body" if "Length" in framing else b"4\r\nbody\r\n0\r\n\r\n"
    assert (await harness.request("/any/x", framing, method=method, body=body)).status == 204
    await until(lambda: upstream.connections[0].is_closed)
    await wait_idle(harness, 0)


async def test_a_connection_with_unsent_data_is_not_reused(
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
    client = await harness.connect()
    client.send(b"POST /any/x HTTP/1.1\r\nHost: gw\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size)
    (pool,) = harness.upstream().pools
    await until(lambda: any(each.is_request_sent for each in pool._open))
    (connection,) = pool._open
    assert await settled(lambda: connection.unsent) > 0
    may_answer.set()
    await client.wait_for(b"\r\n\r\nok")
    await until(lambda: upstream.connections[0].is_closed)
    # The client's connection persists.
    upstream.response = OK
    client.send(b"GET /any/y HTTP/1.1\r\nHost: gw\r\nConnection: close\r\n\r\n")
    assert [each.body for each in parse_responses(await client.wait_closed(), "POST", "GET")] == [b"ok", b"ok"]
    assert len(upstream.connections) == 2


async def test_requests_wait_for_a_free_connection(harness: GatewayHarness, upstream: RecordingUpstream) -> None:
    harness.limit_connections(2)
    responses = await asyncio.gather(*(harness.request(f"/any/{number}") for number in range(10)))
    assert [response.status for response in responses] == [200] * 10
    assert sorted(response.body for response in responses) == sorted(
        b'{"target": "/any/%d", "body": ""}' % number for number in range(10)
    )
    assert len(upstream.connections) == 2


async def test_waiting_requests_get_new_connections_when_others_close(
    harness: GatewayHarness, upstream: RecordingUpstream
) -> None:
    harness.limit_connections(1)
    upstream.response = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"
    responses = await asyncio.gather(*(harness.request(f"/any/{number}") for number in range(5)))
    assert [response.status for response in responses] == [200] * 5
    assert len(upstream.connections) == 5


async def test_requests_that_wait_too_long_or_exceed_the_queue_are_rejected(
    harness: GatewayHarness, upstream: RecordingUpstream, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    harness.limit_connections(1)
    monkeypatch.setattr("ostiary_gateway.upstream.fair_queue.MAX_WAITING", 1)
    upstream.response = respond_and_stall()
    first = await harness.connect()
    first.send(b"GET /any/x HTTP/1.1\r\nHost: gw\r\n\r\n")
    await until(lambda: upstream.requests)
    tasks = [asyncio.create_task(harness.request(target)) for target in ("/any/y", "/any/z")]
    await until(lambda: tasks[0].done() or tasks[1].done())
    clock.skip(0.4)
    responses = await asyncio.gather(*tasks)
    assert [(response.status, response.code) for response in responses] == [(503, "upstream_unavailable")] * 2
    assert [response.values("retry-after") for response in responses] == [["1"]] * 2
    assert len(upstream.requests) == 1


async def test_a_connection_is_reused_after_backpressure(
    harness: GatewayHarness, upstream: RecordingUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ostiary_gateway.proxy.downstream.HIGH_WATER", 1024)
    big = b"HTTP/1.1 200 OK\r\nContent-Length: 150000\r\n\r\n" + b"x" * 150_000
    slow = await harness.connect()
    slow.transport.pause_reading()
    await until(lambda: harness.transports)
    (transport,) = harness.transports
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    # The response arrives at once, and exceeds the client's buffer.
    upstream.response = big
    slow.send(b"GET /any/big HTTP/1.1\r\nHost: gw\r\nConnection: close\r\n\r\n")
    await until(transport.get_write_buffer_size)
    upstream.response = OK
    assert (await harness.request("/any/small")).body == b"ok"
    slow.transport.resume_reading()
    assert parse_responses(await slow.wait_closed())[0].body == b"x" * 150_000


def test_the_idle_timeout_is_shorter_than_that_of_common_servers() -> None:
    assert IDLE_SECONDS < 5.0
