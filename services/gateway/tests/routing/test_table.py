"""Route lookup: hosts, header conditions, and the most specific path."""

import random
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import pytest
from harness import GatewayHarness, RecordingUpstream, parse_responses
from hypothesis import given, settings
from hypothesis import strategies as st

from ostiary_chassis.settings import ConfigError
from ostiary_gateway.routing import paths
from ostiary_gateway.routing.config import Route
from ostiary_gateway.routing.loader import load_file
from ostiary_gateway.routing.paths import InvalidPath
from ostiary_gateway.routing.table import NoRoute, RouteTable, WrongMethod
from ostiary_gateway.routing.templates import parse_template


def route(path: str, name: str = "r", **match: object) -> Route:
    members = {"methods": ["GET"], **match, "path": path}
    return Route.model_validate({"name": name, "match": members, "upstream": "up", "access": "public"})


def decide(
    table: RouteTable, method: str, host: bytes, path: bytes, fields: Mapping[bytes, bytes]
) -> str | frozenset[str] | None:
    """Return the route's name, the methods that are allowed, or None."""
    try:
        return table.find(method, host, path, list(fields.items())).name
    except WrongMethod as error:
        return error.allowed
    except NoRoute:
        return None


def decision(
    table: RouteTable, path: bytes, *, method: str = "GET", host: bytes = b"gw", **fields: bytes
) -> str | frozenset[str] | None:
    """Decide about a GET request for the host `gw` by default."""
    return decide(table, method, host, path, {name.replace("_", "-").encode(): value for name, value in fields.items()})


# Hosts.

HOSTS = RouteTable(
    [
        route("/x", "all"),
        route("/x", "below", hosts=["*.shop.test"]),
        route("/x", "deeper", hosts=["*.eu.shop.test"]),
        route("/x", "itself", hosts=["www.shop.test", "shop.test"]),
        route("/only", "only", hosts=["www.shop.test"]),
    ]
)


@pytest.mark.parametrize(
    ("host", "name"),
    [
        (b"shop.test", "itself"),
        (b"www.shop.test", "itself"),
        (b"api.shop.test", "below"),
        (b"a.b.shop.test", "below"),
        (b"eu.shop.test", "below"),
        (b"fr.eu.shop.test", "deeper"),
        (b"ashop.test", "all"),
        (b".shop.test", "below"),
        (b"shop.test.example", "all"),
        (b"[::1]", "all"),
        (b"[::1]:8080", "all"),
        (b"127.0.0.1", "all"),
    ],
)
def test_the_most_specific_host_wins(host: bytes, name: str) -> None:
    assert decision(HOSTS, b"/x", host=host) == name


@pytest.mark.parametrize("host", [b"WWW.Shop.Test", b"www.shop.test:8443", b"www.shop.test.", b"WWW.shop.TEST.:80"])
def test_case_port_and_final_dot_of_a_host_are_ignored(host: bytes) -> None:
    assert decision(HOSTS, b"/x", host=host) == "itself"
    assert decision(HOSTS, b"/only", host=host) == "only"


def test_a_route_for_one_host_does_not_match_on_others() -> None:
    assert decision(HOSTS, b"/only", host=b"shop.test") is None
    assert decision(HOSTS, b"/only", host=b"gw") is None


def test_other_hosts_take_a_wider_route() -> None:
    table = RouteTable([route("/{rest...}", "wide"), route("/admin", "narrow", hosts=["a.test"], methods=["POST"])])
    assert decision(table, b"/admin", host=b"b.test") == "wide"
    assert decision(table, b"/admin", host=b"a.test", method="POST") == "narrow"
    assert decision(table, b"/admin", host=b"a.test") == frozenset({"POST"})


def test_methods_of_less_specific_hosts_do_not_count() -> None:
    table = RouteTable([route("/x", "all", methods=["GET", "POST"]), route("/x", "one", hosts=["a.test"])])
    assert decision(table, b"/x", host=b"a.test", method="POST") == frozenset({"GET"})
    assert decision(table, b"/x", host=b"b.test", method="POST") == "all"


# Header conditions.

