"""CORS (Fetch standard): the gateway answers preflights, and decides which pages may read responses."""

from pathlib import Path

import pytest
from harness import GatewayHarness, ReceivedResponse, RecordingUpstream, parse_responses, until
from route_files import bearer, errors_of, open_gateway, routes_file

from ostiary.testing import Issuer
from ostiary_gateway.access.unread_head import MAX_SEARCHED

SHOP, OTHER_PAGE = "Origin: https://shop.example", "Origin: https://evil.example"
ASKS = "Access-Control-Request-Method: PUT"
CORS = (
    (
        "name: shop, match: {path: /shop, methods: [GET, PUT]}, upstream: up, access: authenticated, cors: {origins:"
        ' ["https://shop.example"], headers: [X-Cart], expose: [X-Total], credentials: true, max_age: 60}'
    ),
    'name: open, match: {path: /open, methods: [GET, OPTIONS]}, upstream: up, access: public, cors: {origins: ["*"]}',
    "name: plain, match: {path: /plain, methods: [GET, PUT, OPTIONS]}, upstream: up, access: public",
    "name: quiet, match: {path: /quiet, methods: [GET, PUT]}, upstream: up, access: public",
    "name: guarded, match: {path: /guarded, methods: [PUT, OPTIONS]}, upstream: up, access: authenticated",
)

EXPOSED = "Allow, ETag, Location, RateLimit, RateLimit-Policy, Retry-After, WWW-Authenticate, X-Request-ID"


def cors_fields(answer: ReceivedResponse) -> dict[str, str]:
    found = [(name, value) for name, value in answer.fields if name.startswith("access-control-")]
    assert len(dict(found)) == len(found)
    return {name.removeprefix("access-control-"): value for name, value in found}


async def test_a_preflight_gets_the_routes_cors_rules(issuer: Issuer, upstream: RecordingUpstream) -> None:
    async with open_gateway(issuer, upstream, *CORS) as it:
        answer = await it.request("/shop", SHOP, ASKS, "Access-Control-Request-Headers: x-cart", method="OPTIONS")
        assert (answer.status, answer.body, answer.values("vary")) == (204, b"", ["Origin"])
        assert cors_fields(answer) == {
            "allow-origin": "https://shop.example",
            "allow-credentials": "true",
            "allow-methods": "GET, HEAD, PUT",
            "allow-headers": "Authorization, Content-Type, If-Match, If-None-Match, X-Cart",
            "max-age": "60",
        }
        assert upstream.requests == []


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "http://shop.example",
        "https://shop.example:444",
        "https://shop.example.evil.example",
        "https://xshop.example",
        "null",
        "*",
        "",
        "https://shop.example https://evil.example",
        "https://shop.example\xff",
    ],
)
async def test_pages_of_other_origins_get_no_cors_fields(
    issuer: Issuer, upstream: RecordingUpstream, origin: str
) -> None:
    async with open_gateway(issuer, upstream, *CORS) as it:
        token = bearer(issuer.token())
        for answer in (
            await it.request("/shop", f"Origin: {origin}", ASKS, method="OPTIONS"),
            await it.request("/shop", f"Origin: {origin}", token),
        ):
            assert answer.status in {200, 204}
            assert (cors_fields(answer), answer.values("vary")) == ({}, ["Origin"])


async def test_preflights_for_routes_without_cors(issuer: Issuer, upstream: RecordingUpstream) -> None:
    async with open_gateway(issuer, upstream, *CORS) as it:
        assert (await it.request("/nothing", SHOP, ASKS, method="OPTIONS")).status == 404
        for origin in (SHOP, OTHER_PAGE):
            answer = await it.request("/quiet", origin, ASKS, method="OPTIONS")
            assert (answer.status, answer.values("allow"), cors_fields(answer)) == (
                204,
                ["GET, HEAD, OPTIONS, PUT"],
                {},
            )
        assert upstream.requests == []


