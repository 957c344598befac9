"""Timeouts of a route."""

import asyncio
from collections.abc import Callable

import pytest
from harness import (
    Clock,
    GatewayHarness,
    ReceivedRequest,
    ReceivedResponse,
    RecordingUpstream,
    never,
    parse_responses,
    respond_and_stall,
    until,
)
from route_files import open_gateway

from ostiary.testing import Issuer


def dripping(clock: Clock, *, head: bool) -> Callable[[ReceivedRequest, asyncio.StreamWriter], asyncio.Future[None]]:
    """Return a responder that sends a little all the time, and never ends."""

    async def drip(request: ReceivedRequest, writer: asyncio.StreamWriter) -> None:
        lost = asyncio.ensure_future(request.connection.wait_closed())
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" if head else b"HTTP/1.1 200 OK\r\n")
        while not lost.done():
            writer.write(b"x" if head else b"X: 1\r\n")
            clock.skip(0.02)
            await asyncio.wait({lost}, timeout=0.001)

    return lambda request, writer: asyncio.ensure_future(drip(request, writer))


def timed(timeouts: str) -> str:
    return f"name: a, match: {{path: /a, methods: [GET]}}, upstream: up, access: public, timeouts: {timeouts}"


async def ask_briefly(harness: GatewayHarness) -> ReceivedResponse:
    """Send a request whose response takes less than three seconds."""
    async with asyncio.timeout(3):
        return await harness.request("/a")


@pytest.mark.parametrize("timeouts", ["{total: 0.3}", "{total: 0.3, first_byte: 5, idle: 5}"])
async def test_a_response_must_end_within_the_total_timeout(
    issuer: Issuer, upstream: RecordingUpstream, clock: Clock, timeouts: str
) -> None:
    upstream.response = dripping(clock, head=True)
    async with open_gateway(issuer, upstream, timed(timeouts)) as it:
        response = await ask_briefly(it)
        assert (response.status, response.is_complete) == (200, False)
        assert response.body
        await until(lambda: upstream.connections[0].is_closed)


@pytest.mark.parametrize("timeouts", ["{first_byte: 0.3}", "{total: 0.3}"])
async def test_a_head_must_arrive_within_the_timeout(
    issuer: Issuer, upstream: RecordingUpstream, clock: Clock, timeouts: str
) -> None:
    upstream.response = dripping(clock, head=False)
    async with open_gateway(issuer, upstream, timed(timeouts)) as it:
        response = await ask_briefly(it)
        assert (response.status, response.code) == (504, "upstream_timeout")


async def test_a_response_in_progress_has_no_timeout_by_default(
    issuer: Issuer, upstream: RecordingUpstream, clock: Clock
) -> None:
    upstream.response = dripping(clock, head=True)
    async with open_gateway(issuer, upstream, timed("{idle: 0.3}")) as it:
        client = await it.connect()
        client.send(b"GET /a HTTP/1.1\r\nHost: gw\r\n\r\n")
        # 40 times 0.02 s, more than the idle timeout.
        await client.wait_for(b"x", 40)
        assert not client.is_closed


STREAMS = [
    "text/event-stream",
    "Text/Event-Stream; charset=utf-8",
    "application/x-ndjson",
    "application/grpc-web+proto",
    "multipart/x-mixed-replace; boundary=x",
]


@pytest.mark.parametrize("media_type", STREAMS)
async def test_a_stream_of_events_may_be_silent_for_longer(
    issuer: Issuer, upstream: RecordingUpstream, clock: Clock, media_type: str
) -> None:
    head = f"HTTP/1.1 200 OK\r\nContent-Type: {media_type}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    upstream.response = respond_and_stall(head + b"5\r\n: hi\n\r\n")
    async with open_gateway(issuer, upstream, timed("{idle: 0.2, stream_idle: 60}")) as it:
        client = await it.connect()
        client.send(b"GET /a HTTP/1.1\r\nHost: gw\r\n\r\n")
        await client.wait_for(b": hi")
        clock.skip(59)
        await never(lambda: client.is_closed)
        clock.skip(2)
        (response,) = parse_responses(await client.wait_closed())
        assert (response.body, response.is_complete) == (b": hi\n", False)
        await until(lambda: upstream.connections[0].is_closed)
        assert not any(it.upstream().failures.values())


@pytest.mark.parametrize("media_type", ["text/event-streams", "text/plain", "application/json", ""])
async def test_other_responses_may_not(
    issuer: Issuer, upstream: RecordingUpstream, clock: Clock, media_type: str
) -> None:
    upstream.response = respond_and_stall(
        f"HTTP/1.1 200 OK\r\nContent-Type: {media_type}\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n".encode()
    )
    async with open_gateway(issuer, upstream, timed("{idle: 0.2, stream_idle: 60}")) as it:
        client = await it.connect()
        client.send(b"GET /a HTTP/1.1\r\nHost: gw\r\n\r\n")
        await client.wait_for(b"a\r\n")
        clock.skip(0.3)
        await client.wait_closed()
        assert any(it.upstream().failures.values())


async def test_events_are_passed_on_one_by_one(issuer: Issuer, upstream: RecordingUpstream) -> None:
    events = Events()
    upstream.response = events
    async with open_gateway(issuer, upstream, timed("{idle: 0.2}")) as it:
        client = await it.connect()
        client.send(b"GET /a HTTP/1.1\r\nHost: gw\r\n\r\n")
        await client.wait_for(b"\r\n\r\n")
        for number in range(5):
            await never(lambda number=number: b"data: %d" % number in client.received)  # type: ignore[misc]  # a default
            events.send(b"data: %d\n\n" % number)
            await client.wait_for(b"data: %d\n\n" % number)
        client.transport.close()
        await until(lambda: upstream.connections[0].is_closed)


class Events:
    """Responds with a stream of events, and sends each as it is told."""

    _writer: asyncio.StreamWriter

    async def __call__(self, request: ReceivedRequest, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        await request.connection.wait_closed()

    def send(self, event: bytes) -> None:
        self._writer.write(b"%x\r\n%b\r\n" % (len(event), event))


async def test_a_stalled_response_is_aborted_after_the_idle_timeout(
    issuer: Issuer, upstream: RecordingUpstream, clock: Clock
) -> None:
    upstream.response = respond_and_stall(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\npart")
    async with open_gateway(issuer, upstream, timed("{idle: 0.2}")) as it:
        client = await it.connect()
        client.send(b"GET /a HTTP/1.1\r\nHost: gw\r\n\r\n")
        await client.wait_for(b"part")
        clock.skip(0.3)
        (response,) = parse_responses(await client.wait_closed())
        assert (response.body, response.is_complete) == (b"part", False)
