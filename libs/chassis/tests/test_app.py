"""Every error is a problem document, every request has an id, bodies have a limit."""

import gzip
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
from fastapi import APIRouter, FastAPI
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from structlog.testing import capture_logs

from ostiary_chassis.app import MAX_BODY_BYTES, new_app
from ostiary_chassis.bodies import RequestBody, StrictRoute
from ostiary_chassis.metrics import Metrics


class Body(RequestBody):
    name: str


class Database:
    fault = ""

    async def check(self) -> str:
        return self.fault


@pytest.fixture
def database() -> Database:
    return Database()


@pytest.fixture
def app(database: Database) -> FastAPI:
    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        yield

    app = new_app(
        title="test",
        version="0",
        lifespan=lifespan,
        ready_checks={"database": database.check},
        exception_handlers={},
        metrics=Metrics(),
    )

    router = APIRouter(route_class=StrictRoute)

    @router.post("/things")
    @router.patch("/things")
    async def things(body: Body) -> str:
        return body.name

    app.include_router(router)

    @app.get("/things/{thing}")
    async def thing(thing: int) -> int:
        return 1 // thing

    return app


@pytest.fixture
def client(app: FastAPI) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app, raise_app_exceptions=False), base_url="http://service")


JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize(
    ("method", "path", "body", "content_type", "status", "code"),
    [
        ("GET", "/nothing", b"", "", 404, "not_found"),
        ("GET", "/things/", b"", "", 404, "not_found"),
        ("DELETE", "/things", b"", "", 405, "method_not_allowed"),
        ("POST", "/things", b'{"name":', "application/json", 400, "malformed_json"),
        ("POST", "/things", b'{"name":"\xff"}', "application/json", 400, "malformed_json"),
        ("POST", "/things", b'{"name":"x"}', "text/plain", 415, "unsupported_media_type"),
        ("POST", "/things", b'{"name":"x"}', "", 415, "unsupported_media_type"),
        ("POST", "/things", b"name=x", "application/x-www-form-urlencoded", 415, "unsupported_media_type"),
        ("POST", "/things", b'{"name":1}', "application/json", 422, "invalid_request"),
        ("POST", "/things", b'{"name":"\\ud800"}', "application/json", 422, "invalid_request"),
        ("POST", "/things", b'{"name":"\\u0000"}', "application/json", 422, "invalid_request"),
        ("POST", "/things", b'{"name":"x","other":1}', "application/json", 422, "invalid_request"),
        ("POST", "/things", b"[]", "application/json", 422, "invalid_request"),
        ("POST", "/things", b"", "application/json", 422, "invalid_request"),
        ("POST", "/things", b"[" * 900, "application/json", 400, "malformed_json"),
        ("POST", "/things", b"x" * (MAX_BODY_BYTES + 1), "application/json", 413, "body_too_large"),
        ("GET", "/things/x", b"", "", 422, "invalid_request"),
        ("GET", "/things/0", b"", "", 500, "internal_error"),
    ],
)
async def test_every_error_is_a_problem_document(
    client: httpx.AsyncClient, method: str, path: str, body: bytes, content_type: str, status: int, code: str
) -> None:
    headers = {"Content-Type": content_type} if content_type else {}
    response = await client.request(method, path, content=body, headers=headers)
    assert (response.status_code, response.json()["code"]) == (status, code)
    assert response.headers["Content-Type"] == "application/problem+json"
    assert response.json()["status"] == status
    assert "Traceback" not in response.text
    assert "ZeroDivision" not in response.text


@pytest.mark.parametrize(
    "content",
    [
        b'{"name":"a","name":"a"}',
        b'{"name":"a","n\\u0061me":"b"}',
        b'{"name":{"x":{"y":1,"y":2}}}',
        b'[{"x":1,"x":2}]',
        b'{"name":NaN}',
        b'{"name":Infinity}',
        b'{"name":-Infinity}',
        b'{"name":1e999}',
        b'{"name":' + b"1" * 5000 + b"}",
        b'{"name":"a"}{}',
        b'{"name":"a",}',
        b"{'name':'a'}",
        '{"name":"a"}'.encode("utf-16"),
        '{"name":"a"}'.encode("utf-32-le"),
        b'{"name":"\xed\xa0\x80"}',
        b'{"a":' * 900,
        b"[" * 60_000,
    ],
)
async def test_json_that_two_parsers_could_read_differently_is_rejected(
    client: httpx.AsyncClient, content: bytes
) -> None:
    response = await client.post("/things", content=content, headers=JSON)
    assert (response.status_code, response.json()["code"]) == (400, "malformed_json")