async def test_a_preflight_may_ask_for_any_method(issuer: Issuer, upstream: RecordingUpstream) -> None:
    dav = (
        "name: dav, match: {path: /dav, methods: [PROPFIND, MKCOL]}, upstream: up, access: public,"
        ' cors: {origins: ["https://shop.example"]}'
    )
    async with open_gateway(issuer, upstream, dav) as it:
        for method, max_age in (("PROPFIND", "600"), ("propfind", "0"), ("GET", "0")):
            asks = f"Access-Control-Request-Method: {method}"
            found = cors_fields(await it.request("/dav", SHOP, asks, method="OPTIONS"))
            # The page gets to read a 405, if there will be one.
            assert found["allow-methods"] == ", ".join(sorted({"MKCOL", "PROPFIND", method}))
            assert found["max-age"] == max_age


async def test_a_service_may_have_cors_rules_of_its_own(issuer: Issuer, upstream: RecordingUpstream) -> None:
    upstream.response = (
        b"HTTP/1.1 200 OK\r\nAccess-Control-Allow-Origin: https://shop.example\r\nContent-Length: 0\r\n\r\n"
    )
    async with open_gateway(issuer, upstream, *CORS) as it:
        for request in ((SHOP, ASKS), (SHOP,)):
            answer = await it.request("/plain", *request, method="OPTIONS")
            assert cors_fields(answer) == {"allow-origin": "https://shop.example"}
        assert upstream.last.values("origin") == ["https://shop.example"]
        assert (await it.request("/guarded", SHOP, ASKS, method="OPTIONS")).status == 401
        assert len(upstream.requests) == 2


async def test_a_preflight_selects_the_route_by_the_announced_headers(
    issuer: Issuer, upstream: RecordingUpstream
) -> None:
    made = (
        "name: %s, match: {path: %s, methods: [GET]%s}, upstream: up, access: public,"
        " cors: {origins: ['*'], max_age: %d}"
    )
    beta = ", headers: {X-Beta: '1'}"
    routes = (made % ("b", "/shop", beta, 1), made % ("plain", "/shop", "", 2), made % ("c", "/beta", beta, 3))
    asks, announces = "Access-Control-Request-Method: GET", "Access-Control-Request-Headers: x-other, x-beta"
    async with open_gateway(issuer, upstream, *routes) as it:
        assert cors_fields(await it.request("/shop", SHOP, asks, announces, method="OPTIONS"))["max-age"] == "1"
        assert cors_fields(await it.request("/shop", SHOP, asks, method="OPTIONS"))["max-age"] == "2"
        assert cors_fields(await it.request("/beta", SHOP, asks, announces, method="OPTIONS"))["max-age"] == "3"
        # The request would be a 404, which the page may read.
        unmatched = await it.request("/beta", SHOP, asks, method="OPTIONS")
        assert (unmatched.status, cors_fields(unmatched)["max-age"]) == (204, "0")
        assert (await it.request("/beta", SHOP)).status == 404


async def test_options_without_a_requested_method_is_an_ordinary_request(
    issuer: Issuer, upstream: RecordingUpstream
) -> None:
    async with open_gateway(issuer, upstream, *CORS) as it:
        assert (await it.request("/plain", SHOP, method="OPTIONS")).status == 200
        assert (await it.request("/plain", ASKS, method="OPTIONS")).status == 200
        assert [each.method for each in upstream.requests] == ["OPTIONS", "OPTIONS"]
        assert (await it.request("/shop", SHOP, method="OPTIONS")).status == 204
        assert len(upstream.requests) == 2


async def test_cors_fields_of_an_upstream_are_dropped(issuer: Issuer, upstream: RecordingUpstream) -> None:
    upstream.response = (
        b"HTTP/1.1 200 OK\r\nAccess-Control-Allow-Origin: https://evil.example\r\nACCESS-CONTROL-EXPOSE-HEADERS: *\r\n"
        b"Access-Control-Allow-Credentials: true\r\nAccess-Control-Max-Age: 9\r\n"
        b"X-Total: 1\r\nContent-Length: 0\r\n\r\n"
    )
    async with open_gateway(issuer, upstream, *CORS) as it:
        answer = await it.request("/shop", SHOP, bearer(issuer.token()))
        assert cors_fields(answer) == {
            "allow-origin": "https://shop.example",
            "allow-credentials": "true",
            "expose-headers": f"{EXPOSED}, X-Total",
        }
        assert answer.values("x-total") == ["1"]
        assert cors_fields(await it.request("/shop", OTHER_PAGE, bearer(issuer.token()))) == {}
        assert cors_fields(await it.request("/open", OTHER_PAGE)) == {
            "allow-origin": "*",
            "expose-headers": EXPOSED,
        }
        # For a route without `cors`, the service decides.
        assert cors_fields(await it.request("/plain", SHOP))["allow-origin"] == "https://evil.example"


