"""A routes file in which a route bypasses a stricter one is rejected."""

import json
import re
import time
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ostiary_chassis.settings import ConfigError
from ostiary_gateway.routing.bypass_check import prove
from ostiary_gateway.routing.config import Route, RoutesFile
from ostiary_gateway.routing.source import load_routes
from ostiary_gateway.routing.table import RouteTable
from ostiary_gateway.routing.templates import common_path

ROOT = Path(__file__).parents[4]

FILE = """\
upstreams:
  one: {{url: "http://one:1"}}
  two: {{url: "http://two:2"}}
routes:
  - {{name: open, match: {{path: "{public}", methods: [GET]}}, upstream: one, access: public}}
  - {{name: closed, match: {{path: "{protected}", methods: [GET]}}, upstream: {upstream}, access: {{roles: [admin]}}}}
"""


def load(tmp_path: Path, public: str, protected: str, upstream: str = "one") -> RoutesFile:
    path = tmp_path / "gateway.yaml"
    path.write_text(FILE.format(public=public, protected=protected, upstream=upstream))
    return load_routes(path)


@pytest.mark.parametrize(
    ("public", "protected"),
    [
        ("/pub", "/admin"),
        ("/pub/{rest...}", "/admin/{rest...}"),
        ("/{rest...}", "/admin/{rest...}"),
        ("/admin/health", "/admin/{rest...}"),
        ("/admin/{id}", "/admin/{id}/keys"),
        ("/{page}", "/admin"),
    ],
)
def test_a_route_may_be_an_exception_to_another_one(tmp_path: Path, public: str, protected: str) -> None:
    assert len(load(tmp_path, public, protected).routes) == 2


@pytest.mark.parametrize(
    ("public", "protected", "path"),
    [
        ("/a/{id}", "/{kind}/secret", "/a/secret"),
        ("/a/{rest...}", "/{kind}/secret", "/a/secret"),
        ("/{kind}/open/{rest...}", "/admin/{a}/{b}", "/admin/open/x"),
    ],
)
def test_partially_overlapping_routes_must_have_the_same_access(
    tmp_path: Path, public: str, protected: str, path: str
) -> None:
    with pytest.raises(ConfigError, match=rf"gateway.yaml:\d+: routes\[\d\]: lets {path} bypass"):
        load(tmp_path, public, protected)


CROSSING = ('path: "/a/{id}"', 'path: "/{kind}/secret"')


@pytest.mark.parametrize(
    "hosts",
    [
        ("", ""),
        ("a.test", ""),
        ("a.test", "a.test"),
        ("a.test, b.test", "b.test, c.test"),
        ("a.test", '"*.test"'),
        ('"*.a.test", c.test', '"*.test"'),
        ('"*.test"', ""),
    ],
)
def test_crossing_rules_of_two_upstreams_must_ask_for_the_same_if_a_host_has_both(
    tmp_path: Path, hosts: tuple[str, str]
) -> None:
    one, other = (f"{path}, hosts: [{names}]" for path, names in zip(CROSSING, hosts, strict=True))
    for order in ([of(one), of(other, ADMIN, "two")], [of(other, ADMIN, "two"), of(one)]):
        with pytest.raises(ConfigError, match="lets /a/secret bypass"):
            load_all(tmp_path, *order)


def test_crossing_rules_of_two_upstreams_and_two_hosts_are_good(tmp_path: Path) -> None:
    for hosts in (("a.test", "b.test"), ("a.test", '"*.a.test"'), ("test", '"*.test"'), ('"*.a.test"', '"*.ba.test"')):
        one, other = (f"{path}, hosts: [{name}]" for path, name in zip(CROSSING, hosts, strict=True))
        assert len(load_all(tmp_path, of(one), of(other, ADMIN, "two")).routes) == 2


ROUTES = """\
upstreams:
  one: {url: "http://one:1"}
  same: {urls: ["http://three:3", "http://ONE:1"]}
  two: {url: "http://two:2"}
routes:
"""

ADMIN, CLERK = "{roles: [admin]}", "{roles: [clerk], scopes: [read]}"


def of(match: str, access: str = "public", upstream: str = "one", rewrite: str | None = None) -> str:
    more = f', rewrite: "{rewrite}"' if rewrite is not None else ""
    return f"match: {{methods: [GET, PUT], {match}}}, access: {access}, upstream: {upstream}{more}"


def load_all(tmp_path: Path, *routes: str) -> RoutesFile:
    path = tmp_path / "gateway.yaml"
    path.write_text(ROUTES + "".join(f"  - {{name: r{number}, {each}}}\n" for number, each in enumerate(routes)))
    return load_routes(path)


GUARD = of('path: "/admin/{rest...}"', ADMIN)


