"""The merged OpenAPI document, the page that shows it, and whether routes agree with what services ask for."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from stage import GatewayStage, RecordingUpstream

from ostiary.testing import Issuer
from ostiary_gateway import routes_file
from ostiary_gateway.agreement import disagreements
from ostiary_gateway.api_docs import merge
from ostiary_gateway.routing import RouteTable

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
    schemas = {"Thing": {"type": thing}, "List": {"items": {"$ref": "#/components/schemas/Thing"}}, "Same": {}}
    return {"paths": paths, "components": {"schemas": schemas, "securitySchemes": {"bearer": BEARER}}}


SHOP = document(
    {
        "/orders/{order_id}": {"get": operation(["orders:read"]), "delete": operation(["orders:write"])},
        "/": {"get": operation()},
        "/internal": {"get": operation([])},
    },
    "string",
)
STOCK = document(
    {
        "/v1/shelves/{n}": {"get": operation([], "List"), "put": operation([])},
        "/v2/items/{item}/full": {"get": operation([])},
    },
    "integer",
)


@pytest.fixture
def table(tmp_path: Path) -> RouteTable:
    (tmp_path / "gateway.yaml").write_text(ROUTES)
    return RouteTable(routes_file.load(tmp_path / "gateway.yaml", {}).routes)


def test_what_is_exposed_is_in_the_document_by_its_public_path_and_nothing_else(table: RouteTable) -> None:
    merged = merge(table, {"shop": SHOP, "stock": STOCK}, "1")
    assert {path: sorted(item) for path, item in merged["paths"].items()} == {
        "/": ["get"],
        "/items/{item}": ["get"],
        "/orders/{order_id}": ["get"],
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
    for reference in re.findall(r'"\$ref": "#/components/schemas/([^"]+)"', json.dumps(merged)):
        assert reference in schemas
    content = merged["paths"]["/items/{item}"]["get"]["responses"]["200"]["content"]
    assert content["application/json"]["schema"] == {"$ref": "#/components/schemas/stock.Thing"}


@pytest.mark.parametrize(
    "odd", [{}, {"paths": []}, {"paths": {"/": []}, "components": 1}, {"paths": {"/": {"get": 1}}}]
)
def test_a_document_that_is_none_adds_nothing(table: RouteTable, odd: dict[str, Any]) -> None:
    assert merge(table, {"shop": odd}, "1")["paths"] == {}


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
    upstream.answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(offered), offered)
    async with GatewayStage.open(STAGE, upstream.url, issuer.verifier()) as stage:
        merged = (await stage.client.get("/openapi.json")).json()
        assert list(merged["paths"]) == ["/home"]
        # Asked once, and believed for a while.
        await stage.client.get("/openapi.json")
        assert [request.target for request in upstream.requests] == ["/openapi.json"]


async def test_the_page_needs_nothing_from_elsewhere(issuer: Issuer, upstream: RecordingUpstream) -> None:
    async with GatewayStage.open(STAGE, upstream.url, issuer.verifier()) as stage:
        page = await stage.client.get("/docs")
        assert page.headers["Content-Security-Policy"].startswith("default-src 'none'; script-src 'self';")
        links = re.findall(r'(?:src|href)="([^"]+)"', page.text)
        assert len(links) == 3
        for link in links:
            assert link.startswith("/docs/")
            assert (await stage.client.get(link)).status_code == 200
