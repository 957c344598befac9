"""Characters that services may read in two ways: routes allow them, and each reading has the access that it needs."""

import json
from pathlib import Path

import pytest
from harness import RecordingUpstream
from route_files import bearer, errors_of, open_gateway, routes_file

from ostiary.testing import Issuer
from ostiary_chassis.settings import ConfigError
from ostiary_gateway.routing.source import load_routes

ADMIN = "{roles: [admin]}"


def route(name: str, path: str, allowed: str = "", access: str = "public", more: str = "") -> str:
    encoded = f", allows_encoded: [{allowed}]" if allowed else ""
    return f"name: {name}, match: {{path: '{path}', methods: [GET]}}, upstream: up, access: {access}{encoded}{more}"


SLASH, ALL = '"/"', '"/", "\\\\", "#", "?", "%", ";", "//"'
ROUTES = (
    route("projects", "/projects/{id}/issues", SLASH),
    route("rooms", "/rooms/{alias}", '"#"'),
    route("bucket", "/bucket/{key...}", ALL),
    route("cars", "/cars/{car}/wheels", '";"'),
    route("proxy", "/proxy/{url...}", '"//"', more=", rewrite: '/fetch/{url...}'"),
    route("renamed", "/old/{id}", SLASH, more=", rewrite: '/new/{id}'"),
    route("plain", "/plain/{id}"),
)


@pytest.mark.parametrize(
    ("target", "sent"),
    [
        ("/projects/group%2Fname/issues", "/projects/group%2Fname/issues"),
        ("/projects/group%2fsub%2Fname/issues?a=%2F", "/projects/group%2Fsub%2Fname/issues?a=%2F"),
        ("/rooms/%23general:example.org", "/rooms/%23general:example.org"),
        ("/bucket/a%2Fb/c%5Cd/e%23f/g%3Fh/100%25/i;j", "/bucket/a%2Fb/c%5Cd/e%23f/g%3Fh/100%25/i;j"),
        ("/bucket/a//b\\c", "/bucket/a//b%5Cc"),
        ("/bucket/a%3Bb%252Fc", "/bucket/a%3Bb%252Fc"),
        ("/bucket/%EF%BC%8F", "/bucket/%EF%BC%8F"),
        ("/cars/audi;color=red;year=2026/wheels", "/cars/audi;color=red;year=2026/wheels"),
        ("/proxy/https://example.org/x", "/fetch/https://example.org/x"),
        ("/old/a%2Fb", "/new/a%2Fb"),
    ],
)
async def test_an_allowed_character_reaches_the_upstream_as_it_came(
    issuer: Issuer, upstream: RecordingUpstream, target: str, sent: str
) -> None:
    async with open_gateway(issuer, upstream, *ROUTES) as it:
        assert (await it.request(target)).status == 200
        assert upstream.last.target == sent


@pytest.mark.parametrize(
    ("target", "character"),
    [
        ("/plain/a%2Fb", "/"),
        ("/plain/a%5Cb", "\\"),
        ("/plain/a\\b", "\\"),
        ("/plain/a%23b", "#"),
        ("/plain/a%3Fb", "?"),
        ("/plain/a%25b", "%"),
        ("/plain/a;b", ";"),
        ("/plain/a%3bb", ";"),
        ("/plain//a", "//"),
        ("/plain/%EF%BC%8F", "/"),
        ("/projects/a%23b/issues", "#"),
        ("/rooms/%23a%2Fb", "/"),
        ("/cars/a;b/wheels%2F", "/"),
        ("/nothing%2F", "/"),
    ],
)
async def test_a_character_that_the_route_does_not_allow_is_rejected(
    issuer: Issuer, upstream: RecordingUpstream, target: str, character: str
) -> None:
    async with open_gateway(issuer, upstream, *ROUTES) as it:
        answer = await it.request(target)
        assert (answer.status, answer.code) == (400, "encoded_character")
        assert json.loads(answer.body)["character"] == character
        assert "'allows_encoded'" in json.loads(answer.body)["detail"]
        assert upstream.requests == []


