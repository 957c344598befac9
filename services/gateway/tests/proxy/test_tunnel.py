"""WebSockets through the gateway: the handshake is looked at, the rest passes, and it ends with the token."""

import asyncio
import base64
import hashlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
from harness import ClientSocket, Clock, GatewayHarness, ReceivedRequest, RecordingUpstream, never, settled, until
from harness.frames import frame

from ostiary.feed import Kind
from ostiary.testing import Issuer
from ostiary_gateway.http1.websocket import close_frame
from ostiary_gateway.proxy.downstream import ClientConnection
from ostiary_gateway.proxy.tunnel import CLOSE_SECONDS, IDLE_SECONDS

ROUTES = """\
upstreams:
  up: {url: "${UPSTREAM}"}
routes:
  - {name: live, match: {path: /live, methods: [GET, POST]}, upstream: up, access: authenticated, websocket: true,
     cors: {origins: ["https://shop.example"]}}
  - {name: open, match: {path: /open, methods: [GET, POST]}, upstream: up, access: public, websocket: true}
  - {name: brief, match: {path: /brief, methods: [GET]}, upstream: up, access: public, websocket: true,
     timeouts: {idle: 0.3}}
  - {name: plain, match: {path: /plain, methods: [GET]}, upstream: up, access: public}
"""

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = base64.b64encode(hashlib.sha1(f"{KEY}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode()).digest())  # noqa: S324
OPENED = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %b\r\n"
    b"Sec-WebSocket-Protocol: chat\r\n\r\n"
) % ACCEPT
OFFER = (
    "Connection: keep-alive, Upgrade",
    "Upgrade: websocket",
    f"Sec-WebSocket-Key: {KEY}",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Protocol: chat, other",
)


@dataclass
class Talk:
    """An upstream's side of a WebSocket."""

    opening: bytes = OPENED
    may_open: asyncio.Event = field(default_factory=asyncio.Event)
    received: bytes = b""
    is_over: bool = False
    writer: asyncio.StreamWriter | None = None

    async def __call__(self, request: ReceivedRequest, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        reader = request.connection.reader
        try:
            await self.may_open.wait()
            writer.write(self.opening)
            while data := await reader.read(65536):
                self.received += data
        finally:
            self.is_over = True
        writer.close()

    def send(self, data: bytes) -> None:
        assert self.writer is not None
        self.writer.write(data)


@pytest.fixture
def talk(upstream: RecordingUpstream) -> Talk:
    talk = Talk()
    talk.may_open.set()
    upstream.response = talk
    return talk


@pytest.fixture
def own_issuer(issuer: Issuer) -> Issuer:
    """Make an issuer whose revocations are nobody else's."""
    return Issuer(issuer.issuer, private_key=issuer.private_key)


@pytest.fixture
async def harness(own_issuer: Issuer, upstream: RecordingUpstream) -> AsyncIterator[GatewayHarness]:
    async with GatewayHarness.open(ROUTES, upstream.url, own_issuer.verifier()) as harness:
        yield harness


async def ask(harness: GatewayHarness, target: str, *lines: str, method: str = "GET") -> ClientSocket:
    line = await harness.connect()
    line.send("\r\n".join([f"{method} {target} HTTP/1.1", "Host: gw", *lines, "", ""]).encode())
    return line


async def opened(harness: GatewayHarness, *lines: str, target: str = "/open") -> ClientSocket:
    """Open a WebSocket; from then on, what has been received is what comes after the handshake."""
    line = await ask(harness, target, *OFFER, *lines)
    await line.wait_for(b"\r\n\r\n")
    head, _, line.received = line.received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101 "), head
    return line


def bearer(token: str) -> str:
    return f"Authorization: Bearer {token}"


# The handshake.


async def test_a_handshake_passes_in_both_directions(
    harness: GatewayHarness, upstream: RecordingUpstream, talk: Talk
) -> None:
    line = await ask(harness, "/open?room=1", *OFFER, "Origin: https://shop.example")
    await line.wait_for(b"\r\n\r\n")
    status, *rest = line.received.decode().removesuffix("\r\n\r\n").split("\r\n")
    fields = dict(each.lower().split(": ", 1) for each in rest)
    assert status == "HTTP/1.1 101 Switching Protocols"
    assert fields.pop("x-request-id")
    assert fields == {
        "sec-websocket-accept": ACCEPT.decode().lower(),
        "sec-websocket-protocol": "chat",
        "connection": "upgrade",
        "upgrade": "websocket",
    }
    assert f"sec-websocket-accept: {ACCEPT.decode()}" in line.received.decode()
    last = upstream.last
    assert (last.method, last.target) == ("GET", "/open?room=1")
    assert (last.values("connection"), last.values("upgrade")) == (["upgrade"], ["websocket"])
    assert (last.values("sec-websocket-key"), last.values("sec-websocket-version")) == ([KEY], ["13"])
    assert last.values("sec-websocket-protocol") == ["chat, other"]
    assert last.values("origin") == ["https://shop.example"]
    assert not talk.is_over


@pytest.mark.parametrize("status", ["403 Forbidden", "426 Upgrade Required", "200 OK"])
async def test_a_refusal_is_an_ordinary_answer(
    harness: GatewayHarness, upstream: RecordingUpstream, status: str
) -> None:
    upstream.response = f"HTTP/1.1 {status}\r\nUpgrade: websocket\r\nContent-Length: 2\r\n\r\nno".encode()
    line = await ask(harness, "/open", *OFFER)
    await line.wait_for(b"\r\n\r\nno")
    assert line.received.startswith(f"HTTP/1.1 {status[:3]} ".encode())
    assert b"upgrade:" not in line.received.lower()
    # What comes now is a request, and no frame.
    line.send(b"GET /live HTTP/1.1\r\nHost: gw\r\n\r\n")
    await line.wait_for(b"HTTP/1.1 401 ")
    line.send(frame(b"hello", mask=b"abcd") + b"\r\n\r\n")
    await line.wait_for(b"HTTP/1.1 400 ")
    assert len(upstream.requests) == 1


@pytest.mark.parametrize(
    ("target", "lines"),
    [
        ("/open", ()),
        ("/plain", OFFER),
        ("/open", ("Connection: Upgrade", "Upgrade: h2c")),
        ("/open", ("Upgrade: websocket",)),
        ("/open", ("Connection: Upgrade", "Upgrade: websocket", "Content-Length: 0")),
    ],
)
async def test_an_upstream_cannot_change_the_protocol_unasked(
    harness: GatewayHarness, upstream: RecordingUpstream, talk: Talk, target: str, lines: tuple[str, ...]
) -> None:
    line = await ask(harness, target, *lines, "X-Last: 1")
    await line.wait_for(b"HTTP/1.1 ")
    assert line.received.startswith(b"HTTP/1.1 502 ")
    assert (upstream.last.values("upgrade"), upstream.last.values("connection")) == ([], [])
    await until(lambda: talk.is_over)


@pytest.mark.parametrize(
    "opening",
    [
        OPENED.replace(b"Upgrade: websocket", b"Upgrade: h2c"),
        OPENED.replace(b"Upgrade: websocket\r\n", b""),
        OPENED.replace(b"Connection: Upgrade\r\n", b""),
        OPENED.replace(b"Connection: Upgrade", b"Connection: close"),
    ],
)
async def test_another_protocol_than_was_asked_for_is_none(harness: GatewayHarness, talk: Talk, opening: bytes) -> None:
    talk.opening = opening
    line = await ask(harness, "/open", *OFFER)
    await line.wait_for(b"HTTP/1.1 ")
    assert line.received.startswith(b"HTTP/1.1 502 ")


async def test_a_route_that_does_not_say_so_has_no_websockets(
    harness: GatewayHarness, upstream: RecordingUpstream
) -> None:
    line = await ask(harness, "/plain", *OFFER)
    await line.wait_for(b'"target"')
    assert line.received.startswith(b"HTTP/1.1 200 ")
    assert (upstream.last.values("upgrade"), upstream.last.values("connection")) == ([], [])


@pytest.mark.parametrize("method", ["POST", "get", "HEAD"])
async def test_only_get_opens_one(harness: GatewayHarness, upstream: RecordingUpstream, method: str) -> None:
    line = await ask(harness, "/open", *OFFER, method=method)
    await line.wait_for(b"\r\n\r\n")
    assert not line.received.startswith(b"HTTP/1.1 101 ")
    assert all(each.values("upgrade") == [] for each in upstream.requests)


# Who may.


@pytest.mark.parametrize("lines", [(), ("Authorization: Bearer x.y.z",), ("Cookie: token=x",)])
async def test_nobody_opens_one_without_a_good_token(
    harness: GatewayHarness, upstream: RecordingUpstream, lines: tuple[str, ...]
) -> None:
    line = await ask(harness, "/live", *OFFER, *lines)
    await line.wait_for(b"HTTP/1.1 401 ")
    assert upstream.requests == []


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        (("Cookie: a=b", "Origin: https://evil.example"), 403),
        (("Cookie: a=b", "Origin: null"), 403),
        (("Cookie: a=b", "Origin: http://gw.evil.example"), 403),
        (("Cookie: a=b", "Origin: https://shop.example.evil.example"), 403),
        (("Cookie: a=b", "Origin: gw"), 403),
        (("Cookie: a=b", "Origin: https://evil.example", "Origin: https://gw"), 400),
        (("Cookie: a=b",), 403),
        (("Cookie: a=b", "Origin: https://gw"), 101),
        (("Cookie: a=b", "Origin: HTTPS://GW"), 101),
        (("Cookie: a=b", "Origin: https://shop.example"), 101),
        (("Origin: https://evil.example",), 101),
        ((), 101),
    ],
)
async def test_cookies_are_not_for_pages_of_other_origins(
    harness: GatewayHarness,
    upstream: RecordingUpstream,
    own_issuer: Issuer,
    talk: Talk,
    lines: tuple[str, ...],
    status: int,
) -> None:
    line = await ask(harness, "/live", *OFFER, bearer(own_issuer.token()), *lines)
    await line.wait_for(b"HTTP/1.1 %d " % status)
    assert len(upstream.requests) == (status == 101)
    assert not talk.is_over


