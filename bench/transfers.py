"""Large bodies over plain sockets: a client that sends or takes one, and a service that takes them and drops them."""

import socket
import socketserver
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from common import CONTENT_LENGTH, HOST, request

#: Bytes that are read or written at once: so many that the calls do not count.
PIECE_BYTES = 1024 * 1024

#: Seconds without any progress after which a transfer has failed.
STUCK_SECONDS = 60.0


def take_message(connection: socket.socket, buffer: bytearray) -> bytes:
    """Read a message and drop its body; return its head, which is empty if the other side has closed."""
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
            raise ConnectionResetError("closed within a body")
        left -= count
    return head


def length_of(head: bytes) -> int:
    """Return how many bytes of body come after a head. Raises ValueError if it does not say."""
    length = CONTENT_LENGTH.search(head)
    if length is None:
        raise ValueError(f"no Content-Length: {head[:200]!r}")
    return int(length[1])


def ask(connection: socket.socket, question: bytes, body_bytes: int = 0) -> int:
    """Send a request and so many bytes of body; return how many come back. Raises RuntimeError for all but a 200."""
    connection.sendall(question)
    piece = memoryview(bytes(PIECE_BYTES))
    for start in range(0, body_bytes, PIECE_BYTES):
        connection.sendall(piece[: body_bytes - start])
    head = take_message(connection, bytearray(PIECE_BYTES))
    if not head.startswith(b"HTTP/1.1 200 "):
        raise RuntimeError(f"answered with {head[:200]!r}")
    return length_of(head)


def download(port: int, path: str, body_bytes: int, *fields: str) -> float:
    """Take a body of so many bytes; return the seconds."""
    seconds, taken = _transfer(port, request("GET", path, b"", *fields), 0)
    if taken != body_bytes:
        raise RuntimeError(f"{taken} bytes came, not {body_bytes}")
    return seconds


def upload(port: int, path: str, body_bytes: int, *fields: str) -> float:
    """Send a body of so many bytes; return the seconds."""
    head = [f"POST {path} HTTP/1.1", f"Host: {HOST}", f"Content-Length: {body_bytes}", *fields]
    return _transfer(port, "\r\n".join([*head, "", ""]).encode(), body_bytes)[0]


def _transfer(port: int, question: bytes, body_bytes: int) -> tuple[float, int]:
    with socket.create_connection((HOST, port), timeout=STUCK_SECONDS) as connection:
        started_at = time.perf_counter()
        taken = ask(connection, question, body_bytes)
        return time.perf_counter() - started_at, taken


class _Sink(socketserver.BaseRequestHandler):
    """A connection on which bodies are taken, one after the other."""

    def handle(self) -> None:
        """Answer each when it is whole."""
        buffer = bytearray(PIECE_BYTES)
        while take_message(self.request, buffer):
            self.request.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}")


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True


@contextmanager
def running_sink() -> Iterator[int]:
    """Run a service that takes bodies, in threads of this process; yields its port.

    Its threads and the client's are in system calls all the time, so that they do not wait for each other.
    """
    with _Server((HOST, 0), _Sink) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()
