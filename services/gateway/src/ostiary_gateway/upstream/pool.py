"""The connections to one address of an upstream: leased for one request each, kept while they are safe to reuse."""

import asyncio
import time
from collections import deque
from contextlib import suppress
from typing import Protocol

import structlog

from ostiary_chassis.descriptors import CONNECT, shortage
from ostiary_gateway.http1.parser import DEFAULT_RESPONSE_HEAD_BYTES
from ostiary_gateway.http1.write_buffer import FlushQueue
from ostiary_gateway.upstream.connection import Failure, ResponseHandler, UpstreamConnection
from ostiary_gateway.upstream.dialer import DIAL_ERRORS, Dialer
from ostiary_gateway.upstream.fair_queue import FairQueue

#: Seconds that a connection stays open without a request: less than servers keep theirs.
IDLE_SECONDS = 4.0

#: Seconds after which a connection is not reused, so that a balancer behind the address distributes connections anew.
MAX_AGE_SECONDS = 300.0

_log = structlog.stdlib.get_logger("upstream")


class Outcomes(Protocol):
    """Counts how connections and requests to an address end."""

    def connected(self) -> None:
        """Note that the address takes connections."""

    def succeeded(self) -> None:
        """Count a response."""

    def failed(self, caller: str | None) -> None:
        """Count a request without a response; of no caller if the address could not be connected to."""


class _Dial:
    """A connection that is being opened. If its handler has left, it is for whichever comes next."""

    def __init__(self, handler: ResponseHandler) -> None:
        self.handler: ResponseHandler | None = handler
        self.caller: str | None = handler.caller


