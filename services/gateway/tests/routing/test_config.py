"""Validation of the routes file: every error names its line."""

import re
from itertools import product
from pathlib import Path

import pytest
from yaml import SafeLoader

from ostiary_chassis.settings import ConfigError
from ostiary_gateway.routing import yaml
from ostiary_gateway.routing.config import Route, RoutesFile
from ostiary_gateway.routing.loader import load_file
from ostiary_gateway.routing.policies import Cors, Limits, Timeouts
from ostiary_gateway.routing.requirements import Requirements

GOOD = """\
upstreams:
  orders:
    url: ${ORDERS_URL:-http://127.0.0.1:9000}
routes:
  - name: list-orders
    match: {path: /orders, methods: [GET]}
    upstream: orders
    access: {scopes: ["orders:read"]}
  - name: ping
    match: {path: /ping, methods: [GET]}
    upstream: orders
    access: public
"""


def read(tmp_path: Path, text: str, **environ: str) -> RoutesFile:
    path = tmp_path / "gateway.yaml"
    path.write_text(text)
    return load_file(path, environ)


def test_a_valid_file_is_loaded(tmp_path: Path) -> None:
    file = read(tmp_path, GOOD)
    assert file.upstreams["orders"].url == "http://127.0.0.1:9000"
    assert file.routes[0].access == Requirements(scopes=frozenset({"orders:read"}))
    assert file.routes[1].access == "public"


def test_addresses_are_expanded_from_the_environment(tmp_path: Path) -> None:
    assert read(tmp_path, GOOD, ORDERS_URL="http://orders:1").upstreams["orders"].url == "http://orders:1"


@pytest.mark.parametrize("urls", ["http://a:1,http://b:1", "http://a:1 , http://b:1"])
def test_a_list_of_addresses_comes_from_the_environment(tmp_path: Path, urls: str) -> None:
    text = GOOD.replace("url: ${ORDERS_URL:-http://127.0.0.1:9000}", "urls: ${ORDERS_URL:-http://c:1}")
    assert read(tmp_path, text, ORDERS_URL=urls).upstreams["orders"].addresses == ("http://a:1", "http://b:1")
    assert read(tmp_path, text).upstreams["orders"].addresses == ("http://c:1",)
    for fault in ("http://a:1,", "http://a:1,http://a:1", "http://a:1;http://b:1"):
        with pytest.raises(ConfigError, match=r"gateway\.yaml:[23]: upstreams\.orders"):
            read(tmp_path, text, ORDERS_URL=fault)


@pytest.mark.parametrize(
    ("other", "takes_head"),
    [
        ("{path: /orders, methods: [PUT]}", True),
        ("{path: /orders, methods: [HEAD]}", False),
        ("{path: /ping, methods: [HEAD]}", True),
        ("{path: /orders, methods: [HEAD], hosts: [a.example]}", True),
        ('{path: /orders, methods: [HEAD], headers: {X-Version: "2"}}', True),
    ],
)
def test_a_get_route_takes_head_unless_another_route_lists_it_for_the_same(
    tmp_path: Path, other: str, takes_head: bool
) -> None:
    text = GOOD + f"  - {{name: other, match: {other}, upstream: orders, access: authenticated}}\n"
    orders = read(tmp_path, text).routes[0]
    assert orders.match.methods == ({"GET", "HEAD"} if takes_head else {"GET"})


@pytest.mark.parametrize(("host", "takes_head"), [("a.example", False), ("b.example", True)])
def test_a_route_of_several_hosts_gives_head_up_for_all_of_them(tmp_path: Path, host: str, takes_head: bool) -> None:
    text = GOOD.replace("methods: [GET]}", "methods: [GET], hosts: [a.example, c.example]}", 1)
    match = f"{{path: /orders, methods: [HEAD], hosts: [{host}]}}"
    text += f"  - {{name: other, match: {match}, upstream: orders, access: authenticated}}\n"
    assert ("HEAD" in read(tmp_path, text).routes[0].match.methods) is takes_head


def test_two_get_routes_for_the_same_requests_are_named_by_get(tmp_path: Path) -> None:
    text = GOOD + "  - {name: again, match: {path: /ping, methods: [GET]}, upstream: orders, access: public}\n"
    with pytest.raises(ConfigError, match="matches the same GET requests as route 'ping'"):
        read(tmp_path, text)


