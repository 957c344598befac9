"""Outlier ejection: an endpoint that fails repeatedly is ejected for some time."""

import ssl

from harness import (
    Clock,
)

from ostiary_gateway.upstream.circuit_breaker import (
    CircuitBreaker,
)
from ostiary_gateway.upstream.endpoint import EJECTION_SECONDS, FAILURES_IN_A_ROW, MAX_EJECTION_SECONDS, Endpoint

_NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def endpoint() -> Endpoint:
    return Endpoint("up", "unix:/nowhere", 256, _NO_TLS, CircuitBreaker(), host=b"")


def test_consecutive_failures_eject_an_endpoint(clock: Clock) -> None:
    it = endpoint()
    for _ in range(3):
        for _ in range(FAILURES_IN_A_ROW - 1):
            it.failed("ada")
        it.succeeded()
    assert it.is_available(clock())
    for _ in range(FAILURES_IN_A_ROW):
        assert it.is_available(clock())
        it.failed(None)
    assert not it.is_available(clock())
    clock.skip(EJECTION_SECONDS)
    assert it.is_available(clock())


def test_ejections_grow_until_a_success(clock: Clock) -> None:
    it = endpoint()

    def seconds() -> float:
        for _ in range(FAILURES_IN_A_ROW):
            it.failed(None)
        left = it._ejected_until - clock()
        clock.skip(left)
        return left

    first, most = EJECTION_SECONDS, MAX_EJECTION_SECONDS
    assert [round(seconds()) for _ in range(6)] == [first, 2 * first, 4 * first, 8 * first, most, most]
    it.succeeded()
    assert round(seconds()) == first


def test_concurrent_failures_are_one_ejection(clock: Clock) -> None:
    it = endpoint()
    for _ in range(40):
        it.failed("ada")
    assert not it.is_available(clock())
    clock.skip(EJECTION_SECONDS)
    assert it.is_available(clock())
    assert it._ejections == 1
