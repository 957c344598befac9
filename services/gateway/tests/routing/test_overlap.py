"""The access rules of the route that owns an upstream path apply, whichever route leads there."""

import itertools
import re
from collections.abc import Sequence
from pathlib import Path
from unicodedata import normalize
from urllib.parse import unquote

import pytest
from harness import GatewayHarness, RecordingUpstream
from hypothesis import given
from hypothesis import strategies as st

from ostiary.testing import Issuer
from ostiary_gateway.http1.fields import Fields
from ostiary_gateway.routing import paths, templates
from ostiary_gateway.routing.bypass_check import prove
from ostiary_gateway.routing.completion import InvalidRoutes
from ostiary_gateway.routing.config import Route, RoutesFile
from ostiary_gateway.routing.loader import load_file
from ostiary_gateway.routing.overlap import OwnerIndex
from ostiary_gateway.routing.paths import InvalidPath
from ostiary_gateway.routing.table import NoRoute, RouteTable, WrongMethod
from ostiary_gateway.routing.templates import PathTemplate, Pattern, Segment

ADMIN = "{roles: [admin]}"


def line(name: str, match: str, access: str = "public", more: str = "upstream: up") -> str:
    return f"  - {{name: {name}, match: {{methods: [GET, POST], {match}}}, access: {access}, {more}}}\n"


def text(*routes: str, upstreams: str = '  up: {url: "${UPSTREAM}"}\n') -> str:
    return f"hosts_internal: [x]\nupstreams:\n{upstreams}routes:\n{''.join(routes)}"


async def statuses(
    issuer: Issuer, upstream: RecordingUpstream, routes: str, target: str, host: str = "gw", method: str = "GET"
) -> tuple[int, int, int]:
    """Return the statuses without a token, for a user and for an administrator."""
    async with GatewayHarness.open(routes, upstream.url, issuer.verifier()) as harness:
        found = []
        for roles in (None, ["user"], ["admin"]):
            fields = {} if roles is None else {"Authorization": f"Bearer {issuer.token(roles=roles)}"}
            answer = await harness.client.request(method, target, headers={"Host": host, **fields})
            found.append(answer.status_code)
        assert len(upstream.requests) == found.count(200)
        return found[0], found[1], found[2]


ADMIN_ONLY = (401, 403, 200)
PUBLIC = (200, 200, 200)

TWO_NAMES = '  up: {url: "${UPSTREAM}"}\n  up2: {url: "${UPSTREAM}"}\n'
PREFIX = 'upstream: up, rewrite: "/{r...}"'
PREFIXED = line("v1", 'path: "/v1/{rest...}"', more='upstream: up, rewrite: "/{rest...}"')
ALL = line("all", 'path: "/{rest...}"')


@pytest.mark.parametrize(
    ("routes", "target", "host"),
    [
        (
            text(
                line("admin", 'path: "/admin/{rest...}"', ADMIN),
                line("pub", 'path: "/pub2/{rest...}"', more='upstream: up2, rewrite: "/{rest...}"'),
                upstreams=TWO_NAMES,
            ),
            "/pub2/admin/x",
            "gw",
        ),
        (
            text(
                line("secure", 'path: "/secure/{r...}"', ADMIN, 'upstream: up, rewrite: "/internal/{r...}"'), PREFIXED
            ),
            "/v1/internal/x",
            "gw",
        ),
        (
            text(line("secure", 'path: "/secure/{r...}"', ADMIN, 'upstream: up, rewrite: "/internal/{r...}"'), ALL),
            "/internal/x",
            "gw",
        ),
        (
            text(
                line("one", 'path: "/one/{r...}"', ADMIN, 'upstream: up, rewrite: "/same/{r...}"'),
                line("two", 'path: "/two/{r...}"', more='upstream: up, rewrite: "/same/{r...}"'),
            ),
            "/two/x",
            "gw",
        ),
        (
            text(line("admin", 'path: "/admin/{rest...}", hosts: [api.example.com]', ADMIN), PREFIXED),
            "/v1/admin/x",
            "x",
        ),
        (text(line("admin", 'path: "/admin/{rest...}", hosts: [api.example.com]', ADMIN), ALL), "/admin/x", "x"),
        (
            text(
                line("admin", "path: /hh, hosts: [adm.example]", ADMIN), line("pub", "path: /hh, hosts: [pub.example]")
            ),
            "/hh",
            "pub.example",
        ),
        (text(line("admin", 'path: /h, headers: {X-A: "1"}', ADMIN), line("pub", "path: /h")), "/h", "gw"),
    ],
)
async def test_the_access_of_a_paths_owner_applies_on_all_routes(
    issuer: Issuer, upstream: RecordingUpstream, routes: str, target: str, host: str
) -> None:
    assert await statuses(issuer, upstream, routes, target, host) == ADMIN_ONLY


