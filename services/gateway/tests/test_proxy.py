"""The data path in one process: a gateway in front of an upstream that records what it gets."""

import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx
import pytest

from ostiary.testing import Issuer
from ostiary_gateway import routes_file
from ostiary_gateway.app import create_app
from ostiary_gateway.config import GatewayConfig

ROUTES = """\
upstreams:
  orders: {url: "http://orders:9000"}
routes:
  - {name: ping, match: {path: /ping, methods: [GET]}, upstream: orders, access: public}
  - {name: mine, match: {path: /orders/mine, methods: [GET]}, upstream: orders, access: authenticated}
  - {name: read, match: {path: "/orders/{id}", methods: [GET]}, upstream: orders, access: {scopes: ["orders:read"]}}
  - {name: write, match: {path: "/orders/{id}", methods: [PUT]}, upstream: orders, access: {scopes: ["orders:write"]},
     limits: {body_bytes: 100}}
  - {name: wide, match: {path: "/wide/{rest...}", methods: [GET, HEAD, POST, DELETE]}, upstream: orders, access: public}
  - {name: narrow, match: {path: /wide/admin, methods: [GET]}, upstream: orders, access: {roles: [admin]}}
  - {name: admin, match: {path: "/admin/{rest...}", methods: [GET]}, upstream: orders, access: {roles: [admin]}}
"""


class Upstream(httpx.AsyncBaseTransport):
    """Records requests and answers with what it got, or as it is told."""

    def __init__(self) -> None:
        self.requests: list[httpx.Request] = []
        self.answer: Callable[[httpx.Request], httpx.Response] | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        body = b"".join([chunk async for chunk in request.stream])  # type: ignore[union-attr]  # an async stream
        if self.answer is not None:
            return self.answer(request)
        target = request.extensions["target"].decode()
        content = json.dumps({"target": target, "body": body.decode()}).encode()
        return httpx.Response(200, headers={"X-Up": "1"}, stream=httpx.ByteStream(content))


@pytest.fixture
def upstream() -> Upstream:
    return Upstream()


@pytest.fixture
async def client(tmp_path: Path, issuer: Issuer, upstream: Upstream) -> AsyncIterator[httpx.AsyncClient]:
    (tmp_path / "gateway.yaml").write_text(ROUTES)
    routes = routes_file.load(tmp_path / "gateway.yaml", {})
    app = create_app(GatewayConfig(), routes, verifier=issuer.verifier(), transport=upstream)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url="http://gw") as client:
        yield client


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def test_a_public_route_needs_no_token(client: httpx.AsyncClient) -> None:
    response = await client.get("/ping?a=1&b=%2F..")
    assert response.json()["target"] == "/ping?a=1&b=%2F.."
    assert response.headers["X-Up"] == "1"


async def test_the_token_goes_on_to_the_service(client: httpx.AsyncClient, upstream: Upstream, issuer: Issuer) -> None:
    token = issuer.token()
    assert (await client.get("/orders/mine", headers=bearer(token))).status_code == 200
    assert upstream.requests[0].headers["Authorization"] == f"Bearer {token}"
    assert upstream.requests[0].headers["X-Forwarded-For"] == "127.0.0.1"


@pytest.mark.parametrize(
    ("method", "path", "scopes", "roles", "status"),
    [
        ("GET", "/orders/mine", (), (), 200),
        ("GET", "/orders/7", ("orders:read",), (), 200),
        ("GET", "/orders/7", ("orders:write",), (), 403),
        ("GET", "/orders/7", (), ("admin",), 403),
        ("PUT", "/orders/7", ("orders:read",), (), 403),
        ("PUT", "/orders/7", ("orders:write",), (), 200),
        ("GET", "/admin/a/b", (), ("admin",), 200),
        ("GET", "/admin/a/b", ("orders:read",), ("user",), 403),
    ],
)
async def test_a_route_says_who_may_use_it(
    client: httpx.AsyncClient,
    upstream: Upstream,
    issuer: Issuer,
    method: str,
    path: str,
    scopes: tuple[str, ...],
    roles: tuple[str, ...],
    status: int,
) -> None:
    token = issuer.token(scopes=scopes, roles=roles)
    response = await client.request(method, path, headers=bearer(token))
    assert response.status_code == status
    assert len(upstream.requests) == (status == 200)


@pytest.mark.parametrize("path", ["/orders/mine", "/orders/7", "/admin/x"])
@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer x.y.z"}, {"Authorization": "Basic YTpi"}])
async def test_nobody_gets_in_without_a_good_token(
    client: httpx.AsyncClient, upstream: Upstream, path: str, headers: dict[str, str]
) -> None:
    response = await client.get(path, headers=headers)
    assert response.status_code == 401
    assert response.headers["Content-Type"] == "application/problem+json"
    assert "WWW-Authenticate" in response.headers
    assert upstream.requests == []


@pytest.mark.parametrize(
    "target",
    ["/ping/../orders/mine", "/ping/%2e%2e/orders/mine", "/ping%2f..%2forders", "//ping", "/ping;x", "/%70ing"],
)
async def test_a_path_that_could_mean_two_things_goes_nowhere(
    client: httpx.AsyncClient, upstream: Upstream, target: str
) -> None:
    response = await _with_raw_path(client, target)
    assert (response.status_code, response.json()["code"]) == (400, "ambiguous_path")
    assert upstream.requests == []


async def _with_raw_path(client: httpx.AsyncClient, target: str) -> httpx.Response:
    """Send a path as it is; httpx would tidy it up."""
    transport = client._transport
    assert isinstance(transport, httpx.ASGITransport)
    app = transport.app

    async def with_path(scope: dict[str, object], receive: object, send: object) -> None:
        await app({**scope, "raw_path": target.encode()}, receive, send)  # type: ignore[arg-type]  # ASGI's loose types

    async with httpx.AsyncClient(transport=httpx.ASGITransport(with_path), base_url="http://gw") as raw:  # type: ignore[arg-type]  # the same
        return await raw.get("/")


