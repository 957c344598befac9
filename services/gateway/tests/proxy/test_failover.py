"""Endpoints that take no connection: nothing was sent, so another one gets the request, whatever it is."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
from harness import (
    Clock,
    GatewayHarness,
    RecordingUpstream,
    respond_and_close,
    short_directory,
    until,
)
from harness.pool import RespondOncePerConnection
from harness.websockets import HANDSHAKE, UpstreamWebSocket, send_request

from ostiary.testing import Issuer
from ostiary_gateway.upstream.endpoint import EJECTION_SECONDS, FAILURES_IN_A_ROW

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@asynccontextmanager
async def gateway_to(issuer: Issuer, urls: Sequence[str], route: str = "") -> AsyncIterator[GatewayHarness]:
    """Run a gateway whose upstream has these addresses."""
    routes = f"""\
upstreams:
  up: {{urls: {list(urls)}}}
routes:
  - {{name: any, match: {{path: "/any/{{rest...}}", methods: [GET, PUT, POST]}}, upstream: up, access: public{route}}}
  - {{name: open, match: {{path: /open, methods: [GET]}}, upstream: up, access: public, websocket: true}}
"""
    async with GatewayHarness.open(routes, "", issuer.verifier()) as harness:
        yield harness


@pytest.mark.parametrize(("method", "body"), [("GET", b""), ("POST", b""), ("POST", b"x" * 100_000), ("PUT", b"x")])
async def test_no_request_fails_while_one_address_takes_connections(
    issuer: Issuer, upstream: RecordingUpstream, clock: Clock, method: str, body: bytes
) -> None:
    dead = [f"unix:{upstream.path}-{name}" for name in "abc"]
    length = f"Content-Length: {len(body)}"
    async with gateway_to(issuer, [*dead, upstream.url]) as harness:
        for _ in range(5):
            responses = await asyncio.gather(
                *(harness.request("/any/x", length, method=method, body=body) for _ in range(40))
            )
            assert {response.status for response in responses} == {200}
            assert harness.upstream().is_circuit_closed
            clock.skip(2 * EJECTION_SECONDS)
        assert upstream.last.body == body
        assert len(upstream.requests) == 200
        assert harness.upstream().ejected_endpoints == 3
        # Nothing was sent twice.
        assert harness.upstream().retries == 0


async def test_after_a_stale_connection_the_same_address_gets_the_request_if_others_take_no_connection(
    issuer: Issuer, upstream: RecordingUpstream
) -> None:
    async with gateway_to(issuer, [upstream.url, f"unix:{upstream.path}-dead"]) as harness:
        assert (await harness.request("/any/x")).status == 200
        await until(lambda: any(pool.idle for pool in harness.upstream().pools))
        upstream.response = RespondOncePerConnection(upstream, at_once=False)
        # Whichever address it tries first.
        assert {(await harness.request("/any/x")).status for _ in range(5)} == {200}


async def test_a_websocket_opens_at_another_address(issuer: Issuer, upstream: RecordingUpstream) -> None:
    upstream.response = peer = UpstreamWebSocket()
    peer.may_accept.set()
    async with gateway_to(issuer, [f"unix:{upstream.path}-dead", upstream.url]) as harness:
        for _ in range(FAILURES_IN_A_ROW):
            client = await send_request(harness, "/open", *HANDSHAKE)
            await client.wait_for(b"HTTP/1.1 101 ")


async def test_an_ejected_address_is_better_than_none(issuer: Issuer, upstream: RecordingUpstream) -> None:
    with short_directory() as directory:
        late = RecordingUpstream(directory / "late")
        async with gateway_to(issuer, [late.url, upstream.url]) as harness:
            while not harness.upstream().ejected_endpoints:
                assert (await harness.request("/any/x")).status == 200
            # As in a rolling restart: the first is back, but still ejected, when the second goes.
            upstream.stop_listening()
            async with late:
                statuses = [(await harness.request("/any/x", method="POST")).status for _ in range(30)]
                assert statuses == [200] * 30


async def test_each_address_is_tried_once(issuer: Issuer, upstream: RecordingUpstream) -> None:
    dead = [f"unix:{upstream.path}-{name}" for name in "abc"]
    async with gateway_to(issuer, dead) as harness:
        response = await harness.request("/any/x", method="POST")
        assert (response.status, response.code) == (503, "upstream_unavailable")
        assert sum(harness.upstream().failures.values()) == len(dead)


async def test_an_idempotent_request_leaves_an_endpoint_that_closes_without_a_response(
    issuer: Issuer, upstream: RecordingUpstream
) -> None:
    with short_directory() as directory:
        async with (
            RecordingUpstream(directory / "up") as other,
            gateway_to(issuer, [other.url, upstream.url]) as harness,
        ):
            upstream.response, other.response = OK, respond_and_close()
            # Fewer than those that eject it.
            while len(other.requests) < FAILURES_IN_A_ROW - 2:
                assert (await harness.request("/any/x")).status == 200
                assert (await harness.request("/any/x", "Content-Length: 1", method="PUT", body=b"x")).status == 200
            # RFC 9110 section 9.2.2: this one may have taken effect.
            statuses = {(await harness.request("/any/x", method="POST")).status for _ in range(30)}
            assert 502 in statuses


async def test_a_trial_costs_no_request(issuer: Issuer, upstream: RecordingUpstream, clock: Clock) -> None:
    async with gateway_to(issuer, [f"unix:{upstream.path}-dead", upstream.url]) as harness:
        while not harness.upstream().ejected_endpoints:
            assert (await harness.request("/any/x")).status == 200
        failed = sum(harness.upstream().failures.values())
        (ejected,) = [each for each in harness.upstream()._endpoints if not each.is_available]
        for _ in range(3):
            before = ejected._ejected_until
            clock.skip(before - clock())
            await until(lambda before=before: ejected._ejected_until > before)  # type: ignore[misc]  # a default
            assert {(await harness.request("/any/x")).status for _ in range(20)} == {200}
        assert sum(harness.upstream().failures.values()) == failed
