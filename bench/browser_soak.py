"""Do browsers lose requests or their login while everything changes around them? None may.

Two hundred browsers with a cookie jar each, of one to three tabs, use two gateways behind what a load balancer does.
Their access tokens live for a minute, so each is renewed all the time; some pause until theirs has expired, and return
with all tabs at once. Meanwhile

    the signing key is rotated every 45 s,
    one gateway of two is killed every 40 s, and started again 8 s later,
    browsers log out, check that a copy of their cookies is refused, and log in again.

A request fails if no gateway answers, or with another status than expected. The results are printed and, after a full
run, written to `bench/results/browser_soak.json`.

    python bench/browser_soak.py [--seconds 900] [--browsers 200]
"""

import argparse
import asyncio
import itertools
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlencode

from browsers import Jar, Tab
from common import (
    OK,
    PASSWORD,
    Row,
    ask_all,
    connect,
    environment,
    milliseconds,
    request,
    show,
    sign_up,
    versions,
    write,
)
from contenders import Cluster, running_cluster

LIBRARIES = ("ostiary", "ostiary-gateway", "ostiary-auth", "uvloop")
CLIENT = "soak"
FULL_SECONDS, FULL_BROWSERS = 900, 200
TOKEN_SECONDS = 60
ROTATION_SECONDS = 45.0
KILL_SECONDS, DOWN_SECONDS = 40.0, 8.0

#: Seconds between two visits; the long pause is longer than a token lives.
PAUSES = (0.3, 3.0)
LONG_PAUSE = TOKEN_SECONDS + 8.0
LONG_PAUSE_SHARE = 0.01
LOGOUT_SHARE = 0.01
MOST_TABS = 3

#: Seconds after which a request has failed that nobody has answered.
PATIENCE = 20.0

#: Seconds in which all browsers log in at the start, one after the other.
OPENING_SECONDS = 60.0

UNAUTHORIZED = 401
SHOWN_FAILURES = 50


@dataclass(slots=True)
class Record:
    """What happened."""

    requests: int = 0
    failures: list[str] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    started_at: float = field(default_factory=time.monotonic)

    def fail(self, what: str) -> None:
        self.failures.append(f"{time.monotonic() - self.started_at:.1f} s: {what}")


class Browser:
    """A person with some tabs, who logs in, comes back again and again, and logs out now and then."""

    def __init__(self, cluster: Cluster, email: str, number: int, record: Record) -> None:
        ports = [gateway.port for gateway in cluster.gateways]
        self._jar = Jar()
        self._source = f"X-Forwarded-For: 10.1.{number // 250}.{number % 250 + 1}"
        count = 1 + number % MOST_TABS
        self._tabs = [Tab(ports[each % 2 :] + ports[: each % 2], self._jar, self._source) for each in range(count)]
        self._ports = ports
        self._email = email
        self._record = record
        # Not for secrets.
        self._random = random.Random(number)  # noqa: S311

    async def run(self, delay: float, until: float) -> None:
        await asyncio.sleep(delay)
        await self._log_in()
        while time.monotonic() < until:
            is_long = self._random.random() < LONG_PAUSE_SHARE
            pause = LONG_PAUSE if is_long else self._random.uniform(*PAUSES)
            await asyncio.sleep(min(pause, until - time.monotonic()))
            await asyncio.gather(*(self._ask(tab, "GET", "/profile") for tab in self._tabs))
            if self._random.random() < LOGOUT_SHARE:
                await self._log_out()
                await self._log_in()
        for tab in self._tabs:
            tab.close()

    async def _log_in(self) -> None:
        body = json.dumps({"email": self._email, "password": PASSWORD}).encode()
        self._record.counts["logins"] += 1
        while True:
            try:
                await self._ask(self._tabs[0], "POST", "/session", body, "Content-Type: application/json")
            except OSError:
                # The gateway was killed with the request; nobody may repeat a POST but the person.
                self._record.counts["logins_interrupted"] += 1
            else:
                return

    async def _log_out(self) -> None:
        """Log out, and check that a copy of the cookies is refused by both gateways."""
        copies = [Tab([port], self._jar.copy(), self._source) for port in self._ports]
        self._record.counts["logouts"] += 1
        await self._ask(self._tabs[0], "DELETE", "/session", b"", "Prefer: wait=10")
        for copy in copies:
            try:
                status = (await copy.send("GET", "/profile")).status
            except OSError:
                # This gateway is down.
                continue
            self._record.counts["refusals"] += 1
            if status != UNAUTHORIZED:
                self._record.fail(f"a logged-out browser got {status}")
            copy.close()

    async def _ask(self, tab: Tab, method: str, path: str, body: bytes = b"", *fields: str) -> None:
        """Send a request, and note how it went. Raises OSError if a POST was interrupted."""
        sent_at = time.perf_counter()
        self._record.requests += 1
        try:
            async with asyncio.timeout(PATIENCE):
                answer = await tab.send(method, path, body, *fields)
        except TimeoutError:
            self._record.fail(f"{method} {path}: no answer")
        except OSError as error:
            if method == "POST":
                self._record.requests -= 1
                raise
            self._record.fail(f"{method} {path}: {error}")
        else:
            self._record.times.append(time.perf_counter() - sent_at)
            if answer.status != OK:
                self._record.fail(f"{method} {path}: {answer.status} {answer.body.decode()}")
            elif method == "GET" and b"-token-" in answer.head:
                self._record.counts["renewals_set"] += 1


