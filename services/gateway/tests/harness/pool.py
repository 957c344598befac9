"""Pools of upstream connections: handlers, controlled dials, stale connections."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness import GatewayHarness, ReceivedRequest, RecordingUpstream, until
from ostiary_gateway.http1.fields import Fields
from ostiary_gateway.http1.parser import Response
from ostiary_gateway.upstream.connection import Failure, UpstreamConnection
from ostiary_gateway.upstream.dialer import Dialer
from ostiary_gateway.upstream.pool import Pool

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class FakeHandler:
    """A `ResponseHandler` that records what it is given."""

    def __init__(self, caller: str) -> None:
        self.caller = caller
        self.is_repeatable = True
        self.connection: UpstreamConnection | None = None
        self.failures: list[Failure] = []

    @property
    def leased(self) -> UpstreamConnection:
        assert self.connection is not None
        return self.connection

    def on_connection(self, connection: UpstreamConnection) -> None:
        assert self.connection is None
        self.connection = connection
        connection.send_request(self, "GET", b"", has_content=False)

    def on_failure(self, failure: Failure) -> None:
        self.failures.append(failure)

    def on_head(self, response: Response) -> None:
        pass

    def on_content(self, content: bytes) -> None:
        pass

    def on_read_complete(self) -> None:
        pass

    def on_end(self, trailers: Fields) -> None:
        pass

    def on_tunnel(self, data: bytes) -> None:
        pass

    def on_writable(self, writable: bool) -> None:
        pass


class RecordedOutcomes:
    """Records the outcomes that a pool reports."""

    def __init__(self) -> None:
        self.failed_for: list[str | None] = []
        self.answers = 0

    def connected(self) -> None:
        pass

    def succeeded(self) -> None:
        self.answers += 1

    def failed(self, client: str | None) -> None:
        self.failed_for.append(client)


class ControlledDials:
    """Dials to one path wait until the test completes their future: True connects, False refuses."""

    def __init__(self, patch: pytest.MonkeyPatch, path: Path) -> None:
        loop = asyncio.get_running_loop()
        self._dial: Callable[..., Any] = loop.create_unix_connection
        self._path = str(path)
        self.pending: list[asyncio.Future[bool]] = []
        patch.setattr(loop, "create_unix_connection", self._create)

    async def _create(self, protocol: Callable[[], asyncio.BaseProtocol], path: str) -> object:
        if path == self._path:
            dial: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
            self.pending.append(dial)
            if not await dial:
                raise ConnectionRefusedError
        return await self._dial(protocol, path)

    async def wait_dialed(self, times: int) -> None:
        await until(lambda: len(self.pending) == times)


class PoolHarness:
    """A pool and its handlers."""

    def __init__(self, url: str, connections: int) -> None:
        self.outcomes = RecordedOutcomes()
        self.pool = Pool("up", Dialer(url, None), connections, self.outcomes)

    def lease(self, client: str = "ada", *, new: bool = False) -> FakeHandler:
        handler = FakeHandler(client)
        self.pool.lease(handler, 1.0, new=new)
        return handler

    async def leases(self, count: int, client: str = "ada") -> list[FakeHandler]:
        """Lease so many connections."""
        handlers = [self.lease(client) for _ in range(count)]
        await until(lambda: all(each.connection for each in handlers))
        return handlers

    def release(self, handler: FakeHandler) -> None:
        """Complete the response, which returns the connection to the pool."""
        handler.leased.data_received(OK)

    @property
    def held(self) -> dict[str, int]:
        """Connections counted for each client."""
        return dict(self.pool._queue._held)

    async def wait_empty(self) -> None:
        """Wait until nothing is left in the pool."""
        pool = self.pool
        await until(lambda: not (pool._open or pool._dials or pool._tasks or pool.waiting))
        assert (self.held, pool.busy, pool.idle, pool.outstanding) == ({}, 0, 0, 0)


MakePool = Callable[[int], PoolHarness]


async def wait_idle(harness: GatewayHarness, count: int = 1) -> None:
    """Wait until the gateway has so many idle connections."""
    (upstream,) = harness.gateway.runtime.current.upstreams.values()
    (pool,) = upstream.pools
    await until(lambda: len(pool._idle) == count)


async def pool_a_connection(harness: GatewayHarness, upstream: RecordingUpstream) -> None:
    """Send a request, after which its connection is idle."""
    upstream.response = OK
    await harness.request("/any/x")
    await wait_idle(harness)


class RespondOncePerConnection:
    """Responds once on each connection, and closes it: at once, or at the next request."""

    def __init__(self, upstream: RecordingUpstream, *, at_once: bool) -> None:
        self._upstream = upstream
        self._at_once = at_once

    async def __call__(self, request: ReceivedRequest, writer: asyncio.StreamWriter) -> None:
        before = [each for each in self._upstream.requests if each.connection is request.connection]
        if len(before) == 1:
            writer.write(OK)
            await writer.drain()
        if self._at_once or len(before) > 1:
            writer.close()
