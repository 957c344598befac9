"""Large bodies over plain sockets: a client that downloads or uploads one, and a server that discards them."""

import socket
import socketserver
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from common import CONTENT_LENGTH, HOST, request

#: Bytes per read or write: large enough that the calls do not matter.
PIECE_BYTES = 1024 * 1024

#: Seconds without progress after which a transfer fails.
STUCK_SECONDS = 60.0


def take_message(connection: socket.socket, buffer: bytearray) -> bytes:
    """Read a message and discard its body; return its head, which is empty if the peer has closed."""
    received = b""
    while b"\r\n\r\n" not in received:
        piece = connection.recv(PIECE_BYTES)
        if not piece:
            return b""
        received += piece
    head, _, body = received.partition(b"\r\n\r\n")
    left = length_of(head) - len(body)
    while left > 0:
        count = connection.recv_into(buffer)
        if count == 0:
            raise ConnectionResetError("closed during a body")
        left -= count
    return head


def length_of(head: bytes) -> int:
    """Return the body length that a head announces. Raises ValueError if there is none."""
    length = CONTENT_LENGTH.search(head)
    if length is None:
        raise ValueError(f"no Content-Length: {head[:200]!r}")
    return int(length[1])


def ask(connection: socket.socket, query: bytes, body_bytes: int = 0) -> int:
    """Send a request with a body of that size; return the size of the response body. Raises RuntimeError unless 200."""
    connection.sendall(query)
    piece = memoryview(bytes(PIECE_BYTES))
    for start in range(0, body_bytes, PIECE_BYTES):
        connection.sendall(piece[: body_bytes - start])
    head = take_message(connection, bytearray(PIECE_BYTES))
    if not head.startswith(b"HTTP/1.1 200 "):
        raise RuntimeError(f"response: {head[:200]!r}")
    return length_of(head)


def download(port: int, path: str, body_bytes: int, *fields: str) -> float:
    """Download a body of that size; return the seconds."""
    seconds, taken = _transfer(port, request("GET", path, b"", *fields), 0)
    if taken != body_bytes:
        raise RuntimeError(f"received {taken} bytes instead of {body_bytes}")
    return seconds


def upload(port: int, path: str, body_bytes: int, *fields: str) -> float:
    """Upload a body of that size; return the seconds."""
    head = [f"POST {path} HTTP/1.1", f"Host: {HOST}", f"Content-Length: {body_bytes}", *fields]
    return _transfer(port, "\r\n".join([*head, "", ""]).encode(), body_bytes)[0]


def _transfer(port: int, query: bytes, body_bytes: int) -> tuple[float, int]:
    with socket.create_connection((HOST, port), timeout=STUCK_SECONDS) as connection:
        started_at = time.perf_counter()
        taken = ask(connection, query, body_bytes)
        return time.perf_counter() - started_at, taken


class _Sink(socketserver.BaseRequestHandler):
    """A connection whose request bodies are discarded."""

    def handle(self) -> None:
        buffer = bytearray(PIECE_BYTES)
        while take_message(self.request, buffer):
            self.request.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}")


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True


@contextmanager
def running_sink() -> Iterator[int]:
    """Run a server that discards bodies, in threads of this process; yields its port.

    Its threads and the client's are in system calls most of the time, so they do not block each other.
    """
    with _Server((HOST, 0), _Sink) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()
