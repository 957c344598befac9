"""One OpenAPI document of the services behind the gateway, of what it lets through and no more, and a page for it."""

import asyncio
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from importlib.resources import files
from typing import Any

import structlog
from fastapi import APIRouter, Response

from ostiary_gateway.balancing import Upstream
from ostiary_gateway.http1 import BadMessage
from ostiary_gateway.paths import AmbiguousPath
from ostiary_gateway.policy import Policies, Policy
from ostiary_gateway.routes_file import DOCS, DOCUMENT, Requirements, Route
from ostiary_gateway.routing import NoRoute, RouteTable, WrongMethod

_log = structlog.stdlib.get_logger("docs")

#: Seconds for a service to say what it offers, and seconds for which it is believed.
FETCH_SECONDS = 3.0
FRESH_SECONDS = 30.0

_PARAMETER = re.compile(r"\{[^{}/]+\}")
_METHODS = ("get", "head", "post", "put", "patch", "delete", "options")
_BEARER = {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}

# Scripts and styles from here alone; Swagger UI puts pictures and styles into its page itself.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'self'"
)
_PAGE = f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>API</title>
<link rel="stylesheet" href="{DOCS}/swagger-ui.css">
<div id="ui"></div>
<script src="{DOCS}/swagger-ui-bundle.js"></script>
<script src="{DOCS}/start.js"></script>
"""
_START = f'SwaggerUIBundle({{url: "{DOCUMENT}", dom_id: "#ui", deepLinking: true, validatorUrl: null}});\n'


class ApiDocument:
    """The merged document, made anew when it is asked for and no longer fresh."""

    def __init__(self, policies: Policies, version: str) -> None:
        """Make it of the policy that counts."""
        self._policies = policies
        self._version = version
        self._made: tuple[Policy, float, dict[str, Any]] | None = None
        self._making = asyncio.Lock()

    async def get(self) -> dict[str, Any]:
        """Return the document. A service that does not answer is left out."""
        async with self._making:
            policy = self._policies.current
            if self._made is not None and self._made[0] is policy and time.monotonic() < self._made[1]:
                return self._made[2]
            names = list(policy.upstreams)
            documents = await asyncio.gather(*(_fetch(policy.upstreams[name]) for name in names))
            found = {name: each for name, each in zip(names, documents, strict=True) if each is not None}
            merged = merge(policy.table, found, self._version)
            self._made = policy, time.monotonic() + FRESH_SECONDS, merged
            return merged

    def routes(self) -> APIRouter:
        """Return the endpoints."""
        router = APIRouter(include_in_schema=False)

        @router.get(DOCUMENT)
        async def document() -> Response:
            return Response(json.dumps(await self.get()), media_type="application/json")

        @router.get(DOCS)
        async def page() -> Response:
            return Response(_PAGE, media_type="text/html", headers={"Content-Security-Policy": _POLICY})

        @router.get(f"{DOCS}/start.js")
        async def start() -> Response:
            return Response(_START, media_type="text/javascript")

        @router.get(f"{DOCS}/swagger-ui-bundle.js")
        async def script() -> Response:
            return Response(_static("swagger-ui-bundle.js"), media_type="text/javascript", headers=_KEPT)

        @router.get(f"{DOCS}/swagger-ui.css")
        async def style() -> Response:
            return Response(_static("swagger-ui.css"), media_type="text/css", headers=_KEPT)

        return router


_KEPT = {"Cache-Control": "public, max-age=86400"}


@cache
def _static(name: str) -> bytes:
    return (files("fastapi_offline") / "static" / name).read_bytes()


def merge(table: RouteTable, documents: Mapping[str, dict[str, Any]], version: str) -> dict[str, Any]:
    """Return one document of those of several upstreams."""
    paths: dict[str, dict[str, Any]] = {}
    components: dict[str, dict[str, Any]] = {"securitySchemes": {"bearer": _BEARER}}
    for name, document in documents.items():
        renamed = _take_components(components, name, document)
        for path, method, operation in operations(document):
            for route, public in exposures(table, name, path, method):
                described = renamed({**operation, "security": _security(route)})
                paths.setdefault(public, {}).setdefault(method, described)
    return {
        "openapi": "3.1.0",
        "info": {"title": "API", "version": version},
        "paths": dict(sorted(paths.items())),
        "components": components,
    }


def operations(document: Mapping[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield path, method and description of what a document offers."""
    paths = document.get("paths")
    for path, item in paths.items() if isinstance(paths, dict) else ():
        shared = item.get("parameters", []) if isinstance(item, dict) else []
        for method in _METHODS:
            operation = item.get(method) if isinstance(item, dict) else None
            if isinstance(operation, dict):
                yield path, method, {**operation, "parameters": [*shared, *operation.get("parameters", [])]}


