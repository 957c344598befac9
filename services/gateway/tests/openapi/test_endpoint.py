"""The merged OpenAPI document, the page that shows it, and whether routes agree with what services ask for."""

import gzip
import json
import re
from pathlib import Path
from typing import Any

import pytest
import structlog.testing
from harness import GatewayHarness, RecordingUpstream

from ostiary.testing import Issuer
from ostiary_gateway.config import GatewayConfig
from ostiary_gateway.openapi.diff import disagreements
from ostiary_gateway.openapi.merge import BadDocument, merge
from ostiary_gateway.routing.loader import load_file
from ostiary_gateway.routing.table import RouteTable

ROUTES = """\
upstreams:
  shop: {url: "http://shop:1"}
  stock: {url: "http://stock:1"}
routes:
  - {name: order, match: {path: "/orders/{id}", methods: [GET]}, upstream: shop, access: {scopes: ["orders:read"]}}
  - {name: home, match: {path: /, methods: [GET]}, upstream: shop, access: public}
  - {name: stock, match: {path: "/stock/{rest...}", methods: [GET, PUT]}, upstream: stock, rewrite: "/v1/{rest...}",
     access: authenticated}
  - {name: item, match: {path: "/items/{id}", methods: [GET]}, upstream: stock, rewrite: "/v2/items/{id}/full",
     access: {roles: [clerk]}, }
"""
BEARER = {"type": "http", "scheme": "bearer"}


def operation(scopes: list[str] | None = None, schema: str = "Thing") -> dict[str, Any]:
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
    described: dict[str, Any] = {"responses": {"200": {"description": "Done.", "content": content}}}
    return described if scopes is None else {**described, "security": [{"bearer": scopes}]}


def document(paths: dict[str, Any], thing: str) -> dict[str, Any]:
    schemas = {
        "Thing": {"type": thing},
        "List": {"items": {"$ref": "#/components/schemas/Thing"}},
        "Same": {},
        "Internal": {},
    }
    return {"paths": paths, "components": {"schemas": schemas, "securitySchemes": {"bearer": BEARER}}}


SHOP = document(
    {
        "/orders/{order_id}": {"get": operation(["orders:read"]), "delete": operation(["orders:write"])},
        "/": {"get": operation(schema="Same")},
        "/internal": {"get": operation([], "Internal")},
    },
    "string",
)
STOCK = document(
    {
        "/v1/shelves/{n}": {"get": operation([], "List"), "put": operation([])},
        "/v2/items/{item}/full": {"get": operation([])},
        "/v1/same": {"get": operation([], "Same")},
    },
    "integer",
)


@pytest.fixture
def table(tmp_path: Path) -> RouteTable:
    (tmp_path / "gateway.yaml").write_text(ROUTES)
    return RouteTable(load_file(tmp_path / "gateway.yaml", {}).routes)


def test_what_is_exposed_is_in_the_document_by_its_public_path_and_nothing_else(table: RouteTable) -> None:
    merged = merge(table, {"shop": SHOP, "stock": STOCK}, "1")
    assert {path: sorted(item) for path, item in merged["paths"].items()} == {
        "/": ["get"],
        "/items/{item}": ["get"],
        "/orders/{order_id}": ["get"],
        "/stock/same": ["get"],
        "/stock/shelves/{n}": ["get", "put"],
    }


def test_it_says_what_the_gateway_asks_for(table: RouteTable) -> None:
    paths = merge(table, {"shop": SHOP, "stock": STOCK}, "1")["paths"]
    assert paths["/"]["get"]["security"] == []
    assert paths["/orders/{order_id}"]["get"]["security"] == [{"bearer": ["orders:read"]}]
    assert paths["/stock/shelves/{n}"]["get"]["security"] == [{"bearer": []}]


def test_components_of_the_same_name_are_kept_apart(table: RouteTable) -> None:
    merged = merge(table, {"shop": SHOP, "stock": STOCK}, "1")
    schemas = merged["components"]["schemas"]
    assert (schemas["Thing"], schemas["stock.Thing"]) == ({"type": "string"}, {"type": "integer"})
    assert list(schemas).count("Same") == 1
    assert schemas["List"] == {"items": {"$ref": "#/components/schemas/stock.Thing"}}
    for reference in re.findall(r'"\$ref": "#/components/schemas/([^"]+)"', json.dumps(merged)):
        assert reference in schemas
    content = merged["paths"]["/items/{item}"]["get"]["responses"]["200"]["content"]
    assert content["application/json"]["schema"] == {"$ref": "#/components/schemas/stock.Thing"}


