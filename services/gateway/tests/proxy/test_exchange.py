"""Requests from client to upstream and back: admission, relay, failures."""

import asyncio
import json
from collections.abc import AsyncIterator

import httpx
import pytest
from harness import (
    CapturedAccessLog,
    Clock,
    GatewayHarness,
    ReceivedRequest,
    RecordingUpstream,
    parse_responses,
    respond_and_close,
)
from route_files import open_gateway

from ostiary.testing import Issuer

ROUTES = """\
upstreams:
  orders: {url: "${UPSTREAM}"}
routes:
  - {name: ping, match: {path: /ping, methods: [GET]}, upstream: orders, access: public,
     timeouts: {first_byte: 0.2, idle: 0.2}}
  - {name: mine, match: {path: /orders/mine, methods: [GET]}, upstream: orders, access: authenticated}
  - {name: read, match: {path: "/orders/{id}", methods: [GET]}, upstream: orders, access: {scopes: ["orders:read"]}}
  - {name: write, match: {path: "/orders/{id}", methods: [PUT]}, upstream: orders, access: {scopes: ["orders:write"]},
     limits: {body_bytes: 100}}
  - {name: wide, match: {path: "/wide/{rest...}", methods: [GET, HEAD, POST, DELETE]}, upstream: orders, access: public}
  - {name: narrow, match: {path: /wide/admin, methods: [GET]}, upstream: orders, access: {roles: [admin]}}
  - {name: admin, match: {path: "/admin/{rest...}", methods: [GET]}, upstream: orders, access: {roles: [admin]}}
"""


@pytest.fixture
def client(harness: GatewayHarness) -> httpx.AsyncClient:
    return harness.client


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def test_a_public_route_needs_no_token(client: httpx.AsyncClient) -> None:
    response = await client.get("/ping?a=1&b=%2F..")
    assert response.json()["target"] == "/ping?a=1&b=%2F.."
    assert response.headers["X-Up"] == "1"


async def test_the_token_is_forwarded(client: httpx.AsyncClient, upstream: RecordingUpstream, issuer: Issuer) -> None:
    token = issuer.token()
    assert (await client.get("/orders/mine", headers=bearer(token))).status_code == 200
    assert upstream.last.values("authorization") == [f"Bearer {token}"]
    assert upstream.last.values("x-forwarded-for") == ["unknown"]


async def test_admission_is_decided_for_each_request(
    harness: GatewayHarness, upstream: RecordingUpstream, issuer: Issuer
) -> None:
    token = issuer.token(scopes=["orders:read"]).encode()
    requests = [(b"GET /orders/7", 200), (b"PUT /orders/7", 403), (b"GET /admin/a", 403), (b"GET /wide/admin", 403)]
    socket = await harness.connect()
    for _ in range(3):
        for start, _ in requests:
            socket.send(b"%b HTTP/1.1\r\nHost: gw\r\nAuthorization: Bearer %b\r\n\r\n" % (start, token))
    socket.send(b"GET /ping HTTP/1.1\r\nHost: gw\r\nConnection: close\r\n\r\n")
    responses = parse_responses(await socket.wait_closed(), *["GET"] * 13)
    assert [answer.status for answer in responses] == [status for _, status in requests] * 3 + [200]
    assert [request.target for request in upstream.requests] == ["/orders/7"] * 3 + ["/ping"]