def test_the_shipped_file_has_these_public_routes() -> None:
    file = load_file(Path(__file__).parents[4] / "deploy" / "gateway.yaml", {})
    public = {route.match.path for route in file.routes if route.access == "public"}
    assert public == {
        "/auth/register",
        "/auth/login",
        "/auth/refresh",
        "/session",
        "/session/end",
        "/",
        "/pages/style.css",
        "/oauth/token",
        "/oauth/revoke",
        "/oauth/introspect",
        "/.well-known/jwks.json",
        "/.well-known/oauth-authorization-server",
        "/.well-known/openid-configuration",
    }


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ('    access: {scopes: ["orders:read"]}\n', "", 5, "access: required field is missing"),
        ('{scopes: ["orders:read"]}', "{}", 8, "at least one of"),
        ('{scopes: ["orders:read"]}', "{scopes: []}", 8, "at least one of"),
        ('{scopes: ["orders:read"]}', "everybody", 8, "access"),
        ('{scopes: ["orders:read"]}', '{scope: ["orders:read"]}', 8, "access"),
        ('["orders:read"]', '["orders read"]', 8, "scopes"),
        (
            "methods: [GET]}\n    upstream: orders\n    access: {",
            "methods: []}\n    upstream: orders\n    access: {",
            6,
            "methods",
        ),
        ("path: /orders,", "path: orders,", 6, "a path must start with '/'"),
        ("path: /orders,", "path: /../orders,", 6, "literal segment"),
        ("methods: [GET]", "methods: [GE T]", 6, "methods[0]: must be a method, such as GET"),
        ("methods: [GET]", 'methods: ["GET\\n"]', 6, "must be a method"),
        ("methods: [GET]", f"methods: [{'A' * 33}]", 6, "at most 32 characters"),
        ("methods: [GET]", "methods: [get]", 6, "write GET"),
        ("methods: [GET]", "methods: [PropFind]", 6, "write PROPFIND"),
        ("methods: [GET]", "methods: [CONNECT]", 6, "CONNECT is not supported"),
        ("methods: [GET]", "methods: [TRACE]", 6, "TRACE is not supported"),
        ("name: list-orders", "name: List Orders", 5, "name"),
        ("name: list-orders", "name: ping", 9, "duplicate route name 'ping'"),
        ("path: /ping", "path: /orders", 10, "same GET requests as route 'list-orders'"),
        ("upstream: orders\n    access: public", "upstream: other\n    access: public", 11, "unknown upstream 'other'"),
        ("access: public", "access: public\n    retrying: 3", 13, "routes[1].retrying: unknown field"),
        ("access: public", "access: public\n    access: authenticated", 13, "duplicate field 'access'"),
        ("access: public", "access: public\n    limits: {body_bytes: -1}", 13, "body_bytes"),
        (
            "access: public",
            f"access: public\n    rate_limits: [{', '.join(['{by: address, requests: 1, seconds: 1}'] * 2)}]",
            9,
            "duplicate rate limit",
        ),
        ("url: ${ORDERS_URL:-http://127.0.0.1:9000}", "url: ${ORDERS_URL}", 3, "ORDERS_URL is not set"),
        ("http://127.0.0.1:9000", "127.0.0.1:9000", 3, "http://"),
        ("upstreams:", "upstream:", 1, "upstreams: required field is missing"),
        ("access: public", "access: [public", 13, "expected"),
        ("name: ping", "name: &a ping\n    x: *a", 10, "aliases are not supported"),
        ("access: public", "access: !!int abc", 12, "routes[1].access: 'abc' is not a valid int"),
        ("access: public", "access: !!bool abc", 12, "routes[1].access: 'abc' is not a valid bool"),
        ("access: public", "access: \x00", 12, "character U+0000"),
        ("access: public", f"access: {'[' * 600}", 12, "nested more than 32 levels deep"),
        ("access: public", "access: public\n    ? [a]\n    : 1", 13, "field names must be plain strings"),
        ("access: public", "access: public\n    ? {a: b}\n    : 1", 13, "field names must be plain strings"),
        ("access: public", "access: pubic", 12, "routes[1].access: must be 'public', 'optional' or 'authenticated'"),
        ("access: public", "access: 5", 12, "routes[1].access: must be a mapping"),
        ("access: public", "access: [public]", 12, "routes[1].access: must be a mapping"),
        ("access: public", "access: {scopes: x}", 12, "routes[1].access.scopes: must be a list"),
        ("access: public", "access: {role: [x]}", 12, "routes[1].access.role: unknown field"),
        (
            "access: public",
            "access: {claims: {a: {equals: 1.5}}}",
            12,
            "must be a string, an integer or a boolean",
        ),
        ("access: public", "access: {claims: {a: {one_of: x}}}", 12, "one_of: must be a list"),
        ("access: public", "access: public\n    rate_limits: {}", 13, "rate_limits: must be a list"),
        ("access: public", "access: public\n    websocket: 'off'", 13, "websocket: must be true or false"),
        ("access: public", "access: public\n    websocket: 1", 13, "websocket: must be true or false"),
        (
            "access: public",
            'access: public\n    cors: {origins: ["http://a"], credentials: "no"}',
            13,
            "credentials: must be true or false",
        ),
        (
            "access: public",
            'access: public\n    cors: {origins: ["https://Example.com/"]}',
            13,
            "cors.origins[0]: must be without a trailing slash: https://example.com",
        ),
        ("path: /ping", "hosts: [Example.com], path: /ping", 10, "must be a host name in lower case, without port"),
        ("access: public", 'access: public\n    timeouts: {idle: "5"}', 13, "timeouts.idle: must be a number"),
        ("access: public", "access: public\n    timeouts: {idle: true}", 13, "timeouts.idle: must be a number"),
        ("access: public", "access: public\n    max_staleness: never", 13, "must be 'default' or 'none'"),
        (
            "upstream: orders\n    access: public",
            "upstream: {orders: 1}\n    access: public",
            11,
            "at least 2 items required",
        ),
        (
            "methods: [GET]}\n    upstream: orders\n    access: public",
            "methods: [POST]}\n    retries: {attempts: 1}\n    upstream: orders\n    access: public",
            11,
            "routes[1].retries: none of the route's methods is idempotent",
        ),
        (
            "url: ${ORDERS_URL:-http://127.0.0.1:9000}",
            "url: unix:orders",
            3,
            "must be unix: and the absolute path of a socket",
        ),
        ("path: /ping", "path: /livez", 10, "reserved: the gateway serves this path itself"),
        ("path: /ping", "path: /%6Civez", 10, "reserved: the gateway serves this path itself"),
        ("access: public", "access: public\n    limits: {body_bytes: true}", 13, "body_bytes"),
        ("access: public", 'access: public\n    limits: {body_bytes: "5"}', 13, "body_bytes"),
        ("access: public", "access: public\n    timeouts: {read: true}", 13, "read"),
        ("access: public", "access: 2020-01-01", 12, "type not allowed here: timestamp"),
        ("http://127.0.0.1:9000", "http://h:99999", 3, "http://"),
        ("http://127.0.0.1:9000", "http://h:abc", 3, "http://"),
        ("http://127.0.0.1:9000", "http://[::1", 3, "http://"),
        ("access: public", "access: !!python/object:os.system x", 12, "type not allowed here: "),
    ],
)
def test_an_error_names_its_line(tmp_path: Path, old: str, new: str, line: int, message: str) -> None:
    assert old in GOOD
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, GOOD.replace(old, new, 1))
    assert f"gateway.yaml:{line}: " in str(caught.value)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "member",
    [
        "access: pubic",
        "access: {role: [x]}",
        "access: {claims: {a: {equals: 1.5}}}",
        "access: authenticated\n    max_staleness: 0.1",
        "access: authenticated\n    max_staleness: never",
    ],
)
def test_errors_are_about_the_union_member_that_was_meant(tmp_path: Path, member: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, GOOD.replace("access: public", member))
    assert len(str(caught.value).splitlines()) == 1


