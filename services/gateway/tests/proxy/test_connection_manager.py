"""The registry of client connections: limits, ticks, graceful and forced shutdown."""

from ipaddress import ip_network

import pytest
import structlog.testing
from harness import (
    CapturedAccessLog,
    Clock,
    GatewayHarness,
    PausedResponse,
    RecordingUpstream,
    parse_responses,
    respond_and_stall,
    settled,
    until,
)
from route_files import open_gateway

from ostiary.testing import Issuer
from ostiary_chassis.proxies import TrustedProxies
from ostiary_gateway.proxy.connection_manager import ConnectionManager
from ostiary_gateway.proxy.downstream import (
    HEAD_SECONDS,
    ClientConnection,
)

ROUTES = """\
upstreams:
  up: {url: "${UPSTREAM}"}
routes:
  - {name: any, match: {path: "/any/{rest...}", methods: [GET, POST]}, upstream: up, access: public,
     limits: {body_bytes: 100000000}}
"""

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

GET = b"GET /any/x HTTP/1.1\r\nHost: gw\r\n"


async def test_connections_over_the_limit_are_rejected_logged_and_counted(
    harness: GatewayHarness, upstream: RecordingUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    upstream.response = OK
    monkeypatch.setattr(harness.gateway._manager, "_max_per_address", 2)
    first, _ = await harness.connect(), await harness.connect()
    await until(lambda: len(harness.connections) == 2)
    one_too_many = await harness.connect()
    (response,) = parse_responses(await one_too_many.wait_closed())
    assert (response.status, response.code) == (503, "too_many_connections")
    log = CapturedAccessLog(harness)
    await (await harness.connect()).wait_closed()
    (entry,) = log.lines
    assert (entry["status"], entry["decision"]) == (503, "too_many_connections")
    first.transport.close()
    await until(lambda: harness.gateway._manager._addresses["unknown"] == 1)
    metrics = (await harness.request("/metrics")).body.decode()
    assert 'http_requests_total{method="other",route="unmatched",status="503"} 1.0' in metrics


async def test_an_error_on_a_tick_affects_no_other_connection(
    harness: GatewayHarness, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_now: float) -> None:
        raise RuntimeError("a mistake")

    manager = harness.gateway._manager
    # Hand each line over at once; for this connection, that fails.
    monkeypatch.setattr("ostiary_gateway.observability.access_log.MAX_LINES", 1)
    broken = CapturedAccessLog(harness)
    monkeypatch.setattr(broken.output, "write", lambda *_: fail(0.0))
    late = await harness.connect()
    await until(lambda: len(manager.connections) == 1)
    good = CapturedAccessLog(harness)
    others = [await harness.connect() for _ in range(5)]
    for client in (late, *others):
        client.send(GET)
    await settled(lambda: sum(connection.deadline < float("inf") for connection in manager.connections))
    ticks: list[float] = []
    manager._tick_handlers[:0] = [fail]
    manager.add_tick_handler(ticks.append)
    # Captured, as printing a traceback takes longer than a tick.
    with structlog.testing.capture_logs() as logged:
        clock.skip(HEAD_SECONDS)
        for client in others:
            assert parse_responses(await client.wait_closed())[0].status == 408
        assert len(good.lines) == 5
        await until(lambda: ticks)
        # Later ticks are not affected either.
        last = await harness.connect()
        last.send(GET)
        await settled(lambda: len(manager.connections))
        clock.skip(HEAD_SECONDS)
        assert parse_responses(await last.wait_closed())[0].status == 408
    assert {entry["event"] for entry in logged} == {"unhandled error"}
    manager._tick_handlers.remove(fail)


async def test_proxied_responses_during_shutdown_close_the_connection(
    harness: GatewayHarness, upstream: RecordingUpstream
) -> None:
    upstream.response = held = PausedResponse(
        then=b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
    )
    clients = [await harness.connect() for _ in range(2)]
    for client in clients:
        client.send(GET + b"\r\n" + GET + b"\r\n")
    await until(lambda: len(upstream.requests) == 2)
    harness.gateway.stop()
    held.resume()
    for client in clients:
        # The pipelined request is not answered.
        (response,) = parse_responses(await client.wait_closed())
        assert (response.body, response.is_complete, response.values("connection")) == (b"ok", True, ["close"])


async def test_requests_cut_off_by_a_forced_shutdown_are_logged(
    harness: GatewayHarness, upstream: RecordingUpstream
) -> None:
    log = CapturedAccessLog(harness)
    upstream.response = respond_and_stall()
    waiting, answered, idle = [await harness.connect() for _ in range(3)]
    waiting.send(GET + b"\r\n")
    await until(lambda: upstream.requests)
    upstream.response = respond_and_stall(b"HTTP/1.1 201 Created\r\nContent-Length: 9\r\n\r\npart")
    answered.send(GET + b"\r\n")
    await answered.wait_for(b"part")
    harness.gateway._manager.cut_off()
    for client in (waiting, answered, idle):
        await client.wait_closed()
    assert sorted((each["status"], each["decision"]) for each in log.lines) == [
        (201, "gateway_shutdown"),
        (503, "gateway_shutdown"),
    ]


async def test_a_shutdown_completes_pending_requests(harness: GatewayHarness, upstream: RecordingUpstream) -> None:
    upstream.response = held = PausedResponse(then=OK)
    client = await harness.connect()
    client.send(b"GET /any/x HTTP/1.1\r\nHost: gw\r\n\r\n")
    await until(lambda: upstream.requests)
    harness.gateway.stop()
    held.resume()
    (response,) = parse_responses(await client.wait_closed())
    assert (response.body, response.is_complete, response.values("connection")) == (b"ok", True, ["close"])


async def test_an_ipv6_network_has_the_connections_of_one_address(issuer: Issuer, upstream: RecordingUpstream) -> None:
    async with open_gateway(
        issuer, upstream, "name: a, match: {path: /a, methods: [GET]}, upstream: up, access: public"
    ) as it:
        manager = it.gateway._manager = ConnectionManager(2, TrustedProxies([ip_network("2001:db8:0:9::/64")]))

        def add(peer: str) -> ClientConnection:
            connection = it.gateway.protocol(server_state=None, app_state={})
            assert isinstance(connection, ClientConnection)
            connection.peer = peer
            told.append(manager.add(connection))
            return connection

        told: list[bool] = []
        first, *_ = [add(f"2001:db8::{number}") for number in (1, 2, 3)]
        add("2001:db8:0:1::1")
        assert told == [True, True, False, True]
        for number in (1, 2, 3):
            add(f"2001:db8:0:9::{number}")
        assert told[4:] == [True, True, True]
        manager.remove(first)
        add("2001:db8::4")
        assert told[-1] is False
        for connection in list(manager.connections):
            manager.remove(connection)
        add("2001:db8::4")
        assert told[-1] is True