CONDITIONS = RouteTable(
    [
        route("/x", "plain"),
        route("/x", "second", headers={"X-Version": "2"}),
        route("/x", "beta", headers={"X-Version": "2", "X-Beta": "yes"}),
        route("/strict", "strict", headers={"X-Version": "2"}),
        route("/{rest...}", "wide"),
    ]
)


def test_of_routes_with_equally_many_headers_the_alphabetically_first_wins() -> None:
    beta = route("/x", "beta", headers={"X-Beta": "1"})
    version = route("/x", "version", headers={"X-Version": "2"})
    for table in (RouteTable([beta, version]), RouteTable([version, beta])):
        assert decision(table, b"/x", x_version=b"2", x_beta=b"1") == "beta"


def test_the_route_with_most_headers_wins() -> None:
    assert decision(CONDITIONS, b"/x") == "plain"
    assert decision(CONDITIONS, b"/x", x_version=b"1") == "plain"
    assert decision(CONDITIONS, b"/x", x_version=b"2") == "second"
    assert decision(CONDITIONS, b"/x", x_version=b"2", x_beta=b"yes") == "beta"
    assert decision(CONDITIONS, b"/x", x_version=b"2", x_beta=b"no") == "second"
    assert decision(CONDITIONS, b"/x", x_beta=b"yes") == "plain"


@pytest.mark.parametrize("value", [b"", b"1", b"2 ", b"22", b"2, 2", b"\xff"])
def test_a_request_without_the_headers_does_not_fall_through_to_a_wider_path(value: bytes) -> None:
    assert decision(CONDITIONS, b"/strict", x_version=value) is None
    assert decision(CONDITIONS, b"/strict") is None
    assert decision(CONDITIONS, b"/strict", x_version=b"2") == "strict"


# Paths.


@pytest.mark.parametrize(
    ("path", "name"),
    [
        (b"/", "root"),
        (b"/users", "users"),
        (b"/users/7", "one"),
        (b"/users/me", "me"),
        (b"/users/me/photo", "photo of one"),
        (b"/users/me/keys", "my keys"),
        (b"/users/7/keys", "below"),
        (b"/users/7/keys/8", "below"),
        (b"/users/me/x", "below"),
        (b"/other", None),
        (b"/users/7/", "below"),
        (b"/users/7/keys/", "below"),
        (b"/users/", None),
        (b"/Users", None),
        (b"/users%C3%A4", None),
    ],
)
def test_literals_win_over_parameters_and_these_over_tails(path: bytes, name: str | None) -> None:
    names = {
        "/users/{id}/{rest...}": "below",
        "/users/{id}": "one",
        "/users/me": "me",
        "/": "root",
        "/users": "users",
        "/users/{id}/photo": "photo of one",
        "/users/me/keys": "my keys",
    }
    found = RouteTable([route(template) for template in names])
    try:
        actual = names[found.find("GET", b"gw", path, []).match.path]
    except NoRoute:
        actual = None
    assert actual == name


@pytest.mark.parametrize(("template", "path"), [("/users/{id}", b"/users/"), ("/{id}", b"/")])
def test_a_parameter_does_not_match_an_empty_segment(template: str, path: bytes) -> None:
    assert not parse_template(template).matches(paths.canonicalise(path).segments)
    assert decision(RouteTable([route(template)]), path) is None


def test_a_missing_method_does_not_fall_through_to_a_wider_path() -> None:
    table = RouteTable(
        [
            route("/files/{rest...}", "wide", methods=["GET", "POST", "DELETE"]),
            route("/files/{id}", "one", methods=["GET", "POST"]),
            route("/files/secret", "secret"),
        ]
    )
    assert decision(table, b"/files/secret", method="DELETE") == frozenset({"GET"})
    assert decision(table, b"/files/secret", method="POST") == frozenset({"GET"})
    assert decision(table, b"/files/7", method="DELETE") == frozenset({"GET", "POST"})
    assert decision(table, b"/files/7/8", method="DELETE") == "wide"


def test_an_ambiguous_path_has_no_route() -> None:
    table = RouteTable([route("/{rest...}")])
    for path in (b"//x", b"/x/../y", b"/x;y", b"/%2e", b"x", b""):
        with pytest.raises(InvalidPath):
            table.find("GET", b"gw", path, [])


# The tree agrees with a linear search.

