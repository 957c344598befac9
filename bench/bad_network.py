"""Good requests on a bad day: nobody is refused because somebody else logs out, however slow everything is.

Two of everything (auth service, gateway, service) on one PostgreSQL. Everything between the auth service and those that
follow it takes 150 ms each way, the database stalls for 300 ms at random, other people log out ten times a second, and
all processes are restarted in good order, one after the other. Meanwhile people whose sessions go on read their profile
through the gateways, half of them with bearer tokens and half with cookies.

    refused          requests of theirs that got anything but 200
    logouts_failed   logouts that did not succeed in the end; one that was interrupted or got 503 is sent again

The results are printed and, after a full run, written to `bench/results/bad_network.json`.

    python bench/bad_network.py [--requests 10000]
"""

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from browsers import Jar, Tab
from common import OK, PASSWORD, Row, environment, log_in, milliseconds, read, show, versions, write
from replicas import Replicas, running_replicas

LIBRARIES = ("ostiary", "ostiary-gateway", "ostiary-auth", "asyncpg", "uvloop")
FULL_REQUESTS = 10_000

#: Requests a second of all people together, and how many they are.
RATE, PEOPLE = 100, 40

#: Logouts a second of others, and on how many connections.
LOGOUTS_PER_SECOND, LOGOUT_TABS = 10, 4

#: Seconds that everything takes between the auth service and its verifiers, each way.
DELAY = 0.15

#: Seconds for which the database stalls, and between two times.
STALL = 0.3
PAUSES = (0.2, 2.0)

#: Longer than the run, so that nobody has to refresh.
TOKEN_SECONDS = 3600

#: Seconds after which a request has failed that nobody has answered.
PATIENCE = 20.0

#: Tries of a logout, and seconds in between.
TRIES, PERSISTENCE = 20, 0.5

NO_CONTENT, UNAUTHORIZED = 204, 401
JSON = "Content-Type: application/json"
SHOWN = 20


@dataclass(slots=True)
class Record:
    """What happened."""

    started_at: float = field(default_factory=time.monotonic)
    during: str = "before"
    refused: list[str] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def refuse(self, what: str) -> None:
        self.refused.append(f"{time.monotonic() - self.started_at:.1f} s, {self.during}: {what}")


async def read_profile(tab: Tab, record: Record, times: Iterable[float]) -> None:
    """Send a request at each of these times, in seconds, or as soon as there is an answer to the one before."""
    for at in times:
        await asyncio.sleep(record.started_at + at - time.monotonic())
        sent_at = time.perf_counter()
        try:
            async with asyncio.timeout(PATIENCE):
                answer = await tab.send("GET", "/profile")
        except (OSError, TimeoutError) as error:
            record.refuse(f"no answer: {type(error).__name__}")
            continue
        record.times.append(time.perf_counter() - sent_at)
        if answer.status != OK:
            record.refuse(f"{answer.status} {answer.body.decode()}")
    tab.close()


async def log_out(tab: Tab, record: Record, tokens: Iterable[str]) -> None:
    """End one session after the other."""
    for number, token in enumerate(tokens):
        await asyncio.sleep(record.started_at + number * LOGOUT_TABS / LOGOUTS_PER_SECOND - time.monotonic())
        record.counts["logouts"] += 1
        record.counts["logouts_failed"] += not await _end(tab, record, token)
    tab.close()


async def _end(tab: Tab, record: Record, token: str) -> bool:
    for attempt in range(TRIES):
        try:
            async with asyncio.timeout(PATIENCE):
                status = (await tab.send("POST", "/auth/logout", b"{}", JSON, f"Authorization: Bearer {token}")).status
        except (OSError, TimeoutError):
            status = 0
        # One that was interrupted may have taken effect.
        if status in {OK, NO_CONTENT} or (attempt and status == UNAUTHORIZED):
            return True
        record.counts[f"logouts_answered_{status}"] += 1
        await asyncio.sleep(PERSISTENCE)
    return False


