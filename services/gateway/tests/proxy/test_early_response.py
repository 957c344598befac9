"""Clients that leave, and responses before the end of the request."""

import asyncio
import socket
import struct
from typing import Any

import pytest
from harness import (
    Clock,
    GatewayHarness,
    ReceivedRequest,
    RecordingUpstream,
    parse_responses,
    respond_and_stall,
    until,
)
from proxy_routes import STREAM_ROUTES

from ostiary_gateway.proxy.exchange import Exchange
from ostiary_gateway.upstream.connection import Failure

ROUTES = STREAM_ROUTES

#: Bytes, more than all buffers on the way hold.
BIG = 20_000_000

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@pytest.mark.parametrize("after", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npart"])
async def test_a_disconnect_closes_the_upstream_connection(
    harness: GatewayHarness, upstream: RecordingUpstream, after: bytes
) -> None:
    upstream.response = respond_and_stall(after)
    client = await harness.connect()
    client.send(b"GET /any/x HTTP/1.1\r\nHost: gw\r\n\r\n")
    await until(lambda: upstream.requests)
    if after:
        await client.wait_for(b"part")
    client.transport.close()
    await until(lambda: upstream.connections[0].is_closed)
    assert 'route="/any/{rest...}",status="499"' in (await harness.client.get("/metrics")).text


async def test_a_disconnect_within_the_body_closes_the_upstream_connection(
    harness: GatewayHarness, upstream: RecordingUpstream
) -> None:
    client = await harness.connect()
    client.send(b"POST /any/x HTTP/1.1\r\nHost: gw\r\nContent-Length: 10\r\n\r\nhalf")
    await until(lambda: upstream.requests)
    client.transport.close()
    await until(lambda: upstream.connections[0].is_closed)
    assert not upstream.last.is_complete


@pytest.mark.parametrize("framing", [b"Content-Length: %d" % BIG, b"Transfer-Encoding: chunked"])
async def test_a_response_before_the_end_of_the_body_reaches_the_client(
    harness: GatewayHarness, upstream: RecordingUpstream, framing: bytes
) -> None:
    upstream.response = respond_and_stall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno")
    upstream.responds_before_body = True
    client = await harness.connect()
    size = 5_000_000
    body = b"%x\r\n" % BIG + b"x" * size if b"chunked" in framing else b"x" * size
    client.send(b"POST /any/x HTTP/1.1\r\nHost: gw\r\n%b\r\n\r\n" % framing + body)
    (response,) = parse_responses(await client.wait_closed(), "POST")
    assert (response.status, response.body, response.is_complete) == (403, b"no", True)
    assert response.values("connection") == ["close"]
    await until(lambda: upstream.connections[0].is_closed)


async def test_a_response_may_stream_while_the_body_does(harness: GatewayHarness, upstream: RecordingUpstream) -> None:
    async def echo(request: ReceivedRequest, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n")
        for _ in range(6):
            writer.write(await request.connection.reader.readexactly(1))
        request.is_complete = True

    upstream.response, upstream.responds_before_body = echo, True
    client = await harness.connect()
    client.send(b"POST /any/x HTTP/1.1\r\nHost: gw\r\nContent-Length: 6\r\n\r\n")
    for part in (b"on", b"ce", b"x!"):
        client.send(part)
        await client.wait_for(part)
    assert parse_responses(await client.wait_closed(), "POST")[0].body == b"oncex!"


async def post_to_an_upstream_that_resets(
    harness: GatewayHarness, upstream: RecordingUpstream, response: bytes
) -> bytes:
    """Send a part of a request and, after the upstream has responded and closed without reading on, the next part.

    The gateway has read nothing when sending that part fails. Return what the client receives.
    """

    async def respond(request: ReceivedRequest, writer: asyncio.StreamWriter) -> None:
        await until(lambda: request.connection.reader._buffer)  # type: ignore[attr-defined]  # what was not read
        (connection,) = connections
        connection.pause()
        writer.write(response)
        # As a close with unread content does.
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()

    upstream.response, upstream.responds_before_body = respond, True
    connections = harness.upstream().pools[0]._open
    client = await harness.connect()
    client.send(b"POST /any/x HTTP/1.1\r\nHost: gw\r\nContent-Length: 20\r\n\r\nsome")
    await until(lambda: upstream.connections and upstream.connections[0].is_closed)
    client.send(b"more")
    return await client.wait_closed()


@pytest.mark.parametrize(
    ("response", "body"),
    [
        (b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 2\r\n\r\nno", b"no"),
        (b"HTTP/1.1 413 Content Too Large\r\n\r\nno", b"no"),
        # Decoded in several turns of the event loop.
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 3000 + b"0\r\n\r\n",
            b"x" * 3000,
        ),
    ],
    ids=["length", "no length", "chunks"],
)
async def test_a_response_is_read_when_sending_the_request_fails(
    harness: GatewayHarness, upstream: RecordingUpstream, response: bytes, body: bytes
) -> None:
    (received,) = parse_responses(await post_to_an_upstream_that_resets(harness, upstream, response), "POST")
    assert (received.body, received.is_complete, received.values("connection")) == (body, True, ["close"])


@pytest.mark.parametrize("head", [b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 413 No\r\nContent-Length: 20\r\n\r\n"])
async def test_what_is_incomplete_when_sending_fails_is_broken_off(
    harness: GatewayHarness, upstream: RecordingUpstream, head: bytes
) -> None:
    (received,) = parse_responses(await post_to_an_upstream_that_resets(harness, upstream, head + b"part"), "POST")
    assert (received.body, received.is_complete) == (b"part", False)


@pytest.mark.parametrize("more", [b"bad chunk\r\n", b""])
async def test_a_malformed_body_truncates_a_response_that_has_begun(
    harness: GatewayHarness, upstream: RecordingUpstream, clock: Clock, more: bytes
) -> None:
    upstream.response = respond_and_stall(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\npart")
    upstream.responds_before_body = True
    client = await harness.connect()
    client.send(b"POST /quick HTTP/1.1\r\nHost: gw\r\nTransfer-Encoding: chunked\r\n\r\n")
    await client.wait_for(b"part")
    client.send(more)
    if not more:
        clock.skip(0.3)
    data = await client.wait_closed()
    assert data.count(b"HTTP/1.1 ") == 1
    assert data.endswith(b"\r\n\r\npart")


async def test_the_response_timeout_starts_after_a_large_body(
    harness: GatewayHarness, upstream: RecordingUpstream, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    monkeypatch.setattr("ostiary_gateway.upstream.connection.HIGH_WATER", 0)

    async def take(request: ReceivedRequest, _: asyncio.StreamWriter) -> None:
        await request.read_body()
        clock.skip(0.3)
        await request.connection.wait_closed()

    upstream.response, upstream.responds_before_body = take, True
    client = await harness.connect()
    client.send(b"POST /quick HTTP/1.1\r\nHost: gw\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 1_000_000)
    await until(lambda: client.received)
    assert client.received.startswith(b"HTTP/1.1 504 ")


class _Client:
    """The client's side of an exchange, which records rejections."""

    is_http11 = True
    is_writable = True

    def __init__(self) -> None:
        self.refusals: list[int] = []

    def reject(self, problem: Any) -> None:
        self.refusals.append(problem.status)

    def __getattr__(self, _: str) -> Any:
        return lambda *_, **__: None


async def test_an_exchange_fails_once(harness: GatewayHarness, upstream: RecordingUpstream) -> None:
    exchanges: list[Exchange] = []
    make = harness.gateway._exchange

    def noting(*arguments: Any) -> Exchange:
        exchanges.append(make(*arguments))
        return exchanges[-1]

    client = await harness.connect()
    await until(lambda: harness.connections)
    for connection in harness.connections:
        connection._exchange_of = noting
    upstream.response = OK
    client.send(b"GET /any/x HTTP/1.1\r\nHost: gw\r\n\r\n")
    await client.wait_for(b"ok")
    fake = _Client()
    context, snapshot = exchanges[0]._context, harness.gateway.runtime.current
    again = make(fake, context, snapshot)  # type: ignore[arg-type]  # a part of one
    # The client gets the timeout; then dialing fails as well.
    again.on_timeout()
    again.on_failure(Failure.UNREACHABLE)
    assert fake.refusals == [503]
