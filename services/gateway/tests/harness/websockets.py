"""WebSockets: frames (RFC 6455 section 5.2), and both sides of one."""

import asyncio
import base64
import hashlib
from dataclasses import dataclass, field

from harness import ClientSocket, GatewayHarness, ReceivedRequest

KEY = "dGhlIHNhbXBsZSBub25jZQ=="

ACCEPT = base64.b64encode(hashlib.sha1(f"{KEY}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode()).digest())  # noqa: S324

ACCEPTED = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %b\r\n"
    b"Sec-WebSocket-Protocol: chat\r\n\r\n"
) % ACCEPT

HANDSHAKE = (
    "Connection: keep-alive, Upgrade",
    "Upgrade: websocket",
    f"Sec-WebSocket-Key: {KEY}",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Protocol: chat, other",
)


@dataclass
class UpstreamWebSocket:
    """The upstream's side of a WebSocket, a responder."""

    acceptance: bytes = ACCEPTED
    may_accept: asyncio.Event = field(default_factory=asyncio.Event)
    received: bytes = b""
    is_closed: bool = False
    writer: asyncio.StreamWriter | None = None

    async def __call__(self, request: ReceivedRequest, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        reader = request.connection.reader
        try:
            await self.may_accept.wait()
            writer.write(self.acceptance)
            while data := await reader.read(65536):
                self.received += data
        finally:
            self.is_closed = True
        writer.close()

    def send(self, data: bytes) -> None:
        assert self.writer is not None
        self.writer.write(data)


async def send_request(harness: GatewayHarness, target: str, *lines: str, method: str = "GET") -> ClientSocket:
    client = await harness.connect()
    client.send("\r\n".join([f"{method} {target} HTTP/1.1", "Host: gw", *lines, "", ""]).encode())
    return client


async def open_websocket(harness: GatewayHarness, *lines: str, target: str = "/open") -> ClientSocket:
    """Open a WebSocket. The handshake is removed from what the client has received."""
    client = await send_request(harness, target, *HANDSHAKE, *lines)
    await client.wait_for(b"\r\n\r\n")
    head, _, client.received = client.received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101 "), head
    return client


def bearer(token: str) -> str:
    return f"Authorization: Bearer {token}"


def unmasked(data: bytes) -> bytes:
    """Return the payload of a short frame of a client."""
    assert data[1] & 0x80
    key, payload = data[2:6], data[6:]
    return bytes(byte ^ key[index % 4] for index, byte in enumerate(payload))


def frame(payload: bytes, *, mask: bytes = b"", opcode: int = 0x2) -> bytes:
    """Serialize a frame."""
    size, flag = len(payload), 0x80 if mask else 0
    if size <= 125:
        head = bytes([0x80 | opcode, flag | size])
    elif size < 2**16:
        head = bytes([0x80 | opcode, flag | 126]) + size.to_bytes(2)
    else:
        head = bytes([0x80 | opcode, flag | 127]) + size.to_bytes(8)
    masked = bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload)) if mask else payload
    return head + mask + masked
