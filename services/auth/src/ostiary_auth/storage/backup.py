"""A backup of the database: all tables as lines of JSON, from one moment, for any kind of database.

    {"format": "ostiary-auth backup", "version": 1, "schema": "0005", "taken_at": "...", "kek": "..."}
    {"table": "users", "columns": ["id", "email", ...]}
    ["7c9e...", "ada@example.com", ...]
    ...
    {"seal": "..."}

`kek` is nothing, sealed with the key-encryption key (KEK), and `seal` the SHA-256 of all lines before it, sealed
likewise: so a backup that is truncated, altered, or of another KEK is recognised. The KEK itself is not in it. Values
are those of JSON; bytes are in base64. Reading and writing take constant memory.
"""

import base64
import hashlib
import json
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Column, LargeBinary, Row, Table, Uuid, delete, insert, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from ostiary_auth.domain.keys.vault import UnsealError, Vault
from ostiary_auth.storage.accounts.tables import throttles, users
from ostiary_auth.storage.audit.tables import audit_log
from ostiary_auth.storage.keys.tables import sealed_secrets, signing_keys
from ostiary_auth.storage.oauth.tables import clients, used_assertions
from ostiary_auth.storage.revocation.tables import event_receivers, revocation_head, revocations, verifiers
from ostiary_auth.storage.sessions.tables import refresh_tokens, sessions
from ostiary_chassis.sql import UtcDateTime

FORMAT, VERSION = "ostiary-auth backup", 1

#: What is sealed, by the names that are authenticated with it.
_KEK_NAME, _SEAL_NAME = "backup", "backup-seal"

#: Rows that are read or written at a time.
BATCH = 500

#: Parents before children. Verifiers are left out, as they register anew, and the time, which is that of the server.
TABLES = (
    users,
    throttles,
    clients,
    used_assertions,
    signing_keys,
    sealed_secrets,
    audit_log,
    revocation_head,
    revocations,
    event_receivers,
    sessions,
    refresh_tokens,
)


class BadBackup(Exception):
    """A backup that cannot be restored. The message says why."""


@dataclass(frozen=True, slots=True)
class Header:
    """The schema's revision, and when the backup was taken."""

    schema: str
    taken_at: datetime


class Writer:
    """Makes the lines of a backup, and counts its rows."""

    def __init__(self, vault: Vault) -> None:
        self._vault = vault
        self._digest = hashlib.sha256()
        self.rows: dict[str, int] = {}

    def begin(self, header: Header) -> bytes:
        return self._line(
            {
                "format": FORMAT,
                "version": VERSION,
                "schema": header.schema,
                "taken_at": header.taken_at.isoformat(),
                "kek": _encode(self._vault.seal(b"", _KEK_NAME)),
            }
        )

    def table(self, table: Table) -> bytes:
        self.rows[table.name] = 0
        return self._line({"table": table.name, "columns": [column.name for column in table.c]})

    def row(self, table: Table, values: Iterable[object]) -> bytes:
        self.rows[table.name] += 1
        return self._line([_encode(value) for value in values])

    def end(self) -> bytes:
        return _json({"seal": _encode(self._vault.seal(self._digest.digest(), _SEAL_NAME))})

    def _line(self, content: object) -> bytes:
        line = _json(content)
        self._digest.update(line)
        return line


async def pages(connection: AsyncConnection, table: Table) -> AsyncIterator[Sequence[Row[Any]]]:
    """Yield all rows of a table in lists, in the order of its key."""
    (key,) = table.primary_key.columns
    query = select(table).order_by(key).limit(BATCH)
    page = (await connection.execute(query)).all()
    while page:
        yield page
        last = page[-1]._mapping[key]
        page = (await connection.execute(query.where(key > last))).all()