class Pool:
    """The connections to one address. An Owner of connections."""

    def __init__(
        self,
        name: str,
        dialer: Dialer,
        connections: int,
        outcomes: Outcomes,
        *,
        header_bytes: int = DEFAULT_RESPONSE_HEAD_BYTES,
    ) -> None:
        """Make an empty pool of at most `connections`, on which heads have at most `header_bytes`."""
        self.name = name
        self.header_bytes = header_bytes
        self.dialer = dialer
        self.host = self.dialer.host
        #: Of this pool alone, so that what goes to one address is sent together.
        self.flush_queue = FlushQueue()
        self._outcomes = outcomes
        self._queue: FairQueue[ResponseHandler] = FairQueue(connections)
        self._idle: deque[UpstreamConnection] = deque()
        self._open: set[UpstreamConnection] = set()
        self._dials: set[_Dial] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_retired = False
        self._is_serving = False

    @property
    def idle(self) -> int:
        """Connections without a request."""
        return len(self._idle)

    @property
    def busy(self) -> int:
        """Connections with a request, or being opened."""
        return len(self._open) - len(self._idle) + len(self._dials)

    @property
    def waiting(self) -> int:
        """Requests that wait for a connection."""
        return len(self._queue)

    @property
    def outstanding(self) -> int:
        """Requests that wait for a connection or a response."""
        return self.busy + self.waiting

    def lease(self, handler: ResponseHandler, connect_seconds: float, *, new: bool = False) -> None:
        """Give `handler` a connection, now or later, or tell it why not. `new` makes it one never used before."""
        if not self._queue.may_connect(handler.caller, self.busy):
            if not self._queue.append(handler, connect_seconds):
                handler.on_failure(Failure.OVERLOADED)
            return
        connection = None if new else self._pop_idle(is_checked=not handler.is_repeatable)
        if connection is not None:
            self._hand_over(connection, handler)
        else:
            self._dial(handler, connect_seconds)

    def cancel(self, handler: ResponseHandler) -> None:
        """Forget a handler that waits for a connection."""
        self._queue.remove(handler)
        for dial in self._dials:
            if dial.handler is handler:
                dial.handler = None

    def put_back(self, connection: UpstreamConnection) -> None:
        """Take back a connection that is safe to reuse."""
        self._release(connection)
        now = connection.idle_since = time.monotonic()
        if self._is_retired or now - connection.opened_at >= MAX_AGE_SECONDS:
            self._discard(connection)
        else:
            self._idle.append(connection)
        self._serve_waiting()

    def forget(self, connection: UpstreamConnection) -> None:
        """Forget a closed connection; there is room for another one."""
        self._open.discard(connection)
        self._release(connection)
        with suppress(ValueError):
            self._idle.remove(connection)
        self._serve_waiting()

    def succeeded(self) -> None:
        """Count a response."""
        self._outcomes.succeeded()

    def failed(self, caller: str) -> None:
        """Count a request without a response."""
        self._outcomes.failed(caller)

    def sweep(self, now: float) -> None:
        """Close connections that have been idle for too long."""
        while self._idle and now - self._idle[0].idle_since > IDLE_SECONDS:
            self._discard(self._idle.popleft())

    def retire(self) -> None:
        """Close idle connections, and the others after their response."""
        self._is_retired = True
        while self._idle:
            self._discard(self._idle.pop())

    def close(self) -> None:
        """Close all connections."""
        for task in self._tasks:
            task.cancel()
        for connection in tuple(self._open):
            connection.abort()

    def _serve_waiting(self) -> None:
        if self._is_serving or not self.waiting:
            # In the former case, whoever got a connection has given it back at once; the loop below goes on.
            return
        self._is_serving = True
        try:
            while (entry := self._queue.pop(self.busy)) is not None:
                self.lease(*entry)
        finally:
            self._is_serving = False

    def _pop_idle(self, *, is_checked: bool) -> UpstreamConnection | None:
        """Return an idle connection, of which the system is asked whether it is still open if `is_checked`."""
        while self._idle:
            # The one used last, so that the others reach their idle timeout.
            connection = self._idle.pop()
            if _is_fresh(connection) and (not is_checked or connection.is_quiet()):
                return connection
            self._discard(connection)
        return None

    def _hand_over(self, connection: UpstreamConnection, handler: ResponseHandler) -> None:
        connection.caller = handler.caller
        self._queue.hold(handler.caller)
        handler.on_connection(connection)

    def _release(self, holder: "UpstreamConnection | _Dial") -> None:
        caller, holder.caller = holder.caller, None
        if caller is not None:
            self._queue.release(caller)

    def _discard(self, connection: UpstreamConnection) -> None:
        self._open.discard(connection)
        connection.abort()

    def _dial(self, handler: ResponseHandler, seconds: float) -> None:
        if len(self._open) + len(self._dials) >= self._queue.max_connections:
            self._discard(self._idle.popleft())
        dial = _Dial(handler)
        self._queue.hold(handler.caller)
        self._dials.add(dial)
        task = asyncio.create_task(self._finish_dial(dial, seconds))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _finish_dial(self, dial: _Dial, seconds: float) -> None:
        try:
            _, connection = await self.dialer.dial(lambda: UpstreamConnection(self), seconds)
        except DIAL_ERRORS as error:
            self._end_dial(dial)
            # It says nothing about the endpoint.
            is_ours = shortage.is_cause(error, CONNECT)
            if not is_ours:
                _log.warning("connection failed", upstream=self.name, error=type(error).__name__)
                self._outcomes.failed(None)
            if dial.handler is not None:
                dial.handler.on_failure(Failure.OVERLOADED if is_ours else Failure.UNREACHABLE)
            self._serve_waiting()
            return
        self._end_dial(dial)
        self._outcomes.connected()
        handler = dial.handler
        if connection.is_open:
            self._open.add(connection)
            if handler is not None:
                self._hand_over(connection, handler)
            else:
                self.put_back(connection)
        elif handler is not None:
            # Closed before a request was sent.
            handler.on_failure(Failure.UNREACHABLE)
        self._serve_waiting()

    def _end_dial(self, dial: _Dial) -> None:
        self._dials.discard(dial)
        self._release(dial)


def _is_fresh(connection: UpstreamConnection) -> bool:
    now = time.monotonic()
    is_young = now - connection.opened_at < MAX_AGE_SECONDS and now - connection.idle_since < IDLE_SECONDS
    return is_young and connection.is_open
