"""Who looks after all connections of a process."""

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

_log = structlog.stdlib.get_logger("proxy")

#: Seconds between two looks at who is late.
TICK_SECONDS = 0.1


class Watched(Protocol):
    """A connection, as far as somebody looks after it."""

    peer: str
    #: Seconds on the monotonic clock.
    deadline: float

    def on_deadline(self) -> None:
        """Do something about what did not happen."""

    def check_peer_closed(self) -> None:
        """Give up if the client has left."""

    def cut_off(self) -> None:
        """End, whatever is going on."""


class ConnectionManager:
    """Looks after all connections of a process: who is late, and whether there are new ones."""

    def __init__(self, max_per_address: int, proxies: TrustedProxies) -> None:
        """Look when `start` says so. An address has so many connections, if it is no trusted proxy's."""
        self._max_per_address = max_per_address
        self._proxies = proxies
        self._addresses: Counter[str] = Counter()
        self.connections: set[Watched] = set()
        #: Those that are not read, with which nobody would notice that they have left.
        self.unread: set[Watched] = set()
        self.is_ending = False
        self.flush_queue = FlushQueue()
        self.date = b""
        self.request_ids = RequestIds()
        self._tasks: list[Callable[[float], None]] = []
        self._timer: asyncio.TimerHandle | None = None

    def add(self, connection: Watched) -> bool:
        """Note a connection; return whether there may be one more of its address."""
        self.connections.add(connection)
        source = source_of(connection.peer)
        self._addresses[source] += 1
        return self._addresses[source] <= self._max_per_address or self._proxies.trusts(connection.peer)

    def remove(self, connection: Watched) -> None:
        """Forget a connection."""
        self.connections.discard(connection)
        self.unread.discard(connection)
        source = source_of(connection.peer)
        self._addresses[source] -= 1
        if not self._addresses[source]:
            del self._addresses[source]

    def add_tick_handler(self, task: Callable[[float], None]) -> None:
        """Have something done as often as connections are looked at."""
        self._tasks.append(task)

    def start(self) -> None:
        """Look, and go on doing so."""
        # First, so that nothing that goes wrong ends it.
        self._timer = asyncio.get_running_loop().call_later(TICK_SECONDS, self.start)
        now = time.monotonic()
        self.date = formatdate(usegmt=True).encode()
        due: list[Callable[[], None]] = [each.on_deadline for each in self.connections if each.deadline <= now]
        due += [each.check_peer_closed for each in self.unread]
        due += [partial(task, now) for task in self._tasks]
        for each in due:
            try:
                each()
            except Exception:  # noqa: BLE001 - the others are to be looked after all the same
                _log.exception("unhandled error")

    def cut_off(self) -> None:
        """End all connections."""
        for connection in tuple(self.connections):
            connection.cut_off()

    def stop(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()
