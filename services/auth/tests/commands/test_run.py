"""How commands print, log and fail."""

import json
import sys

import pytest
from command_line import ESCAPES, CommandLine, logging_as_before

from ostiary_auth import cli


class TestTerminal:
    def test_what_people_call_themselves_cannot_write_over_the_terminal(self, line: CommandLine) -> None:
        line.add_user(sessions=1, name=f"Ada{ESCAPES}", user_agent=f"Test{ESCAPES}")
        printed = line.prints("users", "export", "ada@example.com")
        assert json.loads(printed)["user"]["display_name"] == f"Ada{ESCAPES}"
        assert printed.replace("\n", "").isprintable()

    def test_what_a_client_is_called_cannot_either(self, line: CommandLine) -> None:
        assert "no control characters" in line.refuses("clients", "create", "reports", "--name", f"Reports{ESCAPES}")
        line.prints("clients", "create", "reports", "--name", "Reports\u200d\ue000")
        for format_ in ([], ["--json"]):
            assert line.prints("clients", "list", *format_).replace("\n", "").isprintable()


def test_logs_go_to_standard_error(line: CommandLine, capfd: pytest.CaptureFixture[str]) -> None:
    result = line.run("clients", "create", "reports")
    log = capfd.readouterr().err
    assert "client.created" in log
    assert len(result.stdout.splitlines()) == 1
    assert result.stdout.strip() not in log


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