async def rotate_keys(cluster: Cluster, secret: str, record: Record) -> None:
    """Rotate the signing key again and again; a refusal says that not all verifiers hold the next one yet."""
    while True:
        await asyncio.sleep(ROTATION_SECONDS)
        (granted,) = await ask_all(cluster.auth.port, [client_token(secret)])
        asking = request("POST", "/admin/keys/rotate", b"", f"Authorization: Bearer {granted['access_token']}")
        (connection,) = await connect(cluster.auth.port, 1)
        answer = await connection.ask(asking)
        connection.close()
        record.counts["rotations" if answer.status == OK else f"rotations_answered_{answer.status}"] += 1


def client_token(secret: str) -> bytes:
    form = {"grant_type": "client_credentials", "client_id": CLIENT, "client_secret": secret}
    return request("POST", "/oauth/token", urlencode(form).encode(), "Content-Type: application/x-www-form-urlencoded")


async def kill_gateways(cluster: Cluster, running: ExitStack, record: Record) -> None:
    """Kill one gateway after the other, and start it again."""
    for gateway in itertools.cycle(cluster.gateways):
        await asyncio.sleep(KILL_SECONDS)
        os.kill(gateway.pid, signal.SIGKILL)
        await asyncio.sleep(DOWN_SECONDS)
        await asyncio.to_thread(running.enter_context, gateway.running())
        record.counts["gateways_killed"] += 1


async def soak(cluster: Cluster, running: ExitStack, seconds: float, count: int) -> Record:
    """Let browsers do what they do, while everything changes."""
    secret = cluster.auth.command("clients", "create", CLIENT, "--scope", "admin")
    emails = await sign_up(cluster.auth.port, max(1, count // 2))
    record = Record()
    until = time.monotonic() + seconds
    delay = min(OPENING_SECONDS, seconds / 4)
    changes = [
        asyncio.create_task(rotate_keys(cluster, secret, record)),
        asyncio.create_task(kill_gateways(cluster, running, record)),
    ]
    async with asyncio.TaskGroup() as group:
        for number in range(count):
            browser = Browser(cluster, emails[number % len(emails)], number, record)
            group.create_task(browser.run(delay * number / count, until))
    for task in changes:
        if task.done():
            task.result()
        task.cancel()
    await asyncio.gather(*changes, return_exceptions=True)
    return record


def main() -> int:
    parser = argparse.ArgumentParser(description="Browsers with sessions, while keys, gateways and sessions change.")
    parser.add_argument("--seconds", type=int, default=FULL_SECONDS)
    parser.add_argument("--browsers", type=int, default=FULL_BROWSERS)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, ExitStack() as running:
        cluster = running.enter_context(running_cluster(Path(name), gateways=2, token_seconds=TOKEN_SECONDS))
        record = asyncio.run(soak(cluster, running, arguments.seconds, arguments.browsers))
    result: Row = {
        **environment(),
        "versions": versions(LIBRARIES, {}),
        "seconds": arguments.seconds,
        "browsers": arguments.browsers,
        "requests": record.requests,
        "failed": len(record.failures),
        **dict(sorted(record.counts.items())),
        "time": milliseconds(record.times),
    }
    show(result)
    for failure in record.failures[:SHOWN_FAILURES]:
        print(failure)
    if (arguments.seconds, arguments.browsers) == (FULL_SECONDS, FULL_BROWSERS):
        write("browser_soak", result)
    return 1 if record.failures else 0


if __name__ == "__main__":
    sys.exit(main())
