"""What connections have to send goes out together, in its order, and none of it is lost when one closes."""

import asyncio

import pytest
from harness import GatewayHarness, RecordingUpstream, answers, until

from ostiary.testing import Issuer
from ostiary_gateway.http1.write_buffer import MAX_WAITING_BYTES, FlushQueue, WriteBufferedProtocol

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

ROUTES = """\
upstreams:
  up: {url: "${UPSTREAM}"}
routes:
  - {name: any, match: {path: "/any/{rest...}", methods: [GET]}, upstream: up, access: public}
"""


class Wire(asyncio.Transport):
    """Notes what is done with it, among other things that happen."""

    def __init__(self, happened: list[object]) -> None:
        super().__init__()
        self._happened = happened

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._happened.append(bytes(data))

    def abort(self) -> None:
        self._happened.append("abort")

    def get_write_buffer_size(self) -> int:
        return 0


@pytest.fixture
def happened() -> list[object]:
    return []


def sender(flush_queue: FlushQueue, happened: list[object]) -> WriteBufferedProtocol:
    it = WriteBufferedProtocol(flush_queue)
    it._transport = Wire(happened)
    return it


async def turn() -> None:
    """Let all that is due now be done, and what comes of it at once."""
    await asyncio.sleep(0)
    await asyncio.sleep(0)


async def test_what_several_have_to_say_is_sent_after_all_that_came_was_looked_at(happened: list[object]) -> None:
    flush_queue = FlushQueue()
    loop = asyncio.get_running_loop()

    def look(name: str, it: WriteBufferedProtocol) -> None:
        happened.append(name)
        it.write(name.encode())

    for name in ("one", "two", "three"):
        loop.call_soon(look, name, sender(flush_queue, happened))
    await turn()
    assert happened == ["one", "two", "three", b"one", b"two", b"three"]


async def test_what_one_has_to_say_in_a_turn_is_sent_at_once(happened: list[object]) -> None:
    it = sender(FlushQueue(), happened)
    for part in (b"a", b"", b"b", b"c"):
        it.write(part)
    assert (happened, it.unsent) == ([], 3)
    await turn()
    assert (happened, it.unsent) == ([b"abc"], 0)
    it.write(b"d")
    await turn()
    assert happened == [b"abc", b"d"]


async def test_much_is_sent_without_waiting_and_in_its_order(happened: list[object]) -> None:
    it, much = sender(FlushQueue(), happened), b"x" * (MAX_WAITING_BYTES + 1)
    it.write(much)
    assert happened == [much]
    it.write(b"before")
    it.write(much)
    assert happened == [much, b"before" + much]
    it.write(b"after")
    await turn()
    assert happened == [much, b"before" + much, b"after"]


async def test_what_was_written_before_the_end_is_sent(happened: list[object]) -> None:
    it = sender(FlushQueue(), happened)
    it.write(b"last")
    it._abort()
    await turn()
    assert happened == [b"last", "abort"]


async def test_who_is_not_connected_any_more_sends_nothing(happened: list[object]) -> None:
    it = sender(FlushQueue(), happened)
    it.write(b"late")
    it._transport = None
    it.write(b"later")
    await turn()
    assert happened == []
    it._abort()


async def test_an_answer_is_sent_before_a_gateway_that_ends_closes(issuer: Issuer, upstream: RecordingUpstream) -> None:
    async with GatewayHarness.open(ROUTES, upstream.url, issuer.verifier()) as harness:
        upstream.answer = OK
        line, connection = await harness.connected()
        line.send(b"GET /any/x HTTP/1.1\r\nHost: gw\r\n\r\n")
        await until(lambda: connection._unsent)
        connection.shutdown()
        (answer,) = answers(await line.closed())
        assert (answer.body, answer.is_complete) == (b"ok", True)
