"""Work for many at once: nobody waits alone, everybody gets their own, and a failure is everybody's."""

import asyncio
from collections.abc import Mapping, Sequence

import pytest

from ostiary_auth.domain.batched import Batched


class Work:
    """Doubles numbers, except odd ones, when it is let."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []
        self.gate = asyncio.Event()
        self.fault: Exception | None = None

    async def __call__(self, numbers: Sequence[int]) -> Mapping[int, int]:
        self.calls.append(list(numbers))
        await self.gate.wait()
        if self.fault:
            raise self.fault
        return {number: 2 * number for number in numbers if number % 2 == 0}


@pytest.fixture
def work() -> Work:
    return Work()


async def begun(work: Work, calls: int) -> None:
    while len(work.calls) < calls:
        await asyncio.sleep(0)


async def test_each_gets_their_own(work: Work) -> None:
    work.gate.set()
    batched = Batched(work, lanes=1, most=10)
    assert await asyncio.gather(*(batched(number) for number in range(5))) == [0, None, 4, None, 8]
    assert work.calls == [[0, 1, 2, 3, 4]]
    assert await batched(6) == 12


async def test_who_comes_while_it_works_gets_the_next_turn(work: Work) -> None:
    batched = Batched(work, lanes=1, most=10)
    first = asyncio.create_task(batched(2))
    await begun(work, 1)
    # The same number, too: what was read for the first may be out of date.
    others = [asyncio.create_task(batched(number)) for number in (2, 4, 4)]
    await asyncio.sleep(0)
    work.gate.set()
    assert await asyncio.gather(first, *others) == [4, 4, 8, 8]
    assert work.calls == [[2], [2, 4]]


async def test_lanes_work_side_by_side(work: Work) -> None:
    batched = Batched(work, lanes=2, most=10)
    tasks = []
    for number in (2, 4):
        tasks.append(asyncio.create_task(batched(number)))
        await begun(work, len(tasks))
    tasks.append(asyncio.create_task(batched(6)))
    await asyncio.sleep(0)
    assert work.calls == [[2], [4]]
    work.gate.set()
    assert await asyncio.gather(*tasks) == [4, 8, 12]
    assert work.calls == [[2], [4], [6]]


@pytest.mark.parametrize("turns", range(5))
async def test_who_comes_in_the_turn_in_which_the_last_lane_ends_is_served(work: Work, turns: int) -> None:
    batched = Batched(work, lanes=2, most=1)
    tasks = [asyncio.create_task(batched(number)) for number in (2, 4)]
    await begun(work, 2)
    work.gate.set()
    for _ in range(turns):
        await asyncio.sleep(0)
    async with asyncio.timeout(10):
        assert await asyncio.create_task(batched(6)) == 12
    assert await asyncio.gather(*tasks) == [4, 8]


async def test_no_call_has_more_than_the_most(work: Work) -> None:
    work.gate.set()
    batched = Batched(work, lanes=1, most=3)
    await asyncio.gather(*(batched(number) for number in range(7)))
    assert [len(call) for call in work.calls] == [3, 3, 1]


async def test_a_failure_is_everybodys_and_the_next_call_is_new(work: Work) -> None:
    work.gate.set()
    work.fault = RuntimeError("away")
    batched = Batched(work, lanes=1, most=10)
    found = await asyncio.gather(*(batched(number) for number in (2, 4)), return_exceptions=True)
    assert found == [work.fault, work.fault]
    work.fault = None
    assert await batched(2) == 4


async def test_who_gives_up_does_not_disturb_the_others(work: Work) -> None:
    batched = Batched(work, lanes=1, most=10)
    tasks = [asyncio.create_task(batched(number)) for number in (2, 2, 4)]
    await begun(work, 1)
    tasks[0].cancel()
    work.gate.set()
    assert await asyncio.gather(*tasks[1:]) == [4, 8]
    with pytest.raises(asyncio.CancelledError):
        await tasks[0]
