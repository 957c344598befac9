"""WebSocket tunnels: handshake, frames, backpressure, timeouts."""

import asyncio
import math
import time

import pytest
from harness import (
    CapturedAccessLog,
    Clock,
    GatewayHarness,
    ReceivedRequest,
    RecordingUpstream,
    never,
    settled,
    until,
)
from harness.websockets import (
    ACCEPT,
    ACCEPTED,
    HANDSHAKE,
    KEY,
    UpstreamWebSocket,
    bearer,
    frame,
    open_websocket,
    send_request,
    unmasked,
)
from proxy_routes import WEBSOCKET_ROUTES

from ostiary.testing import Issuer
from ostiary_gateway.http1.websocket import close_frame
from ostiary_gateway.proxy.downstream import ClientConnection
from ostiary_gateway.proxy.tunnel import CLOSE_SECONDS
from ostiary_gateway.routing.policies import DEFAULT_STREAM_IDLE_SECONDS as IDLE_SECONDS

ROUTES = WEBSOCKET_ROUTES

#: Bytes, more than all buffers on the way hold.
BIG = 20_000_000


@pytest.fixture
def issuer(issuer: Issuer) -> Issuer:
    """Give each test an issuer with revocations of its own."""
    return Issuer(issuer.issuer, private_key=issuer.private_key)


async def test_a_handshake_is_relayed(
    harness: GatewayHarness, upstream: RecordingUpstream, peer: UpstreamWebSocket
) -> None:
    client = await send_request(harness, "/open?room=1", *HANDSHAKE, "Origin: https://shop.example")
    await client.wait_for(b"\r\n\r\n")
    status, *rest = client.received.decode().removesuffix("\r\n\r\n").split("\r\n")
    fields = dict(each.lower().split(": ", 1) for each in rest)
    assert status == "HTTP/1.1 101 Switching Protocols"
    assert fields.pop("x-request-id")
    assert fields == {
        "sec-websocket-accept": ACCEPT.decode().lower(),
        "sec-websocket-protocol": "chat",
        "via": "1.1 ostiary",
        "connection": "upgrade",
        "upgrade": "websocket",
    }
    assert f"sec-websocket-accept: {ACCEPT.decode()}" in client.received.decode()
    last = upstream.last
    assert (last.method, last.target) == ("GET", "/open?room=1")
    assert (last.values("connection"), last.values("upgrade")) == (["upgrade"], ["websocket"])
    assert (last.values("sec-websocket-key"), last.values("sec-websocket-version")) == ([KEY], ["13"])
    assert last.values("sec-websocket-protocol") == ["chat, other"]
    assert last.values("origin") == ["https://shop.example"]
    assert not peer.is_closed


async def test_a_handshake_may_say_that_it_has_no_content(
    harness: GatewayHarness, upstream: RecordingUpstream, peer: UpstreamWebSocket
) -> None:
    client = await send_request(harness, "/open", *HANDSHAKE, "Content-Length: 0")
    await client.wait_for(b"\r\n\r\n")
    assert client.received.startswith(b"HTTP/1.1 101 ")
    assert upstream.last.values("content-length") == []
    assert not peer.is_closed


@pytest.mark.usefixtures("peer")
async def test_a_request_with_content_is_no_handshake(harness: GatewayHarness, upstream: RecordingUpstream) -> None:
    await send_request(harness, "/open", *HANDSHAKE, "Content-Length: 1")
    await until(lambda: len(upstream.requests) > 0)
    assert upstream.last.values("upgrade") == []


@pytest.mark.parametrize("status", ["403 Forbidden", "426 Upgrade Required", "200 OK"])
async def test_a_rejected_handshake_is_an_ordinary_response(
    harness: GatewayHarness, upstream: RecordingUpstream, status: str
) -> None:
    upstream.response = f"HTTP/1.1 {status}\r\nUpgrade: websocket\r\nContent-Length: 2\r\n\r\nno".encode()
    client = await send_request(harness, "/open", *HANDSHAKE)
    await client.wait_for(b"\r\n\r\nno")
    assert client.received.startswith(f"HTTP/1.1 {status[:3]} ".encode())
    assert b"upgrade:" not in client.received.lower()
    # Later bytes are requests, not frames.
    client.send(b"GET /live HTTP/1.1\r\nHost: gw\r\n\r\n")
    await client.wait_for(b"HTTP/1.1 401 ")
    client.send(frame(b"hello", mask=b"abcd") + b"\r\n\r\n")
    await client.wait_for(b"HTTP/1.1 400 ")
    assert len(upstream.requests) == 1


