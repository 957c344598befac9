"""Both sides hold each other up, leave, and answer early."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
from harness import (
    ClientSocket,
    Clock,
    GatewayHarness,
    PausedResponse,
    ReceivedRequest,
    RecordingUpstream,
    never,
    parse_responses,
    respond_and_stall,
    settled,
    until,
)

from ostiary.testing import Issuer
from ostiary_gateway.proxy.downstream import ClientConnection
from ostiary_gateway.proxy.exchange import Exchange
from ostiary_gateway.proxy.slow_reader import STALL_SECONDS
from ostiary_gateway.upstream.connection import Failure

ROUTES = """\
upstreams:
  up: {url: "${UPSTREAM}"}
routes:
  - {name: any, match: {path: "/any/{rest...}", methods: [GET, POST]}, upstream: up, access: public,
     limits: {body_bytes: 100000000}}
  - {name: quick, match: {path: /quick, methods: [GET, POST]}, upstream: up, access: public,
     timeouts: {first_byte: 0.2, idle: 0.2},
     limits: {body_bytes: 100000000}}
"""

#: More than all buffers on the way hold.
BIG = 20_000_000

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@pytest.fixture
async def harness(issuer: Issuer, upstream: RecordingUpstream) -> AsyncIterator[GatewayHarness]:
    async with GatewayHarness.open(ROUTES, upstream.url, issuer.verifier()) as harness:
        yield harness


class Flood:
    """Answers with as many bytes as it can get rid of, and counts them."""

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


async def asking(harness: GatewayHarness, *, target: bytes = b"/any/x") -> ClientSocket:
    """Ask, and read nothing of the answer."""
    line = await harness.connect()
    line.transport.pause_reading()
    line.send(b"GET %b HTTP/1.1\r\nHost: gw\r\nConnection: close\r\n\r\n" % target)
    return line


@pytest.mark.parametrize("in_chunks", [False, True])
async def test_a_slow_reader_holds_the_upstream_up(
    harness: GatewayHarness, upstream: RecordingUpstream, in_chunks: bool
) -> None:
    upstream.response = flood = Flood(in_chunks=in_chunks)
    line = await asking(harness)
    await until(lambda: flood.written)
    assert await settled(lambda: flood.written) < 3_000_000
    (transport,) = harness.transports
    assert transport.get_write_buffer_size() < 1_000_000
    line.transport.resume_reading()
    (answer,) = parse_responses(await line.wait_closed())
    assert (len(answer.body), answer.is_complete) == (BIG, True)


async def test_a_slow_upstream_holds_the_client_up(harness: GatewayHarness, upstream: RecordingUpstream) -> None:
    goes_on = asyncio.Event()

    async def take(request: ReceivedRequest, writer: asyncio.StreamWriter) -> None:
        await goes_on.wait()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n%08d" % len(await request.read_body()))

    upstream.response, upstream.responds_before_body = take, True
    line = await harness.connect()
    line.transport.set_write_buffer_limits(0)
    line.send(b"POST /any/x HTTP/1.1\r\nHost: gw\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % BIG + b"x" * BIG)
    await until(lambda: upstream.requests)
    assert await settled(line.transport.get_write_buffer_size) >= BIG - 3_000_000
    goes_on.set()
    (answer,) = parse_responses(await line.wait_closed(), "POST")
    assert (answer.status, answer.body) == (200, b"%08d" % BIG)


async def test_a_client_that_does_not_take_its_answer_is_left(
    harness: GatewayHarness, upstream: RecordingUpstream, clock: Clock
) -> None:
    upstream.response = flood = Flood()
    await asking(harness)
    await until(lambda: flood.written)
    await settled(lambda: flood.written)
    assert not upstream.connections[0].is_closed
    clock.skip(STALL_SECONDS)
    await until(lambda: upstream.connections[0].is_closed)
    assert flood.written < BIG
    assert harness.transports == []


async def test_a_client_that_takes_its_answer_slowly_is_not_left(
    harness: GatewayHarness, upstream: RecordingUpstream, clock: Clock
) -> None:
    upstream.response = Flood(1_000_000)
    line = await asking(harness)
    await until(lambda: upstream.requests)
    (connection,) = harness.connections
    await until(lambda: not connection.is_writable)
    taken = 0
    # What is taken meanwhile are no more than drops of what there is room for.
    for _ in range(12):
        taken += len(taken_by_hand(line, 40_000))
        clock.skip(STALL_SECONDS / 3)
        await ticked(connection)
        assert not line.is_closed
    assert harness.transports
    line.transport.resume_reading()
    await line.wait_closed()
    assert taken + len(line.received) > 1_000_000


def taken_by_hand(line: ClientSocket, size: int) -> bytes:
    """Read so many bytes from a connection on which nothing is read by itself."""
    number, data = line.transport.get_extra_info("socket").fileno(), b""
    while len(data) < size:
        data += os.read(number, size - len(data))
    return data


async def ticked(connection: ClientConnection) -> None:
    """Return when all has been done that was due."""
    manager = connection._manager
    ticks: list[float] = []
    manager.add_tick_handler(ticks.append)
    await until(lambda: ticks)
    manager._tick_handlers.remove(ticks.append)


async def test_an_early_answer_reaches_a_slow_reader_although_the_body_never_ends(
    harness: GatewayHarness, upstream: RecordingUpstream, clock: Clock
) -> None:
    size = 1_000_000
    upstream.response = respond_and_stall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size)
    upstream.responds_before_body = True
    line, connection = await harness.connect_both_sides()
    line.transport.pause_reading()
    line.send(b"POST /any/x HTTP/1.1\r\nHost: gw\r\nContent-Length: 20\r\n\r\nhalf")
    await until(lambda: not connection.is_writable)
    data = b""
    for _ in range(6):
        # All in all it takes longer than a client has that takes nothing, and longer than one has to close.
        clock.skip(STALL_SECONDS / 3)
        await ticked(connection)
        data += taken_by_hand(line, 40_000)
    line.transport.resume_reading()
    (answer,) = parse_responses(data + await line.wait_closed(), "POST")
    assert (len(answer.body), answer.is_complete, answer.values("connection")) == (size, True, ["close"])


async def test_a_client_that_takes_nothing_of_its_last_answer_is_left(
    harness: GatewayHarness, upstream: RecordingUpstream, clock: Clock
) -> None:
    size = 400_000
    upstream.response = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size
    await asking(harness)
    await until(lambda: upstream.requests)
    (connection,) = harness.connections
    await until(lambda: connection._lingering)
    clock.skip(STALL_SECONDS - 1)
    await never(lambda: not harness.transports)
    clock.skip(1)
    await until(lambda: not harness.transports)


async def test_a_client_has_its_own_time_to_take_its_answer(
    harness: GatewayHarness, upstream: RecordingUpstream, clock: Clock
) -> None:
    upstream.response = flood = Flood()
    line = await asking(harness, target=b"/quick")
    await until(lambda: flood.written)
    await settled(lambda: flood.written)
    # Thrice the time that the route gives its upstream.
    clock.skip(0.6)
    await never(lambda: upstream.connections[0].is_closed)
    line.transport.resume_reading()
    (answer,) = parse_responses(await line.wait_closed())
    assert (len(answer.body), answer.is_complete) == (BIG, True)


async def test_a_client_that_asks_and_does_not_read_gets_no_more_than_fits(
    harness: GatewayHarness, upstream: RecordingUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ostiary_gateway.proxy.downstream.HIGH_WATER", 64 * 1024)
    count, size = 200, 50_000
    head = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % size
    upstream.response = head + b"x" * size
    line = await harness.connect()
    line.transport.pause_reading()
    line.send(b"GET /any/x HTTP/1.1\r\nHost: gw\r\n\r\n" * count)
    await until(lambda: upstream.requests)
    assert await settled(lambda: len(upstream.requests)) <= 50
    (transport,) = harness.transports
    assert transport.get_write_buffer_size() < 1_000_000
    line.transport.resume_reading()
    await line.wait_for(b"HTTP/1.1 200", count)


@pytest.mark.parametrize("target", [b"/nothing", b"/livez"])
async def test_a_client_that_does_not_read_the_gateways_own_answers_gets_no_more_than_fits(
    harness: GatewayHarness, monkeypatch: pytest.MonkeyPatch, target: bytes
) -> None:
    high_water, count = 10_000, 10_000
    monkeypatch.setattr("ostiary_gateway.proxy.downstream.HIGH_WATER", high_water)
    line = await harness.connect()
    line.transport.pause_reading()
    line.send(b"GET %b HTTP/1.1\r\nHost: gw\r\n\r\n" % target * count)
    await until(lambda: harness.transports)
    (transport,) = harness.transports
    await until(lambda: transport.get_write_buffer_size() > high_water)
    assert await settled(transport.get_write_buffer_size) <= 200_000


@pytest.mark.parametrize("after", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npart"])
async def test_a_client_that_leaves_ends_the_upstreams_work(
    harness: GatewayHarness, upstream: RecordingUpstream, after: bytes
) -> None:
    upstream.response = respond_and_stall(after)
    line = await harness.connect()
    line.send(b"GET /any/x HTTP/1.1\r\nHost: gw\r\n\r\n")
    await until(lambda: upstream.requests)
    if after:
        await line.wait_for(b"part")
    line.transport.close()
    await until(lambda: upstream.connections[0].is_closed)
    assert 'route="/any/{rest...}",status="499"' in (await harness.client.get("/metrics")).text


async def test_a_client_that_leaves_within_its_body_ends_the_upstreams_work(
    harness: GatewayHarness, upstream: RecordingUpstream
) -> None:
    line = await harness.connect()
    line.send(b"POST /any/x HTTP/1.1\r\nHost: gw\r\nContent-Length: 10\r\n\r\nhalf")
    await until(lambda: upstream.requests)
    line.transport.close()
    await until(lambda: upstream.connections[0].is_closed)
    assert not upstream.last.is_complete


@pytest.mark.parametrize("framing", [b"Content-Length: %d" % BIG, b"Transfer-Encoding: chunked"])
async def test_an_answer_before_the_bodys_end_reaches_the_client(
    harness: GatewayHarness, upstream: RecordingUpstream, framing: bytes
) -> None:
    upstream.response = respond_and_stall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno")
    upstream.responds_before_body = True
    line = await harness.connect()
    size = 5_000_000
    body = b"%x\r\n" % BIG + b"x" * size if b"chunked" in framing else b"x" * size
    line.send(b"POST /any/x HTTP/1.1\r\nHost: gw\r\n%b\r\n\r\n" % framing + body)
    (answer,) = parse_responses(await line.wait_closed(), "POST")
    assert (answer.status, answer.body, answer.is_complete) == (403, b"no", True)
    assert answer.values("connection") == ["close"]
    await until(lambda: upstream.connections[0].is_closed)


async def test_an_answer_may_come_while_the_body_does(harness: GatewayHarness, upstream: RecordingUpstream) -> None:
    async def echo(request: ReceivedRequest, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n")
        for _ in range(6):
            writer.write(await request.connection.reader.readexactly(1))
        request.is_complete = True

    upstream.response, upstream.responds_before_body = echo, True
    line = await harness.connect()
    line.send(b"POST /any/x HTTP/1.1\r\nHost: gw\r\nContent-Length: 6\r\n\r\n")
    for part in (b"on", b"ce", b"x!"):
        line.send(part)
        await line.wait_for(part)
    assert parse_responses(await line.wait_closed(), "POST")[0].body == b"oncex!"


@pytest.mark.parametrize("more", [b"bad chunk\r\n", b""])
async def test_a_body_that_turns_bad_within_its_answer_breaks_the_answer_off(
    harness: GatewayHarness, upstream: RecordingUpstream, clock: Clock, more: bytes
) -> None:
    upstream.response = respond_and_stall(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\npart")
    upstream.responds_before_body = True
    line = await harness.connect()
    line.send(b"POST /quick HTTP/1.1\r\nHost: gw\r\nTransfer-Encoding: chunked\r\n\r\n")
    await line.wait_for(b"part")
    line.send(more)
    if not more:
        clock.skip(0.3)
    data = await line.wait_closed()
    assert data.count(b"HTTP/1.1 ") == 1
    assert data.endswith(b"\r\n\r\npart")


async def test_an_upstream_that_has_taken_a_big_body_is_still_to_answer_in_time(
    harness: GatewayHarness, upstream: RecordingUpstream, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    monkeypatch.setattr("ostiary_gateway.upstream.connection.HIGH_WATER", 0)

    async def take(request: ReceivedRequest, _: asyncio.StreamWriter) -> None:
        await request.read_body()
        clock.skip(0.3)
        await request.connection.wait_closed()

    upstream.response, upstream.responds_before_body = take, True
    line = await harness.connect()
    line.send(b"POST /quick HTTP/1.1\r\nHost: gw\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 1_000_000)
    await until(lambda: line.received)
    assert line.received.startswith(b"HTTP/1.1 504 ")


class _Client:
    """The client's side of an exchange, which notes its answers."""

    is_http11 = True
    is_writable = True

    def __init__(self) -> None:
        self.refusals: list[int] = []

    def reject(self, problem: Any) -> None:
        self.refusals.append(problem.status)

    def __getattr__(self, _: str) -> Any:
        return lambda *_, **__: None