def test_a_component_is_renamed_if_what_it_refers_to_is(table: RouteTable) -> None:
    shop = document({"/": {"get": operation(schema="List")}}, "string")
    stock = document({"/v1/shelves": {"get": operation([], "List")}}, "integer")
    schemas = merge(table, {"shop": shop, "stock": stock}, "1")["components"]["schemas"]
    assert schemas["List"] == {"items": {"$ref": "#/components/schemas/Thing"}}
    assert schemas["stock.List"] == {"items": {"$ref": "#/components/schemas/stock.Thing"}}


def test_what_nothing_that_is_exposed_refers_to_is_not_shown(table: RouteTable) -> None:
    merged = merge(table, {"shop": SHOP, "stock": STOCK}, "1")
    assert "Internal" not in merged["components"]["schemas"]
    assert set(merged["components"]["securitySchemes"]) == {"bearer"}


def test_how_clients_prove_who_they_are_on_public_routes_is_the_services_business(table: RouteTable) -> None:
    basic = {"type": "http", "scheme": "basic"}
    shop = document(
        {
            "/": {"get": {"security": [{"client": []}, {"bearer": ["a"]}, {"unknown": []}, {}]}},
            "/orders/{id}": {"get": {"security": [{"client": []}]}},
        },
        "string",
    )
    shop["components"]["securitySchemes"]["client"] = basic
    merged = merge(table, {"shop": shop}, "1")
    # The gateway's own is another one.
    assert merged["paths"]["/"]["get"]["security"] == [{"client": []}, {"shop.bearer": ["a"]}, {}]
    assert merged["paths"]["/orders/{id}"]["get"]["security"] == [{"bearer": ["orders:read"]}]
    schemes = merged["components"]["securitySchemes"]
    assert (schemes["client"], schemes["shop.bearer"], schemes["bearer"]["bearerFormat"]) == (basic, BEARER, "JWT")


def test_operations_have_names_of_their_own(table: RouteTable) -> None:
    shop = {"paths": {"/": {"get": {"operationId": "read"}}, "/orders/{id}": {"get": {"operationId": "read"}}}}
    stock = {"paths": {"/v1/a": {"get": {"operationId": "read"}, "put": {"operationId": "write"}}}}
    paths = merge(table, {"shop": shop, "stock": stock}, "1")["paths"]
    names = [operation["operationId"] for item in paths.values() for operation in item.values()]
    assert sorted(names) == ["read", "shop.read", "stock.read", "write"]


