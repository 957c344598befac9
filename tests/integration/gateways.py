"""A gateway that is a process of its own, with no service of the cluster around it: what is behind it is the test's."""

import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest
from clusters import LocalCluster, is_alive, wait_until
from upstreams import listens

#: Seconds after which what has not come will not.
PATIENCE = 30.0

_PROC = Path("/proc")


class GatewayProcess:
    """`ostiary-gateway serve` with routes of a test."""

    def __init__(self, directory: Path, routes: str, host: str = "127.0.0.1", **settings: str) -> None:
        self._file = directory / "gateway.yaml"
        self._file.write_text(routes)
        settings = {"OSTIARY_GATEWAY_ROUTES": str(self._file), "OSTIARY_GATEWAY_HOST": host, **settings}
        self._cluster = LocalCluster(directory / "data", **settings)
        self._host = host
        self.port = int(self._cluster.urls["gateway"].rpartition(":")[2])
        #: The address of the admin port.
        self.operations = self._cluster.operations["gateway"]

    @contextmanager
    def starting(self) -> Iterator[Self]:
        """Start it, and wait for nothing."""
        self._cluster.start("gateway", wait=False)
        try:
            yield self
        finally:
            self._cluster.stop_all()

    def __enter__(self) -> Self:
        self._cluster.start("gateway", wait=False)
        # Not ready: there are no keys to be had, and no route here asks for any.
        wait_until(self.listens, "the gateway listens")
        wait_until(lambda: is_alive(self.operations), "the admin port answers")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._cluster.stop_all()

    @property
    def process(self) -> subprocess.Popen[bytes]:
        return self._cluster.process("gateway")

    @property
    def log(self) -> str:
        return self._cluster.log("gateway")

    def change(self, routes: str) -> None:
        """Put another routes file in the place of the one that is there."""
        draft = self._file.with_suffix(".new")
        draft.write_text(routes)
        draft.replace(self._file)

    def listens(self) -> bool:
        return listens(self.port, self._host)

    def connect(self, source: str | None = None) -> socket.socket:
        """Open a connection, from an address if that matters."""
        address = (self._host, self.port)
        return socket.create_connection(address, timeout=PATIENCE, source_address=(source, 0) if source else None)

    def ask(
        self, path: str, method: str = "GET", fields: bytes = b"", body: bytes = b"", source: str | None = None
    ) -> bytes:
        """Send one request and return all that comes back."""
        with self.connect(source) as connection:
            connection.sendall(head(path, method, b"Connection: close\r\n" + fields) + body)
            return read_all(connection)

    def rss(self) -> int:
        """Return the bytes of memory that it has now."""
        return self._memory("VmRSS")

    def peak(self) -> int:
        """Return the most bytes of memory that it ever had."""
        return self._memory("VmHWM")

    def files(self) -> int:
        """Return how many files and sockets it has open."""
        return open_files(self.process.pid)

    def _memory(self, name: str) -> int:
        found = re.search(rf"^{name}:\s+(\d+) kB$", (_proc(self.process.pid) / "status").read_text(), re.MULTILINE)
        if found is None:
            pytest.skip(f"this machine's /proc does not say {name}")
        return int(found[1]) * 1024


def open_files(pid: int) -> int:
    """Return how many files and sockets a process has open."""
    return len(list((_proc(pid) / "fd").iterdir()))


def head(path: str, method: str = "GET", fields: bytes = b"") -> bytes:
    """Return the head of a request."""
    return f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n".encode() + fields + b"\r\n"


def read_all(connection: socket.socket) -> bytes:
    """Return all that comes until the other side closes, whichever way."""
    received = b""
    with suppress(ConnectionResetError):
        while chunk := connection.recv(65536):
            received += chunk
    return received


def read_until(connection: socket.socket, end: bytes) -> bytes:
    """Return what comes up to and with some bytes; nothing may come after them."""
    received = b""
    while not received.endswith(end):
        chunk = connection.recv(65536)
        assert chunk, received
        received += chunk
    return received


def _proc(pid: int) -> Path:
    directory = _PROC / str(pid)
    if not directory.exists():
        pytest.skip(f"{sys.platform} has no /proc")
    return directory
