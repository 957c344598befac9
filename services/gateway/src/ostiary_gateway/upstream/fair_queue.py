"""Fair shares of the connections to one address, and the requests that wait for one.

A caller that holds its share or more gets no connection while only the reserved ones are left, and waits in a queue of
its own kind: so no caller alone can take a service away from the others.
"""

from collections import deque
from typing import Generic, Protocol, TypeVar

#: Requests that wait for a connection to one address; of callers over their share, half as many.
MAX_WAITING = 1024

#: A caller with this share of the connections or more is over its share; the reserved share is for the others.
CALLER_SHARE = 0.5
RESERVED_SHARE = 0.25

#: With fewer connections to an address, nothing is reserved.
MIN_SHARED_CONNECTIONS = 16


class Waiter(Protocol):
    """A request that waits for a connection."""

    @property
    def caller(self) -> str:
        """The client on whose behalf."""


W = TypeVar("W", bound=Waiter)


class FairQueue(Generic[W]):
    """Counts the connections that each caller holds, and decides whose turn it is."""

    def __init__(self, connections: int) -> None:
        self.max_connections = connections
        self._share, self._reserved = int(connections * CALLER_SHARE), int(connections * RESERVED_SHARE)
        if connections < MIN_SHARED_CONNECTIONS:
            self._share, self._reserved = connections + 1, 0
        self._held: dict[str, int] = {}
        self._waiting: deque[tuple[W, float]] = deque()
        self._over_share: deque[tuple[W, float]] = deque()

    def __len__(self) -> int:
        return len(self._waiting) + len(self._over_share)

    def may_connect(self, caller: str, busy: int) -> bool:
        """Return whether a caller gets a connection now, with so many in use."""
        free = self.max_connections - busy
        return free > self._reserved or (free > 0 and not self._is_over_share(caller))

    def hold(self, caller: str) -> None:
        """Count a connection for a caller."""
        self._held[caller] = self._held.get(caller, 0) + 1

    def release(self, caller: str) -> None:
        """Count one connection fewer."""
        left = self._held[caller] - 1
        if left:
            self._held[caller] = left
        else:
            del self._held[caller]

    def append(self, waiter: W, connect_seconds: float) -> bool:
        """Let a request wait; return False if too many do."""
        is_over_share = self._is_over_share(waiter.caller)
        queue, limit = (self._over_share, MAX_WAITING // 2) if is_over_share else (self._waiting, MAX_WAITING)
        if len(queue) >= limit:
            return False
        queue.append((waiter, connect_seconds))
        return True

    def remove(self, waiter: W) -> None:
        """Forget a request that no longer waits."""
        for queue in (self._waiting, self._over_share):
            for entry in [entry for entry in queue if entry[0] is waiter]:
                queue.remove(entry)

    def pop(self, busy: int) -> tuple[W, float] | None:
        """Return the next request that may connect, with so many connections in use; None if there is none."""
        while self._waiting and busy < self.max_connections:
            entry = self._waiting.popleft()
            if self.may_connect(entry[0].caller, busy):
                return entry
            # Its caller has reached its share since.
            self._over_share.append(entry)
        if self._over_share and self.may_connect(self._over_share[0][0].caller, busy):
            return self._over_share.popleft()
        return None

    def _is_over_share(self, caller: str) -> bool:
        return self._held.get(caller, 0) >= self._share
