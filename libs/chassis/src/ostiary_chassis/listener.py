"""Accepts connections as long as the process has descriptors for them; after that, they wait in the kernel's queue.

The event loop's own server accepts all that wait at once. Those for which there is no descriptor it accepts with a
spare one, and closes them. So it only serves while there are plenty; with fewer, connections are accepted one by one
here, which costs more. The last descriptors are left for requests on open connections, which need files and connections
of ours.
"""

import asyncio
import os
import socket
from collections.abc import Callable

from ostiary_chassis import descriptors
from ostiary_chassis.descriptors import ACCEPT, shortage

#: Connections waiting to be accepted.
BACKLOG = 2048

#: Free descriptors with which the event loop accepts: more than clients can take between two ticks.
PLENTY = 2 * BACKLOG

#: Connections accepted here at once; the event loop does other work in between.
BATCH = 64

#: Descriptors that are kept for the service's own use; a quarter of all if that is less.
RESERVE = 64

#: Seconds until the next attempt without a descriptor.
RETRY_SECONDS = 0.5


class Listener:
    """Gives each connection to a socket a protocol. `uses_reserve` is for whoever looks after the service."""

    def __init__(
        self, listening: socket.socket, protocol: Callable[[], asyncio.Protocol], *, uses_reserve: bool = False
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._socket = listening
        self._protocol = protocol
        self._uses_reserve = uses_reserve
        #: The event loop's, while it accepts.
        self._server: asyncio.AbstractServer | None = None
        self._retry: asyncio.TimerHandle | None = None
        self._opening: set[asyncio.Task[None]] = set()
        self._is_closed = False
        listening.setblocking(False)
        listening.listen(BACKLOG)

    async def start(self) -> None:
        """Begin to accept."""
        self._accept_here()
        await self.on_tick()

    def close(self) -> None:
        """Accept no more."""
        self._is_closed = True
        self._stop()
        self._socket.close()

    async def on_tick(self) -> None:
        """Let the event loop accept if there are plenty of descriptors, and only then."""
        if self._is_closed:
            return
        are_plenty = self._room() > PLENTY
        if are_plenty and self._server is None:
            self._stop()
            # A duplicate, as the server closes it.
            self._server = await self._loop.create_server(self._protocol, sock=self._socket.dup(), backlog=BACKLOG)
        elif not are_plenty and self._server is not None:
            self._stop()
            self._accept_here()

    def _stop(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        self._loop.remove_reader(self._socket)

    def _accept_here(self) -> None:
        self._retry = None
        self._loop.add_reader(self._socket, self._accept)

    def _accept(self) -> None:
        for _ in range(BATCH):
            if self._room() <= 0:
                shortage.note(ACCEPT)
                self._pause()
                return
            try:
                connection, _ = self._socket.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                self._pause()
                if not shortage.is_cause(error, ACCEPT):
                    raise
                return
            connection.setblocking(False)
            task = self._loop.create_task(self._open(connection))
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)

    async def _open(self, connection: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._protocol, connection)
        except OSError:
            # The client has gone.
            connection.close()

    def _pause(self) -> None:
        self._stop()
        self._retry = self._loop.call_later(RETRY_SECONDS, self._accept_here)

    def _room(self) -> int:
        """Return for how many connections there are descriptors; a new descriptor is the lowest free one."""
        try:
            lowest = os.dup(self._socket.fileno())
        except OSError:
            return 0
        os.close(lowest)
        most = descriptors.limit()
        return most - lowest - (0 if self._uses_reserve else min(RESERVE, most // 4))
