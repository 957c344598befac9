"""The documentation matches the code: examples run, tables are complete, links resolve."""

import ast
import json
import re
import runpy
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import httpx
import pytest
import typer
import yaml
from clusters import BIN, LocalCluster, clean_environment, free_ports, wait_until
from people import People

from ostiary_auth.config import AuthConfig
from ostiary_auth.domain.audit.model import Event
from ostiary_auth.program import cli as auth_cli
from ostiary_gateway.commands import cli as gateway_cli
from ostiary_gateway.config import GatewayConfig
from ostiary_gateway.http1.trusted_fields import TRUSTED_FIELDS
from ostiary_profile.config import ProfileConfig
from ostiary_profile.program import cli as profile_cli

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
REFERENCE = DOCS / "reference"
TUTORIAL = (DOCS / "tutorial" / "first-service.md").read_text()
SETTINGS = (REFERENCE / "settings.md").read_text()

#: All pages, but for what is installed or generated.
PAGES = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "libs/*/*.md", "services/*/*.md", "bench/**/*.md")
    for path in ROOT.glob(pattern)
)
SOURCES = sorted(path for part in ("libs", "services") for path in (ROOT / part).glob("*/src/**/*.py"))

#: Read by the compose file, the routes file and `make run`, not by a service.
OTHER_SETTINGS = {
    "OSTIARY_APP_PORT",
    "OSTIARY_APP_URL",
    "OSTIARY_GATEWAY_BIND",
    "OSTIARY_PAGES_PORT",
    "OSTIARY_PAGES_URL",
    "OSTIARY_PROFILE_URL",
    "OSTIARY_SECRETS_DIR",
}

LEVELS = "debug|info|warning|error|exception|critical"

#: A cell of a Markdown table that starts a row with a name: `| `name` |`, several with commas between.
ROW = re.compile(r"^\| ((?:`[^`]+`(?:, )?)+) \| ([^|]*) \|", re.MULTILINE)


def block(text: str, language: str, containing: str) -> str:
    """Return the only code block of a language that contains a text."""
    blocks = re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    (found,) = [each for each in blocks if containing in each]
    assert isinstance(found, str)
    return found


def page_id(page: Path) -> str:
    return str(page.relative_to(ROOT))


class TestTutorial:
    def test_the_service_takes_ten_lines(self) -> None:
        service = block(TUTORIAL, "python", "FastAPI")
        assert len(service.splitlines()) <= 10
        assert service in (ROOT / "libs" / "ostiary" / "README.md").read_text()

    def test_the_service_runs_behind_the_gateway_and_rejects_revoked_tokens(self, tmp_path: Path) -> None:
        (port,) = free_ports(1)
        routes = yaml.safe_load((ROOT / "deploy" / "gateway.yaml").read_text())
        addition = yaml.safe_load(block(TUTORIAL, "yaml", "orders").replace(":8090", f":{port}"))
        routes["upstreams"].update(addition["upstreams"])
        routes["routes"] += addition["routes"]
        file = tmp_path / "gateway.yaml"
        file.write_text(yaml.safe_dump(routes))
        cluster = LocalCluster(tmp_path / "data", OSTIARY_GATEWAY_ROUTES=str(file))
        service_text = block(TUTORIAL, "python", "FastAPI").replace("http://localhost:8080", cluster.url)
        service_text = service_text.replace("http://127.0.0.1:8081", cluster.urls["auth"])
        (tmp_path / "orders.py").write_text(service_text.replace(".data", str(cluster.data_dir)))
        try:
            cluster.start_all()
            service = subprocess.Popen(  # noqa: S603 - our own command
                [BIN / "uvicorn", "orders:app", "--port", str(port), "--log-level", "warning"],
                cwd=tmp_path,
                env=clean_environment(),
            )
            with httpx.Client(base_url=cluster.url, trust_env=False, timeout=20) as client:
                ada = People(client).new()
                wait_until(lambda: client.get("/orders", headers=ada.headers).status_code == 200, "orders are served")
                assert client.get("/orders", headers=ada.headers).json() == {"orders_of": ada.id}
                assert client.get("/orders").status_code == 401
                assert httpx.get(f"http://127.0.0.1:{port}/orders", trust_env=False).status_code == 401
                logout = client.post("/auth/logout", headers={**ada.headers, "Prefer": "wait=5"})
                assert (logout.json()["acknowledged_by"], logout.json()["complete"]) == (4, True)
                rejected = httpx.get(f"http://127.0.0.1:{port}/orders", headers=ada.headers, trust_env=False)
                assert (rejected.status_code, rejected.json()["code"]) == (401, "revoked")
            service.terminate()
            assert service.wait(20) is not None
        finally:
            cluster.stop_all()


