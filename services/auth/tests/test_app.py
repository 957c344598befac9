"""The application as a whole."""

import json
from typing import Any

import httpx
import pytest
from all_routes import lenient_routes, wrongly_named_routes
from fastapi.routing import iter_route_contexts
from serving import serving
from users import ADA

from ostiary import KeySet, LocalKeys, Verifier, VerifierConfig
from ostiary_auth.app import create_app
from ostiary_auth.config import AuthConfig
from ostiary_auth.services import ServiceSecrets

CONFIDENTIAL = ["client_secret_basic", "client_secret_post", "private_key_jwt"]


async def test_a_token_is_verified_with_the_published_keys_alone(
    client: httpx.AsyncClient, tokens: dict[str, Any]
) -> None:
    keys = KeySet.from_json((await client.get("/.well-known/jwks.json")).content)
    config = VerifierConfig(issuer="http://localhost:8080", audience="ostiary", key_source=LocalKeys(keys))
    token = Verifier(config).verify(tokens["access_token"])
    assert token.session_id == tokens["session_id"]
    assert token.scopes == {"profile:read", "profile:write"}


@pytest.mark.parametrize(("method", "path"), [("POST", "/auth/logout"), ("GET", "/auth/me")])
async def test_who_asks_without_a_token_is_challenged(client: httpx.AsyncClient, method: str, path: str) -> None:
    response = await client.request(method, path)
    assert (response.status_code, response.json()["code"]) == (401, "missing_token")
    assert response.headers["WWW-Authenticate"] == 'Bearer realm="ostiary"'


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
    browser = await client.post("/session", json=ADA)
    await client.delete("/session", headers={"Cookie": "; ".join(browser.headers.get_list("set-cookie"))})
    secrets = [cookie.partition("=")[2].partition(";")[0] for cookie in browser.headers.get_list("set-cookie")]
    printed = "".join(capsys.readouterr())
    assert "request" in printed
    for secret in (ADA["password"], tokens["access_token"], tokens["refresh_token"], ADA["email"], *secrets):
        assert secret not in printed


async def test_the_openapi_document_names_the_endpoints(client: httpx.AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()
    assert {"/auth/register", "/auth/login", "/auth/refresh", "/auth/logout", "/auth/me"} <= document["paths"].keys()
    assert json.dumps(document)


async def test_only_operations_that_authenticate_document_401(client: httpx.AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()
    operations = {
        (method.upper(), path): operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }
    # These have credentials in their bodies.
    authenticating = {("POST", "/auth/login"), ("POST", "/auth/refresh"), ("POST", "/session")}
    authenticating |= {name for name, operation in operations.items() if operation.get("security")}
    assert {name for name, operation in operations.items() if "401" in operation["responses"]} == authenticating
    assert {("POST", "/auth/register"), ("GET", "/.well-known/jwks.json")} <= operations.keys() - authenticating


async def test_every_route_is_named_by_its_template_and_reads_strictly(config: AuthConfig, own: ServiceSecrets) -> None:
    app = create_app(config, own)
    async with serving(app) as client:
        assert await wrongly_named_routes(app, client) == []
        assert lenient_routes(app) == []
        names = {route.path for route in iter_route_contexts(app.routes)}
        assert names >= {*(await client.get("/openapi.json")).json()["paths"], "/feed", "/sessions/exchange"}
