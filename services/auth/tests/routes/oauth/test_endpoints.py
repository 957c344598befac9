"""The OAuth endpoints over HTTP, by the sections of the standards they follow."""

import asyncio
import base64
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from uuid import UUID, uuid4

import httpx
import jwt
import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from ostiary import KeySet, LocalKeys, Verifier, VerifierConfig
from ostiary_auth.app import create_app
from ostiary_auth.config import AuthConfig
from ostiary_auth.domain.accounts.model import User
from ostiary_auth.domain.context import Context
from ostiary_auth.domain.errors import InvalidClient, InvalidClientSettings
from ostiary_auth.domain.oauth.client_assertion import MAX_ASSERTION_CHARACTERS
from ostiary_auth.domain.oauth.clients import OLD_SECRET_GRACE
from ostiary_auth.domain.oauth.model import FIRST_PARTY_CLIENT_ID, Client, Credentials
from ostiary_auth.domain.sessions.model import Grant
from ostiary_auth.services import Services, ServiceSecrets

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

#: One application serves all tests here, as making one takes longer than most of them; clients are each test's own.
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module")
def config(
    copy: Callable[[Path], AbstractContextManager[AuthConfig]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[AuthConfig]:
    with copy(tmp_path_factory.mktemp("oauth")) as config:
        yield config


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def services(config: AuthConfig, own: ServiceSecrets) -> AsyncIterator[Services]:
    services = Services(config, own)
    services.local_keys.use(await services.keys.load())
    yield services
    await services.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(config: AuthConfig, own: ServiceSecrets) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(config, own)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False, client=("192.0.2.7", 40000))
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://auth") as client,
    ):
        yield client


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
        now = datetime.now(UTC)
        address = f"{uuid4()}@example.com"
        user = User(uuid4(), address, address, None, "-", ("user",), None, now)
        async with self.services.store.write() as transaction:
            await transaction.users.add(user)
            grant = await self.services.sessions.open(transaction, user, client_id, Context(now))
        return grant, (await self.services.tokens.for_session(grant, now)).token

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


@pytest_asyncio.fixture(loop_scope="module")
async def oauth(client: httpx.AsyncClient, services: Services) -> OAuth:
    oauth = OAuth(client, services)
    oauth.worker = await oauth.register("worker")
    return oauth


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


