"""WebSocket tunnels end with their token and with the gateway, between two frames."""

import asyncio
import time

import pytest
from harness import ClientSocket, Clock, GatewayHarness, ReceivedRequest, RecordingUpstream, never, until
from harness.websockets import ACCEPTED, UpstreamWebSocket, bearer, frame, open_websocket
from proxy_routes import WEBSOCKET_ROUTES

from ostiary.feed import Kind
from ostiary.testing import Issuer
from ostiary_gateway.http1.websocket import close_frame
from ostiary_gateway.proxy.downstream import ClientConnection
from ostiary_gateway.proxy.tunnel import CLOSE_SECONDS

ROUTES = WEBSOCKET_ROUTES

#: A frame with 1000 bytes of content.
LONG = frame(b"x" * 1000)

#: Bytes, more than all buffers on the way hold.
BIG = 20_000_000


@pytest.fixture
def issuer(issuer: Issuer) -> Issuer:
    """Give each test an issuer with revocations of its own."""
    return Issuer(issuer.issuer, private_key=issuer.private_key)


async def live(harness: GatewayHarness, issuer: Issuer) -> ClientSocket:
    return await open_websocket(harness, bearer(issuer.token(subject="ada")), target="/live")


def close_frame_of(code: str = "revoked") -> bytes:
    return close_frame(4401, code)


async def test_revocation_closes_a_websocket_between_two_frames(
    harness: GatewayHarness, issuer: Issuer, peer: UpstreamWebSocket
) -> None:
    client = await live(harness, issuer)
    peer.send(frame(b"one") + frame(b"two"))
    await client.wait_for(frame(b"two"))
    issuer.revoke(Kind.SUBJECT, "ada")
    await client.wait_closed()
    assert client.received.startswith(frame(b"one") + frame(b"two") + b"\x88")
    end = client.received.removeprefix(frame(b"one") + frame(b"two"))
    assert (int.from_bytes(end[2:4]), end[1]) == (4401, len(end) - 2)
    await until(lambda: peer.is_closed)


async def test_revocation_closes_a_silent_websocket(
    harness: GatewayHarness, issuer: Issuer, peer: UpstreamWebSocket
) -> None:
    client = await live(harness, issuer)
    issuer.revoke(Kind.SUBJECT, "bob")
    await never(lambda: client.received or client.is_closed)
    issuer.revoke(Kind.SUBJECT, "ada")
    await client.wait_closed()
    assert client.received[:1] == b"\x88"
    assert client.received[2:4] == (4401).to_bytes(2)
    await until(lambda: peer.is_closed)


async def revoked_within_a_frame(harness: GatewayHarness, issuer: Issuer, peer: UpstreamWebSocket) -> ClientSocket:
    """Open a WebSocket whose token is revoked after 400 bytes of a long frame."""
    client = await live(harness, issuer)
    peer.send(LONG[:400])
    await until(lambda: len(client.received) == 400)
    issuer.revoke(Kind.SUBJECT, "ada")
    return client


async def test_revocation_waits_for_the_end_of_a_frame(
    harness: GatewayHarness, issuer: Issuer, peer: UpstreamWebSocket
) -> None:
    client = await revoked_within_a_frame(harness, issuer, peer)
    peer.send(LONG[400:] + frame(b"begun")[:3])
    await client.wait_closed()
    assert client.received[: len(LONG)] == LONG
    assert client.received[len(LONG) :].startswith(b"\x88")


async def test_no_other_frame_is_relayed_after_revocation(
    harness: GatewayHarness, issuer: Issuer, peer: UpstreamWebSocket
) -> None:
    client = await revoked_within_a_frame(harness, issuer, peer)
    peer.send(LONG[400:] + frame(b"not any more"))
    await client.wait_closed()
    assert b"not any more" not in client.received


async def test_a_long_frame_ends_in_pieces_after_revocation(
    harness: GatewayHarness, issuer: Issuer, peer: UpstreamWebSocket
) -> None:
    client = await revoked_within_a_frame(harness, issuer, peer)
    peer.send(LONG[400:700])
    await until(lambda: len(client.received) == 700)
    peer.send(LONG[700:] + frame(b"not any more"))
    await client.wait_closed()
    assert client.received[: len(LONG)] == LONG
    assert client.received[len(LONG) :].startswith(b"\x88")


async def test_there_is_one_close_frame_when_the_service_sees_the_end_first(
    harness: GatewayHarness, issuer: Issuer, peer: UpstreamWebSocket
) -> None:
    client = await live(harness, issuer)
    peer.send(close_frame_of())
    await client.wait_for(close_frame_of())
    issuer.revoke(Kind.SUBJECT, "ada")
    await client.wait_closed()
    assert client.received == close_frame_of()


