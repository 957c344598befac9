"""What becomes of a client's connection: its own endpoints' answers, its end, and what is written down about it."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import structlog.testing
from harness import (
    CapturedAccessLog,
    Clock,
    GatewayHarness,
    PausedResponse,
    ReceivedRequest,
    RecordingUpstream,
    never,
    parse_responses,
    respond_and_stall,
    settled,
    until,
)
from starlette.types import Receive, Scope, Send

from ostiary.testing import Issuer
from ostiary_gateway.proxy.asgi_bridge import CALL_SECONDS
from ostiary_gateway.proxy.downstream import (
    HEAD_SECONDS,
    HIGH_WATER,
)
from ostiary_gateway.proxy.local_response import PIECE_BYTES
from ostiary_gateway.proxy.slow_reader import LINGER_BYTES, LINGER_SECONDS

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
GET = b"GET /any/x HTTP/1.1\r\nHost: gw\r\n"
OWN = b"GET /openapi.json HTTP/1.1\r\nHost: gw\r\n\r\n"
END = b"Connection: close\r\n\r\n"

ROUTES = """\
upstreams:
  up: {url: "${UPSTREAM}"}
routes:
  - {name: any, match: {path: "/any/{rest...}", methods: [GET, POST]}, upstream: up, access: public,
     limits: {body_bytes: 100000000}}
