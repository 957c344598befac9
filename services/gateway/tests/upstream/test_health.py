"""Active health checks."""

import asyncio

import pytest
from harness import (
    Clock,
    ReceivedRequest,
    RecordingUpstream,
    never,
    respond_and_close,
    respond_and_stall,
    until,
)
from harness.endpoints import gateway_with_two_endpoints

from ostiary.testing import Issuer

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

BUSY = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nbusy"

HEALTH = ", health: {path: /health, seconds: 1, timeout: 0.5}"


def proxied_requests(upstream: RecordingUpstream) -> int:
    """Return how many requests of clients the endpoint got."""
    return sum(each.target != "/health" for each in upstream.requests)


async def run_checks(clock: Clock, *upstreams: RecordingUpstream, times: int = 1) -> None:
    """Run so many more health checks of each endpoint."""
    for _ in range(times):
        before = [len(each.requests) for each in upstreams]
        clock.skip(1)
        await until(lambda before=before: all(len(u.requests) > n for u, n in zip(upstreams, before, strict=True)))  # type: ignore[misc]  # a default


async def test_an_unhealthy_endpoint_is_ejected_until_it_recovers(
    issuer: Issuer, upstream: RecordingUpstream, clock: Clock
) -> None:
    async with gateway_with_two_endpoints(issuer, upstream, HEALTH) as (harness, other):
        upstream.response, other.response = OK, BUSY
        await until(lambda: upstream.requests and other.requests)
        assert other.last.values("host") == ["gw"]
        # One failed check is not enough.
        await never(lambda: harness.upstream().ejected_endpoints)
        await run_checks(clock, other)
        await until(lambda: harness.upstream().ejected_endpoints == 1)
        for _ in range(20):
            assert (await harness.request("/any/x")).status == 200
        assert proxied_requests(other) == 0
        other.response = OK
        await run_checks(clock, other)
        await until(lambda: harness.upstream().ejected_endpoints == 0)
        while not proxied_requests(other):
            assert (await harness.request("/any/x")).status == 200


@pytest.mark.parametrize(
    "response", [b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\npart", b"HTTP/1.1 301 x\r\n\r\n"]
)
async def test_only_a_complete_2xx_response_is_healthy(
    issuer: Issuer, upstream: RecordingUpstream, clock: Clock, response: bytes
) -> None:
    async with gateway_with_two_endpoints(issuer, upstream, HEALTH) as (harness, other):
        upstream.response, other.response = OK, respond_and_close(response)
        await until(lambda: other.requests)
        await run_checks(clock, other)
        await until(lambda: harness.upstream().ejected_endpoints == 1)


async def test_a_health_check_that_times_out_is_unhealthy(
    issuer: Issuer, upstream: RecordingUpstream, clock: Clock
) -> None:
    async with gateway_with_two_endpoints(issuer, upstream, HEALTH) as (harness, other):
        upstream.response, other.response = OK, respond_and_stall()
        for count in (1, 2):
            await until(lambda count=count: len(other.requests) == count)  # type: ignore[misc]  # a default
            clock.skip(0.5)
            await until(lambda: other.connections[-1].is_closed)
            clock.skip(0.5)
        await until(lambda: harness.upstream().ejected_endpoints == 1)


async def test_when_most_endpoints_are_unhealthy_all_are_used(
    issuer: Issuer, upstream: RecordingUpstream, clock: Clock
) -> None:
    async def sick(request: ReceivedRequest, writer: asyncio.StreamWriter) -> None:
        writer.write(BUSY if request.target == "/health" else OK)

    async with gateway_with_two_endpoints(issuer, upstream, HEALTH) as (harness, other):
        upstream.response = other.response = sick
        await until(lambda: upstream.requests and other.requests)
        await run_checks(clock, upstream, other)
        await until(lambda: harness.upstream().ejected_endpoints == 2)
        while not (proxied_requests(upstream) and proxied_requests(other)):
            assert (await harness.request("/any/x")).status == 200
