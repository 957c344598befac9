"""The FastAPI adapter, in a service of ten lines."""

from collections.abc import AsyncIterator
from typing import Annotated

import httpx
import pytest
from fastapi import Depends, FastAPI

from ostiary import VerifiedToken
from ostiary.fastapi import Auth
from ostiary.testing import Issuer


@pytest.fixture
async def client(issuer: Issuer) -> AsyncIterator[httpx.AsyncClient]:
    auth = Auth(issuer.verifier())
    app = FastAPI(lifespan=auth.lifespan, exception_handlers=auth.exception_handlers)

    @app.get("/orders")
    async def orders(token: Annotated[VerifiedToken, Depends(auth.require(scopes=["orders:read"]))]) -> str:
        return token.subject

    @app.get("/admin")
    async def admin(token: Annotated[VerifiedToken, Depends(auth.require(roles=["admin"]))]) -> str:
        return token.subject

    async with app.router.lifespan_context(app):
        yield httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service")


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def test_a_valid_token_is_accepted(client: httpx.AsyncClient, issuer: Issuer) -> None:
    response = await client.get("/orders", headers=bearer(issuer.token(subject="u1", scopes=["orders:read"])))
    assert (response.status_code, response.json()) == (200, "u1")


async def test_no_token_is_a_challenge(client: httpx.AsyncClient) -> None:
    response = await client.get("/orders")
    assert response.status_code == 401
    assert response.headers["WWW-Authenticate"] == 'Bearer realm="ostiary"'
    assert response.headers["Content-Type"] == "application/problem+json"
    assert response.json()["code"] == "missing_token"


async def test_a_bad_token_is_an_invalid_token(client: httpx.AsyncClient, stranger: Issuer) -> None:
    response = await client.get("/orders", headers=bearer(stranger.token(scopes=["orders:read"])))
    assert response.status_code == 401
    assert response.json()["code"] == "bad_signature"
    assert 'error="invalid_token"' in response.headers["WWW-Authenticate"]


async def test_two_tokens_are_rejected(client: httpx.AsyncClient, issuer: Issuer) -> None:
    token = issuer.token(scopes=["orders:read"])
    fields = [("Authorization", f"Bearer {token}"), ("Authorization", f"Bearer {token}")]
    assert (await client.get("/orders", headers=fields)).status_code == 401


@pytest.mark.parametrize("path", ["/orders", "/admin"])
async def test_what_the_token_does_not_allow_is_forbidden(client: httpx.AsyncClient, issuer: Issuer, path: str) -> None:
    response = await client.get(path, headers=bearer(issuer.token(scopes=["other"], roles=["user"])))
    assert response.status_code == 403
    assert response.json()["code"].startswith("insufficient_")


async def test_the_scheme_is_in_the_openapi_document(client: httpx.AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()
    assert document["components"]["securitySchemes"]["bearer"] == {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "JWT",
    }
    operation = document["paths"]["/orders"]["get"]
    assert operation["security"] == [{"bearer": ["orders:read"]}]
    assert operation["responses"].keys() == {"200", "401", "403", "503"}
    schema = operation["responses"]["503"]["content"]["application/problem+json"]["schema"]
    assert schema == {"$ref": "#/components/schemas/Problem"}
    assert "code" in document["components"]["schemas"]["Problem"]["required"]
    assert (await client.get("/openapi.json")).json() == document
