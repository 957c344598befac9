"""Backpressure in both directions, and clients that read too slowly."""

import asyncio
import os

import pytest
from harness import (
    ClientSocket,
    Clock,
    GatewayHarness,
    ReceivedRequest,
    RecordingUpstream,
    never,
    parse_responses,
    respond_and_stall,
    settled,
    until,
)
from proxy_routes import STREAM_ROUTES

from ostiary_gateway.proxy.downstream import ClientConnection
from ostiary_gateway.proxy.slow_reader import STALL_SECONDS

ROUTES = STREAM_ROUTES

#: Bytes, more than all buffers on the way hold.
BIG = 20_000_000


class Flood:
    """Responds with `size` bytes, as fast as the gateway reads them, and counts them."""

    def __init__(self, size: int = BIG, *, in_chunks: bool = False) -> None:
        self.size = size
        self.written = 0
        self._in_chunks = in_chunks

    async def __call__(self, _: ReceivedRequest, writer: asyncio.StreamWriter) -> None:
        writer.transport.set_write_buffer_limits(0)
        coding = b"Transfer-Encoding: chunked" if self._in_chunks else b"Content-Length: %d" % self.size
        writer.write(b"HTTP/1.1 200 OK\r\n%b\r\n\r\n" % coding)
        while self.written < self.size:
            piece = b"x" * 50_000
            writer.write(b"c350\r\n" + piece + b"\r\n" if self._in_chunks else piece)
            await writer.drain()
            self.written += len(piece)
        writer.write(b"0\r\n\r\n" if self._in_chunks else b"")


async def request_without_reading(harness: GatewayHarness, *, target: bytes = b"/any/x") -> ClientSocket:
    """Send a request, and do not read the response."""
    client = await harness.connect()
    client.transport.pause_reading()
    client.send(b"GET %b HTTP/1.1\r\nHost: gw\r\nConnection: close\r\n\r\n" % target)
    return client


@pytest.mark.parametrize("in_chunks", [False, True])
async def test_a_slow_reader_slows_the_upstream_down(
    harness: GatewayHarness, upstream: RecordingUpstream, in_chunks: bool
) -> None:
    upstream.response = flood = Flood(in_chunks=in_chunks)
    client = await request_without_reading(harness)
    await until(lambda: flood.written)
    assert await settled(lambda: flood.written) < 3_000_000
    (transport,) = harness.transports
    assert transport.get_write_buffer_size() < 1_000_000
    client.transport.resume_reading()
    (response,) = parse_responses(await client.wait_closed())
    assert (len(response.body), response.is_complete) == (BIG, True)


async def test_a_slow_upstream_slows_the_client_down(harness: GatewayHarness, upstream: RecordingUpstream) -> None:
    goes_on = asyncio.Event()

    async def take(request: ReceivedRequest, writer: asyncio.StreamWriter) -> None:
        await goes_on.wait()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n%08d" % len(await request.read_body()))

    upstream.response, upstream.responds_before_body = take, True
    client = await harness.connect()
    client.transport.set_write_buffer_limits(0)
    client.send(
        b"POST /any/x HTTP/1.1\r\nHost: gw\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % BIG + b"x" * BIG
    )
    await until(lambda: upstream.requests)
    assert await settled(client.transport.get_write_buffer_size) >= BIG - 3_000_000
    goes_on.set()
    (response,) = parse_responses(await client.wait_closed(), "POST")
    assert (response.status, response.body) == (200, b"%08d" % BIG)


async def test_a_client_that_stops_reading_is_disconnected(
    harness: GatewayHarness, upstream: RecordingUpstream, clock: Clock
) -> None:
    upstream.response = flood = Flood()
    await request_without_reading(harness)
    await until(lambda: flood.written)
    await settled(lambda: flood.written)
    assert not upstream.connections[0].is_closed
    clock.skip(STALL_SECONDS)
    await until(lambda: upstream.connections[0].is_closed)
    assert flood.written < BIG
    assert harness.transports == []


async def test_a_client_that_reads_slowly_is_not_disconnected(
    harness: GatewayHarness, upstream: RecordingUpstream, clock: Clock
) -> None:
    upstream.response = Flood(1_000_000)
    client = await request_without_reading(harness)
    await until(lambda: upstream.requests)
    (connection,) = harness.connections
    await until(lambda: not connection.is_writable)
    taken = 0
    # The client reads little, but steadily.
    for _ in range(12):
        taken += len(read_paused(client, 40_000))
        clock.skip(STALL_SECONDS / 3)
        await wait_tick(connection)
        assert not client.is_closed
    assert harness.transports
    client.transport.resume_reading()
    await client.wait_closed()
    assert taken + len(client.received) > 1_000_000


