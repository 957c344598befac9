"""The command line: what it does, what it prints where, and how it refuses."""

import asyncio
import base64
import json
import logging
import os
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID, uuid4

import pytest
import structlog
from typer.testing import CliRunner, Result

from ostiary_auth import cli
from ostiary_auth.config import AuthConfig
from ostiary_auth.domain.accounts.model import User
from ostiary_auth.domain.context import Context, user_actor
from ostiary_auth.domain.errors import InvalidClient
from ostiary_auth.domain.keys.model import KeyState
from ostiary_auth.domain.keys.vault import KEK_BYTES
from ostiary_auth.domain.oauth.model import FIRST_PARTY_CLIENT_ID, Credentials
from ostiary_auth.domain.sessions.model import Grant
from ostiary_auth.kek_file import open_vault
from ostiary_auth.services import Services
from ostiary_auth.startup import prepare
from ostiary_auth.storage.audit.tables import audit_log
from ostiary_auth.storage.keys.tables import signing_keys
from ostiary_chassis.client_ids import VERIFIERS_CLIENT_ID

T = TypeVar("T")

PASSWORD = "correct horse battery staple"
PUBLIC_KEY = {
    "kty": "EC",
    "crv": "P-256",
    "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
    "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
}
#: What a terminal would obey: escape sequences of seven and of eight bits, a bell, a change of direction.
ESCAPES = "\x1b[2J\x9b31m\x07\u202e"


@contextmanager
def logging_as_before() -> Iterator[None]:
    """Commands configure the logs of their process, which here is everybody's."""
    root, chatty = logging.getLogger(), map(logging.getLogger, ("alembic", "httpcore", "httpx", "uvicorn"))
    handlers, levels = root.handlers, {logger: logger.level for logger in (root, *chatty)}
    before, excepthook = structlog.get_config(), sys.excepthook
    with pytest.MonkeyPatch.context() as patch:
        # A logger that was cached would go on writing to a stream that is closed.
        configure, uncached = structlog.configure, {"cache_logger_on_first_use": False}
        patch.setattr(structlog, "configure", lambda **settings: configure(**{**settings, **uncached}))
        try:
            yield
        finally:
            configure(**before)
            sys.excepthook = excepthook
            root.handlers = handlers
            for logger, level in levels.items():
                logger.setLevel(level)


class CommandLine:
    """The command line on a database, and the service's parts on the same one."""

    def __init__(self, config: AuthConfig) -> None:
        self.config = config

    def run(self, *arguments: str, typed: str = "") -> Result:
        with logging_as_before():
            return CliRunner().invoke(cli._cli, list(arguments), input=typed)

    def prints(self, *arguments: str, typed: str = "") -> str:
        """Run a command that succeeds, and return its standard output."""
        result = self.run(*arguments, typed=typed)
        assert result.exit_code == 0, result.output
        return result.stdout

    def rows(self, *arguments: str) -> list[Any]:
        return [json.loads(line) for line in self.prints(*arguments, "--json").splitlines()]

    def refuses(self, *arguments: str, typed: str = "") -> str:
        """Run a command that is refused in one line, and return that."""
        result = self.run(*arguments, typed=typed)
        assert (result.exit_code, result.stdout) == (1, ""), result.output
        (line,) = result.stderr.splitlines()
        assert line.startswith("ostiary-auth: ")
        return line.removeprefix("ostiary-auth: ")

    def do(self, work: Callable[[Services], Awaitable[T]]) -> T:
        async def run() -> T:
            services = Services(self.config, await prepare(self.config))
            services.local_keys.use(await services.keys.load())
            try:
                return await work(services)
            finally:
                await services.close()

        return asyncio.run(run())

    def add_user(self, sessions: int = 0, name: str | None = None, user_agent: str | None = None) -> User:
        """Add a user who cannot log in, which saves the time to hash a password."""
        now = datetime.now(UTC)
        user = User(uuid4(), "ada@example.com", "ada@example.com", name, "-", ("user",), None, now)

        async def work(services: Services) -> User:
            async with services.store.write() as transaction:
                await transaction.users.add(user)
                for _ in range(sessions):
                    context = Context(now, user_actor(user.id), "203.0.113.9", user_agent)
                    await services.sessions.open(transaction, user, FIRST_PARTY_CLIENT_ID, context)
            return user

        return self.do(work)

    def execute(self, statement: Any) -> None:
        async def work(services: Services) -> None:
            async with services.database.write() as connection:
                await connection.execute(statement)

        self.do(work)


