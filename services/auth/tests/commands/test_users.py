"""`ostiary-auth users`."""

import json
from datetime import UTC, datetime
from uuid import UUID

import pytest
from command_line import ESCAPES, CommandLine
from users import PASSWORD

from ostiary_auth.commands import _run
from ostiary_auth.domain.context import Context
from ostiary_auth.domain.oauth.model import FIRST_PARTY_CLIENT_ID
from ostiary_auth.domain.sessions.model import Grant
from ostiary_auth.services import Services


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

    def test_all_users_are_listed_page_by_page(self, line: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(_run, "_PAGE", 2)
        for name in ("a", "b", "c", "d", "much-longer-than-all-others-before"):
            line.prints("users", "create", f"{name}@example.com", "--password-stdin", typed=f"{PASSWORD}\n")
        heading, *rows = line.prints("users", "list").splitlines()
        assert heading.startswith("ID")
        assert len(rows) == len({row.split()[0] for row in rows}) == 5
        assert len(line.rows("users", "list")) == 5

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
            assert line.refuses("users", command[0], "ada@example.com", *command[1:]) == "User not found."
        assert line.refuses("users", "disable", "00000000-0000-0000-0000-000000000001") == "User not found."