class TestMeasurements:
    def test_the_comparison_has_the_figures_that_were_stored(self) -> None:
        made = runpy.run_path(str(ROOT / "bench" / "session_page.py"))
        page, results = made["PAGE"].read_text(), json.loads(made["RESULTS"].read_text())
        assert made["written"](page, made["tables"](results)) == page


class TestSettings:
    def test_every_setting_is_listed_with_its_default(self) -> None:
        table = documented_settings()
        for config in (AuthConfig, GatewayConfig, ProfileConfig):
            for field in config.model_fields.values():
                assert field.alias in table
                if field.default not in {None, (), ""}:
                    default = ",".join(field.default) if isinstance(field.default, tuple) else field.default
                    assert table[field.alias] == f"`{default}`", field.alias

    def test_every_listed_setting_exists(self) -> None:
        known = AuthConfig.names() | GatewayConfig.names() | ProfileConfig.names()
        assert set(documented_settings()) - OTHER_SETTINGS <= known


def documented_settings() -> dict[str, str]:
    """Return the defaults of all settings, as the page has them."""
    rows = re.findall(r"^\| (`O(?:STIARY|TEL)_[^|]*) \| ([^|]*) \|", SETTINGS, re.MULTILINE)
    return {name: default for names, default in rows for name in re.findall(r"`(O[A-Z]+_\w+)`", names)}


class TestCommands:
    @pytest.mark.parametrize("page", PAGES, ids=page_id)
    def test_every_make_target_exists(self, page: Path) -> None:
        targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
        text = page.read_text()
        named = set(re.findall(r"`make ([a-z-]+)`", text)) | set(re.findall(r"^make ([a-z-]+)", text, re.MULTILINE))
        assert named <= targets

    @pytest.mark.parametrize(
        ("program", "cli"),
        [("ostiary-auth", auth_cli), ("ostiary-gateway", gateway_cli), ("ostiary-profile", profile_cli)],
    )
    def test_the_reference_lists_every_command_and_no_other(self, program: str, cli: typer.Typer) -> None:
        sections = re.split(r"^## ", (REFERENCE / "cli.md").read_text(), flags=re.MULTILINE)
        (section,) = [each for each in sections if each.startswith(f"`{program}`")]
        names = [cell for row in re.findall(r"^\| (`[^|]*) \|", section, re.MULTILINE) for cell in row.split("`, `")]
        listed = {re.split(r" [A-Z[]", name.strip("` "))[0].strip() for name in names}
        assert listed == set(commands(typer.main.get_command(cli)))


def commands(command: object) -> Iterator[str]:
    """Yield the full names of a program's commands."""
    for name, each in getattr(command, "commands", {}).items():
        nested = list(commands(each))
        yield from [f"{name} {rest}" for rest in nested] or [name]