# Frames.


async def test_frames_pass_unchanged_in_both_directions(harness: GatewayHarness, talk: Talk) -> None:
    line = await opened(harness)
    sizes = (0, 1, 125, 126, 300, 65535, 65536, 200_000)
    sent, answered = b"", b""
    for number, size in enumerate(sizes):
        sent += frame(bytes([number]) * size, mask=b"m\x00\xffk")
        answered += frame(bytes([255 - number]) * size)
    line.send(sent)
    talk.send(answered)
    await until(lambda: len(talk.received) >= len(sent) and len(line.received) >= len(answered))
    assert (talk.received, line.received) == (sent, answered)


async def test_what_follows_the_opening_at_once_is_not_lost(harness: GatewayHarness, talk: Talk) -> None:
    talk.opening = OPENED + frame(b"first")
    line = await ask(harness, "/open", *OFFER)
    await line.wait_for(frame(b"first"))
    assert line.received.endswith(b"\r\n\r\n" + frame(b"first"))


async def test_what_a_client_says_too_early_waits_for_the_opening(harness: GatewayHarness, talk: Talk) -> None:
    talk.may_open.clear()
    early = frame(b"early", mask=b"abcd")
    line = await ask(harness, "/open", *OFFER)
    await until(lambda: talk.writer)
    line.send(early)
    await never(lambda: talk.received)
    talk.may_open.set()
    await until(lambda: talk.received)
    assert talk.received == early
    line.send(frame(b"later", mask=b"abcd"))
    await until(lambda: len(talk.received) > len(early))
    assert talk.received == early + frame(b"later", mask=b"abcd")


