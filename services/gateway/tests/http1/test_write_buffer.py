"""Writes are flushed together and in order, and none is lost when a connection closes."""

import asyncio

import pytest
from harness import GatewayHarness, RecordingUpstream, parse_responses, until

from ostiary.testing import Issuer
from ostiary_gateway.http1.write_buffer import MAX_BUFFERED_BYTES, FlushQueue, WriteBufferedProtocol

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

ROUTES = """\
upstreams:
  up: {url: "${UPSTREAM}"}
routes:
  - {name: any, match: {path: "/any/{rest...}", methods: [GET]}, upstream: up, access: public}
"""


class RecordingTransport(asyncio.Transport):
    """Appends its calls to a list of events."""

    def __init__(self, events: list[object]) -> None:
        super().__init__()
        self._events = events

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._events.append(bytes(data))

    def abort(self) -> None:
        self._events.append("abort")

    def get_write_buffer_size(self) -> int:
        return 0


@pytest.fixture
def events() -> list[object]:
    return []


def make_connection(flush_queue: FlushQueue, events: list[object]) -> WriteBufferedProtocol:
    connection = WriteBufferedProtocol(flush_queue)
    connection._transport = RecordingTransport(events)
    return connection


async def iterate() -> None:
    """Run pending callbacks, and those that they schedule."""
    await asyncio.sleep(0)
    await asyncio.sleep(0)


async def test_writes_are_flushed_after_all_pending_callbacks(events: list[object]) -> None:
    flush_queue = FlushQueue()
    loop = asyncio.get_running_loop()

    def on_data(name: str, connection: WriteBufferedProtocol) -> None:
        events.append(name)
        connection.write(name.encode())

    for name in ("one", "two", "three"):
        loop.call_soon(on_data, name, make_connection(flush_queue, events))
    await iterate()
    assert events == ["one", "two", "three", b"one", b"two", b"three"]


async def test_small_writes_are_joined(events: list[object]) -> None:
    connection = make_connection(FlushQueue(), events)
    for part in (b"a", b"", b"b", b"c"):
        connection.write(part)
    assert (events, connection.unsent) == ([], 3)
    await iterate()
    assert (events, connection.unsent) == ([b"abc"], 0)
    connection.write(b"d")
    await iterate()
    assert events == [b"abc", b"d"]


async def test_large_writes_are_not_buffered_and_keep_their_order(events: list[object]) -> None:
    connection, large = make_connection(FlushQueue(), events), b"x" * (MAX_BUFFERED_BYTES + 1)
    connection.write(large)
    assert events == [large]
    connection.write(b"before")
    connection.write(large)
    assert events == [large, b"before" + large]
    connection.write(b"after")
    await iterate()
    assert events == [large, b"before" + large, b"after"]


async def test_buffered_bytes_are_sent_before_an_abort(events: list[object]) -> None:
    connection = make_connection(FlushQueue(), events)
    connection.write(b"last")
    connection._abort()
    await iterate()
    assert events == [b"last", "abort"]


async def test_a_lost_connection_sends_nothing(events: list[object]) -> None:
    connection = make_connection(FlushQueue(), events)
    connection.write(b"late")
    connection._transport = None
    connection.write(b"later")
    await iterate()
    assert events == []
    connection._abort()


async def test_a_shutdown_flushes_responses_before_it_closes(issuer: Issuer, upstream: RecordingUpstream) -> None:
    async with GatewayHarness.open(ROUTES, upstream.url, issuer.verifier()) as harness:
        upstream.response = OK
        client, connection = await harness.connect_both_sides()
        client.send(b"GET /any/x HTTP/1.1\r\nHost: gw\r\n\r\n")
        await until(lambda: connection._unsent)
        connection.shutdown()
        (response,) = parse_responses(await client.wait_closed())
        assert (response.body, response.is_complete) == (b"ok", True)