class TestClientAuthentication:
    """RFC 6749 section 2.3."""

    async def test_a_secret_goes_into_the_header_or_into_the_form(self, oauth: OAuth) -> None:
        client_id, secret = oauth.worker
        in_form = {**CLIENT_CREDENTIALS, "client_id": client_id, "client_secret": secret}
        assert (await oauth.post(TOKEN, CLIENT_CREDENTIALS, oauth.worker)).status_code == 200
        assert (await oauth.post(TOKEN, in_form)).status_code == 200
        with_id = {**CLIENT_CREDENTIALS, "client_id": client_id}
        assert (await oauth.post(TOKEN, with_id, oauth.worker)).status_code == 200

    async def test_a_client_authenticates_in_one_way_only(self, oauth: OAuth) -> None:
        client_id, secret = oauth.worker
        in_form = {**CLIENT_CREDENTIALS, "client_id": client_id, "client_secret": secret}
        by_assertion = {"client_assertion": "x.y.z", "client_assertion_type": JWT_BEARER}
        refused(await oauth.post(TOKEN, in_form, oauth.worker), "invalid_request")
        refused(await oauth.post(TOKEN, {**CLIENT_CREDENTIALS, **by_assertion}, oauth.worker), "invalid_request")
        refused(await oauth.post(TOKEN, {**in_form, **by_assertion}), "invalid_request")
        field = "Basic " + base64.b64encode(f"{client_id}:{secret}".encode()).decode()
        twice = [("Authorization", field), ("Authorization", field)]
        response = await oauth.http.post(TOKEN, data=CLIENT_CREDENTIALS, headers=twice)
        refused(response, "invalid_request")

    async def test_the_form_may_not_name_another_client_than_the_header(self, oauth: OAuth) -> None:
        for other in ("inspector", FIRST_PARTY_CLIENT_ID, "WORKER"):
            refused(
                await oauth.post(TOKEN, {**CLIENT_CREDENTIALS, "client_id": other}, oauth.worker), "invalid_request"
            )

    async def test_what_basic_carries_is_form_encoded(self, oauth: OAuth) -> None:
        encoded = ["".join(f"%{byte:02X}" for byte in part.encode()) for part in oauth.worker]
        assert (await oauth.post(TOKEN, CLIENT_CREDENTIALS, (encoded[0], encoded[1]))).status_code == 200
        client_id, secret = oauth.worker
        refused(await oauth.post(TOKEN, CLIENT_CREDENTIALS, (client_id, f"{secret}+")), "invalid_client")

    async def test_the_scheme_is_case_insensitive(self, oauth: OAuth) -> None:
        field = "bAsIc  " + base64.b64encode(":".join(oauth.worker).encode()).decode()
        response = await oauth.http.post(TOKEN, data=CLIENT_CREDENTIALS, headers={"Authorization": field})
        assert response.status_code == 200

    async def test_a_broken_basic_authenticates_nobody(self, oauth: OAuth) -> None:
        client_id = oauth.worker[0].encode()
        contents = [client_id, b":", client_id + b":", b":secret", b"", b"\xff:\xff", b"%00:%00", b"%ff:%ff", b"\0:\0"]
        fields = [b"Basic " + base64.b64encode(content) for content in contents]
        fields += [b"Basic", b"Basic !!!", b"Basic d29ya2V", b"Bearer x", b"Digest x", b"", b"Basic \xe9", b"\xe9 x"]
        for field in fields:
            response = await oauth.http.post(TOKEN, data=CLIENT_CREDENTIALS, headers=[(b"Authorization", field)])
            refused(response, "invalid_client")

    async def test_a_wrong_secret_is_refused(self, oauth: OAuth) -> None:
        client_id, secret = oauth.worker
        for wrong in ("x", secret[:-1], secret + "x", secret.swapcase(), "\u00e9", "x" * 5000):
            refused(await oauth.post(TOKEN, CLIENT_CREDENTIALS, (client_id, wrong)), "invalid_client")
            in_form = {**CLIENT_CREDENTIALS, "client_id": client_id, "client_secret": wrong}
            refused(await oauth.post(TOKEN, in_form), "invalid_client")

    async def test_a_client_with_a_secret_must_show_it(self, oauth: OAuth) -> None:
        for path in (TOKEN, REVOKE, INTROSPECT):
            form = {**CLIENT_CREDENTIALS, "client_id": oauth.worker[0], "token": "x", "client_secret": ""}
            refused(await oauth.post(path, form), "invalid_client")

    async def test_an_unknown_client_is_refused_like_a_wrong_secret(self, oauth: OAuth) -> None:
        wrong = await oauth.post(TOKEN, CLIENT_CREDENTIALS, (oauth.worker[0], "x"))
        for client_id in (
            "nobody",
            oauth.worker[0].upper(),
            f"{oauth.worker[0]} ",
            "\u00e9",
            "x" * 5000,
            "' OR 1=1 --",
            "worker",
        ):
            response = await oauth.post(TOKEN, {**CLIENT_CREDENTIALS, "client_id": client_id, "client_secret": "x"})
            refused(response, "invalid_client")
            assert response.json() == wrong.json()
        for path in (TOKEN, REVOKE, INTROSPECT):
            refused(await oauth.post(path, {**CLIENT_CREDENTIALS, "token": "x"}), "invalid_client")

    async def test_a_disabled_client_is_refused_until_it_is_enabled(self, oauth: OAuth) -> None:
        basic = await oauth.register("second")
        await oauth.services.clients.disable(basic[0], Context(NOW))
        refused(await oauth.post(TOKEN, CLIENT_CREDENTIALS, basic), "invalid_client")
        assert (await oauth.post(TOKEN, CLIENT_CREDENTIALS, oauth.worker)).status_code == 200
        credentials = Credentials(*basic)
        with pytest.raises(InvalidClient):
            await oauth.services.clients.authenticate(credentials, Context(NOW))
        await oauth.services.clients.enable(basic[0], Context(NOW))
        assert (await oauth.services.clients.authenticate(credentials, Context(NOW))).id == basic[0]

    async def test_a_deleted_client_is_refused(self, oauth: OAuth) -> None:
        basic = await oauth.register("second")
        await oauth.services.clients.delete(basic[0], Context(NOW))
        refused(await oauth.post(TOKEN, CLIENT_CREDENTIALS, basic), "invalid_client")

    async def test_a_public_client_with_a_secret_is_refused(self, oauth: OAuth) -> None:
        grant, _ = await oauth.log_in()
        for secret in ("x", "first-party", "-"):
            form = {"grant_type": "refresh_token", "refresh_token": grant.refresh_token}
            refused(await oauth.post(TOKEN, form, (FIRST_PARTY_CLIENT_ID, secret)), "invalid_client")
            refused(await oauth.post(TOKEN, {**FIRST_PARTY, **form, "client_secret": secret}), "invalid_client")
        assert (await oauth.refresh(grant.refresh_token)).status_code == 200

    async def test_credentials_in_the_uri_are_not_read(self, oauth: OAuth) -> None:
        client_id, secret = oauth.worker
        query = urlencode({**CLIENT_CREDENTIALS, "client_id": client_id, "client_secret": secret})
        refused(await oauth.http.post(f"{TOKEN}?{query}", data=CLIENT_CREDENTIALS), "invalid_client")

    async def test_a_failure_is_logged_and_leaves_nothing_for_ever(
        self, oauth: OAuth, capsys: pytest.CaptureFixture[str]
    ) -> None:
        async with oauth.services.store.read() as transaction:
            before = await transaction.audit.entries(after=0, limit=1000)
        await oauth.post(TOKEN, CLIENT_CREDENTIALS, (oauth.worker[0], "wrong-secret"))
        async with oauth.services.store.read() as transaction:
            assert await transaction.audit.entries(after=0, limit=1000) == before
        printed = capsys.readouterr().out
        assert "client not authenticated" in printed
        assert oauth.worker[0] in printed
        assert "wrong-secret" not in printed

    async def test_an_old_secret_is_good_for_a_day(self, oauth: OAuth) -> None:
        clients = oauth.services.clients
        old, rotated_at = Credentials(*oauth.worker), datetime.now(UTC)
        new = Credentials(oauth.worker[0], await clients.rotate_secret(oauth.worker[0], Context(rotated_at)))
        assert new.secret is not None
        assert OLD_SECRET_GRACE.total_seconds() == 24 * 3600
        for basic in (oauth.worker, (oauth.worker[0], new.secret)):
            assert (await oauth.post(TOKEN, CLIENT_CREDENTIALS, basic)).status_code == 200
        last = Context(rotated_at + OLD_SECRET_GRACE - timedelta(seconds=1))
        assert (await clients.authenticate(old, last)).id == oauth.worker[0]
        over = Context(rotated_at + OLD_SECRET_GRACE)
        with pytest.raises(InvalidClient):
            await clients.authenticate(old, over)
        assert (await clients.authenticate(new, over)).id == oauth.worker[0]

    async def test_a_second_rotation_ends_the_first_secret_at_once(self, oauth: OAuth) -> None:
        for _ in range(2):
            await oauth.services.clients.rotate_secret(oauth.worker[0], Context(NOW))
        refused(await oauth.post(TOKEN, CLIENT_CREDENTIALS, oauth.worker), "invalid_client")