def test_errors_use_no_terms_of_python_and_pydantic(tmp_path: Path) -> None:
    """Whatever the value is."""
    values = ["{}", "[]", "5", "1.5", "true", "null", "x", '""', "[[x]]", "{x: y}"]
    members = [
        "match: {path: /p, methods: [GET], hosts: %s}",
        "match: {path: /p, methods: %s}",
        "match: {path: %s, methods: [GET]}",
        "match: %s",
        *(f"{name}: %s" for name in Route.model_fields),
        *(f"limits: {{{name}: %s}}" for name in Limits.model_fields),
        *(f"timeouts: {{{name}: %s}}" for name in Timeouts.model_fields),
        *(f"cors: {{{name}: %s}}" for name in Cors.model_fields),
    ]
    foreign = re.compile(r"instance|valid |frozenset|tuple|dict|[Ii]nput|\^|Node|object")
    for member, value in product(members, values):
        try:
            read(tmp_path, GOOD + f"  - {member % value}\n")
        except ConfigError as error:
            for line in str(error).splitlines():
                assert not foreign.search(line.partition("gateway.yaml:")[2]), line


def test_invalid_utf_8_is_an_error_on_its_line(tmp_path: Path) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_bytes(GOOD.encode().replace(b"name: ping", b"name: p\xffng"))
    with pytest.raises(ConfigError, match=r"gateway\.yaml:9: file: not valid UTF-8"):
        load_file(path, {})


def test_unused_upstreams_are_listed(tmp_path: Path) -> None:
    file = read(tmp_path, GOOD.replace("routes:", "  other: {url: http://other}\nroutes:"))
    assert file.unused_upstreams == ["other"]


@pytest.mark.parametrize(
    "text", ["", "[]", "x", "routes: []", "\x00", "upstreams: {}\nroutes: []", "a: !!int x", "[" * 600]
)
def test_other_yaml_is_rejected(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"gateway\.yaml"):
        read(tmp_path, text)


def test_a_second_document_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gateway\.yaml:\d+: file: a second document is not supported"):
        read(tmp_path, GOOD + "---\n" + GOOD)


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        "",
        "a: {b: [1, 1.5, true, null, ~, 0x1F, 'x', \"y\"]}",
        "a: [|",
        "a: !!int x",
        "[" * 600,
        "a: 1\na: 2",
        "a: \x00",
    ],
)
def test_files_are_read_alike_without_libyaml(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def result() -> object:
        try:
            return yaml.read(text.encode()), yaml.read_lines(text.encode())
        except yaml.InvalidYaml as error:
            return error.line, error.location

    with_libyaml = result()
    monkeypatch.setattr(yaml, "_Loader", SafeLoader)
    assert result() == with_libyaml


def test_a_missing_file_is_an_error_that_names_the_setting(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="OSTIARY_GATEWAY_ROUTES: cannot read"):
        load_file(tmp_path / "none.yaml", {})
