"""Responses of the gateway's own application: timeout, cancellation, backpressure, shutdown."""

import asyncio

import pytest
from harness import (
    CapturedAccessLog,
    Clock,
    GatewayHarness,
    ReceivedRequest,
    RecordingUpstream,
    never,
    parse_responses,
    settled,
    until,
)
from starlette.types import Receive, Scope, Send

from ostiary_gateway.proxy.asgi_bridge import CALL_SECONDS
from ostiary_gateway.proxy.downstream import (
    HEAD_SECONDS,
    HIGH_WATER,
)
from ostiary_gateway.proxy.local_response import PIECE_BYTES

ROUTES = """\
upstreams:
  up: {url: "${UPSTREAM}"}
routes:
  - {name: any, match: {path: "/any/{rest...}", methods: [GET, POST]}, upstream: up, access: public,
     limits: {body_bytes: 100000000}}
"""

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

GET = b"GET /any/x HTTP/1.1\r\nHost: gw\r\n"

OWN = b"GET /openapi.json HTTP/1.1\r\nHost: gw\r\n\r\n"

END = b"Connection: close\r\n\r\n"


class SlowApp:
    """An application that responds with `content` once it may."""

    def __init__(self, content: bytes = b"own") -> None:
        self.may_answer = asyncio.Event()
        self.is_called = False
        self.is_cancelled = False
        self._content = content

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        self.is_called = True
        try:
            await self.may_answer.wait()
        except asyncio.CancelledError:
            self.is_cancelled = True
            raise
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": self._content})


def use_app(harness: GatewayHarness, app: SlowApp, patch: pytest.MonkeyPatch) -> SlowApp:
    """Serve connections opened from now on with another application."""
    patch.setattr(harness.gateway, "app", app)
    return app


async def test_the_application_has_its_own_timeout(
    harness: GatewayHarness, upstream: RecordingUpstream, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = use_app(harness, SlowApp(), monkeypatch)
    upstream.response = OK
    client = await harness.connect()
    # The head completes shortly before its timeout, and a pipelined request follows.
    client.send(OWN[:10])
    await never(lambda: client.received)
    clock.skip(HEAD_SECONDS - 0.5)
    client.send(OWN[10:] + GET + END)
    await until(lambda: app.is_called)
    for _ in range(5):
        clock.skip((CALL_SECONDS - 5) / 5)
        await never(lambda: client.received or upstream.requests)
    app.may_answer.set()
    own, other = parse_responses(await client.wait_closed(), "GET", "GET")
    assert [own.body, other.body] == [b"own", b"ok"]


async def test_an_application_that_hangs_times_out(
    harness: GatewayHarness, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = CapturedAccessLog(harness)
    app = use_app(harness, SlowApp(), monkeypatch)
    client = await harness.connect()
    client.send(OWN + GET + END)
    await until(lambda: app.is_called)
    clock.skip(CALL_SECONDS)
    own, other = parse_responses(await client.wait_closed(), "GET", "GET")
    assert (own.status, own.code, own.values("retry-after")) == (503, "own_answer_timeout", ["1"])
    assert (other.status, app.is_cancelled) == (200, True)
    assert [each["decision"] for each in log.lines] == ["own_answer_timeout", "allowed"]


async def test_a_disconnect_cancels_the_application(harness: GatewayHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    app = use_app(harness, SlowApp(), monkeypatch)
    client = await harness.connect()
    client.send(OWN)
    await until(lambda: app.is_called)
    client.transport.close()
    await until(lambda: app.is_cancelled)


async def test_a_large_response_waits_for_a_slow_reader(
    harness: GatewayHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = 5_000_000
    use_app(harness, SlowApp(b"x" * size), monkeypatch).may_answer.set()
    client, connection = await harness.connect_both_sides()
    client.transport.pause_reading()
    client.send(OWN + OWN.replace(b"\r\n\r\n", b"\r\n" + END))
    await until(lambda: not connection.is_writable)
    assert 0 < await settled(lambda: connection.unsent) <= HIGH_WATER + PIECE_BYTES
    client.transport.resume_reading()
    responses = parse_responses(await client.wait_closed(), "GET", "GET")
    assert [(len(response.body), response.is_complete) for response in responses] == [(size, True)] * 2


async def test_responses_during_shutdown_close_the_connection(
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
    await until(lambda: app.is_called and upstream.requests)
    harness.gateway.stop()
    app.may_answer.set()
    may_break_off.set()
    for client, status in ((own, 200), (failed, 502)):
        (response,) = parse_responses(await client.wait_closed())
        assert (response.status, response.values("connection")) == (status, ["close"])