class TestTokenEndpoint:
    """RFC 6749 section 3.2."""

    async def test_a_parameter_stands_once(self, oauth: OAuth) -> None:
        client_id, secret = oauth.worker
        body = urlencode({**CLIENT_CREDENTIALS, "client_id": client_id, "client_secret": secret})
        assert (await oauth.raw(body)).status_code == 200
        for again in (*body.split("&"), "scope=&scope=", "scope=a&scope=a", "x=1&x=2", "grant%5Ftype=x"):
            refused(await oauth.raw(f"{body}&{again}"), "invalid_request")

    async def test_a_parameter_without_a_value_counts_as_not_sent(self, oauth: OAuth) -> None:
        form = {**CLIENT_CREDENTIALS, "scope": "", "audience": "", "client_secret": "", "client_assertion": ""}
        response = await oauth.post(TOKEN, form, oauth.worker)
        assert response.json()["scope"] == "jobs:read jobs:write"
        refused(await oauth.post(TOKEN, {"grant_type": ""}, oauth.worker), "invalid_request")
        refused(
            await oauth.post(TOKEN, {**FIRST_PARTY, "grant_type": "refresh_token", "refresh_token": ""}),
            "invalid_request",
        )

    async def test_unknown_parameters_are_ignored(self, oauth: OAuth) -> None:
        form = {**CLIENT_CREDENTIALS, "resource": "x", "sub": "root", "aud": "x", "client_name": "x", "roles": "admin"}
        token = await oauth.access(oauth.worker, **form)
        claims = claims_of(token)
        assert (claims["sub"], claims["aud"], claims["roles"]) == (oauth.worker[0], "ostiary", [])

    async def test_only_a_form_is_read(self, oauth: OAuth) -> None:
        client_id, secret = oauth.worker
        fields = {**CLIENT_CREDENTIALS, "client_id": client_id, "client_secret": secret}
        form = urlencode(fields)
        for media_type in ("application/json", "text/plain", "multipart/form-data; boundary=x", "", "form"):
            refused(await oauth.raw(form, {"Content-Type": media_type} if media_type else {}), "invalid_request")
        refused(await oauth.raw(json.dumps(fields), {"Content-Type": "application/json"}), "invalid_request")
        for media_type in ("application/x-www-form-urlencoded; charset=UTF-8", "Application/X-WWW-Form-URLencoded"):
            assert (await oauth.raw(form, {"Content-Type": media_type})).status_code == 200

    async def test_what_is_no_form_is_refused(self, oauth: OAuth) -> None:
        bodies: list[bytes] = [b"grant_type", b"=&=", b"&", b"a=1&&b=2", b"scope=\xc3\xa9", b"scope=%ff", b"\0", b"{}"]
        for body in (*bodies, b"scope=%00", b"client_id=worker%00&client_secret=x", b"scope=%ed%a0%80"):
            refused(await oauth.raw(body), "invalid_request")
        refused(await oauth.raw(b""), "invalid_client")

    async def test_the_number_of_parameters_has_a_bound(self, oauth: OAuth) -> None:
        some = {f"p{number}": "x" for number in range(31)}
        assert (await oauth.post(TOKEN, {**CLIENT_CREDENTIALS, **some}, oauth.worker)).status_code == 200
        refused(await oauth.post(TOKEN, {**CLIENT_CREDENTIALS, **some, "p": "x"}, oauth.worker), "invalid_request")
        refused(await oauth.raw("&".join(f"p{number}=x" for number in range(5000))), "invalid_request")

    async def test_characters_beyond_ascii_may_be_sent_encoded(self, oauth: OAuth) -> None:
        form = {**CLIENT_CREDENTIALS, "scope": "jobs:\u00e9", "x": "\U0001f98a"}
        refused(await oauth.post(TOKEN, form, oauth.worker), "invalid_scope")

    async def test_only_post_is_answered(self, oauth: OAuth) -> None:
        for path in (TOKEN, REVOKE, INTROSPECT):
            for method in ("GET", "PUT", "DELETE"):
                response = await oauth.http.request(method, path, params=CLIENT_CREDENTIALS)
                assert response.status_code == 405
                assert "POST" in response.headers["Allow"]

    async def test_other_grants_are_not_supported(self, oauth: OAuth) -> None:
        """RFC 9700 section 2.4: the password grant must not be used."""
        user = {"username": "ada@example.com", "password": "correct horse battery staple"}
        grants = ["password", "authorization_code", "implicit", "CLIENT_CREDENTIALS", "client_credentials ", "x" * 5000]
        for grant in (*grants, "urn:ietf:params:oauth:grant-type:jwt-bearer", "\u00e9"):
            refused(await oauth.post(TOKEN, {"grant_type": grant, **user}, oauth.worker), "unsupported_grant_type")
            refused(await oauth.post(TOKEN, {"grant_type": grant, **user, **FIRST_PARTY}), "unsupported_grant_type")
        refused(await oauth.post(TOKEN, {}, oauth.worker), "invalid_request")


