"""What clients notice when a process that logins depend on is killed, and started again some seconds later."""

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from browsers import Jar, Tab
from common import OK, Process, Row
from contenders import Contender, Login

#: Seconds before the process is killed, until it is started again, and after that.
BEFORE, DOWN, AFTER = 3.0, 10.0, 7.0

#: Requests per second of each client, and seconds after which its user has given up.
RATE = 2.0
PATIENCE = 2.0

UNAUTHORIZED = 401


@dataclass(slots=True)
class Client:
    """Sends requests at a constant rate."""

    tab: Tab
    #: By phase, how often each status came; 0 is no answer in time.
    statuses: dict[str, Counter[int]] = field(default_factory=dict)
    last: int = 0

    async def run(self, started_at: float, offset: float) -> None:
        """Send requests until the end. One that is due while another hangs counts as not answered."""
        for number in range(int((BEFORE + DOWN + AFTER) * RATE)):
            due = offset + number / RATE
            phase = "before" if due < BEFORE else "down" if due < BEFORE + DOWN else "after"
            early = started_at + due - time.monotonic()
            self.last = 0
            if early > -1 / RATE:
                await asyncio.sleep(early)
                self.last = await self._status()
            self.statuses.setdefault(phase, Counter())[self.last] += 1

    async def _status(self) -> int:
        try:
            async with asyncio.timeout(PATIENCE):
                return (await self.tab.send("GET", "/profile")).status
        except (OSError, TimeoutError):
            return 0


@dataclass(frozen=True, slots=True)
class Victim:
    """A running process that is killed; it runs again until `stack` is closed."""

    process: Process
    stack: ExitStack

    def kill(self) -> None:
        os.kill(self.process.pid, signal.SIGKILL)

    def start(self) -> None:
        self.stack.enter_context(self.process.running())


def outage(contender: Contender, victim: Victim, logins: Sequence[Login]) -> Row:
    """Kill a process under load, and start it again; return how many requests were due, and what became of them."""
    return asyncio.run(_outage(contender, victim, logins))


async def _outage(contender: Contender, victim: Victim, logins: Sequence[Login]) -> Row:
    clients = [Client(tab(contender, login)) for login in logins]
    started_at = time.monotonic() + 0.1
    async with asyncio.TaskGroup() as group:
        for number, client in enumerate(clients):
            group.create_task(client.run(started_at, number / len(clients) / RATE))
        group.create_task(strike(victim, started_at))
    for client in clients:
        client.tab.close()
    counts: dict[str, Counter[int]] = {}
    for client in clients:
        for phase, statuses in client.statuses.items():
            counts.setdefault(phase, Counter()).update(statuses)
    return {
        "due_while_down": counts["down"].total(),
        "failed_while_down": counts["down"].total() - counts["down"][OK],
        "failed_before": counts["before"].total() - counts["before"][OK],
        "failed_after": counts["after"].total() - counts["after"][OK],
        "statuses_while_down": {str(status): count for status, count in sorted(counts["down"].items())},
        "clients": len(clients),
        "clients_logged_out": sum(client.last == UNAUTHORIZED for client in clients),
        "clients_served_at_the_end": sum(client.last == OK for client in clients),
    }


async def strike(victim: Victim, started_at: float) -> None:
    await asyncio.sleep(started_at + BEFORE - time.monotonic())
    victim.kill()
    await asyncio.sleep(started_at + BEFORE + DOWN - time.monotonic())
    await asyncio.to_thread(victim.start)


def tab(contender: Contender, login: Login) -> Tab:
    """Return a client with the credential of a login."""
    jar = Jar()
    if login.credential.startswith("Cookie"):
        jar.set(login.credential)
        return Tab(contender.ports, jar)
    return Tab(contender.ports, jar, login.credential)