async def test_a_method_that_the_owner_lacks_is_not_reachable_through_another_host(
    issuer: Issuer, upstream: RecordingUpstream
) -> None:
    routes = text(
        line("admin", 'path: "/admin/{rest...}", hosts: [api.example.com]', ADMIN).replace("[GET, POST]", "[GET]"),
        PREFIXED,
        line("w", 'path: "/{rest...}"'),
    )
    assert await statuses(issuer, upstream, routes, "/v1/admin/x", "x", "POST") == (405, 405, 405)
    assert await statuses(issuer, upstream, routes, "/admin/x", "x", "POST") == ADMIN_ONLY


ROOT = text(line("root", 'path: "/root/{r...}"', ADMIN), line("me", 'path: "/users/@me"', ADMIN), ALL)


@pytest.mark.parametrize(
    "target",
    [
        "/users/%40me",
        "/%EF%BD%92oot/x",
        "/ro%E2%80%8Bot/x",
        "/root%EF%BB%BF/x",
        "/ro%C2%ADot/x",
    ],
)
async def test_a_lookalike_of_a_protected_path_takes_its_access(
    issuer: Issuer, upstream: RecordingUpstream, target: str
) -> None:
    assert await statuses(issuer, upstream, ROOT, target) == ADMIN_ONLY


@pytest.mark.parametrize("target", ["/users/%40you", "/r%C3%B6%C3%B6t/x", "/x/root/y", "/ROOT/x"])
async def test_other_paths_stay_public(issuer: Issuer, upstream: RecordingUpstream, target: str) -> None:
    assert await statuses(issuer, upstream, ROOT, target) == PUBLIC


@pytest.mark.parametrize("target", ["/ROOT/x", "/rOOt/x", "/users/@ME", "/RO%E2%84%AAT/x", "/%E2%84%AAEYS"])
async def test_paths_are_protected_in_any_case_if_the_service_ignores_case(
    issuer: Issuer, upstream: RecordingUpstream, target: str
) -> None:
    routes = text(
        *(line(f"n{number}", f'path: "{path}"', ADMIN) for number, path in enumerate(["/Root/{r...}", "/users/@me"])),
        line("kelvin", 'path: "/rokt/{r...}"', ADMIN),
        line("keys", "path: /keys", ADMIN),
        ALL,
        upstreams='  up: {url: "${UPSTREAM}", ignores_case: true}\n',
    )
    assert await statuses(issuer, upstream, routes, target) == ADMIN_ONLY


# With and without a slash at the end, which is the same to many services.

LITERAL = line("root", "path: /root", ADMIN)
SLASH = line("root", "path: /root/", ADMIN)
TAIL = line("root", 'path: "/root/{r...}"', ADMIN)
REPORTS = line("reports", 'path: "/reports/{name}.json"', ADMIN)
ORDERS = line("orders", 'path: "/Orders({id})/"', ADMIN)
PAGE = line("page", 'path: "/{page}"')


@pytest.mark.parametrize(
    ("routes", "target"),
    [
        (text(LITERAL, ALL), "/root/"),
        (text(LITERAL, ALL), "/root."),
        (text(LITERAL, ALL), "/root./"),
        (text(LITERAL, ALL), "/root%20"),
        (text(LITERAL, ALL), "/%20root%C2%A0/"),
        (text(LITERAL, ALL), "/%EF%BD%92oot/"),
        (text(SLASH, ALL), "/root"),
        (text(SLASH, PAGE), "/root"),
        (text(TAIL, PAGE), "/root"),
        (text(TAIL, ALL), "/root"),
        (text(TAIL, ALL), "/root/"),
        (text(REPORTS, ALL), "/reports/may.json/"),
        (text(REPORTS, ALL), "/reports/may.json."),
        (text(REPORTS, ALL), "/reports/may%EF%BC%8Ejson"),
        (text(ORDERS, ALL), "/Orders(5)"),
        (text(ORDERS, ALL), "/Orders%285%29"),
        (text(ORDERS, ALL), "/Orders%EF%BC%885)/"),
        (text(line("all", 'path: "/{x}"', ADMIN), line("tail", 'path: "/users/{r...}"')), "/users/"),
        (text(line("root", "path: /", ADMIN), line("all", 'path: "/v1/{r...}"', more=PREFIX)), "/v1/"),
        (
            text(
                line("list", "path: /users"),
                line("users", 'path: "/users/{r...}"', ADMIN),
                line("all", 'path: "/v1/{r...}"', more=PREFIX),
            ),
            "/v1/users/",
        ),
    ],
)
async def test_a_path_is_protected_with_and_without_a_slash_and_in_other_forms(
    issuer: Issuer, upstream: RecordingUpstream, routes: str, target: str
) -> None:
    assert await statuses(issuer, upstream, routes, target) == ADMIN_ONLY