@pytest.mark.parametrize("agent", ["kube-probe/1.31", "ELB-HealthChecker/2.0", "GoogleHC/1.0", "Prometheus/3.0"])
async def test_health_check_headers_grant_no_access(
    client: httpx.AsyncClient, upstream: RecordingUpstream, agent: str
) -> None:
    for path in ("/orders/mine", "/admin/health", "/orders/livez"):
        assert (await client.get(path, headers={"User-Agent": agent, "X-Health-Check": "1"})).status_code == 401
    assert upstream.requests == []


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
async def test_a_route_requires_its_roles_and_scopes(
    client: httpx.AsyncClient,
    upstream: RecordingUpstream,
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
async def test_invalid_tokens_are_rejected(
    client: httpx.AsyncClient, upstream: RecordingUpstream, path: str, headers: dict[str, str]
) -> None:
    response = await client.get(path, headers=headers)
    assert response.status_code == 401
    assert response.headers["Content-Type"] == "application/problem+json"
    assert "WWW-Authenticate" in response.headers
    assert upstream.connections == []


async def test_two_tokens_are_rejected(harness: GatewayHarness, upstream: RecordingUpstream, issuer: Issuer) -> None:
    authorization = f"Authorization: Bearer {issuer.token()}"
    assert (await harness.request("/orders/mine", authorization)).status == 200
    assert (await harness.request("/orders/mine", authorization, authorization)).status in {400, 401}
    assert len(upstream.requests) == 1


@pytest.mark.parametrize(
    "target",
    ["/ping/../orders/mine", "/ping/%2e%2e/orders/mine", "/ping%00", "/ping%zz", "/ping/%FF"],
)
async def test_ambiguous_paths_are_rejected(harness: GatewayHarness, upstream: RecordingUpstream, target: str) -> None:
    answer = await harness.request(target)
    assert (answer.status, answer.code) == (400, "ambiguous_path")
    assert upstream.connections == []


@pytest.mark.parametrize(
    ("target", "character"),
    [("/ping%2f..%2forders", "/"), ("//ping", "//"), ("/ping;x", ";"), ("/ping/a%23", "#"), ("/a\\b", "\\")],
)
async def test_a_character_with_two_meanings_is_rejected_with_its_name(
    harness: GatewayHarness, upstream: RecordingUpstream, target: str, character: str
) -> None:
    answer = await harness.request(target)
    assert (answer.status, answer.code) == (400, "encoded_character")
    problem = json.loads(answer.body)
    assert problem["character"] == character
    assert f"'{character}'" in problem["detail"]
    assert "'allows_encoded'" in problem["detail"]
    assert upstream.connections == []


async def test_a_path_that_is_too_long_is_rejected(harness: GatewayHarness, upstream: RecordingUpstream) -> None:
    answer = await harness.request("/ping" + "x" * 9000)
    assert (answer.status, answer.code) == (414, "path_too_long")
    assert upstream.connections == []


async def test_paths_without_a_route_are_not_found(client: httpx.AsyncClient, upstream: RecordingUpstream) -> None:
    for path in ("/", "/nothing", "/ping/", "/ping/x", "/openapi", "/docs/"):
        response = await client.get(path)
        assert (response.status_code, response.json()["code"]) == (404, "not_found")
    assert upstream.connections == []


@pytest.mark.parametrize("method", ["POST", "DELETE"])
async def test_a_wrong_method_does_not_fall_through_to_a_wider_route(
    client: httpx.AsyncClient, upstream: RecordingUpstream, method: str
) -> None:
    assert (await client.request(method, "/wide/admin")).status_code == 405
    assert (await client.request(method, "/wide/other")).status_code == 200
    assert len(upstream.requests) == 1


@pytest.mark.parametrize("method", ["PROPFIND", "REPORT", "QUERY", "MKCOL", "M-SEARCH", "x-custom.1", "Purge"])
async def test_any_method_that_a_route_lists_is_forwarded(
    issuer: Issuer, upstream: RecordingUpstream, method: str
) -> None:
    routes = f"name: dav, match: {{path: '/dav/{{r...}}', methods: [{method}]}}, upstream: up, access: public"
    async with open_gateway(issuer, upstream, routes) as it:
        log = CapturedAccessLog(it)
        answer = await it.request("/dav/", "Content-Length: 6", "Depth: 1", method=method, body=b"<prop>")
        assert (answer.status, answer.is_complete) == (200, True)
        assert (upstream.last.method, upstream.last.target, upstream.last.body) == (method, "/dav/", b"<prop>")
        other = await it.request("/dav/", method=method.swapcase())
        assert (other.status, other.values("allow")) == (405, [", ".join(sorted({method, "OPTIONS"}))])
        assert [line["method"] for line in log.lines] == [method, "other"]


@pytest.mark.parametrize(("target", "status"), [("/%6civez", 200), ("/livez%0A", 400), ("//livez", 400)])
async def test_the_gateways_own_paths_have_spellings_like_others(
    harness: GatewayHarness, target: str, status: int
) -> None:
    assert (await harness.request(target)).status == status


@pytest.mark.parametrize("target", ["http://gw/ping?a", "HTTP://GW/ping?a"])
async def test_an_absolute_target_with_the_same_host_is_accepted(
    harness: GatewayHarness, upstream: RecordingUpstream, target: str
) -> None:
    assert (await harness.request(target)).status == 200
    assert (upstream.last.target, upstream.last.values("x-forwarded-host")) == ("/ping?a", ["gw"])


@pytest.mark.parametrize(
    "target", ["http://other/ping", "http://u@gw/ping", "ftp://gw/ping", "gw:80", "*", "http://", "/ping#x", "ping"]
)
async def test_an_absolute_target_with_another_host_is_rejected(
    harness: GatewayHarness, upstream: RecordingUpstream, target: str
) -> None:
    assert (await harness.request(target)).status == 400
    assert upstream.connections == []


async def test_an_upgrade_offer_does_not_hide_a_body(harness: GatewayHarness, upstream: RecordingUpstream) -> None:
    offer = ("Connection: Upgrade", "Upgrade: h2c", "Content-Length: 2")
    answer = await harness.request("/wide/x", *offer, method="POST", body=b"hi")
    if answer.status == 400:
        assert answer.code == "upgrade_with_body"
        assert upstream.connections == []
    else:
        assert (answer.status, upstream.last.body) == (200, b"hi")
        assert upstream.last.values("upgrade") == upstream.last.values("connection") == []


async def test_a_wrong_method_is_answered_with_the_allowed_ones(client: httpx.AsyncClient, issuer: Issuer) -> None:
    response = await client.delete("/orders/7", headers=bearer(issuer.token()))
    assert (response.status_code, response.headers["Allow"]) == (405, "GET, HEAD, OPTIONS, PUT")


async def test_a_get_route_takes_head(harness: GatewayHarness, upstream: RecordingUpstream, issuer: Issuer) -> None:
    upstream.response = b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\nETag: x\r\n\r\n"
    authorization = f"Authorization: Bearer {issuer.token(scopes=['orders:read'])}"
    answer = await harness.request("/orders/7", authorization, method="HEAD")
    assert (answer.status, answer.values("content-length"), answer.values("etag"), answer.body) == (
        200,
        ["7"],
        ["x"],
        b"",
    )
    assert upstream.last.method == "HEAD"


@pytest.mark.parametrize(("scopes", "status"), [((), 403), (("orders:write",), 403)])
async def test_head_is_authorised_as_get(
    client: httpx.AsyncClient, upstream: RecordingUpstream, issuer: Issuer, scopes: tuple[str, ...], status: int
) -> None:
    assert (await client.head("/orders/7", headers=bearer(issuer.token(scopes=scopes)))).status_code == status
    assert (await client.head("/orders/7")).status_code == 401
    assert (await client.head("/wide/admin", headers=bearer(issuer.token(scopes=scopes)))).status_code == status
    assert upstream.requests == []


@pytest.mark.parametrize(
    ("target", "allow"),
    [
        ("/orders/7", "GET, HEAD, OPTIONS, PUT"),
        ("/wide/x", "DELETE, GET, HEAD, OPTIONS, POST"),
        ("/livez", "GET, HEAD, OPTIONS"),
        ("/openapi.json", "GET, HEAD, OPTIONS"),
        ("*", "DELETE, GET, HEAD, OPTIONS, POST, PUT"),
    ],
)
@pytest.mark.parametrize("lines", [(), ("Origin: https://shop.example",)])
async def test_options_that_no_route_takes_is_answered_with_the_allowed_methods(
    harness: GatewayHarness, upstream: RecordingUpstream, lines: tuple[str, ...], target: str, allow: str
) -> None:
    answer = await harness.request(target, *lines, method="OPTIONS")
    assert (answer.status, answer.values("allow"), answer.body) == (204, [allow], b"")
    assert answer.values("content-length") == []
    assert upstream.connections == []


@pytest.mark.parametrize(("target", "status"), [("/nothing", 404), ("/wide//x", 400)])
async def test_options_for_a_path_without_routes_is_rejected(harness: GatewayHarness, target: str, status: int) -> None:
    assert (await harness.request(target, method="OPTIONS")).status == status


async def test_bodies_are_limited(client: httpx.AsyncClient, issuer: Issuer) -> None:
    async def chunks(count: int) -> AsyncIterator[bytes]:
        for _ in range(count):
            yield b"x" * 10

    writer = bearer(issuer.token(scopes=["orders:write"]))
    assert (await client.put("/orders/7", content=b"x" * 100, headers=writer)).json()["body"] == "x" * 100
    assert (await client.put("/orders/7", content=chunks(10), headers=writer)).json()["body"] == "x" * 100
    for content in (b"x" * 101, chunks(11)):
        response = await client.put("/orders/7", content=content, headers=writer)
        assert (response.status_code, response.json()["code"]) == (413, "body_too_large")


def check_failure(response: httpx.Response, status: int, code: str) -> None:
    assert (response.status_code, response.json()["code"]) == (status, code)
    assert ("Retry-After" in response.headers) is (status == 503)
    assert "gw-" not in response.text, "the response shows the upstream's address"


async def test_an_unreachable_upstream_is_unavailable(issuer: Issuer) -> None:
    async with GatewayHarness.open(ROUTES, "unix:/tmp/gw-no-such-socket", issuer.verifier()) as harness:
        check_failure(await harness.client.get("/ping"), 503, "upstream_unavailable")
        check_failure(await harness.client.post("/wide/x", content=b"hi"), 503, "upstream_unavailable")


async def test_a_silent_upstream_times_out(
    client: httpx.AsyncClient, upstream: RecordingUpstream, clock: Clock
) -> None:
    async def wait(request: ReceivedRequest, _: asyncio.StreamWriter) -> None:
        clock.skip(0.3)
        await request.connection.wait_closed()

    upstream.response = wait
    check_failure(await client.get("/ping"), 504, "upstream_timeout")


@pytest.mark.parametrize(
    "data",
    [
        b"garbage\r\n\r\n",
        b"\x16\x03\x01\x02\x00\n\n",
        b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
        b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1, 2\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n folded\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: y\r\nContent-Length : 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70_000 + b"\r\n\r\n",
    ],
)
async def test_an_invalid_response_is_a_failure(
    client: httpx.AsyncClient, upstream: RecordingUpstream, data: bytes
) -> None:
    upstream.response = data
    check_failure(await client.get("/ping"), 502, "upstream_failed")


@pytest.mark.parametrize("data", [b"", b"HT", b"HTTP/1.1 200 OK\r\nContent-Le", b"HTTP/1.1 103 Early\r\n\r\n"])
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_an_upstream_that_closes_before_it_responds_is_a_failure(
    client: httpx.AsyncClient, upstream: RecordingUpstream, method: str, data: bytes
) -> None:
    upstream.response = respond_and_close(data)
    check_failure(await client.request(method, "/wide/x"), 502, "upstream_failed")
    assert len(upstream.requests) == 1


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n8\r\nhalf",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n0\r\n",
    ],
)
async def test_a_response_that_the_upstream_truncates_is_truncated(
    harness: GatewayHarness, upstream: RecordingUpstream, data: bytes
) -> None:
    upstream.response = respond_and_close(data)
    (answer,) = parse_responses(await harness.send_raw(b"GET /wide/x HTTP/1.1\r\nHost: gw\r\n\r\n"))
    assert (answer.status, answer.body, answer.is_complete) == (200, b"half", False)