class TestClientCredentials:
    """RFC 6749 sections 4.4 and 5, RFC 8707, RFC 9068."""

    async def test_the_answer_is_as_section_5_1_has_it(self, oauth: OAuth) -> None:
        response = await oauth.post(TOKEN, CLIENT_CREDENTIALS, oauth.worker)
        body = response.json()
        # No refresh token (section 4.4.3).
        assert body.keys() == {"access_token", "token_type", "expires_in", "scope"}
        assert (body["token_type"], body["expires_in"], body["scope"]) == ("Bearer", 900, "jobs:read jobs:write")
        assert response.headers["Cache-Control"] == "no-store"
        assert response.headers["Content-Type"] == "application/json"

    async def test_a_token_has_the_claims_of_the_profile(self, oauth: OAuth) -> None:
        before = int(time.time())
        token = await oauth.access(oauth.worker)
        header, claims = jwt.get_unverified_header(token), claims_of(token)
        assert (header["alg"], header["typ"]) == ("RS256", "at+jwt")
        assert claims.keys() == {
            *("iss", "aud", "sub", "client_id", "exp", "iat", "nbf"),
            *("jti", "scope", "roles", "rev"),
        }
        assert claims["iss"] == ISSUER
        assert claims["aud"] == "ostiary"
        assert claims["sub"] == claims["client_id"] == oauth.worker[0]
        assert claims["scope"] == "jobs:read jobs:write"
        async with oauth.services.store.read() as transaction:
            assert claims["rev"] == (await transaction.revocations.head()).number
        assert before <= claims["iat"] == claims["nbf"] <= time.time()
        assert claims["exp"] == claims["iat"] + 900
        assert claims["jti"] != claims_of(await oauth.access(oauth.worker))["jti"]

    async def test_a_token_is_verified_with_the_published_keys_alone(self, oauth: OAuth) -> None:
        keys = KeySet.from_json((await oauth.http.get("/.well-known/jwks.json")).content)
        config = VerifierConfig(issuer=ISSUER, audience="ostiary", key_source=LocalKeys(keys))
        token = Verifier(config).verify(await oauth.access(oauth.worker, scope="jobs:read"))
        assert (token.subject, token.client_id, token.session_id) == (oauth.worker[0], oauth.worker[0], None)
        assert token.scopes == {"jobs:read"}

    async def test_a_clients_token_is_not_a_users(self, oauth: OAuth) -> None:
        headers = {"Authorization": f"Bearer {await oauth.access(oauth.worker)}"}
        for method, path in (
            ("GET", "/auth/sessions"),
            ("POST", "/auth/logout"),
            ("DELETE", f"/auth/sessions/{uuid4()}"),
        ):
            response = await oauth.http.request(method, path, headers=headers)
            assert (response.status_code, response.json()["code"]) == (403, "not_a_user")

    async def test_a_client_asks_for_some_of_its_scopes_or_gets_all(self, oauth: OAuth) -> None:
        for asked, granted in (
            ("jobs:read", "jobs:read"),
            ("jobs:write jobs:read", "jobs:read jobs:write"),
            ("jobs:read jobs:read", "jobs:read"),
            ("", "jobs:read jobs:write"),
        ):
            response = await oauth.post(TOKEN, {**CLIENT_CREDENTIALS, "scope": asked}, oauth.worker)
            assert response.json()["scope"] == claims_of(response.json()["access_token"])["scope"] == granted

    async def test_a_scope_that_a_client_may_not_have_is_refused(self, oauth: OAuth) -> None:
        for scope in ("admin", "jobs:read admin", "jobs", "JOBS:READ", "jobs:read,jobs:write", "introspect", "*", " "):
            refused(await oauth.post(TOKEN, {**CLIENT_CREDENTIALS, "scope": scope}, oauth.worker), "invalid_scope")

    async def test_a_client_without_scopes_gets_a_token_without_scopes(self, oauth: OAuth) -> None:
        basic = await oauth.register("plain", scopes=())
        assert claims_of(await oauth.access(basic))["scope"] == ""

    async def test_a_token_is_meant_for_one_of_the_clients_audiences(self, oauth: OAuth) -> None:
        for audience in ("ostiary", "billing"):
            assert claims_of(await oauth.access(oauth.worker, audience=audience))["aud"] == audience
        for audience in ("other", "ostiary billing", "OSTIARY", ISSUER):
            form = {**CLIENT_CREDENTIALS, "audience": audience}
            refused(await oauth.post(TOKEN, form, oauth.worker), "invalid_target")

    async def test_a_client_uses_the_grants_that_it_has(self, oauth: OAuth) -> None:
        refused(await oauth.post(TOKEN, {**CLIENT_CREDENTIALS, **FIRST_PARTY}), "unauthorized_client")
        refreshes = await oauth.register("app", grants=("refresh_token",))
        refused(await oauth.post(TOKEN, CLIENT_CREDENTIALS, refreshes), "unauthorized_client")
        refused(await oauth.refresh("x", oauth.worker), "unauthorized_client")


class TestRefreshToken:
    """RFC 6749 section 6."""

    async def test_the_public_client_continues_its_sessions(self, oauth: OAuth) -> None:
        grant, _ = await oauth.log_in()
        response = await oauth.refresh(grant.refresh_token)
        body = response.json()
        assert response.headers["Cache-Control"] == "no-store"
        assert body.keys() == {*("access_token", "token_type", "expires_in", "scope", "refresh_token", "session_id")}
        assert body["session_id"] == claims_of(body["access_token"])["sid"] == str(grant.session.id)
        assert body["refresh_token"] != grant.refresh_token
        assert body["scope"] == "profile:read profile:write"

    async def test_a_token_may_be_asked_to_do_less(self, oauth: OAuth) -> None:
        grant, _ = await oauth.log_in()
        body = (await oauth.refresh(grant.refresh_token, scope="profile:read")).json()
        assert body["scope"] == claims_of(body["access_token"])["scope"] == "profile:read"
        # The refresh token itself goes on with all that was granted at the login.
        again = (await oauth.refresh(body["refresh_token"])).json()
        assert again["scope"] == "profile:read profile:write"

    async def test_asking_for_more_is_refused_and_uses_nothing_up(self, oauth: OAuth) -> None:
        grant, _ = await oauth.log_in()
        for scope in ("admin", "profile:read admin", "profile:read:any"):
            refused(await oauth.refresh(grant.refresh_token, scope=scope), "invalid_scope")
        first = await oauth.refresh(grant.refresh_token)
        assert first.status_code == 200
        assert (await oauth.refresh(first.json()["refresh_token"])).status_code == 200

    async def test_a_token_is_good_for_its_own_client_alone(self, oauth: OAuth) -> None:
        app = await oauth.register("app", grants=("refresh_token",))
        other = await oauth.register("other", grants=("refresh_token",))
        persons, _ = await oauth.log_in()
        apps, _ = await oauth.log_in(app[0])
        refused(await oauth.refresh(persons.refresh_token, app), "invalid_grant")
        refused(await oauth.refresh(apps.refresh_token), "invalid_grant")
        refused(await oauth.refresh(apps.refresh_token, other), "invalid_grant")
        response = await oauth.http.post("/auth/refresh", json={"refresh_token": apps.refresh_token})
        assert (response.status_code, response.json()["code"]) == (401, "invalid_refresh_token")
        # Nothing was used up by those who tried.
        assert (await oauth.refresh(persons.refresh_token)).status_code == 200
        body = (await oauth.refresh(apps.refresh_token, app)).json()
        assert claims_of(body["access_token"])["client_id"] == app[0]

    async def test_what_is_no_refresh_token_is_refused(self, oauth: OAuth) -> None:
        grant, access = await oauth.log_in()
        for token in ("x", access, grant.refresh_token[:-1], grant.refresh_token + "x", "\u00e9", "x" * 5000):
            refused(await oauth.refresh(token), "invalid_grant")

    async def test_a_replayed_token_ends_its_session(self, oauth: OAuth) -> None:
        grant, _ = await oauth.log_in()
        second = (await oauth.refresh(grant.refresh_token)).json()["refresh_token"]
        third = (await oauth.refresh(second)).json()["refresh_token"]
        refused(await oauth.refresh(grant.refresh_token), "invalid_grant")
        refused(await oauth.refresh(third), "invalid_grant")

    async def test_a_disabled_users_session_does_not_go_on(self, oauth: OAuth) -> None:
        grant, _ = await oauth.log_in()
        await oauth.services.accounts.disable(grant.user.id, Context(datetime.now(UTC)))
        refused(await oauth.refresh(grant.refresh_token), "invalid_grant")


