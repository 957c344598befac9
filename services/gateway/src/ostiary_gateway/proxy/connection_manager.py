"""Looks after all client connections of a process: their deadlines, their number, and whether their peers have gone."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from email.utils import formatdate
from functools import partial
from typing import Protocol

import structlog

from ostiary_chassis.proxies import TrustedProxies, source_of
from ostiary_gateway.access.request import RequestIds
from ostiary_gateway.http1.write_buffer import FlushQueue
from ostiary_gateway.proxy.head_reader import LargeHeads

_log = structlog.stdlib.get_logger("proxy")

#: Seconds between two ticks: deadlines are met to that precision.
TICK_SECONDS = 0.1


class ManagedConnection(Protocol):
    """A connection, as far as it is managed."""

    peer: str
    #: When `on_deadline` is called, in seconds on the monotonic clock.
    deadline: float

    def on_deadline(self) -> None:
        """Handle that something did not happen in time."""

    def check_peer_closed(self) -> None:
        """Give up if the client has closed."""

    def cut_off(self) -> None:
        """Close at once, whatever is going on."""


class ConnectionManager:
    """All client connections of a process. One timer serves them all."""

    def __init__(self, max_per_address: int, proxies: TrustedProxies) -> None:
        """Accept `max_per_address` connections from each address that is not a trusted proxy's."""
        self._max_per_address = max_per_address
        self._proxies = proxies
        self._addresses: Counter[str] = Counter()
        self.connections: set[ManagedConnection] = set()
        #: Connections that are not read, so that their close would go unnoticed.
        self.paused: set[ManagedConnection] = set()
        #: Whether the gateway ends soon, so that connections are closed after a response; and whether it listens no
        #: more, so that responses have to end.
        self.is_draining = self.is_stopping = False
        self.flush_queue = FlushQueue()
        #: The value of the `Date` field.
        self.date = b""
        self.request_ids = RequestIds()
        self.large_heads = LargeHeads()
        self._tick_handlers: list[Callable[[float], None]] = []
        self._timer: asyncio.TimerHandle | None = None

    def add(self, connection: ManagedConnection) -> bool:
        """Manage a connection; return False if its address has too many."""
        self.connections.add(connection)
        source = source_of(connection.peer)
        self._addresses[source] += 1
        return self._addresses[source] <= self._max_per_address or self._proxies.trusts(connection.peer)

    def remove(self, connection: ManagedConnection) -> None:
        """Forget a closed connection."""
        self.connections.discard(connection)
        self.paused.discard(connection)
        source = source_of(connection.peer)
        self._addresses[source] -= 1
        if not self._addresses[source]:
            del self._addresses[source]

    def add_tick_handler(self, handler: Callable[[float], None]) -> None:
        """Call `handler` with the monotonic time at each tick."""
        self._tick_handlers.append(handler)

    def start(self) -> None:
        """Tick, now and from now on."""
        # First, so that no error below ends it.
        self._timer = asyncio.get_running_loop().call_later(TICK_SECONDS, self.start)
        now = time.monotonic()
        self.date = formatdate(usegmt=True).encode()
        due: list[Callable[[], None]] = [each.on_deadline for each in self.connections if each.deadline <= now]
        due += [each.check_peer_closed for each in self.paused]
        due += [partial(handler, now) for handler in self._tick_handlers]
        for each in due:
            try:
                each()
            except Exception:  # noqa: BLE001 - an error in one must not keep the others from their turn
                _log.exception("unhandled error")

    def cut_off(self) -> None:
        """Close all connections."""
        for connection in tuple(self.connections):
            connection.cut_off()

    def stop(self) -> None:
        """Tick no more."""
        if self._timer is not None:
            self._timer.cancel()