class TestMapOfTheTree:
    text = (DOCS / "explanation" / "architecture.md").read_text()

    def section(self, heading: str) -> set[str]:
        """Return the names in the first cells of a section's tables."""
        (part,) = [each for each in re.split(r"^### ", self.text, flags=re.MULTILINE) if each.startswith(heading)]
        cells = re.findall(r"^\| (`[^|]*) \|", part, re.MULTILINE)
        return {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}

    def test_it_shows_every_package_and_module_of_the_gateway(self) -> None:
        assert self.section("Gateway") == contents(ROOT / "services/gateway/src/ostiary_gateway")

    def test_it_shows_the_layers_and_capabilities_of_the_auth_service(self) -> None:
        package = ROOT / "services/auth/src/ostiary_auth"
        capabilities = {name for layer in ("domain", "routes", "storage") for name in packages(package / layer)}
        listed = self.section("Auth service")
        assert packages(package) | capabilities <= listed
        assert listed <= contents(package) | capabilities

    def test_modules_named_in_the_text_exist(self) -> None:
        for part in (
            "libs/ostiary/src/ostiary",
            "libs/chassis/src/ostiary_chassis",
            "services/profile/src/ostiary_profile",
        ):
            (paragraph,) = re.findall(rf"^`{part}/`.*?(?=\n\n`|\n\n#)", self.text, re.MULTILINE | re.DOTALL)
            for name in re.findall(r"`([\w.]+(?:\.py|/))`", paragraph):
                assert (ROOT / part / name).exists(), name

    def test_places_named_for_changes_exist(self) -> None:
        text = (ROOT / "CONTRIBUTING.md").read_text().partition("### Where a change belongs")[2].partition("\n### ")[0]
        everywhere = {
            str(path.relative_to(ROOT)) for path in ROOT.glob("[a-z]*/**/*") if "__pycache__" not in path.parts
        }
        for name in re.findall(r"`([\w./-]+(?:\.\w+|/))`", text):
            assert any(f"/{path}".endswith(f"/{name.rstrip('/')}") for path in everywhere), name


def packages(folder: Path) -> set[str]:
    """Return the packages in a folder, with a slash at the end."""
    return {f"{path.parent.name}/" for path in folder.glob("*/__init__.py")}


def contents(folder: Path) -> set[str]:
    """Return the packages and modules in a folder, but for `__init__.py`."""
    return packages(folder) | {path.name for path in folder.glob("*.py")} - {"__init__.py"}


class TestSecurity:
    def test_every_test_named_as_evidence_exists(self) -> None:
        text = (ROOT / "SECURITY.md").read_text()
        folder = ROOT
        for name in re.findall(r"`([\w/]*test_\w+\.py)`", text):
            # A bare name is in the folder of the one before it.
            path = ROOT / name if "/" in name else folder / name
            assert path.is_file(), name
            folder = path.parent


class TestLinks:
    @pytest.mark.parametrize("page", PAGES, ids=page_id)
    def test_every_relative_link_and_anchor_resolves(self, page: Path) -> None:
        for target in links(page):
            path, _, anchor = target.partition("#")
            linked = (page.parent / unquote(path)).resolve() if path else page
            assert linked.exists(), target
            assert linked.is_relative_to(ROOT), target
            if anchor:
                assert anchor in anchors(linked), target

    def test_every_page_of_the_documentation_is_in_its_index(self) -> None:
        index = DOCS / "README.md"
        linked = {(DOCS / target.partition("#")[0]).resolve() for target in links(index)}
        # The records of decisions are listed by their folder.
        pages = {page for page in PAGES if page.is_relative_to(DOCS) and "adr" not in page.parts}
        assert pages - {index} <= linked


def prose(page: Path) -> str:
    """Return a page without its code."""
    text = re.sub(r"^(```+).*?^\1", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"`[^`\n]*`", "``", text)


def links(page: Path) -> list[str]:
    """Return the targets of a page's links into the repository."""
    targets = re.findall(r"\]\(([^)\s]+)\)", prose(page))
    return [target for target in targets if not re.match(r"[a-z]+:", target)]


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"^(```+).*?^\1", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    seen: Counter[str] = Counter()
    found = set()
    for heading in headings:
        words = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        found.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
        seen[slug] += 1
    return found


