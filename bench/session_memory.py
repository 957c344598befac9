"""What many sessions occupy: in Redis, in the auth service's database, and in a gateway that has renewed them all."""

import asyncio
import hashlib
import secrets
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from uuid import UUID, uuid4

from common import OK, PASSWORD, Row, ask_all, post_json, request
from contenders import BROWSER_FIELDS, EMAIL, Cluster, Contender, Redis

MB = 1_000_000


def in_redis(session: Contender, redis: Redis, count: int) -> Row:
    """Open sessions; return by how much Redis has grown."""
    login = post_json("/login", {"email": EMAIL, "password": PASSWORD})
    asyncio.run(ask_all(session.port, [login]))
    before = redis.number("memory", "used_memory"), redis.memory()
    asyncio.run(ask_all(session.port, [login] * count))
    used, resident = redis.number("memory", "used_memory") - before[0], redis.memory() - before[1]
    return {"sessions": count, "redis_mb": round(used / MB, 2), "redis_resident_mb": round(resident, 2)}


def in_cluster(cluster: Cluster, folder: Path, count: int) -> Row:
    """Open sessions and use each once; return by how much the database and the gateway have grown."""
    name, _, value = cluster.log_in_with_cookies().credential.removeprefix("Cookie: ").split("; ")[0].partition("=")
    (gateway,) = cluster.gateways
    cookies, stored = copy_sessions(folder / "auth.db", UUID(value.partition(".")[0]), count)
    requests = [request("GET", "/profile", b"", *BROWSER_FIELDS, f"Cookie: {name}={each}") for each in cookies]
    # Whatever a gateway needs once.
    asyncio.run(ask_all(gateway.port, requests[: count // 100], OK))
    before = gateway.memory()
    asyncio.run(ask_all(gateway.port, requests[count // 100 :], OK))
    grown = (gateway.memory() - before) * count / (count - count // 100)
    return {"sessions": count, "database_mb": round(stored / MB, 2), "gateway_resident_mb": round(grown, 2)}


def copy_sessions(database: Path, original: UUID, count: int) -> tuple[Sequence[str], int]:
    """Store copies of a session, each with a secret of its own; return what they are presented by, and their bytes.

    Logins would take ten minutes: each hashes a password.
    """
    with closing(sqlite3.connect(database, timeout=30)) as connection:
        names = [name for _, name, *_ in connection.execute("PRAGMA table_info(sessions)")]
        row = connection.execute("SELECT * FROM sessions WHERE id = ?", (original.hex,)).fetchone()
        values = dict(zip(names, row, strict=True))
        before = size(connection)
        cookies = []
        for _ in range(count):
            number, secret = uuid4(), secrets.token_urlsafe(32)
            cookies.append(f"{number}.{secret}")
            values |= {"id": number.hex, "secret_hash": hashlib.sha256(secret.encode()).digest()}
            marks = ", ".join("?" * len(names))
            connection.execute(f"INSERT INTO sessions VALUES ({marks})", list(values.values()))  # noqa: S608 - marks
        connection.commit()
        return cookies, size(connection) - before


def size(connection: sqlite3.Connection) -> int:
    """Return the bytes of all pages in use."""
    pages, free, each = (
        int(connection.execute(f"PRAGMA {name}").fetchone()[0])
        for name in ("page_count", "freelist_count", "page_size")
    )
    return (pages - free) * each
