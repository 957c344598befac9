"""A service that fails is left alone for a moment, and an address that fails is left out: no sooner, and no longer."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from harness import (
    Clock,
    GatewayHarness,
    ReceivedRequest,
    RecordingUpstream,
    Responder,
    never,
    respond_and_close,
    respond_and_stall,
    short_directory,
    until,
)

from ostiary.testing import Issuer
from ostiary_gateway.routing.config import Upstream as UpstreamConfig
from ostiary_gateway.upstream.circuit_breaker import (
    MIN_REQUESTS,
    OPEN_SECONDS,
    WINDOW_SECONDS,
    CircuitBreaker,
)
from ostiary_gateway.upstream.cluster import Cluster
from ostiary_gateway.upstream.endpoint import EJECTION_SECONDS, FAILURES_IN_A_ROW, MAX_EJECTION_SECONDS, Endpoint

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
BUSY = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nbusy"
OPENED = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"

ROUTES = """\
upstreams:
  up: {url: "${UPSTREAM}"}
  nobody: {url: "unix:/nowhere"}
routes:
  - {name: any, match: {path: "/any/{rest...}", methods: [GET, POST]}, upstream: up, access: public,
     timeouts: {first_byte: 1}}
  - {name: live, match: {path: /live, methods: [GET]}, upstream: up, access: public, websocket: true}
  - {name: nobody, match: {path: /nobody, methods: [GET]}, upstream: nobody, access: public}