async def test_a_response_that_stalls_is_truncated(
    harness: GatewayHarness, upstream: RecordingUpstream, clock: Clock
) -> None:
    upstream.response = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"
    socket = await harness.connect()
    socket.send(b"GET /ping HTTP/1.1\r\nHost: gw\r\n\r\n")
    await socket.wait_for(b"half")
    clock.skip(0.3)
    (answer,) = parse_responses(await socket.wait_closed())
    assert (answer.status, answer.body, answer.is_complete) == (200, b"half", False)


async def test_a_close_delimited_response_is_framed_anew(harness: GatewayHarness, upstream: RecordingUpstream) -> None:
    upstream.response = respond_and_close(b"HTTP/1.0 200 OK\r\n\r\nall")
    answer = await harness.request("/ping")
    assert (answer.values("transfer-encoding"), answer.body, answer.is_complete) == (["chunked"], b"all", True)


async def test_a_response_is_relayed_unchanged(client: httpx.AsyncClient, upstream: RecordingUpstream) -> None:
    upstream.response = (
        b"HTTP/1.1 302 Over there\r\nContent-Encoding: gzip\r\nSet-Cookie: a=1\r\nLocation: http://x/\r\n"
        b"Set-Cookie: b=2\r\nContent-Length: 0\r\n\r\n"
    )
    response = await client.get("/ping")
    assert response.status_code == 302
    assert response.headers.get_list("Set-Cookie") == ["a=1", "b=2"]
    assert (response.headers["Location"], response.headers["Content-Encoding"]) == ("http://x/", "gzip")


