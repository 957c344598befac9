"""The OAuth endpoints, with a client registered."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import httpx
import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm
from users import log_in

from ostiary_auth.domain.context import Context
from ostiary_auth.domain.oauth.model import FIRST_PARTY_CLIENT_ID, Client
from ostiary_auth.domain.sessions.model import Grant
from ostiary_auth.services import Services

ISSUER = "http://localhost:8080"
TOKEN = "/oauth/token"
REVOKE = "/oauth/revoke"
INTROSPECT = "/oauth/introspect"
JWT_BEARER = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
FIRST_PARTY = {"client_id": FIRST_PARTY_CLIENT_ID}
CLIENT_CREDENTIALS = {"grant_type": "client_credentials"}
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
NOW = datetime(2026, 1, 1, tzinfo=UTC)
Basic = tuple[str, str]


def settings_of(client_id: str, **settings: Any) -> Client:
    client = Client(
        id=client_id,
        name="Worker",
        grants=("client_credentials",),
        scopes=("jobs:read", "jobs:write"),
        audiences=("ostiary", "billing"),
    )
    return replace(client, **settings)


class OAuth:
    """The endpoints, with one confidential client registered, and the parts behind them to arrange things with."""

    worker: Basic
    signer: str

    def __init__(self, http: httpx.AsyncClient, services: Services) -> None:
        self.http = http
        self.services = services
        self.mark = uuid4().hex[:8]

    async def post(self, path: str, form: Mapping[str, str], basic: Basic | None = None) -> httpx.Response:
        """Send a form. No refusal repeats what is secret in it."""
        response = await self.http.post(path, data=form, auth=basic or httpx.USE_CLIENT_DEFAULT)
        if response.is_error:
            secret = [form.get(name) for name in ("client_secret", "client_assertion", "token", "refresh_token")]
            for value in (*secret, basic[1] if basic else None):
                assert not value or len(value) < 3 or value not in response.text
        return response

    async def raw(self, content: bytes | str, headers: Mapping[str, str] | None = None) -> httpx.Response:
        return await self.http.post(TOKEN, content=content, headers=FORM if headers is None else headers)

    async def register(self, name: str, **settings: Any) -> Basic:
        """Register a client with a secret, under a name of this test's own."""
        client = settings_of(f"{name}-{self.mark}", **settings)
        _, secret = await self.services.clients.create(client, Context(NOW))
        assert secret is not None
        return client.id, secret

    async def register_keys(self, name: str, *keys: dict[str, Any]) -> str:
        """Register a client with public keys."""
        client = settings_of(f"{name}-{self.mark}", jwks={"keys": list(keys)})
        await self.services.clients.create(client, Context(NOW))
        return client.id

    async def access(self, basic: Basic, **form: str) -> str:
        """Return an access token of a client's own."""
        response = await self.post(TOKEN, {**CLIENT_CREDENTIALS, **form}, basic)
        token: str = response.json()["access_token"]
        return token

    async def log_in(self, client_id: str = FIRST_PARTY_CLIENT_ID) -> tuple[Grant, str]:
        """Return a session of a new user's and an access token of it."""
        return await log_in(self.services, client_id=client_id)

    async def refresh(self, token: str, basic: Basic | None = None, **form: str) -> httpx.Response:
        fields = {"grant_type": "refresh_token", "refresh_token": token, **form}
        return await self.post(TOKEN, fields if basic else {**FIRST_PARTY, **fields}, basic)

    async def inspector(self) -> Basic:
        return await self.register("inspector", scopes=("introspect",))

    async def is_active(self, inspector: Basic, token: str) -> bool:
        response = await self.post(INTROSPECT, {"token": token}, inspector)
        assert response.status_code == 200
        body = response.json()
        # RFC 7662 section 2.2: nothing else is said of a token that does not count.
        assert body["active"] is True or body == {"active": False}
        return bool(body["active"])


def claims_of(token: str) -> dict[str, Any]:
    claims: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    return claims


def refused(response: httpx.Response, error: str) -> None:
    """Check that a response is the refusal of RFC 6749 section 5.2 with this code."""
    assert response.json()["error"] == error
    assert response.json().keys() == {"error", "error_description"}
    assert response.headers["Cache-Control"] == "no-store"
    assert response.headers["Content-Type"] == "application/json"
    if error == "invalid_client":
        assert response.status_code == 401
        assert response.headers["WWW-Authenticate"].startswith("Basic realm=")
    else:
        assert response.status_code == 400
        assert "WWW-Authenticate" not in response.headers


def rsa_jwk(key: rsa.RSAPrivateKey, **members: str) -> dict[str, Any]:
    return {**RSAAlgorithm.to_jwk(key.public_key(), as_dict=True), **members}


def ec_jwk(key: ec.EllipticCurvePrivateKey, **members: str) -> dict[str, Any]:
    return {**ECAlgorithm.to_jwk(key.public_key(), as_dict=True), **members}
