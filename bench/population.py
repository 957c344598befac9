"""Rows as years of use leave them in the auth service's database, written without its API."""

import secrets
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import Table, insert
from sqlalchemy.ext.asyncio import AsyncConnection

from ostiary.feed import Kind, chain
from ostiary_auth.config import AuthConfig
from ostiary_auth.domain.oauth.model import FIRST_PARTY_CLIENT_ID
from ostiary_auth.domain.revocation.model import published
from ostiary_auth.storage.accounts.tables import users
from ostiary_auth.storage.revocation.tables import revocation_head, revocations
from ostiary_auth.storage.sessions.tables import refresh_tokens, sessions
from ostiary_chassis.sql import Database

#: Rows that are inserted at once.
CHUNK = 10_000

USER_AGENT = "Mozilla/5.0 (X11; Linux x86_64; rv:130.0) Gecko/20100101 Firefox/130.0"
SOURCE = "203.0.113.9"

_Row = Mapping[str, Any]


#: When the pruning looks at a session and its token, with the idle time that is the default.
CHECKED_AFTER = timedelta(days=15)


def user_row(at: datetime) -> dict[str, Any]:
    user_id = uuid4()
    email = f"{user_id}@example.com"
    return {
        "id": user_id,
        "email": email,
        "email_key": email,
        "display_name": None,
        "password_hash": "-",
        "roles": ["user"],
        "disabled_at": None,
        "created_at": at,
        "deleted_at": None,
    }


def session_row(user_id: UUID, at: datetime) -> dict[str, Any]:
    return {
        "id": uuid4(),
        "user_id": user_id,
        "client_id": FIRST_PARTY_CLIENT_ID,
        "user_agent": USER_AGENT,
        "source": SOURCE,
        "created_at": at,
        "last_used_at": at,
        "expires_at": at + timedelta(days=90),
        "persistent": True,
        "check_at": at + CHECKED_AFTER,
    }


def token_row(session_id: UUID, at: datetime) -> dict[str, Any]:
    """Return a refresh token that has not been used."""
    return {
        "hash": secrets.token_bytes(32),
        "session_id": session_id,
        "created_at": at,
        "used_at": None,
        "check_at": at + CHECKED_AFTER,
    }


async def insert_rows(connection: AsyncConnection, table: Table, rows: Sequence[_Row]) -> None:
    """Insert rows, all with the same columns; on PostgreSQL by COPY, which takes a tenth of the time."""
    if connection.dialect.name == "sqlite":
        await connection.execute(insert(table), rows)
        return
    columns = list(rows[0])
    bind = [table.c[name].type.dialect_impl(connection.dialect).bind_processor(connection.dialect) for name in columns]
    records = [
        tuple(process(row[name]) if process else row[name] for name, process in zip(columns, bind, strict=True))
        for row in rows
    ]
    driver: Any = (await connection.get_raw_connection()).driver_connection
    await driver.copy_records_to_table(table.name, records=records, columns=columns)


async def add_people(config: AuthConfig, count: int) -> None:
    """Add users, each with an open session and the refresh token of it, begun at different times of the last days."""
    now = datetime.now(UTC)
    database = Database(config.database())
    try:
        for size in _chunks(count):
            people = [user_row(now) for _ in range(size)]
            began = [now - timedelta(seconds=secrets.randbelow(7 * 24 * 3600)) for _ in range(size)]
            opened = [session_row(each["id"], at) for each, at in zip(people, began, strict=True)]
            tokens = [token_row(each["id"], at) for each, at in zip(opened, began, strict=True)]
            async with database.write() as connection:
                for table, rows in ((users, people), (sessions, opened), (refresh_tokens, tokens)):
                    await insert_rows(connection, table, rows)
    finally:
        await database.close()


async def add_revocations(config: AuthConfig, count: int) -> None:
    """Append revocations of sessions that are live for an hour, while no service runs on the database."""
    now = datetime.now(UTC)
    expires_at = now + timedelta(hours=1)
    database = Database(config.database())
    try:
        for size in _chunks(count):
            async with database.write() as connection:
                head = (await connection.execute(revocation_head.select())).one()
                digest, rows = head.digest, []
                for number in range(head.number + 1, head.number + size + 1):
                    entry = published(number, Kind.SESSION, str(uuid4()), expires_at)
                    digest = chain(digest, entry)
                    rows.append(
                        {
                            "number": number,
                            "kind": entry.kind.value,
                            "target": entry.target,
                            "at": now,
                            "expires_at": expires_at,
                            "digest": digest,
                        }
                    )
                await insert_rows(connection, revocations, rows)
                await connection.execute(revocation_head.update().values(number=head.number + size, digest=digest))
    finally:
        await database.close()


async def analyze(config: AuthConfig) -> None:
    """Take statistics of the tables, as a database that has run for a while has them."""
    database = Database(config.database())
    try:
        async with database.write() as connection:
            await connection.exec_driver_sql("ANALYZE")
    finally:
        await database.close()


def _chunks(count: int) -> Iterator[int]:
    for start in range(0, count, CHUNK):
        yield min(CHUNK, count - start)