_SEGMENTS = st.sampled_from(["a", "b", "{p}", "{q}", "a{p}", "{p}b", "{p}b{s}"])
_HOST_LISTS: list[list[str]] = [[], [], ["h.test"], ["*.test"], ["*.h.test"], ["h.test", "*.other"]]


@st.composite
def templates(draw: st.DrawFn) -> str:
    segments = [each.replace("}", f"{index}}}") for index, each in enumerate(draw(_some(_SEGMENTS)))]
    return "/" + "/".join(
        [*segments, *draw(st.sampled_from([[], ["{rest...}"], [""]] if segments else [["{rest...}"]]))]
    )


def _some(each: st.SearchStrategy[str], *, least: int = 0) -> st.SearchStrategy[list[str]]:
    return st.lists(each, min_size=least, max_size=3)


@st.composite
def route_lists(draw: st.DrawFn) -> list[Route]:
    found = []
    for number in range(draw(st.integers(1, 10))):
        headers = draw(st.sampled_from([{}, {}, {"X-V": "1"}, {"x-v": "2"}, {"X-W": "1"}, {"X-V": "1", "X-W": "1"}]))
        found.append(
            route(
                draw(templates()),
                f"r{number}",
                methods=sorted(draw(st.sets(st.sampled_from(["GET", "POST", "PUT"]), min_size=1))),
                hosts=draw(st.sampled_from(_HOST_LISTS)),
                headers=headers,
            )
        )
    return found


_METHODS = st.sampled_from(["GET", "POST", "PUT", "DELETE"])
_HOSTS = st.sampled_from([b"gw", b"h.test", b"H.TEST:80", b"x.h.test", b"x.test.", b"test", b"a.other"])
_PATHS = st.builds(
    lambda segments, end: f"/{'/'.join(segments)}{end}".encode(),
    _some(st.sampled_from(["a", "b", "c", "ab", "aab", "%C3%A4"]), least=1),
    st.sampled_from(["", "", "/"]),
)
_FIELDS = st.dictionaries(st.sampled_from([b"x-v", b"x-w"]), st.sampled_from([b"1", b"2"]))


def by_linear_search(
    routes: list[Route], method: str, host: bytes, path: bytes, fields: Mapping[bytes, bytes]
) -> str | frozenset[str] | None:
    """Decide by a linear search, as documented."""
    name = host.decode().lower().partition(":")[0].removesuffix(".")
    segments = tuple(path.decode()[1:].split("/"))

    def rank(each: Route) -> tuple[int, int]:
        if not each.match.hosts:
            return (0, 0)
        if name in each.match.hosts:
            return (2, 0)
        below = [wanted for wanted in each.match.hosts if wanted[:2] == "*." and name.endswith(wanted[1:])]
        return (1, max(map(len, below))) if below else (-1, 0)

    fitting = [each for each in routes if each.match.template.matches(segments) and rank(each) >= (0, 0)]
    if not fitting:
        return None
    first = min(each.match.template.precedence for each in fitting)
    there = [each for each in fitting if each.match.template.precedence == first]
    best = max(map(rank, there))
    there = [each for each in there if rank(each) == best]
    allowed = frozenset(method for each in there for method in each.match.methods)
    if method not in allowed:
        return allowed
    matching = [
        each
        for each in there
        if method in each.match.methods
        and all(fields.get(name.lower().encode()) == value.encode() for name, value in each.match.headers.items())
    ]
    names = {each.name: sorted(name.lower() for name in each.match.headers) for each in matching}
    return min(names, key=lambda name: (-len(names[name]), names[name])) if names else None


@cache
def _others() -> tuple[Route, ...]:
    """Return routes that match none of the paths above."""
    shapes = ["/other-{0}", "/a/b/a/b/{0}", "/b/{{id}}/x-{0}", "/other/{{id}}/{0}/{{rest...}}", "/a/{0}/{{rest...}}"]
    hosts: list[list[str]] = [[], ["h.test"], ["*.test"]]
    return tuple(
        route(shapes[number % len(shapes)].format(f"n{number}"), f"other{number}", hosts=hosts[number % len(hosts)])
        for number in range(1000)
    )