async def test_a_repeated_member_is_named(client: httpx.AsyncClient) -> None:
    response = await client.post("/things", content=b'{"name":"a","name":"a"}', headers=JSON)
    assert response.json()["detail"] == 'An object in the request body has the member "name" twice.'
    response = await client.post(
        "/things", content=b'{"%s":1,"%s":1}' % (b"\\u202e" * 9000, b"\\u202e" * 9000), headers=JSON
    )
    assert len(response.content) < 1500
    assert "\u202e" not in response.text


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json",  # requests, httpx, axios
        "application/json;charset=UTF-8",
        "application/json; charset=utf-8",  # .NET
        'application/json; charset="utf-8"',
        "Application/JSON; Charset=UTF8",
        "application/json;odata=verbose;",
    ],
)
async def test_content_types_that_clients_send_are_accepted(client: httpx.AsyncClient, content_type: str) -> None:
    for content in (b'{"name":"a"}', b'\xef\xbb\xbf {"name":"a"}\r\n'):
        response = await client.post("/things", content=content, headers={"Content-Type": content_type})
        assert response.status_code == 200, response.text


@pytest.mark.parametrize(
    ("method", "content_type", "status"),
    [
        ("PATCH", "application/json", 200),
        ("PATCH", "application/merge-patch+json", 200),
        ("POST", "application/merge-patch+json", 415),
        ("PATCH", "application/json-patch+json", 415),
        ("POST", "application/json-patch+json", 415),
        ("POST", "application/vnd.api+json", 415),
        ("POST", "application/jsonp", 415),
        ("POST", "text/json", 415),
        ("POST", "application/json; charset=iso-8859-1", 415),
        ("POST", "application/json; charset=utf-16", 415),
        ("POST", "application/json; charset=utf-8; charset=utf-16", 415),
        ("POST", "application/json, text/plain", 415),
    ],
)
async def test_other_media_types_and_encodings_are_not_supported(
    client: httpx.AsyncClient, method: str, content_type: str, status: int
) -> None:
    response = await client.request(method, "/things", content=b'{"name":"a"}', headers={"Content-Type": content_type})
    assert response.status_code == status, response.text


async def test_a_compressed_body_is_not_supported(client: httpx.AsyncClient) -> None:
    fields = {**JSON, "Content-Encoding": "gzip"}
    assert (await client.post("/things", content=gzip.compress(b'{"name":"a"}'), headers=fields)).status_code == 415


async def test_a_field_error_names_the_field_and_not_its_value(client: httpx.AsyncClient) -> None:
    response = await client.post("/things", content=b'{"name":12345}', headers=JSON)
    assert response.json()["errors"] == [{"field": "name", "message": "input should be a valid string"}]
    assert "12345" not in response.text


async def test_a_body_over_the_limit_is_rejected(client: httpx.AsyncClient) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(2):
            yield b"x" * MAX_BODY_BYTES

    response = await client.post("/things", content=chunks(), headers=JSON)
    assert (response.status_code, response.json()["code"]) == (413, "body_too_large")


async def test_a_wrong_method_lists_the_allowed_ones(client: httpx.AsyncClient) -> None:
    assert (await client.delete("/things")).headers["Allow"] == "OPTIONS, PATCH, POST"


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics", "/things/1", "/things/0", "/things/x", "/nothing"])
async def test_head_is_answered_as_get_without_content(client: httpx.AsyncClient, path: str) -> None:
    head, get = await client.head(path), await client.get(path)
    assert (head.status_code, head.content) == (get.status_code, b"")
    if path != "/metrics":
        assert head.headers["Content-Length"] == get.headers["Content-Length"]


async def test_head_counts_as_head_of_its_route(client: httpx.AsyncClient) -> None:
    await client.head("/things/7")
    text = (await client.get("/metrics")).text
    assert 'http_requests_total{method="HEAD",route="/things/{thing}",status="200"} 1.0' in text


