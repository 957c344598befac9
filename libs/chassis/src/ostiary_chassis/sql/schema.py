"""The schema of a service's database: how it is brought up to date, and which releases work on it.

A release is known by its newest revision. Two tables tell where a schema is:

    SERVICE_schema_revision   the newest revision that has run, for Alembic
    SERVICE_schema_version    the oldest release that works on this schema

A migration expands: the release before it goes on working, also if it is started again, and the second table stays as
it is. A migration after which older releases do not work says so with `needs_release`. So a release meets an older
schema, which it migrates; its own; or a newer one, on which it works unless the second table names a newer release.
Releases up to auth's 0004 compare the second table with their own revision, and refuse what is not equal.
"""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import structlog
from sqlalchemy import Column, Connection, LargeBinary, MetaData, String, Table, inspect, text
from sqlalchemy.ext.asyncio import AsyncConnection

from ostiary_chassis.settings import ConfigError
from ostiary_chassis.sql import sqlite
from ostiary_chassis.sql.address import DatabaseAddress
from ostiary_chassis.sql.errors import STORAGE_ERRORS, describe, is_busy

_log = structlog.stdlib.get_logger("sql")

#: Seconds between attempts to get a lock that others hold, so that those who wait behind us go first.
RETRY_SECONDS = 1.0


class Schema:
    """A database's schema, and the Alembic scripts in a folder that make it."""

    def __init__(self, address: DatabaseAddress, scripts: Path) -> None:
        self._address = address
        self._scripts = scripts
        self._revision_table = f"{address.service}_schema_revision"
        self._version_table = f"{address.service}_schema_version"

    @staticmethod
    def probe_table(address: DatabaseAddress) -> Table:
        """Return the table that is written to in order to learn whether the database takes writes; it stays empty."""
        content = Column("content", LargeBinary, nullable=False)
        return Table(f"{address.service}_write_probe", MetaData(), Column("id", String(16), primary_key=True), content)

    @property
    def head(self) -> str:
        """The newest revision of this release; see `migrations` for the names of scripts."""
        return max(script.name for script in (self._scripts / "versions").glob("[0-9]*.py")).partition("_")[0]

    def revision(self, connection: Connection) -> str | None:
        """Return the newest revision that has run."""
        return self._read(connection, self._revision_table)

    def is_current(self, connection: Connection) -> bool:
        """Return whether there is nothing to do. Raises ConfigError if this release does not work on the schema."""
        revision, oldest = (self._read(connection, table) for table in (self._revision_table, self._version_table))
        if oldest is not None and oldest > self.head:
            raise ConfigError(
                f"{self._address.setting}: {self._address} has schema {revision or oldest}, which needs a release that "
                f"knows schema {oldest}; this one knows {self.head}"
            )
        return revision is not None and revision >= self.head

    def upgrade(self, connection: Connection) -> None:
        """Run the scripts that have not run yet. Raises ConfigError."""
        if self.is_current(connection):
            return
        from ostiary_chassis import migrations  # noqa: PLC0415 - Alembic takes a tenth of a second to import

        before = self._adopt(connection)
        migrations.upgrade(connection, self._scripts, self._revision_table, self._version_table)
        if self._address.is_sqlite and (table := sqlite.table_with_broken_references(connection)):
            raise ConfigError(
                f"{self._address.setting}: cannot migrate {self._address}: {table} refers to missing rows"
            )
        _log.info("schema migrated", from_revision=before, to_revision=self.head)

    async def when_locked(self, try_lock: Callable[[], Awaitable[bool]], connection: AsyncConnection) -> None:
        """Wait, as long as it takes, until no other replica migrates."""
        is_told = False
        while not await try_lock():
            # Nothing is held while waiting: an index that is built concurrently waits for all open transactions.
            await connection.rollback()
            if not is_told:
                _log.info("schema migration awaited")
            is_told = True
            await asyncio.sleep(RETRY_SECONDS)
        await connection.rollback()

    async def when_free(self, run: Callable[[], Awaitable[None]]) -> None:
        """Run until no lock is missing, which is held by requests, or by another process's migration of a file."""
        while True:
            try:
                return await run()
            except STORAGE_ERRORS as error:
                if not is_busy(error) and not isinstance(error, TimeoutError):
                    raise
                _log.info("schema migration waits for a lock", error=describe(error))
            await asyncio.sleep(RETRY_SECONDS)

    def _adopt(self, connection: Connection) -> str | None:
        """Create the tables that are missing, and return the revision.

        In a database that was last migrated by a release up to auth's 0004, it is in the version table only.
        """
        revision, version = (self._read(connection, table) for table in (self._revision_table, self._version_table))
        for table in (self._revision_table, self._version_table):
            column = "version_num VARCHAR(32) NOT NULL PRIMARY KEY"
            connection.execute(text(f"CREATE TABLE IF NOT EXISTS {table} ({column})"))
        self.probe_table(self._address).create(connection, checkfirst=True)
        if revision is None and version is not None:
            connection.execute(text(f"INSERT INTO {self._revision_table} VALUES (:version)"), {"version": version})  # noqa: S608 - a constant
        if not self._address.is_sqlite:
            # The scripts' transactions are their own.
            connection.commit()
        return revision or version

    @staticmethod
    def _read(connection: Connection, table: str) -> str | None:
        if not inspect(connection).has_table(table):
            return None
        found: str | None = connection.scalar(text(f"SELECT version_num FROM {table}"))  # noqa: S608 - a constant
        return found