def _security(route: Route) -> list[dict[str, list[str]]]:
    if route.access == "public":
        return []
    scopes = sorted(route.access.scopes) if isinstance(route.access, Requirements) else []
    return [{"bearer": scopes}]


def exposures(table: RouteTable, upstream: str, path: str, method: str) -> Iterator[tuple[Route, str]]:
    """Yield the routes by which an operation of an upstream can be reached, with the path that it then has."""
    example = _PARAMETER.sub("x", path).encode("latin-1", "replace")
    for host in sorted({host for route in table.routes for host in route.match.hosts} | {""}):
        try:
            route = table.find(method.upper(), host.removeprefix("*.").encode(), example, [])
        except (AmbiguousPath, NoRoute, WrongMethod):
            continue
        if upstream in route.upstreams and route.rewrite is None:
            yield route, path
            break
    for route in table.routes:
        if route.rewrite is not None and upstream in route.upstreams and method.upper() in route.match.methods:
            public = _unwritten(route.match.path, route.rewrite, path)
            if public is not None:
                yield route, public


def _unwritten(public: str, rewrite: str, path: str) -> str | None:
    """Return the public form of an upstream's path that a rewrite leads to, if it leads there."""
    values: dict[str, str] = {}
    wanted, given = rewrite[1:].split("/"), path[1:].split("/")
    for position, part in enumerate(wanted):
        if part.endswith("...}"):
            values[part] = "/".join(given[position:])
            given = given[: position + 1]
            if not values[part]:
                return None
        elif position >= len(given) or not (part == given[position] or part.startswith("{")):
            return None
        else:
            values[part] = given[position]
    if len(wanted) != len(given):
        return None
    return "/" + "/".join(values.get(part, part) for part in public[1:].split("/"))


def _take_components(
    components: dict[str, dict[str, Any]], upstream: str, document: Mapping[str, Any]
) -> Callable[[Any], Any]:
    """Add a document's components; return what changes references to those that had to be renamed."""
    names: dict[str, str] = {}
    taken: list[tuple[str, str, Any]] = []
    own = document.get("components")
    for kind, members in own.items() if isinstance(own, dict) else ():
        if kind == "securitySchemes" or not isinstance(members, dict):
            continue
        for name, member in members.items():
            known = components.get(kind, {}).get(name)
            new = name if known is None or known == member else f"{upstream}.{name}"
            names[f"#/components/{kind}/{name}"] = f"#/components/{kind}/{new}"
            taken.append((kind, new, member))

    def renamed(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: names.get(each, each) if key == "$ref" else renamed(each) for key, each in value.items()}
        return [renamed(each) for each in value] if isinstance(value, list) else value

    for kind, name, member in taken:
        components.setdefault(kind, {})[name] = renamed(member)
    return renamed


async def _fetch(upstream: Upstream) -> dict[str, Any] | None:
    """Return what a service says that it offers; None if it does not."""
    try:
        status, content = await upstream.pools[0].get(DOCUMENT, FETCH_SECONDS)
        document = json.loads(content) if status == 200 else None  # noqa: PLR2004 - HTTP
    except (OSError, BadMessage, ValueError, RecursionError) as error:
        _log.info("a service says nothing of what it offers", upstream=upstream.name, error=type(error).__name__)
        return None
    return document if isinstance(document, dict) else None