async def test_a_response_without_origin_varies_by_origin_too(issuer: Issuer, upstream: RecordingUpstream) -> None:
    async with open_gateway(issuer, upstream, *CORS) as it:
        assert (await it.request("/shop", bearer(issuer.token()))).values("vary") == ["Origin"]
        # But not if it is the same for all.
        answer = await it.request("/open")
        assert (answer.values("vary"), cors_fields(answer)["allow-origin"]) == ([], "*")


@pytest.mark.parametrize(
    ("vary", "merged"),
    [
        (["Accept-Encoding"], ["Accept-Encoding, Origin"]),
        (["Accept-Encoding", "Cookie"], ["Accept-Encoding, Cookie, Origin"]),
        (["accept, ORIGIN"], ["accept, ORIGIN"]),
        (["*"], ["*"]),
        ([""], ["Origin"]),
    ],
)
async def test_the_vary_of_an_upstream_is_completed(
    issuer: Issuer, upstream: RecordingUpstream, vary: list[str], merged: list[str]
) -> None:
    fields = "".join(f"Vary: {each}\r\n" for each in vary)
    upstream.response = f"HTTP/1.1 200 OK\r\n{fields}Content-Length: 0\r\n\r\n".encode()
    async with open_gateway(issuer, upstream, *CORS) as it:
        for origin in (SHOP, OTHER_PAGE):
            assert (await it.request("/shop", origin, bearer(issuer.token()))).values("vary") == merged
        assert (await it.request("/plain", SHOP)).values("vary") == vary


async def test_errors_have_cors_fields_too(issuer: Issuer, upstream: RecordingUpstream) -> None:
    async with open_gateway(issuer, upstream, *CORS) as it:
        refused = await it.request("/shop", SHOP)
        upstream.response = b"nonsense\r\n\r\n"
        failed = await it.request("/shop", SHOP, bearer(issuer.token()))
        for answer, status in [(refused, 401), (failed, 502)]:
            assert answer.status == status
            assert cors_fields(answer)["allow-origin"] == "https://shop.example"
            assert "X-Request-ID" in cors_fields(answer)["expose-headers"]


def test_credentials_require_a_list_of_origins(tmp_path: Path) -> None:
    for origins in ('"*"', '"*", "https://a.test"', '"null"', '"file://"', '"moz-extension://*"'):
        cors = f"{{origins: [{origins}], credentials: true}}"
        text = f"name: a, match: {{path: /a, methods: [GET]}}, upstream: up, access: public, cors: {cors}"
        assert "'credentials' requires a list of origins instead of '" in errors_of(tmp_path, text)


def test_credentials_require_names_of_headers(tmp_path: Path) -> None:
    for name in ("headers", "expose"):
        cors = f"cors: {{origins: ['https://a.test'], credentials: true, {name}: ['*']}}"
        text = f"name: a, match: {{path: /a, methods: [GET]}}, upstream: up, access: public, {cors}"
        assert f"'credentials' requires a list of names instead of '*' in '{name}'" in errors_of(tmp_path, text)


