"""Count who is refused with a good credential, and who gets in with an ended one, while things break.

Two of everything (auth service, gateway, service) on one PostgreSQL. Half of the people use programs with bearer tokens
and refresh them, the others browsers with cookies. All read their profile again and again; some log out, and a copy of
what they had is tried everywhere. Once a minute something breaks: `FAULTS` has the list.

    refused      requests with a good credential that got anything but 200; `in_flight` are those that were on their way
                 at a process when it was killed, and whose answer had begun
    let_in       requests with a credential that a logout had ended, and which got 200: after a `complete`, or later
                 than the bound of 30 s after any logout
    lost         people whom a refresh or a login has told that their session or password is not good

A client asks the other gateway if one does not answer, as load balancers do, but never sends a POST twice: logins,
refreshes and logouts that were interrupted or got 502 or 503 are repeated later, as people do, and counted. The results
are printed and, after a full run, written to `bench/results/bad_days.json`.

    python bench/bad_days.py [--minutes 15] [--people 120] [--fault NAME ...] [--logs FOLDER]
"""

import argparse
import asyncio
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
from browsers import Jar, Tab
from common import OK, PASSWORD, Row, environment, milliseconds, show, versions, write
from replicas import Replica, Replicas, running_replicas

LIBRARIES = ("ostiary", "ostiary-gateway", "ostiary-auth", "asyncpg", "uvloop")
FULL_MINUTES, FULL_PEOPLE = 15, 120
FAULT_SECONDS = 60.0

#: Seconds that an access token lives; a client refreshes it after this share, and a gateway in the last tenth.
TOKEN_SECONDS = 300
REFRESH_SHARE = 0.7

#: Seconds between two visits, and the share of them that ends with a logout.
PAUSES = (0.3, 3.0)
LOGOUT_SHARE = 0.02

#: Seconds in which all people log in at the start.
OPENING_SECONDS = 30.0

#: Seconds after which a request has failed that nobody has answered, and for which an interrupted one is repeated.
PATIENCE = 20.0
PERSISTENCE = 60.0

#: Seconds after which a logout is in force everywhere, whatever fails: the default bound, and what a request takes.
BOUND = 31.0

UNAUTHORIZED, TOO_MANY, BAD_GATEWAY, UNAVAILABLE = 401, 429, 502, 503
SHOWN_FAILURES = 50


@dataclass(slots=True)
class Record:
    """What happened."""

    fault: str = "none"
    requests: int = 0
    refused: list[str] = field(default_factory=list)
    let_in: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    started_at: float = field(default_factory=time.monotonic)

    def note(self, which: list[str], what: str) -> None:
        which.append(f"{time.monotonic() - self.started_at:.1f} s, {self.fault}: {what}")


