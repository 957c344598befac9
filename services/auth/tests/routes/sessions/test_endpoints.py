"""`/auth/login`, `/auth/refresh` and `/auth/logout`."""

from typing import Any

import httpx
import jwt
import pytest
from users import ADA, bearer


async def test_login_answers_as_oauth_does(tokens: dict[str, Any], client: httpx.AsyncClient) -> None:
    assert tokens.keys() == {"access_token", "token_type", "expires_in", "refresh_token", "scope", "session_id"}
    assert tokens["token_type"] == "Bearer"
    assert tokens["expires_in"] == 900
    assert tokens["scope"] == "profile:read profile:write"
    response = await client.post("/auth/login", json=ADA)
    assert response.headers["Cache-Control"] == "no-store"


async def test_an_access_token_has_the_claims_of_the_contract(tokens: dict[str, Any]) -> None:
    header = jwt.get_unverified_header(tokens["access_token"])
    claims = jwt.decode(tokens["access_token"], options={"verify_signature": False})
    assert header.keys() == {"alg", "typ", "kid"}
    assert (header["alg"], header["typ"]) == ("RS256", "at+jwt")
    assert claims.keys() == {
        *("iss", "aud", "sub", "client_id", "exp", "iat", "nbf"),
        *("jti", "sid", "auth_time", "scope", "roles", "rev"),
    }
    assert claims["iss"] == "http://localhost:8080"
    assert claims["aud"] == "ostiary"
    assert claims["sid"] == tokens["session_id"]
    assert claims["exp"] - claims["iat"] == 900
    # The number of the last revocation: there has been none.
    assert (type(claims["rev"]), claims["rev"]) == (int, 0)


@pytest.mark.parametrize(
    "body", [{**ADA, "password": "wrong"}, {**ADA, "password": ""}, {**ADA, "email": "eve@example.com"}]
)
async def test_a_refused_login_does_not_say_why(client: httpx.AsyncClient, body: dict[str, str]) -> None:
    await client.post("/auth/register", json=ADA)
    response = await client.post("/auth/login", json=body)
    assert response.status_code == 401
    assert response.headers["WWW-Authenticate"] == 'Bearer realm="ostiary"'
    assert response.json() == {
        "type": "about:blank",
        "title": "Unauthorized",
        "status": 401,
        "code": "invalid_credentials",
        "detail": "Wrong e-mail address or password.",
    }


async def test_a_refresh_continues_the_session(client: httpx.AsyncClient, tokens: dict[str, Any]) -> None:
    response = await client.post("/auth/refresh", json={"refresh_token": tokens["refresh_token"]})
    assert response.status_code == 200
    assert response.headers["Cache-Control"] == "no-store"
    assert response.json()["session_id"] == tokens["session_id"]
    assert response.json()["refresh_token"] != tokens["refresh_token"]


async def test_logout_ends_the_session(client: httpx.AsyncClient, tokens: dict[str, Any]) -> None:
    # In force everywhere when it is answered, so here too.
    waited = await client.post("/auth/logout", headers={**bearer(tokens), "Prefer": "wait=5"})
    assert (waited.status_code, waited.json()["revoked"], waited.json()["complete"]) == (200, 1, True)
    response = await client.post("/auth/refresh", json={"refresh_token": tokens["refresh_token"]})
    assert (response.status_code, response.json()["code"]) == (401, "invalid_refresh_token")
    again = await client.post("/auth/logout", headers=bearer(tokens))
    assert (again.status_code, again.json()["code"]) == (401, "revoked")


@pytest.mark.parametrize(("scope", "revoked"), [("local", 1), ("others", 2), ("global", 3)])
async def test_logout_ends_as_many_as_its_scope_says(
    client: httpx.AsyncClient, tokens: dict[str, Any], scope: str, revoked: int
) -> None:
    for _ in range(2):
        await client.post("/auth/login", json=ADA)
    response = await client.post("/auth/logout", json={"scope": scope}, headers=bearer(tokens))
    assert response.json() == {"revoked": revoked}


async def test_logout_with_another_scope_ends_nothing(client: httpx.AsyncClient, tokens: dict[str, Any]) -> None:
    response = await client.post("/auth/logout", json={"scope": "everybody"}, headers=bearer(tokens))
    assert response.status_code == 422
    assert (await client.post("/auth/logout", headers=bearer(tokens))).json() == {"revoked": 1}


async def test_a_refresh_token_is_no_access_token(client: httpx.AsyncClient, tokens: dict[str, Any]) -> None:
    headers = {"Authorization": f"Bearer {tokens['refresh_token']}"}
    assert (await client.get("/auth/me", headers=headers)).json()["code"] == "malformed"
