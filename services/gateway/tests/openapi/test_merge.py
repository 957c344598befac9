"""The merged OpenAPI document."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import structlog.testing
from openapi_documents import BEARER, INVALID, SHOP, STOCK, deep, document, operation

from ostiary_gateway.openapi.merge import merge
from ostiary_gateway.routing.loader import load_file
from ostiary_gateway.routing.table import RouteTable


def test_exactly_the_exposed_operations_are_in_the_document(table: RouteTable) -> None:
    merged = merge(table, {"shop": SHOP, "stock": STOCK}, "1")
    assert {path: sorted(item) for path, item in merged["paths"].items()} == {
        "/": ["get"],
        "/items/{item}": ["get"],
        "/orders/{order_id}": ["get"],
        "/stock/same": ["get"],
        "/stock/shelves/{n}": ["get", "put"],
    }


def test_operations_have_the_gateways_security_requirements(table: RouteTable) -> None:
    paths = merge(table, {"shop": SHOP, "stock": STOCK}, "1")["paths"]
    assert paths["/"]["get"]["security"] == []
    assert paths["/orders/{order_id}"]["get"]["security"] == [{"bearer": ["orders:read"]}]
    assert paths["/stock/shelves/{n}"]["get"]["security"] == [{"bearer": []}]


def test_operations_have_the_answers_that_the_gateway_gives_itself(table: RouteTable) -> None:
    merged = merge(table, {"shop": SHOP, "stock": STOCK}, "1")
    statuses = {
        (path, method): set(operation["responses"])
        for path, item in merged["paths"].items()
        for method, operation in item.items()
    }
    always = {"400", "404", "408", "414", "421", "431", "501", "502", "503", "504", "505"}
    assert statuses["/", "get"] == {"200"} | always
    assert statuses["/orders/{order_id}", "get"] == {"200", "401", "403"} | always
    assert statuses["/stock/shelves/{n}", "put"] == {"200", "401", "403", "413"} | always
    for path, method in statuses:
        for status, response in merged["paths"][path][method]["responses"].items():
            if status != "200":
                name = response["$ref"].rpartition("/")[2]
                assert list(merged["components"]["responses"][name]["content"]) == ["application/problem+json"]


def test_what_a_service_says_of_its_answers_stays(table: RouteTable) -> None:
    own = {"description": "No such order.", "content": {"application/problem+json": {}}}
    other = {"$ref": "#/components/responses/gateway.400"}
    responses = {"404": own, "400": other}
    described = {"paths": {"/": {"get": {"responses": responses}}}, "components": {"responses": {"gateway.400": own}}}
    merged = merge(table, {"shop": described}, "1")
    assert merged["paths"]["/"]["get"]["responses"]["404"] == own
    # A component of the same name is another one.
    assert merged["paths"]["/"]["get"]["responses"]["400"] == {"$ref": "#/components/responses/shop.gateway.400"}
    assert merged["components"]["responses"]["shop.gateway.400"] == own


def test_different_components_of_the_same_name_are_renamed(table: RouteTable) -> None:
    merged = merge(table, {"shop": SHOP, "stock": STOCK}, "1")
    schemas = merged["components"]["schemas"]
    assert (schemas["Thing"], schemas["stock.Thing"]) == ({"type": "string"}, {"type": "integer"})
    assert list(schemas).count("Same") == 1
    assert schemas["List"] == {"items": {"$ref": "#/components/schemas/stock.Thing"}}
    for reference in re.findall(r'"\$ref": "#/components/schemas/([^"]+)"', json.dumps(merged)):
        assert reference in schemas
    content = merged["paths"]["/items/{item}"]["get"]["responses"]["200"]["content"]
    assert content["application/json"]["schema"] == {"$ref": "#/components/schemas/stock.Thing"}


def test_a_component_that_refers_to_a_renamed_one_is_renamed(table: RouteTable) -> None:
    shop = document({"/": {"get": operation(schema="List")}}, "string")
    stock = document({"/v1/shelves": {"get": operation([], "List")}}, "integer")
    schemas = merge(table, {"shop": shop, "stock": stock}, "1")["components"]["schemas"]
    assert schemas["List"] == {"items": {"$ref": "#/components/schemas/Thing"}}
    assert schemas["stock.List"] == {"items": {"$ref": "#/components/schemas/stock.Thing"}}


def test_unreferenced_components_are_left_out(table: RouteTable) -> None:
    merged = merge(table, {"shop": SHOP, "stock": STOCK}, "1")
    assert "Internal" not in merged["components"]["schemas"]
    assert set(merged["components"]["securitySchemes"]) == {"bearer"}


def test_public_routes_have_the_services_security_requirements(table: RouteTable) -> None:
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


def test_operation_ids_are_unique(table: RouteTable) -> None:
    shop = {"paths": {"/": {"get": {"operationId": "read"}}, "/orders/{id}": {"get": {"operationId": "read"}}}}
    stock = {"paths": {"/v1/a": {"get": {"operationId": "read"}, "put": {"operationId": "write"}}}}
    paths = merge(table, {"shop": shop, "stock": stock}, "1")["paths"]
    names = [operation["operationId"] for item in paths.values() for operation in item.values()]
    assert sorted(names) == ["read", "shop.read", "stock.read", "write"]


@pytest.mark.parametrize("invalid", [*INVALID, {"paths": {"/": {"get": deep(200)}}}])
def test_an_invalid_document_is_left_out_and_logged(table: RouteTable, invalid: dict[str, Any]) -> None:
    with structlog.testing.capture_logs() as logged:
        merged = merge(table, {"shop": invalid, "stock": STOCK}, "1", {"away"})
    assert sorted(merged["paths"]) == ["/items/{item}", "/stock/same", "/stock/shelves/{n}"]
    assert merged["info"]["description"].endswith(": away, shop.")
    assert [(entry["log_level"], entry["upstream"]) for entry in logged] == [("warning", "shop")]


def test_a_property_may_have_the_name_of_a_reference(table: RouteTable) -> None:
    described = {"requestBody": {"schema": {"properties": {"$ref": {"type": "string"}}}}}
    others = document({"/v1/a": {"get": operation([])}}, "integer")
    others["paths"]["/v1/a"]["get"] |= described
    merged = merge(table, {"shop": SHOP, "stock": others}, "1")
    assert merged["paths"]["/stock/a"]["get"]["requestBody"] == described["requestBody"]


COOKIE = "__Host-ostiary-session"

SESSIONS = """\
upstreams:
  shop: {url: "http://shop:1"}