@pytest.mark.parametrize(
    ("routes", "message"),
    [
        # By another name of the address, or by a rewrite.
        ([GUARD, of('path: "/pub2/{rest...}"', "public", "same", "/{rest...}")], "lets /pub2/admin/x as /admin/x"),
        ([of('path: "/secure/{r...}"', ADMIN, "one", "/internal/{r...}"), of('path: "/{r...}"')], "lets /internal/x"),
        (
            [
                of('path: "/secure/{r...}"', ADMIN, "one", "/internal/{r...}"),
                of('path: "/v1/{r...}"', "public", "one", "/{r...}"),
            ],
            "lets /v1/internal/x as /internal/x",
        ),
        (
            [
                of('path: "/one/{r...}"', ADMIN, "one", "/same/{r...}"),
                of('path: "/two/{q...}"', CLERK, "one", "/same/{q...}"),
            ],
            "/x as /same/x",
        ),
        ([of("path: /admin", ADMIN), of("path: /open", "authenticated", "one", "/admin")], "lets /open as /admin"),
        (
            [of('path: "/{kind}/keys"', ADMIN), of('path: "/p/{id}/{x}"', "public", "one", "/a/{id}")],
            "lets /p/keys/x as /a/keys",
        ),
        # By a slash at the end, which services ignore, or by another spelling.
        ([of("path: /users", ADMIN), of("path: /users/")], "lets /users/ bypass"),
        ([of('path: "/users/{id}/"', ADMIN), of('path: "/users/{name}"')], "lets /users/x bypass"),
        ([of('path: "/r/{name}.json"', ADMIN), of('path: "/r/{name}.json/"')], "lets /r/x.json/ bypass"),
        ([of("path: /users.", ADMIN), of("path: /users")], "lets /users bypass"),
        ([of("path: /stra%C3%9Fe", ADMIN), of("path: /stra%E2%80%8B%C3%9Fe")], "lets /stra%E2%80%8B%C3%9Fe bypass"),
        # Patterns of which neither contains the other.
        ([of('path: "/foo{x}"', ADMIN), of('path: "/{x}bar"')], "bypass route"),
        ([of('path: "/a/{x}.json"', ADMIN), of('path: "/{y}/b.json"')], "lets /a/b.json bypass"),
        # A longer path than the shortest common one.
        (
            [
                GUARD,
                of('path: "/v1/{rest...}"', "public", "one", "/{rest...}"),
                of('path: "/v1/admin/{id}"', ADMIN, "one", "/admin/{id}"),
            ],
            "lets /v1/admin/x/x as /admin/x/x",
        ),
        # By a host or a header, which the client chooses.
        (
            [
                of('path: "/admin/{rest...}", hosts: [api.example.com]', ADMIN),
                of('path: "/v1/{rest...}"', rewrite="/{rest...}"),
            ],
            "lets /v1/admin/x as /admin/x",
        ),
        ([of("path: /hh, hosts: [adm.example]", ADMIN), of("path: /hh")], "lets /hh bypass"),
        (
            [of("path: /hh, hosts: [adm.example]", ADMIN), of('path: /hh, hosts: ["*.example"]')],
            "lets /hh with Host: x.example",
        ),
        (
            [of('path: /h, headers: {X-A: "1"}', ADMIN), of('path: /h, headers: {X-B: "1"}', "authenticated")],
            "lets /h with X-B: 1",
        ),
        ([of("path: /admin", ADMIN), of('path: /admin, headers: {X-Debug: "1"}')], "lets /admin with X-Debug: 1"),
    ],
)
def test_a_route_to_a_path_that_another_one_protects_at_the_same_address_is_rejected(
    tmp_path: Path, routes: list[str], message: str
) -> None:
    for order in (routes, routes[::-1]):
        with pytest.raises(ConfigError, match=re.escape(message)):
            load_all(tmp_path, *order)