class Person:
    """Logs in, comes back again and again, and logs out now and then."""

    def __init__(self, replicas: Replicas, number: int, record: Record) -> None:
        ports = [gateway.port for gateway in replicas.gateways]
        self._replicas = replicas
        self._record = record
        self._email = replicas.emails[number % len(replicas.emails)]
        self._source = f"X-Forwarded-For: 10.1.{number // 250}.{number % 250 + 1}"
        # Not for secrets.
        self._random = random.Random(number)  # noqa: S311
        self._jar = Jar()
        self._tab = Tab(ports[number % 2 :] + ports[: number % 2], self._jar, self._source)
        self._checks: set[asyncio.Task[None]] = set()

    async def run(self, delay: float, until: float) -> None:
        await asyncio.sleep(delay)
        await self._log_in()
        while time.monotonic() < until:
            await asyncio.sleep(min(self._random.uniform(*PAUSES), max(0.0, until - time.monotonic())))
            await self._prepare()
            await self._visit()
            if self._random.random() < LOGOUT_SHARE:
                await self._log_out()
                await self._log_in()
        self._tab.close()
        await asyncio.gather(*self._checks)

    async def _visit(self) -> None:
        record, sent_at = self._record, time.perf_counter()
        record.requests += 1
        try:
            async with asyncio.timeout(PATIENCE):
                answer = await self._tab.send("GET", "/profile", b"", *self._credential())
        except (OSError, TimeoutError) as error:
            record.note(record.refused, f"no answer: {type(error).__name__}")
            return
        record.times.append(time.perf_counter() - sent_at)
        if answer.status == BAD_GATEWAY and record.fault.startswith("kill"):
            record.counts["in_flight"] += 1
        elif answer.status != OK:
            record.note(record.refused, f"{type(self).__name__}: {answer.status} {answer.body.decode()}")

    async def _persist(self, what: str, method: str, path: str, body: object, *fields: str) -> Any:
        """Send a request until it is answered by something else than "later". Return the document; None if refused."""
        until, record = time.monotonic() + PERSISTENCE, self._record
        record.counts[what] += 1
        data = json.dumps(body).encode() if body is not None else b""
        while time.monotonic() < until:
            try:
                async with asyncio.timeout(PATIENCE):
                    answer = await self._tab.send(method, path, data, "Content-Type: application/json", *fields)
            except (OSError, TimeoutError):
                record.counts[f"{what}_interrupted"] += 1
            else:
                if answer.status == OK:
                    return json.loads(answer.body)
                if what == "logout" and answer.status == UNAUTHORIZED:
                    # It was sent before, and has taken effect; the credential is tried later in any case.
                    record.counts["logouts_repeated"] += 1
                    return {"complete": False}
                if answer.status not in {BAD_GATEWAY, UNAVAILABLE, TOO_MANY}:
                    record.note(record.lost, f"{what}: {answer.status} {answer.body.decode()}")
                    return None
                record.counts[f"{what}_answered_{answer.status}"] += 1
            await asyncio.sleep(1.0)
        record.note(record.lost, f"{what}: no answer for {PERSISTENCE:.0f} s")
        return None

    async def _log_out(self) -> None:
        """Log out, and try a copy of the credential: at once if the logout is complete, and when the bound is over."""
        copy = self._copy()
        answer = await self._end()
        ended_at = time.monotonic()
        if answer is None:
            return
        self._record.counts["logouts_complete" if answer["complete"] else "logouts_incomplete"] += 1
        if answer["complete"]:
            await self._try(copy, "complete")
        check = asyncio.create_task(self._try_later(copy, ended_at + BOUND))
        self._checks.add(check)
        check.add_done_callback(self._checks.discard)

    async def _try_later(self, copy: tuple[str, ...], at: float) -> None:
        await asyncio.sleep(at - time.monotonic())
        await self._try(copy, "bound")

    async def _try(self, copy: tuple[str, ...], when: str) -> None:
        """Present an ended credential to all gateways and, a bearer, to all services."""
        is_bearer = copy[0].startswith("Authorization")
        for replica in (*self._replicas.gateways, *(self._replicas.services if is_bearer else ())):
            tab = Tab([replica.port], Jar(), self._source)
            try:
                async with asyncio.timeout(PATIENCE):
                    status = (await tab.send("GET", "/profile", b"", *copy)).status
            except (OSError, TimeoutError):
                # It is down.
                continue
            finally:
                tab.close()
            self._record.counts[f"refusals_{when}"] += status in {UNAUTHORIZED, UNAVAILABLE}
            if status == OK:
                self._record.note(self._record.let_in, f"{type(self).__name__} after {when}")

    def _credential(self) -> tuple[str, ...]:
        """Return the field that `_visit` sends besides the jar's."""
        return ()

    def _copy(self) -> tuple[str, ...]:
        """Return what a thief would present."""
        return self._jar.fields()

    async def _prepare(self) -> None:
        """Do what is due before a visit."""

    async def _log_in(self) -> None:
        await self._persist("login", "POST", "/session", {"email": self._email, "password": PASSWORD})

    async def _end(self) -> Any:
        return await self._persist("logout", "DELETE", "/session", None, "Prefer: wait=5")


class Browser(Person):
    """With cookies."""