async def test_case_is_ignored_in_patterns_too(issuer: Issuer, upstream: RecordingUpstream) -> None:
    routes = text(REPORTS, ALL, upstreams='  up: {url: "${UPSTREAM}", ignores_case: true}\n')
    assert await statuses(issuer, upstream, routes, "/Reports/May.JSON/") == ADMIN_ONLY


@pytest.mark.parametrize(
    ("routes", "target", "access"),
    [
        # An exception stays one: the list is public, what is below is not.
        (text(line("list", "path: /root"), TAIL), "/root", PUBLIC),
        (text(line("list", "path: /root"), TAIL), "/root/", ADMIN_ONLY),
        (text(line("list", "path: /root/"), TAIL), "/root/", PUBLIC),
        (text(line("health", "path: /root/health"), TAIL), "/root/health", PUBLIC),
        (text(line("health", "path: /root/health"), TAIL), "/root/health/", ADMIN_ONLY),
        (text(line("json", 'path: "/root/{name}.json"'), TAIL), "/root/a.json", PUBLIC),
        (text(line("json", 'path: "/root/{name}.json"'), TAIL), "/root/a.xml", ADMIN_ONLY),
        (text(LITERAL, ALL), "/rooted/", PUBLIC),
        (text(LITERAL, ALL), "/root/x", PUBLIC),
        (text(REPORTS, ALL), "/reports/json", PUBLIC),
        (text(REPORTS, ALL), "/reports/a.json/b", PUBLIC),
    ],
)
async def test_other_paths_and_exceptions_have_their_own_access(
    issuer: Issuer, upstream: RecordingUpstream, routes: str, target: str, access: tuple[int, int, int]
) -> None:
    assert await statuses(issuer, upstream, routes, target) == access


async def test_methods_of_the_other_form_do_not_count(issuer: Issuer, upstream: RecordingUpstream) -> None:
    post = SLASH.replace("[GET, POST]", "[POST]")
    routes = text(line("list", "path: /root").replace("[GET, POST]", "[GET]"), post)
    assert await statuses(issuer, upstream, routes, "/root") == PUBLIC
    upstream.requests.clear()
    assert await statuses(issuer, upstream, routes, "/root/", method="POST") == ADMIN_ONLY


async def test_an_exception_has_its_own_access_alone(issuer: Issuer, upstream: RecordingUpstream) -> None:
    routes = text(
        line("admin", 'path: "/admin/{rest...}"', ADMIN),
        line("health", "path: /health", more="upstream: up, rewrite: /admin/health"),
    )
    assert await statuses(issuer, upstream, routes, "/health") == PUBLIC


# The index agrees with a linear search.

_COOKIE: dict[str, object] = {"access": "authenticated", "credentials": ["bearer", "cookie"]}
_ACCESS: list[dict[str, object]] = [
    {"access": "public"},
    {"access": "public"},
    {"access": "authenticated"},
    {"access": {"roles": ["admin"]}},
    {"access": {"roles": ["admin", "clerk"]}},
    {"access": "optional"},
    _COOKIE,
    {**_COOKIE, "embed": "same-site"},
    {**_COOKIE, "access": {"roles": ["admin"]}},
]
_ACCESS_TO_WRITE = [each for each in _ACCESS if "embed" not in each]
_PLACES = [("/a/{x}", "/{x}"), ("/{r...}", None), ("/v/{r...}", "/{r...}"), ("/a/{r...}", None), ("/{x}/b", "/b/{x}")]
_PATHS = [
    *_PLACES,
    ("/a/b", None),
    ("/{x}/b", None),
    ("/v/{r...}", "/a/{r...}"),
    ("/c/{x}/{y}", "/a/{y}"),
    ("/a", None),
]


