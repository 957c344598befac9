"""Differences between routes and the OpenAPI documents of services."""

from pathlib import Path
from typing import Any

import pytest
from openapi_documents import INVALID, document, operation

from ostiary_gateway.openapi.diff import differences
from ostiary_gateway.openapi.merge import InvalidDocument, merge
from ostiary_gateway.routing.loader import load_file
from ostiary_gateway.routing.table import RouteTable

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


@pytest.mark.parametrize("invalid", INVALID)
def test_an_invalid_document_is_an_error_and_no_difference(table: RouteTable, invalid: dict[str, Any]) -> None:
    with pytest.raises(InvalidDocument, match="invalid OpenAPI document of shop: "):
        differences(table, {"shop": invalid})


PATTERNS = """\
upstreams:
  shop: {url: "http://shop:1"}
routes:
  - {name: report, match: {path: "/reports/{name}.json", methods: [GET]}, upstream: shop, access: public}
  - {name: cancel, match: {path: "/items/{id}:cancel", methods: [POST]}, upstream: shop, access: public,
     rewrite: "/v1/{id}/cancel"}
  - {name: users, match: {path: "/users/{id}/", methods: [GET]}, upstream: shop, access: public}
  - {name: api, match: {path: "/api/{rest...}", methods: [GET]}, upstream: shop, access: public, rewrite: "/{rest...}"}
  - {name: cafe, match: {path: "/caf%C3%A9", methods: [GET, PROPFIND]}, upstream: shop, access: public}
"""


def test_operations_of_patterns_and_paths_with_slashes_are_found(tmp_path: Path) -> None:
    (tmp_path / "gateway.yaml").write_text(PATTERNS)
    table = RouteTable(load_file(tmp_path / "gateway.yaml", {}).routes)
    paths: dict[str, Any] = {
        each: {"get": operation()}
        for each in (
            "/reports/{report}.json",
            "/reports/{report}.xml",
            "/users/{user_id}/",
            "/users/{user_id}",
            "/café",
        )
    }
    paths["/v1/{item_id}/cancel"] = {"post": operation()}
    paths["/"] = {"get": operation()}
    shop = document(paths, "string")
    assert differences(table, {"shop": shop}) == []
    assert sorted(merge(table, {"shop": shop}, "1")["paths"]) == [
        "/api/",
        "/api/caf%C3%A9",
        "/api/reports/{report}.json",
        "/api/reports/{report}.xml",
        "/api/users/{user_id}",
        "/api/users/{user_id}/",
        "/caf%C3%A9",
        "/items/{item_id}:cancel",
        "/reports/{report}.json",
        "/users/{user_id}/",
    ]


def test_routes_with_hosts_and_headers_are_compared_too(tmp_path: Path) -> None:
    (tmp_path / "gateway.yaml").write_text(HOSTED)
    table = RouteTable(load_file(tmp_path / "gateway.yaml", {}).routes)
    paths = {"/orders/{id}": operation(["one"]), "/wide": operation(["three"]), "/both": operation()}
    shop = document({path: {"get": each} for path, each in paths.items()}, "string")
    merged = merge(table, {"shop": shop}, "1")
    assert merged["paths"]["/both"]["get"]["security"] == [{}, {"bearer": []}]
    assert merged["paths"]["/orders/{id}"]["get"]["security"] == [{"bearer": ["one"]}, {"bearer": ["two"]}]
    assert merged["paths"]["/wide"]["get"]["security"] == [{"bearer": []}]
    assert differences(table, {"shop": shop}) == [
        "GET /orders/{id} (new): does not require scope one, but the service does",
        "GET /orders/{id} (new): requires scope two, but the service does not",
        "GET /wide (wide): does not require scope three, but the service does",
        # The route for other hosts.
        "GET /wide (tail): does not require scope three, but the service does",
        "GET /both (shut): requires an access token, but the service does not",
    ]


def test_equal_requirements_are_no_difference(table: RouteTable) -> None:
    shop = document({"/orders/{order_id}": {"get": operation(["orders:read"])}, "/": {"get": operation()}}, "string")
    assert differences(table, {"shop": shop}) == []


def test_each_difference_is_named(table: RouteTable) -> None:
    shop = document({"/orders/{order_id}": {"get": operation(["orders:all"])}, "/": {"get": operation([])}}, "string")
    stock = document({"/v1/shelves/{n}": {"get": operation(["stock"]), "put": operation()}}, "string")
    assert differences(table, {"shop": shop, "stock": stock}) == [
        "GET /orders/{order_id} (order): does not require scope orders:all, but the service does",
        "GET /orders/{order_id} (order): requires scope orders:read, but the service does not",
        "GET / (home): public, but the service requires an access token",
        "GET /stock/shelves/{n} (stock): does not require scope stock, but the service does",
        "PUT /stock/shelves/{n} (stock): requires an access token, but the service does not",
        "GET /items/{id} (item): not in the service's document",
    ]


OPTIONAL = """\
upstreams:
  shop: {url: "http://shop:1"}
routes:
  - {name: home, match: {path: /, methods: [GET]}, upstream: shop, access: optional}
"""


@pytest.mark.parametrize(
    ("security", "lines"),
    [
        ([], []),
        ([{}, {"bearer": []}], []),
        ([{"bearer": []}], ["GET / (home): optional, but the service requires an access token"]),
    ],
)
def test_an_optional_route_fits_a_service_that_requires_no_token(
    tmp_path: Path, security: list[dict[str, list[str]]], lines: list[str]
) -> None:
    (tmp_path / "gateway.yaml").write_text(OPTIONAL)
    table = RouteTable(load_file(tmp_path / "gateway.yaml", {}).routes)
    shop = document({"/": {"get": {**operation(), "security": security}}}, "string")
    assert differences(table, {"shop": shop}) == lines


@pytest.mark.parametrize(
    ("cookie", "lines"),
    [
        ("__Host-ostiary-token", []),
        ("ostiary-token-8080", []),
        ("sessionid", ["GET / (home): requires an access token, but the service does not"]),
    ],
)
def test_a_service_that_takes_the_cookie_of_the_session_requires_an_access_token(
    tmp_path: Path, cookie: str, lines: list[str]
) -> None:
    (tmp_path / "gateway.yaml").write_text(OPTIONAL.replace("optional", "authenticated"))
    table = RouteTable(load_file(tmp_path / "gateway.yaml", {}).routes)
    shop = document({"/": {"get": {**operation(), "security": [{"session": []}]}}}, "string")
    shop["components"]["securitySchemes"]["session"] = {"type": "apiKey", "in": "cookie", "name": cookie}
    assert differences(table, {"shop": shop}) == lines
