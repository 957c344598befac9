"""`ostiary-auth backup` and `restore`: what is in a backup, and what is good after it was restored."""

import asyncio
import base64
import errno
import hashlib
import io
import json
import os
import stat
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from command_line import CommandLine
from sqlalchemy import Table, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection
from users import log_in

from ostiary.feed import Kind
from ostiary_auth.commands import backup as backup_command
from ostiary_auth.commands import restore as restore_command
from ostiary_auth.config import AuthConfig
from ostiary_auth.domain.audit.model import Event
from ostiary_auth.domain.context import SYSTEM, Context
from ostiary_auth.domain.errors import InvalidRefreshToken
from ostiary_auth.domain.keys.vault import new_kek
from ostiary_auth.domain.oauth.model import FIRST_PARTY_CLIENT_ID
from ostiary_auth.domain.sessions.model import Grant
from ostiary_auth.kek_file import open_vault
from ostiary_auth.services import Services
from ostiary_auth.startup import open_prepared, prepare
from ostiary_auth.storage import backup as format_
from ostiary_auth.storage.accounts.tables import users
from ostiary_auth.storage.database_time import database_time
from ostiary_auth.storage.metadata import metadata
from ostiary_auth.storage.revocation.tables import verifiers
from ostiary_chassis.settings import ConfigError

on_postgres = pytest.mark.parametrize(
    "template", [pytest.param("prepared_on_postgres", marks=pytest.mark.docker)], indirect=True
)

Rows = dict[str, list[tuple[Any, ...]]]


async def rows(services: Services) -> Rows:
    """Return everything that is stored."""
    async with services.database.read() as connection:
        found = {}
        for table in format_.TABLES:
            content = await connection.execute(select(table).order_by(*table.primary_key.columns))
            found[table.name] = [tuple(row) for row in content]
        return found


async def refresh(services: Services, grant: Grant) -> None:
    await services.sessions.refresh(grant.refresh_token, FIRST_PARTY_CLIENT_ID, Context(datetime.now(UTC)))


async def verify_audit(services: Services) -> int | None:
    return (await services.audit.verify(services.store)).broken_at


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "backup"


@pytest.fixture
def filled(line: CommandLine) -> CommandLine:
    """A database with something in every table."""
    line.add_user(sessions=3, name="Ada \u00e9\u2028", user_agent="curl")
    line.prints("clients", "create", "worker", "--scope", "jobs:read")

    async def fill(services: Services) -> None:
        now = datetime.now(UTC)
        async with services.store.write() as transaction:
            await transaction.throttles.lock([b"k" * 32], now)
            await transaction.clients.use_assertion(b"a" * 32, now + timedelta(minutes=1))
            await transaction.event_receivers.acknowledge("worker", 1)
            await services.revocations.revoke(transaction, Context(now, SYSTEM), Kind.SESSION, "s1")
            await services.revocations.revoke(transaction, Context(now, SYSTEM), Kind.KEY, "leaked")

    line.do(fill)
    return line