def deep(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(levels):
        value = {"a": value}
    return value


ODD: list[dict[str, Any]] = [
    {"paths": None},
    {"paths": []},
    {"paths": {"/": []}},
    {"paths": {"/": {"get": 1}}},
    {"paths": {"/": {"get": {}}}, "components": 1},
    {"paths": {"/": {"get": {}}}, "components": {"schemas": []}},
    {"paths": {"/": {"get": {"parameters": None}}}},
    {"paths": {"/": {"parameters": None, "get": {}}}},
    {"paths": {"/": {"get": {"security": "foo"}}}},
    {"paths": {"/": {"get": {"security": ["foo"]}}}},
    {"paths": {"/": {"get": {"security": [{"foo": "bar"}]}}}},
    {"paths": {"/": {"get": {"security": [{"foo": [1]}]}}}},
    {"paths": {"/": {"get": {}}}, "security": None},
]


@pytest.mark.parametrize("odd", [*ODD, {"paths": {"/": {"get": deep(200)}}}])
def test_a_document_that_is_not_in_order_is_left_out_and_named(table: RouteTable, odd: dict[str, Any]) -> None:
    with structlog.testing.capture_logs() as logged:
        merged = merge(table, {"shop": odd, "stock": STOCK}, "1", {"away"})
    assert sorted(merged["paths"]) == ["/items/{item}", "/stock/same", "/stock/shelves/{n}"]
    assert merged["info"]["description"].endswith(": away, shop.")
    assert [(entry["log_level"], entry["upstream"]) for entry in logged] == [("warning", "shop")]


@pytest.mark.parametrize("odd", ODD)
def test_a_document_that_is_not_in_order_is_no_disagreement(table: RouteTable, odd: dict[str, Any]) -> None:
    with pytest.raises(BadDocument, match="what shop says of itself is not in the form of OpenAPI: "):
        disagreements(table, {"shop": odd})


def test_a_property_may_be_called_like_a_reference(table: RouteTable) -> None:
    described = {"requestBody": {"schema": {"properties": {"$ref": {"type": "string"}}}}}
    others = document({"/v1/a": {"get": operation([])}}, "integer")
    others["paths"]["/v1/a"]["get"] |= described
    merged = merge(table, {"shop": SHOP, "stock": others}, "1")
    assert merged["paths"]["/stock/a"]["get"]["requestBody"] == described["requestBody"]


HOSTED = """\
upstreams:
  shop: {url: "http://shop:1"}
routes:
  - {name: any, match: {path: "/orders/{id}", methods: [GET]}, upstream: shop, access: {scopes: [one]}}
  - {name: new, match: {path: "/orders/{id}", methods: [GET], headers: {X-Version: "2"}}, upstream: shop,
     access: {scopes: [two]}}
  - {name: wide, match: {path: "/wide", methods: [GET], hosts: ["*.example.org"]}, upstream: shop,
     access: authenticated}
  - {name: tail, match: {path: "/{rest...}", methods: [GET]}, upstream: shop, access: authenticated}
  - {name: open, match: {path: /both, methods: [GET]}, upstream: shop, access: public}
  - {name: shut, match: {path: /both, methods: [GET], headers: {X-Version: "2"}}, upstream: shop, access: authenticated}
"""


def test_routes_by_host_and_header_are_there_too(tmp_path: Path) -> None:
    (tmp_path / "gateway.yaml").write_text(HOSTED)
    table = RouteTable(load_file(tmp_path / "gateway.yaml", {}).routes)
    paths = {"/orders/{id}": operation(["one"]), "/wide": operation(["three"]), "/both": operation()}
    shop = document({path: {"get": each} for path, each in paths.items()}, "string")
    merged = merge(table, {"shop": shop}, "1")
    assert merged["paths"]["/both"]["get"]["security"] == [{}, {"bearer": []}]
    assert merged["paths"]["/orders/{id}"]["get"]["security"] == [{"bearer": ["one"]}, {"bearer": ["two"]}]
    assert merged["paths"]["/wide"]["get"]["security"] == [{"bearer": []}]
    assert disagreements(table, {"shop": shop}) == [
        "GET /orders/{id} (new): does not ask for one, but the service does",
        "GET /orders/{id} (new): asks for two, but the service does not",
        "GET /wide (wide): does not ask for three, but the service does",
        # On other hosts, it is this one that decides.
        "GET /wide (tail): does not ask for three, but the service does",
        "GET /both (shut): asks for an access token, but the service does not",
    ]


def test_routes_that_ask_for_the_same_agree(table: RouteTable) -> None:
    shop = document({"/orders/{order_id}": {"get": operation(["orders:read"])}, "/": {"get": operation()}}, "string")
    assert disagreements(table, {"shop": shop}) == []


def test_each_disagreement_is_named(table: RouteTable) -> None:
    shop = document({"/orders/{order_id}": {"get": operation(["orders:all"])}, "/": {"get": operation([])}}, "string")
    stock = document({"/v1/shelves/{n}": {"get": operation(["stock"]), "put": operation()}}, "string")
    assert disagreements(table, {"shop": shop, "stock": stock}) == [
        "GET /orders/{order_id} (order): does not ask for orders:all, but the service does",
        "GET /orders/{order_id} (order): asks for orders:read, but the service does not",
        "GET / (home): public, but the service asks for an access token",
        "GET /stock/shelves/{n} (stock): does not ask for stock, but the service does",
        "PUT /stock/shelves/{n} (stock): asks for an access token, but the service does not",
        "GET /items/{id} (item): the service does not describe it",
    ]


STAGE = """\
upstreams:
  shop: {url: "${UPSTREAM}"}
  away: {url: "unix:/nowhere/at/all"}
routes:
  - {name: home, match: {path: /home, methods: [GET]}, upstream: shop, access: public}
  - {name: away, match: {path: /away, methods: [GET]}, upstream: away, access: public}
"""


async def test_the_gateway_asks_its_services_and_leaves_out_who_does_not_answer(
    issuer: Issuer, upstream: RecordingUpstream
) -> None:
    offered = json.dumps(document({"/home": {"get": operation()}, "/secret": {"get": operation()}}, "string")).encode()
    upstream.response = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(offered), offered)
    async with GatewayHarness.open(STAGE, upstream.url, issuer.verifier()) as harness:
        merged = (await harness.client.get("/openapi.json")).json()
        assert list(merged["paths"]) == ["/home"]
        assert merged["info"]["description"].endswith(": away.")
        # Asked once, and believed for a while.
        await harness.client.get("/openapi.json")
        assert [request.target for request in upstream.requests] == ["/openapi.json"]


