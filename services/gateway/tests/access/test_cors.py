"""CORS (Fetch standard): the gateway answers preflights, and decides which pages may read responses."""

from pathlib import Path

import pytest
from harness import (
    ReceivedResponse,
    RecordingUpstream,
)
from route_files import bearer, errors_of, open_gateway

from ostiary.testing import Issuer

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


def cors_fields(answer: ReceivedResponse) -> dict[str, str]:
    found = [(name, value) for name, value in answer.fields if name.startswith("access-control-")]
    assert len(dict(found)) == len(found)
    return {name.removeprefix("access-control-"): value for name, value in found}


async def test_a_preflight_gets_the_routes_cors_rules(issuer: Issuer, upstream: RecordingUpstream) -> None:
    async with open_gateway(issuer, upstream, *CORS) as it:
        answer = await it.request("/shop", SHOP, ASKS, "Access-Control-Request-Headers: x-cart", method="OPTIONS")
        assert (answer.status, answer.body, answer.values("vary")) == (204, b"", ["origin"])
        assert cors_fields(answer) == {
            "allow-origin": "https://shop.example",
            "allow-credentials": "true",
            "allow-methods": "GET, HEAD, PUT",
            "allow-headers": "Authorization, Content-Type, X-Cart",
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
            assert (cors_fields(answer), answer.values("vary")) == ({}, ["origin"])


async def test_preflights_for_routes_without_cors(issuer: Issuer, upstream: RecordingUpstream) -> None:
    async with open_gateway(issuer, upstream, *CORS) as it:
        assert (await it.request("/nothing", SHOP, ASKS, method="OPTIONS")).status == 404
        wrong = "Access-Control-Request-Method: DELETE"
        assert (await it.request("/shop", SHOP, wrong, method="OPTIONS")).status == 405
        for origin in (SHOP, OTHER_PAGE):
            assert cors_fields(await it.request("/quiet", origin, ASKS, method="OPTIONS")) == {}
        assert upstream.requests == []


async def test_a_preflight_may_ask_for_any_method(issuer: Issuer, upstream: RecordingUpstream) -> None:
    dav = (
        "name: dav, match: {path: /dav, methods: [PROPFIND, MKCOL]}, upstream: up, access: public,"
        ' cors: {origins: ["https://shop.example"]}'
    )
    async with open_gateway(issuer, upstream, dav) as it:
        for method, status in (("PROPFIND", 204), ("propfind", 405), ("GET", 405)):
            asks = f"Access-Control-Request-Method: {method}"
            answer = await it.request("/dav", SHOP, asks, method="OPTIONS")
            assert answer.status == status
            if status == 204:
                assert cors_fields(answer)["allow-methods"] == "MKCOL, PROPFIND"


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
        assert (await it.request("/beta", SHOP, asks, method="OPTIONS")).status == 404


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
            "expose-headers": "X-Request-ID, X-Total",
        }
        assert answer.values("x-total") == ["1"]
        assert cors_fields(await it.request("/shop", OTHER_PAGE, bearer(issuer.token()))) == {}
        assert cors_fields(await it.request("/open", OTHER_PAGE)) == {
            "allow-origin": "*",
            "expose-headers": "X-Request-ID",
        }
        # For a route without `cors`, the service decides.
        assert cors_fields(await it.request("/plain", SHOP))["allow-origin"] == "https://evil.example"


async def test_a_response_without_origin_varies_by_origin_too(issuer: Issuer, upstream: RecordingUpstream) -> None:
    async with open_gateway(issuer, upstream, *CORS) as it:
        assert (await it.request("/shop", bearer(issuer.token()))).values("vary") == ["origin"]


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