async def test_what_a_client_says_too_early_never_reaches_who_refuses(
    harness: GatewayHarness, upstream: RecordingUpstream, talk: Talk
) -> None:
    talk.may_open.clear()
    talk.opening = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"
    line = await ask(harness, "/open", *OFFER)
    await until(lambda: talk.writer)
    line.send(b"GET /live HTTP/1.1\r\nHost: gw\r\n\r\n")
    talk.may_open.set()
    await line.wait_for(b"HTTP/1.1 401 ")
    assert (talk.received, len(upstream.requests)) == (b"", 1)


async def test_when_the_client_leaves_the_upstream_hears_so(harness: GatewayHarness, talk: Talk) -> None:
    line = await opened(harness)
    line.transport.close()
    await until(lambda: talk.is_over)
    await until(lambda: not harness.transports)


async def test_when_the_upstream_leaves_the_client_hears_so(harness: GatewayHarness, talk: Talk) -> None:
    line = await opened(harness)
    assert talk.writer is not None
    talk.send(close_frame(1001, "bye"))
    talk.writer.close()
    await line.wait_closed()
    assert line.received == close_frame(1001, "bye")
    await until(lambda: not harness.transports)


# The token.


async def live(harness: GatewayHarness, issuer: Issuer) -> ClientSocket:
    return await opened(harness, bearer(issuer.token(subject="ada")), target="/live")


