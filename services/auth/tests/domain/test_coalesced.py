"""Work that many wait for: whoever returns has had it done after asking, and it is done as often as that takes."""

import asyncio
import gc
import random
from collections.abc import Callable
from typing import Any

import pytest

from ostiary_auth.domain.coalesced import Coalesced


class Work:
    """Work that is begun when others want it, and ends when the test says so."""

    def __init__(self) -> None:
        self.runs: list[asyncio.Future[None]] = []
        self.coalesced = Coalesced(self._run)
        self._at_once = 0
        self._begun = asyncio.Event()

    async def ask(self) -> "asyncio.Task[None]":
        """Return a call that is waiting."""
        (call,) = await self.ask_together(1)
        return call

    async def ask_together(self, number: int) -> list["asyncio.Task[None]"]:
        """Return calls that have all been made before anything else could happen."""
        calls = [asyncio.create_task(self.coalesced()) for _ in range(number)]
        await asyncio.sleep(0)  # they are next in the queue, and go as far as they can
        return calls

    async def begun(self, number: int) -> "asyncio.Future[None]":
        """Wait for a run to begin, and return what ends it."""
        async with asyncio.timeout(5):
            while len(self.runs) < number:
                self._begun.clear()
                await self._begun.wait()
        return self.runs[number - 1]

    async def _run(self) -> None:
        self._at_once += 1
        assert self._at_once == 1
        end = asyncio.get_running_loop().create_future()
        self.runs.append(end)
        self._begun.set()
        try:
            await end
        finally:
            self._at_once -= 1


@pytest.fixture
async def work() -> Work:
    return Work()


@pytest.fixture
async def reported() -> list[dict[str, Any]]:
    """Return what the event loop reports of errors that nobody looked at."""
    found: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: found.append(context))
    return found


async def all_end(*calls: "asyncio.Task[None]") -> list[BaseException | None]:
    async with asyncio.timeout(5):
        return await asyncio.gather(*calls, return_exceptions=True)


async def test_a_call_returns_when_the_work_is_done(work: Work) -> None:
    call = await work.ask()
    end = await work.begun(1)
    assert not call.done()
    end.set_result(None)
    assert await all_end(call) == [None]


async def test_work_that_began_before_the_call_does_not_count(work: Work) -> None:
    early = await work.ask()
    first = await work.begun(1)
    late = await work.ask()
    first.set_result(None)
    assert await all_end(early) == [None]
    second = await work.begun(2)
    assert not late.done()
    second.set_result(None)
    assert await all_end(late) == [None]


async def test_who_asks_before_it_begins_shares_the_first_run(work: Work) -> None:
    calls = await work.ask_together(100)
    (await work.begun(1)).set_result(None)
    assert await all_end(*calls) == [None] * 100
    assert len(work.runs) == 1


async def test_all_who_ask_during_a_run_share_the_next(work: Work) -> None:
    early = await work.ask()
    first = await work.begun(1)
    late = [await work.ask() for _ in range(100)]
    assert len(work.runs) == 1
    first.set_result(None)
    (await work.begun(2)).set_result(None)
    assert await all_end(early, *late) == [None] * 101
    assert len(work.runs) == 2


async def test_a_call_after_the_end_begins_anew(work: Work) -> None:
    for number in range(1, 4):
        call = await work.ask()
        (await work.begun(number)).set_result(None)
        assert await all_end(call) == [None]
    assert len(work.runs) == 3


async def test_an_error_reaches_everybody_who_waits_for_that_run_and_nobody_else(
    work: Work, reported: list[dict[str, Any]]
) -> None:
    early = await work.ask_together(3)
    first = await work.begun(1)
    late = [await work.ask() for _ in range(3)]
    error = OSError("away")
    first.set_exception(error)
    assert await all_end(*early) == [error] * 3
    (await work.begun(2)).set_result(None)
    assert await all_end(*late) == [None] * 3
    del early, late
    gc.collect()
    assert reported == []


async def test_after_an_error_it_is_tried_again(work: Work) -> None:
    failing = await work.ask()
    (await work.begun(1)).set_exception(OSError("away"))
    assert [type(outcome) for outcome in await all_end(failing)] == [OSError]
    call = await work.ask()
    (await work.begun(2)).set_result(None)
    assert await all_end(call) == [None]