class TestHttpApi:
    def test_the_reference_lists_every_exposed_endpoint_and_no_other(self) -> None:
        routes = yaml.safe_load((ROOT / "deploy" / "gateway.yaml").read_text())["routes"]
        exposed = {(method, route["match"]["path"]) for route in routes for method in route["match"]["methods"]}
        operations = {("GET", path) for path in ("/livez", "/readyz", "/metrics")}
        assert set(endpoints((REFERENCE / "http-api.md").read_text())) == exposed | operations


def endpoints(text: str) -> Iterator[tuple[str, str]]:
    """Yield methods and paths, as in `GET /a` or, for several methods of one path, `GET`, `PUT /a`."""
    methods: list[str] = []
    for method, path in re.findall(r"`(GET|POST|PUT|PATCH|DELETE)(?: (/[^` ]*))?[^`]*`", text):
        methods.append(method)
        if path:
            yield from ((each, path) for each in methods)
            methods.clear()


class TestErrors:
    def test_the_reference_lists_every_code_and_no_other(self) -> None:
        text = (REFERENCE / "errors.md").read_text()
        listed = {name for names, _ in ROW.findall(text) for name in re.findall(r"`(\w+)`", names)}
        assert listed == set(problem_codes())


def problem_codes() -> Iterator[str]:
    """Yield the codes of all problems: of error classes, and of problems made on the spot."""
    for source in SOURCES:
        for node in ast.walk(ast.parse(source.read_text())):
            match node:
                case ast.ClassDef():
                    for each in node.body:
                        match each:
                            case ast.Assign(targets=[ast.Name(id="code")], value=ast.Constant(value=str(code))):
                                yield code
                case ast.Call(func=ast.Name(id="Problem"), args=[_, ast.Constant(value=str(code)), *_]):
                    yield code


class TestHeaderFields:
    def test_the_reference_lists_every_trusted_field_with_its_source_and_no_other(self) -> None:
        section = re.search(
            r"### Fields that services trust\n(.*?)^## ",
            (REFERENCE / "header-fields.md").read_text(),
            re.MULTILINE | re.DOTALL,
        )
        assert section is not None
        rows = re.findall(r"^\| \[([^]]+)\]\(https://[^)]+\) \| (.*) \|$", section[1], re.MULTILINE)
        assert {source: tuple(re.findall(r"`([^`]+)`", names)) for source, names in rows} == TRUSTED_FIELDS


