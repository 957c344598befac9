"""The middleware for any framework: it rejects requests without a valid token."""

from typing import Any

import httpx
import pytest

from ostiary.asgi import TOKEN, BearerAuth, Message, Receive, Scope, Send
from ostiary.testing import Issuer


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    """Respond with the subject, without a framework."""
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        return
    if scope["type"] == "websocket":
        await send({"type": "websocket.accept"})
        return
    body = scope[TOKEN].subject.encode() if TOKEN in scope else b"nobody"
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


@pytest.fixture
def client(issuer: Issuer) -> httpx.AsyncClient:
    app = BearerAuth(application, issuer.verifier(), scopes=["a"], public=["/livez"])
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service")


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def test_a_valid_token_is_accepted(client: httpx.AsyncClient, issuer: Issuer) -> None:
    response = await client.get("/", headers=bearer(issuer.token(subject="u1", scopes=["a"])))
    assert (response.status_code, response.text) == (200, "u1")


async def test_others_do_not(client: httpx.AsyncClient, issuer: Issuer, stranger: Issuer) -> None:
    for headers, status, code in (
        ({}, 401, "missing_token"),
        (bearer(stranger.token(scopes=["a"])), 401, "bad_signature"),
        (bearer(issuer.token(scopes=["b"])), 403, "insufficient_scope"),
    ):
        response = await client.get("/", headers=headers)
        assert (response.status_code, response.json()["code"]) == (status, code)
        assert response.headers["Content-Type"] == "application/problem+json"
        assert response.headers["WWW-Authenticate"].startswith("Bearer ")


async def test_two_tokens_are_rejected(client: httpx.AsyncClient, issuer: Issuer) -> None:
    field = ("Authorization", f"Bearer {issuer.token(scopes=['a'])}")
    assert (await client.get("/", headers=[field, field])).status_code == 401


@pytest.mark.parametrize(("path", "status"), [("/livez", 200), ("/livez/", 401), ("/LIVEZ", 401), ("//livez", 401)])
async def test_a_public_path_is_public_exactly(client: httpx.AsyncClient, path: str, status: int) -> None:
    assert (await client.get(f"http://service{path}")).status_code == status


async def connect(app: BearerAuth, scope: dict[str, Any]) -> list[Message]:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": f"{scope['type']}.startup"}

    await app(scope, receive, send)
    return sent


async def test_a_websocket_without_a_token_is_closed_before_it_opens(issuer: Issuer) -> None:
    app = BearerAuth(application, issuer.verifier(), scopes=["a"])
    scope: dict[str, Any] = {"type": "websocket", "path": "/", "headers": []}
    assert await connect(app, scope) == [{"type": "websocket.close", "code": 4401, "reason": "missing_token"}]
    token = issuer.token(scopes=["a"]).encode()
    scope = {"type": "websocket", "path": "/", "headers": [(b"authorization", b"Bearer " + token)]}
    assert await connect(app, scope) == [{"type": "websocket.accept"}]


async def test_the_verifier_runs_as_long_as_the_application(issuer: Issuer) -> None:
    app = BearerAuth(application, issuer.verifier())
    assert await connect(app, {"type": "lifespan"}) == [{"type": "lifespan.startup.complete"}]
