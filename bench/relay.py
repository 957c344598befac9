"""A relay for TCP connections that counts the bytes on their way, in both directions."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from common import HOST


class Relay:
    """Forwards connections to a port on this machine."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server((HOST, 0))
        self.port: int = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        self._count = 0

    @classmethod
    @contextmanager
    def running(cls, target: int) -> Iterator["Relay"]:
        relay = cls(target)
        threading.Thread(target=relay._accept, daemon=True).start()
        try:
            yield relay
        finally:
            # Wakes the thread that accepts.
            with suppress(OSError):
                relay._listener.shutdown(socket.SHUT_RDWR)
            relay._listener.close()

    def taken(self) -> int:
        """Return the bytes since the last call."""
        with self._lock:
            count, self._count = self._count, 0
        return count

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection((HOST, self._target))
                for pair in ((client, server), (server, client)):
                    threading.Thread(target=self._forward, args=pair, daemon=True).start()

    def _forward(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                with self._lock:
                    self._count += len(data)
                sink.sendall(data)
        for each in (source, sink):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
