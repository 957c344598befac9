"""The endpoints for the merged OpenAPI document, and for the page that shows it."""

import asyncio
import gzip
import json
import time
from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import Any

import structlog
from fastapi import APIRouter, Request, Response

from ostiary_chassis.threads import in_thread
from ostiary_gateway.openapi.merge import merge
from ostiary_gateway.routing.config import DOCS_PATH, OPENAPI_PATH
from ostiary_gateway.runtime import Runtime, Snapshot
from ostiary_gateway.upstream.cluster import Cluster

_log = structlog.stdlib.get_logger("docs")

#: Seconds until a fetch of a service's document has timed out, and for which the merged document is cached.
FETCH_SECONDS = 3.0
CACHE_SECONDS = 30.0

#: Seconds for which browsers cache the assets of the page.
ASSET_CACHE_SECONDS = 86_400

# Scripts and styles of this origin alone; Swagger UI adds inline styles and images.
_CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'self'"
)
_PAGE = f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>API</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="{DOCS_PATH}/swagger-ui.css">
<div id="ui"></div>
<script src="{DOCS_PATH}/swagger-ui-bundle.js"></script>
<script src="{DOCS_PATH}/start.js"></script>
"""
_START = f'SwaggerUIBundle({{url: "{OPENAPI_PATH}", dom_id: "#ui", deepLinking: true, validatorUrl: null}});\n'

#: The page and its assets, with their media types.
_ASSETS = {
    DOCS_PATH: "text/html",
    f"{DOCS_PATH}/start.js": "text/javascript",
    f"{DOCS_PATH}/swagger-ui-bundle.js": "text/javascript",
    f"{DOCS_PATH}/swagger-ui.css": "text/css",
}


class _Representation:
    """Content with its entity tag, compressed once."""

    def __init__(self, content: bytes, media_type: str, **headers: str) -> None:
        self._content = content
        self._compressed = gzip.compress(content, compresslevel=6, mtime=0)
        self._media_type = media_type
        # Weak, as it is the same for both encodings.
        self._tag = f'W/"{sha256(content).hexdigest()[:32]}"'
        self._headers = {"ETag": self._tag, "Vary": "Accept-Encoding", "Cache-Control": "no-cache", **headers}

    def respond(self, request: Request) -> Response:
        """Negotiate the encoding, and honour If-None-Match (RFC 9110 sections 12.5.3 and 13.1.2)."""
        known = {each.strip() for each in request.headers.get("if-none-match", "").split(",")}
        if self._tag in known:
            return Response(status_code=304, headers=self._headers)
        if not _accepts_gzip(request.headers.get("accept-encoding", "")):
            return Response(self._content, media_type=self._media_type, headers=self._headers)
        headers = {**self._headers, "Content-Encoding": "gzip"}
        return Response(self._compressed, media_type=self._media_type, headers=headers)


def _accepts_gzip(accepted: str) -> bool:
    for each in accepted.lower().split(","):
        name, _, weight = each.replace(" ", "").partition(";q=")
        if name == "gzip":
            return weight.strip("0.") != "" or not weight
    return False


class ApiDocument:
    """The merged document, which is rebuilt on request when the cached one has expired or routes have changed."""

    def __init__(self, runtime: Runtime, version: str, session_cookie: str) -> None:
        """`session_cookie` is the name of the cookie of browser sessions; empty if there can be none."""
        self._runtime = runtime
        self._session_cookie = session_cookie
        self._version = version
        self._cached: tuple[Snapshot, float, _Representation] | None = None
        self._lock = asyncio.Lock()

    def routes(self) -> APIRouter:
        router = APIRouter(include_in_schema=False)

        @router.get(OPENAPI_PATH)
        async def document(request: Request) -> Response:
            return (await self._get()).respond(request)

        async def asset(request: Request) -> Response:
            # Compressing the largest takes time.
            return (await in_thread(_asset, request.url.path)).respond(request)

        for path in _ASSETS:
            router.add_api_route(path, asset)
        return router

    async def _get(self) -> _Representation:
        async with self._lock:
            snapshot = self._runtime.current
            if self._cached is not None and self._cached[0] is snapshot and time.monotonic() < self._cached[1]:
                return self._cached[2]
            upstreams = {name: each for name, each in snapshot.upstreams.items() if each.config.openapi}
            contents = await asyncio.gather(*map(_fetch, upstreams.values()))
            # Documents may be large, and routes many.
            built = await in_thread(self._build, snapshot, dict(zip(upstreams, contents, strict=True)))
            self._cached = snapshot, time.monotonic() + CACHE_SECONDS, built
            return built

    def _build(self, snapshot: Snapshot, contents: dict[str, bytes | None]) -> _Representation:
        documents = {name: _parse(name, content) for name, content in contents.items() if content is not None}
        found = {name: document for name, document in documents.items() if document is not None}
        missing = contents.keys() - found.keys()
        merged = merge(snapshot.table, found, self._version, missing, self._session_cookie)
        return _Representation(json.dumps(merged).encode(), "application/json")


@cache
def _asset(path: str) -> _Representation:
    if path == DOCS_PATH:
        return _Representation(_PAGE.encode(), _ASSETS[path], **{"Content-Security-Policy": _CONTENT_SECURITY_POLICY})
    if path == f"{DOCS_PATH}/start.js":
        return _Representation(_START.encode(), _ASSETS[path])
    content = (files("fastapi_offline") / "static" / path.rpartition("/")[2]).read_bytes()
    return _Representation(content, _ASSETS[path], **{"Cache-Control": f"public, max-age={ASSET_CACHE_SECONDS}"})


async def _fetch(upstream: Cluster) -> bytes | None:
    """Return what a service serves as its document; None if it serves none."""
    try:
        status, content = await upstream.fetch(OPENAPI_PATH, FETCH_SECONDS)
    except OSError as error:
        _log.info("OpenAPI document unavailable", upstream=upstream.name, error=type(error).__name__)
        return None
    return content if status == 200 else None  # noqa: PLR2004 - HTTP


def _parse(name: str, content: bytes) -> dict[str, Any] | None:
    try:
        document = json.loads(content, parse_constant=_reject)
    except (ValueError, RecursionError) as error:
        _log.info("OpenAPI document unavailable", upstream=name, error=type(error).__name__)
        return None
    return document if isinstance(document, dict) else None


def _reject(constant: str) -> None:
    """Reject NaN and infinities: Python parses them, but they are not JSON."""
    raise ValueError(constant)
