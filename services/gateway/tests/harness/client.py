"""A client's side: raw sockets, and responses parsed by h11."""

import asyncio
import json
from dataclasses import dataclass, field

import h11

from harness.fields import Fields, decode
from harness.waiting import until


@dataclass
class ReceivedResponse:
    """A response, as a client receives it."""

    status: int
    fields: Fields
    body: bytes = b""
    trailers: Fields = field(default_factory=list)
    #: Statuses of interim responses before it.
    interim: list[int] = field(default_factory=list)
    is_complete: bool = False

    def values(self, name: str) -> list[str]:
        return [value for each, value in self.fields if each == name]

    @property
    def code(self) -> str:
        """The code in a problem document (RFC 9457)."""
        assert self.values("content-type") == ["application/problem+json"]
        return str(json.loads(self.body)["code"])


def parse_responses(data: bytes, *methods: str) -> list[ReceivedResponse]:
    """Parse responses to requests with these methods, GET by default. Nothing may follow them."""
    responses = []
    for method in methods or ("GET",):
        parser = h11.Connection(h11.CLIENT)
        parser.send(h11.Request(method=method, target="/", headers=[("Host", "gw")]))
        parser.send(h11.EndOfMessage())
        parser.receive_data(data)
        responses.append(_parse_response(parser))
        data = parser.trailing_data[0]
    assert data == b""
    return responses


def _parse_response(parser: h11.Connection) -> ReceivedResponse:
    interim: list[int] = []
    response: ReceivedResponse | None = None
    while not isinstance(event := parser.next_event(), h11.EndOfMessage):
        if isinstance(event, h11.InformationalResponse):
            interim.append(event.status_code)
        elif isinstance(event, h11.Response):
            response = ReceivedResponse(event.status_code, decode(event.headers), interim=interim)
        elif isinstance(event, h11.Data):
            assert response is not None
            response.body += event.data
        else:
            assert response is not None, "no response"
            return response
    assert response is not None
    response.trailers, response.is_complete = decode(event.headers), True
    return response


class ClientSocket(asyncio.Protocol):
    """The client's side of a connection."""

    def __init__(self) -> None:
        self.received = b""
        self.is_closed = False
        self._transport: asyncio.Transport | None = None

    @property
    def transport(self) -> asyncio.Transport:
        assert self._transport is not None
        return self._transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # of a stream; uvloop's is no asyncio.Transport

    def data_received(self, data: bytes) -> None:
        self.received += data

    def connection_lost(self, _error: Exception | None) -> None:
        self.is_closed = True

    def send(self, data: bytes) -> None:
        self.transport.write(data)

    async def wait_for(self, part: bytes, times: int = 1) -> None:
        """Wait until the received bytes contain `part` that many times."""
        await until(lambda: self.received.count(part) >= times)

    async def wait_closed(self) -> bytes:
        """Wait for the gateway to close the connection. Return all received bytes."""
        await until(lambda: self.is_closed)
        return self.received