class TestRevocation:
    """RFC 7009."""

    async def revoke(self, oauth: OAuth, token: str, basic: Basic | None = None, **form: str) -> None:
        fields = {"token": token, **form}
        response = await oauth.post(REVOKE, fields if basic else {**FIRST_PARTY, **fields}, basic)
        assert response.status_code == 200
        assert response.headers["Cache-Control"] == "no-store"

    async def test_revoking_a_refresh_token_ends_its_session(self, oauth: OAuth) -> None:
        inspector = await oauth.inspector()
        grant, access = await oauth.log_in()
        assert await oauth.is_active(inspector, access)
        for _ in range(2):
            await self.revoke(oauth, grant.refresh_token)
            refused(await oauth.refresh(grant.refresh_token), "invalid_grant")
            assert not await oauth.is_active(inspector, access)

    async def test_a_used_refresh_token_ends_its_session_as_well(self, oauth: OAuth) -> None:
        grant, _ = await oauth.log_in()
        following = (await oauth.refresh(grant.refresh_token)).json()["refresh_token"]
        await self.revoke(oauth, grant.refresh_token)
        refused(await oauth.refresh(following), "invalid_grant")

    async def test_revoking_an_access_token_ends_it_alone(self, oauth: OAuth) -> None:
        inspector = await oauth.inspector()
        one, other = await oauth.access(oauth.worker), await oauth.access(oauth.worker)
        for _ in range(2):
            await self.revoke(oauth, one, oauth.worker)
            assert not await oauth.is_active(inspector, one)
            assert await oauth.is_active(inspector, other)

    async def test_revoking_a_users_access_token_leaves_their_session(self, oauth: OAuth) -> None:
        inspector = await oauth.inspector()
        grant, access = await oauth.log_in()
        await self.revoke(oauth, access)
        assert not await oauth.is_active(inspector, access)
        body = (await oauth.refresh(grant.refresh_token)).json()
        assert await oauth.is_active(inspector, body["access_token"])

    async def test_a_hint_is_only_a_hint(self, oauth: OAuth) -> None:
        inspector = await oauth.inspector()
        for hint in ("access_token", "refresh_token", "saml", "\u00e9"):
            grant, access = await oauth.log_in()
            await self.revoke(oauth, grant.refresh_token, token_type_hint=hint)
            refused(await oauth.refresh(grant.refresh_token), "invalid_grant")
            other = await oauth.access(oauth.worker)
            await self.revoke(oauth, other, oauth.worker, token_type_hint=hint)
            assert not await oauth.is_active(inspector, access)
            assert not await oauth.is_active(inspector, other)

    async def test_a_token_that_is_nobodys_is_no_error(self, oauth: OAuth) -> None:
        for token in ("x", "x.y.z", "\u00e9", "x" * 5000, ISSUER):
            await self.revoke(oauth, token)
            await self.revoke(oauth, token, oauth.worker)

    async def test_another_clients_tokens_are_left_alone(self, oauth: OAuth) -> None:
        inspector = await oauth.inspector()
        grant, persons = await oauth.log_in()
        workers = await oauth.access(oauth.worker)
        for token in (grant.refresh_token, persons, workers):
            await self.revoke(oauth, token, inspector)
        await self.revoke(oauth, persons, oauth.worker)
        await self.revoke(oauth, workers)
        assert await oauth.is_active(inspector, persons)
        assert await oauth.is_active(inspector, workers)
        assert (await oauth.refresh(grant.refresh_token)).status_code == 200

    async def test_who_revokes_must_be_recognised_and_name_a_token(self, oauth: OAuth) -> None:
        inspector = await oauth.inspector()
        token = await oauth.access(oauth.worker)
        refused(await oauth.post(REVOKE, {"token": token, "client_id": oauth.worker[0]}), "invalid_client")
        refused(await oauth.post(REVOKE, {"token": token}, (oauth.worker[0], "x")), "invalid_client")
        refused(await oauth.post(REVOKE, {"token": token}), "invalid_client")
        refused(await oauth.post(REVOKE, {}, oauth.worker), "invalid_request")
        assert await oauth.is_active(inspector, token)