async def test_the_request_id_is_the_same_on_both_sides(client: httpx.AsyncClient, upstream: RecordingUpstream) -> None:
    response = await client.get("/ping", headers={"X-Request-ID": "abc"})
    assert [response.headers["X-Request-ID"]] == upstream.last.values("x-request-id") == ["abc"]


async def test_rejections_have_a_request_id(client: httpx.AsyncClient) -> None:
    assert (await client.get("/nothing", headers={"X-Request-ID": "abc"})).headers["X-Request-ID"] == "abc"


async def test_metrics_are_labelled_with_the_route_template(client: httpx.AsyncClient, issuer: Issuer) -> None:
    await client.get("/orders/12345", headers=bearer(issuer.token(scopes=["orders:read"])))
    await client.get("/67890")
    text = (await client.get("/metrics")).text
    assert 'http_requests_total{method="GET",route="/orders/{id}",status="200"} 1.0' in text
    assert 'http_requests_total{method="GET",route="unmatched",status="404"} 1.0' in text
    assert "12345" not in text
    assert "67890" not in text


async def test_the_gateway_serves_its_own_endpoints(client: httpx.AsyncClient, upstream: RecordingUpstream) -> None:
    for path in ("/livez", "/readyz", "/metrics"):
        response = await client.get(path)
        assert response.status_code == 200
    wrong = await client.post("/livez", content=b"x")
    assert (wrong.status_code, wrong.headers["Allow"]) == (405, "GET, HEAD, OPTIONS")
    assert (await client.get("/livez")).status_code == 200
    assert upstream.connections == []


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics", "/openapi.json", "/docs", "/docs/swagger-ui.css"])
async def test_own_endpoints_answer_head_like_get(client: httpx.AsyncClient, path: str) -> None:
    varies = {"date", "x-request-id", *(["content-length"] if path == "/metrics" else [])}
    head, get = await client.head(path), await client.get(path)
    assert (head.status_code, head.content) == (200, b"")
    fields = [{name: value for name, value in each.headers.items() if name not in varies} for each in (head, get)]
    assert fields[0] == fields[1]
    assert int(head.headers["Content-Length"]) > 0