"""

_NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


# The breaker.


def opened() -> CircuitBreaker:
    """Return a breaker that has just opened."""
    breaker = CircuitBreaker()
    said = [breaker.failed(f"caller {number}") for number in range(MIN_REQUESTS)]
    assert said == [False] * (MIN_REQUESTS - 1) + [True]
    return breaker


def test_it_opens_when_the_requests_of_several_callers_fail(clock: Clock) -> None:
    breaker = opened()
    assert breaker.is_open
    clock.skip(OPEN_SECONDS)
    assert not breaker.is_open


def test_it_opens_when_nobody_can_be_connected_to_whoever_asks() -> None:
    breaker = CircuitBreaker()
    assert [breaker.failed(None) for _ in range(MIN_REQUESTS)][-2:] == [False, True]
    assert breaker.is_open


def test_one_callers_failures_count_once() -> None:
    breaker = CircuitBreaker()
    for number in range(MIN_REQUESTS - 1):
        for _ in range(50):
            assert not breaker.failed(f"caller {number}")
    assert not breaker.is_open
    assert breaker.failed("one more")


def test_it_stays_closed_while_more_than_half_of_the_requests_are_answered(clock: Clock) -> None:
    breaker = CircuitBreaker()
    for number in range(10 * MIN_REQUESTS):
        assert not breaker.failed(f"caller {number}")
        for _ in range(3 if number == 0 else 1):
            assert not breaker.succeeded()
    assert not breaker.is_open
    # What was long ago counts no more.
    clock.skip(WINDOW_SECONDS)
    for number in range(MIN_REQUESTS):
        breaker.failed(f"caller {number}")
    assert breaker.is_open


def test_it_stays_open_for_its_time_whatever_late_answers_come(clock: Clock) -> None:
    breaker = opened()
    for number in range(5 * MIN_REQUESTS):
        clock.skip(OPEN_SECONDS / 1000)
        assert not breaker.succeeded()
        assert not breaker.failed(f"caller {number}")
        assert not breaker.failed(None)
        assert breaker.is_open
    # Nor do late failures make it stay open for longer.
    clock.skip(OPEN_SECONDS * 0.9)
    assert not breaker.is_open


def test_afterwards_one_failure_to_connect_opens_it_again(clock: Clock) -> None:
    breaker = opened()
    for _ in range(3):
        clock.skip(OPEN_SECONDS)
        assert not breaker.is_open
        # That may be one caller's doing.
        assert not breaker.failed("ada")
        assert breaker.failed(None)
        assert breaker.is_open


def test_afterwards_an_answer_closes_it(clock: Clock) -> None:
    breaker = opened()
    clock.skip(OPEN_SECONDS)
    assert breaker.succeeded()
    assert not breaker.succeeded()
    assert not breaker.failed(None)
    assert not breaker.is_open


@pytest.fixture
async def harness(issuer: Issuer, upstream: RecordingUpstream) -> AsyncIterator[GatewayHarness]:
    async with GatewayHarness.open(ROUTES, upstream.url, issuer.verifier()) as harness:
        yield harness


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> int:
    """Have few requests be enough for a breaker to open."""
    monkeypatch.setattr("ostiary_gateway.upstream.circuit_breaker.MIN_REQUESTS", 4)
    return 4


def peer(number: int) -> str:
    return f"192.0.2.{number}"


async def test_answers_that_do_not_come_open_it(harness: GatewayHarness, upstream: RecordingUpstream, few: int) -> None:
    upstream.response = respond_and_close()
    for number in range(few):
        assert harness.upstream().is_circuit_closed
        assert (await harness.request("/any/x", peer=peer(number))).status == 502
    assert not harness.upstream().is_circuit_closed
    refused = await harness.request("/any/x")
    assert (refused.status, refused.code, refused.values("retry-after")) == (503, "upstream_unavailable", ["1"])
    assert len(upstream.requests) == few


async def test_slow_answers_open_it(
    harness: GatewayHarness, upstream: RecordingUpstream, few: int, clock: Clock
) -> None:
    upstream.response = respond_and_stall()
    for number in range(few):
        assert harness.upstream().is_circuit_closed
        asked = asyncio.create_task(harness.request("/any/x", peer=peer(number)))
        await until(lambda number=number: len(upstream.requests) > number)  # type: ignore[misc]  # a default
        clock.skip(1)
        assert (await asked).status == 504
    assert not harness.upstream().is_circuit_closed


async def test_who_cannot_be_connected_to_opens_it_whoever_asks(harness: GatewayHarness, few: int) -> None:
    for _ in range(few):
        assert harness.upstream("nobody").is_circuit_closed
        assert (await harness.request("/nobody")).status == 503
    assert not harness.upstream("nobody").is_circuit_closed


@pytest.mark.parametrize("answer", [respond_and_close(), respond_and_close(b"HTTP/1.1 2")])
async def test_one_caller_opens_it_for_nobody_with_answers_that_break_off(
    harness: GatewayHarness, upstream: RecordingUpstream, few: int, answer: Responder
) -> None:
    upstream.response = answer
    for _ in range(5 * few):
        assert (await harness.request("/any/x", peer=peer(1))).status == 502
    assert harness.upstream().is_circuit_closed


async def test_one_caller_opens_it_for_nobody_with_slow_answers(
    harness: GatewayHarness, upstream: RecordingUpstream, few: int, clock: Clock
) -> None:
    upstream.response = respond_and_stall()
    asked = [asyncio.create_task(harness.request("/any/x")) for _ in range(5 * few)]
    await until(lambda: len(upstream.requests) == 5 * few)
    clock.skip(1)
    assert {answer.status for answer in await asyncio.gather(*asked)} == {504}
    assert harness.upstream().is_circuit_closed


@pytest.mark.parametrize("answer", [b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\nX: \x7f\r\n\r\n"])
async def test_answers_that_are_not_valid_do_not_count(
    harness: GatewayHarness, upstream: RecordingUpstream, few: int, answer: bytes
) -> None:
    # A request may have put into it what makes it so.
    upstream.response = answer
    for number in range(5 * few):
        assert (await harness.request("/any/x", peer=peer(number))).status == 502
    assert harness.upstream().is_circuit_closed


async def test_who_does_not_send_all_of_a_request_makes_nothing_count(
    harness: GatewayHarness, upstream: RecordingUpstream, few: int
) -> None:
    upstream.response, upstream.responds_before_body = respond_and_close(), True
    for number in range(5 * few):
        line = await harness.connect(peer(number))
        line.send(b"POST /any/x HTTP/1.1\r\nHost: gw\r\nContent-Length: 4\r\n\r\nha")
        assert (await line.wait_closed()).startswith(b"HTTP/1.1 502 ")
    assert harness.upstream().is_circuit_closed


async def test_a_websocket_that_opens_is_an_answer(
    harness: GatewayHarness, upstream: RecordingUpstream, few: int, clock: Clock
) -> None:
    async def open_socket() -> None:
        line = await harness.connect()
        line.send(b"GET /live HTTP/1.1\r\nHost: gw\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
        await line.wait_for(b"HTTP/1.1 101 ")

    upstream.response = respond_and_close()
    for number in range(few):
        await harness.request("/any/x", peer=peer(number))
    assert not harness.upstream().is_circuit_closed
    clock.skip(OPEN_SECONDS)
    upstream.response = respond_and_stall(OPENED)
    await open_socket()
    assert not harness.upstream()._breaker.failed(None)
    # Neither do few failures among many that open.
    for _ in range(2 * few):
        await open_socket()
    upstream.response = respond_and_close()
    for number in range(few - 1):
        await harness.request("/any/x", peer=peer(number))
    assert harness.upstream().is_circuit_closed


# Addresses that fail.


def endpoint() -> Endpoint:
    return Endpoint("up", "unix:/nowhere", 256, _NO_TLS, CircuitBreaker())


def test_an_address_that_fails_several_times_in_a_row_is_left_out(clock: Clock) -> None:
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


def test_it_is_left_out_for_longer_each_time_until_it_answers(clock: Clock) -> None:
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


def test_one_crash_with_many_requests_under_way_is_one_reason_to_leave_it_out(clock: Clock) -> None:
    it = endpoint()
    for _ in range(40):
        it.failed("ada")
    assert not it.is_available(clock())
    clock.skip(EJECTION_SECONDS)
    assert it.is_available(clock())
    assert it._ejections == 1


def test_a_request_that_is_sent_again_goes_to_another_address() -> None:
    it = Cluster("up", UpstreamConfig(urls=["unix:/a", "unix:/b", "unix:/c"]), _NO_TLS)
    for pool in it.pools:
        assert pool not in {it.choose(pool) for _ in range(50)}
    alone = Cluster("up", UpstreamConfig(url="unix:/a"), _NO_TLS)
    assert alone.choose(alone.pools[0]) is alone.pools[0]


@asynccontextmanager
async def two(
    issuer: Issuer, upstream: RecordingUpstream, more: str = "", route: str = ""
) -> AsyncIterator[tuple[GatewayHarness, RecordingUpstream]]:
    """Run a gateway before two addresses."""
    with short_directory() as directory:
        async with RecordingUpstream(directory / "up") as other:
            routes = f"""\
