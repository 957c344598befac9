"""Who gets a connection to an upstream, who waits for one, and that nothing is left when all have gone."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from harness import (
    Clock,
    GatewayHarness,
    PausedResponse,
    RecordingUpstream,
    never,
    parse_responses,
    respond_and_stall,
    until,
)

from ostiary.testing import Issuer
from ostiary_chassis.proxies import TrustedProxies
from ostiary_gateway.http1.fields import Fields
from ostiary_gateway.http1.parser import Response
from ostiary_gateway.upstream.connection import Failure, UpstreamConnection
from ostiary_gateway.upstream.pool import MAX_AGE_SECONDS, Pool

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
GET = b"GET /again HTTP/1.1\r\nHost: gw\r\nConnection: close\r\n\r\n"

ROUTES = """\
upstreams:
  up: {url: "${UPSTREAM}"}
routes:
  - {name: again, match: {path: /again, methods: [GET]}, upstream: up, access: public,
     timeouts: {connect: 5}, retries: {attempts: 2}}
"""

SHARED = """\
upstreams:
  up: {url: "${UPSTREAM}", connections: 16}
routes:
  - {name: any, match: {path: "/any/{rest...}", methods: [GET]}, upstream: up, access: public}
"""


class Asking:
    """Somebody who has asked for a connection. A Receiver."""

    def __init__(self, caller: str) -> None:
        self.caller = caller
        self.connection: UpstreamConnection | None = None
        self.failures: list[Failure] = []

    @property
    def given(self) -> UpstreamConnection:
        """The connection, which is there."""
        assert self.connection is not None
        return self.connection

    def on_connection(self, connection: UpstreamConnection) -> None:
        assert self.connection is None
        self.connection = connection
        connection.send_request(self, "GET", b"", has_content=False)

    def on_failure(self, failure: Failure) -> None:
        self.failures.append(failure)

    def on_head(self, response: Response) -> None:
        """Take it."""

    def on_content(self, content: bytes) -> None:
        """Take it."""

    def on_read_complete(self) -> None:
        """Take it."""

    def on_end(self, trailers: Fields) -> None:
        """Take it."""

    def on_tunnel(self, data: bytes) -> None:
        """Take it."""

    def on_writable(self, writable: bool) -> None:
        """Take it."""


class Heard:
    """Outcomes that were heard of."""

    def __init__(self) -> None:
        self.failed_for: list[str | None] = []
        self.answers = 0

    def succeeded(self) -> None:
        self.answers += 1

    def failed(self, client: str | None) -> None:
        self.failed_for.append(client)


class Doors:
    """Has connections to one path opened, or refused, when it is said and not before."""

    def __init__(self, patch: pytest.MonkeyPatch, path: Path) -> None:
        loop = asyncio.get_running_loop()
        self._really: Callable[..., Any] = loop.create_unix_connection
        self._path = str(path)
        self.closed: list[asyncio.Future[bool]] = []
        patch.setattr(loop, "create_unix_connection", self._create)

    async def _create(self, protocol: Callable[[], asyncio.BaseProtocol], path: str) -> object:
        if path == self._path:
            door: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
            self.closed.append(door)
            if not await door:
                raise ConnectionRefusedError
        return await self._really(protocol, path)

    async def knocked(self, times: int) -> None:
        """Return when so many have come."""
        await until(lambda: len(self.closed) == times)


@pytest.fixture
async def doors(upstream: RecordingUpstream, monkeypatch: pytest.MonkeyPatch) -> Doors:
    return Doors(monkeypatch, upstream.path)


class Hall:
    """A pool, and those who ask it for connections."""

    def __init__(self, url: str, connections: int) -> None:
        self.heard = Heard()
        self.pool = Pool("up", url, connections, ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), self.heard)

    def ask(self, client: str = "ada", *, new: bool = False) -> Asking:
        """Ask for a connection."""
        asking = Asking(client)
        self.pool.lease(asking, 1.0, new=new)
        return asking

    async def served(self, count: int, client: str = "ada") -> list[Asking]:
        """Return so many who have got one."""
        asked = [self.ask(client) for _ in range(count)]
        await until(lambda: all(each.connection for each in asked))
        return asked

    def give_back(self, asking: Asking) -> None:
        """Give a connection back, to be used again."""
        asking.given.data_received(OK)

    @property
    def held(self) -> dict[str, int]:
        """How many connections are counted for each caller."""
        return dict(self.pool._queue._held)

    async def empty(self) -> None:
        """Return when nothing is left."""
        pool = self.pool
        await until(lambda: not (pool._open or pool._dials or pool._tasks or pool.waiting))
        assert (self.held, pool.busy, pool.idle, pool.outstanding) == ({}, 0, 0, 0)


@pytest.fixture
async def make(upstream: RecordingUpstream) -> AsyncIterator[Callable[[int], Hall]]:
    halls: list[Hall] = []

    def make(connections: int) -> Hall:
        halls.append(Hall(upstream.url, connections))
        return halls[-1]

    yield make
    for hall in halls:
        hall.pool.close()
        await hall.empty()


Make = Callable[[int], Hall]


async def test_who_waits_is_served_when_the_connections_have_grown_old(make: Make, clock: Clock) -> None:
    hall = make(2)
    first = await hall.served(2)
    waiting = [hall.ask(name) for name in ("bob", "cy")]
    clock.skip(MAX_AGE_SECONDS)
    for each in first:
        hall.give_back(each)
    await until(lambda: all(each.connection for each in waiting))
    assert not {each.connection for each in waiting} & {each.connection for each in first}
    assert (hall.pool.busy, hall.pool.waiting, hall.held) == (2, 0, {"bob": 1, "cy": 1})
    for each in waiting:
        each.given.abort()
    await hall.empty()


async def test_who_waits_is_served_in_the_order_of_coming(make: Make) -> None:
    hall = make(1)
    (first,) = await hall.served(1)
    waiting = [hall.ask(name) for name in ("bob", "cy", "dan")]
    for before, after in zip([first, *waiting], waiting, strict=False):
        assert after.connection is None
        hall.give_back(before)
        assert after.connection is first.connection
    waiting[-1].given.abort()
    await hall.empty()


async def test_a_new_connection_is_to_be_had_where_all_are_idle(make: Make, upstream: RecordingUpstream) -> None:
    hall = make(2)
    first = await hall.served(2)
    for each in first:
        hall.give_back(each)
    assert hall.pool.idle == 2
    again = hall.ask(new=True)
    assert hall.pool.waiting == 0
    await until(lambda: again.connection)
    assert again.connection not in {each.connection for each in first}
    # The one that was idle for longest has made room for it.
    assert (hall.pool.busy, hall.pool.idle, len(hall.pool._open)) == (1, 1, 2)
    assert first[1].given in hall.pool._idle
    await until(lambda: len(upstream.connections) == 3)
    again.given.abort()
    hall.pool.retire()
    await hall.empty()


async def test_a_connection_that_nobody_waits_for_any_more_is_for_the_next(make: Make, doors: Doors) -> None:
    hall = make(1)
    gone, waiting = hall.ask("ada"), hall.ask("bob")
    await doors.knocked(1)
    hall.pool.cancel(gone)
    doors.closed[0].set_result(True)
    await until(lambda: waiting.connection)
    assert (len(doors.closed), gone.connection, gone.failures) == (1, None, [])
    assert hall.held == {"bob": 1}
    waiting.given.abort()
    await hall.empty()


async def test_a_connection_that_nobody_waits_for_at_all_is_kept(make: Make, doors: Doors) -> None:
    hall = make(1)
    gone = hall.ask()
    await doors.knocked(1)
    hall.pool.cancel(gone)
    doors.closed[0].set_result(True)
    await until(lambda: hall.pool.idle)
    assert (hall.held, hall.pool.busy) == ({}, 0)
    again = hall.ask()
    assert (again.connection is not None, len(doors.closed)) == (True, 1)
    again.given.abort()
    await hall.empty()


async def test_who_waits_is_served_when_somebody_elses_connection_cannot_be_opened(make: Make, doors: Doors) -> None:
    hall = make(1)
    first, waiting = hall.ask("ada"), hall.ask("bob")
    await doors.knocked(1)
    doors.closed[0].set_result(False)
    await doors.knocked(2)
    doors.closed[1].set_result(True)
    await until(lambda: waiting.connection)
    assert (first.failures, hall.heard.failed_for) == ([Failure.UNREACHABLE], [None])
    waiting.given.abort()
    await hall.empty()


async def test_an_earlier_attempts_failure_is_not_the_later_ones(make: Make, doors: Doors) -> None:
    hall = make(3)
    asking = hall.ask()
    await doors.knocked(1)
    hall.pool.cancel(asking)
    hall.pool.lease(asking, 1.0, new=True)
    await doors.knocked(2)
    doors.closed[0].set_result(False)
    await until(lambda: hall.heard.failed_for)
    assert asking.failures == []
    doors.closed[1].set_result(True)
    await until(lambda: asking.connection)
    assert hall.held == {"ada": 1}
    asking.given.abort()
    await hall.empty()


@pytest.mark.parametrize("when", ["while the answer comes", "while it is tried again"])
async def test_a_late_failure_to_connect_harms_no_request(
    issuer: Issuer, upstream: RecordingUpstream, doors: Doors, clock: Clock, when: str
) -> None:
    upstream.response = before = PausedResponse(then=OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
    async with GatewayHarness.open(ROUTES, upstream.url, issuer.verifier()) as harness:
        harness.limit_connections(1)
        first, line = await harness.connect(), await harness.connect()
        first.send(GET)
        await doors.knocked(1)
        doors.closed[0].set_result(True)
        await until(lambda: upstream.requests)
        line.send(GET)
        (pool,) = harness.upstream().pools
        await until(lambda: pool.waiting)
        # It has waited for some of its time when it gets to try.
        clock.skip(3)
        upstream.response = held = PausedResponse(
            first=b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nfirst", then=b"last"
        )
        before.resume()
        await doors.knocked(2)
        harness.limit_connections(2)
        clock.skip(2.5)
        await doors.knocked(3)
        if when == "while the answer comes":
            doors.closed[2].set_result(True)
            await line.wait_for(b"first")
        doors.closed[1].set_result(False)
        await never(lambda: line.is_closed or len(doors.closed) > 3)
        if when == "while it is tried again":
            doors.closed[2].set_result(True)
            await line.wait_for(b"first")
        held.resume()
        (answer,) = parse_responses(await line.wait_closed())
        assert (answer.status, answer.body, answer.is_complete) == (200, b"firstlast", True)
        assert len(upstream.requests) == 2


# Shares: of 16 connections, a caller with 8 gets no further one when no more than 4 are left.


async def test_a_caller_with_half_of_the_connections_leaves_a_quarter_to_others(make: Make) -> None:
    hall = make(16)
    mine = await hall.served(12)
    more = hall.ask()
    await never(lambda: more.connection)
    assert (hall.pool.busy, hall.pool.waiting) == (12, 1)
    # They get theirs although somebody waits.
    others = [each for name in ("bob", "cy") for each in await hall.served(2, name)]
    assert hall.pool.busy == 16
    assert more.connection is None
    for each in [*mine, *others]:
        each.given.abort()
    await until(lambda: more.connection)
    more.given.abort()
    await hall.empty()


async def test_callers_behind_one_proxy_are_told_apart(issuer: Issuer, upstream: RecordingUpstream) -> None:
    async with GatewayHarness.open(SHARED, upstream.url, issuer.verifier()) as harness:
        harness.gateway.runtime.current.admission._proxies = TrustedProxies([ip_network("10.0.0.0/8")])
        (pool,) = harness.upstream().pools
        upstream.response = respond_and_stall()
        for number in range(20):
            line = await harness.connect("10.0.0.1")
            line.send(b"GET /any/%d HTTP/1.1\r\nHost: gw\r\nX-Forwarded-For: 192.0.2.1\r\n\r\n" % number)
        await until(lambda: len(upstream.requests) == 12 and pool.waiting == 8)
        upstream.response = OK
        for other in ("192.0.2.2", "192.0.2.3"):
            answer = await harness.request("/any/x", f"X-Forwarded-For: {other}", peer="10.0.0.1")
            assert answer.status == 200
        assert (len(upstream.requests), pool.waiting) == (14, 8)


async def test_several_who_have_less_than_half_may_have_all(make: Make) -> None:
    hall = make(16)
    asked = [each for name in ("ada", "bob") for each in await hall.served(8, name)]
    assert (hall.pool.busy, hall.pool.waiting, hall.held) == (16, 0, {"ada": 8, "bob": 8})
    for each in asked:
        each.given.abort()
    await hall.empty()


async def test_those_of_whom_one_has_much_wait_behind_others(make: Make) -> None:
    hall = make(16)
    mine = await hall.served(12)
    more = [hall.ask() for _ in range(3)]
    others = [each for name in ("bob", "cy") for each in await hall.served(2, name)]
    late = [hall.ask(name) for name in ("dan", "eve")]
    for each, next_one in zip(mine[:2], late, strict=True):
        each.given.abort()
        await until(lambda it=next_one: it.connection)  # type: ignore[misc]  # a default
    assert [each.connection for each in more] == [None] * 3
    # Ada has 10, and there is room beyond the quarter when five are free.
    for each in [*others, late[0]]:
        await never(lambda: any(waiting.connection for waiting in more))
        each.given.abort()
    await until(lambda: more[0].connection)
    await never(lambda: more[1].connection)
    for each in [*mine[2:], late[1]]:
        each.given.abort()
    await until(lambda: all(each.connection for each in more))
    for each in more:
        each.given.abort()
    await hall.empty()


async def test_who_has_come_to_much_while_waiting_holds_nobody_up(make: Make) -> None:
    hall = make(16)
    others = [each for name in ("bob", "cy") for each in await hall.served(8, name)]
    waiting = [hall.ask("ada") for _ in range(9)]
    last = hall.ask("dan")
    for number, each in enumerate(others[:9], 1):
        each.given.abort()
        await until(lambda number=number: hall.pool.busy == 16 or number == 9)  # type: ignore[misc]  # a default
    # Ada has got her share with eight of them; the ninth connection is for the one who came after her.
    await until(lambda: last.connection)
    assert sum(each.connection is not None for each in waiting) == 8
    for each in [*others[9:], *waiting[:8], last]:
        each.given.abort()
    await until(lambda: waiting[8].connection)
    waiting[8].given.abort()
    await hall.empty()


async def test_of_few_connections_one_caller_may_have_all(make: Make) -> None:
    hall = make(15)
    for each in await hall.served(15):
        each.given.abort()
    await hall.empty()


async def test_who_has_much_may_wait_half_as_often(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ostiary_gateway.upstream.fair_queue.MAX_WAITING", 4)
    hall = make(16)
    served = await hall.served(12)
    mine = [hall.ask() for _ in range(3)]
    served += await hall.served(4, "bob")
    others = [hall.ask(name) for name in "cdefg"]
    assert [each.failures for each in mine] == [[], [], [Failure.OVERLOADED]]
    assert [each.failures for each in others] == [[]] * 4 + [[Failure.OVERLOADED]]
    for each in [*mine, *others]:
        hall.pool.cancel(each)
    for each in served:
        each.given.abort()
    await hall.empty()


async def test_nothing_is_left_of_those_who_have_gone(make: Make, doors: Doors) -> None:
    hall = make(4)
    asked = [hall.ask(name) for name in ("a", "b", "c", "d", "e", "f", "g")]
    await doors.knocked(4)
    hall.pool.cancel(asked[0])
    hall.pool.cancel(asked[1])
    hall.pool.cancel(asked[4])
    for door, opens in zip(doors.closed[:4], (True, False, True, False), strict=True):
        door.set_result(opens)
    await doors.knocked(6)
    for door in doors.closed[4:]:
        door.set_result(True)
    await until(lambda: asked[5].connection and asked[6].connection)
    assert [bool(each.connection) for each in asked] == [False, False, True, False, False, True, True]
    assert [each.failures for each in asked if each.failures] == [[Failure.UNREACHABLE]]
    assert hall.held == {"c": 1, "f": 1, "g": 1}
    hall.give_back(asked[2])
    assert hall.held == {"f": 1, "g": 1}
    hall.pool.retire()
    asked[5].given.abort()
    hall.give_back(asked[6])
    await hall.empty()