class Program(Person):
    """With a bearer token, which it refreshes."""

    _access = _refresh = ""
    _due = 0.0

    def _credential(self) -> tuple[str, ...]:
        return (f"Authorization: Bearer {self._access}",)

    def _copy(self) -> tuple[str, ...]:
        return self._credential()

    async def _prepare(self) -> None:
        if time.monotonic() < self._due:
            return
        granted = await self._persist("refresh", "POST", "/auth/refresh", {"refresh_token": self._refresh})
        if granted is None:
            await self._log_in()
        else:
            self._take(granted)

    async def _log_in(self) -> None:
        body = {"email": self._email, "password": PASSWORD}
        granted = await self._persist("login", "POST", "/auth/login", body)
        if granted is not None:
            self._take(granted)

    async def _end(self) -> Any:
        return await self._persist("logout", "POST", "/auth/logout", {}, *self._credential(), "Prefer: wait=5")

    def _take(self, granted: dict[str, Any]) -> None:
        self._access, self._refresh = granted["access_token"], granted["refresh_token"]
        self._due = time.monotonic() + granted["expires_in"] * REFRESH_SHARE


# What breaks.


async def kill(replica: Replica) -> None:
    """End a process without notice, and start it again."""
    os.kill(replica.process.pid, signal.SIGKILL)
    await asyncio.sleep(8.0)
    await asyncio.to_thread(replica.stop)
    await asyncio.to_thread(replica.start)


async def freeze(replica: Replica) -> None:
    """Stop a process as a paused machine is, and let it go on."""
    os.kill(replica.process.pid, signal.SIGSTOP)
    try:
        await asyncio.sleep(12.0)
    finally:
        os.kill(replica.process.pid, signal.SIGCONT)


async def kill_auth(replicas: Replicas) -> None:
    await kill(replicas.auths[0])


async def kill_gateway(replicas: Replicas) -> None:
    await kill(replicas.gateways[0])


async def kill_service(replicas: Replicas) -> None:
    await kill(replicas.services[0])


async def kill_both_auths(replicas: Replicas) -> None:
    await asyncio.gather(*(kill(each) for each in replicas.auths))


async def freeze_auth(replicas: Replicas) -> None:
    await freeze(replicas.auths[1])


async def restart_everything(replicas: Replicas) -> None:
    """Restart all processes in good order, one after the other."""
    for each in replicas.all:
        await asyncio.to_thread(each.stop)
        await asyncio.to_thread(each.start)


async def slow_network(replicas: Replicas) -> None:
    """Let everything between the auth service and those who follow it take 150 ms each way."""
    for link in replicas.to_auth:
        link.delay = 0.15
    await asyncio.sleep(40.0)
    for link in replicas.to_auth:
        link.delay = 0.0


async def cut_service_off(replicas: Replicas) -> None:
    """Refuse one service's connections to the auth service, for less than its bound."""
    link = replicas.services[0].link
    link.cut()
    await asyncio.sleep(15.0)
    link.mend()


async def lose_packets(replicas: Replicas) -> None:
    """Let everything between a gateway and the auth service hang, for less than its bound."""
    link = replicas.gateways[0].link
    link.is_stalled = True
    await asyncio.sleep(15.0)
    link.is_stalled = False


async def busy_database(replicas: Replicas) -> None:
    """Let the database stall for 300 ms, again and again."""
    until, pauses = time.monotonic() + 40.0, random.Random(1)  # noqa: S311 - no secret
    while time.monotonic() < until:
        replicas.database.is_stalled = True
        await asyncio.sleep(0.3)
        replicas.database.is_stalled = False
        await asyncio.sleep(pauses.uniform(0.1, 1.5))


async def hanging_database(replicas: Replicas) -> None:
    replicas.database.is_stalled = True
    await asyncio.sleep(12.0)
    replicas.database.is_stalled = False


async def database_gone(replicas: Replicas) -> None:
    """Break all connections to the database, and refuse new ones."""
    replicas.database.cut()
    await asyncio.sleep(10.0)
    replicas.database.mend()