class Reader:
    """Reads the lines of a backup. Raises BadBackup."""

    def __init__(self, lines: Iterable[bytes], vault: Vault, known_schema: str) -> None:
        """Take lines with their ends, and the newest schema that this release knows."""
        self._lines = iter(lines)
        self._vault = vault
        self._digest = hashlib.sha256()
        self.header = self._read_header(known_schema)

    def batches(self) -> Iterator[tuple[Table, list[dict[str, Any]]]]:
        """Yield the rows of all tables. At the end it is certain that these were all, and unchanged."""
        table, columns, batch = TABLES[0], list[Column[Any]](), list[dict[str, Any]]()
        for line in self._lines:
            content = _parse(line)
            if isinstance(content, dict):
                if batch:
                    yield table, batch
                    batch = []
                if "seal" in content:
                    self._check_seal(content["seal"])
                    return
                table, columns = _columns_of(content)
            else:
                batch.append(_row(columns, content))
                if len(batch) == BATCH:
                    yield table, batch
                    batch = []
            self._digest.update(line)
        raise BadBackup("it is truncated")

    def _read_header(self, known_schema: str) -> Header:
        line = next(self._lines, b"")
        try:
            content = json.loads(line)
        except ValueError:
            content = None
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise BadBackup("this is no backup of ostiary-auth")
        if content.get("version") != VERSION:
            raise BadBackup(f"its format has version {content.get('version')}; this release reads {VERSION}")
        self._digest.update(line)
        try:
            header = Header(content["schema"], datetime.fromisoformat(content["taken_at"]))
            sealed = base64.b64decode(content["kek"])
        except (KeyError, TypeError, ValueError):
            raise BadBackup("its first line is damaged") from None
        if header.schema > known_schema:
            raise BadBackup(
                f"it has schema {header.schema}, and this release knows {known_schema}: use a newer release"
            )
        try:
            self._vault.open(sealed, _KEK_NAME)
        except UnsealError:
            raise BadBackup("it needs another key-encryption key, that of when it was made") from None
        return header

    def _check_seal(self, sealed: object) -> None:
        try:
            is_intact = self._vault.open(base64.b64decode(str(sealed)), _SEAL_NAME) == self._digest.digest()
        except (UnsealError, ValueError):
            is_intact = False
        if not is_intact or next(self._lines, None) is not None:
            raise BadBackup("it was altered")


async def delete_all(connection: AsyncConnection) -> None:
    """Delete what a backup replaces, and the verifiers."""
    if connection.dialect.name == "postgresql":
        # However large they are; and nobody adds rows before the end of the transaction.
        names = ", ".join(table.name for table in (*TABLES, verifiers))
        await connection.execute(text(f"TRUNCATE {names}"))
        return
    for table in (verifiers, *reversed(TABLES)):
        await connection.execute(delete(table))


async def insert_batch(connection: AsyncConnection, table: Table, batch: list[dict[str, Any]]) -> None:
    await connection.execute(insert(table), batch)


def _columns_of(content: dict[str, Any]) -> tuple[Table, list[Column[Any]]]:
    table = next((table for table in TABLES if table.name == content.get("table")), None)
    names = content.get("columns")
    if table is None or not isinstance(names, list) or not all(name in table.c for name in names):
        raise BadBackup("it has a table or a column that this release does not know")
    return table, [table.c[name] for name in names]


def _row(columns: list[Column[Any]], values: object) -> dict[str, Any]:
    if not isinstance(values, list) or len(values) != len(columns):
        raise BadBackup("a line is damaged")
    try:
        return {column.name: _decode(column, value) for column, value in zip(columns, values, strict=True)}
    except (TypeError, ValueError):
        raise BadBackup("a line is damaged") from None


def _encode(value: object) -> object:
    match value:
        case bytes():
            return base64.b64encode(value).decode()
        case datetime():
            return value.isoformat()
        case UUID():
            return str(value)
        case _:
            return value


def _decode(column: Column[Any], value: Any) -> Any:
    if value is None:
        return None
    match column.type:
        case LargeBinary():
            return base64.b64decode(value)
        case UtcDateTime():
            return datetime.fromisoformat(value)
        case Uuid():
            return UUID(value)
        case _:
            return value


def _json(content: object) -> bytes:
    return json.dumps(content, separators=(",", ":")).encode() + b"\n"


def _parse(line: bytes) -> object:
    try:
        content: object = json.loads(line)
    except ValueError:
        raise BadBackup("a line is damaged, or it is truncated") from None
    return content