@pytest.mark.parametrize(
    ("head", "connection"),
    [
        (b"GET /livez HTTP/1.0\r\n\r\n", ["close"]),
        (b"HEAD /readyz HTTP/1.0\r\n\r\n", ["close"]),
        (b"GET /livez HTTP/1.0\r\nHost: gw\r\nConnection: close\r\n\r\n", ["close"]),
        (b"GET /readyz?full HTTP/1.0\r\nHost:\r\n\r\n", ["close"]),
        (b"GET /livez HTTP/1.1\r\nHost: \r\nConnection: close\r\n\r\n", ["close"]),
        (b"OPTIONS /livez HTTP/1.0\r\n\r\n", ["close"]),
        (b"OPTIONS * HTTP/1.0\r\n\r\n", ["close"]),
    ],
)
async def test_health_checks_need_no_host(harness: GatewayHarness, head: bytes, connection: list[str]) -> None:
    (answer,) = parse_responses(await harness.send_raw(head), head.partition(b" ")[0].decode())
    assert answer.status == (204 if head.startswith(b"OPTIONS") else 200)
    assert answer.values("connection") == connection


async def test_a_health_check_without_a_host_may_keep_its_connection(harness: GatewayHarness) -> None:
    probe = b"GET /livez HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
    answers = parse_responses(await harness.send_raw(probe * 3 + b"GET /livez HTTP/1.0\r\n\r\n"), *["GET"] * 4)
    assert [each.status for each in answers] == [200] * 4
    assert [each.values("connection") for each in answers] == [["keep-alive"]] * 3 + [["close"]]


