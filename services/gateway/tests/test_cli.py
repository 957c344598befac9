"""The command: what it prints, and how it ends. Serving is in tests/integration."""

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from ostiary_gateway import cli

README = Path(__file__).parents[1] / "README.md"


@dataclass
class Done:
    """How a command has ended."""

    code: int
    output: str
    errors: str


Run = Callable[..., Done]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Return what runs the command with these arguments."""

    def run(*arguments: str | Path) -> Done:
        monkeypatch.setattr(sys, "argv", ["ostiary-gateway", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        output, errors = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return Done(ended.value.code, output, errors)

    return run


class TestCheck:
    def test_the_example_in_the_readme_is_good(self, run: Run, tmp_path: Path) -> None:
        (example,) = re.findall(r"^```yaml\n(.*?)^```", README.read_text(), re.MULTILINE | re.DOTALL)
        file = tmp_path / "example.yaml"
        file.write_text(example)
        assert run("check", file) == Done(0, f"{file}: 1 routes to 2 upstreams\n", "")

    def test_an_upstream_that_no_route_uses_is_named(self, run: Run, tmp_path: Path) -> None:
        file = tmp_path / "gateway.yaml"
        file.write_text(
            "upstreams: {up: {url: http://up}, spare: {url: http://spare}}\n"
            "routes: [{name: r, match: {path: /r, methods: [GET]}, upstream: up, access: public}]\n"
        )
        done = run("check", file)
        assert done.code == 0
        assert f"{file}: upstreams.spare: no route uses it\n" in done.output

    def test_mistakes_are_lines_and_nothing_else(self, run: Run, tmp_path: Path) -> None:
        file = tmp_path / "gateway.yaml"
        file.write_text("upstreams: {a: {url: 'http://a'}}\nroutes:\n  - {name: r, upstream: a}\n")
        assert run("check", file) == Done(
            2,
            "",
            f"ostiary-gateway: {file}:3: routes[0].match: Field required\n{file}:3: routes[0].access: Field required\n",
        )

    def test_a_file_that_is_not_there_is_the_arguments_fault(self, run: Run, tmp_path: Path) -> None:
        file = tmp_path / "none.yaml"
        assert run("check", file) == Done(
            2, "", f"ostiary-gateway: FILE: cannot read {file}: No such file or directory\n"
        )