@given(route_lists(), st.lists(st.tuples(_METHODS, _HOSTS, _PATHS, _FIELDS), min_size=1, max_size=10))
@settings(max_examples=50)
def test_the_tree_agrees_with_a_linear_search(
    routes: list[Route], requests: list[tuple[str, bytes, bytes, dict[bytes, bytes]]]
) -> None:
    table = RouteTable(routes)
    for method, host, path, fields in [*requests, *requests]:
        expected = by_linear_search(routes, method, host, path, fields)
        assert decide(table, method, host, path, fields) == expected


@given(route_lists(), st.lists(st.tuples(_METHODS, _HOSTS, _PATHS, _FIELDS), min_size=1, max_size=10), st.integers())
@settings(max_examples=25)
def test_unrelated_routes_do_not_change_the_result(
    routes: list[Route], requests: list[tuple[str, bytes, bytes, dict[bytes, bytes]]], seed: int
) -> None:
    few = RouteTable(routes)
    # Theirs in their order, with all the others between them.
    order = [True] * len(routes) + [False] * len(_others())
    random.Random(seed).shuffle(order)  # noqa: S311 - an order
    own, others = iter(routes), iter(_others())
    many = RouteTable([next(own if is_local else others) for is_local in order])
    for each in requests:
        assert decide(few, *each) == decide(many, *each)


# In the file.

FILE = """\
upstreams:
  up: {{url: "http://up:9000"}}
routes:
  - name: one
    match: {one}
    upstream: up
    access: public
  - name: two
    match: {two}
    upstream: up
    access: public
"""


def load(tmp_path: Path, one: str, two: str) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text(FILE.format(one=one, two=two))
    load_file(path, {})


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ('{path: "/x/{id}", methods: [GET]}', '{path: "/x/{name}", methods: [GET, POST]}'),
        ('{path: "/x/{rest...}", methods: [GET]}', '{path: "/x/{more...}", methods: [GET]}'),
        ("{path: /x, methods: [GET], hosts: [a.test, b.test]}", "{path: /x, methods: [GET], hosts: [b.test]}"),
        ('{path: /x, methods: [GET], hosts: ["*.test"]}', '{path: /x, methods: [GET], hosts: ["*.test"]}'),
        ('{path: /x, methods: [GET], headers: {X-V: "1"}}', '{path: /x, methods: [GET], headers: {x-v: "1"}}'),
    ],
)
def test_routes_that_match_the_same_requests_are_an_error(tmp_path: Path, one: str, two: str) -> None:
    with pytest.raises(ConfigError, match=r"gateway\.yaml:9: .*matches the same GET requests as route 'one'"):
        load(tmp_path, one, two)


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("{path: /x, methods: [GET]}", "{path: /x, methods: [POST]}"),
        ("{path: /x, methods: [GET]}", "{path: /x, methods: [GET], hosts: [a.test]}"),
        ('{path: /x, methods: [GET], hosts: ["*.a.test"]}', "{path: /x, methods: [GET], hosts: [b.a.test]}"),
        ('{path: /x, methods: [GET], headers: {X-V: "1"}}', '{path: /x, methods: [GET], headers: {X-V: "2"}}'),
        ('{path: "/x/{id}", methods: [GET]}', '{path: "/x/{rest...}", methods: [GET]}'),
        ('{path: "/x/{id}/y", methods: [GET]}', '{path: "/{id}/x/y", methods: [GET]}'),
    ],
)
def test_routes_that_match_different_requests_are_valid(tmp_path: Path, one: str, two: str) -> None:
    load(tmp_path, one, two)


@pytest.mark.parametrize(
    "match",
    [
        "{path: /x, methods: [GET], hosts: [A.test]}",
        '{path: /x, methods: [GET], hosts: ["a.test:80"]}',
        '{path: /x, methods: [GET], hosts: ["*"]}',
        '{path: /x, methods: [GET], hosts: ["a.*.test"]}',
        "{path: /x, methods: [GET], hosts: [a.test.]}",
        '{path: /x, methods: [GET], headers: {"X V": "1"}}',
        "{path: /x, methods: [GET], headers: {X-V: 1}}",
        '{path: /x, methods: [GET], headers: {X-V: ""}}',
        '{path: "/{rest...}/x", methods: [GET]}',
        '{path: "/x//", methods: [GET]}',
        '{path: "/x%2Fy", methods: [GET]}',
    ],
)
def test_conditions_that_no_request_can_meet_are_errors(tmp_path: Path, match: str) -> None:
    with pytest.raises(ConfigError, match=r"gateway\.yaml:9: "):
        load(tmp_path, "{path: /first, methods: [GET]}", match)