APP, PARTNER = "Origin: https://app.example", "Origin: https://partner.example"
DEFAULTS = 'defaults: {cors: {origins: ["https://app.example"], headers: [X-Any]}}\n'
MIXED = (
    "name: any, match: {path: /any, methods: [GET, PUT]}, upstream: up, access: public",
    (
        "name: partner, match: {path: /partner, methods: [PUT]}, upstream: up, access: public,"
        ' limits: {body_bytes: 1, header_bytes: 512}, cors: {origins: ["https://partner.example"], credentials: true}'
    ),
    (
        "name: partner-too, match: {path: /partner, methods: [PATCH]}, upstream: up, access: public,"
        ' cors: {origins: ["https://partner.example", "https://*.shop.example"]}'
    ),
    "name: closed, match: {path: /closed, methods: [PUT]}, upstream: up, access: public, cors: none",
    "name: v2, match: {path: /v2, methods: [PUT], headers: {X-Version: '2'}}, upstream: up, access: public",
)
LONG = "X-Long: " + 33_000 * "a"


@pytest.mark.parametrize(
    ("method", "target", "fields", "status"),
    [
        ("GET", "/nothing", [], 404),
        ("PUT", "/v2", [], 404),
        ("DELETE", "/any", [], 405),
        ("GET", "/a/../b", [], 400),
        ("GET", "/a%2Fb", [], 400),
        ("GET", "/a#b", [], 400),
        ("GET", "/" + 9000 * "a", [], 414),
        ("GET", "/any", ["Host: other"], 400),
        ("PUT", "/v2", ["X-Version: 2", "X-Version: 2"], 400),
        ("PUT", "/any", ["Content-Length: 99999999"], 413),
        ("GET", "/any", [LONG], 431),
        ("GET", "/any?" + 33_000 * "a", [], 414),
        ("GET", "/any", ["X : y"], 400),
        ("PUT", "/any", ["Transfer-Encoding: gzip, chunked"], 501),
        ("GET", "/livez", [], 200),
        ("GET", "/livez/", [], 404),
    ],
)
async def test_pages_of_a_default_origin_read_every_response(
    issuer: Issuer, upstream: RecordingUpstream, method: str, target: str, fields: list[str], status: int
) -> None:
    async with GatewayHarness.open(DEFAULTS + routes_file(*MIXED), upstream.url, issuer.verifier()) as it:
        answer = await it.request(target, APP, *fields, method=method)
        assert (answer.status, answer.values("vary")) == (status, ["Origin"])
        assert cors_fields(answer) == {"allow-origin": "https://app.example", "expose-headers": EXPOSED}
        for other in (OTHER_PAGE, PARTNER):
            answer = await it.request(target, other, *fields, method=method)
            assert (answer.status, cors_fields(answer), answer.values("vary")) == (status, {}, ["Origin"])
        assert upstream.requests == []


@pytest.mark.parametrize(
    ("method", "fields", "status"),
    [
        ("GET", [], 405),
        ("PUT", ["Content-Length: 2"], 413),
        ("PUT", ["X-Long: " + 600 * "a"], 431),
        ("PUT", [LONG], 431),
        ("GET", [LONG], 431),
        ("PUT", ["X : y"], 400),
        ("PUT", ["Connection: upgrade, x-version"], 400),
    ],
)
async def test_pages_read_every_response_of_a_path_that_they_may_use(
    issuer: Issuer, upstream: RecordingUpstream, method: str, fields: list[str], status: int
) -> None:
    async with open_gateway(issuer, upstream, *MIXED) as it:
        answer = await it.request("/partner?a=b", PARTNER, *fields, method=method)
        assert answer.status == status
        assert cors_fields(answer) == {
            "allow-origin": "https://partner.example",
            "allow-credentials": "true",
            "expose-headers": EXPOSED,
        }
        assert cors_fields(await it.request("/partner?a=b", APP, *fields, method=method)) == {}
    async with GatewayHarness.open(DEFAULTS + routes_file(*MIXED), upstream.url, issuer.verifier()) as it:
        # The routes of the path have said all.
        assert cors_fields(await it.request("/partner?a=b", APP, *fields, method=method)) == {}


async def test_any_route_of_a_path_may_allow_an_origin(issuer: Issuer, upstream: RecordingUpstream) -> None:
    async with open_gateway(issuer, upstream, *MIXED) as it:
        answer = await it.request("/partner", "Origin: https://eu.shop.example")
        assert (answer.status, answer.values("allow")) == (405, ["OPTIONS, PATCH, PUT"])
        assert cors_fields(answer) == {"allow-origin": "https://eu.shop.example", "expose-headers": EXPOSED}
        asks = "Access-Control-Request-Method: REPORT"
        preflight = await it.request("/partner", "Origin: https://eu.shop.example", asks, method="OPTIONS")
        assert cors_fields(preflight)["allow-methods"] == "PATCH, REPORT"


