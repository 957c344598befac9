"""How long deleting a user with hundreds of thousands of rows, and pruning, keep others waiting.

A user has one session that was refreshed many times, many sessions, and the entries of both in the audit log. They are
deleted, or pruned, while somebody else logs in again and again (without hashing), and while a timer looks how late the
event loop is.
"""

import argparse
import asyncio
import logging
import secrets
import shutil
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import structlog
from population import CHUNK, insert_rows, session_row, token_row
from postgres import new_database
from sqlalchemy import Table

from ostiary_auth.background import Background
from ostiary_auth.config import AuthConfig
from ostiary_auth.domain.accounts.model import User
from ostiary_auth.domain.context import OPERATOR, Context
from ostiary_auth.domain.oauth.model import FIRST_PARTY_CLIENT_ID
from ostiary_auth.services import Services
from ostiary_auth.startup import prepare
from ostiary_auth.storage.audit.tables import audit_log
from ostiary_auth.storage.sessions.tables import refresh_tokens, sessions

#: Seconds between two looks at the event loop, and between two logins.
TICK_SECONDS = 0.002
LOGIN_SECONDS = 0.01


#: Milliseconds that nobody should wait for longer.
MOST_MS = 50


@dataclass
class Waits:
    """How long others waited, in milliseconds."""

    loop: list[float] = field(default_factory=list)
    logins: list[float] = field(default_factory=list)

    def show(self, what: str, seconds: float) -> None:
        for name, waits in (("event loop late by", self.loop), ("a login takes", self.logins)):
            middle, worst = statistics.median(waits), max(waits)
            over = sum(wait > MOST_MS for wait in waits)
            often = f"{over} of {len(waits)} over {MOST_MS} ms"
            print(f"  {what}: {name} {middle:.1f} ms (median), {worst:.1f} ms (most); {often}", flush=True)
        print(f"  {what}: {seconds:.1f} s")


def new_user(now: datetime) -> User:
    name = f"{uuid4()}@example.com"
    return User(uuid4(), name, name, None, "-", ("user",), None, now)


class Rows:
    """Fills a database."""

    def __init__(self, services: Services, count: int) -> None:
        self.services = services
        self.count = count

    async def add_user(self, now: datetime) -> User:
        user = new_user(now)
        async with self.services.store.write() as transaction:
            await transaction.users.add(user)
        return user

    async def fill(self, user_id: UUID, at: datetime) -> None:
        """Give a user so many used refresh tokens in one session, sessions, and entries in the audit log."""
        long = session_row(user_id, at)
        await self._insert(sessions, [long])
        async with self.services.store.write() as transaction:
            last = (await transaction.audit.lock_head()).number
        for start in range(0, self.count, CHUNK):
            size = min(CHUNK, self.count - start)
            await self._insert(refresh_tokens, [self._used_token(long["id"], at) for _ in range(size)])
            ended = [session_row(user_id, at) | {"ended_at": at, "end_reason": "logout"} for _ in range(size)]
            await self._insert(sessions, ended)
            await self._insert(audit_log, [self._entry(last + start + each + 1, user_id, at) for each in range(size)])

    async def _insert(self, table: Table, rows: list[dict[str, object]]) -> None:
        async with self.services.database.write() as connection:
            await insert_rows(connection, table, rows)

    @staticmethod
    def _used_token(session_id: UUID, at: datetime) -> dict[str, object]:
        successor = {"successor_nonce": secrets.token_bytes(32), "successor_hash": secrets.token_bytes(32)}
        return token_row(session_id, at) | {"used_at": at, **successor}

    @staticmethod
    def _entry(number: int, user_id: UUID, at: datetime) -> dict[str, object]:
        return {
            "number": number,
            "at": at,
            "event": "login.succeeded",
            "actor": "anonymous",
            "subject": f"user:{user_id}",
            "facts": {"session_id": str(uuid4())},
            "personal": {"source": "203.0.113.9", "user_agent": "Mozilla/5.0", "salt": secrets.token_hex(16)},
            "personal_digest": secrets.token_bytes(32),
            "mac": secrets.token_bytes(32),
        }


@asynccontextmanager
async def observed(services: Services, user: User) -> AsyncIterator[Waits]:
    """Observe the event loop and somebody who logs in, until the end of the block."""
    waits = Waits()

    async def look() -> None:
        while True:
            started = time.perf_counter()
            await asyncio.sleep(TICK_SECONDS)
            waits.loop.append((time.perf_counter() - started - TICK_SECONDS) * 1000)

    async def log_in() -> None:
        while True:
            started = time.perf_counter()
            async with services.store.write() as transaction:
                grant = await services.sessions.open(
                    transaction, user, FIRST_PARTY_CLIENT_ID, Context(services.clock.now())
                )
            waits.logins.append((time.perf_counter() - started) * 1000)
            await services.sessions.end(user.id, grant.session.id, "local", Context(services.clock.now()))
            await asyncio.sleep(LOGIN_SECONDS)

    tasks = [asyncio.create_task(look()), asyncio.create_task(log_in())]
    await asyncio.sleep(0.5)
    try:
        yield waits
    finally:
        for task in tasks:
            task.cancel()


async def measure(services: Services, other: User, what: str, work: Callable[[], Awaitable[object]]) -> None:
    started = time.perf_counter()
    async with observed(services, other) as waits:
        await work()
    waits.show(what, time.perf_counter() - started)


async def run(config: AuthConfig, count: int) -> None:
    services = Services(config, await prepare(config))
    rows = Rows(services, count)
    now = datetime.now(UTC)
    user, busy, other = [await rows.add_user(now) for _ in range(3)]
    await measure(services, other, "nothing", lambda: asyncio.sleep(3))
    await rows.fill(user.id, now)
    await measure(services, user, "logins of a user with many sessions", lambda: asyncio.sleep(3))
    for _ in range(100):
        async with services.store.write() as transaction:
            await services.sessions.open(transaction, user, FIRST_PARTY_CLIENT_ID, Context(services.clock.now()))

    async def delete() -> None:
        started = time.perf_counter()
        await services.accounts.delete(user.id, Context(services.clock.now(), OPERATOR))
        print(f"  deletion answered after {(time.perf_counter() - started) * 1000:.0f} ms")
        await services.accounts.erasure.run()

    await measure(services, other, "deletion", delete)
    await rows.fill(busy.id, now - timedelta(days=200))
    await measure(services, other, "pruning", Background(services).prune)
    await services.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=300_000, help="rows of each kind")
    parser.add_argument("--database", choices=["sqlite", "postgres"], default="sqlite")
    arguments = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    directory = Path(tempfile.mkdtemp())
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, directory)
        url = None
        if arguments.database == "postgres":
            url = stack.enter_context(new_database(frozenset({0, 1})))
        asyncio.run(run(AuthConfig(data_dir=directory, database_url=url), arguments.rows))


if __name__ == "__main__":
    main()