# Through the gateway.

ROUTES = """\
upstreams:
  up: {url: "${UPSTREAM}"}
  gone: {url: "unix:/no/such/socket"}
routes:
  - {name: all, match: {path: "/{rest...}", methods: [GET]}, upstream: up, access: public}
  - {name: admin, match: {path: "/admin", methods: [GET], hosts: [admin.test]}, upstream: up,
     access: {roles: [admin]}}
  - {name: new, match: {path: /versioned, methods: [GET], headers: {X-Version: "2"}}, upstream: up,
     access: authenticated}
  - {name: old, match: {path: /versioned, methods: [GET]}, upstream: gone, access: public}
  - {name: first, match: {path: /either, methods: [GET], headers: {X-Beta: "1"}}, upstream: up, access: public}
  - {name: second, match: {path: /either, methods: [GET], headers: {X-Version: "2"}}, upstream: gone, access: public}
"""


async def status_of(harness: GatewayHarness, target: str, host: str, *lines: str) -> int:
    head = [f"GET {target} HTTP/1.1", f"Host: {host}", "Connection: close", *lines, "", ""]
    line = await harness.connect()
    line.send("\r\n".join(head).encode())
    return parse_responses(await line.wait_closed())[0].status


@pytest.mark.parametrize("host", ["admin.test", "ADMIN.TEST", "admin.test:8443", "admin.test.", "Admin.Test.:1"])
async def test_another_spelling_of_a_host_does_not_bypass_its_route(
    harness: GatewayHarness, upstream: RecordingUpstream, host: str
) -> None:
    assert await status_of(harness, "/admin", host) == 401
    assert await status_of(harness, f"http://{host}/admin", host) == 401
    assert upstream.requests == []


async def test_forwarded_hosts_do_not_select_a_route(harness: GatewayHarness, upstream: RecordingUpstream) -> None:
    forged = ["X-Forwarded-Host: other.test", "X-Host: other.test", "Forwarded: host=other.test"]
    assert await status_of(harness, "/admin", "admin.test", *forged) == 401
    assert upstream.requests == []


async def test_a_header_condition_selects_the_access_too(harness: GatewayHarness, upstream: RecordingUpstream) -> None:
    assert await status_of(harness, "/versioned", "gw") == 503
    assert await status_of(harness, "/versioned", "gw", "x-VERSION:   2  ") == 401
    assert upstream.requests == []


@pytest.mark.parametrize("values", [("1", "2"), ("2", "1"), ("2", "2"), ("1", "1")])
async def test_a_duplicate_routing_header_is_rejected(
    harness: GatewayHarness, upstream: RecordingUpstream, values: tuple[str, ...]
) -> None:
    lines = [f"X-Version: {value}" for value in values]
    assert await status_of(harness, "/versioned", "gw", *lines) == 400
    assert upstream.requests == []
    # Where it picks nothing, it is like any other.
    assert await status_of(harness, "/elsewhere", "gw", *lines) == 200
    assert upstream.last.values("x-version") == list(values)


@pytest.mark.parametrize("option", ["X-Version", "close, x-version", "x-beta"])
async def test_connection_cannot_drop_a_routing_header(
    harness: GatewayHarness, upstream: RecordingUpstream, option: str
) -> None:
    assert await status_of(harness, "/either", "gw", "X-Beta: 1", f"Connection: {option}") == 400
    assert upstream.requests == []


async def test_routing_headers_are_dropped_from_trailers(harness: GatewayHarness, upstream: RecordingUpstream) -> None:
    body = b"0\r\nX-Version: 2\r\nx-beta: 1\r\nX-Checksum: 7\r\n\r\n"
    answer = await harness.request("/either", "X-Beta: 1", "Transfer-Encoding: chunked", body=body)
    assert (answer.status, upstream.last.trailers) == (200, [("x-checksum", "7")])