def read_paused(client: ClientSocket, size: int) -> bytes:
    """Read `size` bytes from a connection whose reading is paused."""
    number, data = client.transport.get_extra_info("socket").fileno(), b""
    while len(data) < size:
        data += os.read(number, size - len(data))
    return data


async def wait_tick(connection: ClientConnection) -> None:
    """Wait until the next tick of the connection manager is done."""
    manager = connection._manager
    ticks: list[float] = []
    manager.add_tick_handler(ticks.append)
    await until(lambda: ticks)
    manager._tick_handlers.remove(ticks.append)


async def test_a_slow_reader_gets_an_early_response_although_its_body_never_ends(
    harness: GatewayHarness, upstream: RecordingUpstream, clock: Clock
) -> None:
    size = 1_000_000
    upstream.response = respond_and_stall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size)
    upstream.responds_before_body = True
    client, connection = await harness.connect_both_sides()
    client.transport.pause_reading()
    client.send(b"POST /any/x HTTP/1.1\r\nHost: gw\r\nContent-Length: 20\r\n\r\nhalf")
    await until(lambda: not connection.is_writable)
    data = b""
    for _ in range(6):
        # Altogether longer than the timeouts for stalled and for lingering clients.
        clock.skip(STALL_SECONDS / 3)
        await wait_tick(connection)
        data += read_paused(client, 40_000)
    client.transport.resume_reading()
    (response,) = parse_responses(data + await client.wait_closed(), "POST")
    assert (len(response.body), response.is_complete, response.values("connection")) == (size, True, ["close"])


async def test_a_client_that_does_not_read_its_last_response_is_disconnected(
    harness: GatewayHarness, upstream: RecordingUpstream, clock: Clock
) -> None:
    size = 400_000
    upstream.response = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size
    await request_without_reading(harness)
    await until(lambda: upstream.requests)
    (connection,) = harness.connections
    await until(lambda: connection._lingering)
    clock.skip(STALL_SECONDS - 1)
    await never(lambda: not harness.transports)
    clock.skip(1)
    await until(lambda: not harness.transports)


async def test_a_slow_reader_does_not_use_up_the_upstreams_timeout(
    harness: GatewayHarness, upstream: RecordingUpstream, clock: Clock
) -> None:
    upstream.response = flood = Flood()
    client = await request_without_reading(harness, target=b"/quick")
    await until(lambda: flood.written)
    await settled(lambda: flood.written)
    # Three times the route's idle timeout.
    clock.skip(0.6)
    await never(lambda: upstream.connections[0].is_closed)
    client.transport.resume_reading()
    (response,) = parse_responses(await client.wait_closed())
    assert (len(response.body), response.is_complete) == (BIG, True)


async def test_pipelined_requests_of_a_client_that_does_not_read_wait(
    harness: GatewayHarness, upstream: RecordingUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ostiary_gateway.proxy.downstream.HIGH_WATER", 64 * 1024)
    count, size = 200, 50_000
    head = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % size
    upstream.response = head + b"x" * size
    client = await harness.connect()
    client.transport.pause_reading()
    client.send(b"GET /any/x HTTP/1.1\r\nHost: gw\r\n\r\n" * count)
    await until(lambda: upstream.requests)
    assert await settled(lambda: len(upstream.requests)) <= 50
    (transport,) = harness.transports
    assert transport.get_write_buffer_size() < 1_000_000
    client.transport.resume_reading()
    await client.wait_for(b"HTTP/1.1 200", count)


@pytest.mark.parametrize("target", [b"/nothing", b"/livez"])
async def test_local_responses_to_a_client_that_does_not_read_are_limited(
    harness: GatewayHarness, monkeypatch: pytest.MonkeyPatch, target: bytes
) -> None:
    high_water, count = 10_000, 10_000
    monkeypatch.setattr("ostiary_gateway.proxy.downstream.HIGH_WATER", high_water)
    client = await harness.connect()
    client.transport.pause_reading()
    client.send(b"GET %b HTTP/1.1\r\nHost: gw\r\n\r\n" % target * count)
    await until(lambda: harness.transports)
    (transport,) = harness.transports
    await until(lambda: transport.get_write_buffer_size() > high_water)
    assert await settled(transport.get_write_buffer_size) <= 200_000
