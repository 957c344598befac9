"""Who may hash a password next: a fair queue, as a hundred people who log in at once want more than the cores can do.

Start-time fair queuing (Goyal, Vin and Cheng, 1996): whoever comes gets a tag, which is the cost of their hash after
that of the last one of the same flow that waits, or after the present if none does. The lowest tag is next. So a flow
gets its share however many of another one wait, and all there is if it waits alone.
"""

import asyncio
from bisect import insort
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count

from ostiary_auth.domain.errors import HashingOverloaded

#: Seconds until whoever waits is refused: as long as a person waits for a page without doubting it.
PATIENCE_SECONDS = 3.0


@dataclass(frozen=True, slots=True, order=True)
class _Waiting:
    tag: int
    number: int
    flow: Hashable = field(compare=False)
    turn: asyncio.Future[None] = field(compare=False)


class HashingQueue:
    """Lets `at_once` callers go on, and `most` others wait."""

    def __init__(self, at_once: int, most: int) -> None:
        self._free = at_once
        self._most = most
        self._numbers = count()
        #: In the order of their turns.
        self._waiting: list[_Waiting] = []
        #: The tag of the last one that has got a turn after a wait.
        self._now = 0

    @asynccontextmanager
    async def turn(self, flow: Hashable, cost: int) -> AsyncIterator[None]:
        """Wait for a turn, which lasts as long as the block. Raises HashingOverloaded."""
        if self._free:
            self._free -= 1
        else:
            await self._wait(flow, cost)
        try:
            yield
        finally:
            self._pass_on()

    async def _wait(self, flow: Hashable, cost: int) -> None:
        waiting = self._line_up(flow, cost)
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                await waiting.turn
        except BaseException as error:
            if waiting in self._waiting:
                self._waiting.remove(waiting)
            elif waiting.turn.done() and not waiting.turn.cancelled() and waiting.turn.exception() is None:
                # The turn came in the same moment, and somebody else can use it.
                self._pass_on()
            if isinstance(error, TimeoutError):
                raise HashingOverloaded from None
            raise

    def _line_up(self, flow: Hashable, cost: int) -> _Waiting:
        """Join the queue. If it is full, the last one has to leave it, which may be the new one."""
        last = max((each.tag for each in self._waiting if each.flow == flow), default=self._now)
        waiting = _Waiting(last + cost, next(self._numbers), flow, asyncio.get_running_loop().create_future())
        insort(self._waiting, waiting)
        if len(self._waiting) > self._most:
            refused = self._waiting.pop()
            if refused is waiting:
                raise HashingOverloaded
            refused.turn.set_exception(HashingOverloaded())
        return waiting

    def _pass_on(self) -> None:
        while self._waiting:
            following = self._waiting.pop(0)
            if not following.turn.done():  # it may have been cancelled
                self._now = following.tag
                following.turn.set_result(None)
                return
        self._free += 1