browser: {upstream: shop}
routes:
  - {name: home, match: {path: /, methods: [GET]}, upstream: shop, access: optional}
  - {name: order, match: {path: "/orders/{id}", methods: [GET]}, upstream: shop, access: {scopes: ["orders:read"]}}
  - {name: write, match: {path: "/orders/{id}", methods: [DELETE]}, upstream: shop, access: authenticated,
     credentials: [cookie]}
  - {name: internal, match: {path: /internal, methods: [GET]}, upstream: shop, access: public}
"""


def sessions(tmp_path: Path, text: str = SESSIONS) -> RouteTable:
    (tmp_path / "gateway.yaml").write_text(text)
    return RouteTable(load_file(tmp_path / "gateway.yaml", {}).routes)


def test_routes_that_take_cookies_have_a_scheme_for_them(tmp_path: Path) -> None:
    merged = merge(sessions(tmp_path), {"shop": SHOP}, "1", session_cookie=COOKIE)
    paths = merged["paths"]
    assert paths["/"]["get"]["security"] == [{"bearer": []}, {"cookie": []}, {}]
    order = paths["/orders/{order_id}"]
    assert order["get"]["security"] == [{"bearer": ["orders:read"]}, {"cookie": ["orders:read"]}]
    assert order["delete"]["security"] == [{"cookie": []}]
    assert paths["/internal"]["get"]["security"] == [{"shop.bearer": []}]
    scheme = merged["components"]["securitySchemes"]["cookie"]
    assert (scheme["type"], scheme["in"], scheme["name"]) == ("apiKey", "cookie", COOKIE)


def test_without_browser_sessions_there_is_no_such_scheme(table: RouteTable, tmp_path: Path) -> None:
    for each in (table, sessions(tmp_path, re.sub("browser.*\n|,\n     credentials.*(?=})", "", SESSIONS))):
        assert "cookie" not in merge(each, {"shop": SHOP}, "1", session_cookie=COOKIE)["components"]["securitySchemes"]


def test_a_services_own_scheme_of_that_name_is_renamed(tmp_path: Path) -> None:
    shop = document({"/internal": {"get": {"security": [{"cookie": []}]}}}, "string")
    shop["components"]["securitySchemes"]["cookie"] = own = {"type": "apiKey", "in": "cookie", "name": "sid"}
    merged = merge(sessions(tmp_path), {"shop": shop}, "1", session_cookie=COOKIE)
    assert merged["paths"]["/internal"]["get"]["security"] == [{"shop.cookie": []}]
    assert merged["components"]["securitySchemes"]["shop.cookie"] == own
