"""Shares: of 16 connections, a client with 8 gets another only while more than 4 are free."""

from ipaddress import ip_network

import pytest
from harness import (
    GatewayHarness,
    RecordingUpstream,
    never,
    respond_and_stall,
    until,
)
from harness.pool import MakePool

from ostiary.testing import Issuer
from ostiary_chassis.proxies import TrustedProxies
from ostiary_gateway.upstream.connection import Failure

SHARED = """\
upstreams:
  up: {url: "${UPSTREAM}", connections: 16}
routes:
  - {name: any, match: {path: "/any/{rest...}", methods: [GET]}, upstream: up, access: public}
"""

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


async def test_a_client_with_half_of_the_connections_leaves_a_quarter_free(make_pool: MakePool) -> None:
    it = make_pool(16)
    mine = await it.leases(12)
    more = it.lease()
    await never(lambda: more.connection)
    assert (it.pool.busy, it.pool.waiting) == (12, 1)
    # Other clients get connections although one waits.
    others = [each for name in ("bob", "cy") for each in await it.leases(2, name)]
    assert it.pool.busy == 16
    assert more.connection is None
    for each in [*mine, *others]:
        each.leased.abort()
    await until(lambda: more.connection)
    more.leased.abort()
    await it.wait_empty()


async def test_clients_behind_one_proxy_have_shares_of_their_own(issuer: Issuer, upstream: RecordingUpstream) -> None:
    async with GatewayHarness.open(SHARED, upstream.url, issuer.verifier()) as harness:
        harness.gateway.runtime.current.admission._proxies = TrustedProxies([ip_network("10.0.0.0/8")])
        (pool,) = harness.upstream().pools
        upstream.response = respond_and_stall()
        for number in range(20):
            client = await harness.connect("10.0.0.1")
            client.send(b"GET /any/%d HTTP/1.1\r\nHost: gw\r\nX-Forwarded-For: 192.0.2.1\r\n\r\n" % number)
        await until(lambda: len(upstream.requests) == 12 and pool.waiting == 8)
        upstream.response = OK
        for other in ("192.0.2.2", "192.0.2.3"):
            response = await harness.request("/any/x", f"X-Forwarded-For: {other}", peer="10.0.0.1")
            assert response.status == 200
        assert (len(upstream.requests), pool.waiting) == (14, 8)


async def test_several_clients_within_their_share_may_use_all(make_pool: MakePool) -> None:
    it = make_pool(16)
    handlers = [each for name in ("ada", "bob") for each in await it.leases(8, name)]
    assert (it.pool.busy, it.pool.waiting, it.held) == (16, 0, {"ada": 8, "bob": 8})
    for each in handlers:
        each.leased.abort()
    await it.wait_empty()


async def test_requests_over_the_share_wait_behind_others(make_pool: MakePool) -> None:
    it = make_pool(16)
    mine = await it.leases(12)
    more = [it.lease() for _ in range(3)]
    others = [each for name in ("bob", "cy") for each in await it.leases(2, name)]
    late = [it.lease(name) for name in ("dan", "eve")]
    for each, next_one in zip(mine[:2], late, strict=True):
        each.leased.abort()
        await until(lambda it=next_one: it.connection)  # type: ignore[misc]  # a default
    assert [each.connection for each in more] == [None] * 3
    # Ada has 10, so five must be free.
    for each in [*others, late[0]]:
        await never(lambda: any(waiting.connection for waiting in more))
        each.leased.abort()
    await until(lambda: more[0].connection)
    await never(lambda: more[1].connection)
    for each in [*mine[2:], late[1]]:
        each.leased.abort()
    await until(lambda: all(each.connection for each in more))
    for each in more:
        each.leased.abort()
    await it.wait_empty()


async def test_a_client_that_reaches_its_share_while_waiting_blocks_no_one(make_pool: MakePool) -> None:
    it = make_pool(16)
    others = [each for name in ("bob", "cy") for each in await it.leases(8, name)]
    waiting = [it.lease("ada") for _ in range(9)]
    last = it.lease("dan")
    for number, each in enumerate(others[:9], 1):
        each.leased.abort()
        await until(lambda number=number: it.pool.busy == 16 or number == 9)  # type: ignore[misc]  # a default
    # Eight connections are Ada's share; the ninth is for the next client.
    await until(lambda: last.connection)
    assert sum(each.connection is not None for each in waiting) == 8
    for each in [*others[9:], *waiting[:8], last]:
        each.leased.abort()
    await until(lambda: waiting[8].connection)
    waiting[8].leased.abort()
    await it.wait_empty()


async def test_one_client_may_use_all_of_few_connections(make_pool: MakePool) -> None:
    it = make_pool(15)
    for each in await it.leases(15):
        each.leased.abort()
    await it.wait_empty()


async def test_requests_over_the_share_have_half_of_the_queue(
    make_pool: MakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ostiary_gateway.upstream.fair_queue.MAX_WAITING", 4)
    it = make_pool(16)
    served = await it.leases(12)
    mine = [it.lease() for _ in range(3)]
    served += await it.leases(4, "bob")
    others = [it.lease(name) for name in "cdefg"]
    assert [each.failures for each in mine] == [[], [], [Failure.OVERLOADED]]
    assert [each.failures for each in others] == [[]] * 4 + [[Failure.OVERLOADED]]
    for each in [*mine, *others]:
        it.pool.cancel(each)
    for each in served:
        each.leased.abort()
    await it.wait_empty()