async def stall(replicas: Replicas, ended: asyncio.Event) -> None:
    pauses = random.Random(1)  # noqa: S311 - no secret
    while not ended.is_set():
        await asyncio.sleep(pauses.uniform(*PAUSES))
        replicas.database.is_stalled = True
        await asyncio.sleep(STALL)
        replicas.database.is_stalled = False


async def restart(replicas: Replicas, record: Record) -> None:
    """Restart all processes, one after the other, so that each is away for a moment in the midst of the load."""
    names = [f"{kind} {number}" for kind in ("auth", "gateway", "service") for number in (1, 2)]
    for name, each in zip(names, replicas.all, strict=True):
        await asyncio.sleep(2.0)
        record.during = f"{name} stops"
        await asyncio.to_thread(each.stop)
        record.during = f"{name} starts"
        await asyncio.to_thread(each.start)
    record.during = "after"


async def open_tabs(replicas: Replicas) -> list[Tab]:
    """Log people in: half of them with cookies, half with bearer tokens."""
    ports = [gateway.port for gateway in replicas.gateways]
    emails = replicas.emails[:PEOPLE]
    bearers = await log_in(replicas.auths[0].port, emails[PEOPLE // 2 :])
    tabs = []
    for number, email in enumerate(emails):
        own_ports, source = ports[number % 2 :] + ports[: number % 2], f"X-Forwarded-For: 10.2.0.{number}"
        if number < PEOPLE // 2:
            tab = Tab(own_ports, Jar(), source)
            body = json.dumps({"email": email, "password": PASSWORD}).encode()
            read(await tab.send("POST", "/session", body, JSON))
        else:
            tab = Tab(
                own_ports, Jar(), source, f"Authorization: Bearer {bearers[number - PEOPLE // 2]['access_token']}"
            )
        tabs.append(tab)
    return tabs


async def run(replicas: Replicas, requests: int) -> Record:
    ports = [gateway.port for gateway in replicas.gateways]
    logouts = LOGOUTS_PER_SECOND * requests // RATE
    others = await log_in(replicas.auths[0].port, [replicas.emails[number % PEOPLE] for number in range(logouts)])
    tabs = await open_tabs(replicas)
    for link in replicas.to_auth:
        link.delay = DELAY
    record, ended = Record(), asyncio.Event()
    stalling = asyncio.create_task(stall(replicas, ended))
    async with asyncio.TaskGroup() as group:
        group.create_task(restart(replicas, record))
        for number, tab in enumerate(tabs):
            times = [number / RATE + turn * PEOPLE / RATE for turn in range(requests // PEOPLE)]
            group.create_task(read_profile(tab, record, times))
        for number in range(LOGOUT_TABS):
            tokens = [each["access_token"] for each in others[number::LOGOUT_TABS]]
            group.create_task(log_out(Tab(ports, Jar(), f"X-Forwarded-For: 10.3.0.{number}"), record, tokens))
    ended.set()
    await stalling
    return record


def main() -> int:
    parser = argparse.ArgumentParser(description="Good requests while other people log out and all else is slow.")
    parser.add_argument("--requests", type=int, default=FULL_REQUESTS)
    arguments = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as name,
        running_replicas(Path(name), token_seconds=TOKEN_SECONDS, accounts=PEOPLE) as replicas,
    ):
        record = asyncio.run(run(replicas, arguments.requests))
    result: Row = {
        **environment(),
        "versions": versions(LIBRARIES, {}),
        "requests": arguments.requests,
        "refused": len(record.refused),
        **dict(sorted(record.counts.items())),
        "time": milliseconds(record.times),
    }
    show(result)
    for each in record.refused[:SHOWN]:
        print(f"refused: {each}")
    if arguments.requests == FULL_REQUESTS:
        write("bad_network", result)
    return 1 if record.refused or record.counts["logouts_failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