@pytest.mark.parametrize(
    ("target", "lines"),
    [
        ("/open", ()),
        ("/plain", HANDSHAKE),
        ("/open", ("Connection: Upgrade", "Upgrade: h2c")),
        ("/open", ("Upgrade: websocket",)),
    ],
)
async def test_an_unrequested_upgrade_is_a_failure(
    harness: GatewayHarness, upstream: RecordingUpstream, peer: UpstreamWebSocket, target: str, lines: tuple[str, ...]
) -> None:
    client = await send_request(harness, target, *lines, "X-Last: 1")
    await client.wait_for(b"HTTP/1.1 ")
    assert client.received.startswith(b"HTTP/1.1 502 ")
    assert (upstream.last.values("upgrade"), upstream.last.values("connection")) == ([], [])
    await until(lambda: peer.is_closed)


@pytest.mark.parametrize(
    "acceptance",
    [
        ACCEPTED.replace(b"Upgrade: websocket", b"Upgrade: h2c"),
        ACCEPTED.replace(b"Upgrade: websocket\r\n", b""),
        ACCEPTED.replace(b"Connection: Upgrade\r\n", b""),
        ACCEPTED.replace(b"Connection: Upgrade", b"Connection: close"),
    ],
)
async def test_an_upgrade_to_another_protocol_is_a_failure(
    harness: GatewayHarness, peer: UpstreamWebSocket, acceptance: bytes
) -> None:
    peer.acceptance = acceptance
    client = await send_request(harness, "/open", *HANDSHAKE)
    await client.wait_for(b"HTTP/1.1 ")
    assert client.received.startswith(b"HTTP/1.1 502 ")


async def test_routes_without_websockets_drop_the_upgrade(harness: GatewayHarness, upstream: RecordingUpstream) -> None:
    client = await send_request(harness, "/plain", *HANDSHAKE)
    await client.wait_for(b'"target"')
    assert client.received.startswith(b"HTTP/1.1 200 ")
    assert (upstream.last.values("upgrade"), upstream.last.values("connection")) == ([], [])


@pytest.mark.parametrize("method", ["POST", "get", "HEAD"])
async def test_only_get_opens_a_websocket(harness: GatewayHarness, upstream: RecordingUpstream, method: str) -> None:
    client = await send_request(harness, "/open", *HANDSHAKE, method=method)
    await client.wait_for(b"\r\n\r\n")
    assert not client.received.startswith(b"HTTP/1.1 101 ")
    assert all(each.values("upgrade") == [] for each in upstream.requests)


@pytest.mark.parametrize("lines", [(), ("Authorization: Bearer x.y.z",), ("Cookie: token=x",)])
async def test_a_websocket_needs_a_valid_token(
    harness: GatewayHarness, upstream: RecordingUpstream, lines: tuple[str, ...]
) -> None:
    client = await send_request(harness, "/live", *HANDSHAKE, *lines)
    await client.wait_for(b"HTTP/1.1 401 ")
    assert upstream.requests == []


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        (("Cookie: a=b", "Origin: https://evil.example"), 403),
        (("Cookie: a=b", "Origin: null"), 403),
        (("Cookie: a=b", "Origin: http://gw.evil.example"), 403),
        (("Cookie: a=b", "Origin: https://shop.example.evil.example"), 403),
        (("Cookie: a=b", "Origin: gw"), 403),
        (("Cookie: a=b", "Origin: https://evil.example", "Origin: http://gw"), 400),
        (("Cookie: a=b", "Origin: https://gw"), 403),
        (("Cookie: a=b", "Origin: http://gw:8080"), 403),
        (("Cookie: a=b", "Origin: "), 403),
        (("Cookie: a=b", "Sec-Fetch-Site: cross-site"), 403),
        # Who sends no Origin is no browser.
        (("Cookie: a=b",), 101),
        (("Cookie: a=b", "Origin: http://gw"), 101),
        (("Cookie: a=b", "Origin: HTTP://GW"), 101),
        (("Cookie: a=b", "Origin: https://shop.example"), 101),
        (("Origin: https://evil.example",), 101),
        ((), 101),
    ],
)
async def test_cookies_are_accepted_from_allowed_origins_only(
    harness: GatewayHarness,
    upstream: RecordingUpstream,
    issuer: Issuer,
    peer: UpstreamWebSocket,
    lines: tuple[str, ...],
    status: int,
) -> None:
    client = await send_request(harness, "/live", *HANDSHAKE, bearer(issuer.token()), *lines)
    await client.wait_for(b"HTTP/1.1 %d " % status)
    assert len(upstream.requests) == (status == 101)
    assert not peer.is_closed


async def test_frames_are_relayed_unchanged(harness: GatewayHarness, peer: UpstreamWebSocket) -> None:
    client = await open_websocket(harness)
    sizes = (0, 1, 125, 126, 300, 65535, 65536, 200_000)
    sent, answered = b"", b""
    for number, size in enumerate(sizes):
        sent += frame(bytes([number]) * size, mask=b"m\x00\xffk")
        answered += frame(bytes([255 - number]) * size)
    client.send(sent)
    peer.send(answered)
    await until(lambda: len(peer.received) >= len(sent) and len(client.received) >= len(answered))
    assert (peer.received, client.received) == (sent, answered)