@pytest.mark.parametrize(
    "head",
    [
        b"GET /ping HTTP/1.0\r\n\r\n",
        b"GET /ping HTTP/1.0\r\nHost:\r\n\r\n",
        b"GET /ping HTTP/1.1\r\nHost:\r\nConnection: close\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nConnection: close\r\n\r\n",
        b"GET http:///livez HTTP/1.0\r\n\r\n",
        b"GET /livez HTTP/1.0\r\nHost: a b\r\n\r\n",
        b"GET * HTTP/1.1\r\nHost: gw\r\nConnection: close\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nConnection: close\r\n\r\n",
    ],
)
async def test_other_requests_need_a_host(harness: GatewayHarness, upstream: RecordingUpstream, head: bytes) -> None:
    (answer,) = parse_responses(await harness.send_raw(head))
    assert answer.status == 400
    assert upstream.connections == []


async def test_an_http10_client_reaches_routes_with_its_host(
    harness: GatewayHarness, upstream: RecordingUpstream
) -> None:
    upstream.response = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
    (answer,) = parse_responses(await harness.send_raw(b"GET /ping HTTP/1.0\r\nHost: gw\r\n\r\n"))
    assert (answer.status, answer.body, answer.values("connection")) == (200, b"ok", ["close"])
    upstream.response = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    kept = b"GET /ping HTTP/1.0\r\nHost: gw\r\nConnection: Keep-Alive\r\n\r\n"
    answers = parse_responses(
        await harness.send_raw(kept * 2 + b"GET /ping HTTP/1.0\r\nHost: gw\r\n\r\n"), *["GET"] * 3
    )
    assert [each.values("connection") for each in answers] == [["keep-alive"]] * 2 + [["close"]]


async def test_without_keys_tokens_cannot_be_verified(upstream: RecordingUpstream) -> None:
    async with GatewayHarness.open(ROUTES, upstream.url, None) as harness:
        response = await harness.client.get("/orders/mine", headers=bearer(Issuer("http://gw").token()))
        assert (response.status_code, response.json()["code"]) == (503, "keys_unavailable")
        assert (await harness.client.get("/readyz")).status_code == 503
        assert (await harness.client.get("/wide/x")).status_code == 200
