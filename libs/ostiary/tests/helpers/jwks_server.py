"""A real HTTP server on loopback, for tests that fetch keys."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Self

from ostiary import Verifier, VerifierConfig
from ostiary.testing import Issuer

Respond = Callable[[asyncio.StreamWriter, str], Awaitable[None]]


def response(body: bytes, status: str = "200 OK", *fields: str, content_type: str = "application/json") -> bytes:
    head = "\r\n".join([f"HTTP/1.1 {status}", f"Content-Type: {content_type}", f"Content-Length: {len(body)}", *fields])
    return head.encode() + b"\r\nConnection: close\r\n\r\n" + body


class JwksServer:
    """An issuer's HTTP server on loopback; `respond` is what it does with a request."""

    def __init__(self) -> None:
        self.respond: Respond = self.hang
        self.paths: list[str] = []
        self.tasks: set[asyncio.Task[None]] = set()
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def answer(self, *chunks: bytes) -> None:
        async def respond(writer: asyncio.StreamWriter, _path: str) -> None:
            for chunk in chunks:
                writer.write(chunk)
                await writer.drain()

        self.respond = respond

    @staticmethod
    async def hang(_writer: asyncio.StreamWriter, _path: str) -> None:
        await asyncio.sleep(3600)

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                path = (await reader.readuntil(b"\r\n\r\n")).split(b" ")[1].decode()
                self.paths.append(path)
                await self.respond(writer, path)
                writer.close()
                await writer.wait_closed()
        finally:
            writer.transport.abort()

    @contextlib.asynccontextmanager
    async def listening(self, context: ssl.SSLContext | None = None) -> AsyncIterator[Self]:
        server = await asyncio.start_server(self.handle, "127.0.0.1", 0, ssl=context)
        self.port = server.sockets[0].getsockname()[1]
        yield self
        server.close()
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


def verifier_of(issuer: Issuer, server: JwksServer, **settings: object) -> Verifier:
    config = VerifierConfig(
        issuer=issuer.issuer,
        audience=issuer.audience,
        jwks_url=f"{server.url}/jwks",
        **settings,  # type: ignore[arg-type]  # test settings
    )
    return Verifier(config)


async def reset(writer: asyncio.StreamWriter, _path: str) -> None:
    writer.transport.abort()