def is_ended(code: str = "revoked") -> bytes:
    return close_frame(4401, code)


async def test_a_revoked_token_ends_it_between_two_frames(
    harness: GatewayHarness, own_issuer: Issuer, talk: Talk
) -> None:
    line = await live(harness, own_issuer)
    talk.send(frame(b"one") + frame(b"two"))
    await line.wait_for(frame(b"two"))
    own_issuer.revoke(Kind.SUBJECT, "ada")
    await line.wait_closed()
    assert line.received.startswith(frame(b"one") + frame(b"two") + b"\x88")
    end = line.received.removeprefix(frame(b"one") + frame(b"two"))
    assert (int.from_bytes(end[2:4]), end[1]) == (4401, len(end) - 2)
    await until(lambda: talk.is_over)


async def test_a_revoked_token_ends_it_where_nothing_was_said(
    harness: GatewayHarness, own_issuer: Issuer, talk: Talk
) -> None:
    line = await live(harness, own_issuer)
    own_issuer.revoke(Kind.SUBJECT, "bob")
    await never(lambda: line.received or line.is_closed)
    own_issuer.revoke(Kind.SUBJECT, "ada")
    await line.wait_closed()
    assert line.received[:1] == b"\x88"
    assert line.received[2:4] == (4401).to_bytes(2)
    await until(lambda: talk.is_over)


#: A frame with 1000 bytes of content.
LONG = frame(b"x" * 1000)


async def revoked_within_a_frame(harness: GatewayHarness, issuer: Issuer, talk: Talk) -> ClientSocket:
    """Open a WebSocket whose token is revoked when 400 bytes of a long frame have come."""
    line = await live(harness, issuer)
    talk.send(LONG[:400])
    await until(lambda: len(line.received) == 400)
    issuer.revoke(Kind.SUBJECT, "ada")
    return line


async def test_a_revoked_token_lets_a_frame_come_to_its_end(
    harness: GatewayHarness, own_issuer: Issuer, talk: Talk
) -> None:
    line = await revoked_within_a_frame(harness, own_issuer, talk)
    talk.send(LONG[400:] + frame(b"begun")[:3])
    await line.wait_closed()
    assert line.received[: len(LONG)] == LONG
    assert line.received[len(LONG) :].startswith(b"\x88")