class TestIntrospection:
    """RFC 7662."""

    async def test_only_clients_that_may_ask_are_answered(self, oauth: OAuth) -> None:
        token = await oauth.access(oauth.worker)
        refused(await oauth.post(INTROSPECT, {"token": token}, oauth.worker), "unauthorized_client")
        refused(await oauth.post(INTROSPECT, {"token": token, **FIRST_PARTY}), "unauthorized_client")
        refused(await oauth.post(INTROSPECT, {"token": token}), "invalid_client")
        refused(await oauth.post(INTROSPECT, {"token": token}, (oauth.worker[0], "x")), "invalid_client")
        refused(await oauth.post(INTROSPECT, {}, await oauth.inspector()), "invalid_request")

    async def test_a_token_cannot_stand_for_the_client(self, oauth: OAuth) -> None:
        inspector = await oauth.inspector()
        headers = {"Authorization": f"Bearer {await oauth.access(inspector)}"}
        refused(await oauth.http.post(INTROSPECT, data={"token": "x"}, headers=headers), "invalid_client")

    async def test_of_a_good_token_the_claims_are_told(self, oauth: OAuth) -> None:
        grant, access = await oauth.log_in()
        response = await oauth.post(INTROSPECT, {"token": access}, await oauth.inspector())
        assert response.json() == {"active": True, "token_type": "Bearer", **claims_of(access)}
        assert response.json()["sub"] == str(grant.user.id)
        assert response.headers["Cache-Control"] == "no-store"

    async def test_a_token_for_another_audience_is_active(self, oauth: OAuth) -> None:
        token = await oauth.access(oauth.worker, audience="billing")
        response = await oauth.post(INTROSPECT, {"token": token}, await oauth.inspector())
        assert (response.json()["active"], response.json()["aud"]) == (True, "billing")

    async def test_what_is_no_access_token_of_ours_is_inactive(self, oauth: OAuth) -> None:
        inspector = await oauth.inspector()
        grant, access = await oauth.log_in()
        head, body, signature = access.split(".")
        key = oauth.services.local_keys.ring().signing
        headers = {"typ": "at+jwt", "kid": key.kid}
        ours = claims_of(access)

        def signed(claims: Mapping[str, Any], **changes: Any) -> str:
            return jwt.encode(dict(claims), key.private_key, "RS256", headers={**headers, **changes})

        stranger = ec.generate_private_key(ec.SECP256R1())
        assert await oauth.is_active(inspector, signed(ours))
        for token in (
            grant.refresh_token,
            signed({**ours, "iss": "https://other.example"}),
            signed({name: value for name, value in ours.items() if name != "iss"}),
            signed(ours, typ="JWT"),
            signed(ours, kid="unknown"),
            jwt.encode(ours, stranger, "ES256", headers=headers),
            jwt.encode(ours, "", "none", headers=headers),
            f"{head}.{body}.",
            f"{head}.{body}",
            f"{head}.{body}.{signature[:-6]}AAAAAA",
            f"{access}.x",
            "x",
            "..",
            "\u00e9.\u00e9.\u00e9",
            "x" * 5000,
            base64.urlsafe_b64encode(b"[" * 3000).decode() + ".e30.",
        ):
            assert not await oauth.is_active(inspector, token)

    async def test_an_expired_token_is_inactive(self, oauth: OAuth) -> None:
        inspector = await oauth.inspector()
        client = await oauth.services.clients.get(oauth.worker[0])
        for age, active in (
            (timedelta(seconds=890), True),
            (timedelta(seconds=900), False),
            (timedelta(days=9), False),
        ):
            issued_at = datetime.now(UTC) - age
            token = (await oauth.services.tokens.for_client(client, "ostiary", (), issued_at)).token
            assert await oauth.is_active(inspector, token) is active

    async def test_after_logout_a_token_is_inactive(self, oauth: OAuth) -> None:
        inspector = await oauth.inspector()
        _, access = await oauth.log_in()
        _, others = await oauth.log_in()
        await oauth.http.post("/auth/logout", headers={"Authorization": f"Bearer {access}"})
        assert not await oauth.is_active(inspector, access)
        assert await oauth.is_active(inspector, others)

    async def test_after_the_user_is_disabled_or_deleted_or_changed_a_token_is_inactive(self, oauth: OAuth) -> None:
        inspector = await oauth.inspector()
        accounts = oauth.services.accounts
        (disabled, one), (deleted, two), (changed, three) = [await oauth.log_in() for _ in range(3)]
        context = Context(datetime.now(UTC))
        await accounts.disable(disabled.user.id, context)
        await accounts.delete(deleted.user.id, context)
        await accounts.set_roles(changed.user.id, ("admin", "user"), context)
        for token in (one, two, three):
            assert not await oauth.is_active(inspector, token)
        await accounts.enable(disabled.user.id, context)
        assert not await oauth.is_active(inspector, one)

    async def test_after_the_client_is_disabled_its_tokens_are_inactive(self, oauth: OAuth) -> None:
        inspector = await oauth.inspector()
        second = await oauth.register("second")
        token, others = await oauth.access(second), await oauth.access(oauth.worker)
        await oauth.services.clients.disable(second[0], Context(datetime.now(UTC)))
        assert not await oauth.is_active(inspector, token)
        assert await oauth.is_active(inspector, others)


@pytest.fixture(scope="module")
def rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@pytest.fixture(scope="module")
def ec_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def rsa_jwk(key: rsa.RSAPrivateKey, **members: str) -> dict[str, Any]:
    return {**RSAAlgorithm.to_jwk(key.public_key(), as_dict=True), **members}


def ec_jwk(key: ec.EllipticCurvePrivateKey, **members: str) -> dict[str, Any]:
    return {**ECAlgorithm.to_jwk(key.public_key(), as_dict=True), **members}


def claims_for(client_id: str, **changes: Any) -> dict[str, Any]:
    """Return the claims of a good assertion; a change to None leaves a claim out."""
    now = int(time.time())
    good = {"iss": client_id, "sub": client_id, "aud": ISSUER, "iat": now, "exp": now + 60, "jti": str(uuid4())}
    return {name: value for name, value in {**good, **changes}.items() if value is not None}


def with_assertion(assertion: str, **form: str) -> dict[str, str]:
    return {**CLIENT_CREDENTIALS, "client_assertion": assertion, "client_assertion_type": JWT_BEARER, **form}