async def test_a_close_frame_under_way_is_the_only_one(
    harness: GatewayHarness, issuer: Issuer, peer: UpstreamWebSocket
) -> None:
    client = await live(harness, issuer)
    peer.send(close_frame_of()[:5])
    await until(lambda: len(client.received) == 5)
    issuer.revoke(Kind.SUBJECT, "ada")
    await never(lambda: client.is_closed)
    peer.send(close_frame_of()[5:])
    await client.wait_closed()
    assert client.received == close_frame_of()


async def test_the_service_gets_one_close_frame_of_a_client_that_has_closed(
    harness: GatewayHarness, issuer: Issuer, peer: UpstreamWebSocket
) -> None:
    client = await live(harness, issuer)
    closing = frame((1000).to_bytes(2), mask=b"abcd", opcode=0x8)
    client.send(closing)
    await until(lambda: peer.received == closing)
    issuer.revoke(Kind.SUBJECT, "ada")
    await client.wait_closed()
    await until(lambda: peer.is_closed)
    assert peer.received == closing


async def test_an_unfinished_frame_does_not_keep_a_websocket_open(
    harness: GatewayHarness, issuer: Issuer, peer: UpstreamWebSocket, clock: Clock
) -> None:
    client = await revoked_within_a_frame(harness, issuer, peer)
    client.send(frame(b"unheard", mask=b"abcd"))
    await never(lambda: client.is_closed)
    clock.skip(1.1)
    await until(lambda: client.is_closed and peer.is_closed)
    assert peer.received == b""


async def test_backpressure_does_not_extend_the_time_after_revocation(
    harness: GatewayHarness, upstream: RecordingUpstream, issuer: Issuer, clock: Clock
) -> None:
    async def begin(request: ReceivedRequest, writer: asyncio.StreamWriter) -> None:
        writer.write(ACCEPTED + frame(b"x" * BIG)[: BIG // 2])
        await request.connection.wait_closed()

    upstream.response = begin
    client = await live(harness, issuer)
    client.transport.pause_reading()
    connection = connection_of(harness)
    await until(lambda: not connection.is_writable)
    issuer.revoke(Kind.SUBJECT, "ada")
    # Pausing and resuming must not extend the deadline.
    exchange = connection._exchange
    assert exchange is not None
    await until(lambda: exchange.ends_at - time.monotonic() <= CLOSE_SECONDS)
    for _ in range(3):
        client.transport.resume_reading()
        await until(lambda: connection.is_writable)
        client.transport.pause_reading()
        await until(lambda: not connection.is_writable)
    assert connection.deadline - time.monotonic() <= CLOSE_SECONDS
    clock.skip(CLOSE_SECONDS)
    await until(lambda: not harness.transports)
    await until(lambda: upstream.connections[0].is_closed)


def shut_down(harness: GatewayHarness) -> None:
    """Shut the gateway down, as uvicorn does."""
    harness.gateway.stop()
    for connection in tuple(harness.connections):
        connection.shutdown()


async def test_a_shutdown_sends_close_frames(harness: GatewayHarness, peer: UpstreamWebSocket) -> None:
    silent, talking = await open_websocket(harness), await open_websocket(harness)
    peer.send(frame(b"one"))
    await until(lambda: silent.received or talking.received)
    shut_down(harness)
    await silent.wait_closed()
    await talking.wait_closed()
    goodbye = close_frame(1001, "going away")
    assert sorted([silent.received, talking.received]) == sorted([goodbye, frame(b"one") + goodbye])
    await until(lambda: peer.is_closed)


async def test_a_shutdown_waits_for_the_end_of_a_frame(harness: GatewayHarness, peer: UpstreamWebSocket) -> None:
    client = await open_websocket(harness)
    peer.send(LONG[:400])
    await until(lambda: len(client.received) == 400)
    shut_down(harness)
    await never(lambda: client.is_closed or len(client.received) > 400)
    peer.send(LONG[400:] + frame(b"not any more"))
    await client.wait_closed()
    assert client.received == LONG + close_frame(1001, "going away")


async def test_a_shutdown_does_not_wait_long_for_a_frame(
    harness: GatewayHarness, peer: UpstreamWebSocket, clock: Clock
) -> None:
    client = await open_websocket(harness)
    peer.send(LONG[:400])
    await until(lambda: len(client.received) == 400)
    shut_down(harness)
    peer.send(LONG[400:700])
    await until(lambda: len(client.received) == 700)
    clock.skip(CLOSE_SECONDS)
    await until(lambda: client.is_closed and peer.is_closed)
    assert client.received == LONG[:700]


def connection_of(harness: GatewayHarness) -> ClientConnection:
    (connection,) = harness.connections
    return connection
