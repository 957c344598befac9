"""Leases of connections: order, age, cancellation."""

from harness import (
    Clock,
    RecordingUpstream,
    until,
)
from harness.pool import ControlledDials, FakeHandler, MakePool

from ostiary_gateway.upstream.connection import Failure, UpstreamConnection
from ostiary_gateway.upstream.pool import MAX_AGE_SECONDS


async def test_leases_get_new_connections_when_old_ones_expire(make_pool: MakePool, clock: Clock) -> None:
    it = make_pool(2)
    first = await it.leases(2)
    waiting = [it.lease(name) for name in ("bob", "cy")]
    clock.skip(MAX_AGE_SECONDS)
    for each in first:
        it.release(each)
    await until(lambda: all(each.connection for each in waiting))
    assert not {each.connection for each in waiting} & {each.connection for each in first}
    assert (it.pool.busy, it.pool.waiting, it.held) == (2, 0, {"bob": 1, "cy": 1})
    for each in waiting:
        each.leased.abort()
    await it.wait_empty()


async def test_leases_are_served_in_order(make_pool: MakePool) -> None:
    it = make_pool(1)
    (first,) = await it.leases(1)
    waiting = [it.lease(name) for name in ("bob", "cy", "dan")]
    for before, after in zip([first, *waiting], waiting, strict=False):
        assert after.connection is None
        it.release(before)
        assert after.connection is first.connection
    waiting[-1].leased.abort()
    await it.wait_empty()


async def test_a_new_connection_may_replace_an_idle_one(make_pool: MakePool, upstream: RecordingUpstream) -> None:
    it = make_pool(2)
    first = await it.leases(2)
    for each in first:
        it.release(each)
    assert it.pool.idle == 2
    again = it.lease(new=True)
    assert it.pool.waiting == 0
    await until(lambda: again.connection)
    assert again.connection not in {each.connection for each in first}
    # The longest idle connection was closed.
    assert (it.pool.busy, it.pool.idle, len(it.pool._open)) == (1, 1, 2)
    assert first[1].leased in it.pool._idle
    await until(lambda: len(upstream.connections) == 3)
    again.leased.abort()
    it.pool.retire()
    await it.wait_empty()


async def test_cancelled_leases_leave_nothing_behind(make_pool: MakePool, dials: ControlledDials) -> None:
    it = make_pool(4)
    handlers = [it.lease(name) for name in ("a", "b", "c", "d", "e", "f", "g")]
    await dials.wait_dialed(4)
    it.pool.cancel(handlers[0])
    it.pool.cancel(handlers[1])
    it.pool.cancel(handlers[4])
    for door, opens in zip(dials.pending[:4], (True, False, True, False), strict=True):
        door.set_result(opens)
    await dials.wait_dialed(6)
    for door in dials.pending[4:]:
        door.set_result(True)
    await until(lambda: handlers[5].connection and handlers[6].connection)
    assert [bool(each.connection) for each in handlers] == [False, False, True, False, False, True, True]
    assert [each.failures for each in handlers if each.failures] == [[Failure.UNREACHABLE]]
    assert it.held == {"c": 1, "f": 1, "g": 1}
    it.release(handlers[2])
    assert it.held == {"f": 1, "g": 1}
    it.pool.retire()
    handlers[5].leased.abort()
    it.release(handlers[6])
    await it.wait_empty()


class UnwillingHandler(FakeHandler):
    """Gives its connection back without a request."""

    def on_connection(self, connection: UpstreamConnection) -> None:
        self.connection = connection
        connection.give_back()


async def test_a_connection_that_nobody_wants_goes_from_one_to_the_next(make_pool: MakePool) -> None:
    it = make_pool(1)
    (first,) = await it.leases(1)
    # More than calls can be nested.
    unwilling = [UnwillingHandler(f"client-{number}") for number in range(1000)]
    for handler in unwilling:
        it.pool.lease(handler, 1.0)
    last = it.lease("bob")
    it.release(first)
    assert {handler.connection for handler in unwilling} == {last.leased}
    assert (it.held, it.pool.busy, it.pool.waiting) == ({"bob": 1}, 1, 0)
    it.release(last)
    assert (it.held, it.pool.idle, it.outcomes.failed_for) == ({}, 1, [])
