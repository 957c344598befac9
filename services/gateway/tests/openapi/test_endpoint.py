"""The endpoints for the merged OpenAPI document and its page."""

import gzip
import json
import re
import threading
from collections.abc import Callable
from typing import Any

import pytest
from harness import GatewayHarness, RecordingUpstream
from openapi_documents import document, operation
from route_files import routes_file

from ostiary.testing import Issuer
from ostiary_gateway.config import GatewayConfig
from ostiary_gateway.openapi import endpoint

STAGE = """\
upstreams:
  shop: {url: "${UPSTREAM}"}
  away: {url: "unix:/nowhere/at/all"}
  pages: {url: "unix:/nowhere/either", openapi: false}
routes:
  - {name: home, match: {path: /home, methods: [GET]}, upstream: shop, access: public}
  - {name: away, match: {path: /away, methods: [GET]}, upstream: away, access: public}
"""


async def test_unavailable_services_are_left_out_of_the_document(issuer: Issuer, upstream: RecordingUpstream) -> None:
    offered = json.dumps(document({"/home": {"get": operation()}, "/secret": {"get": operation()}}, "string")).encode()
    upstream.response = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(offered), offered)
    async with GatewayHarness.open(STAGE, upstream.url, issuer.verifier()) as harness:
        merged = (await harness.client.get("/openapi.json")).json()
        assert list(merged["paths"]) == ["/home"]
        assert merged["info"]["description"].endswith(": away.")
        # Asked once, and believed for a while; who has no document is not asked.
        await harness.client.get("/openapi.json")
        assert [request.target for request in upstream.requests] == ["/openapi.json"]


async def test_browser_sessions_have_a_scheme_with_the_issuers_cookie(
    issuer: Issuer, upstream: RecordingUpstream
) -> None:
    offered = json.dumps(document({"/home": {"get": operation()}}, "string")).encode()
    upstream.response = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(offered), offered)
    stage = STAGE.replace("public", "authenticated") + "browser: {upstream: away}\n"
    config = GatewayConfig.load({"OSTIARY_ISSUER": "https://gw"})
    async with GatewayHarness.open(stage, upstream.url, issuer.verifier(), config=config) as harness:
        merged = (await harness.client.get("/openapi.json")).json()
    assert merged["paths"]["/home"]["get"]["security"] == [{"bearer": []}, {"cookie": []}]
    assert merged["components"]["securitySchemes"]["cookie"]["name"] == "__Host-ostiary-session"


@pytest.mark.parametrize(
    "content",
    [b'{"paths": {"/home": {"get": {"parameters": null}}}}', b'{"paths": {}, "x": NaN}', b"[]", b"[" * 5000, b"\xff"],
)
async def test_invalid_documents_are_left_out(issuer: Issuer, upstream: RecordingUpstream, content: bytes) -> None:
    upstream.response = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(content), content)
    async with GatewayHarness.open(STAGE, upstream.url, issuer.verifier()) as harness:
        answer = await harness.client.get("/openapi.json")
        assert (answer.status_code, answer.json()["paths"]) == (200, {})
        assert answer.json()["info"]["description"].endswith(": away, shop.")


async def test_the_page_uses_assets_of_its_own_origin_only(issuer: Issuer, upstream: RecordingUpstream) -> None:
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
async def test_a_known_entity_tag_gets_304(issuer: Issuer, upstream: RecordingUpstream, path: str) -> None:
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
async def test_responses_are_compressed_if_the_client_accepts_it(
    issuer: Issuer, upstream: RecordingUpstream, path: str, accepted: str, *, is_packed: bool
) -> None:
    async with GatewayHarness.open(STAGE, upstream.url, issuer.verifier()) as harness:
        answer = await harness.request(path, f"Accept-Encoding: {accepted}")
        assert answer.values("content-encoding") == (["gzip"] if is_packed else [])
        assert answer.values("vary") == ["Accept-Encoding"]
        content = gzip.decompress(answer.body) if is_packed else answer.body
        assert content == (await harness.client.get(path)).content


async def test_document_and_page_can_be_turned_off(issuer: Issuer, upstream: RecordingUpstream) -> None:
    config = GatewayConfig.load({"OSTIARY_GATEWAY_DOCS": "off", "OSTIARY_ISSUER": "http://gw"})
    async with GatewayHarness.open(STAGE, upstream.url, issuer.verifier(), config=config) as harness:
        assert [(await harness.client.get(path)).status_code for path in FILES] == [404] * len(FILES)
    assert upstream.requests == []


async def test_without_the_gateways_a_service_may_have_them(issuer: Issuer, upstream: RecordingUpstream) -> None:
    config = GatewayConfig.load({"OSTIARY_GATEWAY_DOCS": "off", "OSTIARY_ISSUER": "http://gw"})
    route = 'name: all, match: {path: "/{rest...}", methods: [GET]}, upstream: up, access: public'
    async with GatewayHarness.open(routes_file(route), upstream.url, issuer.verifier(), config=config) as harness:
        assert [(await harness.client.get(path)).status_code for path in FILES] == [200] * len(FILES)
        assert (await harness.client.get("/livez")).status_code == 200
    assert [request.target for request in upstream.requests] == list(FILES)


async def test_large_documents_are_parsed_merged_and_compressed_off_the_event_loop(
    issuer: Issuer, upstream: RecordingUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    upstream.response = b"HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\n" + b'{"paths": {}}'
    places: list[bool] = []

    def watched(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            places.append(threading.current_thread() is threading.main_thread())
            return function(*args, **kwargs)

        return call

    async with GatewayHarness.open(STAGE, upstream.url, issuer.verifier()) as harness:
        for name in ("_parse", "merge", "_Representation"):
            whole = f"ostiary_gateway.openapi.endpoint.{name}"
            monkeypatch.setattr(whole, watched(getattr(endpoint, name)))
        assert (await harness.client.get("/openapi.json")).status_code == 200
    assert places == [False, False, False]