async def test_routes_without_cors_and_defaults_have_no_cors_fields(
    issuer: Issuer, upstream: RecordingUpstream
) -> None:
    async with open_gateway(issuer, upstream, *MIXED) as it:
        for target in ("/any", "/nothing", "/closed", "/a%2Fb", "/livez"):
            answer = await it.request(target, PARTNER, method="DELETE")
            assert (cors_fields(answer), answer.values("vary")) == ({}, [])


async def test_a_route_may_be_without_the_default(issuer: Issuer, upstream: RecordingUpstream) -> None:
    async with GatewayHarness.open(DEFAULTS + routes_file(*MIXED), upstream.url, issuer.verifier()) as it:
        for method in ("PUT", "GET"):
            assert cors_fields(await it.request("/closed", APP, method=method)) == {}


@pytest.mark.parametrize("path", ["/nothing", "/any", "/v2", "/a%2Fb", "/livez"])
@pytest.mark.parametrize("method", ["DELETE", "PROPFIND", "x-any"])
async def test_a_preflight_lets_a_page_read_why_its_request_is_rejected(
    issuer: Issuer, upstream: RecordingUpstream, path: str, method: str
) -> None:
    async with GatewayHarness.open(DEFAULTS + routes_file(*MIXED), upstream.url, issuer.verifier()) as it:
        asks = f"Access-Control-Request-Method: {method}"
        answer = await it.request(path, APP, asks, "Access-Control-Request-Headers: x-any", method="OPTIONS")
        found = cors_fields(answer)
        assert (answer.status, answer.body, found["allow-origin"]) == (204, b"", "https://app.example")
        assert (method in found["allow-methods"].split(", "), found["max-age"]) == (True, "0")
        assert "X-Any" in found["allow-headers"]
        assert cors_fields(await it.request(path, OTHER_PAGE, asks, method="OPTIONS")) == {}
        assert upstream.requests == []


async def test_a_preflight_names_no_method_that_is_none(issuer: Issuer, upstream: RecordingUpstream) -> None:
    async with GatewayHarness.open(DEFAULTS + routes_file(*MIXED), upstream.url, issuer.verifier()) as it:
        asks = "Access-Control-Request-Method: GET, EVIL"
        answer = await it.request("/nothing", APP, asks, method="OPTIONS")
        assert (answer.status, "allow-methods" in cors_fields(answer)) == (404, False)


async def test_all_headers_may_be_allowed_and_exposed(issuer: Issuer, upstream: RecordingUpstream) -> None:
    route = "name: a, match: {path: /a, methods: [PUT]}, upstream: up, access: public, cors: {origins: [%s], %s: ['*']}"
    asks = "Access-Control-Request-Headers: authorization,x-whatever"
    async with open_gateway(issuer, upstream, route % ("'https://app.example'", "headers")) as it:
        found = cors_fields(await it.request("/a", APP, ASKS, asks, method="OPTIONS"))
        # Browsers do not take `*` for `Authorization` (Fetch standard, section 4.8).
        assert found["allow-headers"] == "*, Authorization, Content-Type, If-Match, If-None-Match"
    async with open_gateway(issuer, upstream, route % ("'*'", "expose")) as it:
        assert cors_fields(await it.request("/a", APP, method="PUT"))["expose-headers"] == f"*, {EXPOSED}"


