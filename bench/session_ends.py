"""How long requests are accepted after a logout, in tabs that send them all the time."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

from common import OK, Connection, Row, connect, milliseconds
from contenders import Contender, Login

#: Tabs for each process that clients connect to, and seconds between two requests of a tab.
TABS = 4
PAUSE = 0.001

#: Seconds after which a session must have ended in any case.
LIMIT_SECONDS = 60.0

UNAUTHORIZED = 401


@dataclass(frozen=True, slots=True)
class End:
    """One logout: times in seconds after it was sent."""

    #: When its response came.
    answered: float
    #: When the response to the last accepted request came, and the last tab's first refusal; no tab was left out.
    accepted: float
    refused: float


def logouts(contender: Contender, count: int) -> Row:
    """Log sessions out one after the other."""
    ends = [asyncio.run(logout(contender, contender.log_in())) for _ in range(count)]
    return {
        "logouts": count,
        "tabs": TABS * len(contender.ports),
        "answered": times([end.answered for end in ends]),
        "last_accepted": times([end.accepted for end in ends]),
        "refused_everywhere": times([end.refused for end in ends]),
        "refused_everywhere_after_answer": times([max(end.refused - end.answered, 0.0) for end in ends]),
    }


async def logout(contender: Contender, login: Login) -> End:
    """Log out while all tabs send requests, and wait until each has been refused."""
    connections = [each for port in contender.ports for each in await connect(port, TABS)]
    (other,) = await connect(contender.port, 1)
    begun = [asyncio.Event() for _ in connections]
    async with asyncio.timeout(LIMIT_SECONDS), asyncio.TaskGroup() as group:
        tabs = [
            group.create_task(until_refused(connection, login.profile, event))
            for connection, event in zip(connections, begun, strict=True)
        ]
        for event in begun:
            await event.wait()
        sent_at = time.perf_counter()
        answer = await other.ask(login.logout)
    for connection in (*connections, other):
        connection.close()
    if answer.status != OK:
        raise RuntimeError(f"the logout was answered with {answer.status}: {answer.body.decode()}")
    accepted, refused = (max(values) for values in zip(*(tab.result() for tab in tabs), strict=True))
    return End(answer.at - sent_at, accepted - sent_at, refused - sent_at)


async def until_refused(connection: Connection, query: bytes, begun: asyncio.Event) -> tuple[float, float]:
    """Send requests until one is refused; return when the responses to the last accepted one and to that came."""
    accepted_at = 0.0
    while True:
        answer = await connection.ask(query)
        if answer.status == UNAUTHORIZED:
            return accepted_at, answer.at
        if answer.status != OK:
            raise RuntimeError(f"a tab got {answer.status}: {answer.body.decode()}")
        accepted_at = answer.at
        begun.set()
        # Without a pause, the tabs take CPU time from the servers.
        await asyncio.sleep(PAUSE)


def times(seconds: Sequence[float]) -> Row:
    return {**milliseconds(seconds), "max_ms": round(max(seconds) * 1000, 2)}
