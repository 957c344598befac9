"""A client that sends much at once does not delay others: its input is processed in turns."""

import asyncio

import pytest
from harness import (
    CapturedAccessLog,
    Clock,
    GatewayHarness,
    ReceivedRequest,
    RecordingUpstream,
    parse_responses,
    respond_and_stall,
    settled,
    until,
)

from ostiary_gateway.http1.body import MAX_CHUNKS_AT_ONCE
from ostiary_gateway.proxy.downstream import MAX_PIPELINED_BYTES, MAX_REQUESTS_PER_TURN
from ostiary_gateway.upstream.connection import MAX_INTERIM_RESPONSES

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
GET = b"GET /any/x HTTP/1.1\r\nHost: gw\r\n"
HINT = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"

#: As many as come in one piece.
CHUNKS = 30_000

ROUTES = """\
upstreams:
  up: {url: "${UPSTREAM}"}
routes:
  - {name: any, match: {path: "/any/{rest...}", methods: [GET, POST]}, upstream: up, access: public}
"""


def unrouted(number: int) -> bytes:
    """Return a request that the gateway rejects at once."""
    return b"GET /nothing HTTP/1.1\r\nHost: gw\r\nX-Request-ID: %d\r\n\r\n" % number


async def test_pipelined_requests_do_not_delay_another_client(harness: GatewayHarness) -> None:
    count = 1000
    log = CapturedAccessLog(harness)
    many, one = await harness.connect(), await harness.connect()
    await until(lambda: len(harness.connections) == 2)
    many.send(b"".join(unrouted(number) for number in range(count)))
    one.send(unrouted(count))
    await one.wait_for(b'"not_found"')
    await many.wait_for(b'"not_found"', count)
    order = [int(str(entry["request_id"])) for entry in log.lines]
    # Each is answered once and in order; the other client's follows those of one turn.
    assert [number for number in order if number != count] == list(range(count))
    assert order.index(count) <= 2 * MAX_REQUESTS_PER_TURN


async def test_requests_per_turn_are_limited(harness: GatewayHarness) -> None:
    log, client = CapturedAccessLog(harness), await harness.connect()
    begun: list[int] = []
    client.send(b"".join(unrouted(number) for number in range(100)))
    while sum(begun) < 100:
        before = sum(begun)
        await until(lambda before=before: len(log.lines) > before)  # type: ignore[misc]  # a default
        begun.append(len(log.lines) - before)
    assert max(begun) == MAX_REQUESTS_PER_TURN
    await client.wait_for(b'"not_found"', 100)


async def test_proxied_requests_among_many_rejected_ones_are_answered(
    harness: GatewayHarness, upstream: RecordingUpstream
) -> None:
    upstream.response = OK
    client = await harness.connect()
    client.send((unrouted(1) * (MAX_REQUESTS_PER_TURN + 1) + GET + b"\r\n") * 5 + GET + b"Connection: close\r\n\r\n")
    responses = parse_responses(await client.wait_closed(), *["GET"] * (5 * (MAX_REQUESTS_PER_TURN + 2) + 1))
    assert [response.status for response in responses] == ([404] * (MAX_REQUESTS_PER_TURN + 1) + [200]) * 5 + [200]
    assert len(upstream.requests) == 6


async def test_a_request_body_in_tiny_chunks_yields_to_other_clients(
    harness: GatewayHarness, upstream: RecordingUpstream
) -> None:
    upstream.response, upstream.responds_before_body = respond_and_stall(), True
    many, connection = await harness.connect_both_sides()
    one = await harness.connect()
    many.send(b"POST /any/x HTTP/1.1\r\nHost: gw\r\nTransfer-Encoding: chunked\r\n\r\n")
    await until(lambda: upstream.requests)
    exchange = connection._exchange
    assert exchange is not None
    many.send(b"1\r\nx\r\n" * CHUNKS)
    one.send(unrouted(1))
    await one.wait_for(b'"not_found"')
    assert exchange._received <= 4 * MAX_REQUESTS_PER_TURN * MAX_CHUNKS_AT_ONCE
    await until(lambda: exchange._received == CHUNKS)


