"""The errors in each service's OpenAPI document: problem documents, with the statuses that an operation returns."""

from collections.abc import Iterator, Mapping
from copy import deepcopy
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI

from ostiary.fastapi import PROBLEM_CONTENT, PROBLEM_SCHEMA, extend_openapi

_JSON = "application/json"

#: The framework's error schemas, which no response has.
_UNUSED_SCHEMAS = ("HTTPValidationError", "ValidationError")

_DESCRIPTIONS = {
    400: "The body is malformed.",
    401: "The credentials are invalid.",
    404: "The resource does not exist.",
    409: "The request conflicts with the resource's state.",
    412: "The resource has changed since it was read.",
    413: "The body is too large.",
    415: "The body has the wrong media type.",
    422: "The request is invalid; `errors` lists the fields.",
    429: "Too many attempts; retry after Retry-After seconds.",
    503: "The service is unavailable; retry after Retry-After seconds.",
}


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the `responses` of a route that can return problems with these statuses."""
    return {status: _response(status) for status in statuses}


def document_errors(app: FastAPI) -> None:
    """Add to each operation in the OpenAPI document the errors that follow from its body and parameters."""
    extend_openapi(app, _add_errors)


def document_paths(app: FastAPI, paths: Mapping[str, Any], security_schemes: Mapping[str, Any]) -> None:
    """Add to the OpenAPI document paths that the framework cannot describe."""

    def add(document: dict[str, Any]) -> None:
        ours = deepcopy(dict(paths))
        for operation in _operations(ours):
            _add_responses(operation)
        document["paths"].update(ours)
        document.setdefault("components", {}).setdefault("securitySchemes", {}).update(security_schemes)

    extend_openapi(app, add)


def _add_errors(document: dict[str, Any]) -> None:
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    schemas["Problem"] = PROBLEM_SCHEMA
    for name in _UNUSED_SCHEMAS:
        schemas.pop(name, None)
    for operation in _operations(document.get("paths", {})):
        operation["responses"].pop("422", None)
        _add_responses(operation)


def _add_responses(operation: dict[str, Any]) -> None:
    for status in _statuses(operation):
        operation["responses"].setdefault(str(status), _response(status))


def _operations(paths: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for path in paths.values():
        yield from path.values()


def _statuses(operation: dict[str, Any]) -> list[int]:
    content = operation.get("requestBody", {}).get("content", {})
    body = [413, 400, 415, 422] if _JSON in content else [413] if content else []
    parameters = [422] if operation.get("parameters") else []
    return [*body, *parameters, 503]


def _response(status: int) -> dict[str, Any]:
    return {"description": _DESCRIPTIONS.get(status, HTTPStatus(status).phrase), "content": PROBLEM_CONTENT}