@st.composite
def files(draw: st.DrawFn) -> RoutesFile:
    routes = []
    for number in range(draw(st.integers(2, 6))):
        path, rewrite = draw(st.sampled_from(_PATHS))
        match = {
            "path": path,
            "methods": draw(st.sampled_from([["GET", "POST"], ["GET", "POST"], ["GET"], ["POST"]])),
            "hosts": draw(st.sampled_from([[], [], ["h.test"], ["h.test", "i.test"], ["*.test"]])),
            "headers": draw(st.sampled_from([{}, {}, {"X-V": "1"}])),
        }
        upstream = draw(st.sampled_from(["one", "one", "same", "two", "two"]))
        access = draw(st.sampled_from(_ACCESS if "GET" in match["methods"] else _ACCESS_TO_WRITE))
        routes.append({"name": f"r{number}", "match": match, "upstream": upstream, "rewrite": rewrite, **access})
    upstreams = {
        "one": {"url": "http://one"},
        "same": {"urls": ["http://one:80", "http://other"]},
        "two": {"url": "http://two", "ignores_case": draw(st.sampled_from([True, True, False]))},
    }
    return RoutesFile.model_validate({"upstreams": upstreams, "routes": routes})


def addresses(route: Route) -> set[str]:
    return {"one": {"one"}, "same": {"one", "other"}, "two": {"two"}}[str(route.upstream)]


def owners_by_linear_search(file: RoutesFile, route: Route, path: str, method: str) -> list[Route]:
    """Return the owners of an upstream path by a linear search, as documented."""
    loose = normalize("NFKC", unquote(path))
    if file.upstreams[str(route.upstream)].ignores_case:
        loose = loose.lower()
    segments = tuple(loose[1:].split("/"))
    fitting = [
        each for each in file.routes if each.upstream_template.matches(segments) and addresses(each) & addresses(route)
    ]
    first = min((each.upstream_template.precedence for each in fitting), default=None)
    return [each for each in fitting if each.upstream_template.precedence == first and method in each.match.methods]


Request = tuple[str, bytes, Fields, list[str]]

_REQUESTS: st.SearchStrategy[Request] = st.tuples(
    st.sampled_from(["GET", "POST"]),
    st.sampled_from([b"", b"h.test", b"i.test"]),
    st.sampled_from([[], [(b"x-v", b"1")]]),
    st.lists(st.sampled_from(["a", "b", "v", "A", "%EF%BD%81"]), min_size=1, max_size=3),
)


@given(files(), st.lists(_REQUESTS, min_size=30, max_size=30))
def test_each_request_meets_the_access_of_its_paths_owner(file: RoutesFile, requests: list[Request]) -> None:
    table, index, is_good = RouteTable(file.routes), OwnerIndex(file), has_no_bypass(file)
    for method, host, fields, words in requests:
        path = "/" + "/".join(words)
        try:
            route = table.find(method, host, path.encode(), fields)
        except (NoRoute, WrongMethod):
            continue
        if route.rewrite is not None:
            path = templates.rewrite(path.encode(), route.match.path, route.rewrite).decode()
        checked = [route, *index.owners_for(route, method, path.encode())]
        for owner in owners_by_linear_search(file, route, path, method):
            assert any(each.implies_access_to(owner) for each in checked)
        if is_good and route.is_public and path.islower() and "%" not in path:
            # Without a bypass, a plain path of a public route needs nothing but what it needs with a slash at its end.
            with_slash = owners_by_linear_search(file, route, f"{path}/", method)
            needed = [each for each in checked if method in each.match.methods]
            assert all(each.is_public or each.is_optional or each in with_slash for each in needed)


# No reading of a path reaches a stricter route. The readings here are written down a second time, as a service might
# have them: so many times decoded, then cut and merged or not.

_READERS = [
    *itertools.product(range(3), [False, True], [False, True], [False, True], [False, True], [False, True]),
]


def as_a_service_reads(path: str, reader: tuple[int, bool, bool, bool, bool, bool]) -> tuple[str, ...]:
    times, cuts, drops_parameters, knows_backslashes, merges, normalises = reader
    for _ in range(times):
        path = unquote(path)
    if cuts:
        path = re.split("[?#]", path)[0]
    if drops_parameters:
        path = re.sub(";[^/]*", "", path)
    if knows_backslashes:
        path = path.replace("\\", "/")
    if merges:
        path = re.sub("/+", "/", path)
    if normalises:
        path = normalize("NFKC", path)
    return tuple(path[1:].split("/"))


