"""Throttling over HTTP."""

import asyncio

import httpx
import pytest
from serving import serving
from throttling import HOME, block
from users import ADA, EMAIL, PASSWORD, bearer

from ostiary_auth.app import create_app
from ostiary_auth.config import AuthConfig
from ostiary_auth.domain.accounts.attempts import (
    login_keys,
    reauthentication_keys,
    registration_keys,
)
from ostiary_auth.services import Services, ServiceSecrets


class TestOverHttp:
    async def test_who_must_wait_is_told_how_long(self, client: httpx.AsyncClient, services: Services) -> None:
        await block(services, login_keys(EMAIL, HOME, None))
        response = await client.post("/auth/login", json=ADA)
        assert (response.status_code, response.json()["code"]) == (429, "too_many_attempts")
        assert 290 <= int(response.headers["Retry-After"]) <= 300
        assert "Set-Cookie" not in response.headers
        assert (await client.post("/auth/login", json={**ADA, "email": "bob@example.com"})).status_code == 429

    async def test_who_registers_too_often_waits_as_well(self, client: httpx.AsyncClient, services: Services) -> None:
        await block(services, registration_keys(HOME))
        response = await client.post("/auth/register", json=ADA)
        assert (response.status_code, response.json()["code"]) == (429, "too_many_attempts")
        assert 0 < int(response.headers["Retry-After"]) <= 60

    async def test_a_lecture_hall_behind_one_address_registers(self, client: httpx.AsyncClient) -> None:
        accounts = [{**ADA, "email": f"student-{number}@example.com"} for number in range(30)]
        responses = await asyncio.gather(*(client.post("/auth/register", json=each) for each in accounts))
        assert {each.status_code for each in responses} == {201}

    async def test_a_password_change_waits_as_well(self, client: httpx.AsyncClient, services: Services) -> None:
        user_id = (await client.post("/auth/register", json=ADA)).json()["id"]
        headers = bearer((await client.post("/auth/login", json=ADA)).json())
        await block(services, reauthentication_keys(user_id))
        body = {"current_password": PASSWORD, "new_password": "a whole new staple"}
        response = await client.post("/auth/password", json=body, headers=headers)
        assert (response.status_code, response.json()["code"]) == (429, "too_many_attempts")
        assert 290 <= int(response.headers["Retry-After"]) <= 300

    @pytest.mark.parametrize(("issuer", "secure"), [("https://id.example.com", True), ("http://localhost:8080", False)])
    async def test_a_login_leaves_a_mark_of_the_device(
        self, config: AuthConfig, own: ServiceSecrets, services: Services, issuer: str, secure: bool
    ) -> None:
        app = create_app(config.model_copy(update={"issuer": issuer}), own)
        async with serving(app, base_url=issuer) as client:
            await client.post("/auth/register", json=ADA)
            response = await client.post("/auth/login", json=ADA)
            (cookie,) = response.headers.get_list("Set-Cookie")
            value, *attributes = cookie.split("; ")
            assert value.startswith("__Host-ostiary-device=" if secure else "ostiary-device-8080=")
            expected = {"HttpOnly", "SameSite=Lax", "Path=/", f"Max-Age={365 * 24 * 3600}"}
            assert set(attributes) == expected | ({"Secure"} if secure else set())
            # With the mark, the owner gets in though strangers are held up; and need not be marked again.
            await block(services, login_keys(EMAIL, HOME, None))
            again = await client.post("/auth/login", json=ADA)
            assert again.status_code == 200
            assert "Set-Cookie" not in again.headers
            client.cookies.clear()
            assert (await client.post("/auth/login", json=ADA)).status_code == 429

    async def test_a_refused_login_leaves_no_mark(self, client: httpx.AsyncClient) -> None:
        response = await client.post("/auth/login", json=ADA)
        assert response.status_code == 401
        assert "Set-Cookie" not in response.headers
