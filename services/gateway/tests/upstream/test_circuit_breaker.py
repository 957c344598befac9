"""The circuit breaker: what opens it, and what closes it."""

import asyncio

import pytest
from harness import (
    Clock,
    GatewayHarness,
    RecordingUpstream,
    Responder,
    respond_and_close,
    respond_and_stall,
    until,
)

from ostiary_gateway.upstream.circuit_breaker import (
    MIN_REQUESTS,
    OPEN_SECONDS,
    WINDOW_SECONDS,
    CircuitBreaker,
)

OPENED = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"

ROUTES = """\
upstreams:
  up: {url: "${UPSTREAM}"}
  unreachable: {url: "unix:/nowhere"}
routes:
  - {name: any, match: {path: "/any/{rest...}", methods: [GET, POST]}, upstream: up, access: public,
     timeouts: {first_byte: 1}}
  - {name: live, match: {path: /live, methods: [GET]}, upstream: up, access: public, websocket: true}
  - {name: unreachable, match: {path: /unreachable, methods: [GET]}, upstream: unreachable, access: public}
"""


def opened() -> CircuitBreaker:
    """Return a circuit breaker that has just opened."""
    breaker = CircuitBreaker()
    opened_now = [breaker.failed(f"caller {number}") for number in range(MIN_REQUESTS)]
    assert opened_now == [False] * (MIN_REQUESTS - 1) + [True]
    return breaker


def test_failures_of_several_clients_open_it(clock: Clock) -> None:
    breaker = opened()
    assert breaker.is_open
    clock.skip(OPEN_SECONDS)
    assert not breaker.is_open


def test_failures_to_connect_open_it_for_any_client() -> None:
    breaker = CircuitBreaker()
    assert [breaker.failed(None) for _ in range(MIN_REQUESTS)][-2:] == [False, True]
    assert breaker.is_open


def test_failures_of_one_client_count_once() -> None:
    breaker = CircuitBreaker()
    for number in range(MIN_REQUESTS - 1):
        for _ in range(50):
            assert not breaker.failed(f"caller {number}")
    assert not breaker.is_open
    assert breaker.failed("one more")


def test_it_stays_closed_while_most_requests_succeed(clock: Clock) -> None:
    breaker = CircuitBreaker()
    for number in range(10 * MIN_REQUESTS):
        assert not breaker.failed(f"caller {number}")
        for _ in range(3 if number == 0 else 1):
            assert not breaker.succeeded()
    assert not breaker.is_open
    # Outcomes before the window do not count.
    clock.skip(WINDOW_SECONDS)
    for number in range(MIN_REQUESTS):
        breaker.failed(f"caller {number}")
    assert breaker.is_open


def test_late_outcomes_do_not_affect_an_open_breaker(clock: Clock) -> None:
    breaker = opened()
    for number in range(5 * MIN_REQUESTS):
        clock.skip(OPEN_SECONDS / 1000)
        assert not breaker.succeeded()
        assert not breaker.failed(f"caller {number}")
        assert not breaker.failed(None)
        assert breaker.is_open
    # Late failures do not extend the time either.
    clock.skip(OPEN_SECONDS * 0.9)
    assert not breaker.is_open


def test_a_failure_to_connect_opens_a_half_open_breaker(clock: Clock) -> None:
    breaker = opened()
    for _ in range(3):
        clock.skip(OPEN_SECONDS)
        assert not breaker.is_open
        # A single client may cause that.
        assert not breaker.failed("ada")
        assert breaker.failed(None)
        assert breaker.is_open


def test_a_success_closes_a_half_open_breaker(clock: Clock) -> None:
    breaker = opened()
    clock.skip(OPEN_SECONDS)
    assert breaker.succeeded()
    assert not breaker.succeeded()
    assert not breaker.failed(None)
    assert not breaker.is_open


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> int:
    """Let few requests open the circuit breaker."""
    monkeypatch.setattr("ostiary_gateway.upstream.circuit_breaker.MIN_REQUESTS", 4)
    return 4


def peer(number: int) -> str:
    return f"192.0.2.{number}"