async def test_a_revoked_token_lets_no_other_frame_pass(
    harness: GatewayHarness, own_issuer: Issuer, talk: Talk
) -> None:
    line = await revoked_within_a_frame(harness, own_issuer, talk)
    talk.send(LONG[400:] + frame(b"not any more"))
    await line.wait_closed()
    assert b"not any more" not in line.received


async def test_a_long_frame_comes_to_its_end_piece_by_piece(
    harness: GatewayHarness, own_issuer: Issuer, talk: Talk
) -> None:
    line = await revoked_within_a_frame(harness, own_issuer, talk)
    talk.send(LONG[400:700])
    await until(lambda: len(line.received) == 700)
    talk.send(LONG[700:] + frame(b"not any more"))
    await line.wait_closed()
    assert line.received[: len(LONG)] == LONG
    assert line.received[len(LONG) :].startswith(b"\x88")


async def test_a_frame_that_does_not_end_does_not_keep_it_open(
    harness: GatewayHarness, own_issuer: Issuer, talk: Talk, clock: Clock
) -> None:
    line = await revoked_within_a_frame(harness, own_issuer, talk)
    line.send(frame(b"unheard", mask=b"abcd"))
    await never(lambda: line.is_closed)
    clock.skip(1.1)
    await until(lambda: line.is_closed and talk.is_over)
    assert talk.received == b""