class TestPrivateKeyJwt:
    """RFC 7523 sections 2.2 and 3, RFC 8725, and RFC 7523bis on the audience."""

    @pytest_asyncio.fixture(loop_scope="module")
    async def signer(self, oauth: OAuth, rsa_key: rsa.RSAPrivateKey, ec_key: ec.EllipticCurvePrivateKey) -> OAuth:
        oauth.signer = await oauth.register_keys("signer", rsa_jwk(rsa_key, kid="rsa"), ec_jwk(ec_key, kid="ec"))
        return oauth

    async def test_a_registered_key_authenticates(
        self, signer: OAuth, rsa_key: rsa.RSAPrivateKey, ec_key: ec.EllipticCurvePrivateKey
    ) -> None:
        for assertion in (
            jwt.encode(claims_for(signer.signer), rsa_key, "RS256"),
            jwt.encode(claims_for(signer.signer), rsa_key, "PS256", headers={"kid": "rsa"}),
            jwt.encode(claims_for(signer.signer), ec_key, "ES256", headers={"kid": "ec"}),
            jwt.encode(claims_for(signer.signer, aud=f"{ISSUER}{TOKEN}"), ec_key, "ES256"),
            jwt.encode(claims_for(signer.signer, iat=None, exp=time.time() + 299), ec_key, "ES256"),
        ):
            response = await signer.post(TOKEN, with_assertion(assertion))
            assert response.status_code == 200
            assert claims_of(response.json()["access_token"])["sub"] == signer.signer

    async def test_a_key_authenticates_at_every_endpoint(
        self, signer: OAuth, ec_key: ec.EllipticCurvePrivateKey
    ) -> None:
        form = with_assertion(
            jwt.encode(claims_for(signer.signer), ec_key, "ES256"), client_id=signer.signer, token="x"
        )
        assert (await signer.post(REVOKE, form)).status_code == 200
        form = with_assertion(jwt.encode(claims_for(signer.signer), ec_key, "ES256"), token="x")
        refused(await signer.post(INTROSPECT, form), "unauthorized_client")

    async def test_an_assertion_is_used_once(self, signer: OAuth, ec_key: ec.EllipticCurvePrivateKey) -> None:
        claims = claims_for(signer.signer)
        form = with_assertion(jwt.encode(claims, ec_key, "ES256"))
        answers = await asyncio.gather(*(signer.post(TOKEN, form) for _ in range(10)))
        assert sorted(answer.status_code for answer in answers) == [200, *[401] * 9]
        later = {**claims, "exp": claims["exp"] + 1}
        for again in (claims, later):
            refused(await signer.post(TOKEN, with_assertion(jwt.encode(again, ec_key, "ES256"))), "invalid_client")
        refused(await signer.post(REVOKE, {**form, "token": "x"}), "invalid_client")

    async def test_two_clients_may_use_the_same_jti(self, signer: OAuth, ec_key: ec.EllipticCurvePrivateKey) -> None:
        other = await signer.register_keys("other", ec_jwk(ec_key))
        for client_id in (signer.signer, other):
            assertion = jwt.encode(claims_for(client_id, jti="same"), ec_key, "ES256")
            assert (await signer.post(TOKEN, with_assertion(assertion))).status_code == 200

    async def test_an_assertion_that_does_not_keep_the_rules_is_refused(
        self, signer: OAuth, ec_key: ec.EllipticCurvePrivateKey
    ) -> None:
        now = time.time()
        broken: list[dict[str, Any]] = [
            {"exp": now - 1},
            {"exp": now + 400},
            {"exp": None},
            {"nbf": now + 60},
            {"iat": now + 60},
            {"aud": [ISSUER]},
            {"aud": [ISSUER, "https://other.example"]},
            {"aud": "https://other.example"},
            {"aud": f"{ISSUER}/"},
            {"aud": f"{ISSUER}{INTROSPECT}"},
            {"aud": {}},
            {"aud": None},
            {"iss": signer.worker[0]},
            {"iss": None},
            {"sub": signer.worker[0]},
            {"sub": FIRST_PARTY_CLIENT_ID},
            {"sub": "nobody"},
            {"sub": None},
            {"sub": 7},
            {"jti": None},
            {"jti": 7},
            {"jti": []},
        ]
        for changes in broken:
            assertion = jwt.encode(claims_for(signer.signer, **changes), ec_key, "ES256")
            refused(await signer.post(TOKEN, with_assertion(assertion)), "invalid_client")

    @pytest.mark.parametrize(
        "changes",
        [
            pytest.param({"exp": str(int(time.time()) + 60)}, id="an expiry in a string"),
            pytest.param({"exp": 10**30}, id="an expiry that no date can be"),
            pytest.param({"exp": float("inf")}, id="an endless expiry"),
            pytest.param({"exp": {}}, id="an expiry that is an object"),
            pytest.param({"jti": "\ud800"}, id="half a surrogate pair"),
        ],
    )
    async def test_a_claim_of_the_wrong_kind_is_refused(
        self, signer: OAuth, ec_key: ec.EllipticCurvePrivateKey, changes: dict[str, Any]
    ) -> None:
        assertion = jwt.encode(claims_for(signer.signer, **changes), ec_key, "ES256")
        refused(await signer.post(TOKEN, with_assertion(assertion)), "invalid_client")

    async def test_an_assertion_is_signed_by_a_key_of_the_client(
        self, signer: OAuth, rsa_key: rsa.RSAPrivateKey, ec_key: ec.EllipticCurvePrivateKey
    ) -> None:
        anothers = ec.generate_private_key(ec.SECP256R1())
        other = await signer.register_keys("other", ec_jwk(anothers, kid="ec"))
        good = jwt.encode(claims_for(signer.signer), ec_key, "ES256")
        head, body, signature = good.split(".")
        for assertion in (
            jwt.encode(claims_for(signer.signer), anothers, "ES256", headers={"kid": "ec"}),
            jwt.encode(claims_for(other), ec_key, "ES256"),
            jwt.encode(claims_for(signer.worker[0]), ec_key, "ES256"),
            jwt.encode(claims_for(FIRST_PARTY_CLIENT_ID), ec_key, "ES256"),
            jwt.encode(claims_for(signer.signer), ec_key, "ES256", headers={"kid": "rsa"}),
            jwt.encode(claims_for(signer.signer), anothers, "ES256", headers={"jwk": ec_jwk(anothers)}),
            jwt.encode(claims_for(signer.signer), rsa_key, "RS384"),
            jwt.encode(claims_for(signer.signer), rsa_key, "PS512"),
            jwt.encode(claims_for(signer.signer), "", "none"),
            f"{head}.{body}.",
            f"{head}.{body}.{signature[:-6]}AAAAAA",
        ):
            refused(await signer.post(TOKEN, with_assertion(assertion)), "invalid_client")
        assert (await signer.post(TOKEN, with_assertion(good))).status_code == 200

    async def test_a_public_key_is_no_shared_secret(self, signer: OAuth, rsa_key: rsa.RSAPrivateKey) -> None:
        """RFC 8725 section 2.1."""
        public = rsa_key.public_key()
        for secret in (
            public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
            public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
            json.dumps(rsa_jwk(rsa_key, kid="rsa")).encode(),
        ):
            parts = ({"alg": "HS256", "typ": "JWT"}, claims_for(signer.signer))
            content = b".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in parts)
            mac = base64.urlsafe_b64encode(hmac.digest(secret, content, hashlib.sha256)).rstrip(b"=")
            refused(await signer.post(TOKEN, with_assertion((content + b"." + mac).decode())), "invalid_client")

    async def test_an_assertion_is_about_the_client_that_is_named(
        self, signer: OAuth, ec_key: ec.EllipticCurvePrivateKey
    ) -> None:
        for client_id in (signer.worker[0], FIRST_PARTY_CLIENT_ID, "nobody"):
            form = with_assertion(jwt.encode(claims_for(signer.signer), ec_key, "ES256"), client_id=client_id)
            refused(await signer.post(TOKEN, form), "invalid_client")

    async def test_an_assertion_comes_with_its_type_and_nothing_else(
        self, signer: OAuth, ec_key: ec.EllipticCurvePrivateKey
    ) -> None:
        assertion = jwt.encode(claims_for(signer.signer), ec_key, "ES256")
        good = with_assertion(assertion)
        refused(await signer.post(TOKEN, {**good, "client_secret": "x"}), "invalid_request")
        refused(await signer.post(TOKEN, good, signer.worker), "invalid_request")
        refused(await signer.post(TOKEN, {**good, "client_assertion_type": ""}), "invalid_request")
        refused(await signer.post(TOKEN, {**good, "client_assertion": ""}), "invalid_request")
        saml = "urn:ietf:params:oauth:client-assertion-type:saml2-bearer"
        refused(await signer.post(TOKEN, {**good, "client_assertion_type": saml}), "invalid_request")
        assert (await signer.post(TOKEN, good)).status_code == 200

    async def test_a_secret_does_not_authenticate_a_client_with_keys(self, signer: OAuth) -> None:
        refused(await signer.post(TOKEN, CLIENT_CREDENTIALS, (signer.signer, "x")), "invalid_client")
        refused(await signer.post(TOKEN, {**CLIENT_CREDENTIALS, "client_id": signer.signer}), "invalid_client")

    async def test_an_assertion_has_a_length(self, signer: OAuth, ec_key: ec.EllipticCurvePrivateKey) -> None:
        long = jwt.encode(claims_for(signer.signer, pad="x" * 5500), ec_key, "ES256")
        assert 7000 < len(long) <= MAX_ASSERTION_CHARACTERS
        assert (await signer.post(TOKEN, with_assertion(long))).status_code == 200
        longer = jwt.encode(claims_for(signer.signer, pad="x" * 6500), ec_key, "ES256")
        assert len(longer) > MAX_ASSERTION_CHARACTERS
        refused(await signer.post(TOKEN, with_assertion(longer)), "invalid_client")

    async def test_what_is_no_jwt_is_refused(self, signer: OAuth) -> None:
        deep = base64.urlsafe_b64encode(b'{"sub":' + b"[" * 3000).decode()
        header = base64.urlsafe_b64encode(b'{"alg":"ES256","kid":7}').decode()
        for assertion in (
            "x",
            "..",
            "x.y.z",
            "\u00e9.\u00e9.\u00e9",
            "e30.e30.",
            f"e30.{deep}.x",
            f"{header}.e30.x",
            "1.1.1",
        ):
            refused(await signer.post(TOKEN, with_assertion(assertion)), "invalid_client")


