"""Dials outlive the lease they were for, and their failures reach it alone."""

import asyncio
import socket
import threading
from typing import Any

import pytest
from harness import (
    Clock,
    GatewayHarness,
    PausedResponse,
    RecordingUpstream,
    never,
    parse_responses,
    until,
)
from harness.pool import ControlledDials, MakePool

from ostiary.testing import Issuer
from ostiary_gateway.upstream.connection import Failure
from ostiary_gateway.upstream.dialer import Dialer
from ostiary_gateway.upstream.name import Name

ROUTES = """\
upstreams:
  up: {url: "${UPSTREAM}"}
routes:
  - {name: again, match: {path: /again, methods: [GET]}, upstream: up, access: public,
     timeouts: {connect: 5}, retries: {attempts: 2}}
"""

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

GET = b"GET /again HTTP/1.1\r\nHost: gw\r\nConnection: close\r\n\r\n"


async def test_the_connection_of_a_cancelled_lease_serves_the_next(make_pool: MakePool, dials: ControlledDials) -> None:
    it = make_pool(1)
    gone, waiting = it.lease("ada"), it.lease("bob")
    await dials.wait_dialed(1)
    it.pool.cancel(gone)
    dials.pending[0].set_result(True)
    await until(lambda: waiting.connection)
    assert (len(dials.pending), gone.connection, gone.failures) == (1, None, [])
    assert it.held == {"bob": 1}
    waiting.leased.abort()
    await it.wait_empty()


async def test_the_connection_of_a_cancelled_lease_is_kept(make_pool: MakePool, dials: ControlledDials) -> None:
    it = make_pool(1)
    gone = it.lease()
    await dials.wait_dialed(1)
    it.pool.cancel(gone)
    dials.pending[0].set_result(True)
    await until(lambda: it.pool.idle)
    assert (it.held, it.pool.busy) == ({}, 0)
    again = it.lease()
    assert (again.connection is not None, len(dials.pending)) == (True, 1)
    again.leased.abort()
    await it.wait_empty()


async def test_a_failed_dial_makes_room_for_the_next_lease(make_pool: MakePool, dials: ControlledDials) -> None:
    it = make_pool(1)
    first, waiting = it.lease("ada"), it.lease("bob")
    await dials.wait_dialed(1)
    dials.pending[0].set_result(False)
    await dials.wait_dialed(2)
    dials.pending[1].set_result(True)
    await until(lambda: waiting.connection)
    assert (first.failures, it.outcomes.failed_for) == ([Failure.UNREACHABLE], [None])
    waiting.leased.abort()
    await it.wait_empty()


async def test_the_failure_of_an_earlier_dial_does_not_reach_a_later_lease(
    make_pool: MakePool, dials: ControlledDials
) -> None:
    it = make_pool(3)
    handler = it.lease()
    await dials.wait_dialed(1)
    it.pool.cancel(handler)
    it.pool.lease(handler, 1.0, new=True)
    await dials.wait_dialed(2)
    dials.pending[0].set_result(False)
    await until(lambda: it.outcomes.failed_for)
    assert handler.failures == []
    dials.pending[1].set_result(True)
    await until(lambda: handler.connection)
    assert it.held == {"ada": 1}
    handler.leased.abort()
    await it.wait_empty()


@pytest.mark.parametrize("when", ["while the answer comes", "while it is tried again"])
async def test_a_late_dial_failure_affects_no_request(
    issuer: Issuer, upstream: RecordingUpstream, dials: ControlledDials, clock: Clock, when: str
) -> None:
    upstream.response = before = PausedResponse(then=OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
    async with GatewayHarness.open(ROUTES, upstream.url, issuer.verifier()) as harness:
        harness.limit_connections(1)
        first, client = await harness.connect(), await harness.connect()
        first.send(GET)
        await dials.wait_dialed(1)
        dials.pending[0].set_result(True)
        await until(lambda: upstream.requests)
        client.send(GET)
        (pool,) = harness.upstream().pools
        await until(lambda: pool.waiting)
        # Part of its connect timeout is over when it dials.
        clock.skip(3)
        upstream.response = held = PausedResponse(
            first=b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nfirst", then=b"last"
        )
        before.resume()
        await dials.wait_dialed(2)
        harness.limit_connections(2)
        clock.skip(2.5)
        await dials.wait_dialed(3)
        if when == "while the answer comes":
            dials.pending[2].set_result(True)
            await client.wait_for(b"first")
        dials.pending[1].set_result(False)
        await never(lambda: client.is_closed or len(dials.pending) > 3)
        if when == "while it is tried again":
            dials.pending[2].set_result(True)
            await client.wait_for(b"first")
        held.resume()
        (response,) = parse_responses(await client.wait_closed())
        assert (response.status, response.body, response.is_complete) == (200, b"firstlast", True)
        assert len(upstream.requests) == 2


async def test_a_name_server_that_does_not_answer_costs_one_thread_and_holds_up_no_other_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answered = threading.Event()
    asked: list[str] = []

    def look_up(host: str, port: int, **_: Any) -> list[Any]:
        assert threading.current_thread() is not threading.main_thread()
        asked.append(host)
        if host == "slow.test":
            answered.wait()
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", port))]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    slow, fast = Name("slow.test", 80), Name("fast.test", 80)
    waiting = [asyncio.create_task(slow.look_up()) for _ in range(100)]
    with pytest.raises(TimeoutError):
        await Dialer("http://slow.test", None, slow).dial(asyncio.Protocol, 0.05)
    assert await fast.look_up() == ["192.0.2.1"]
    assert asked == ["slow.test", "fast.test"]
    answered.set()
    assert await asyncio.gather(*waiting) == [["192.0.2.1"]] * 100
    # The next connection asks again: a name may get another address.
    await slow.look_up()
    assert asked.count("slow.test") == 2


async def test_a_name_without_an_address_is_an_error_of_each_who_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    def look_up(*_: Any, **__: Any) -> list[Any]:
        raise socket.gaierror(socket.EAI_NONAME, "unknown")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    dialer = Dialer("http://nowhere.test", None, Name("nowhere.test", 80))
    outcomes = await asyncio.gather(*(dialer.dial(asyncio.Protocol, 5) for _ in range(3)), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [socket.gaierror] * 3


async def test_a_link_local_address_keeps_its_zone(monkeypatch: pytest.MonkeyPatch) -> None:
    addresses: list[Any] = [("fe80::1", 80, 0, 2), ("2001:db8::1", 80, 0, 0), ("192.0.2.1", 80)]
    answer = [(socket.AF_UNSPEC, socket.SOCK_STREAM, 6, "", address) for address in addresses]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answer)
    assert await Name("near.test", 80).look_up() == ["fe80::1%2", "2001:db8::1", "192.0.2.1"]