async def database_read_only(replicas: Replicas) -> None:
    """Let the database take no changes, as a primary does that was replaced."""
    name = replicas.database_url.rpartition("/")[2]
    await execute(replicas, f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    await execute(replicas, END_ALL)
    await asyncio.sleep(10.0)
    await execute(replicas, f"ALTER DATABASE {name} RESET default_transaction_read_only")


async def end_connections(replicas: Replicas) -> None:
    """End all connections at the database, three times."""
    for _ in range(3):
        await execute(replicas, END_ALL)
        await asyncio.sleep(3.0)


async def rotate_keys(replicas: Replicas) -> None:
    await asyncio.to_thread(replicas.operator.command, "keys", "rotate")


END_ALL = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
)


async def execute(replicas: Replicas, statement: str) -> None:
    connection = await asyncpg.connect(replicas.database_url, server_settings={"default_transaction_read_only": "off"})
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


FAULTS: tuple[Callable[[Replicas], Awaitable[None]], ...] = (
    kill_auth,
    kill_gateway,
    slow_network,
    kill_service,
    busy_database,
    freeze_auth,
    cut_service_off,
    database_gone,
    rotate_keys,
    restart_everything,
    lose_packets,
    end_connections,
    hanging_database,
    database_read_only,
    kill_both_auths,
)


async def break_things(
    replicas: Replicas, record: Record, faults: Sequence[Callable[[Replicas], Awaitable[None]]]
) -> None:
    """Let one thing after the other break, once a minute."""
    started_at = time.monotonic() + OPENING_SECONDS
    for number, fault in enumerate(faults):
        await asyncio.sleep(started_at + number * FAULT_SECONDS - time.monotonic())
        record.fault = fault.__name__
        await fault(replicas)
        record.counts["faults"] += 1


async def soak(replicas: Replicas, seconds: float, people: int, faults: Sequence[Any]) -> Record:
    record = Record()
    until = time.monotonic() + OPENING_SECONDS + seconds
    breaking = asyncio.create_task(break_things(replicas, record, faults))
    async with asyncio.TaskGroup() as group:
        for number in range(people):
            person = (Program, Browser)[number % 2](replicas, number, record)
            group.create_task(person.run(OPENING_SECONDS * 0.8 * number / people, until))
    await breaking
    return record


def main() -> int:
    names = [fault.__name__ for fault in FAULTS]
    parser = argparse.ArgumentParser(description="People with sessions, while something breaks every minute.")
    parser.add_argument("--minutes", type=int, default=FULL_MINUTES)
    parser.add_argument("--people", type=int, default=FULL_PEOPLE)
    parser.add_argument("--fault", choices=names, action="append", help="what breaks; default: everything in turn")
    parser.add_argument("--logs", type=Path, help="an empty folder in which the logs of all processes stay")
    arguments = parser.parse_args()
    chosen = [fault for fault in FAULTS if arguments.fault is None or fault.__name__ in arguments.fault]
    faults = [chosen[number % len(chosen)] for number in range(arguments.minutes)]
    accounts = max(1, arguments.people // 2)
    with (
        nullcontext(arguments.logs) if arguments.logs else tempfile.TemporaryDirectory() as folder,
        running_replicas(Path(folder), token_seconds=TOKEN_SECONDS, accounts=accounts) as replicas,
    ):
        record = asyncio.run(soak(replicas, arguments.minutes * FAULT_SECONDS, arguments.people, faults))
    result: Row = {
        **environment(),
        "versions": versions(LIBRARIES, {}),
        "minutes": arguments.minutes,
        "people": arguments.people,
        "requests": record.requests,
        "refused": len(record.refused),
        "let_in": len(record.let_in),
        "lost": len(record.lost),
        **dict(sorted(record.counts.items())),
        "time": milliseconds(record.times),
    }
    show(result)
    for name, failures in (("refused", record.refused), ("let in", record.let_in), ("lost", record.lost)):
        for failure in failures[:SHOWN_FAILURES]:
            print(f"{name}: {failure}")
    if (arguments.minutes, arguments.people, arguments.fault) == (FULL_MINUTES, FULL_PEOPLE, None):
        write("bad_days", result)
    return 1 if record.refused or record.let_in or record.lost else 0


if __name__ == "__main__":
    sys.exit(main())