async def test_frames_that_arrive_with_the_handshake_are_relayed(
    harness: GatewayHarness, peer: UpstreamWebSocket
) -> None:
    peer.acceptance = ACCEPTED + frame(b"first")
    client = await send_request(harness, "/open", *HANDSHAKE)
    await client.wait_for(frame(b"first"))
    assert client.received.endswith(b"\r\n\r\n" + frame(b"first"))


async def test_early_frames_wait_for_the_handshake(harness: GatewayHarness, peer: UpstreamWebSocket) -> None:
    peer.may_accept.clear()
    early = frame(b"early", mask=b"abcd")
    client = await send_request(harness, "/open", *HANDSHAKE)
    await until(lambda: peer.writer)
    client.send(early)
    await never(lambda: peer.received)
    peer.may_accept.set()
    await until(lambda: peer.received)
    assert peer.received == early
    client.send(frame(b"later", mask=b"abcd"))
    await until(lambda: len(peer.received) > len(early))
    assert peer.received == early + frame(b"later", mask=b"abcd")


async def test_early_frames_do_not_reach_an_upstream_that_rejects(
    harness: GatewayHarness, upstream: RecordingUpstream, peer: UpstreamWebSocket
) -> None:
    peer.may_accept.clear()
    peer.acceptance = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"
    client = await send_request(harness, "/open", *HANDSHAKE)
    await until(lambda: peer.writer)
    client.send(b"GET /live HTTP/1.1\r\nHost: gw\r\n\r\n")
    peer.may_accept.set()
    await client.wait_for(b"HTTP/1.1 401 ")
    assert (peer.received, len(upstream.requests)) == (b"", 1)


async def test_a_clients_close_reaches_the_upstream(harness: GatewayHarness, peer: UpstreamWebSocket) -> None:
    client = await open_websocket(harness)
    client.transport.close()
    await until(lambda: peer.is_closed)
    await until(lambda: not harness.transports)


async def test_an_upstreams_close_reaches_the_client(harness: GatewayHarness, peer: UpstreamWebSocket) -> None:
    client = await open_websocket(harness)
    assert peer.writer is not None
    peer.send(close_frame(1001, "bye"))
    peer.writer.close()
    await client.wait_closed()
    assert client.received == close_frame(1001, "bye")
    await until(lambda: not harness.transports)