@pytest.mark.parametrize(
    ("path", "status", "allow"),
    [("/livez", 204, "GET, HEAD, OPTIONS"), ("/things", 204, "OPTIONS, PATCH, POST"), ("/nothing", 404, None)],
)
async def test_options_lists_the_allowed_methods(
    client: httpx.AsyncClient, path: str, status: int, allow: str | None
) -> None:
    response = await client.options(path)
    assert (response.status_code, response.headers.get("Allow")) == (status, allow)


@pytest.mark.parametrize("given", ["abc-123", "A.b_c"])
async def test_a_request_id_is_kept(client: httpx.AsyncClient, given: str) -> None:
    assert (await client.get("/livez", headers={"X-Request-ID": given})).headers["X-Request-ID"] == given


@pytest.mark.parametrize("given", ["", "a b", "x" * 65, "a;b", "\u00e9"])
async def test_a_request_id_that_could_do_harm_is_replaced(client: httpx.AsyncClient, given: str) -> None:
    response = await client.get("/livez", headers={b"X-Request-ID": given.encode()})
    assert response.headers["X-Request-ID"] != given
    assert len(response.headers["X-Request-ID"]) == 32


async def test_readyz_lists_failing_checks_and_keeps_the_reasons_to_itself(
    client: httpx.AsyncClient, database: Database
) -> None:
    assert (await client.get("/readyz")).status_code == 200
    database.fault = "disk full at /secret/place"
    response = await client.get("/readyz")
    assert (response.status_code, response.json()["failing"]) == (503, ["database"])
    assert "secret" not in response.text
    assert (await client.get("/livez")).status_code == 200
    database.fault = ""
    assert (await client.get("/readyz")).status_code == 200


async def test_the_log_says_once_why_the_service_is_not_ready(client: httpx.AsyncClient, database: Database) -> None:
    with capture_logs() as records:
        for fault in ("", "disk full", "disk full", "no answer", "", ""):
            database.fault = fault
            await client.get("/readyz")
    assert [(each["event"], each.get("reason")) for each in records] == [
        ("not ready", "disk full"),
        ("ready again", None),
    ]


async def test_metrics_know_routes_and_not_paths(client: httpx.AsyncClient) -> None:
    await client.get("/things/7")
    await client.get("/things/7/secret")
    await client.request("BREW", "/things/7")
    text = (await client.get("/metrics")).text
    assert 'http_requests_total{method="GET",route="/things/{thing}",status="200"} 1.0' in text
    assert 'route="unmatched"' in text
    assert "secret" not in text
    assert "BREW" not in text


@pytest.mark.parametrize(
    ("method", "path", "fields", "named"),
    [
        ("GET", "/plain/7", {}, ("GET", "/plain/{number}", 200)),
        ("HEAD", "/plain/7", {}, ("HEAD", "/plain/{number}", 200)),
        ("OPTIONS", "/plain/7", {}, ("OPTIONS", "/plain/{number}", 204)),
        ("BREW", "/plain/7", {}, ("other", "/plain/{number}", 405)),
        ("GET", "/below/included/7", {}, ("GET", "/below/included/{number}", 200)),
        ("POST", "/below/included/7", {"Content-Length": "99999999"}, ("POST", "/below/included/{number}", 413)),
        ("GET", "/below/included/first", {}, ("GET", "/below/included/{number}", 422)),
        ("PUT", "/below/included/first", {}, ("PUT", "/below/included/first", 200)),
        ("BREW", "/elsewhere", {}, ("other", "unmatched", 404)),
    ],
)
async def test_a_request_is_named_by_its_route_however_that_was_added(
    app: FastAPI, client: httpx.AsyncClient, method: str, path: str, fields: dict[str, str], named: tuple[str, str, int]
) -> None:
    async def plain(_request: Request) -> Response:
        return Response()

    router = APIRouter(prefix="/included")

    @router.get("/{number}")
    async def included(number: int) -> int:
        return number

    @router.put("/first")
    async def first() -> None:
        pass

    app.router.routes.append(Route("/plain/{number}", plain))
    app.include_router(router, prefix="/below")
    with capture_logs() as records:
        await client.request(method, path, headers=fields)
    assert [(each["method"], each["route"], each["status"]) for each in records] == [named]
    label = 'method="{}",route="{}",status="{}"'.format(*named)
    assert f"http_requests_total{{{label}}} 1.0" in (await client.get("/metrics")).text