class Flooding:
    """Opens a WebSocket and says as much as it can get rid of, in frames of 50 000 bytes."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.sent = 0

    async def __call__(self, request: ReceivedRequest, writer: asyncio.StreamWriter) -> None:
        writer.transport.set_write_buffer_limits(0)
        writer.write(OPENED)
        while self.sent < self.size:
            piece = frame(b"x" * 50_000)
            writer.write(piece)
            await writer.drain()
            self.sent += len(piece)
        await request.connection.wait_closed()


#: More than all buffers on the way hold.
BIG = 20_000_000


async def test_a_client_that_is_slow_to_listen_holds_the_upstream_up(
    harness: GatewayHarness, upstream: RecordingUpstream
) -> None:
    upstream.response = flood = Flooding(BIG)
    line = await opened(harness)
    line.transport.pause_reading()
    assert await settled(lambda: flood.sent) < 5_000_000
    (transport,) = harness.transports
    assert transport.get_write_buffer_size() < 1_000_000
    line.transport.resume_reading()
    await until(lambda: len(line.received) >= BIG)
    assert line.received == frame(b"x" * 50_000) * (flood.sent // len(frame(b"x" * 50_000)))


async def test_an_upstream_that_is_slow_to_listen_holds_the_client_up(
    harness: GatewayHarness, upstream: RecordingUpstream
) -> None:
    goes_on = asyncio.Event()
    heard = bytearray()

    async def listen_late(request: ReceivedRequest, writer: asyncio.StreamWriter) -> None:
        writer.write(OPENED)
        await goes_on.wait()
        while data := await request.connection.reader.read(65536):
            heard.extend(data)

    upstream.response = listen_late
    line = await opened(harness)
    line.transport.set_write_buffer_limits(0)
    said = frame(b"x" * BIG)
    line.send(said)
    assert await settled(line.transport.get_write_buffer_size) > BIG - 5_000_000
    goes_on.set()
    await until(lambda: len(heard) == len(said))
    assert bytes(heard) == said


async def test_a_token_that_ends_within_a_frame_is_over_in_a_second_whoever_is_slow(
    harness: GatewayHarness, upstream: RecordingUpstream, own_issuer: Issuer, clock: Clock
) -> None:
    async def begin(request: ReceivedRequest, writer: asyncio.StreamWriter) -> None:
        writer.write(OPENED + frame(b"x" * BIG)[: BIG // 2])
        await request.connection.wait_closed()

    upstream.response = begin
    line = await live(harness, own_issuer)
    line.transport.pause_reading()
    connection = connection_of(harness)
    await until(lambda: not connection.is_writable)
    own_issuer.revoke(Kind.SUBJECT, "ada")
    # It is held up and goes on again, again and again; that is no reason to have more time.
    exchange = connection._exchange
    assert exchange is not None
    await until(lambda: exchange.ends_at - time.monotonic() <= CLOSE_SECONDS)
    for _ in range(3):
        line.transport.resume_reading()
        await until(lambda: connection.is_writable)
        line.transport.pause_reading()
        await until(lambda: not connection.is_writable)
    assert connection.deadline - time.monotonic() <= CLOSE_SECONDS
    clock.skip(CLOSE_SECONDS)
    await until(lambda: not harness.transports)
    await until(lambda: upstream.connections[0].is_closed)


# The end of the gateway.


def end(harness: GatewayHarness) -> None:
    """End the gateway, as uvicorn does."""
    harness.gateway.stop()
    for connection in tuple(harness.connections):
        connection.shutdown()


async def test_who_talks_hears_that_the_gateway_ends(harness: GatewayHarness, talk: Talk) -> None:
    silent, talking = await opened(harness), await opened(harness)
    talk.send(frame(b"one"))
    await until(lambda: silent.received or talking.received)
    end(harness)
    await silent.wait_closed()
    await talking.wait_closed()
    goodbye = close_frame(1001, "going away")
    assert sorted([silent.received, talking.received]) == sorted([goodbye, frame(b"one") + goodbye])
    await until(lambda: talk.is_over)


async def test_a_gateway_that_ends_lets_a_frame_come_to_its_end(harness: GatewayHarness, talk: Talk) -> None:
    line = await opened(harness)
    talk.send(LONG[:400])
    await until(lambda: len(line.received) == 400)
    end(harness)
    await never(lambda: line.is_closed or len(line.received) > 400)
    talk.send(LONG[400:] + frame(b"not any more"))
    await line.wait_closed()
    assert line.received == LONG + close_frame(1001, "going away")


async def test_a_gateway_that_ends_does_not_wait_for_a_frame_for_long(
    harness: GatewayHarness, talk: Talk, clock: Clock
) -> None:
    line = await opened(harness)
    talk.send(LONG[:400])
    await until(lambda: len(line.received) == 400)
    end(harness)
    talk.send(LONG[400:700])
    await until(lambda: len(line.received) == 700)
    clock.skip(CLOSE_SECONDS)
    await until(lambda: line.is_closed and talk.is_over)
    assert line.received == LONG[:700]


# Time.


def connection_of(harness: GatewayHarness) -> ClientConnection:
    (connection,) = harness.connections
    return connection


async def test_who_talks_has_an_hour_to_say_more(harness: GatewayHarness, talk: Talk) -> None:
    line = await opened(harness)
    talk.send(frame(b"hello"))
    await line.wait_for(frame(b"hello"))
    assert connection_of(harness).deadline - time.monotonic() > IDLE_SECONDS - 10


async def test_who_has_just_come_has_an_hour_too(harness: GatewayHarness, talk: Talk) -> None:
    await opened(harness)
    assert not talk.is_over
    assert connection_of(harness).deadline - time.monotonic() > IDLE_SECONDS - 10


async def test_a_route_says_how_long_nobody_need_say_anything(
    harness: GatewayHarness, talk: Talk, clock: Clock
) -> None:
    line = await opened(harness, target="/brief")
    assert not talk.is_over
    clock.skip(0.5)
    await until(lambda: line.is_closed)


async def test_who_was_waited_for_has_an_hour_too(harness: GatewayHarness, talk: Talk) -> None:
    line = await opened(harness)
    talk.send(frame(b"hello"))
    await line.wait_for(frame(b"hello"))
    connection = connection_of(harness)
    connection.pause_writing()
    connection.resume_writing()
    assert connection.deadline - time.monotonic() > IDLE_SECONDS - 10
