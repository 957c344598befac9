from dataclasses import dataclass

import pytest

from ostiary_gateway.upstream.fair_queue import MAX_WAITING, MIN_SHARED_CONNECTIONS, FairQueue

#: Of 16 connections a caller's share is 8, and 4 are reserved.
CONNECTIONS, SHARE, RESERVED = 16, 8, 4


@dataclass(frozen=True)
class Waiting:
    caller: str


def queue_with(held: int, connections: int = CONNECTIONS) -> FairQueue[Waiting]:
    queue: FairQueue[Waiting] = FairQueue(connections)
    for _ in range(held):
        queue.hold("ada")
    return queue


@pytest.mark.parametrize(
    ("held", "free", "may_connect"),
    [
        (SHARE - 1, RESERVED, True),
        (SHARE - 1, 1, True),
        (SHARE - 1, 0, False),
        (SHARE, RESERVED + 1, True),
        (SHARE, RESERVED, False),
        (SHARE + 1, RESERVED, False),
    ],
)
def test_the_reserved_connections_are_for_callers_below_their_share(held: int, free: int, may_connect: bool) -> None:
    queue = queue_with(held)
    assert queue.may_connect("ada", CONNECTIONS - free) is may_connect
    assert queue.may_connect("bob", CONNECTIONS - free) is (free > 0)


@pytest.mark.parametrize(("held", "limit"), [(SHARE - 1, MAX_WAITING), (SHARE, MAX_WAITING // 2)])
def test_half_as_many_requests_of_a_caller_with_exactly_its_share_may_wait(held: int, limit: int) -> None:
    queue = queue_with(held)
    assert all(queue.append(Waiting("ada"), 1.0) for _ in range(limit))
    assert not queue.append(Waiting("ada"), 1.0)
    assert len(queue) == limit


def test_a_caller_with_exactly_its_share_lets_others_go_first() -> None:
    queue = queue_with(SHARE)
    for caller in ("ada", "bob"):
        queue.append(Waiting(caller), 1.0)
    assert queue.pop(CONNECTIONS - RESERVED) == (Waiting("bob"), 1.0)
    assert queue.pop(CONNECTIONS - RESERVED) is None
    queue.release("ada")
    assert queue.pop(CONNECTIONS - RESERVED) == (Waiting("ada"), 1.0)


def test_a_caller_who_reaches_its_share_while_it_waits_is_over_it() -> None:
    queue = queue_with(SHARE - 1)
    queue.append(Waiting("ada"), 1.0)
    queue.hold("ada")
    assert queue.pop(CONNECTIONS - RESERVED) is None
    assert queue.pop(CONNECTIONS - RESERVED - 1) == (Waiting("ada"), 1.0)


@pytest.mark.parametrize(
    ("connections", "may_connect"), [(MIN_SHARED_CONNECTIONS - 1, True), (MIN_SHARED_CONNECTIONS, False)]
)
def test_of_few_connections_none_is_reserved(connections: int, may_connect: bool) -> None:
    assert queue_with(connections - 1, connections).may_connect("ada", connections - 1) is may_connect


def test_a_request_that_waits_no_longer_is_forgotten() -> None:
    queue = queue_with(0)
    waiting = Waiting("ada"), Waiting("bob")
    for each in waiting:
        queue.append(each, 1.0)
    queue.remove(waiting[0])
    assert (queue.pop(0), queue.pop(0)) == ((waiting[1], 1.0), None)