@pytest.mark.parametrize(
    ("origins", "origin", "is_allowed"),
    [
        ("'http://localhost:*'", "http://localhost:5173", True),
        ("'https://*.shop.example'", "https://eu.shop.example", True),
        ("'moz-extension://*'", "moz-extension://3c078156-979c-498b-8990-85f7987dd929", False),
        ("'null'", "null", False),
        ("'*'", "https://shop.example", False),
        ("'https://shop.example'", "https://evil.example", False),
    ],
)
async def test_only_named_pages_may_reach_from_public_into_private_networks(
    issuer: Issuer, upstream: RecordingUpstream, origins: str, origin: str, is_allowed: bool
) -> None:
    route = (
        f"name: a, match: {{path: /a, methods: [PUT]}}, upstream: up, access: public, cors: {{origins: [{origins}]}}"
    )
    async with open_gateway(issuer, upstream, route) as it:
        preflight = (f"Origin: {origin}", ASKS)
        asks = "Access-Control-Request-Private-Network: true"
        answer = cors_fields(await it.request("/a", *preflight, asks, method="OPTIONS"))
        assert answer.get("allow-private-network") == ("true" if is_allowed else None)
        assert "allow-private-network" not in cors_fields(await it.request("/a", *preflight, method="OPTIONS"))


async def test_a_page_reads_that_a_host_is_unknown(issuer: Issuer, upstream: RecordingUpstream) -> None:
    async with GatewayHarness.open(DEFAULTS + routes_file(*MIXED), upstream.url, issuer.verifier()) as it:
        for path in ("/any", "/nothing"):
            head = f"GET {path} HTTP/1.1\r\nHost: unknown.example\r\n{APP}\r\nConnection: close\r\n\r\n"
            (answer,) = parse_responses(await it.send_raw(head.encode()))
            assert (answer.status, cors_fields(answer)["allow-origin"]) == (421, "https://app.example")


@pytest.mark.parametrize("size", [1, 50, 700, 40_000])
async def test_a_head_over_the_limit_is_read_until_its_origin_is_known(
    issuer: Issuer, upstream: RecordingUpstream, size: int
) -> None:
    fields = f"Host: gw\r\nX-Long: {'b' * 5000}\r\n{PARTNER}\r\nX-More: 1\r\n"
    head = f"GET /partner?{'a' * 40_000} HTTP/1.1\r\n{fields}".encode()
    async with open_gateway(issuer, upstream, *MIXED) as it:
        client, connection = await it.connect_both_sides()
        client.send(head[:40_000])
        await until(lambda: connection._unread is not None)
        for start in range(40_000, len(head), size):
            # Not all at once, as the transport would have it.
            connection.data_received(head[start : start + size])
        (answer,) = parse_responses(await client.wait_closed())
        assert (answer.status, cors_fields(answer)["allow-origin"]) == (414, "https://partner.example")


async def test_a_head_over_the_limit_is_read_to_its_end_and_no_further(
    issuer: Issuer, upstream: RecordingUpstream
) -> None:
    start = f"GET /{'a' * 40_000} HTTP/1.1\r\nHost: gw\r\n".encode()
    async with open_gateway(issuer, upstream, *MIXED) as it:
        for rest in (b"X-Y: 1\r\n\r\n", b"X-Y: " + MAX_SEARCHED * b"a"):
            client = await it.connect()
            client.send(start)
            client.send(rest)
            (answer,) = parse_responses(await client.wait_closed())
            assert (answer.status, cors_fields(answer)) == (414, {})


async def test_a_head_over_the_limit_that_never_ends_is_refused_in_time(
    issuer: Issuer, upstream: RecordingUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ostiary_gateway.proxy.downstream.HEAD_SECONDS", 0.05)
    async with open_gateway(issuer, upstream, *MIXED) as it:
        client = await it.connect()
        client.send(f"GET /{'a' * 40_000}".encode())
        (answer,) = parse_responses(await client.wait_closed())
        assert answer.status == 414


async def test_a_page_reads_that_its_request_was_too_slow(
    issuer: Issuer, upstream: RecordingUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ostiary_gateway.proxy.downstream.HEAD_SECONDS", 0.05)
    async with GatewayHarness.open(DEFAULTS + routes_file(*MIXED), upstream.url, issuer.verifier()) as it:
        data = await it.send_raw(f"GET /any HTTP/1.1\r\nHost: gw\r\n{APP}\r\nX-".encode())
        (answer,) = parse_responses(data)
        assert (answer.status, cors_fields(answer)["allow-origin"]) == (408, "https://app.example")
