"""One OpenAPI document of the services behind the gateway, of what it lets through and no more, and a page for it."""

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

from ostiary_gateway.openapi.merge import merge
from ostiary_gateway.routing.config import DOCS, DOCUMENT
from ostiary_gateway.runtime import Runtime, Snapshot
from ostiary_gateway.upstream.cluster import Cluster

_log = structlog.stdlib.get_logger("docs")

#: Seconds for a service to say what it offers, and seconds for which it is believed.
FETCH_SECONDS = 3.0
FRESH_SECONDS = 30.0

#: Seconds for which a browser does not ask for what is part of the page.
KEPT_SECONDS = 86_400

# Scripts and styles from here alone; Swagger UI puts pictures and styles into its page itself.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'self'"
)
_PAGE = f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>API</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="{DOCS}/swagger-ui.css">
<div id="ui"></div>
<script src="{DOCS}/swagger-ui-bundle.js"></script>
<script src="{DOCS}/start.js"></script>
"""
_START = f'SwaggerUIBundle({{url: "{DOCUMENT}", dom_id: "#ui", deepLinking: true, validatorUrl: null}});\n'

#: The page and what it needs, by kind.
_PARTS = {
    DOCS: "text/html",
    f"{DOCS}/start.js": "text/javascript",
    f"{DOCS}/swagger-ui-bundle.js": "text/javascript",
    f"{DOCS}/swagger-ui.css": "text/css",
}


class _File:
    """Something to serve, packed once for those who take it so."""

    def __init__(self, content: bytes, media_type: str, **headers: str) -> None:
        self._content = content
        self._packed = gzip.compress(content, compresslevel=6, mtime=0)
        self._media_type = media_type
        # A weak one: packed or not, it is the same.
        self._tag = f'W/"{sha256(content).hexdigest()[:32]}"'
        self._headers = {"ETag": self._tag, "Vary": "Accept-Encoding", "Cache-Control": "no-cache", **headers}

    def answer(self, request: Request) -> Response:
        """Return the answer to a request for it (RFC 9110 sections 12.5.3 and 13.1.2)."""
        known = {each.strip() for each in request.headers.get("if-none-match", "").split(",")}
        if self._tag in known:
            return Response(status_code=304, headers=self._headers)
        if not _takes_gzip(request.headers.get("accept-encoding", "")):
            return Response(self._content, media_type=self._media_type, headers=self._headers)
        headers = {**self._headers, "Content-Encoding": "gzip"}
        return Response(self._packed, media_type=self._media_type, headers=headers)


def _takes_gzip(accepted: str) -> bool:
    for each in accepted.lower().split(","):
        name, _, weight = each.replace(" ", "").partition(";q=")
        if name == "gzip":
            return weight.strip("0.") != "" or not weight
    return False


class ApiDocument:
    """The merged document, made anew when it is asked for and no longer fresh."""

    def __init__(self, runtime: Runtime, version: str) -> None:
        """Make it of the policy that counts."""
        self._runtime = runtime
        self._version = version
        self._made: tuple[Snapshot, float, _File] | None = None
        self._making = asyncio.Lock()

    def routes(self) -> APIRouter:
        """Return the endpoints."""
        router = APIRouter(include_in_schema=False)

        @router.get(DOCUMENT)
        async def document(request: Request) -> Response:
            return (await self._get()).answer(request)

        async def part(request: Request) -> Response:
            # To pack the largest takes a while, once.
            return (await asyncio.to_thread(_part, request.url.path)).answer(request)

        for path in _PARTS:
            router.add_api_route(path, part)
        return router

    async def _get(self) -> _File:
        """Return the document. What a service does not say, or says in a way of its own, is left out."""
        async with self._making:
            snapshot = self._runtime.current
            if self._made is not None and self._made[0] is snapshot and time.monotonic() < self._made[1]:
                return self._made[2]
            names = list(snapshot.upstreams)
            documents = await asyncio.gather(*(_fetch(snapshot.upstreams[name]) for name in names))
            found = {name: each for name, each in zip(names, documents, strict=True) if each is not None}
            missing = snapshot.upstreams.keys() - found.keys()
            # For many routes it takes a while, and requests go on.
            merged = await asyncio.to_thread(merge, snapshot.table, found, self._version, missing)
            file = _File(json.dumps(merged).encode(), "application/json")
            self._made = snapshot, time.monotonic() + FRESH_SECONDS, file
            return file


@cache
def _part(path: str) -> _File:
    """Return the page, or something that it needs."""
    if path == DOCS:
        return _File(_PAGE.encode(), _PARTS[path], **{"Content-Security-Policy": _POLICY})
    if path == f"{DOCS}/start.js":
        return _File(_START.encode(), _PARTS[path])
    content = (files("fastapi_offline") / "static" / path.rpartition("/")[2]).read_bytes()
    return _File(content, _PARTS[path], **{"Cache-Control": f"public, max-age={KEPT_SECONDS}"})


async def _fetch(upstream: Cluster) -> dict[str, Any] | None:
    """Return what a service says that it offers; None if it does not."""
    try:
        status, content = await upstream.fetch(DOCUMENT, FETCH_SECONDS)
        document = json.loads(content, parse_constant=_refuse) if status == 200 else None  # noqa: PLR2004 - HTTP
    except (OSError, ValueError, RecursionError) as error:
        _log.info("a service says nothing of what it offers", upstream=upstream.name, error=type(error).__name__)
        return None
    return document if isinstance(document, dict) else None


def _refuse(constant: str) -> None:
    """Refuse NaN and infinities, which Python reads and JSON has not."""
    raise ValueError(constant)