@pytest.mark.parametrize(
    "routes",
    [
        # Another address, the same access or more, other methods, or an exception.
        [GUARD, of('path: "/pub2/{rest...}"', "public", "two", "/{rest...}")],
        [GUARD, of('path: "/v1/{rest...}"', ADMIN, "same", "/{rest...}")],
        [GUARD, of('path: "/v1/{rest...}"', "{roles: [admin, clerk], scopes: [read]}", "same", "/{rest...}")],
        [of("path: /me", "authenticated"), of("path: /mine", "authenticated", "one", "/me")],
        [GUARD, of("path: /health", "public", "one", "/admin/health")],
        [of("path: /x", ADMIN), of("path: /y", rewrite="/x").replace("[GET, PUT]", "[POST]")],
        # A more specific route with the same access leads there.
        [
            GUARD,
            of('path: "/v1/{rest...}"', "public", "one", "/{rest...}"),
            of('path: "/v1/admin/{rest...}"', ADMIN, "one", "/admin/{rest...}"),
        ],
        [of("path: /hh, hosts: [a.example]"), of("path: /hh, hosts: [b.example]")],
        [of("path: /hh, hosts: [a.example]", ADMIN), of("path: /hh, hosts: [b.example]", upstream="two")],
        [of('path: /h, headers: {X-A: "1"}', ADMIN), of("path: /h", upstream="two")],
        [of('path: "/admin/{rest...}", hosts: [a.test]', ADMIN), of('path: "/{rest...}", hosts: [a.test]')],
        # With and without a slash: an exception, other methods, or the same access.
        [of("path: /users"), of('path: "/users/{rest...}"', ADMIN)],
        [of("path: /users", ADMIN), of('path: "/{rest...}"')],
        [of('path: "/{page}"'), of('path: "/users/{rest...}"', ADMIN)],
        [of("path: /x", ADMIN), of("path: /x/").replace("[GET, PUT]", "[POST]")],
        [of("path: /x", ADMIN), of("path: /x/", ADMIN)],
        [of("path: /x", ADMIN), of("path: /x/", upstream="two")],
        [of('path: "/r/{name}.json"', ADMIN), of('path: "/r/{name}"')],
        [of('path: "/r/{name}.json"', ADMIN), of('path: "/r/{name}.xml"')],
        [of('path: "/{x}:cancel"', ADMIN), of('path: "/{x}:retry"')],
    ],
)
def test_routes_without_conflicts_are_accepted(tmp_path: Path, routes: list[str]) -> None:
    for order in (routes, routes[::-1]):
        assert len(load_all(tmp_path, *order).routes) == len(routes)


@pytest.mark.parametrize("name", ["X-User-Id", "x-forwarded-host", "Host", "Connection", "X-Request-ID", "Expect"])
def test_a_route_may_not_match_a_header_that_is_not_forwarded(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=r"gateway.yaml:6: routes\[0\].match.headers.*does not forward this header"):
        load_all(tmp_path, of(f'path: /h, headers: {{{name}: "1"}}'))


@pytest.mark.parametrize(
    ("count", "template", "allowed"),
    [
        (1000, "/api/v1/%d/{id}/sub/{rest...}", []),
        (200, "/api/{id}.v%d", []),
        (200, "/api/{id}-%d-{name}.json", []),
        (400, "/projects-%d/{id}", ["/", "#"]),
    ],
)
def test_many_routes_are_checked_within_two_seconds(count: int, template: str, allowed: list[str]) -> None:
    routes = [
        {
            "name": f"r{number}",
            "match": {"path": template % number, "methods": ["GET", "PUT"]},
            "upstream": "one",
            "access": "authenticated" if allowed and number % 2 else {"roles": ["admin"]},
            "allows_encoded": allowed,
        }
        for number in range(count)
    ]
    file = RoutesFile.model_validate({"upstreams": {"one": {"url": "http://one:1"}}, "routes": routes})
    before = time.process_time()
    prove(file)
    assert time.process_time() - before < 2


templates = st.lists(st.sampled_from(["a", "b", "{x%d}", "a{x%d}", "{x%d}b"]), min_size=1, max_size=4).flatmap(
    lambda parts: st.sampled_from([_joined(parts), _joined([*parts, "{r...}"]), _joined([*parts, ""])])
)


def _joined(parts: list[str]) -> str:
    return "".join("/" + part.replace("%d", str(position)) for position, part in enumerate(parts))


@given(st.lists(templates, max_size=6))
def test_overlapping_pairs_are_complete_unique_and_mutual(texts: list[str]) -> None:
    routes = [
        Route.model_validate(
            {"name": f"r{number}", "match": {"path": text, "methods": ["GET"]}, "upstream": "up", "access": "public"}
        )
        for number, text in enumerate(texts)
    ]
    table = RouteTable(routes)
    pairs = [(one.name, other.name) for one in routes for other in table.overlapping(one)]
    assert len(set(pairs)) == len(pairs)
    assert {(other, one) for one, other in pairs} == set(pairs)
    for one, other in combinations(routes, 2):
        if common_path(one.match.template, other.match.template) is not None:
            assert (one.name, other.name) in pairs


def test_the_shipped_routes_file_and_schema_are_valid() -> None:
    assert load_routes(ROOT / "deploy" / "gateway.yaml").routes
    published = json.loads((ROOT / "deploy" / "gateway.schema.json").read_text())
    assert published == RoutesFile.model_json_schema()


def test_the_schema_describes_each_field_and_is_closed() -> None:
    schema = RoutesFile.model_json_schema()
    for part in [schema, *schema["$defs"].values()]:
        assert part["description"]
        assert part["additionalProperties"] is False
        for member in part["properties"].values():
            assert member["description"]
            assert "patternProperties" not in member or member["additionalProperties"] is False