async def test_what_no_route_names_is_not_there(client: httpx.AsyncClient, upstream: Upstream) -> None:
    for path in ("/", "/nothing", "/ping/", "/ping/x", "/openapi.json", "/docs"):
        response = await client.get(path)
        assert (response.status_code, response.json()["code"]) == (404, "not_found")
    assert upstream.requests == []


@pytest.mark.parametrize("method", ["HEAD", "POST", "DELETE"])
async def test_a_method_does_not_fall_through_to_a_wider_route(
    client: httpx.AsyncClient, upstream: Upstream, method: str
) -> None:
    assert (await client.request(method, "/wide/admin")).status_code == 405
    assert (await client.request(method, "/wide/other")).status_code == 200
    assert len(upstream.requests) == 1


@pytest.mark.parametrize("target", ["/%6Detrics", "/livez%0A", "/%6civez", "//metrics"])
async def test_the_gateways_own_paths_have_one_form_too(client: httpx.AsyncClient, target: str) -> None:
    assert (await _with_raw_path(client, target)).json()["code"] == "ambiguous_path"


async def test_an_upgrade_with_a_body_is_refused(client: httpx.AsyncClient, upstream: Upstream) -> None:
    response = await client.post("/wide/x", content=b"hi", headers={"Connection": "Upgrade", "Upgrade": "h2c"})
    assert (response.status_code, response.json()["code"]) == (400, "upgrade_with_body")
    assert upstream.requests == []


async def test_a_wrong_method_says_which_are_right(client: httpx.AsyncClient, issuer: Issuer) -> None:
    response = await client.delete("/orders/7", headers=bearer(issuer.token()))
    assert (response.status_code, response.headers["Allow"]) == (405, "GET, PUT")


async def test_a_body_goes_through_up_to_its_limit(client: httpx.AsyncClient, issuer: Issuer) -> None:
    async def chunks(count: int) -> AsyncIterator[bytes]:
        for _ in range(count):
            yield b"x" * 10

    writer = bearer(issuer.token(scopes=["orders:write"]))
    assert (await client.put("/orders/7", content=b"x" * 100, headers=writer)).json()["body"] == "x" * 100
    assert (await client.put("/orders/7", content=chunks(10), headers=writer)).json()["body"] == "x" * 100
    for content in (b"x" * 101, chunks(11)):
        response = await client.put("/orders/7", content=content, headers=writer)
        assert (response.status_code, response.json()["code"]) == (413, "body_too_large")


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (httpx.ConnectError("refused 10.0.0.7"), 503, "upstream_unavailable"),
        (httpx.ConnectTimeout("slow"), 503, "upstream_unavailable"),
        (httpx.PoolTimeout("full"), 503, "upstream_unavailable"),
        (httpx.ReadTimeout("slow"), 504, "upstream_timeout"),
        (httpx.RemoteProtocolError("garbage"), 502, "upstream_failed"),
        (httpx.ReadError("reset"), 502, "upstream_failed"),
        (httpx.LocalProtocolError("bad field"), 400, "invalid_request"),
        (RuntimeError("unforeseen 10.0.0.7"), 502, "upstream_failed"),
    ],
)
async def test_a_failing_upstream_is_a_problem_document(
    client: httpx.AsyncClient, upstream: Upstream, error: Exception, status: int, code: str
) -> None:
    def fail(_: httpx.Request) -> httpx.Response:
        raise error

    upstream.answer = fail
    response = await client.get("/ping")
    assert (response.status_code, response.json()["code"]) == (status, code)
    assert ("Retry-After" in response.headers) is (status == 503)
    assert "10.0.0.7" not in response.text


async def test_an_upstreams_answer_comes_as_it_is(client: httpx.AsyncClient, upstream: Upstream) -> None:
    headers = [("Content-Encoding", "gzip"), ("Set-Cookie", "a=1"), ("Set-Cookie", "b=2"), ("Location", "http://x/")]
    upstream.answer = lambda _: httpx.Response(302, headers=headers, stream=httpx.ByteStream(b""))
    response = await client.get("/ping")
    assert response.status_code == 302
    assert response.headers.get_list("Set-Cookie") == ["a=1", "b=2"]
    assert response.headers["Location"] == "http://x/"


async def test_the_request_id_is_the_same_on_both_sides(client: httpx.AsyncClient, upstream: Upstream) -> None:
    response = await client.get("/ping", headers={"X-Request-ID": "abc"})
    assert response.headers["X-Request-ID"] == upstream.requests[0].headers["X-Request-ID"] == "abc"


async def test_metrics_have_the_routes_template(client: httpx.AsyncClient, issuer: Issuer) -> None:
    await client.get("/orders/12345", headers=bearer(issuer.token(scopes=["orders:read"])))
    text = (await client.get("/metrics")).text
    assert 'route="/orders/{id}",status="200"' in text
    assert "12345" not in text


async def test_without_keys_it_is_not_the_tokens_fault(tmp_path: Path, issuer: Issuer, upstream: Upstream) -> None:
    (tmp_path / "gateway.yaml").write_text(ROUTES)
    routes = routes_file.load(tmp_path / "gateway.yaml", {})
    app = create_app(GatewayConfig(), routes, transport=upstream)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gw") as client:
        response = await client.get("/orders/mine", headers=bearer(issuer.token()))
        assert (response.status_code, json.loads(response.text)["code"]) == (503, "keys_unavailable")
        assert (await client.get("/readyz")).status_code == 503
        assert (await client.get("/ping")).status_code == 200