@pytest.mark.parametrize(
    "target",
    [
        *("/bucket/..%2Fx", "/bucket/x%2F..%2F..%2Fx", "/bucket/..%5Cx", "/bucket/%2e%2e%2fx", "/bucket/..;/x"),
        *("/bucket/%252e%252e/x", "/bucket/%252e%252e%252fx", "/bucket/.%23x", "/bucket/..%3Fx", "/bucket/..;a=b"),
        *("/bucket/%00", "/bucket/a%2500", "/bucket/a%0Ab", "/bucket/a%250d%250ab", "/bucket/..%EF%BC%8Fx"),
        *("/bucket/" + "%25" * 1 + "25" * 100, "/projects/..%2Fx/issues", "/projects/%2E%2E%2Fx/issues"),
    ],
)
async def test_dot_segments_and_control_characters_are_rejected_however_they_are_encoded(
    issuer: Issuer, upstream: RecordingUpstream, target: str
) -> None:
    async with open_gateway(issuer, upstream, *ROUTES) as it:
        answer = await it.request(target)
        assert (answer.status, answer.code) == (400, "ambiguous_path")
        assert upstream.requests == []


async def test_a_rewrite_may_not_make_a_dot_segment_of_a_value(issuer: Issuer, upstream: RecordingUpstream) -> None:
    routes = route("v", "/v{x}", SLASH, more=", rewrite: '/{x}'")
    async with open_gateway(issuer, upstream, routes) as it:
        assert (await it.request("/v1%2Fx")).status == 200
        assert (await it.request("/v..%2Fadmin")).status == 400
        assert [each.target for each in upstream.requests] == ["/1%2Fx"]


async def test_of_routes_to_one_path_only_the_one_that_allows_a_character_takes_it(
    issuer: Issuer, upstream: RecordingUpstream
) -> None:
    beta = route("beta", "/x/{id}").replace("methods: [GET]", "methods: [GET], headers: {X-Beta: '1'}")
    put = route("put", "/x/{id}").replace("GET", "PUT")
    async with open_gateway(issuer, upstream, route("plain", "/x/{id}", SLASH), beta, put) as it:
        assert (await it.request("/x/a%2Fb")).status == 200
        for refused in (await it.request("/x/a%2Fb", "X-Beta: 1"), await it.request("/x/a%2Fb", method="PUT")):
            assert (refused.status, refused.code) == (400, "encoded_character")
        assert (await it.request("/x/a%2Fb", method="DELETE")).status == 405
        assert len(upstream.requests) == 1


# The access of what services may read.

GUARDED = (
    route("files", "/files/{key...}", ALL),
    route("private", "/files/private/{key...}", access=ADMIN),
    route("root", "/root", access=ADMIN),
    route("keys", "/files/keys/", access=ADMIN),
    route("pdf", "/files/{name}.pdf", access=ADMIN),
)


@pytest.mark.parametrize(
    "target",
    [
        *("/files/private%2Fx", "/files/private%2F", "/files/private%5Cx", "/files/private%252Fx", "/files/private;/x"),
        *("/files/private;v=1/x", "/files/private;v=1%2Fx", "/files//private/x"),
        *(
            "/files/private%EF%BC%8Fx",
            "/files/%2570rivate/x",
            "/files/private%2Fx%23",
            "/files/keys;a",
            "/files/keys%23",
        ),
        *(
            "/files/keys%3Fa",
            "/files/keys%2F",
            "/files/keys%252F",
            "/files/a.pdf%23x",
            "/files/a.pdf;v=1",
            "/files/;/keys",
        ),
        *(
            "/files/a.pdf%2F",
            "/files/a%252Epdf",
            "/files/a%25252epdf",
            "/files/%EF%BD%8Beys;x",
            "/files/ke%E2%80%8Bys%2F",
        ),
    ],
)
async def test_a_reading_with_stricter_access_gets_that(
    issuer: Issuer, upstream: RecordingUpstream, target: str
) -> None:
    async with open_gateway(issuer, upstream, *GUARDED) as it:
        assert (await it.request(target)).status == 401
        assert (await it.request(target, bearer(issuer.token(roles=["user"])))).status == 403
        assert upstream.requests == []
        assert (await it.request(target, bearer(issuer.token(roles=["admin"])))).status == 200


@pytest.mark.parametrize(
    "target",
    ["/files/a%2Fb", "/files/public%2Fprivate%2Fx", "/files/privately%23", "/files/x%2Fa%2Epd", "/files/50%25"],
)
async def test_readings_without_stricter_access_stay_public(
    issuer: Issuer, upstream: RecordingUpstream, target: str
) -> None:
    async with open_gateway(issuer, upstream, *GUARDED) as it:
        assert (await it.request(target)).status == 200


