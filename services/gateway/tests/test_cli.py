"""The command line: output and exit codes. Serving is tested in tests/integration."""

import json
import os
import re
import socketserver
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from harness import short_directory

from ostiary_gateway import cli

REFERENCE = Path(__file__).parents[3] / "docs" / "reference" / "routes-file.md"


@dataclass
class Done:
    """The result of a command."""

    code: int
    output: str
    errors: str


Run = Callable[..., Done]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs the command with arguments."""

    def run(*arguments: str | Path) -> Done:
        monkeypatch.setattr(sys, "argv", ["ostiary-gateway", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        output, errors = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return Done(ended.value.code, output, errors)

    return run


class TestCheck:
    def test_the_example_in_the_reference_is_valid(self, run: Run, tmp_path: Path) -> None:
        (example,) = re.findall(r"^```yaml\n(.*?)^```", REFERENCE.read_text(), re.MULTILINE | re.DOTALL)
        file = tmp_path / "example.yaml"
        file.write_text(example)
        assert run("check", file) == Done(0, f"{file}: 1 routes to 2 upstreams\n", "")

    def test_the_examples_of_browser_sessions_are_valid(self, run: Run, tmp_path: Path) -> None:
        page = REFERENCE.parents[1] / "how-to" / "browser-sessions.md"
        first, pages, origins = re.findall(r"^```yaml\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
        upstreams = "upstreams: {auth: {url: http://auth}, shop: {url: http://shop}}\n"
        file = tmp_path / "gateway.yaml"
        for example in (first + pages, origins + first.partition("\n")[2] + pages.replace("    login: redirect", "#")):
            file.write_text(upstreams + example)
            done = run("check", file)
            assert (done.code, done.errors) == (0, ""), done.errors
            assert ": /login: " not in done.output

    def test_browser_sessions_need_an_issuer_for_which_browsers_keep_cookies(
        self, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        file = tmp_path / "gateway.yaml"
        file.write_text(
            "upstreams: {up: {url: http://up}}\nbrowser: {upstream: up}\n"
            "routes: [{name: r, match: {path: /r, methods: [GET]}, upstream: up, access: authenticated}]\n"
        )
        assert run("check", file).output == (
            f"{file}: browser sessions of upstream up; trusted origins: none\n{file}: cookies count for: r\n"
            f"{file}: 1 routes to 1 upstreams\n"
        )
        monkeypatch.setenv("OSTIARY_ISSUER", "http://id.example")
        done = run("check", file)
        assert done.code == 2
        assert "OSTIARY_ISSUER: browser sessions need an https issuer" in done.errors

    def test_an_unused_upstream_is_named(self, run: Run, tmp_path: Path) -> None:
        file = tmp_path / "gateway.yaml"
        file.write_text(
            "upstreams: {up: {url: http://up}, spare: {url: http://spare}}\n"
            "routes: [{name: r, match: {path: /r, methods: [GET]}, upstream: up, access: public}]\n"
        )
        done = run("check", file)
        assert done.code == 0
        assert f"{file}: upstreams.spare: not used by any route\n" in done.output

    def test_errors_are_one_line_each(self, run: Run, tmp_path: Path) -> None:
        file = tmp_path / "gateway.yaml"
        file.write_text("upstreams: {a: {url: 'http://a'}}\nroutes:\n  - {name: r, upstream: a}\n")
        assert run("check", file) == Done(
            2,
            "",
            f"ostiary-gateway: {file}:3: routes[0].match: required field is missing\n"
            f"{file}:3: routes[0].access: required field is missing\n",
        )

    def test_a_missing_file_is_an_error_that_names_the_argument(self, run: Run, tmp_path: Path) -> None:
        file = tmp_path / "none.yaml"
        assert run("check", file) == Done(
            2, "", f"ostiary-gateway: FILE: cannot read {file}: No such file or directory\n"
        )


class TestExplain:
    @pytest.fixture(autouse=True)
    def settings(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        file = tmp_path / "gateway.yaml"
        file.write_text(
            "upstreams: {up: {url: http://up}}\n"
            "routes:\n"
            "  - {name: r, match: {path: /r, methods: [GET]}, upstream: up, access: public}\n"
            "  - {name: s, match: {path: /s, methods: [GET]}, upstream: up, access: authenticated}\n"
        )
        monkeypatch.setenv("OSTIARY_GATEWAY_ROUTES", str(file))

    def test_it_exits_with_0_if_allowed_and_with_1_if_rejected(self, run: Run) -> None:
        done = run("explain", "GET", "/r")
        assert (done.code, done.errors) == (0, "")
        assert done.output.endswith("upstream    up (http://up) gets /r\n")
        done = run("explain", "GET", "/s", "--header", "X-Some: thing")
        assert (done.code, done.errors) == (1, "")
        assert "response    401 missing_token: " in done.output

    def test_trusted_proxies_come_from_the_setting(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        arguments = ["explain", "GET", "/r", "--client", "10.0.0.1", "--header", "X-Forwarded-For: 198.51.100.7"]
        assert "client      10.0.0.1\n" in run(*arguments).output
        monkeypatch.setenv("OSTIARY_GATEWAY_TRUSTED_PROXIES", "10.0.0.1")
        assert "client      198.51.100.7\n" in run(*arguments).output

    @pytest.mark.parametrize(
        ("arguments", "fault"),
        [
            (["http://[::1/r"], "URL: "),
            (["/r", "--header", "Origin"], "--header: must be a name, a colon and a value"),
            (["/r", "--header", "Ori gin: x"], "--header: must be "),
            (["/r", "--header", "Origin: x\r\nHost: y"], "--header: must be "),
            (["/r", "--client", "localhost"], "--client: must be an IP address"),
            (["/r", "--token-file", "/none"], "--token-file: cannot read /none: No such file or directory"),
        ],
    )
    def test_an_invalid_argument_is_one_line(self, run: Run, arguments: list[str], fault: str) -> None:
        done = run("explain", "GET", *arguments)
        assert (done.code, done.output, done.errors.count("\n")) == (2, "", 1)
        assert done.errors.startswith(f"ostiary-gateway: {fault}")

    @pytest.mark.parametrize("content", [b"", b"\n", b"\xff\xfe\x00", b"\x00", b"two words", b"a\nb", b"Bearer abc"])
    def test_an_invalid_token_file_is_one_line_that_does_not_show_the_content(
        self, run: Run, tmp_path: Path, content: bytes
    ) -> None:
        file = tmp_path / "token"
        file.write_bytes(content)
        done = run("explain", "GET", "/r", "--token-file", file)
        assert (done.code, done.output, done.errors.count("\n")) == (2, "", 1)
        assert done.errors.startswith("ostiary-gateway: --token-file: ")
        assert str(file) in done.errors


class Service:
    """A service with an OpenAPI document, on a unix socket."""

    def __init__(self, path: Path) -> None:
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                service.targets.append(self.path)
                self.send_response(service.status)
                self.end_headers()
                self.wfile.write(service.content)

            def address_string(self) -> str:
                return "a socket has none"

            def log_message(self, *_arguments: object) -> None:
                """Keep quiet."""

        self.status = 200
        self.content = b"{}"
        self.targets: list[str] = []
        self._server = socketserver.ThreadingUnixStreamServer(str(path), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def offer(self, *scopes: str, path: str = "/orders") -> None:
        """Describe one operation that requires a token with these scopes."""
        schemes = {"bearer": {"type": "http", "scheme": "bearer"}}
        operation = {"security": [{"bearer": scopes}]}
        described = {"paths": {path: {"get": operation}}, "components": {"securitySchemes": schemes}}
        self.content = json.dumps(described).encode()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class TestPolicy:
    @pytest.fixture
    def service(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
        with short_directory() as directory:
            file = directory / "gateway.yaml"
            file.write_text(
                f"upstreams: {{shop: {{url: 'unix:{directory}/shop'}}}}\n"
                "routes:\n"
                "  - name: orders\n"
                "    match: {path: /orders, methods: [GET]}\n"
                "    upstream: shop\n"
                "    access: {scopes: [orders]}\n"
            )
            monkeypatch.setenv("OSTIARY_GATEWAY_ROUTES", str(file))
            service = Service(directory / "shop")
            yield service
            service.close()

    def test_without_differences_it_exits_with_0(self, run: Run, service: Service) -> None:
        service.offer("orders")
        assert run("policy") == Done(0, "differences: 0; compared: shop\n", "")
        assert service.targets == ["/openapi.json"]

    def test_it_tells_what_browser_sessions_are_used_for(self, run: Run, service: Service) -> None:
        routes = Path(os.environ["OSTIARY_GATEWAY_ROUTES"])
        routes.write_text(f"{routes.read_text()}browser: {{upstream: shop}}\n")
        service.offer("orders")
        lines = ["browser sessions of upstream shop; trusted origins: none", "cookies count for: orders"]
        assert run("policy") == Done(0, "\n".join([*lines, "differences: 0; compared: shop", ""]), "")

    def test_upstreams_that_describe_nothing_are_not_asked(self, run: Run, service: Service) -> None:
        routes = Path(os.environ["OSTIARY_GATEWAY_ROUTES"])
        pages = "shop: {url: 'unix:/nowhere', openapi: false}, "
        routes.write_text(routes.read_text().replace("{shop: ", f"{{{pages.replace('shop', 'pages')}shop: "))
        service.offer("orders")
        assert run("policy") == Done(0, "differences: 0; compared: shop\n", "")

    def test_with_differences_it_exits_with_1(self, run: Run, service: Service) -> None:
        service.offer("orders", "stock")
        output = (
            "GET /orders (orders): does not require scope stock, but the service does\ndifferences: 1; compared: shop\n"
        )
        assert run("policy") == Done(1, output, "")

    def test_a_route_that_is_not_in_the_document_is_a_difference(self, run: Run, service: Service) -> None:
        service.offer("orders", path="/others")
        done = run("policy")
        assert (done.code, done.errors) == (1, "")
        assert "GET /orders (orders): not in the service's document\n" in done.output

    @pytest.mark.parametrize(
        ("status", "content", "fault"),
        [
            (404, b"{}", "response with status 404"),
            (200, b"<html>", "response is not JSON"),
            (200, b"[" * 5000, "response is not JSON"),
            (200, b"[]", "response is not an OpenAPI document"),
            (200, b'{"paths": {"/orders": {"get": {"parameters": null}}}}', "invalid OpenAPI document of shop"),
            (200, b'{"paths": {"/orders": {"get": {"security": "foo"}}}}', "invalid OpenAPI document of shop"),
        ],
    )
    def test_an_invalid_response_is_one_line_and_exits_with_2(
        self, run: Run, service: Service, status: int, content: bytes, fault: str
    ) -> None:
        service.status, service.content = status, content
        done = run("policy")
        assert (done.code, done.output, done.errors.count("\n")) == (2, "", 1)
        assert fault in done.errors

    def test_an_address_of_no_upstream_exits_with_2(self, run: Run, service: Service) -> None:
        assert run("policy", "--openapi", "http://elsewhere/openapi.json").code == 2
        assert service.targets == []
