"""Random clients, responses and failures: nothing hangs, and nothing is left behind."""

import asyncio
import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import uvloop
from harness import ClientSocket, GatewayHarness, ReceivedRequest, RecordingUpstream, eventually

from ostiary.testing import Issuer

#: Clients at a time, and how often.
CLIENTS, ROUNDS = 12, 5

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
OPENED = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
FRAME = b"\x82\x02hi"
LONG_FRAME = b"\x82\x7f" + (300_000).to_bytes(8) + b"x" * 300_000

ROUTES = """\
upstreams:
  up:
    urls: ["%s", "%s", "unix:/nowhere"]
    connections: %d
    health: {path: /health, seconds: 0.2, timeout: 0.1}
routes:
  - {name: any, match: {path: "/any/{rest...}", methods: [GET, HEAD, POST, PUT]}, upstream: up, access: public,
     timeouts: {connect: 0.1, first_byte: 0.2, idle: 0.2}, retries: {attempts: 2, statuses: [503]},
     limits: {body_bytes: 1000000}}
  - {name: live, match: {path: /live, methods: [GET]}, upstream: up, access: public, websocket: true,
     timeouts: {connect: 0.1, first_byte: 0.2, idle: 0.2}}
"""

#: What services answer, and whether they close then. None is no answer at all.
ANSWERS: list[tuple[list[bytes] | None, bool]] = [
    ([OK], False),
    ([OK], False),
    ([OK], True),
    ([], True),
    ([b"HTTP/1.1 2"], True),
    ([b"nonsense\r\n\r\n"], False),
    ([b"HTTP/1.1 103 Early Hints\r\n\r\n" * 3 + OK], False),
    ([b"HTTP/1.1 103 Early Hints\r\n\r\n" * 100 + OK], False),
    ([b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"5\r\nhello\r\n" * 900, b"0\r\n\r\n"], False),
    ([b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"], True),
    ([b"HTTP/1.1 200 OK\r\n\r\nuntil ", b"the end"], True),
    ([b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nbusy"], False),
    ([b"HTTP/1.1 304 Not Modified\r\nContent-Length: 4\r\n\r\n"], False),
    ([b"HTTP/1.1 200 OK\r\nContent-Length: 300000\r\n\r\n", b"x" * 300_000], False),
    ([b"HTTP/1.1 200 OK\r\nContent-Length: 2000000\r\n\r\n", b"x" * 2_000_000], False),
    ([b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe", b"llo and more"], False),
    (None, False),
]

HEAD = b" HTTP/1.1\r\nHost: gw\r\n"
GET = b"GET /any/x" + HEAD + b"\r\n"
CHUNKED = b"POST /any/x" + HEAD + b"Expect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n400\r\n" + b"x" * 1024
LIVE = b"GET /live" + HEAD + b"Connection: upgrade\r\nUpgrade: websocket\r\n\r\n"


@dataclass
class Dice:
    """Random decisions, reproducible by their seed."""

    random: random.Random

    def happens(self, share: float) -> bool:
        """Return True with this probability."""
        return self.random.random() < share

    async def pause(self, seconds: float) -> None:
        """Sleep for a random time."""
        await asyncio.sleep(self.random.random() * seconds)

    def request(self) -> bytes:
        """Return what a client sends: requests, valid or not, pipelined or truncated."""
        length = self.random.choice([0, 5, 70_000, 600_000, 1_500_000])
        sized = b"POST /any/x" + HEAD + b"Content-Length: %d\r\n\r\n" % length
        kinds = [
            GET,
            GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"),
            GET * self.random.randrange(2, 40),
            sized + b"x" * length,
            sized + b"x" * length + GET,
            sized + b"x" * (length // 2),
            CHUNKED + self.random.choice([b"\r\n0\r\n\r\n", b"\r\n", b"\r\nzz\r\n", b"too long"]),
            LIVE + b"\x82\x82abcd" + b"hi",
            LIVE + LONG_FRAME,
            b"GET /livez" + HEAD + b"\r\nGET /any/x HTTP/1.0\r\nHost: gw\r\n\r\n",
            (b"HEAD /any/x" + HEAD + b"\r\n") * 3,
            b"PUT /any/x" + HEAD + b"\r\nGET /nothing" + HEAD + b"\r\n",
            GET + b"x" * 100_000,
        ]
        return self.random.choice(kinds)

    async def respond(self, request: ReceivedRequest, writer: asyncio.StreamWriter) -> None:
        """Respond as a service does."""
        if self.happens(0.3):
            await self.pause(0.02)
        if request.values("upgrade") and self.happens(0.7):
            send(writer, OPENED + FRAME)
            await self.pause(0.05)
            send(writer, self.random.choice([FRAME, LONG_FRAME, LONG_FRAME[:1000]]))
            parts, closes = list[bytes](), True
        else:
            chosen, closes = self.random.choice(ANSWERS)
            if chosen is None:
                await request.connection.wait_closed()
                return
            parts = chosen
        for part in parts:
            send(writer, part)
            if self.happens(0.5):
                await self.pause(0.005)
        # The rest of an unread body must not be parsed as a request.
        if closes or not request.is_complete:
            writer.close()

    async def run_client(self, harness: GatewayHarness) -> None:
        """Send requests, read some of the response, and disconnect."""
        client = await harness.connect()
        if self.happens(0.2):
            client.transport.pause_reading()
        data = self.request()
        cut = self.random.randrange(len(data)) if self.happens(0.3) else len(data)
        client.send(data[:cut])
        if cut < len(data):
            await self.pause(0.01)
        if not client.is_closed:
            client.send(data[cut:])
        with suppress(TimeoutError):
            await eventually(lambda: client.is_closed, self.random.random() * self.random.choice([0.01, 0.05, 0.3]))
        self.disconnect(client)

    def disconnect(self, client: ClientSocket) -> None:
        """Disconnect, gracefully or not."""
        if not client.is_closed:
            self.random.choice([client.transport.close, client.transport.abort])()


def send(writer: asyncio.StreamWriter, data: bytes) -> None:
    """Write unless the gateway has closed the connection, where uvloop raises RuntimeError."""
    if not writer.is_closing():
        writer.write(data)


async def play(issuer: Issuer, directory: Path, seed: int, patch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Run all clients and check what is left behind. Return the errors that nothing caught."""
    uncaught: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: uncaught.append(context))
    dice = Dice(random.Random(seed))  # noqa: S311 - no secret
    patch.setattr("ostiary_gateway.proxy.downstream.HIGH_WATER", dice.random.choice([1000, 256 * 1024]))
    patch.setattr("ostiary_gateway.upstream.connection.HIGH_WATER", dice.random.choice([0, 256 * 1024]))
    # The circuit breaker would be open most of the time.
    patch.setattr("ostiary_gateway.upstream.circuit_breaker.MIN_REQUESTS", 1_000_000)
    async with RecordingUpstream(directory / "one") as one, RecordingUpstream(directory / "two") as two:
        one.response = two.response = dice.respond
        one.responds_before_body = bool(seed % 2)
        routes = ROUTES % (one.url, two.url, dice.random.choice([2, 16, 50]))
        async with GatewayHarness.open(routes, "", issuer.verifier()) as harness:
            for _ in range(ROUNDS):
                await asyncio.gather(*(dice.run_client(harness) for _ in range(CLIENTS)))
            await check_nothing_left(harness)
        # Truncated requests are no mistakes here.
        one.faults.clear()
        two.faults.clear()
    return uncaught


async def check_nothing_left(harness: GatewayHarness) -> None:
    """Wait until all clients are gone, and check that nothing is kept of them."""
    manager, pools = harness.gateway._manager, harness.upstream().pools
    await eventually(lambda: not manager.connections)
    assert (dict(manager._addresses), manager.paused) == ({}, set())
    await eventually(lambda: not any(pool.busy or pool.waiting for pool in pools))
    await eventually(
        lambda: (
            not any(
                flush_queue._pending for flush_queue in (manager.flush_queue, *(pool.flush_queue for pool in pools))
            )
        )
    )
    for pool in pools:
        assert (dict(pool._queue._held), pool._dials) == ({}, set())
        assert set(pool._idle) == pool._open
    assert (await harness.request("/nothing")).status == 404


LOOPS: list[Callable[[], asyncio.AbstractEventLoop]] = [asyncio.new_event_loop, uvloop.new_event_loop]


@pytest.mark.parametrize("make_loop", LOOPS, ids=["asyncio", "uvloop"])
@pytest.mark.parametrize("seed", [1, 2])
def test_random_traffic_leaves_nothing_behind(
    issuer: Issuer,
    socket_directory: Path,
    monkeypatch: pytest.MonkeyPatch,
    seed: int,
    make_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    with asyncio.Runner(loop_factory=make_loop) as runner:
        assert runner.run(play(issuer, socket_directory, seed, monkeypatch)) == []
        # All tasks have ended by themselves.
        assert asyncio.all_tasks(runner.get_loop()) == set()