@pytest.mark.parametrize(
    "content",
    [b'{"paths": {"/home": {"get": {"parameters": null}}}}', b'{"paths": {}, "x": NaN}', b"[]", b"[" * 5000, b"\xff"],
)
async def test_an_odd_document_of_a_service_is_no_failure_of_the_gateway(
    issuer: Issuer, upstream: RecordingUpstream, content: bytes
) -> None:
    upstream.response = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(content), content)
    async with GatewayHarness.open(STAGE, upstream.url, issuer.verifier()) as harness:
        answer = await harness.client.get("/openapi.json")
        assert (answer.status_code, answer.json()["paths"]) == (200, {})
        assert answer.json()["info"]["description"].endswith(": away, shop.")


async def test_the_page_needs_nothing_from_elsewhere(issuer: Issuer, upstream: RecordingUpstream) -> None:
    async with GatewayHarness.open(STAGE, upstream.url, issuer.verifier()) as harness:
        page = await harness.client.get("/docs")
        assert page.headers["Content-Security-Policy"].startswith("default-src 'none'; script-src 'self';")
        icon, *links = re.findall(r'(?:src|href)="([^"]+)"', page.text)
        # Without one, browsers ask for /favicon.ico.
        assert icon == "data:,"
        assert len(links) == 3
        for link in links:
            assert link.startswith("/docs/")
            assert (await harness.client.get(link)).status_code == 200


FILES = ["/docs", "/docs/start.js", "/docs/swagger-ui-bundle.js", "/docs/swagger-ui.css", "/openapi.json"]


@pytest.mark.parametrize("path", FILES)
async def test_what_somebody_has_is_not_sent_again(issuer: Issuer, upstream: RecordingUpstream, path: str) -> None:
    async with GatewayHarness.open(STAGE, upstream.url, issuer.verifier()) as harness:
        first = await harness.client.get(path)
        assert first.headers["Cache-Control"] in {"no-cache", "public, max-age=86400"}
        tag = first.headers["ETag"]
        for known in (tag, f'"other", {tag}'):
            again = await harness.client.get(path, headers={"If-None-Match": known})
            assert (again.status_code, again.content, again.headers["ETag"]) == (304, b"", tag)
        assert (await harness.client.get(path, headers={"If-None-Match": '"other"'})).status_code == 200


@pytest.mark.parametrize(
    ("accepted", "is_packed"),
    [("gzip", True), ("br, GZIP;q=0.5", True), ("gzip;q=0", False), ("gzip;q=0.00", False), ("br", False), ("", False)],
)
@pytest.mark.parametrize("path", FILES)
async def test_it_is_packed_for_those_who_take_it_so(
    issuer: Issuer, upstream: RecordingUpstream, path: str, accepted: str, *, is_packed: bool
) -> None:
    async with GatewayHarness.open(STAGE, upstream.url, issuer.verifier()) as harness:
        answer = await harness.request(path, f"Accept-Encoding: {accepted}")
        assert answer.values("content-encoding") == (["gzip"] if is_packed else [])
        assert answer.values("vary") == ["Accept-Encoding"]
        content = gzip.decompress(answer.body) if is_packed else answer.body
        assert content == (await harness.client.get(path)).content


async def test_the_pages_can_be_turned_off(issuer: Issuer, upstream: RecordingUpstream) -> None:
    config = GatewayConfig.load({"OSTIARY_GATEWAY_DOCS": "off"})
    async with GatewayHarness.open(STAGE, upstream.url, issuer.verifier(), config=config) as harness:
        assert [(await harness.client.get(path)).status_code for path in FILES] == [404] * len(FILES)
    assert upstream.requests == []