async def test_an_exchange_is_answered_once(harness: GatewayHarness, upstream: RecordingUpstream) -> None:
    exchanges: list[Exchange] = []
    make = harness.gateway._exchange

    def noting(*arguments: Any) -> Exchange:
        exchanges.append(make(*arguments))
        return exchanges[-1]

    line = await harness.connect()
    await until(lambda: harness.connections)
    for connection in harness.connections:
        connection._exchange_of = noting
    upstream.response = OK
    line.send(b"GET /any/x HTTP/1.1\r\nHost: gw\r\n\r\n")
    await line.wait_for(b"ok")
    client = _Client()
    context, snapshot = exchanges[0]._context, harness.gateway.runtime.current
    again = make(client, context, snapshot)  # type: ignore[arg-type]  # a part of one
    # Its client has been told that it takes too long; then the attempt to connect ends as well.
    again.on_timeout()
    again.on_failure(Failure.UNREACHABLE)
    assert client.refusals == [503]


async def test_the_gateways_side_of_a_connection_is_closed_after_the_clients(
    harness: GatewayHarness, upstream: RecordingUpstream
) -> None:
    upstream.response = OK
    line = await harness.connect()
    line.send(b"GET /any/x HTTP/1.1\r\nHost: gw\r\n\r\n")
    await line.wait_for(b"ok")
    sock: socket.socket = line.transport.get_extra_info("socket")
    assert sock.fileno() > 0
    line.transport.close()
    await until(lambda: not harness.transports)


async def test_a_gateway_that_stops_answers_what_has_come(harness: GatewayHarness, upstream: RecordingUpstream) -> None:
    upstream.response = held = PausedResponse(then=OK)
    line = await harness.connect()
    line.send(b"GET /any/x HTTP/1.1\r\nHost: gw\r\n\r\n")
    await until(lambda: upstream.requests)
    harness.gateway.stop()
    held.resume()
    (answer,) = parse_responses(await line.wait_closed())
    assert (answer.body, answer.is_complete, answer.values("connection")) == (b"ok", True, ["close"])