class TestBackup:
    def test_every_table_is_in_it_but_those_of_verifiers_and_of_the_time(self, filled: CommandLine, file: Path) -> None:
        assert {*format_.TABLES, verifiers, database_time} == {*metadata.tables.values()}
        filled.prints("backup", str(file))
        stored = filled.do(rows)
        assert all(stored.values())
        lines = [json.loads(each) for each in file.read_bytes().splitlines()]
        assert (lines[0]["format"], lines[0]["version"]) == (format_.FORMAT, format_.VERSION)
        assert len(lines) == 2 + len(stored) + sum(map(len, stored.values()))

    def test_it_is_private_and_holds_no_key_encryption_key(self, filled: CommandLine, file: Path) -> None:
        result = filled.run("backup", str(file))
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        kek = filled.config.kek_path.read_text().strip()
        assert kek not in file.read_text()
        assert "1 users and 3 sessions" in result.stderr
        assert str(filled.config.kek_path) in result.stderr

    def test_no_file_is_overwritten_and_nothing_is_left_of_a_failure(self, filled: CommandLine, file: Path) -> None:
        file.write_text("precious")
        before = {*file.parent.iterdir()}
        assert "exists" in filled.refuses("backup", str(file))
        assert "cannot write" in filled.refuses("backup", str(file.parent / "missing" / "backup"))
        assert file.read_text() == "precious"
        assert {*file.parent.iterdir()} == before

    def test_the_volume_may_have_no_hard_links(
        self, filled: CommandLine, file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def link(_draft: Path, _file: Path) -> None:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

        monkeypatch.setattr("os.link", link)
        before = {*file.parent.iterdir()}
        assert "1 users" in filled.run("backup", str(file)).stderr
        assert {*file.parent.iterdir()} == {*before, file}
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        filled.prints("restore", str(file), "--replace")

    @pytest.mark.parametrize("has_links", [True, False])
    def test_a_file_that_was_made_meanwhile_is_not_overwritten(
        self, filled: CommandLine, file: Path, has_links: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before, link = {*file.parent.iterdir()}, os.link

        def make_file_and_link(draft: Path, _file: Path) -> None:
            file.write_text("precious")
            if not has_links:
                raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
            link(draft, file)

        monkeypatch.setattr("os.link", make_file_and_link)
        assert "exists" in filled.refuses("backup", str(file))
        assert file.read_text() == "precious"
        assert {*file.parent.iterdir()} == {*before, file}

    def test_standard_output_is_a_file_too(self, filled: CommandLine, file: Path) -> None:
        printed = filled.run("backup", "-")
        assert printed.exit_code == 0
        file.write_bytes(printed.stdout_bytes)
        filled.prints("restore", str(file), "--replace")

    def test_it_is_of_one_moment(self, filled: CommandLine, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Whatever is committed while it is written."""
        read, added = format_.pages, list[object]()

        async def meanwhile(connection: Any, table: Any) -> Any:
            if table is not users and not added:
                added.append(await asyncio.to_thread(filled.do, log_in))
            async for page in read(connection, table):
                yield page

        monkeypatch.setattr("ostiary_auth.commands.backup.pages", meanwhile)
        assert "1 users and 3 sessions" in filled.run("backup", str(file)).stderr
        assert len(added) == 1
        filled.prints("restore", str(file), "--replace")

    @on_postgres
    def test_whoever_takes_it_may_pause(self, line: CommandLine) -> None:
        async def patience(services: Services) -> object:
            async with services.database.snapshot() as connection:
                return (await connection.execute(text("SHOW idle_in_transaction_session_timeout"))).scalar_one()

        assert line.do(patience) == "0"

    @on_postgres
    def test_a_lost_connection_is_told_in_one_line(
        self, line: CommandLine, file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def cut(connection: AsyncConnection, _table: Table) -> AsyncIterator[list[Any]]:
            await connection.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
            yield []

        monkeypatch.setattr(backup_command, "pages", cut)
        fault = line.run("backup", str(file)).exception
        assert isinstance(fault, ConfigError)
        assert str(fault).startswith("OSTIARY_AUTH_DATABASE_URL: cannot use ")
        assert not file.exists()

    def test_a_schema_of_a_newer_release_is_left_to_that(self, filled: CommandLine, file: Path) -> None:
        filled.execute(text("UPDATE auth_schema_revision SET version_num = '9999'"))
        result = filled.run("backup", str(file))
        assert "use the newer release" in str(result.exception)
        assert not file.exists()


class TestRestore:
    def test_everything_is_as_it_was_but_what_may_have_been_revoked_since(
        self, filled: CommandLine, file: Path
    ) -> None:
        before = filled.do(rows)
        filled.prints("backup", str(file))
        filled.do(log_in)
        assert "1 users restored" in (said := filled.prints("restore", str(file), "--replace"))
        assert "3 sessions ended; 0 go on." in said
        after = filled.do(rows)
        for name in ("users", "throttles", "used_assertions", "sealed_secrets", "event_receivers", "refresh_tokens"):
            assert after[name] == before[name], name
        # The verifiers' and the gateways' clients belong to the deployment.
        assert {row[0] for row in before["clients"]} <= {row[0] for row in after["clients"]}
        assert after["audit_log"][: len(before["audit_log"])] == before["audit_log"]
        assert not {row[0] for row in before["signing_keys"]} & {row[0] for row in after["signing_keys"]}
        assert filled.do(verify_audit) is None
        kinds = {(row[1], row[2]) for row in after["revocations"]}
        kids = {row[0] for row in before["signing_keys"]}
        assert kinds == {("all", "*"), ("key", "leaked"), *(("key", kid) for kid in kids)}

    def test_a_session_ended_since_does_not_live_again(self, line: CommandLine, file: Path) -> None:
        grant, _ = line.do(log_in)
        line.prints("backup", str(file))
        line.do(
            lambda services: services.sessions.end(grant.user.id, grant.session.id, "local", Context(datetime.now(UTC)))
        )
        line.prints("restore", str(file), "--replace")
        with pytest.raises(InvalidRefreshToken):
            line.do(lambda services: refresh(services, grant))

    def test_sessions_can_be_kept_and_it_says_how_many(self, line: CommandLine, file: Path) -> None:
        grant, _ = line.do(log_in)
        line.prints("backup", str(file))
        said = line.prints("restore", str(file), "--replace", "--keep-sessions")
        assert "0 sessions ended; 1 go on, also those that were ended later." in said
        line.do(lambda services: refresh(services, grant))

    def test_the_audit_log_tells(self, line: CommandLine, file: Path) -> None:
        line.prints("backup", str(file))
        line.prints("restore", str(file))
        events = [row["event"] for row in line.rows("audit", "list", "--limit", "1000")]
        assert [event for event in events if event.startswith(("revocation_log", "database"))] == [
            Event.LOG_RESTARTED,
            Event.DATABASE_RESTORED,
        ]

    def test_a_database_with_users_is_replaced_only_if_told_so(self, filled: CommandLine, file: Path) -> None:
        filled.prints("backup", str(file))
        before = filled.do(rows)
        assert "1 users; --replace" in filled.refuses("restore", str(file))
        assert filled.do(rows) == before

    def test_a_new_database_is_filled(self, filled: CommandLine, file: Path, tmp_path: Path) -> None:
        """Also one of the other kind: here, a file."""
        filled.prints("backup", str(file))
        with another_deployment(filled, tmp_path / "new") as config:
            assert "1 users restored" in filled.prints("restore", str(file))
        new = CommandLine(config, asyncio.run(open_prepared(config)))
        assert new.do(rows)["users"] == filled.do(rows)["users"]

    def test_one_of_another_deployment_has_to_wait_until_the_service_is_stopped(
        self, filled: CommandLine, file: Path, tmp_path: Path
    ) -> None:
        """A replica goes on with the secrets that it has read when it started, and so breaks the log of the other."""
        filled.prints("backup", str(file))
        with another_deployment(filled, tmp_path / "new") as config:
            other = CommandLine(config, asyncio.run(prepare(config)))
            before = other.do(rows)

            async def run(services: Services) -> None:
                await services.begin_following()
                said = await asyncio.to_thread(other.refuses, "restore", str(file))
                assert "stop it first" in said
                await services.verifiers.deregister()

            other.do(run)
            assert other.do(rows) == before
            other.prints("restore", str(file))
            new = CommandLine(config, asyncio.run(open_prepared(config)))
            assert new.own == filled.own
            assert new.do(verify_audit) is None

    def test_one_of_this_deployment_is_restored_while_the_service_runs(self, filled: CommandLine, file: Path) -> None:
        """Also after its secrets were sealed anew."""
        filled.prints("backup", str(file))
        kek = filled.config.kek_path
        kek.write_text(f"{new_kek()}\n{kek.read_text()}")
        filled.prints("keys", "rewrap")
        filled.do(lambda services: services.begin_following())
        filled.prints("restore", str(file), "--replace")
        assert filled.do(verify_audit) is None

    @pytest.mark.parametrize(
        ("damage", "fault"),
        [
            (lambda content: content[:0], "no backup of ostiary-auth"),
            (lambda content: b"SQLite format 3\0" + content, "no backup of ostiary-auth"),
            (lambda content: content[: len(content) // 2], "truncated"),
            (lambda content: b"".join(content.splitlines(keepends=True)[:-1]), "truncated"),
            (lambda content: content.replace(b"ada@", b"eve@", 1), "altered"),
            (lambda content: content + content.splitlines(keepends=True)[-1], "altered"),
            (lambda content: _without_line(content, b"curl"), "altered"),
            (lambda content: content.replace(b'"version":1', b'"version":2', 1), "version 2"),
            (lambda content: content.replace(b'"schema":"', b'"schema":"9', 1), "newer release"),
            (lambda content: content.replace(b'"display_name"', b'"nickname"', 1), "does not know"),
            (lambda content: content.replace(b'"kek":"', b'"kek":"AA', 1), "another key-encryption key"),
        ],
    )
    def test_a_damaged_backup_changes_nothing(self, filled: CommandLine, file: Path, damage: Any, fault: str) -> None:
        filled.prints("backup", str(file))
        file.write_bytes(damage(file.read_bytes()))
        before = filled.do(rows)
        assert fault in filled.refuses("restore", str(file), "--replace")
        assert filled.do(rows) == before

    def test_nobody_waits_for_an_input_that_pauses(
        self, filled: CommandLine, file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Neither does the database end a transaction for it: none is open."""
        filled.prints("backup", str(file))
        directory = {*filled.config.data_dir.iterdir()}
        rename = update(users).values(display_name="renamed meanwhile")
        pauses = list[None]()

        def pause() -> None:
            with ThreadPoolExecutor() as others:
                pauses.append(others.submit(filled.execute, rename).result())

        with io.BufferedReader(Pausing(file.read_bytes(), pause)) as pipe:
            stdin = SimpleNamespace(buffer=pipe)
            monkeypatch.setattr(restore_command, "sys", SimpleNamespace(stdin=stdin, __stderr__=sys.__stderr__))
            assert "1 users restored" in filled.prints("restore", "-", "--replace")
        assert pauses
        assert "renamed" not in repr(filled.do(rows)["users"])
        assert {*filled.config.data_dir.iterdir()} == directory

    def test_a_file_that_changes_after_it_was_checked_changes_nothing(
        self, filled: CommandLine, file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        filled.prints("backup", str(file))
        before, check = filled.do(rows), restore_command._check

        def check_and_change(reader: format_.Reader) -> dict[str, bytes]:
            sealed_secrets = check(reader)
            file.write_bytes(file.read_bytes().replace(b"ada@", b"eve@", 1))
            return sealed_secrets

        monkeypatch.setattr(restore_command, "_check", check_and_change)
        assert "altered" in filled.refuses("restore", str(file), "--replace")
        assert filled.do(rows) == before

    def test_another_key_encryption_key_is_told_before_anything_changes(self, filled: CommandLine, file: Path) -> None:
        filled.prints("backup", str(file))
        kek, own = filled.config.kek_path, filled.config.kek_path.read_text()
        kek.write_text(new_kek())
        assert "another key-encryption key" in filled.refuses("restore", str(file), "--replace")
        # One that was replaced since counts as long as it is in the file.
        kek.write_text(f"{new_kek()}\n{own}")
        filled.prints("restore", str(file), "--replace")

    def test_one_of_an_older_schema_gets_the_defaults_of_what_was_added_since(
        self, filled: CommandLine, file: Path
    ) -> None:
        filled.prints("backup", str(file))
        before = filled.do(rows)["sessions"]
        lines, is_session = [], False
        for line in file.read_bytes().splitlines()[:-1]:
            content = json.loads(line)
            if isinstance(content, dict):
                is_session = content.get("table") == "sessions"
                content |= {"schema": "0003"} if "schema" in content else {}
            # The last four columns are of schemas 0004, 0007 and 0011.
            if is_session:
                kept = content["columns"] if isinstance(content, dict) else content
                del kept[-4:]
            lines.append(json.dumps(content).encode() + b"\n")
        file.write_bytes(sealed(filled, lines))
        filled.prints("restore", str(file), "--replace")
        after = filled.do(rows)["sessions"]
        assert [row[:8] for row in after] == [row[:8] for row in before]
        # The restore has ended them, and so moved the time in the last column.
        assert {row[-4:-1] for row in after} == {(None, True, None)}

    @on_postgres
    def test_a_lost_connection_is_told_in_one_line(
        self, line: CommandLine, file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def cut(connection: AsyncConnection) -> None:
            await connection.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))

        line.prints("backup", str(file))
        monkeypatch.setattr(restore_command, "delete_all", cut)
        fault = line.run("restore", str(file)).exception
        assert isinstance(fault, ConfigError)
        assert str(fault).startswith("OSTIARY_AUTH_DATABASE_URL: cannot use ")

    def test_a_missing_file_is_told(self, line: CommandLine, file: Path) -> None:
        assert "cannot read" in line.refuses("restore", str(file))

    def test_numbers_are_above_those_of_the_log_that_is_replaced(self, line: CommandLine, file: Path) -> None:
        line.prints("backup", str(file))

        async def lead(services: Services) -> int:
            async with services.store.write() as transaction:
                context = Context(datetime.now(UTC) + timedelta(days=400))
                (number,) = await services.revocations.restart(transaction, context)
            return number

        known = line.do(lead)
        line.prints("restore", str(file))

        async def head(services: Services) -> int:
            async with services.store.read() as transaction:
                return (await transaction.revocations.head()).number

        assert line.do(head) > known


class Pausing(io.RawIOBase):
    """A pipe that comes in small pieces, and pauses before the last one."""

    PIECE = 64

    def __init__(self, content: bytes, pause: Callable[[], None]) -> None:
        self._rest = content
        self._pause = pause

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if 0 < len(self._rest) <= self.PIECE:
            self._pause()
        piece = self._rest[: min(self.PIECE, len(buffer))]
        self._rest = self._rest[len(piece) :]
        buffer[: len(piece)] = piece
        return len(piece)


@contextmanager
def another_deployment(line: CommandLine, data_dir: Path) -> Iterator[AuthConfig]:
    """Let commands be of a deployment on SQLite that has the same key-encryption key."""
    config = AuthConfig(data_dir=data_dir, kek_file=line.config.kek_path)
    config.data_dir.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OSTIARY_DATA_DIR", str(config.data_dir))
        patch.setenv("OSTIARY_AUTH_KEK_FILE", str(config.kek_path))
        patch.delenv("OSTIARY_AUTH_DATABASE_URL", raising=False)
        yield config


def sealed(line: CommandLine, lines: list[bytes]) -> bytes:
    """Return a backup of these lines."""
    content = b"".join(lines)
    seal = open_vault(line.config).seal(hashlib.sha256(content).digest(), "backup-seal")
    return content + json.dumps({"seal": base64.b64encode(seal).decode()}).encode() + b"\n"


def _without_line(content: bytes, containing: bytes) -> bytes:
    lines = content.splitlines(keepends=True)
    index = next(number for number, each in enumerate(lines) if containing in each)
    return b"".join(lines[:index] + lines[index + 1 :])
