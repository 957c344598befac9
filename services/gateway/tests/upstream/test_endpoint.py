"""Outlier ejection: an endpoint that fails repeatedly is ejected for some time, and then has to take a connection."""

import pytest
from harness import (
    Clock,
    RecordingUpstream,
    until,
)

from ostiary_gateway.upstream.circuit_breaker import (
    MIN_REQUESTS,
    CircuitBreaker,
)
from ostiary_gateway.upstream.dialer import Dialer
from ostiary_gateway.upstream.endpoint import EJECTION_SECONDS, FAILURES_IN_A_ROW, MAX_EJECTION_SECONDS, Endpoint


def endpoint(url: str = "unix:/nowhere") -> Endpoint:
    return Endpoint("up", Dialer(url, None), 256, CircuitBreaker(), host=b"")


def eject(it: Endpoint) -> None:
    for _ in range(FAILURES_IN_A_ROW):
        assert it.is_available
        it.failed(None)
    assert not it.is_available


async def readmit(it: Endpoint, clock: Clock) -> None:
    """End the ejection of an endpoint that takes connections."""
    clock.skip(it._ejected_until - clock())
    it.on_tick(clock(), None)
    await until(lambda: it.is_available)


async def test_consecutive_failures_eject_an_endpoint(clock: Clock, upstream: RecordingUpstream) -> None:
    it = endpoint(upstream.url)
    for _ in range(3):
        for _ in range(FAILURES_IN_A_ROW - 1):
            it.failed("ada")
        it.succeeded()
    eject(it)
    clock.skip(EJECTION_SECONDS - 0.1)
    it.on_tick(clock(), None)
    assert not it.is_available
    await readmit(it, clock)


async def test_ejections_grow_until_a_success(clock: Clock, upstream: RecordingUpstream) -> None:
    it = endpoint(upstream.url)
    eject(it)
    first, most = EJECTION_SECONDS, MAX_EJECTION_SECONDS
    for seconds in (first, 2 * first, 4 * first, 8 * first, most, most):
        assert round(it._ejected_until - clock()) == seconds
        await readmit(it, clock)
        it.failed(None)
    # A response to a request from before the ejection.
    it.succeeded()
    assert not it.is_available
    await readmit(it, clock)
    it.succeeded()
    eject(it)
    assert round(it._ejected_until - clock()) == first


async def test_an_endpoint_that_takes_no_connection_stays_ejected(clock: Clock) -> None:
    it = endpoint()
    eject(it)
    for seconds in (2 * EJECTION_SECONDS, 4 * EJECTION_SECONDS):
        clock.skip(it._ejected_until - clock())
        it.on_tick(clock(), None)
        it.on_tick(clock(), None)
        await until(lambda: it._ejected_until > clock())
        assert round(it._ejected_until - clock()) == seconds
        assert not it.is_available


@pytest.mark.parametrize("caller", [None, "ada"])
async def test_one_failure_ejects_an_endpoint_that_was_ejected_before(
    clock: Clock, upstream: RecordingUpstream, caller: str | None
) -> None:
    it = endpoint(upstream.url)
    eject(it)
    await readmit(it, clock)
    it.failed(caller)
    assert not it.is_available


def test_concurrent_failures_are_one_ejection() -> None:
    it = endpoint()
    for _ in range(40):
        it.failed("ada")
    assert not it.is_available
    assert it._ejections == 1


def test_an_endpoint_that_refuses_connections_does_not_open_the_breaker_while_others_are_available() -> None:
    breaker, endpoints = CircuitBreaker(), list[Endpoint]()
    endpoints += [
        Endpoint("up", Dialer(f"unix:/{name}", None), 256, breaker, host=b"", endpoints=endpoints) for name in "ab"
    ]
    for _ in range(2 * MIN_REQUESTS):
        endpoints[0].failed(None)
    assert not breaker.is_open
    for _ in range(MIN_REQUESTS + FAILURES_IN_A_ROW):
        endpoints[1].failed(None)
    assert breaker.is_open