@pytest.mark.parametrize("given_up", [0, 1])
async def test_who_gives_up_does_not_end_it_for_the_others(work: Work, given_up: int) -> None:
    running = await work.ask_together(2)
    first = await work.begun(1)
    queued = [await work.ask() for _ in range(2)]
    for calls in (running, queued):
        calls[given_up].cancel()
        assert [type(outcome) for outcome in await all_end(calls[given_up])] == [asyncio.CancelledError]
    first.set_result(None)
    (await work.begun(2)).set_result(None)
    assert await all_end(running[1 - given_up], queued[1 - given_up]) == [None, None]


async def test_what_everybody_gave_up_waiting_for_is_done_all_the_same(work: Work) -> None:
    call = await work.ask()
    end = await work.begun(1)
    call.cancel()
    assert [type(outcome) for outcome in await all_end(call)] == [asyncio.CancelledError]
    following = await work.ask()
    assert len(work.runs) == 1
    end.set_result(None)
    (await work.begun(2)).set_result(None)
    assert await all_end(following) == [None]


async def test_an_error_that_nobody_waits_for_any_more_is_not_reported(
    work: Work, reported: list[dict[str, Any]]
) -> None:
    call = await work.ask()
    end = await work.begun(1)
    call.cancel()
    await all_end(call)
    end.set_exception(OSError("away"))
    following = await work.ask()
    (await work.begun(2)).set_result(None)
    assert await all_end(following) == [None]
    work.runs.clear()
    del call, end, following
    gc.collect()
    assert reported == []


async def test_what_is_ended_is_not_done_and_whoever_waits_for_it_is_not_kept(work: Work) -> None:
    running = await work.ask()
    end = await work.begun(1)
    queued = await work.ask()
    await work.coalesced.close()
    assert [type(outcome) for outcome in await all_end(running, queued)] == [asyncio.CancelledError] * 2
    assert end.cancelled()
    assert len(work.runs) == 1


async def test_where_nothing_is_done_there_is_nothing_to_end(work: Work) -> None:
    await work.coalesced.close()
    call = await work.ask()
    (await work.begun(1)).set_result(None)
    assert await all_end(call) == [None]
    await work.coalesced.close()
    assert len(work.runs) == 1


async def test_after_an_end_it_can_be_asked_for_again(work: Work) -> None:
    calls = [await work.ask()]
    await work.begun(1)
    calls.append(await work.ask())
    await work.coalesced.close()
    await all_end(*calls)
    call = await work.ask()
    assert not call.done()
    (await work.begun(2)).set_result(None)
    assert await all_end(call) == [None]


@pytest.mark.parametrize("seed", range(3))
async def test_whatever_was_committed_before_a_call_is_known_after_it(seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311 - no secret
    committed, known, runs = 0, 0, 0

    async def pause() -> None:
        for _ in range(chance.randrange(4)):
            await asyncio.sleep(0)

    async def look() -> None:
        nonlocal known, runs
        runs += 1
        seen = committed
        await pause()
        if chance.random() < 0.1:
            raise OSError
        known = seen

    async def commit_and_look(look: Callable[[], Any]) -> bool:
        nonlocal committed
        await pause()
        committed += 1
        own = committed
        try:
            await look()
        except OSError:
            return False
        assert known >= own
        return True

    coalesced = Coalesced(look)
    outcomes: list[bool] = []
    for _ in range(20):
        outcomes += await asyncio.gather(*(commit_and_look(coalesced) for _ in range(20)))
    assert 200 < sum(outcomes) < 400
    assert runs < 200


class TestPatience:
    async def test_a_run_that_hangs_holds_up_no_later_one(self) -> None:
        hangs, runs = asyncio.Event(), 0

        async def work() -> None:
            nonlocal runs
            runs += 1
            if runs == 1:
                await hangs.wait()

        coalesced = Coalesced(work, patience=0.01)
        first = asyncio.create_task(coalesced())
        await asyncio.sleep(0)
        async with asyncio.timeout(10):
            await asyncio.gather(*(coalesced() for _ in range(3)))
            assert (runs, first.done()) == (2, False)
            hangs.set()
            await first

    async def test_in_the_end_all_are_cancelled(self) -> None:
        cancelled = 0

        async def work() -> None:
            nonlocal cancelled
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled += 1
                raise

        coalesced = Coalesced(work, patience=0.01)
        calls = []
        for _ in range(3):
            calls.append(asyncio.create_task(coalesced()))
            await asyncio.sleep(0.03)
        await coalesced.close()
        assert cancelled == 3
        assert all(
            isinstance(each, asyncio.CancelledError) for each in await asyncio.gather(*calls, return_exceptions=True)
        )
