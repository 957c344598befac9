"""OpenAPI documents of two services."""

from typing import Any

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


def deep(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(levels):
        value = {"a": value}
    return value


INVALID: list[dict[str, Any]] = [
    {"paths": None},
    {"paths": []},
    {"paths": {"/": []}},
    {"paths": {"/": {"get": 1}}},
    {"paths": {"/": {"get": {}}}, "components": 1},
    {"paths": {"/": {"get": {}}}, "components": {"schemas": []}},
    {"paths": {"/": {"get": {"parameters": None}}}},
    {"paths": {"/": {"parameters": None, "get": {}}}},
    {"paths": {"/": {"get": {"security": "foo"}}}},
    {"paths": {"/": {"get": {"responses": []}}}},
    {"paths": {"/": {"get": {"security": ["foo"]}}}},
    {"paths": {"/": {"get": {"security": [{"foo": "bar"}]}}}},
    {"paths": {"/": {"get": {"security": [{"foo": [1]}]}}}},
    {"paths": {"/": {"get": {}}}, "security": None},
]