async def test_a_response_in_tiny_chunks_yields_to_other_clients(
    harness: GatewayHarness, upstream: RecordingUpstream
) -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    upstream.response = head + b"1\r\nx\r\n" * CHUNKS + b"0\r\nX-Sum: 1\r\n\r\n"
    many, one = await harness.connect(), await harness.connect()
    many.send(GET + b"Connection: close\r\n\r\n")
    await many.wait_for(b"x\r\n")
    one.send(unrouted(1))
    await one.wait_for(b'"not_found"')
    assert many.received.count(b"x") <= 20 * MAX_CHUNKS_AT_ONCE
    (response,) = parse_responses(await many.wait_closed())
    assert (response.body, response.trailers, response.is_complete) == (b"x" * CHUNKS, [("x-sum", "1")], True)


async def test_a_response_in_tiny_chunks_waits_for_a_slow_reader(
    harness: GatewayHarness, upstream: RecordingUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ostiary_gateway.proxy.downstream.HIGH_WATER", 1024)
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    upstream.response = head + (b"1\r\nx\r\n" * 100 + b"1000\r\n" + b"y" * 4096 + b"\r\n") * 300 + b"0\r\n\r\n"
    client, connection = await harness.connect_both_sides()
    client.transport.pause_reading()
    client.send(GET + b"Connection: close\r\n\r\n")
    await until(lambda: not connection.is_writable)
    assert await settled(lambda: connection.unsent) < 64 * 1024
    client.transport.resume_reading()
    (response,) = parse_responses(await client.wait_closed())
    assert (response.body, response.is_complete) == ((b"x" * 100 + b"y" * 4096) * 300, True)


async def test_interim_responses_are_limited(harness: GatewayHarness, upstream: RecordingUpstream) -> None:
    upstream.response = HINT * MAX_INTERIM_RESPONSES + OK
    for _ in range(2):
        response = await harness.request("/any/x")
        assert (response.status, response.interim) == (200, [103] * MAX_INTERIM_RESPONSES)
    upstream.response = HINT * (MAX_INTERIM_RESPONSES + 1) + OK
    response = await harness.request("/any/x")
    assert (response.status, response.code) == (502, "upstream_failed")
    await until(lambda: all(each.is_closed for each in upstream.connections))


async def test_interim_responses_are_counted_across_reads(harness: GatewayHarness, upstream: RecordingUpstream) -> None:
    async def hint(request: ReceivedRequest, writer: asyncio.StreamWriter) -> None:
        for number in range(1, 1000):
            writer.write(HINT)
            await until(lambda number=number: request.connection.is_closed or client.received.count(b" 103 ") == number)  # type: ignore[misc]  # a default
            if number > MAX_INTERIM_RESPONSES:
                break
        await request.connection.wait_closed()

    upstream.response = hint
    client = await harness.connect()
    client.send(GET + b"Connection: close\r\n\r\n")
    data = await client.wait_closed()
    assert (data.count(b" 103 "), data.count(b" 502 ")) == (MAX_INTERIM_RESPONSES, 1)


@pytest.mark.parametrize("ahead", [1, 2 * MAX_PIPELINED_BYTES])
async def test_the_disconnect_of_a_client_that_pipelined_is_noticed(
    harness: GatewayHarness, upstream: RecordingUpstream, clock: Clock, ahead: int
) -> None:
    upstream.response = respond_and_stall()
    client, connection = await harness.connect_both_sides()
    client.send(GET + b"\r\n" + b"x" * ahead)
    await until(lambda: upstream.requests and len(connection._buffer) == ahead)
    client.transport.close()
    clock.skip(1)
    await until(lambda: upstream.connections[0].is_closed)
    await until(lambda: not harness.transports)
    assert not harness.gateway._manager.paused


async def test_pipelined_data_is_buffered_up_to_a_limit(harness: GatewayHarness, upstream: RecordingUpstream) -> None:
    upstream.response = respond_and_stall()
    client, connection = await harness.connect_both_sides()
    client.send(GET + b"\r\n" + b"x" * 20_000_000)
    await until(lambda: len(connection._buffer) > MAX_PIPELINED_BYTES)
    assert await settled(lambda: len(connection._buffer)) < MAX_PIPELINED_BYTES + 1_000_000


async def test_requests_pipelined_beyond_the_buffer_are_answered(
    harness: GatewayHarness, upstream: RecordingUpstream
) -> None:
    upstream.response = OK
    long = GET + b"X: " + b"x" * 1000 + b"\r\n"
    count = 4 * MAX_PIPELINED_BYTES // len(long)
    client = await harness.connect()
    client.send((long + b"\r\n") * count + long + b"Connection: close\r\n\r\n")
    responses = parse_responses(await client.wait_closed(), *["GET"] * (count + 1))
    assert {(response.status, response.body) for response in responses} == {(200, b"ok")}
    assert not harness.gateway._manager.paused
