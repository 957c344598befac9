"""A circuit breaker: no requests go to an upstream while most of them fail, so that it can recover.

    CLOSED -- most requests fail --> OPEN -- its time is over, or a probe connects --> HALF_OPEN
       ^                              ^                                                 |     |
       |                              +------ a connection fails, or most requests -----+     |
       +-------------------------------------- a response ------------------------------------+

A failure that a caller may have brought about counts once for each caller, so that no caller can take a service away
from the others by requests that the service does not answer.
"""

import time
from typing import Final

from ostiary_gateway.state import State

#: Seconds over which requests and failures are counted.
WINDOW_SECONDS = 10.0

#: It opens if at least so many requests were counted, and at least this share of them failed.
MIN_REQUESTS = 20
FAILURE_SHARE = 0.5

#: Seconds that it stays open.
OPEN_SECONDS = 2.0

CLOSED: Final = State("closed")
OPEN: Final = State("open")
HALF_OPEN: Final = State("half open")
CLOSED.leads_to(OPEN)
OPEN.leads_to(HALF_OPEN)
HALF_OPEN.leads_to(CLOSED, OPEN)


class CircuitBreaker:
    """The circuit breaker of one upstream."""

    def __init__(self) -> None:
        self._state: State = CLOSED
        self._open_until = 0.0
        self._opened_unreachable = False
        self._window_ends_at = 0.0
        self._requests = self._failures = 0
        #: Callers whose failures have been counted.
        self._callers: set[str] = set()

    @property
    def is_open(self) -> bool:
        """Whether requests are rejected."""
        if self._state is OPEN and time.monotonic() >= self._open_until:
            self._enter(HALF_OPEN)
        return self._state is OPEN

    @property
    def awaits_connection(self) -> bool:
        """Whether it is open because connections failed, so that one that succeeds ends that."""
        return self._opened_unreachable and self.is_open

    def succeeded(self) -> bool:
        """Count a response; return whether it closed the breaker."""
        self._requests += 1
        # A response that arrives while it is open is to a request from before.
        if self._state is CLOSED or self.is_open:
            return False
        self._enter(CLOSED)
        self._begin_window(time.monotonic())
        return True

    def failed(self, caller: str | None) -> bool:
        """Count a failure, of no caller if a connection failed; return whether it opened the breaker."""
        if self.is_open:
            return False
        now = time.monotonic()
        if now >= self._window_ends_at:
            self._begin_window(now)
        if caller is not None:
            if caller in self._callers:
                return False
            self._callers.add(caller)
        self._requests += 1
        self._failures += 1
        most_fail = self._requests >= MIN_REQUESTS and self._failures >= self._requests * FAILURE_SHARE
        if not most_fail and not (self._state is HALF_OPEN and caller is None):
            return False
        self._enter(OPEN)
        self._open_until = now + OPEN_SECONDS
        self._opened_unreachable = caller is None
        self._begin_window(self._open_until)
        return True

    def connected(self) -> None:
        """Let requests through again: a connection has succeeded."""
        if self.is_open:
            self._enter(HALF_OPEN)

    def _enter(self, state: State) -> None:
        self._state = self._state.to(state)

    def _begin_window(self, now: float) -> None:
        self._window_ends_at, self._requests, self._failures = now + WINDOW_SECONDS, 0, 0
        self._callers.clear()
