"""`ostiary-auth restore`."""

import asyncio
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, BinaryIO

import sqlalchemy.exc
import typer
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from ostiary_auth.commands._run import fail
from ostiary_auth.config import AuthConfig
from ostiary_auth.domain.audit.model import Event
from ostiary_auth.domain.context import OPERATOR, Context
from ostiary_auth.domain.keys.rotation import make_replacements
from ostiary_auth.domain.keys.vault import UnsealError, Vault
from ostiary_auth.kek_file import open_vault
from ostiary_auth.services import Services
from ostiary_auth.startup import MIGRATIONS, prepare, require_data_dir, unseal
from ostiary_auth.storage.accounts.tables import users
from ostiary_auth.storage.backup import BadBackup, Reader, delete_all, insert_batch
from ostiary_auth.storage.keys.tables import sealed_secrets
from ostiary_auth.storage.sessions.tables import sessions
from ostiary_auth.storage.store import AuthTransaction
from ostiary_chassis import logs
from ostiary_chassis.settings import environment
from ostiary_chassis.sql import Database, Schema


class NotEmpty(Exception):
    """The database has users."""


class OthersSecrets(Exception):
    """The backup is of another deployment, and a replica runs, which would go on with the secrets of its own."""


@dataclass(frozen=True, slots=True)
class Restored:
    """What was restored: the users, when the backup was taken, how many sessions ended, and how many go on."""

    users: int
    taken_at: datetime
    ended: int
    kept: int


def restore(
    file: Annotated[Path, typer.Argument(help="A file that `backup` has written, or - for standard input.")],
    replace: Annotated[bool, typer.Option("--replace", help="Delete all that is in the database.")] = False,
    keep_sessions: Annotated[
        bool, typer.Option("--keep-sessions", help="End no session: those that were ended since the backup go on.")
    ] = False,
) -> None:
    """Restore a backup: all of it, or nothing if it is damaged or the command is interrupted.

    What was revoked since is not known, so all access tokens are revoked, all sessions end, and the signing keys are
    replaced. A service that runs goes on with what was restored; to restore the backup of another deployment, stop it.
    """
    config = AuthConfig.load(environment())
    logs.configure(config.log_format, "auth", stream=sys.__stderr__)
    try:
        with _open(file, config) as backup:
            restored = asyncio.run(_restore(config, backup, replace=replace, keep_sessions=keep_sessions))
    except OSError as error:
        fail(f"cannot read {file}: {error.strerror}")
    except BadBackup as error:
        fail(f"{file} cannot be restored: {error}")
    except NotEmpty as error:
        fail(f"the database has {error} users; --replace deletes all that is in it")
    except OthersSecrets:
        fail(
            f"{file} is of another deployment, and a running auth service would go on signing the audit log with the "
            "secrets of its own: stop it first (one that was killed counts as running for half a minute)"
        )
    ended_later = ", also those that were ended later" if restored.kept else ""
    typer.echo(
        f"{restored.users} users restored as of {restored.taken_at:%Y-%m-%d %H:%M:%SZ}. Later changes of accounts, "
        f"passwords, roles and clients are lost. {restored.ended} sessions ended; {restored.kept} go on{ended_later}."
    )


@contextmanager
def _open(file: Path, config: AuthConfig) -> Iterator[BinaryIO]:
    """Open a backup so that it can be read twice, the second time without a pause: a transaction must not wait for it.

    What comes through a pipe is copied to a private file without a name, of which nothing is left. Raises OSError.
    """
    with nullcontext(sys.stdin.buffer) if str(file) == "-" else file.open("rb") as given:
        if str(file) != "-" and given.seekable():
            yield given
            return
        can_write = os.access(config.data_dir, os.W_OK | os.X_OK)
        directory = config.data_dir if can_write else Path(tempfile.gettempdir())
        with tempfile.TemporaryFile(dir=directory) as copy:
            try:
                shutil.copyfileobj(given, copy)
                copy.seek(0)
            except OSError as error:
                fail(f"cannot copy {file} to {directory}: {error.strerror}")
            yield copy


async def _restore(config: AuthConfig, backup: BinaryIO, *, replace: bool, keep_sessions: bool) -> Restored:
    """Restore a backup in one transaction, after it was checked.

    Raises BadBackup, NotEmpty, OthersSecrets and ConfigError.
    """
    vault = open_vault(config)
    require_data_dir(config)
    database = Database(config.database())
    schema = Schema(database.address, MIGRATIONS).head
    sealed = _check(Reader(backup, vault, schema))
    try:
        await database.migrate(MIGRATIONS)
        replacements = await make_replacements(config.rsa_bits)
        with database.naming_the_setting():
            async with database.write() as connection:
                transaction = AuthTransaction(connection, database)
                count = await _count_users(connection)
                if count and not replace:
                    raise NotEmpty(count)
                # Verifiers that run may have followed this log, and go on only with numbers above it.
                known = (await transaction.revocations.head()).number
                context = Context((await transaction.time.read()).now, OPERATOR)
                is_running = await _is_running(transaction, context.now)
                if is_running and not _are_same(vault, await transaction.keys.secrets(), sealed):
                    raise OthersSecrets
                backup.seek(0)
                reader = Reader(backup, vault, schema)
                await _load(connection, reader)
                services = Services(config, unseal(config, vault, sealed))
                ended = await services.recovery.restart_in(
                    transaction, context, replacements, known=known, keep_sessions=keep_sessions
                )
                facts = {"taken_at": reader.header.taken_at.isoformat()}
                await services.audit.record(transaction, context, Event.DATABASE_RESTORED, facts=facts)
                await transaction.flush()
                await services.close()
                is_open = sessions.c.ended_at.is_(None) & (sessions.c.expires_at > context.now)
                kept = (await connection.execute(select(func.count()).where(is_open))).scalar_one()
                restored = Restored(await _count_users(connection), reader.header.taken_at, ended, kept)
    finally:
        await database.close()
    # The secrets of the deployment's own clients may be others here.
    await prepare(config)
    return restored


def _check(reader: Reader) -> dict[str, bytes]:
    """Read a backup to its end, and return the service's sealed secrets in it. Raises BadBackup."""
    rows = [row for table, batch in reader.batches() if table is sealed_secrets for row in batch]
    return {row["name"]: row["sealed"] for row in rows}


async def _load(connection: AsyncConnection, reader: Reader) -> None:
    """Replace the rows of all tables. Raises BadBackup."""
    await delete_all(connection)
    try:
        for table, batch in reader.batches():
            await insert_batch(connection, table, batch)
    except (sqlalchemy.exc.IntegrityError, sqlalchemy.exc.DataError):
        raise BadBackup("it was altered: its rows do not fit together") from None


async def _is_running(transaction: AuthTransaction, now: datetime) -> bool:
    """Return whether a replica of the auth service runs: its own verifier, which has its id, is live."""
    return any(row.id == row.replica for row in await transaction.verifiers.live(now))


def _are_same(vault: Vault, own: Mapping[str, bytes], others: Mapping[str, bytes]) -> bool:
    """Return whether sealed secrets are the same. Those of another key-encryption key are not."""
    try:
        opened, others_opened = ({name: vault.open(each[name], name) for name in each} for each in (own, others))
    except UnsealError:
        return False
    return opened == others_opened


async def _count_users(connection: AsyncConnection) -> int:
    count: int = (await connection.execute(select(func.count()).select_from(users))).scalar_one()
    return count
