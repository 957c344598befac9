"""A GET request of the gateway's own: for health checks and for the documents that services publish."""

import asyncio

from ostiary_gateway.http1.fields import Fields
from ostiary_gateway.http1.parser import DEFAULT_RESPONSE_HEAD_BYTES, Response
from ostiary_gateway.http1.write_buffer import FlushQueue
from ostiary_gateway.upstream.connection import SWITCHING_PROTOCOLS, Failure, UpstreamConnection
from ostiary_gateway.upstream.dialer import Dialer

#: Bytes of content.
MAX_CONTENT_BYTES = 8 * 1024 * 1024

_HEAD = b"GET %b HTTP/1.1\r\nhost: %b\r\nuser-agent: ostiary-gateway\r\nconnection: close\r\n\r\n"


class FetchError(ConnectionError):
    """There is no response, or not one that can be used."""


async def fetch(name: str, dialer: Dialer, host: bytes, path: str, seconds: float) -> tuple[int, bytes]:
    """Return status and content of an upstream's response, received within `seconds`. Raises OSError.

    `host` is the value of `Host`.
    """
    request = _Fetch(name, host)
    async with asyncio.timeout(seconds):
        _, connection = await dialer.dial(lambda: UpstreamConnection(request), seconds)
        try:
            head = _HEAD % (path.encode(), host)
            connection.send_request(request, "GET", head, has_content=False)
            return await request.response
        finally:
            connection.abort()


class _Fetch:
    """Owner and ResponseHandler of the connection for one request."""

    def __init__(self, name: str, host: bytes) -> None:
        self.name = name
        self.host = host
        self.flush_queue = FlushQueue()
        self.header_bytes = DEFAULT_RESPONSE_HEAD_BYTES
        self.caller = ""
        self.is_repeatable = False
        self.response: asyncio.Future[tuple[int, bytes]] = asyncio.get_running_loop().create_future()
        self._status = 0
        self._content: list[bytes] = []
        self._size = 0

    def on_connection(self, connection: UpstreamConnection) -> None:
        """Nothing: `fetch` sends the request."""

    def on_head(self, response: Response) -> None:
        self._status = response.status
        if response.status == SWITCHING_PROTOCOLS:
            self._fail("unexpected switch of protocols")

    def on_content(self, content: bytes) -> None:
        self._size += len(content)
        if self._size > MAX_CONTENT_BYTES:
            self._fail("content too large")
        else:
            self._content.append(content)

    def on_end(self, _trailers: Fields) -> None:
        if not self.response.done():
            self.response.set_result((self._status, b"".join(self._content)))

    def on_failure(self, failure: Failure) -> None:
        self._fail(failure.value)

    def on_read_complete(self) -> None:
        """Nothing: content is collected."""

    def on_tunnel(self, data: bytes) -> None:
        """Nothing: the request has failed."""

    def on_writable(self, writable: bool) -> None:
        """Nothing: the request is a head alone."""

    def put_back(self, connection: UpstreamConnection) -> None:
        connection.abort()

    def forget(self, connection: UpstreamConnection) -> None:
        """Nothing: no other request uses the connection."""

    def succeeded(self) -> None:
        """Nothing: only callers' requests are counted."""

    def failed(self, caller: str) -> None:
        """Nothing, as above."""

    def _fail(self, reason: str) -> None:
        if not self.response.done():
            self.response.set_exception(FetchError(reason))
