"""`ostiary-auth backup`."""

import asyncio
import os
import sys
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, BinaryIO

import typer

from ostiary_auth.commands._run import fail
from ostiary_auth.config import AuthConfig
from ostiary_auth.kek_file import open_vault
from ostiary_auth.startup import MIGRATIONS
from ostiary_auth.storage.backup import TABLES, Header, Writer, pages
from ostiary_chassis import logs
from ostiary_chassis.settings import ConfigError, environment
from ostiary_chassis.sql import Database, Schema


def backup(file: Annotated[Path, typer.Argument(help="A new file, or - for standard output.")]) -> None:
    """Write everything in the database to a file, as of one moment, whether the service runs or not.

    The file can be restored into either kind of database. It needs the key-encryption key, which it does not contain.
    """
    config = AuthConfig.load(environment())
    logs.configure(config.log_format, "auth", stream=sys.__stderr__)
    try:
        rows = asyncio.run(_write(config, sys.stdout.buffer)) if str(file) == "-" else _write_file(config, file)
    except FileExistsError:
        fail(f"{file} exists, and no backup is overwritten")
    except OSError as error:
        fail(f"cannot write {file}: {error.strerror}")
    typer.echo(
        f"{rows['users']} users and {rows['sessions']} sessions are in the backup. Keep {config.kek_path}, too, in "
        "another place: without it the backup is of no use, and whoever has both can sign tokens.",
        err=True,
    )


def _write_file(config: AuthConfig, file: Path) -> dict[str, int]:
    """Write a private file, which is there when it is whole. Raises OSError."""
    if file.exists():
        raise FileExistsError
    draft = file.with_name(f".{file.name}.{os.urandom(8).hex()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as out:
            rows = asyncio.run(_write(config, out))
            os.fsync(out.fileno())
        _give_name(draft, file)
    finally:
        with suppress(FileNotFoundError):
            draft.unlink()
    directory = os.open(file.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
    return rows


def _give_name(draft: Path, file: Path) -> None:
    """Give a file that is whole its name, unless that was given to another one meanwhile. Raises OSError."""
    try:
        os.link(draft, file)
    except FileExistsError:
        raise
    except OSError:
        # The volume has no hard links. The name is taken by an empty file first, as replacing alone overwrites any.
        os.close(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        draft.replace(file)


async def _write(config: AuthConfig, out: BinaryIO) -> dict[str, int]:
    """Write a backup; return the numbers of rows by table. Raises ConfigError."""
    writer = Writer(open_vault(config))
    database = Database(config.database())
    schema = Schema(database.address, MIGRATIONS)
    try:
        await database.require_migrated(MIGRATIONS)
        with database.naming_the_setting():
            # Whoever takes what is written may pause, as for a password.
            async with database.snapshot() as connection:
                revision = await connection.run_sync(schema.revision)
                if revision != schema.head:
                    raise ConfigError(
                        f"{database.address.setting}: {database.address} has schema {revision}, and this release knows "
                        f"{schema.head}: use the newer release"
                    )
                out.write(writer.begin(Header(revision, datetime.now(UTC))))
                for table in TABLES:
                    out.write(writer.table(table))
                    async for page in pages(connection, table):
                        out.writelines(writer.row(table, row) for row in page)
    finally:
        await database.close()
    out.write(writer.end())
    out.flush()
    return writer.rows