async def test_the_readings_of_a_rewritten_path_count(issuer: Issuer, upstream: RecordingUpstream) -> None:
    routes = (
        route("pub", "/pub/{key...}", ALL, more=", rewrite: '/{key...}'"),
        route("admin", "/admin/{x...}", access=ADMIN),
        route("api", "/pub/admin/{x...}", access=ADMIN, more=", rewrite: '/admin/{x...}'"),
    )
    async with open_gateway(issuer, upstream, *routes) as it:
        for target in (
            "/pub/admin%2Fx",
            "/pub/admin;/x",
            "/pub//admin/x",
            "/pub//host/admin/x",
            "/pub/%5Chost/admin/x",
        ):
            assert (await it.request(target)).status == 401
        assert upstream.requests == []
        assert (await it.request("/pub/x%2Fadmin%2Fx")).status == 200


def load(tmp_path: Path, *routes: str) -> int:
    path = tmp_path / "gateway.yaml"
    path.write_text(routes_file(*routes).replace("${UPSTREAM}", "http://up:1"))
    return len(load_routes(path).routes)


@pytest.mark.parametrize(
    ("routes", "message"),
    [
        (
            (route("a", "/projects/{id}/issues", SLASH), route("b", "/projects/{rest...}", access=ADMIN)),
            "lets /projects/x%2Fx/issues, read as /projects/x/x/issues, bypass route 'b'",
        ),
        (
            (route("a", "/projects/{id}", SLASH), route("b", "/projects/{id}/{kind}", access=ADMIN)),
            "lets /projects/x%2Fx, read as /projects/x/x, bypass route 'b'",
        ),
        (
            (route("a", "/projects/{id}/", SLASH), route("b", "/projects/{id}/admin", access=ADMIN)),
            "lets /projects/x%2Fadmin/, read as /projects/x/admin, bypass route 'b'",
        ),
        (
            (route("a", "/p/{id}:cancel", '"\\\\"'), route("b", "/p/x/{id}:cancel", access=ADMIN)),
            "lets /p/x%5Cx:cancel, read as /p/x/x:cancel, bypass route 'b'",
        ),
        (
            (route("a", "/files/{id}/meta", '"#"'), route("b", "/files/{id}", access=ADMIN)),
            "lets /files/x%23x/meta, read as /files/x, bypass route 'b'",
        ),
        (
            (route("a", "/files/{id}/meta", '"?"'), route("b", "/files/secret/", access=ADMIN)),
            "lets /files/secret%3Fx/meta, read as /files/secret, bypass route 'b'",
        ),
        (
            (
                route("a", "/pub/{id}", SLASH, more=", rewrite: '/v1/{id}'"),
                route("b", "/v1/{x}/{y}", access=ADMIN),
            ),
            "lets /pub/x%2Fx as /v1/x%2Fx, read as /v1/x/x, bypass route 'b'",
        ),
    ],
)
def test_a_route_whose_values_may_be_read_as_a_stricter_path_is_rejected(
    tmp_path: Path, routes: tuple[str, ...], message: str
) -> None:
    for order in (routes, routes[::-1]):
        with pytest.raises(ConfigError) as caught:
            load(tmp_path, *order)
        assert message in str(caught.value)


@pytest.mark.parametrize(
    "routes",
    [
        # What the route's own template matches in both readings is checked on each request.
        (route("a", "/files/{key...}", ALL), route("b", "/files/private/{key...}", access=ADMIN)),
        (route("a", "/{key...}", ALL), route("b", "/root", access=ADMIN)),
        # As are values that begin with the character.
        (route("a", "/rooms/{alias}", '"#"'), route("b", "/rooms", access=ADMIN)),
        # The same access, another method, another character.
        (route("a", "/projects/{id}", SLASH, ADMIN), route("b", "/projects/{id}/{kind}", access=ADMIN)),
        (route("a", "/projects/{id}", SLASH), route("b", "/projects/{id}/{kind}", access=ADMIN).replace("GET", "PUT")),
        (route("a", "/projects/{id}", '"#"'), route("b", "/projects/{id}/{kind}", access=ADMIN)),
        (route("a", "/projects/{id}", SLASH, ADMIN), route("b", "/projects/{id}/{kind}")),
    ],
)
def test_other_routes_beside_one_that_allows_characters_are_accepted(tmp_path: Path, routes: tuple[str, ...]) -> None:
    assert load(tmp_path, *routes) == len(routes)


@pytest.mark.parametrize("allowed", ['"%2F"', '"."', '"&"', '""', '"//x"', "1"])
def test_only_characters_with_two_meanings_can_be_allowed(tmp_path: Path, allowed: str) -> None:
    errors = errors_of(tmp_path, route("a", "/a/{id}", allowed))
    assert "allows_encoded[0]: must be '/'" in errors
