"""The HTTP face: the contract's shapes, and problem documents for everything else."""

import json
import time
from typing import Any

import httpx
import jwt
import pytest

from ostiary import KeySet, LocalKeys, Verifier, VerifierConfig
from ostiary_auth import problems
from ostiary_auth.domain import errors

CONFIDENTIAL = ["client_secret_basic", "client_secret_post", "private_key_jwt"]
ADA = {"email": "ada@example.com", "password": "correct horse battery staple"}


@pytest.fixture
async def tokens(client: httpx.AsyncClient) -> dict[str, Any]:
    await client.post("/auth/register", json=ADA)
    response = await client.post("/auth/login", json=ADA)
    body: dict[str, Any] = response.json()
    return body


def bearer(tokens: dict[str, Any]) -> dict[str, str]:
    return {"Authorization": f"Bearer {tokens['access_token']}"}


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


async def test_a_token_is_verified_with_the_published_keys_alone(
    client: httpx.AsyncClient, tokens: dict[str, Any]
) -> None:
    keys = KeySet.from_json((await client.get("/.well-known/jwks.json")).content)
    config = VerifierConfig(issuer="http://localhost:8080", audience="ostiary", key_source=LocalKeys(keys))
    token = Verifier(config).verify(tokens["access_token"])
    assert token.session_id == tokens["session_id"]
    assert token.scopes == {"profile:read", "profile:write"}


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
        "detail": "E-mail address or password is wrong.",
    }


async def test_me_is_what_the_token_says(client: httpx.AsyncClient, tokens: dict[str, Any]) -> None:
    body = (await client.get("/auth/me", headers=bearer(tokens))).json()
    assert body["session_id"] == tokens["session_id"]
    assert body["scope"] == tokens["scope"]
    assert body["roles"] == ["user"]
    assert body["expires_at"] > time.time()


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


@pytest.mark.parametrize(("method", "path"), [("POST", "/auth/logout"), ("GET", "/auth/me")])
async def test_who_asks_without_a_token_is_challenged(client: httpx.AsyncClient, method: str, path: str) -> None:
    response = await client.request(method, path)
    assert (response.status_code, response.json()["code"]) == (401, "missing_token")
    assert response.headers["WWW-Authenticate"] == 'Bearer realm="ostiary"'


async def test_a_refresh_token_is_no_access_token(client: httpx.AsyncClient, tokens: dict[str, Any]) -> None:
    headers = {"Authorization": f"Bearer {tokens['refresh_token']}"}
    assert (await client.get("/auth/me", headers=headers)).json()["code"] == "malformed"


class TestDiscovery:
    async def test_the_jwks_may_be_cached(self, client: httpx.AsyncClient) -> None:
        response = await client.get("/.well-known/jwks.json")
        assert response.headers["Cache-Control"] == "public, max-age=300"
        assert response.headers["Content-Type"] == "application/json"
        etag = response.headers["ETag"]
        for value in (etag, f'"other", {etag}', f"W/{etag}", "*"):
            again = await client.get("/.well-known/jwks.json", headers={"If-None-Match": value})
            assert (again.status_code, again.content) == (304, b"")
            assert again.headers["ETag"] == etag
        assert (await client.get("/.well-known/jwks.json", headers={"If-None-Match": '"other"'})).status_code == 200

    @pytest.mark.parametrize("name", ["oauth-authorization-server", "openid-configuration"])
    async def test_the_metadata_say_what_is_there(self, client: httpx.AsyncClient, name: str) -> None:
        response = await client.get(f"/.well-known/{name}")
        assert response.json() == {
            "issuer": "http://localhost:8080",
            "jwks_uri": "http://localhost:8080/.well-known/jwks.json",
            "response_types_supported": [],
            "grant_types_supported": ["client_credentials", "refresh_token"],
            "scopes_supported": [
                *("admin", "events:read", "feed:read", "introspect"),
                *("profile:read", "profile:read:any", "profile:write"),
            ],
            "token_endpoint": "http://localhost:8080/oauth/token",
            "token_endpoint_auth_methods_supported": [*CONFIDENTIAL, "none"],
            "token_endpoint_auth_signing_alg_values_supported": ["RS256", "PS256", "ES256"],
            "revocation_endpoint": "http://localhost:8080/oauth/revoke",
            "revocation_endpoint_auth_methods_supported": [*CONFIDENTIAL, "none"],
            "revocation_endpoint_auth_signing_alg_values_supported": ["RS256", "PS256", "ES256"],
            "introspection_endpoint": "http://localhost:8080/oauth/introspect",
            "introspection_endpoint_auth_methods_supported": CONFIDENTIAL,
            "introspection_endpoint_auth_signing_alg_values_supported": ["RS256", "PS256", "ES256"],
        }
        assert response.headers["Cache-Control"] == "public, max-age=3600"


async def test_passwords_and_tokens_are_not_logged(
    client: httpx.AsyncClient, tokens: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    await client.post("/auth/login", json=ADA)
    await client.post("/auth/refresh", json={"refresh_token": tokens["refresh_token"]})
    await client.post("/auth/register", content=b'{"password":"' + ADA["password"].encode() + b'"')
    printed = "".join(capsys.readouterr())
    assert "request" in printed
    for secret in (ADA["password"], tokens["access_token"], tokens["refresh_token"], ADA["email"]):
        assert secret not in printed


async def test_the_openapi_document_names_the_endpoints(client: httpx.AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()
    assert {"/auth/register", "/auth/login", "/auth/refresh", "/auth/logout", "/auth/me"} <= document["paths"].keys()
    assert json.dumps(document)


def test_every_refusal_has_a_status() -> None:
    def all_kinds(kind: type[errors.AuthError]) -> set[type[errors.AuthError]]:
        return {kind, *(each for sub in kind.__subclasses__() for each in all_kinds(sub))}

    assert all_kinds(errors.AuthError) - {errors.AuthError} == set(problems._STATUSES)
