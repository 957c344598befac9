"""Revocations at the gateway: routes that are strict, what services behind it are told, responses that end."""

import asyncio
from collections.abc import AsyncIterator, MutableMapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from ostiary.errors import Revoked
from ostiary.feed import Kind, Position
from ostiary.testing import Issuer
from ostiary_chassis.settings import ConfigError
from ostiary_gateway import routes_file
from ostiary_gateway.app import create_app
from ostiary_gateway.config import GatewayConfig

ROUTES = """\
upstreams:
  up: {url: "http://up:9000"}
routes:
  - {name: ping, match: {path: /ping, methods: [GET]}, upstream: up, access: public}
  - {name: normal, match: {path: /normal, methods: [GET]}, upstream: up, access: authenticated}
  - {name: strict, match: {path: /strict, methods: [GET]}, upstream: up, access: authenticated, max_staleness: 1.0}
  - {name: lax, match: {path: /lax, methods: [GET]}, upstream: up, access: authenticated, max_staleness: none}
"""


class Endless(httpx.AsyncByteStream):
    """A body that begins and goes on when it is told to."""

    def __init__(self) -> None:
        self.goes_on = asyncio.Event()
        self.is_closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield b"first"
        await self.goes_on.wait()
        yield b"last"

    async def aclose(self) -> None:
        self.is_closed = True


class Upstream(httpx.AsyncBaseTransport):
    """Records requests, and answers with a short body or a given stream."""

    def __init__(self) -> None:
        self.requests: list[httpx.Request] = []
        self.stream: Endless | None = None
        self.media_type = "text/plain"

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        headers = {"Content-Type": self.media_type}
        return httpx.Response(200, headers=headers, stream=self.stream or httpx.ByteStream(b"done"))


class Gateway:
    """A gateway in front of an upstream, with an issuer of its own, and a client."""

    def __init__(self, directory: Path) -> None:
        self.issuer = Issuer()
        self.upstream = Upstream()
        (directory / "gateway.yaml").write_text(ROUTES)
        routes = routes_file.load(directory / "gateway.yaml", {})
        self.app = create_app(GatewayConfig(), routes, verifier=self.issuer.verifier(), transport=self.upstream)
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        self.client = httpx.AsyncClient(transport=transport, base_url="http://gw")
        self.headers = {"Authorization": f"Bearer {self.issuer.token(subject='ada')}"}

    async def get(self, path: str, **headers: str) -> httpx.Response:
        return await self.client.get(path, headers={**self.headers, **headers})

    def knows_nothing_for(self, seconds: float) -> None:
        source = self.issuer.config().revocation_source
        assert source is not None
        source.revocations.fresh_at = source.revocations.now() - seconds

    async def open_stream(self, media_type: str) -> "Stream":
        self.upstream.stream, self.upstream.media_type = Endless(), media_type
        stream = Stream(self)
        await stream.begun.wait()
        return stream


class Stream:
    """A response that is being sent, as a server sees it."""

    def __init__(self, gateway: Gateway) -> None:
        self.sent = b""
        self.is_complete = False
        self.begun = asyncio.Event()
        self._disconnected = asyncio.Event()
        headers = [(b"host", b"gw"), (b"authorization", gateway.headers["Authorization"].encode())]
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": "/normal",
            "raw_path": b"/normal",
            "query_string": b"",
            "root_path": "",
            "headers": headers,
            "client": ("192.0.2.7", 4000),
            "server": ("gw", 80),
        }
        self.task = asyncio.create_task(gateway.app(scope, self._receive, self._send))

    async def _receive(self) -> MutableMapping[str, Any]:
        await self._disconnected.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.body":
            self.sent += message.get("body", b"")
            self.is_complete = not message.get("more_body", False)
            self.begun.set()


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Gateway]:
    gateway = Gateway(tmp_path)
    async with gateway.app.router.lifespan_context(gateway.app), gateway.client:
        yield gateway


async def test_a_revoked_token_does_not_get_through(gateway: Gateway) -> None:
    assert (await gateway.get("/normal")).status_code == 200
    gateway.issuer.revoke(Kind.SUBJECT, "ada")
    refused = await gateway.get("/normal")
    assert (refused.status_code, refused.json()["code"]) == (401, Revoked.code)
    assert len(gateway.upstream.requests) == 1


