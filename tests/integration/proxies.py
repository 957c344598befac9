"""What stands around a cluster in tests, in threads: a network that misbehaves, and an upstream behind the gateway."""

import re
import select
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from io import BufferedReader
from typing import Self
from urllib.parse import urlsplit

#: Seconds that a connection may be silent. No test takes as long.
IDLE_SECONDS = 60.0

#: Seconds between two looks at whether somebody who waits in vain has left.
LOOK_SECONDS = 0.05

_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)", re.IGNORECASE)


@dataclass(frozen=True)
class Message:
    """One HTTP/1.1 request or response, as it was on the wire; of a known length."""

    head: bytes
    body: bytes = b""

    @property
    def raw(self) -> bytes:
        return self.head + self.body

    @property
    def path(self) -> str:
        """The path of a request, without its query."""
        return self.head.split(b" ", 2)[1].partition(b"?")[0].decode()

    @property
    def status(self) -> int:
        """The status of a response."""
        return int(self.head.split(b" ", 2)[1])

    def fields(self, name: str) -> list[str]:
        """Return the values of all header fields of a name."""
        lines = (line.partition(":") for line in self.head.decode("latin-1").split("\r\n")[1:])
        return [value.strip() for field, _, value in lines if field.lower() == name.lower()]

    @classmethod
    def read(cls, stream: BufferedReader) -> Self | None:
        """Read one; None if there is none any more."""
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            line = stream.readline()
            if not line:
                return None
            head += line
        length = _LENGTH.search(head)
        return cls(head, stream.read(int(length[1])) if length else b"")


class Server:
    """Serves connections at a port of its own, a thread for each."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._connections: set[socket.socket] = set()
        self.closed = threading.Event()
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Break off whatever goes on."""
        self.closed.set()
        for open_socket in (self._listener, *tuple(self._connections)):
            with suppress(OSError):
                open_socket.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def serve(self, request: Message, connection: socket.socket) -> bool:
        """Answer one request. Return whether the connection may have another. OSError ends it."""
        raise NotImplementedError

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._use, args=(connection,), daemon=True).start()

    def _use(self, connection: socket.socket) -> None:
        connection.settimeout(IDLE_SECONDS)
        self._connections.add(connection)
        with connection, connection.makefile("rb") as stream, suppress(OSError):
            goes_on = True
            while goes_on and (request := Message.read(stream)) is not None:
                goes_on = self.serve(request, connection)
        self._connections.discard(connection)

    def _wait_until_left(self, connection: socket.socket, until: Callable[[], bool]) -> None:
        """Leave somebody without an answer, until they leave or something else holds."""
        while not until() and not self.closed.is_set():
            readable, _, _ = select.select([connection], [], [], LOOK_SECONDS)
            if readable and not connection.recv(1, socket.MSG_PEEK):
                return


class Proxy(Server):
    """Stands between one service and those that it asks, and does badly what it is told to do badly.

    upstreams: who gets the requests, in turn.
    delay:     seconds by which answers are late.
    only:      the path that this is about; other requests pass as they are. By default it is about all.
    rewrite:   what is sent instead of an answer to a request.
    """

    def __init__(self, *upstreams: str) -> None:
        super().__init__()
        self.upstreams = upstreams
        self.delay = 0.0
        self.only: str | None = None
        self.rewrite: Callable[[Message, Message], bytes] = lambda _request, answer: answer.raw
        self._count = 0
        self._is_cut = False

    def cut(self) -> None:
        """Let nothing through any more, in either direction; nobody is told."""
        self._is_cut = True

    def heal(self) -> None:
        """Do well again. What was lost stays lost."""
        self._is_cut = False
        self.delay = 0.0
        self.only = None
        self.rewrite = lambda _request, answer: answer.raw

    def serve(self, request: Message, connection: socket.socket) -> bool:
        concerned = self.only is None or request.path == self.only
        if not self._lets_through(connection, concerned=concerned):
            return False
        answer = self._ask(request)
        if concerned:
            self.closed.wait(self.delay)
        # What was on its way when the network was cut is lost, too.
        if answer is None or not self._lets_through(connection, concerned=concerned):
            return False
        connection.sendall(self.rewrite(request, answer) if concerned else answer.raw)
        return True

    def _lets_through(self, connection: socket.socket, *, concerned: bool) -> bool:
        if not (self._is_cut and concerned):
            return True
        self._wait_until_left(connection, lambda: not self._is_cut)
        return False

    def _ask(self, request: Message) -> Message | None:
        self._count += 1
        parts = urlsplit(self.upstreams[self._count % len(self.upstreams)])
        with suppress(OSError), socket.create_connection((parts.hostname or "", parts.port or 80)) as connection:
            connection.settimeout(IDLE_SECONDS)
            connection.sendall(request.raw)
            with connection.makefile("rb") as stream:
                return Message.read(stream)
        return None


class Upstream(Server):
    """A service behind the gateway that streams, or takes its time, as the test wants it.

    Paths end with what is wanted: `events` and `lines`, streams that end only with the connection; `slow`, an answer
    that comes when `release` is set; anything else is answered at once.
    """

    def __init__(self) -> None:
        super().__init__()
        self.received: list[Message] = []
        #: Set when a slow request has come; what it waits for.
        self.has_slow = threading.Event()
        self.release = threading.Event()

    def serve(self, request: Message, connection: socket.socket) -> bool:
        self.received.append(request)
        match request.path.rpartition("/")[2]:
            case "events":
                self._stream(connection, b"text/event-stream")
                return False
            case "lines":
                self._stream(connection, b"text/plain")
                return False
            case "slow":
                self.has_slow.set()
                self.release.wait(IDLE_SECONDS)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 4\r\n\r\nfine")
        return True

    def _stream(self, connection: socket.socket, kind: bytes) -> None:
        head = b"HTTP/1.1 200 OK\r\nContent-Type: " + kind + b"\r\nTransfer-Encoding: chunked\r\n\r\n"
        connection.sendall(head + b"d\r\ndata: hello\n\n\r\n")
        self._wait_until_left(connection, lambda: False)