class TestMetrics:
    def test_the_reference_lists_every_metric_with_its_type_and_labels_and_no_other(self) -> None:
        text = (REFERENCE / "metrics.md").read_text()
        rows = re.findall(r"^\| `(\w+)` \| (\w+) \| ([^|]*) \|", text, re.MULTILINE)
        listed = {(name, kind, tuple(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}
        assert len(listed) == len(rows)
        assert listed == set(metrics())

    def test_the_alerts_use_metrics_that_exist(self) -> None:
        used = re.findall(r"\b((?:ostiary|gateway|http)_[a-z_]+)\b", (DOCS / "how-to" / "observe.md").read_text())
        assert set(used) <= {name for name, _, _ in metrics()}

    def test_names_follow_the_conventions_of_prometheus(self) -> None:
        for name, kind, labels in metrics():
            assert re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)+", name), name
            assert name.endswith("_total") is (kind == "counter"), name
            assert kind != "histogram" or name.endswith(("_seconds", "_bytes")), name
            assert "le" not in labels, name


def metrics() -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Yield the name, the type and the labels of every metric that the code makes."""
    for source in SOURCES:
        if "prometheus_client" not in (text := source.read_text()):
            continue
        for function in ast.walk(ast.parse(text)):
            if not isinstance(function, ast.FunctionDef):
                continue
            constants: dict[str, list[str]] = {}
            for node in ast.walk(function):
                match node:
                    case ast.Assign(targets=[ast.Name(id=name)], value=ast.List(elts=[ast.Constant(), *_]) as value):
                        constants[name] = label_names(value, constants)
                    case ast.Call(func=ast.Name(id=kind), args=[ast.Constant(value=str(name)), _, *more]):
                        metric = re.fullmatch(r"(Counter|Gauge|Histogram)(?:MetricFamily)?", kind)
                        if metric is None:
                            continue
                        labels = [
                            *more,
                            *(each.value for each in node.keywords if each.arg in {"labels", "labelnames"}),
                        ]
                        names = tuple(label_names(labels[0], constants)) if labels else ()
                        suffix = "_total" if metric[1] == "Counter" and not name.endswith("_total") else ""
                        yield name + suffix, metric[1].lower(), names


def label_names(node: ast.expr, constants: dict[str, list[str]]) -> list[str]:
    """Return the strings of a list in the code, which may contain or be a constant of the same function."""
    match node:
        case ast.Constant(value=str(name)):
            return [name]
        case ast.Name(id=name):
            return constants[name]
        case ast.Starred(value=value):
            return label_names(value, constants)
        case ast.List(elts=items) | ast.Tuple(elts=items):
            return [name for item in items for name in label_names(item, constants)]
        case _:
            raise AssertionError(f"labels that the test cannot read: {ast.unparse(node)}")


class TestLogEvents:
    text = (REFERENCE / "log-events.md").read_text()

    def test_the_reference_lists_every_event_with_its_level_and_fields_and_no_other(self) -> None:
        rows = re.findall(rf"^\| `([^`]+)` \| ({LEVELS}) \| ([^|]*) \|", self.text, re.MULTILINE)
        listed = {(event, level): set(re.findall(r"`(\w+)`", fields)) for event, level, fields in rows}
        assert len(listed) == len(rows)
        assert listed == log_events()

    def test_the_reference_lists_every_audit_event_and_no_other(self) -> None:
        listed = set(re.findall(r"^\| `(\w+\.\w+)` \|", self.text, re.MULTILINE))
        assert listed == {event.value for event in Event}


def log_events() -> dict[tuple[str, str], set[str]]:
    """Return the fields of all lines that the code logs, by their event and level."""
    found: dict[tuple[str, str], set[str]] = {}
    for source in SOURCES:
        tree = ast.parse(source.read_text())
        mappings = {
            node.targets[0].id: node.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Assign)
            and isinstance(node.targets[0], ast.Name)
            and isinstance(node.value, ast.Dict)
        }
        for node in ast.walk(tree):
            match node:
                case ast.Call(
                    func=ast.Attribute(value=ast.Name(id="_log"), attr=level),
                    args=[ast.Constant(value=str(event)), *_],
                    keywords=keywords,
                ) if re.fullmatch(LEVELS, level):
                    fields = found.setdefault((event, level), set())
                    fields.update(name for keyword in keywords for name in field_names(keyword, mappings))
    return found


def field_names(keyword: ast.keyword, mappings: dict[str, ast.Dict]) -> list[str]:
    """Return the fields that an argument of a log call adds: itself, or the keys of a mapping."""
    match keyword:
        case ast.keyword(arg="extra" | None, value=ast.Name(id=name)):
            return keys(mappings[name])
        case ast.keyword(arg="extra", value=ast.Dict() as mapping):
            return keys(mapping)
        case ast.keyword(arg="exc_info"):
            return []
        case ast.keyword(arg=str(name)):
            return [name]
        case _:
            raise AssertionError(f"fields that the test cannot read: {ast.unparse(keyword)}")


def keys(mapping: ast.Dict) -> list[str]:
    return [key.value for key in mapping.keys if isinstance(key, ast.Constant) and isinstance(key.value, str)]