@pytest.mark.parametrize(
    ("seconds", "statuses"),
    [(0.5, (200, 200, 200)), (2, (200, 503, 200)), (29, (200, 503, 200)), (31, (503, 503, 200))],
)
async def test_a_route_says_how_old_the_knowledge_of_revocations_may_be(
    gateway: Gateway, seconds: float, statuses: tuple[int, ...]
) -> None:
    gateway.knows_nothing_for(seconds)
    answers = [await gateway.get(path) for path in ("/normal", "/strict", "/lax")]
    assert tuple(answer.status_code for answer in answers) == statuses
    for answer in answers:
        if answer.status_code == 503:
            assert (answer.json()["code"], answer.headers["Retry-After"]) == ("revocation_stale", "1")


async def test_what_is_known_to_be_revoked_is_refused_however_old_that_is(gateway: Gateway) -> None:
    gateway.issuer.revoke(Kind.SUBJECT, "ada")
    gateway.knows_nothing_for(100)
    assert [(await gateway.get(path)).status_code for path in ("/normal", "/strict", "/lax")] == [401, 401, 401]


async def test_services_are_told_what_the_gateway_considered(gateway: Gateway) -> None:
    for number in (1, 2):
        gateway.issuer.revoke(Kind.SESSION, "somebody's")
        await gateway.get("/normal")
        sent = gateway.upstream.requests[-1].headers.get_list("Ostiary-Position")
        assert sent == [str(Position("test", number))]


async def test_nobody_outside_says_what_the_gateway_considered(gateway: Gateway) -> None:
    gateway.issuer.revoke(Kind.SESSION, "somebody's")
    forged = {"Ostiary-Position": "test:999"}
    await gateway.get("/normal", **forged)
    assert gateway.upstream.requests[-1].headers.get_list("Ostiary-Position") == ["test:1"]
    await gateway.client.get("/ping", headers=forged)
    assert "Ostiary-Position" not in gateway.upstream.requests[-1].headers


async def test_a_stream_of_events_ends_when_its_token_is_revoked(gateway: Gateway) -> None:
    stream = await gateway.open_stream("text/event-stream; charset=utf-8")
    gateway.issuer.revoke(Kind.SESSION, "somebody else's")
    assert not (await asyncio.wait({stream.task}, timeout=0.1))[0]
    gateway.issuer.revoke(Kind.SUBJECT, "ada")
    await asyncio.wait_for(stream.task, 0.5)
    assert (stream.sent, stream.is_complete) == (b"first", False)
    assert gateway.upstream.stream is not None
    assert gateway.upstream.stream.is_closed


async def test_another_response_may_end_by_itself_for_a_second(gateway: Gateway) -> None:
    stream = await gateway.open_stream("application/json")
    gateway.issuer.revoke(Kind.SUBJECT, "ada")
    assert not (await asyncio.wait({stream.task}, timeout=0.2))[0]
    assert gateway.upstream.stream is not None
    gateway.upstream.stream.goes_on.set()
    await asyncio.wait_for(stream.task, 5)
    assert (stream.sent, stream.is_complete) == (b"firstlast", True)


async def test_another_response_is_broken_off_after_a_second(gateway: Gateway) -> None:
    stream = await gateway.open_stream("application/json")
    gateway.issuer.revoke(Kind.SUBJECT, "ada")
    await asyncio.wait_for(stream.task, 5)
    assert (stream.sent, stream.is_complete) == (b"first", False)


@pytest.mark.parametrize("value", ["0", "0.1", "-1", "3601", "never", '"1.0"', "true", "null"])
def test_a_staleness_that_cannot_be_kept_is_an_error_on_its_line(tmp_path: Path, value: str) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text(ROUTES.replace("max_staleness: 1.0", f"max_staleness: {value}"))
    with pytest.raises(ConfigError, match=r"gateway.yaml:6: "):
        routes_file.load(path, {})


def test_a_public_route_has_no_staleness(tmp_path: Path) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text(ROUTES.replace("access: public", "access: public, max_staleness: 1.0"))
    with pytest.raises(ConfigError, match=r"gateway.yaml:4: .*a public route takes none"):
        routes_file.load(path, {})