def as_seen(text: str, *, ignores_case: bool) -> str:
    plain = normalize("NFKC", unquote(text))
    return plain.lower() if ignores_case else plain


def slash_variants(segments: tuple[str, ...]) -> list[tuple[str, ...]]:
    bare = segments[:-1] if segments[-1] == "" else segments
    return [segments, (*bare, "")] if bare == segments else [segments, *([bare] if bare else [])]


_OPEN_PATHS = [
    *_PATHS,
    *[
        ("/a/", None),
        ("/{x}/", None),
        ("/a{x}", None),
        ("/{x}b/{y}", None),
        ("/{x}.{y}", None),
        ("/a/{r...}", "/{r...}"),
    ],
]
_WORDS = ["a", "b", "v", "A", "ab", "a.b", "%EF%BD%81", "a%2Fb", "b%2Fa%2f", "a;x", "a%23b", "%2561", "a%5Cb", ";", "é"]
_ALL_SPECIALS = ["/", "\\", "#", "?", "%", ";", "//"]


@st.composite
def files_with_special_characters(draw: st.DrawFn) -> RoutesFile:
    routes = []
    for number in range(draw(st.integers(2, 5))):
        path, rewrite = draw(st.sampled_from(_OPEN_PATHS))
        methods = draw(st.sampled_from([["GET", "POST"], ["GET", "POST"], ["GET"]]))
        match = {"path": path, "methods": methods, "hosts": draw(st.sampled_from([[], [], ["h.test"]]))}
        allowed = draw(st.sampled_from([[], _ALL_SPECIALS]))
        routes.append(
            {
                "name": f"r{number}",
                "match": match,
                "upstream": "one",
                "rewrite": rewrite,
                "allows_encoded": allowed,
                **draw(st.sampled_from(_ACCESS)),
            }
        )
    upstreams = {"one": {"url": "http://one", "ignores_case": draw(st.booleans())}}
    return RoutesFile.model_validate({"upstreams": upstreams, "routes": routes})


def naive_owners(routes: Sequence[Route], segments: tuple[str, ...], *, ignores_case: bool) -> list[Route]:
    """Return the routes of the most specific template, by a linear search."""
    fitting = [each for each in routes if seen_template(each, ignores_case=ignores_case).matches(segments)]
    first = min((each.upstream_template.precedence for each in fitting), default=None)
    return [each for each in fitting if each.upstream_template.precedence == first]


def seen_template(route: Route, *, ignores_case: bool) -> PathTemplate:
    def seen(segment: Segment) -> Segment:
        if isinstance(segment, str):
            return as_seen(segment, ignores_case=ignores_case)
        return Pattern(tuple(as_seen(text, ignores_case=ignores_case) for text in segment.texts))

    return PathTemplate(tuple(map(seen, route.upstream_template.segments)), route.upstream_template.tail)


@given(
    files_with_special_characters(),
    st.lists(st.tuples(st.lists(st.sampled_from(_WORDS), max_size=3), st.sampled_from(["", "", "/", "//a"]))),
    st.sampled_from([b"", b"h.test"]),
)
def test_no_reading_of_an_accepted_path_reaches_a_stricter_route(
    file: RoutesFile, requests: list[tuple[list[str], str]], host: bytes
) -> None:
    table, index = RouteTable(file.routes), OwnerIndex(file)
    ignores_case = file.upstreams["one"].ignores_case
    for words, end in requests:
        path = paths.canonicalise(f"/{'/'.join(words)}{end}".encode()).raw
        try:
            route = table.find("GET", host, path, [])
            if route.rewrite is not None:
                path = templates.rewrite(path, route.match.path, route.rewrite)
        except (NoRoute, WrongMethod, InvalidPath):
            continue
        checked = [route, *index.owners_for(route, "GET", path)]
        own = naive_owners(file.routes, paths.canonicalise(path).segments, ignores_case=False)
        for reader in _READERS:
            for segments in slash_variants(as_a_service_reads(path.decode(), reader)):
                seen = tuple(as_seen(each, ignores_case=ignores_case) for each in segments)
                owners = naive_owners(file.routes, seen, ignores_case=ignores_case)
                assert not owners or is_protected(owners, own, checked, seen, ignores_case=ignores_case)