upstreams:
  up: {{urls: ["{upstream.url}", "{other.url}"]{more}}}
routes:
  - {{name: any, match: {{path: "/any/{{rest...}}", methods: [GET]}}, upstream: up, access: public{route}}}
"""
            async with GatewayHarness.open(routes, "", issuer.verifier()) as harness:
                yield harness, other


async def test_while_one_of_two_addresses_fails_each_request_is_answered_by_the_other(
    issuer: Issuer, upstream: RecordingUpstream
) -> None:
    async with two(issuer, upstream, route=", retries: {attempts: 1}") as (harness, other):
        upstream.response, other.response = respond_and_close(), OK
        for number in range(30):
            assert (await harness.request("/any/x", peer=peer(number))).status == 200
        # After that it was left out.
        assert len(upstream.requests) == FAILURES_IN_A_ROW
        assert harness.upstream().ejected_endpoints == 1
        assert len(other.requests) == 30


# Health checks.


def asked(upstream: RecordingUpstream) -> int:
    """Return how many requests of callers have come."""
    return sum(each.target != "/health" for each in upstream.requests)


HEALTH = ", health: {path: /health, seconds: 1, timeout: 0.5}"


async def checked(clock: Clock, *upstreams: RecordingUpstream, times: int = 1) -> None:
    """Return when each has been asked for its health so many more times."""
    for _ in range(times):
        before = [len(each.requests) for each in upstreams]
        clock.skip(1)
        await until(lambda before=before: all(len(u.requests) > n for u, n in zip(upstreams, before, strict=True)))  # type: ignore[misc]  # a default


async def test_an_address_that_is_not_well_is_ejected_until_it_is(
    issuer: Issuer, upstream: RecordingUpstream, clock: Clock
) -> None:
    async with two(issuer, upstream, HEALTH) as (harness, other):
        upstream.response, other.response = OK, BUSY
        await until(lambda: upstream.requests and other.requests)
        assert other.last.values("host") == ["localhost"]
        # Once may be an accident.
        await never(lambda: harness.upstream().ejected_endpoints)
        await checked(clock, other)
        await until(lambda: harness.upstream().ejected_endpoints == 1)
        for _ in range(20):
            assert (await harness.request("/any/x")).status == 200
        assert asked(other) == 0
        other.response = OK
        await checked(clock, other)
        await until(lambda: harness.upstream().ejected_endpoints == 0)
        while not asked(other):
            assert (await harness.request("/any/x")).status == 200


@pytest.mark.parametrize(
    "answer", [b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\npart", b"HTTP/1.1 301 x\r\n\r\n"]
)
async def test_only_a_whole_and_good_answer_is_a_sign_of_health(
    issuer: Issuer, upstream: RecordingUpstream, clock: Clock, answer: bytes
) -> None:
    async with two(issuer, upstream, HEALTH) as (harness, other):
        upstream.response, other.response = OK, respond_and_close(answer)
        await until(lambda: other.requests)
        await checked(clock, other)
        await until(lambda: harness.upstream().ejected_endpoints == 1)


async def test_who_does_not_answer_in_time_is_not_well(
    issuer: Issuer, upstream: RecordingUpstream, clock: Clock
) -> None:
    async with two(issuer, upstream, HEALTH) as (harness, other):
        upstream.response, other.response = OK, respond_and_stall()
        for count in (1, 2):
            await until(lambda count=count: len(other.requests) == count)  # type: ignore[misc]  # a default
            clock.skip(0.5)
            await until(lambda: other.connections[-1].is_closed)
            clock.skip(0.5)
        await until(lambda: harness.upstream().ejected_endpoints == 1)


async def test_when_more_than_half_are_not_well_all_are_asked(
    issuer: Issuer, upstream: RecordingUpstream, clock: Clock
) -> None:
    async def sick(request: ReceivedRequest, writer: asyncio.StreamWriter) -> None:
        writer.write(BUSY if request.target == "/health" else OK)

    async with two(issuer, upstream, HEALTH) as (harness, other):
        upstream.response = other.response = sick
        await until(lambda: upstream.requests and other.requests)
        await checked(clock, upstream, other)
        await until(lambda: harness.upstream().ejected_endpoints == 2)
        while not (asked(upstream) and asked(other)):
            assert (await harness.request("/any/x")).status == 200
