"""Many who log in at once wait for each other; nobody takes the queue from others, and no wait is endless."""

import asyncio
from collections.abc import Hashable

import pytest

from ostiary_auth.domain.accounts import hashing_queue
from ostiary_auth.domain.accounts.hashing_queue import HashingQueue
from ostiary_auth.domain.errors import HashingOverloaded


class Queue:
    """A queue with one turn at once, which is taken until the test gives it back."""

    def __init__(self, most: int = 200) -> None:
        self._queue = HashingQueue(at_once=1, most=most)
        self._is_over = asyncio.Event()
        self._first = asyncio.create_task(self._take())
        self.order: list[Hashable] = []

    async def _take(self) -> None:
        async with self._queue.turn("first", 1):
            await self._is_over.wait()

    async def join(self, flow: Hashable, cost: int = 1) -> "asyncio.Task[None]":
        """Join the queue, and return when that is done."""

        async def hash_one() -> None:
            async with self._queue.turn(flow, cost):
                self.order.append(flow)

        task = asyncio.create_task(hash_one())
        await asyncio.sleep(0)
        return task

    async def go_on(self, *tasks: "asyncio.Task[None]") -> list[object]:
        """Let all have their turns; return the errors."""
        self._is_over.set()
        outcomes = await asyncio.gather(self._first, *tasks, return_exceptions=True)
        return [type(each) for each in outcomes if each is not None]


@pytest.fixture
async def queue() -> Queue:
    queue = Queue()
    await asyncio.sleep(0)
    return queue


async def test_a_hundred_at_once_all_get_a_turn_in_the_order_in_which_they_came(queue: Queue) -> None:
    tasks = [await queue.join(number) for number in range(100)]
    assert await queue.go_on(*tasks) == []
    assert queue.order == list(range(100))


async def test_a_classroom_behind_one_address_gets_all_turns_if_nobody_else_waits(queue: Queue) -> None:
    tasks = [await queue.join("school") for _ in range(30)]
    assert await queue.go_on(*tasks) == []


async def test_a_thousand_of_one_address_let_somebody_else_go_next(queue: Queue) -> None:
    tasks = [await queue.join("attacker") for _ in range(150)]
    tasks += [await queue.join("ada"), await queue.join("ben")]
    assert await queue.go_on(*tasks) == []
    assert queue.order[:4] == ["attacker", "ada", "ben", "attacker"]


async def test_what_costs_more_has_a_smaller_share_and_is_not_forgotten(queue: Queue) -> None:
    registrations = [await queue.join("register", 4) for _ in range(3)]
    logins = [await queue.join("log in") for _ in range(12)]
    assert await queue.go_on(*registrations, *logins) == []
    assert [queue.order[:5].count(flow) for flow in ("register", "log in")] == [1, 4]
    assert [queue.order[:10].count(flow) for flow in ("register", "log in")] == [2, 8]


async def test_in_a_full_queue_the_one_with_most_gives_way() -> None:
    queue = Queue(most=10)
    await asyncio.sleep(0)
    attacker = [await queue.join("attacker") for _ in range(12)]
    ada = await queue.join("ada")
    assert await queue.go_on(ada, *attacker) == [HashingOverloaded] * 3
    assert queue.order.count("ada") == 1


async def test_who_has_waited_too_long_is_refused(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hashing_queue, "PATIENCE_SECONDS", 0)
    impatient = await queue.join("ada")
    with pytest.raises(HashingOverloaded):
        await impatient
    monkeypatch.undo()
    assert await queue.go_on(await queue.join("ben")) == []
    assert queue.order == ["ben"]


async def test_who_leaves_takes_no_turn_with_them(queue: Queue) -> None:
    leaving = [await queue.join("ada") for _ in range(3)]
    for task in leaving:
        task.cancel()
    assert await queue.go_on(await queue.join("ben"), *leaving) == [asyncio.CancelledError] * 3
    assert await queue.go_on(await queue.join("carl")) == []
    assert queue.order == ["ben", "carl"]


async def test_a_turn_that_comes_as_somebody_leaves_is_passed_on(queue: Queue) -> None:
    leaving, staying = await queue.join("ada"), await queue.join("ben")
    queue._is_over.set()
    while not queue._first.done():
        await asyncio.sleep(0)
    leaving.cancel()
    await asyncio.wait([leaving, staying])
    assert queue.order[-1] == "ben"