"""


@pytest.fixture
async def harness(issuer: Issuer, upstream: RecordingUpstream) -> AsyncIterator[GatewayHarness]:
    async with GatewayHarness.open(ROUTES, upstream.url, issuer.verifier()) as harness:
        yield harness


# The gateway's own endpoints.


class SlowApp:
    """An application that answers with `content`, when it may."""

    def __init__(self, content: bytes = b"own") -> None:
        self.may_answer = asyncio.Event()
        self.is_circuit_closed = False
        self.is_cancelled = False
        self._content = content

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        self.is_circuit_closed = True
        try:
            await self.may_answer.wait()
        except asyncio.CancelledError:
            self.is_cancelled = True
            raise
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": self._content})


def use_app(harness: GatewayHarness, app: SlowApp, patch: pytest.MonkeyPatch) -> SlowApp:
    """Let connections that come from now on be answered by an application."""
    patch.setattr(harness.gateway, "app", app)
    return app


async def test_an_own_answer_has_its_own_time(
    harness: GatewayHarness, upstream: RecordingUpstream, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = use_app(harness, SlowApp(), monkeypatch)
    upstream.response = OK
    line = await harness.connect()
    # The head's time is nearly over when it is complete, and there is more behind it.
    line.send(OWN[:10])
    await never(lambda: line.received)
    clock.skip(HEAD_SECONDS - 0.5)
    line.send(OWN[10:] + GET + END)
    await until(lambda: app.is_circuit_closed)
    for _ in range(5):
        clock.skip((CALL_SECONDS - 5) / 5)
        await never(lambda: line.received or upstream.requests)
    app.may_answer.set()
    own, other = parse_responses(await line.wait_closed(), "GET", "GET")
    assert [own.body, other.body] == [b"own", b"ok"]


async def test_an_own_answer_that_does_not_come_is_not_waited_for(
    harness: GatewayHarness, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = CapturedAccessLog(harness)
    app = use_app(harness, SlowApp(), monkeypatch)
    line = await harness.connect()
    line.send(OWN + GET + END)
    await until(lambda: app.is_circuit_closed)
    clock.skip(CALL_SECONDS)
    own, other = parse_responses(await line.wait_closed(), "GET", "GET")
    assert (own.status, own.code, own.values("retry-after")) == (503, "own_answer_timeout", ["1"])
    assert (other.status, app.is_cancelled) == (200, True)
    assert [each["decision"] for each in log.lines] == ["own_answer_timeout", "allowed"]


async def test_who_leaves_is_not_answered_by_the_gateway_either(
    harness: GatewayHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = use_app(harness, SlowApp(), monkeypatch)
    line = await harness.connect()
    line.send(OWN)
    await until(lambda: app.is_circuit_closed)
    line.transport.close()
    await until(lambda: app.is_cancelled)


async def test_of_a_large_own_answer_little_is_kept_that_nobody_reads(
    harness: GatewayHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = 5_000_000
    use_app(harness, SlowApp(b"x" * size), monkeypatch).may_answer.set()
    line, connection = await harness.connect_both_sides()
    line.transport.pause_reading()
    line.send(OWN + OWN.replace(b"\r\n\r\n", b"\r\n" + END))
    await until(lambda: not connection.is_writable)
    assert 0 < await settled(lambda: connection.unsent) <= HIGH_WATER + PIECE_BYTES
    line.transport.resume_reading()
    given = parse_responses(await line.wait_closed(), "GET", "GET")
    assert [(len(answer.body), answer.is_complete) for answer in given] == [(size, True)] * 2


# HTTP/1.0, and what answers say about themselves.


@pytest.mark.parametrize("target", [b"/nothing", b"/livez", b"/any/x"])
async def test_who_speaks_http_1_0_hears_that_the_connection_is_kept(
    harness: GatewayHarness, upstream: RecordingUpstream, target: bytes
) -> None:
    upstream.response = OK
    line = await harness.connect()
    for number in (1, 2):
        line.send(b"GET %b HTTP/1.0\r\nHost: gw\r\nConnection: keep-alive\r\n\r\n" % target)
        await line.wait_for(b"connection: keep-alive\r\n", number)
    line.received = b""
    line.send(b"GET %b HTTP/1.0\r\nHost: gw\r\n\r\n" % target)
    assert b"connection: close\r\n" in await line.wait_closed()


async def test_an_answer_without_a_date_gets_one(harness: GatewayHarness, upstream: RecordingUpstream) -> None:
    upstream.response = OK
    (date,) = (await harness.request("/any/x")).values("date")
    assert date.endswith(" GMT")
    upstream.response = OK.replace(b"\r\n\r\n", b"\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\n\r\n")
    assert (await harness.request("/any/x")).values("date") == ["Thu, 01 Jan 1970 00:00:00 GMT"]
    for target in ("/nothing", "/livez"):
        assert len((await harness.request(target)).values("date")) == 1


# The end.


async def test_all_answers_say_so_while_the_gateway_ends(harness: GatewayHarness, upstream: RecordingUpstream) -> None:
    upstream.response = held = PausedResponse(
        then=b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
    )
    asked = [await harness.connect() for _ in range(2)]
    for line in asked:
        line.send(GET + b"\r\n" + GET + b"\r\n")
    await until(lambda: len(upstream.requests) == 2)
    harness.gateway.stop()
    held.resume()
    for line in asked:
        # There is one: what was asked beyond it is another connection's matter.
        (answer,) = parse_responses(await line.wait_closed())
        assert (answer.body, answer.is_complete, answer.values("connection")) == (b"ok", True, ["close"])


async def test_also_the_gateways_own_answers_say_so(
    harness: GatewayHarness, upstream: RecordingUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = use_app(harness, SlowApp(), monkeypatch)
    may_break_off = asyncio.Event()

    async def break_off(_: ReceivedRequest, writer: asyncio.StreamWriter) -> None:
        await may_break_off.wait()
        writer.close()

    upstream.response = break_off
    own, failed = await harness.connect(), await harness.connect()
    own.send(OWN)
    failed.send(GET + b"\r\n")
    await until(lambda: app.is_circuit_closed and upstream.requests)
    harness.gateway.stop()
    app.may_answer.set()
    may_break_off.set()
    for line, status in ((own, 200), (failed, 502)):
        (answer,) = parse_responses(await line.wait_closed())
        assert (answer.status, answer.values("connection")) == (status, ["close"])


async def test_after_its_last_answer_a_connection_is_read_for_a_while(
    harness: GatewayHarness, upstream: RecordingUpstream
) -> None:
    upstream.response = OK
    line, connection = await harness.connect_both_sides()
    line.send(GET + END)
    await line.wait_for(b"\r\n\r\nok")
    await until(lambda: connection._lingering)
    # It is told that nothing more comes; who closes then is not reset.
    line.send(b"x" * 1_000_000)
    await until(lambda: connection._lingering and connection._lingering.discarded == 1_000_000)
    assert len(upstream.requests) == 1


async def test_who_does_not_close_is_closed_after_its_last_answer(
    harness: GatewayHarness, upstream: RecordingUpstream, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.ClientSocket.eof_received", lambda _: True, raising=False)
    upstream.response = OK
    line, connection = await harness.connect_both_sides()
    line.send(GET + END)
    await until(lambda: connection._lingering)
    await never(lambda: line.is_closed)
    # It has been seen within that time that all was taken; from then on it has as much to close.
    for _ in range(2):
        clock.skip(LINGER_SECONDS)
        await settled(lambda: len(harness.transports))
    await until(lambda: not harness.transports)


async def test_who_goes_on_sending_after_its_last_answer_is_closed(
    harness: GatewayHarness, upstream: RecordingUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.ClientSocket.eof_received", lambda _: True, raising=False)
    upstream.response = OK
    line, connection = await harness.connect_both_sides()
    line.send(GET + END)
    await until(lambda: connection._lingering)
    line.send(b"x" * (LINGER_BYTES + 1))
    await until(lambda: not harness.transports)


# What is written down.


async def test_what_is_cut_off_is_logged(harness: GatewayHarness, upstream: RecordingUpstream) -> None:
    log = CapturedAccessLog(harness)
    upstream.response = respond_and_stall()
    waiting, answered, idle = [await harness.connect() for _ in range(3)]
    waiting.send(GET + b"\r\n")
    await until(lambda: upstream.requests)
    upstream.response = respond_and_stall(b"HTTP/1.1 201 Created\r\nContent-Length: 9\r\n\r\npart")
    answered.send(GET + b"\r\n")
    await answered.wait_for(b"part")
    harness.gateway._manager.cut_off()
    for line in (waiting, answered, idle):
        await line.wait_closed()
    assert sorted((each["status"], each["decision"]) for each in log.lines) == [(201, "cut_off"), (503, "cut_off")]


@pytest.mark.parametrize(
    ("data", "status", "decision"),
    [
        (
            b"GET / HTTP/1.1\r\nHost: gw\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
            400,
            "invalid_request",
        ),
        (b"GET / HTTP/2.0\r\n\r\n", 505, "unknown_version"),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * 40_000, 431, "head_too_large"),
        (b"GET / HTTP/1.1\r\nHo", 408, "head_timeout"),
    ],
)
async def test_what_is_no_request_is_logged_and_counted(
    harness: GatewayHarness, clock: Clock, data: bytes, status: int, decision: str
) -> None:
    counted = f'http_requests_total{{method="other",route="unmatched",status="{status}"}} '
    assert counted not in (await harness.client.get("/metrics")).text
    line, _ = await harness.connect_both_sides()
    log = CapturedAccessLog(harness)
    logged = await harness.connect("192.0.2.9")
    for each in (line, logged):
        each.send(data)
    if status == 408:
        await never(lambda: line.received)
        clock.skip(HEAD_SECONDS)
    (answer,) = parse_responses(await line.wait_closed())
    await logged.wait_closed()
    assert (answer.status, answer.code) == (status, decision)
    assert counted in (await harness.client.get("/metrics")).text
    (entry,) = log.lines
    assert (entry["status"], entry["decision"], entry["client"]) == (status, decision, "192.0.2.9")
    assert (entry["method"], entry["route"]) == ("other", "unmatched")
    assert entry["request_id"]


async def test_connections_that_are_too_many_are_logged_and_counted(
    harness: GatewayHarness, upstream: RecordingUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    upstream.response = OK
    monkeypatch.setattr(harness.gateway._manager, "_max_per_address", 2)
    first, _ = await harness.connect(), await harness.connect()
    await until(lambda: len(harness.connections) == 2)
    one_too_many = await harness.connect()
    (answer,) = parse_responses(await one_too_many.wait_closed())
    assert (answer.status, answer.code) == (503, "too_many_connections")
    log = CapturedAccessLog(harness)
    await (await harness.connect()).wait_closed()
    (entry,) = log.lines
    assert (entry["status"], entry["decision"]) == (503, "too_many_connections")
    first.transport.close()
    await until(lambda: harness.gateway._manager._addresses["unknown"] == 1)
    metrics = (await harness.request("/metrics")).body.decode()
    assert 'http_requests_total{method="other",route="unmatched",status="503"} 1.0' in metrics


# Whoever looks after them.


async def test_a_mistake_about_one_connection_is_not_the_others(
    harness: GatewayHarness, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_now: float) -> None:
        raise RuntimeError("a mistake")

    manager = harness.gateway._manager
    # Each line of the log is written at once, and this one cannot be.
    monkeypatch.setattr("ostiary_gateway.observability.access_log.MAX_LINES", 1)
    broken = CapturedAccessLog(harness)
    monkeypatch.setattr(broken.stream, "write", lambda _: fail(0.0))
    late = await harness.connect()
    await until(lambda: len(manager.connections) == 1)
    good = CapturedAccessLog(harness)
    others = [await harness.connect() for _ in range(5)]
    for line in (late, *others):
        line.send(GET)
    await settled(lambda: sum(connection.deadline < float("inf") for connection in manager.connections))
    ticks: list[float] = []
    manager._tick_handlers[:0] = [fail]
    manager.add_tick_handler(ticks.append)
    # Captured, as a traceback takes longer to print than it is from one tick to the next.
    with structlog.testing.capture_logs() as logged:
        clock.skip(HEAD_SECONDS)
        for line in others:
            assert parse_responses(await line.wait_closed())[0].status == 408
        assert len(good.lines) == 5
        await until(lambda: ticks)
        # Nor is it the next time's.
        last = await harness.connect()
        last.send(GET)
        await settled(lambda: len(manager.connections))
        clock.skip(HEAD_SECONDS)
        assert parse_responses(await last.wait_closed())[0].status == 408
    assert {entry["event"] for entry in logged} == {"unhandled error"}
    manager._tick_handlers.remove(fail)