def is_protected(
    owners: list[Route], own: list[Route], checked: list[Route], seen: tuple[str, ...], *, ignores_case: bool
) -> bool:
    """Return whether a request has met the access of owners, or an exception to that applies."""
    theirs = seen_template(owners[0], ignores_case=ignores_case).without_slash()
    if own:
        mine = seen_template(own[0], ignores_case=ignores_case).without_slash()
        is_own = mine.matches(seen[:-1] if seen[-1] == "" else seen, tail_least=0)
        if is_own and mine.shape != theirs.shape and theirs.contains(mine, tail_least=0):
            return True
    needed = [each for each in owners if "GET" in each.match.methods]
    return all(any(each.implies_access_to(owner) for each in checked) for owner in needed)


def has_no_bypass(file: RoutesFile) -> bool:
    try:
        prove(file)
    except InvalidRoutes:
        return False
    return True


# Only what conflicts costs a second lookup.


def load(tmp_path: Path, routes: str) -> RoutesFile:
    path = tmp_path / "gateway.yaml"
    path.write_text(routes)
    return load_file(path, {"UPSTREAM": "http://up:9000"})


def second_lookups(file: RoutesFile, path: bytes) -> set[str]:
    """Return the names of routes whose paths need a second lookup."""
    index = OwnerIndex(file)
    return {route.name for route in file.routes if index.owners_for(route, "GET", path)}


def test_only_conflicting_routes_need_a_second_lookup(tmp_path: Path) -> None:
    plain = load(tmp_path, text(line("root", 'path: "/root/{r...}"', ADMIN), line("a", "path: /a"), ALL))
    # A service may take /root for /root/.
    assert second_lookups(plain, b"/plain") == {"all"}
    literal = load(tmp_path, text(line("root", "path: /root", ADMIN), line("a", "path: /a"), ALL))
    assert second_lookups(literal, b"/plain") == set()
    for unusual in (b"/%C3%A4", b"/x/", b"/x.", b"/x./y"):
        assert second_lookups(literal, unusual) == {"all"}
    hosts = load(
        tmp_path, text(line("root", 'path: "/root/{r...}", hosts: [a.test]', ADMIN), line("a", "path: /a"), ALL)
    )
    assert second_lookups(hosts, b"/plain") == {"all"}
    same = "hosts: [a.test], "
    one_host = load(
        tmp_path, text(line("root", f'{same}path: "/root/{{r}}"', ADMIN), line("all", f'{same}path: "/{{rest...}}"'))
    )
    assert second_lookups(one_host, b"/plain") == set()


def test_the_shipped_routes_need_no_second_lookup() -> None:
    shipped = load_file(Path(__file__).parents[4] / "deploy" / "gateway.yaml", {})
    assert second_lookups(shipped, b"/plain") == set()


def is_shared(tmp_path: Path, one: str, other: str) -> bool:
    routes = text(
        line("root", 'path: "/root/{r...}"', ADMIN, 'upstream: one, rewrite: "/{r...}"'),
        line("all", 'path: "/{rest...}"', more="upstream: other"),
        upstreams=f'  one: {{url: "{one}"}}\n  other: {{urls: ["http://elsewhere", "{other}"]}}\n',
    )
    return bool(second_lookups(load(tmp_path, routes), b"/x"))


def test_spellings_of_an_address_are_the_same_address(tmp_path: Path) -> None:
    for same in ("http://UP.example", "http://up.example:80", "https://up.example:80"):
        assert is_shared(tmp_path, "http://up.example", same)
    assert is_shared(tmp_path, "http://localhost:8080", "http://127.0.0.1:8080")
    assert is_shared(tmp_path, "http://[::1]:8080", "http://localhost:8080")
    assert is_shared(tmp_path, "http://0.0.0.0:8080", "http://localhost:8080")
    assert is_shared(tmp_path, "http://[::]:8080", "http://127.0.0.1:8080")
    assert is_shared(tmp_path, "http://[::ffff:10.0.0.1]:8080", "http://10.0.0.1:8080")
    assert is_shared(tmp_path, "http://[2001:db8::1]:8080", "http://[2001:DB8:0::1]:8080")
    assert is_shared(tmp_path, "unix:/run/up.sock", "unix:/run//./up.sock")
    assert not is_shared(tmp_path, "http://up.example:8080", "http://up.example:8081")
    assert not is_shared(tmp_path, "http://up.example", "http://down.example")
    assert not is_shared(tmp_path, "unix:/run/up.sock", "unix:/run/down.sock")
