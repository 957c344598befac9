"""Upstreams behind a gateway that misbehave: one in threads, told what to do, and one in a process, to be killed."""

import asyncio
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Self

import uvloop
from clusters import free_ports, wait_until

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

#: What the upstream in a process sends of a long answer at once.
BEGINNING = b"x" * 1000

_LONG = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n" + BEGINNING
_MORE = b"x" * 50_000
_HINT = b"HTTP/1.1 103 Early Hints\r\n\r\n"


class RawUpstream:
    """Records requests and answers with bytes, by the last part of the path; over TLS if there is a context."""

    def __init__(self, host: str = "127.0.0.1", port: int = 0, tls: ssl.SSLContext | None = None) -> None:
        self.answers: dict[str, Callable[[socket.socket], None]] = {}
        self.received: list[bytes] = []
        self.closed = threading.Event()
        #: Connections that have come, and those on which TLS could not be agreed on.
        self.connections = self.refusals = 0
        self._tls = tls
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, port), family=family, backlog=1024)
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def answer(self, name: str, *chunks: bytes) -> None:
        def send(connection: socket.socket) -> None:
            for chunk in chunks:
                connection.sendall(chunk)

        self.answers[name] = send

    def last(self, name: str) -> bytes:
        """Return the last request whose path ends so, with what came of its body at once."""
        return next(each for each in reversed(self.received) if name_of(each) == name)

    def close(self) -> None:
        """Accept nothing more; what was accepted goes on."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    @staticmethod
    def _answer_ok(connection: socket.socket) -> None:
        connection.sendall(OK)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.connections += 1
                threading.Thread(target=self._agree, args=(connection,), daemon=True).start()

    def _agree(self, connection: socket.socket) -> None:
        connection.settimeout(30)
        if self._tls is not None:
            try:
                connection = self._tls.wrap_socket(connection, server_side=True)
            except OSError:
                self.refusals += 1
                connection.close()
                return
        self._serve(connection)

    def _serve(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            while True:
                request = b""
                while b"\r\n\r\n" not in request:
                    chunk = connection.recv(65536)
                    if not chunk:
                        self.closed.set()
                        return
                    request += chunk
                self.received.append(request)
                self.answers.get(name_of(request), self._answer_ok)(connection)


class ProcessUpstream:
    """An upstream that can be killed, and come back at the same port.

    Paths end with what is wanted: `part` and `flood` are long answers, of which a part comes, or all that there is
    room for; to `never` there is none after a hint; anything else is answered with the number of the process.
    """

    def __init__(self) -> None:
        (self.port,) = free_ports(1)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The number of its process."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> Self:
        """Listen."""
        command = [sys.executable, str(Path(__file__)), str(self.port)]
        self._process = subprocess.Popen(command)  # noqa: S603 - this file
        wait_until(lambda: listens(self.port), "the upstream listens")
        return self

    def kill(self) -> None:
        """End it as nothing else does: with SIGKILL."""
        self.signal(signal.SIGKILL)
        if self._process is not None:
            self._process.wait()

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        if self._process is not None:
            self._process.send_signal(number)


def name_of(request: bytes) -> str:
    """Return the last part of a request's path."""
    return request.split(b" ", 2)[1].rpartition(b"/")[2].decode()


def listens(port: int, host: str = "127.0.0.1") -> bool:
    """Return whether somebody accepts connections."""
    with suppress(OSError), socket.create_connection((host, port), timeout=1):
        return True
    return False


class _Serving(asyncio.Protocol):
    """The side of a connection in the process."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._buffer = b""
        self._floods = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # of a stream

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if self._transport is None or not self._buffer.endswith(b"\r\n\r\n"):
            # Heads are all that is read; a body is never complete.
            return
        name = name_of(self._buffer)
        self._buffer = b""
        if name == "part":
            self._transport.write(_LONG)
        elif name == "flood":
            self._transport.write(_LONG)
            self.resume_writing()
        elif name == "never":
            self._transport.write(_HINT)
        else:
            content = b"%d" % os.getpid()
            self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(content), content))

    def pause_writing(self) -> None:
        self._floods = False

    def resume_writing(self) -> None:
        self._floods = True
        while self._transport is not None and self._floods and not self._transport.is_closing():
            self._transport.write(_MORE)

    def connection_lost(self, _error: Exception | None) -> None:
        self._transport = None


async def _serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(_Serving, "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1])))
