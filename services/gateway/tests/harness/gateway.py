"""A gateway between clients and an upstream, all in one process, on unix sockets."""

import asyncio
import ssl
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from functools import cache
from pathlib import Path

import httpx
import uvicorn.server

from harness.client import ClientSocket, ReceivedResponse, parse_responses
from harness.waiting import PATIENCE, until
from ostiary import Verifier
from ostiary_gateway.app import Gateway
from ostiary_gateway.config import GatewayConfig
from ostiary_gateway.observability.tracing import Tracing
from ostiary_gateway.proxy.downstream import ClientConnection
from ostiary_gateway.routing.bypass_check import IndexedRoutes, indexed
from ostiary_gateway.routing.loader import load_file
from ostiary_gateway.upstream.cluster import Cluster

#: For clients that never use it: loading the system's certificates for each of them takes 20 ms.
_NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


@contextmanager
def short_directory() -> Iterator[Path]:
    """Create a temporary directory for unix sockets, whose paths may have 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="gw-") as name:
        yield Path(name)


#: So that tests need no second address.
PUBLIC = ("/readyz", "/metrics")


class GatewayHarness:
    """A gateway in this process, and its clients."""

    def __init__(self, gateway: Gateway, path: Path, client: httpx.AsyncClient) -> None:
        self.gateway = gateway
        self.path = path
        self.client = client
        self._sockets: list[ClientSocket] = []

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        routes: str,
        upstream_url: str,
        verifier: Verifier | None,
        tracing: Tracing | None = None,
        config: GatewayConfig | None = None,
    ) -> AsyncIterator["GatewayHarness"]:
        """Run a gateway with these routes, in which `${UPSTREAM}` stands for the upstream's URL."""
        async with AsyncExitStack() as stack:
            directory = stack.enter_context(short_directory())
            loaded = _load(routes, upstream_url)
            gateway = Gateway(
                config or GatewayConfig(issuer="http://gw", public_operations=PUBLIC),
                loaded,
                verifier=verifier,
                tracing=tracing,
            )
            harness = await stack.enter_async_context(cls._serving(gateway, directory / "gw"))
            if verifier is not None:
                await stack.enter_async_context(gateway.app.router.lifespan_context(gateway.app))
            yield harness

    @classmethod
    @asynccontextmanager
    async def _serving(cls, gateway: Gateway, path: Path) -> AsyncIterator["GatewayHarness"]:
        loop = asyncio.get_running_loop()
        state = uvicorn.server.ServerState()
        server = await loop.create_unix_server(lambda: gateway.protocol(server_state=state, app_state={}), path)
        async with httpx.AsyncClient(
            transport=httpx.AsyncHTTPTransport(verify=_NO_TLS, uds=str(path)), base_url="http://gw", timeout=PATIENCE
        ) as client:
            harness = cls(gateway, path, client)
            try:
                yield harness
            finally:
                harness._hang_up()
                server.close()
        await until(lambda: not state.connections)
        for pool in [pool for upstream in gateway.runtime.current.upstreams.values() for pool in upstream.pools]:
            pool.close()
            await until(lambda pool=pool: not pool._open and not pool._dials)  # type: ignore[misc]  # a default

    def _hang_up(self) -> None:
        """Close all client connections, on both sides."""
        for socket in self._sockets:
            if not socket.is_closed:
                socket.transport.abort()
        for transport in self.transports:
            # While reading is paused, the gateway does not notice that its client has closed.
            transport.abort()

    @property
    def transports(self) -> list[asyncio.Transport]:
        """The transports of `connections`."""
        return [each._transport for each in self.connections if each._transport is not None]

    @property
    def connections(self) -> list[ClientConnection]:
        """The gateway's side of client connections."""
        return [each for each in self.gateway._manager.connections if isinstance(each, ClientConnection)]

    def limit_connections(self, count: int) -> None:
        """Allow `count` connections to each endpoint of each upstream."""
        for upstream in self.gateway.runtime.current.upstreams.values():
            for pool in upstream.pools:
                pool._queue.max_connections = count

    def upstream(self, name: str = "up") -> Cluster:
        return self.gateway.runtime.current.upstreams[name]

    async def connect(self, peer: str | None = None) -> ClientSocket:
        """Open a connection, from the address `peer` if given."""
        manager = self.gateway._manager
        known = set(manager.connections)
        _, socket = await asyncio.get_running_loop().create_unix_connection(ClientSocket, str(self.path))
        self._sockets.append(socket)
        if peer is not None:
            await until(lambda: manager.connections - known)
            (connection,) = manager.connections - known
            manager.remove(connection)
            connection.peer = peer
            manager.add(connection)
        return socket

    async def connect_both_sides(self) -> tuple[ClientSocket, ClientConnection]:
        """Open a connection. Return the client's and the gateway's side."""
        known = set(self.connections)
        socket = await self.connect()
        await until(lambda: set(self.connections) - known)
        (connection,) = set(self.connections) - known
        return socket, connection

    async def send_raw(self, data: bytes) -> bytes:
        """Send bytes on a new connection. Return all received bytes once the gateway closes it."""
        socket = await self.connect()
        socket.send(data)
        return await socket.wait_closed()

    async def request(
        self, target: str, *lines: str, method: str = "GET", body: bytes = b"", peer: str | None = None
    ) -> ReceivedResponse:
        """Send a request on a new connection, with these field lines unchanged. Return the response."""
        head = [f"{method} {target} HTTP/1.1", "Host: gw", "Connection: close", *lines, "", ""]
        socket = await self.connect(peer)
        socket.send("\r\n".join(head).encode("latin-1") + body)
        return parse_responses(await socket.wait_closed(), method)[0]


@cache
def _load(routes: str, upstream_url: str) -> IndexedRoutes:
    """Load a routes file, once for all tests that share it."""
    with short_directory() as directory:
        file = directory / "gateway.yaml"
        file.write_text(routes)
        return indexed(load_file(file, {"UPSTREAM": upstream_url}))
