"""The example service: one's own profile, others' with a scope for it, and nothing without a token."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from all_routes import lenient_routes, wrongly_named_routes

from ostiary.testing import Issuer
from ostiary_profile.app import create_app, prepare
from ostiary_profile.config import ProfileConfig

BOTH = ("profile:read", "profile:write")


@pytest.fixture(scope="session")
def issuer() -> Issuer:
    return Issuer("http://localhost:8080")


@pytest.fixture
async def client(tmp_path: Path, issuer: Issuer) -> AsyncIterator[httpx.AsyncClient]:
    config = ProfileConfig(data_dir=tmp_path)
    await prepare(config)
    app = create_app(config, issuer.verifier())
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url="http://p") as client:
        yield client


def caller(issuer: Issuer, *scopes: str, subject: str = "ada") -> dict[str, str]:
    return {"Authorization": f"Bearer {issuer.token(subject=subject, scopes=scopes)}"}


async def test_every_route_is_named_by_its_template_and_reads_strictly(tmp_path: Path, issuer: Issuer) -> None:
    app = create_app(ProfileConfig(data_dir=tmp_path), issuer.verifier())
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url="http://p") as client:
        assert await wrongly_named_routes(app, client) == []
        assert lenient_routes(app) == []


async def test_everybody_has_an_empty_profile(client: httpx.AsyncClient, issuer: Issuer) -> None:
    response = await client.get("/profiles/me", headers=caller(issuer, *BOTH))
    assert response.status_code == 200
    assert response.json() == {"id": "ada", "display_name": None, "bio": None, "website": None, "updated_at": None}


async def test_put_replaces_and_patch_changes(client: httpx.AsyncClient, issuer: Issuer) -> None:
    ada = caller(issuer, *BOTH)
    put = await client.put("/profiles/me", json={"display_name": "Ada", "bio": "x"}, headers=ada)
    assert (put.json()["display_name"], put.json()["bio"]) == ("Ada", "x")
    patched = await client.patch("/profiles/me", json={"bio": None, "website": "https://example.com"}, headers=ada)
    assert (patched.json()["display_name"], patched.json()["bio"]) == ("Ada", None)
    assert (await client.get("/profiles/me", headers=ada)).json() == patched.json()
    replaced = await client.put("/profiles/me", json={"bio": "y"}, headers=ada)
    assert (replaced.json()["display_name"], replaced.json()["website"]) == (None, None)


async def test_a_deleted_profile_is_empty_again(client: httpx.AsyncClient, issuer: Issuer) -> None:
    ada = caller(issuer, *BOTH)
    await client.put("/profiles/me", json={"bio": "x"}, headers=ada)
    for _ in range(2):
        assert (await client.delete("/profiles/me", headers=ada)).status_code == 204
    assert (await client.get("/profiles/me", headers=ada)).json()["bio"] is None


async def test_one_persons_profile_is_not_anothers(client: httpx.AsyncClient, issuer: Issuer) -> None:
    await client.put("/profiles/me", json={"bio": "ada's"}, headers=caller(issuer, *BOTH))
    await client.put("/profiles/me", json={"bio": "bob's"}, headers=caller(issuer, *BOTH, subject="bob"))
    assert (await client.get("/profiles/me", headers=caller(issuer, *BOTH))).json()["bio"] == "ada's"


class TestPermissions:
    @pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE"])
    async def test_a_token_is_required(self, client: httpx.AsyncClient, method: str) -> None:
        response = await client.request(method, "/profiles/me", json={})
        assert (response.status_code, response.json()["code"]) == (401, "missing_token")

    @pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE"])
    async def test_a_token_of_another_issuer_is_rejected(self, client: httpx.AsyncClient, method: str) -> None:
        response = await client.request(
            method, "/profiles/me", json={}, headers=caller(Issuer("http://localhost:8080"), *BOTH)
        )
        assert (response.status_code, response.json()["code"]) == (401, "bad_signature")

    @pytest.mark.parametrize(
        ("method", "scope", "needed"),
        [
            ("GET", "profile:write", "profile:read"),
            ("PUT", "profile:read", "profile:write"),
            ("PATCH", "profile:read", "profile:write"),
            ("DELETE", "profile:read", "profile:write"),
        ],
    )
    async def test_the_scope_that_is_missing_is_named(
        self, client: httpx.AsyncClient, issuer: Issuer, method: str, scope: str, needed: str
    ) -> None:
        response = await client.request(method, "/profiles/me", json={}, headers=caller(issuer, scope))
        assert response.status_code == 403
        assert f'scope="{needed}"' in response.headers["WWW-Authenticate"]

    async def test_anothers_profile_needs_a_scope_of_its_own(self, client: httpx.AsyncClient, issuer: Issuer) -> None:
        await client.put("/profiles/me", json={"bio": "bob's"}, headers=caller(issuer, *BOTH, subject="bob"))
        refused = await client.get("/profiles/bob", headers=caller(issuer, *BOTH))
        assert refused.status_code == 403
        allowed = await client.get("/profiles/bob", headers=caller(issuer, "profile:read", "profile:read:any"))
        assert allowed.json()["bio"] == "bob's"

    async def test_without_the_scope_existence_is_not_disclosed(
        self, client: httpx.AsyncClient, issuer: Issuer
    ) -> None:
        assert (await client.get("/profiles/nobody", headers=caller(issuer, *BOTH))).status_code == 403
        may_look = caller(issuer, "profile:read", "profile:read:any")
        response = await client.get("/profiles/nobody", headers=may_look)
        assert (response.status_code, response.json()["code"]) == (404, "profile_not_found")

    async def test_ones_own_profile_is_there_by_id_too(self, client: httpx.AsyncClient, issuer: Issuer) -> None:
        assert (await client.get("/profiles/ada", headers=caller(issuer, *BOTH))).json()["id"] == "ada"


class TestConflicts:
    async def test_a_change_of_a_stale_revision_is_rejected(self, client: httpx.AsyncClient, issuer: Issuer) -> None:
        ada = caller(issuer, *BOTH)
        seen = (await client.get("/profiles/me", headers=ada)).headers["ETag"]
        assert (await client.patch("/profiles/me", json={"bio": "1"}, headers={**ada, "If-Match": seen})).is_success
        for method in ("PATCH", "PUT", "DELETE"):
            stale = await client.request(method, "/profiles/me", json={"bio": "2"}, headers={**ada, "If-Match": seen})
            assert (stale.status_code, stale.json()["code"]) == (412, "profile_changed")
        assert (await client.get("/profiles/me", headers=ada)).json()["bio"] == "1"

    async def test_a_profile_made_again_is_another(self, client: httpx.AsyncClient, issuer: Issuer) -> None:
        ada = caller(issuer, *BOTH)
        seen = (await client.put("/profiles/me", json={"bio": "1"}, headers=ada)).headers["ETag"]
        await client.delete("/profiles/me", headers=ada)
        await client.put("/profiles/me", json={"bio": "1"}, headers=ada)
        assert (await client.delete("/profiles/me", headers={**ada, "If-Match": seen})).status_code == 412

    async def test_one_of_several_tags_will_do(self, client: httpx.AsyncClient, issuer: Issuer) -> None:
        ada = caller(issuer, *BOTH)
        seen = (await client.get("/profiles/me", headers=ada)).headers["ETag"]
        headers = {**ada, "If-Match": f'"other", {seen}'}
        assert (await client.put("/profiles/me", json={}, headers=headers)).status_code == 200

    async def test_a_wrong_method_lists_the_allowed_ones(self, client: httpx.AsyncClient) -> None:
        assert (await client.post("/profiles/me")).headers["Allow"] == "DELETE, GET, HEAD, OPTIONS, PATCH, PUT"

    async def test_any_is_any(self, client: httpx.AsyncClient, issuer: Issuer) -> None:
        ada = caller(issuer, *BOTH)
        assert (await client.put("/profiles/me", json={}, headers={**ada, "If-Match": "*"})).status_code == 200

    async def test_of_concurrent_first_writers_one_wins(self, client: httpx.AsyncClient, issuer: Issuer) -> None:
        ada = caller(issuer, *BOTH)
        seen = (await client.get("/profiles/me", headers=ada)).headers["ETag"]
        puts = [client.put("/profiles/me", json={"bio": str(n)}, headers={**ada, "If-Match": seen}) for n in range(10)]
        statuses = [response.status_code for response in await asyncio.gather(*puts)]
        assert sorted(statuses) == [200, *[412] * 9]


@pytest.mark.parametrize(
    "body",
    [
        {"display_name": ""},
        {"display_name": "x" * 101},
        {"bio": "x" * 2001},
        {"website": "javascript:alert(1)"},
        {"website": "https://user:password@example.com"},
        {"website": "https://"},
        {"website": "http://["},
        {"website": "http://a\nb.c/"},
        {"website": " http://a.b/"},
        {"website": "http://a:x/"},
        {"bio": "\u0000"},
        {"id": "somebody-else"},
        {"bio": 1},
        [],
    ],
)
async def test_an_invalid_body_changes_nothing(client: httpx.AsyncClient, issuer: Issuer, body: object) -> None:
    ada = caller(issuer, *BOTH)
    before = await client.put("/profiles/me", json={"bio": "before"}, headers=ada)
    for method in ("PUT", "PATCH"):
        response = await client.request(method, "/profiles/me", json=body, headers=ada)
        assert (response.status_code, response.json()["code"]) == (422, "invalid_request")
    assert (await client.get("/profiles/me", headers=ada)).json() == before.json()


async def test_without_keys_it_is_not_the_tokens_fault(tmp_path: Path, issuer: Issuer) -> None:
    config = ProfileConfig(data_dir=tmp_path)
    await prepare(config)
    app = create_app(config)  # its verifier is not started, so it holds no keys
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://p") as client:
        response = await client.get("/profiles/me", headers=caller(issuer, *BOTH))
        assert (response.status_code, response.json()["code"]) == (503, "keys_unavailable")
        assert response.headers["Retry-After"] == "1"
        assert (await client.get("/readyz")).json()["failing"] == ["verifier"]