class TestRegistration:
    """What a client can be: RFC 9700 section 4.15, RFC 7517 section 9.3."""

    async def refused(self, services: Services, client: Client) -> None:
        with pytest.raises(InvalidClientSettings):
            await services.clients.create(client, Context(NOW))

    async def test_a_client_cannot_pass_for_a_user_or_for_the_login(self, services: Services) -> None:
        user_id = UUID("abcdef01-2345-6789-abcd-ef0123456789")
        for client_id in (
            str(user_id),
            user_id.hex,
            str(user_id).upper(),
            f"urn:uuid:{user_id}",
            FIRST_PARTY_CLIENT_ID,
            "First-Party",
            "",
            "x",
            "1worker",
            "-worker",
            "worker\n",
            "wor ker",
            "wor:ker",
            "w\u043erker",
            "w" * 65,
        ):
            await self.refused(services, settings_of(client_id))

    async def test_a_key_is_public_and_strong(self, services: Services, ec_key: ec.EllipticCurvePrivateKey) -> None:
        weak = rsa.generate_private_key(public_exponent=65537, key_size=1024)
        p384 = ec.generate_private_key(ec.SECP384R1())
        good = ec_jwk(ec_key)
        refused: list[Any] = [
            [rsa_jwk(weak)],
            [ec_jwk(p384)],
            [ECAlgorithm.to_jwk(ec_key, as_dict=True)],
            [RSAAlgorithm.to_jwk(weak, as_dict=True)],
            [{"kty": "oct", "k": "c2VjcmV0"}],
            [{"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}],
            [{**good, "x": "AAAA"}],
            [{"kty": "EC"}],
            [{}],
            ["x"],
            [],
            [good] * 6,
            good,
        ]
        for keys in refused:
            await self.refused(services, settings_of("signer", jwks={"keys": keys}))
        await self.refused(services, settings_of("signer", jwks={}))

    async def test_a_client_has_grants_scopes_and_audiences_that_can_be(self, services: Services) -> None:
        for settings in (
            {"grants": ()},
            {"grants": ("password",)},
            {"grants": ("client_credentials", "implicit")},
            {"audiences": ()},
            {"audiences": ("",)},
            {"audiences": ("a b",)},
            {"scopes": ("a b",)},
            {"scopes": ("",)},
            {"scopes": ('a"b',)},
            {"scopes": ("a\\b",)},
            {"scopes": ("\u00e9",)},
        ):
            await self.refused(services, settings_of("worker", **settings))

    async def test_a_secret_is_stored_as_a_hash_and_told_once(self, oauth: OAuth) -> None:
        _, secret = oauth.worker
        stored = await oauth.services.clients.get(oauth.worker[0])
        assert len(secret) >= 43
        assert secret not in repr(stored)
        assert stored.secret_hash == hashlib.sha256(secret.encode()).digest()


class TestMetadata:
    """RFC 8414."""

    async def test_every_endpoint_that_is_named_answers(self, oauth: OAuth) -> None:
        metadata = (await oauth.http.get("/.well-known/oauth-authorization-server")).json()
        assert metadata["issuer"] == ISSUER
        named = {name: url for name, url in metadata.items() if name.endswith(("_endpoint", "_uri"))}
        assert named.keys() == {"token_endpoint", "revocation_endpoint", "introspection_endpoint", "jwks_uri"}
        assert (await oauth.http.get(named.pop("jwks_uri").removeprefix(ISSUER))).json()["keys"]
        for url in named.values():
            refused(await oauth.post(url.removeprefix(ISSUER), {"token": "x"}), "invalid_client")

    async def test_every_grant_that_is_named_is_supported(self, oauth: OAuth) -> None:
        metadata = (await oauth.http.get("/.well-known/oauth-authorization-server")).json()
        for grant in metadata["grant_types_supported"]:
            response = await oauth.post(TOKEN, {"grant_type": grant}, oauth.worker)
            assert response.json().get("error") != "unsupported_grant_type"
