"""The path that an upstream gets, and whose access rules apply to it."""

from pathlib import Path

import pytest
from harness import (
    RecordingUpstream,
)
from route_files import bearer, errors_of, open_gateway

from ostiary.testing import Issuer

REWRITES = [
    (
        'name: api, match: {path: "/api/{rest...}", methods: [GET, POST]}, upstream: up, access: public,'
        ' rewrite: "/{rest...}"'
    ),
    "name: fixed, match: {path: /status, methods: [GET]}, upstream: up, access: public, rewrite: /internal/health",
    (
        'name: turned, match: {path: "/shops/{shop}/items/{item}", methods: [GET]}, upstream: up, access: public,'
        ' rewrite: "/items/{item}/of/{shop}"'
    ),
    (
        'name: download, match: {path: "/download/{name}.{type}", methods: [GET]}, upstream: up, access: public,'
        ' rewrite: "/files/{type}/{name}"'
    ),
    "name: admin, match: {path: /admin, methods: [GET, POST]}, upstream: up, access: {roles: [admin]}",
    'name: admins, match: {path: "/admin/{rest...}", methods: [GET, POST]}, upstream: up, access: {roles: [admin]}',
    "name: reports, match: {path: /reports, methods: [GET]}, upstream: up, access: {roles: [admin]}",
    "name: mine, match: {path: /mine, methods: [GET]}, upstream: up, access: {claims: {plan: {equals: gold}}}",
    "name: elsewhere, match: {path: /elsewhere, methods: [GET]}, upstream: other, access: {roles: [admin]}",
]
OTHER = '  other: {url: "http://127.0.0.1:9"}\n'


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("/api/orders", "/orders"),
        ("/api/orders/7/lines?a=1&b=/api/x", "/orders/7/lines?a=1&b=/api/x"),
        ("/api/api/x", "/api/x"),
        ("/api/a%20b/%C3%A4", "/a%20b/%C3%A4"),
        ("/api/x?", "/x?"),
        ("/api/", "/"),
        ("/api/x/", "/x/"),
        ("/api/x/?a", "/x/?a"),
        ("/%61pi/%c3%a4[1]", "/%C3%A4%5B1%5D"),
        ("/api/ä?ä".encode().decode("latin-1"), "/%C3%A4?%C3%A4"),
        ("/download/a.b.json", "/files/json/a.b"),
        ("/download/a%2Cb.%6Ason?x", "/files/json/a%2Cb?x"),
        ("/status", "/internal/health"),
        ("/status?deep=1", "/internal/health?deep=1"),
        ("/shops/s1/items/i%201", "/items/i%201/of/s1"),
        ("/api/elsewhere", "/elsewhere"),
    ],
)
async def test_an_upstream_gets_the_rewritten_path(
    issuer: Issuer, upstream: RecordingUpstream, target: str, expected: str
) -> None:
    async with open_gateway(issuer, upstream, *REWRITES, upstreams=OTHER) as it:
        assert (await it.request(target)).status == 200
        assert upstream.last.target == expected


@pytest.mark.parametrize(
    "target", ["/api", "/api//admin", "/api/../admin", "/api/%2e%2e/admin", "/api/%2Fadmin", "/api/x%5Cy", "/api/x;y"]
)
async def test_ambiguous_paths_are_not_rewritten(issuer: Issuer, upstream: RecordingUpstream, target: str) -> None:
    async with open_gateway(issuer, upstream, *REWRITES, upstreams=OTHER) as it:
        assert (await it.request(target)).status in {400, 404}
        assert upstream.requests == []


@pytest.mark.parametrize("target", ["/api/admin", "/api/admin/x?y", "/api/mine"])
async def test_the_access_of_a_rewritten_paths_owner_applies_too(
    issuer: Issuer, upstream: RecordingUpstream, target: str
) -> None:
    async with open_gateway(issuer, upstream, *REWRITES, upstreams=OTHER) as it:
        assert (await it.request(target)).status == 401
        assert (await it.request(target, bearer(issuer.token(roles=["user"])))).status == 403
        assert upstream.requests == []
        good = issuer.token(roles=["admin"], claims={"plan": "gold"})
        assert (await it.request(target, bearer(good))).status == 200
        assert upstream.last.target == target.removeprefix("/api")


async def test_a_rewrite_does_not_bypass_the_methods_of_the_paths_owner(
    issuer: Issuer, upstream: RecordingUpstream
) -> None:
    async with open_gateway(issuer, upstream, *REWRITES, upstreams=OTHER) as it:
        assert (await it.request("/reports", method="POST")).status == 405
        assert (await it.request("/api/reports", method="POST")).status in {401, 403, 405}
        assert upstream.requests == []


async def test_routes_to_other_upstreams_do_not_own_a_rewritten_path(
    issuer: Issuer, upstream: RecordingUpstream
) -> None:
    async with open_gateway(issuer, upstream, *REWRITES, upstreams=OTHER) as it:
        assert (await it.request("/api/elsewhere", method="POST")).status == 200


@pytest.mark.parametrize(
    ("path", "rewrite"),
    [
        ("/a/{id}", "/{other}"),
        ("/a/{id}", "/{id...}"),
        ("/a/{rest...}", "/{rest}"),
        ("/a/{id}", "/{id}/{id}"),
        ("/a", "/{id}"),
        ("/a/{rest...}", "/{rest...}/x"),
        ("/a", "a"),
        ("/a", "/../b"),
        ("/a", "/b//c"),
        ("/a", "http://other/"),
    ],
)
def test_an_invalid_rewrite_is_an_error_on_its_line(tmp_path: Path, path: str, rewrite: str) -> None:
    text = f'name: a, match: {{path: "{path}", methods: [GET]}}, upstream: up, access: public, rewrite: "{rewrite}"'
    assert "gateway.yaml:4: " in errors_of(tmp_path, text)