async def test_missing_responses_open_it(harness: GatewayHarness, upstream: RecordingUpstream, few: int) -> None:
    upstream.response = respond_and_close()
    for number in range(few):
        assert harness.upstream().is_circuit_closed
        assert (await harness.request("/any/x", peer=peer(number))).status == 502
    assert not harness.upstream().is_circuit_closed
    refused = await harness.request("/any/x")
    assert (refused.status, refused.code, refused.values("retry-after")) == (503, "upstream_unavailable", ["1"])
    assert len(upstream.requests) == few


async def test_slow_responses_open_it(
    harness: GatewayHarness, upstream: RecordingUpstream, few: int, clock: Clock
) -> None:
    upstream.response = respond_and_stall()
    for number in range(few):
        assert harness.upstream().is_circuit_closed
        task = asyncio.create_task(harness.request("/any/x", peer=peer(number)))
        await until(lambda number=number: len(upstream.requests) > number)  # type: ignore[misc]  # a default
        clock.skip(1)
        assert (await task).status == 504
    assert not harness.upstream().is_circuit_closed


async def test_an_unreachable_upstream_opens_it_for_any_client(harness: GatewayHarness, few: int) -> None:
    for _ in range(few):
        assert harness.upstream("unreachable").is_circuit_closed
        assert (await harness.request("/unreachable")).status == 503
    assert not harness.upstream("unreachable").is_circuit_closed


@pytest.mark.parametrize("response", [respond_and_close(), respond_and_close(b"HTTP/1.1 2")])
async def test_one_client_cannot_open_it_with_truncated_responses(
    harness: GatewayHarness, upstream: RecordingUpstream, few: int, response: Responder
) -> None:
    upstream.response = response
    for _ in range(5 * few):
        assert (await harness.request("/any/x", peer=peer(1))).status == 502
    assert harness.upstream().is_circuit_closed


async def test_one_client_cannot_open_it_with_slow_responses(
    harness: GatewayHarness, upstream: RecordingUpstream, few: int, clock: Clock
) -> None:
    upstream.response = respond_and_stall()
    tasks = [asyncio.create_task(harness.request("/any/x")) for _ in range(5 * few)]
    await until(lambda: len(upstream.requests) == 5 * few)
    clock.skip(1)
    assert {response.status for response in await asyncio.gather(*tasks)} == {504}
    assert harness.upstream().is_circuit_closed


@pytest.mark.parametrize("response", [b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\nX: \x7f\r\n\r\n"])
async def test_invalid_responses_do_not_count(
    harness: GatewayHarness, upstream: RecordingUpstream, few: int, response: bytes
) -> None:
    # A request may be the cause.
    upstream.response = response
    for number in range(5 * few):
        assert (await harness.request("/any/x", peer=peer(number))).status == 502
    assert harness.upstream().is_circuit_closed


async def test_incomplete_requests_do_not_count(harness: GatewayHarness, upstream: RecordingUpstream, few: int) -> None:
    upstream.response, upstream.responds_before_body = respond_and_close(), True
    for number in range(5 * few):
        client = await harness.connect(peer(number))
        client.send(b"POST /any/x HTTP/1.1\r\nHost: gw\r\nContent-Length: 4\r\n\r\nha")
        assert (await client.wait_closed()).startswith(b"HTTP/1.1 502 ")
    assert harness.upstream().is_circuit_closed


async def test_an_opened_websocket_is_a_success(
    harness: GatewayHarness, upstream: RecordingUpstream, few: int, clock: Clock
) -> None:
    async def open_socket() -> None:
        client = await harness.connect()
        client.send(b"GET /live HTTP/1.1\r\nHost: gw\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
        await client.wait_for(b"HTTP/1.1 101 ")

    upstream.response = respond_and_close()
    for number in range(few):
        await harness.request("/any/x", peer=peer(number))
    assert not harness.upstream().is_circuit_closed
    clock.skip(OPEN_SECONDS)
    upstream.response = respond_and_stall(OPENED)
    await open_socket()
    assert not harness.upstream()._breaker.failed(None)
    # A few failures among many successes do not open it.
    for _ in range(2 * few):
        await open_socket()
    upstream.response = respond_and_close()
    for number in range(few - 1):
        await harness.request("/any/x", peer=peer(number))
    assert harness.upstream().is_circuit_closed