@pytest.fixture
def line(config: AuthConfig, monkeypatch: pytest.MonkeyPatch) -> CommandLine:
    for name in [name for name in os.environ if name.startswith("OSTIARY_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("OSTIARY_DATA_DIR", str(config.data_dir))
    if config.database_url is not None:
        monkeypatch.setenv("OSTIARY_AUTH_DATABASE_URL", config.database_url)
    return CommandLine(config)


class TestUsers:
    def test_the_first_admin_is_created(self, line: CommandLine) -> None:
        arguments = ("users", "create", "ada@example.com", "--role", "user", "--role", "admin", "--name", "Ada")
        printed = line.prints(*arguments, "--password-stdin", typed=f"{PASSWORD}\n")
        user_id = UUID(printed.strip())
        assert printed == f"{user_id}\n"
        (user,) = line.rows("users", "list")
        assert (user["id"], user["email"], user["roles"]) == (str(user_id), "ada@example.com", ["admin", "user"])
        heading, row = line.prints("users", "list").splitlines()
        assert heading.split() == ["ID", "EMAIL", "ROLES", "CREATED", "AT", "DISABLED", "AT"]
        assert row.split()[:4] == [str(user_id), "ada@example.com", "admin", "user"]
        (entry,) = line.rows("audit", "list", "--subject", f"user:{user_id}")
        assert (entry["event"], entry["actor"]) == ("user.created", "operator")

        async def log_in(services: Services) -> Grant:
            context = Context(datetime.now(UTC))
            login = await services.accounts.log_in("ada@example.com", PASSWORD, None, FIRST_PARTY_CLIENT_ID, context)
            return login.grant

        assert line.do(log_in).user.display_name == "Ada"

    def test_an_account_that_cannot_be_is_refused(self, line: CommandLine) -> None:
        create = ("users", "create", "--password-stdin")
        assert "at least 8 characters" in line.refuses(*create, "ada@example.com", typed="short\n")
        assert "e-mail address" in line.refuses(*create, "ada", typed=f"{PASSWORD}\n")
        refusal = line.refuses(*create, "ada@example.com", "--role", f"no{ESCAPES}", typed=f"{PASSWORD}\n")
        assert refusal.isprintable()
        assert line.rows("users", "list") == []

    def test_a_name_that_is_too_long_is_refused(self, line: CommandLine) -> None:
        create = ("users", "create", "ada@example.com", "--password-stdin", "--name", "x" * 101)
        line.refuses(*create, typed=f"{PASSWORD}\n")
        assert line.rows("users", "list") == []

    def test_a_password_is_neither_an_argument_nor_guessed_from_nothing(self, line: CommandLine) -> None:
        assert "--password-stdin" in line.refuses("users", "create", "ada@example.com", typed=f"{PASSWORD}\n")

    def test_without_users_there_is_nothing_to_list(self, line: CommandLine) -> None:
        assert line.prints("users", "list") == "none\n"
        assert line.prints("users", "list", "--json") == ""

    def test_a_user_is_disabled_and_enabled(self, line: CommandLine) -> None:
        user = line.add_user(sessions=2)
        assert line.prints("users", "disable", "Ada@Example.com") == "disabled; 2 sessions ended\n"
        assert line.rows("users", "list")[0]["disabled_at"] is not None
        assert line.prints("users", "disable", str(user.id)) == "disabled; 0 sessions ended\n"
        assert line.prints("users", "enable", str(user.id)) == ""
        assert line.rows("users", "list")[0]["disabled_at"] is None

    def test_a_user_has_the_roles_that_were_given_last(self, line: CommandLine) -> None:
        line.add_user()
        for roles in (["user", "admin"], ["admin"], []):
            assert line.prints("users", "roles", "ada@example.com", *(roles or ["--none"])) == ""
            assert line.rows("users", "list")[0]["roles"] == sorted(roles)
        assert "--none" in line.refuses("users", "roles", "ada@example.com")
        assert "nobility" in line.refuses("users", "roles", "ada@example.com", "nobility")

    def test_all_sessions_of_a_user_are_ended(self, line: CommandLine) -> None:
        line.add_user(sessions=3)
        assert line.prints("users", "end-sessions", "ada@example.com") == "3 sessions ended\n"
        assert line.prints("users", "end-sessions", "ada@example.com") == "0 sessions ended\n"

    def test_an_export_is_json_and_nothing_else(self, line: CommandLine) -> None:
        user = line.add_user(sessions=1, user_agent="Test/1.0")
        export = json.loads(line.prints("users", "export", "ada@example.com"))
        assert export["user"]["id"] == str(user.id)
        assert [session["user_agent"] for session in export["sessions"]] == ["Test/1.0"]

    def test_a_user_is_deleted_by_who_means_it(self, line: CommandLine) -> None:
        line.add_user()
        result = line.run("users", "delete", "ada@example.com", typed="n\n")
        assert result.exit_code == 1
        assert len(line.rows("users", "list")) == 1
        assert line.prints("users", "delete", "ada@example.com", "--yes") == ""
        assert line.rows("users", "list") == []

    def test_nobody_is_found_in_one_line(self, line: CommandLine) -> None:
        for command in (
            ["disable"],
            ["enable"],
            ["roles", "--none"],
            ["end-sessions"],
            ["export"],
            ["delete", "--yes"],
        ):
            assert line.refuses("users", command[0], "ada@example.com", *command[1:]) == "There is no such user."
        assert line.refuses("users", "disable", "00000000-0000-0000-0000-000000000001") == "There is no such user."


class TestTerminal:
    def test_what_people_call_themselves_cannot_write_over_the_terminal(self, line: CommandLine) -> None:
        line.add_user(sessions=1, name=f"Ada{ESCAPES}", user_agent=f"Test{ESCAPES}")
        printed = line.prints("users", "export", "ada@example.com")
        assert json.loads(printed)["user"]["display_name"] == f"Ada{ESCAPES}"
        assert printed.replace("\n", "").isprintable()

    def test_what_a_client_is_called_cannot_either(self, line: CommandLine) -> None:
        line.prints("clients", "create", "reports", "--name", f"Reports{ESCAPES}")
        for format_ in ([], ["--json"]):
            assert line.prints("clients", "list", *format_).replace("\n", "").isprintable()


class TestClients:
    def authenticates(self, line: CommandLine, secret: str) -> bool:
        async def work(services: Services) -> bool:
            try:
                await services.clients.authenticate(Credentials("reports", secret), Context(datetime.now(UTC)))
            except InvalidClient:
                return False
            return True

        return line.do(work)

    def registered(self, line: CommandLine) -> list[Any]:
        """Return the clients but for the one of the stack's own verifiers, which there is from the start."""
        clients = line.rows("clients", "list")
        others = [client for client in clients if client["id"] != VERIFIERS_CLIENT_ID]
        assert len(others) == len(clients) - 1
        return others

    def test_a_client_gets_a_secret(self, line: CommandLine) -> None:
        arguments = ("--name", "Nightly", "--scope", "orders:read", "--scope", "orders:write", "--scope", "orders:read")
        secret = line.prints("clients", "create", "reports", *arguments)
        assert self.authenticates(line, secret.strip())
        (client,) = self.registered(line)
        assert datetime.fromisoformat(client.pop("created_at")) <= datetime.now(UTC)
        assert client == {
            "id": "reports",
            "name": "Nightly",
            "grants": ["client_credentials"],
            "scopes": ["orders:read", "orders:write"],
            "audiences": ["ostiary"],
            "authentication": "client_secret",
            "disabled_at": None,
        }
        heading, verifiers, row = line.prints("clients", "list").splitlines()
        assert heading.split()[:2] == ["ID", "NAME"]
        assert verifiers.split()[0] == VERIFIERS_CLIENT_ID
        assert row.split()[:2] == ["reports", "Nightly"]
        assert line.refuses("clients", "create", "reports") == "There is a client with this id already."

    def test_a_client_comes_with_public_keys(self, line: CommandLine, tmp_path: Path) -> None:
        file = tmp_path / "jwks.json"
        file.write_text(json.dumps({"keys": [PUBLIC_KEY]}))
        assert line.prints("clients", "create", "reports", "--jwks", str(file)) == ""
        (client,) = self.registered(line)
        assert (client["id"], client["authentication"]) == ("reports", "private_key_jwt")
        assert "has no secret" in line.refuses("clients", "rotate-secret", "reports")

    def test_a_file_without_public_keys_is_refused(self, line: CommandLine, tmp_path: Path) -> None:
        file = tmp_path / "jwks.json"
        create = ("clients", "create", "reports", "--jwks", str(file))
        assert line.refuses(*create) == f"cannot read {file}: No such file or directory"
        for content, refusal in (
            ("", "is not JSON"),
            ("[]", "is not a JWKS"),
            ('{"keys": []}', "1 to 5 keys"),
            (json.dumps({"keys": [{**PUBLIC_KEY, "d": "AA"}]}), "public keys only"),
        ):
            file.write_text(content)
            assert refusal in line.refuses(*create)
        file.write_bytes(b'{"keys": "\xff"}')
        assert "is not JSON" in line.refuses(*create)
        assert self.registered(line) == []

    def test_a_client_that_cannot_be_is_refused(self, line: CommandLine) -> None:
        assert "2 to 64 of" in line.refuses("clients", "create", "Reports")
        assert "grants are" in line.refuses("clients", "create", "reports", "--grant", "password")
        assert "characters" in line.refuses("clients", "create", "reports", "--scope", "two words")

    def test_a_clients_name_that_is_too_long_is_refused(self, line: CommandLine) -> None:
        line.refuses("clients", "create", "reports", "--name", "x" * 101)
        assert self.registered(line) == []

    def test_a_secret_is_rotated(self, line: CommandLine) -> None:
        old = line.prints("clients", "create", "reports").strip()
        new = line.prints("clients", "rotate-secret", "reports").strip()
        assert old != new
        assert self.authenticates(line, old)
        assert self.authenticates(line, new)

    def test_a_client_is_disabled_enabled_and_deleted(self, line: CommandLine) -> None:
        secret = line.prints("clients", "create", "reports").strip()
        for command, good in (("disable", False), ("enable", True), ("delete", False)):
            assert line.prints("clients", command, "reports") == ""
            assert self.authenticates(line, secret) is good
        for command in ("disable", "enable", "rotate-secret", "delete"):
            assert line.refuses("clients", command, "reports") == "There is no such client."


class TestKeys:
    def states(self, line: CommandLine) -> dict[str, str]:
        return {key["state"]: key["kid"] for key in line.rows("keys", "list")}

    def test_keys_are_listed(self, line: CommandLine) -> None:
        states = self.states(line)
        assert states.keys() == {"signing", "next"}
        heading, *rows = line.prints("keys", "list").splitlines()
        assert heading.split() == ["KID", "STATE", "SINCE", "CREATED", "AT"]
        assert {row.split()[1]: row.split()[0] for row in rows} == states

    def test_the_next_key_is_made_to_sign(self, line: CommandLine) -> None:
        before = self.states(line)
        line.execute(signing_keys.update().values(since=datetime.now(UTC)))
        assert "has not been published long enough" in line.refuses("keys", "rotate")
        line.execute(signing_keys.update().values(since=datetime.now(UTC) - timedelta(days=1)))
        assert line.prints("keys", "rotate") == ""
        after = self.states(line)
        assert (after["signing"], after["retired"]) == (before["next"], before["signing"])

    def test_an_unknown_key_is_refused(self, line: CommandLine) -> None:
        for kid in ("unknown", "-unknown"):
            assert line.refuses("keys", "revoke", kid) == "There is no such key."

    def test_a_key_is_revoked_whatever_its_kid_begins_with(self, line: CommandLine) -> None:
        kids = ["-Nq0xk1WZ3Yx0b0gTq6cJ1m8Qk5m2v7s9d4f6h8j0k2", "--help-Z3Yx0b0gTq6cJ1m8Qk5m2v7s9d4f6"]

        async def add(services: Services) -> None:
            vault = open_vault(services.config)
            key = (await services.keys.stored())[0]
            retired = replace(key, state=KeyState.RETIRED, since=datetime.now(UTC))
            async with services.store.write() as transaction:
                for kid in kids:
                    sealed = vault.seal(vault.open(key.sealed_private_key, key.kid), kid)
                    await transaction.keys.add(replace(retired, kid=kid, sealed_private_key=sealed))

        before = self.states(line)
        line.do(add)
        assert {key["kid"] for key in line.rows("keys", "list") if key["state"] == "retired"} == set(kids)
        for kid in kids:
            assert line.prints("keys", "revoke", kid) == ""
        assert self.states(line) == before

    def test_all_is_sealed_anew_under_a_new_key(self, line: CommandLine) -> None:
        before, path = self.states(line), line.config.kek_path
        old, new = path.read_bytes(), base64.b64encode(bytes([1]) * KEK_BYTES) + b"\n"
        path.write_bytes(new + old)
        assert line.prints("keys", "rewrap") == "4 sealed anew\n"
        path.write_bytes(new)
        assert self.states(line) == before


class TestAudit:
    """The log begins with three entries: two keys, and the client of the stack's own verifiers."""

    def test_entries_are_listed(self, line: CommandLine) -> None:
        line.prints("clients", "create", "reports", "--scope", "orders:read")
        entries = line.rows("audit", "list")
        assert [entry["number"] for entry in entries] == [1, 2, 3, 4]
        assert [entry["event"] for entry in entries] == ["key.made", "key.made", "client.created", "client.created"]
        assert (entries[2]["actor"], entries[2]["subject"]) == ("system", f"client:{VERIFIERS_CLIENT_ID}")
        assert (entries[3]["actor"], entries[3]["subject"]) == ("operator", "client:reports")
        assert [entry["number"] for entry in line.rows("audit", "list", "--after", "1", "--limit", "1")] == [2]
        assert [entry["number"] for entry in line.rows("audit", "list", "--subject", "client:reports")] == [4]
        assert len(line.prints("audit", "list").splitlines()) == 5
        assert line.prints("audit", "list", "--after", "4") == "none\n"

    def test_an_intact_log_is_verified(self, line: CommandLine) -> None:
        head = line.prints("audit", "verify")
        number, _, mac = head.strip().partition(":")
        assert (number, len(mac)) == ("3", 64)
        line.prints("clients", "create", "reports")
        assert line.prints("audit", "verify", "--expect", head.strip()).startswith("4:")

    def test_an_entry_that_was_changed_is_found(self, line: CommandLine) -> None:
        line.execute(audit_log.update().where(audit_log.c.number == 2).values(actor="nobody"))
        assert line.refuses("audit", "verify") == "the audit log does not hold from entry 2 on"

    def test_entries_that_were_cut_off_are_missed(self, line: CommandLine) -> None:
        line.prints("clients", "create", "reports")
        head = line.prints("audit", "verify").strip()
        line.execute(audit_log.delete().where(audit_log.c.number == 4))
        assert line.prints("audit", "verify").startswith("3:")
        assert line.refuses("audit", "verify", "--expect", head) == f"the audit log does not have entry {head}"
        line.prints("clients", "create", "reports-2")
        assert line.refuses("audit", "verify", "--expect", head) == f"the audit log does not have entry {head}"

    def test_an_expectation_has_a_form(self, line: CommandLine) -> None:
        for expect in ("", "2", "2:", ":ab", "x:ab", "-1:ab"):
            assert line.refuses("audit", "verify", f"--expect={expect}") == "--expect needs the form NUMBER:MAC"

    def test_an_expectation_that_is_not_met_is_refused(self, line: CommandLine) -> None:
        for expect in ("0:ab", "3:ab", "4:ab"):
            refusal = line.refuses("audit", "verify", "--expect", expect)
            assert refusal == f"the audit log does not have entry {expect}"

    def test_a_number_beyond_all_entries_is_refused_in_one_line(self, line: CommandLine) -> None:
        assert "does not have entry" in line.refuses("audit", "verify", "--expect", f"{2**64}:ab")

    def test_a_list_from_beyond_all_entries_is_no_crash(self, line: CommandLine) -> None:
        result = line.run("audit", "list", "--after", str(2**64))
        assert result.exception is None or isinstance(result.exception, SystemExit)


def test_logs_go_to_standard_error(line: CommandLine) -> None:
    result = line.run("clients", "create", "reports")
    assert "client.created" in result.stderr
    assert len(result.stdout.splitlines()) == 1
    assert result.stdout.strip() not in result.stderr


def test_a_setting_that_cannot_be_used_is_one_line(
    line: CommandLine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert line.prints("users", "list") == "none\n"
    monkeypatch.setenv("OSTIARY_RSA_BITS", "512")
    monkeypatch.setattr(sys, "argv", ["ostiary-auth", "users", "list"])
    with logging_as_before(), pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert error.startswith("ostiary-auth: OSTIARY_RSA_BITS: ")
