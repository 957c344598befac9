"""`/auth/register` and `/auth/me`."""

import time
from typing import Any

import httpx
import pytest
from users import ADA, bearer


async def test_registering_shows_the_account_and_not_the_password(client: httpx.AsyncClient) -> None:
    response = await client.post("/auth/register", json={**ADA, "display_name": " Ada "})
    assert response.status_code == 201
    assert response.json().keys() == {"id", "email", "display_name", "created_at"}
    assert response.json()["display_name"] == "Ada"
    assert ADA["password"] not in response.text


async def test_an_address_is_registered_once(client: httpx.AsyncClient) -> None:
    await client.post("/auth/register", json=ADA)
    response = await client.post("/auth/register", json={**ADA, "email": "Ada@Example.com"})
    assert (response.status_code, response.json()["code"]) == (409, "email_taken")


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({**ADA, "email": "ada"}, "invalid_email"),
        ({**ADA, "password": "short"}, "unacceptable_password"),
        ({**ADA, "role": "admin"}, "invalid_request"),
        ({**ADA, "display_name": " "}, "invalid_request"),
        ({**ADA, "display_name": "x" * 101}, "invalid_request"),
        ({**ADA, "password": "nul\u0000nul-nul"}, "invalid_request"),
        ({"email": 1, "password": []}, "invalid_request"),
        ([], "invalid_request"),
    ],
)
async def test_an_account_that_cannot_be_is_refused(client: httpx.AsyncClient, body: object, code: str) -> None:
    response = await client.post("/auth/register", json=body)
    assert (response.status_code, response.json()["code"]) == (422, code)
    assert ADA["password"] not in response.text


async def test_me_is_what_the_token_says(client: httpx.AsyncClient, tokens: dict[str, Any]) -> None:
    body = (await client.get("/auth/me", headers=bearer(tokens))).json()
    assert body["session_id"] == tokens["session_id"]
    assert body["scope"] == tokens["scope"]
    assert body["roles"] == ["user"]
    assert body["expires_at"] > time.time()