class Flooding:
    """Accepts a WebSocket and sends frames of 50 000 bytes, as fast as the gateway reads them."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.sent = 0

    async def __call__(self, request: ReceivedRequest, writer: asyncio.StreamWriter) -> None:
        writer.transport.set_write_buffer_limits(0)
        writer.write(ACCEPTED)
        while self.sent < self.size:
            piece = frame(b"x" * 50_000)
            writer.write(piece)
            await writer.drain()
            self.sent += len(piece)
        await request.connection.wait_closed()


async def test_a_slow_client_slows_the_upstream_down(harness: GatewayHarness, upstream: RecordingUpstream) -> None:
    upstream.response = flood = Flooding(BIG)
    client = await open_websocket(harness)
    client.transport.pause_reading()
    assert await settled(lambda: flood.sent) < 5_000_000
    (transport,) = harness.transports
    assert transport.get_write_buffer_size() < 1_000_000
    client.transport.resume_reading()
    await until(lambda: len(client.received) >= BIG)
    assert client.received == frame(b"x" * 50_000) * (flood.sent // len(frame(b"x" * 50_000)))


async def test_a_slow_upstream_slows_the_client_down(harness: GatewayHarness, upstream: RecordingUpstream) -> None:
    goes_on = asyncio.Event()
    received = bytearray()

    async def listen_late(request: ReceivedRequest, writer: asyncio.StreamWriter) -> None:
        writer.write(ACCEPTED)
        await goes_on.wait()
        while data := await request.connection.reader.read(65536):
            received.extend(data)

    upstream.response = listen_late
    client = await open_websocket(harness)
    client.transport.set_write_buffer_limits(0)
    sent = frame(b"x" * BIG)
    client.send(sent)
    assert await settled(client.transport.get_write_buffer_size) > BIG - 5_000_000
    goes_on.set()
    await until(lambda: len(received) == len(sent))
    assert bytes(received) == sent


def connection_of(harness: GatewayHarness) -> ClientConnection:
    (connection,) = harness.connections
    return connection


async def test_a_frame_renews_the_idle_timeout(harness: GatewayHarness, peer: UpstreamWebSocket) -> None:
    client = await open_websocket(harness)
    peer.send(frame(b"hello"))
    await client.wait_for(frame(b"hello"))
    assert connection_of(harness).deadline - time.monotonic() > IDLE_SECONDS - 10


async def test_an_open_websocket_has_the_idle_timeout(harness: GatewayHarness, peer: UpstreamWebSocket) -> None:
    await open_websocket(harness)
    assert not peer.is_closed
    assert connection_of(harness).deadline - time.monotonic() > IDLE_SECONDS - 10


async def test_a_route_sets_the_idle_timeout(harness: GatewayHarness, peer: UpstreamWebSocket, clock: Clock) -> None:
    client = await open_websocket(harness, target="/brief")
    assert not peer.is_closed
    clock.skip(0.5)
    await until(lambda: client.is_closed)


@pytest.mark.parametrize("mask", [b"abcd", b""])
async def test_an_idle_websocket_is_closed_with_a_frame_on_both_sides(
    harness: GatewayHarness, peer: UpstreamWebSocket, clock: Clock, mask: bytes
) -> None:
    log = CapturedAccessLog(harness)
    client = await open_websocket(harness, target="/brief")
    heard = b""
    if mask:
        heard = frame(b"hello", mask=mask)
        client.send(heard)
        peer.send(frame(b"hello"))
        await until(lambda: peer.received and client.received)
        client.received = b""
    clock.skip(0.5)
    await client.wait_closed()
    assert client.received == close_frame(1001, "idle")
    await until(lambda: peer.is_closed)
    goodbye = peer.received.removeprefix(heard)
    assert (goodbye[0], goodbye[1]) == (0x88, 0x80 | len(b"..idle"))
    assert unmasked(goodbye) == (1001).to_bytes(2) + b"idle"
    assert not any(harness.upstream().failures.values())
    assert [(each["status"], each["decision"]) for each in log.lines] == [(101, "allowed")]


async def test_idle_websockets_do_not_count_against_the_upstream(
    harness: GatewayHarness, upstream: RecordingUpstream, peer: UpstreamWebSocket, clock: Clock
) -> None:
    for _ in range(12):
        client = await open_websocket(harness, target="/brief")
        clock.skip(0.5)
        await client.wait_closed()
    assert not any(harness.upstream().failures.values())
    upstream.response = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
    assert (await harness.request("/plain")).status == 200
    assert peer.is_closed


@pytest.mark.parametrize("opcode", [0x9, 0xA])
@pytest.mark.parametrize("from_client", [True, False])
async def test_pings_and_pongs_keep_a_websocket_open(
    harness: GatewayHarness, peer: UpstreamWebSocket, clock: Clock, opcode: int, *, from_client: bool
) -> None:
    client = await open_websocket(harness, target="/brief")
    for count in range(1, 5):
        clock.skip(0.2)
        if from_client:
            client.send(frame(b"", mask=b"abcd", opcode=opcode))
            await until(lambda count=count: len(peer.received) == 6 * count)  # type: ignore[misc]  # a default
        else:
            peer.send(frame(b"", opcode=opcode))
            await client.wait_for(frame(b"", opcode=opcode), count)
    assert not client.is_closed


async def test_an_idle_websocket_within_frames_ends_without_a_close_frame(
    harness: GatewayHarness, peer: UpstreamWebSocket, clock: Clock
) -> None:
    """A close frame within another frame would be taken for its content."""
    client = await open_websocket(harness, target="/brief")
    client.send(frame(b"begun", mask=b"abcd")[:8])
    peer.send(frame(b"begun")[:4])
    await until(lambda: len(peer.received) == 8 and len(client.received) == 4)
    exchange = connection_of(harness)._exchange
    assert exchange is not None
    clock.skip(0.5)
    # The frames have this long to end.
    await until(lambda: exchange.ends_at < math.inf)
    await never(lambda: client.is_closed)
    clock.skip(CLOSE_SECONDS)
    await until(lambda: client.is_closed and peer.is_closed)
    assert (len(peer.received), len(client.received)) == (8, 4)
    assert not any(harness.upstream().failures.values())


async def test_a_websocket_ends_with_the_total_timeout(
    harness: GatewayHarness, peer: UpstreamWebSocket, clock: Clock
) -> None:
    client = await open_websocket(harness, target="/limited")
    clock.skip(1.5)
    await client.wait_closed()
    assert client.received == close_frame(1001, "time is up")
    await until(lambda: peer.is_closed)
    assert not any(harness.upstream().failures.values())


async def test_the_idle_timeout_is_renewed_after_backpressure(harness: GatewayHarness, peer: UpstreamWebSocket) -> None:
    client = await open_websocket(harness)
    peer.send(frame(b"hello"))
    await client.wait_for(frame(b"hello"))
    connection = connection_of(harness)
    connection.pause_writing()
    connection.resume_writing()
    assert connection.deadline - time.monotonic() > IDLE_SECONDS - 10
