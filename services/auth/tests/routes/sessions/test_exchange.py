"""`/sessions/exchange`: gateways get access tokens for the sessions of browsers, and nobody else does."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
import pytest_asyncio
from browsers import EXCHANGE, exchange, gateway_credentials, open_browser
from oauth_harness import OAuth, claims_of
from users import ADA, log_in

from ostiary_auth.config import AuthConfig
from ostiary_auth.domain.context import Context
from ostiary_auth.domain.sessions.exchange import FREE_EXCHANGES
from ostiary_auth.domain.sessions.model import BrowserGrant
from ostiary_auth.domain.sessions.session_secrets import parse
from ostiary_auth.services import Services
from ostiary_chassis.client_ids import VERIFIERS_CLIENT_ID

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module")
async def browser(shared_services: Services) -> BrowserGrant:
    return await open_browser(shared_services)


async def ask(client: httpx.AsyncClient, config: AuthConfig, **request: Any) -> tuple[int, str]:
    """Return the status and the code of a refusal."""
    fields = {"Content-Type": "application/json", **request.pop("headers", {})}
    response = await client.post(EXCHANGE, headers=fields, **{"auth": gateway_credentials(config), **request})
    assert response.headers["Content-Type"] == "application/problem+json"
    return response.status_code, response.json()["code"]


class TestExchange:
    async def test_a_session_becomes_a_token_as_bearers_get_it(
        self, shared_client: httpx.AsyncClient, shared_config: AuthConfig, browser: BrowserGrant
    ) -> None:
        response = await exchange(shared_client, shared_config, browser.credential)
        assert response.status_code == 200, response.text
        assert response.headers["Cache-Control"] == "no-store"
        body = response.json()
        assert body.keys() == {"access_token", "expires_in", "session_id", "expires_at", "persistent"}
        assert (body["session_id"], body["expires_in"], body["persistent"]) == (str(browser.session.id), 900, True)
        assert datetime.fromisoformat(body["expires_at"]) == browser.session.expires_at
        claims = claims_of(body["access_token"])
        assert claims.keys() == {
            *("iss", "aud", "sub", "client_id", "exp", "iat", "nbf"),
            *("jti", "sid", "auth_time", "scope", "roles", "rev"),
        }
        assert (claims["sub"], claims["sid"]) == (str(browser.user.id), str(browser.session.id))
        assert (claims["roles"], claims["scope"]) == (["user"], "profile:read profile:write")
        headers = {"Authorization": f"Bearer {body['access_token']}"}
        assert (await shared_client.get("/auth/me", headers=headers)).status_code == 200

    async def test_it_never_changes_the_secret(
        self, shared_client: httpx.AsyncClient, shared_config: AuthConfig, browser: BrowserGrant
    ) -> None:
        tokens = set()
        for _ in range(3):
            response = await exchange(shared_client, shared_config, browser.credential)
            assert response.status_code == 200
            tokens.add(response.json()["access_token"])
        assert len(tokens) == 3

    async def test_a_session_of_a_browser_that_is_closed_says_so(
        self, shared_client: httpx.AsyncClient, shared_config: AuthConfig, shared_services: Services
    ) -> None:
        browser = await open_browser(shared_services, persistent=False)
        body = (await exchange(shared_client, shared_config, browser.credential)).json()
        assert body["persistent"] is False

    async def test_it_is_the_use_of_a_session(
        self, shared_client: httpx.AsyncClient, shared_config: AuthConfig, shared_services: Services
    ) -> None:
        before = datetime.now(UTC) - timedelta(days=13)
        browser = await open_browser(shared_services, at=before)
        assert (await exchange(shared_client, shared_config, browser.credential)).status_code == 200
        (stored,) = await shared_services.sessions.of_user(browser.user.id, datetime.now(UTC) + timedelta(days=13))
        assert stored.last_used_at > before + timedelta(days=12)
        assert stored.expires_at == browser.session.expires_at

    async def test_a_token_does_not_outlive_its_session(
        self, shared_client: httpx.AsyncClient, shared_config: AuthConfig, shared_services: Services
    ) -> None:
        begun = datetime.now(UTC) + timedelta(minutes=5) - timedelta(seconds=shared_config.session_max_ttl)
        browser = await open_browser(shared_services, at=begun)
        async with shared_services.store.write() as transaction:
            await transaction.sessions.use([parse(browser.credential)], timedelta(days=365), datetime.now(UTC))
        body = (await exchange(shared_client, shared_config, browser.credential)).json()
        assert 290 <= body["expires_in"] <= 300

    async def test_the_audience_is_the_one_of_the_deployment(
        self, shared_client: httpx.AsyncClient, shared_config: AuthConfig, browser: BrowserGrant
    ) -> None:
        response = await exchange(shared_client, shared_config, browser.credential, audience="ostiary")
        assert claims_of(response.json()["access_token"])["aud"] == "ostiary"
        body = {"session": browser.credential, "audience": "billing"}
        assert await ask(shared_client, shared_config, json=body) == (422, "invalid_request")


class TestEnded:
    """Whatever is wrong with a session, the answer is the same."""

    async def refused(self, client: httpx.AsyncClient, config: AuthConfig, credential: str) -> None:
        response = await exchange(client, config, credential)
        assert (response.status_code, response.json()["code"]) == (410, "session_ended")
        assert response.json()["detail"] == "The session has ended. Log in again."

    async def test_what_is_no_session_of_a_browser(
        self,
        shared_client: httpx.AsyncClient,
        shared_config: AuthConfig,
        shared_services: Services,
        browser: BrowserGrant,
    ) -> None:
        other = await open_browser(shared_services, browser.user)
        bearer, _ = await log_in(shared_services)
        sid, _, secret = browser.credential.partition(".")
        for credential in (
            "",
            sid,
            f"{sid}.",
            f"{sid}.{'A' * 43}",
            f"{other.session.id}.{secret}",
            f"{sid.upper()}.{secret}",
            f"{sid}.{secret}=",
            f"{sid}.{secret[:-1]}",
            f" {sid}.{secret}",
            f"{sid}.{secret}\n",
            f"{bearer.session.id}.{secret}",
            f"{bearer.session.id}.{bearer.refresh_token}",
            bearer.refresh_token,
            "\u0661" * 80,
            "x" * 60_000,
        ):
            await self.refused(shared_client, shared_config, credential)
        assert (await exchange(shared_client, shared_config, browser.credential)).status_code == 200

    async def test_a_logout(
        self,
        shared_client: httpx.AsyncClient,
        shared_config: AuthConfig,
        shared_services: Services,
        browser: BrowserGrant,
    ) -> None:
        await shared_services.sessions.end_one(browser.user.id, browser.session.id, Context(datetime.now(UTC)))
        await self.refused(shared_client, shared_config, browser.credential)

    async def test_one_not_used_for_too_long(
        self, shared_client: httpx.AsyncClient, shared_config: AuthConfig, shared_services: Services
    ) -> None:
        idle = timedelta(seconds=shared_config.session_idle_ttl)
        browser = await open_browser(shared_services, at=datetime.now(UTC) - idle)
        await self.refused(shared_client, shared_config, browser.credential)

    async def test_one_at_its_absolute_limit(
        self, shared_client: httpx.AsyncClient, shared_config: AuthConfig, shared_services: Services
    ) -> None:
        begun = datetime.now(UTC) - timedelta(seconds=shared_config.session_max_ttl)
        # With less than a second left, no token could be valid.
        for at in (begun, begun + timedelta(seconds=0.5)):
            browser = await open_browser(shared_services, at=at)
            async with shared_services.store.write() as transaction:
                await transaction.sessions.use(
                    [parse(browser.credential)], timedelta(days=365), datetime.now(UTC) - timedelta(days=1)
                )
            await self.refused(shared_client, shared_config, browser.credential)

    async def test_a_disabled_user(
        self,
        shared_client: httpx.AsyncClient,
        shared_config: AuthConfig,
        shared_services: Services,
        browser: BrowserGrant,
    ) -> None:
        async with shared_services.store.write() as transaction:
            # As one whose sessions were idle when they were disabled, and are not any longer under another limit.
            await transaction.users.replace(replace(browser.user, disabled_at=datetime.now(UTC)))
        await self.refused(shared_client, shared_config, browser.credential)

    async def test_a_deleted_user(
        self,
        shared_client: httpx.AsyncClient,
        shared_config: AuthConfig,
        shared_services: Services,
        browser: BrowserGrant,
    ) -> None:
        await shared_services.accounts.delete(browser.user.id, Context(datetime.now(UTC)))
        await self.refused(shared_client, shared_config, browser.credential)


class TestWhoMayExchange:
    async def test_nobody_without_the_secret(
        self, shared_client: httpx.AsyncClient, shared_config: AuthConfig, browser: BrowserGrant
    ) -> None:
        name, secret = gateway_credentials(shared_config)
        body = {"session": browser.credential}
        for auth in (
            (name, secret[:-1]),
            (name, ""),
            (name, f"{secret}x"),
            ("nobody", secret),
            ("first-party", secret),
        ):
            response = await shared_client.post(EXCHANGE, json=body, auth=auth)
            assert (response.status_code, response.json()["code"]) == (401, "invalid_client")
            assert response.headers["WWW-Authenticate"].startswith("Basic realm=")
        response = await shared_client.post(EXCHANGE, json=body)
        assert (response.status_code, response.json()["code"]) == (401, "invalid_client")

    async def test_no_other_client(
        self, shared_client: httpx.AsyncClient, shared_config: AuthConfig, oauth: OAuth, browser: BrowserGrant
    ) -> None:
        body = {"session": browser.credential}
        verifiers = (VERIFIERS_CLIENT_ID, shared_config.feed_secret_path.read_text().strip())
        pretender = await oauth.register("pretender", scopes=("sessions:exchange",))
        for auth in (verifiers, oauth.worker, pretender):
            assert await ask(shared_client, shared_config, json=body, auth=auth) == (403, "insufficient_scope")

    async def test_no_user(
        self, shared_client: httpx.AsyncClient, shared_config: AuthConfig, browser: BrowserGrant
    ) -> None:
        token = (await exchange(shared_client, shared_config, browser.credential)).json()["access_token"]
        headers = {"Authorization": f"Bearer {token}"}
        request = {"json": {"session": browser.credential}, "headers": headers, "auth": None}
        assert await ask(shared_client, shared_config, **request) == (401, "invalid_client")

    async def test_the_gateways_client_gets_no_tokens_of_its_own(
        self, shared_client: httpx.AsyncClient, shared_config: AuthConfig
    ) -> None:
        form = {"grant_type": "client_credentials"}
        response = await shared_client.post("/oauth/token", data=form, auth=gateway_credentials(shared_config))
        assert (response.status_code, response.json()["error"]) == (400, "unauthorized_client")

    @pytest.mark.parametrize(
        ("body", "refusal"),
        [
            (b"", (400, "malformed_json")),
            (b"{", (400, "malformed_json")),
            (b'{"session": "a", "session": "a"}', (400, "malformed_json")),
            (b"\xff", (400, "malformed_json")),
            (b"[" * 60_000, (400, "malformed_json")),
            (b"[]", (422, "invalid_request")),
            (b"{}", (422, "invalid_request")),
            (b'{"session": 1}', (422, "invalid_request")),
            (b'{"session": "", "audience": 1}', (422, "invalid_request")),
            (b'"' + b"x" * 70_000, (413, "body_too_large")),
        ],
    )
    async def test_a_body_that_says_no_session(
        self, shared_client: httpx.AsyncClient, shared_config: AuthConfig, body: bytes, refusal: tuple[int, str]
    ) -> None:
        assert await ask(shared_client, shared_config, content=body) == refusal


class TestThrottle:
    async def until_refused(self, client: httpx.AsyncClient, config: AuthConfig, credential: str) -> httpx.Response:
        # More than are free, as some time passes.
        response = await exchange(client, config, credential)
        for _ in range(10 * FREE_EXCHANGES):
            if response.status_code == 429:
                break
            response = await exchange(client, config, credential)
        return response

    async def test_a_session_that_is_exchanged_too_often_waits(
        self,
        shared_client: httpx.AsyncClient,
        shared_config: AuthConfig,
        shared_services: Services,
        browser: BrowserGrant,
    ) -> None:
        other = await open_browser(shared_services, browser.user)
        stranger = f"{browser.session.id}.{'A' * 43}"
        refused = await self.until_refused(shared_client, shared_config, stranger)
        assert (refused.status_code, refused.json()["code"]) == (429, "too_many_requests")
        assert refused.headers["Retry-After"] == "1"
        # Who knows the id alone does not block its owner.
        assert (await exchange(shared_client, shared_config, browser.credential)).status_code == 200
        assert (await self.until_refused(shared_client, shared_config, browser.credential)).status_code == 429
        assert (await exchange(shared_client, shared_config, other.credential)).status_code == 200


async def test_a_login_is_no_session_of_a_browser(shared_client: httpx.AsyncClient, shared_config: AuthConfig) -> None:
    await shared_client.post("/auth/register", json=ADA)
    tokens = (await shared_client.post("/auth/login", json=ADA)).json()
    response = await exchange(shared_client, shared_config, f"{tokens['session_id']}.{tokens['refresh_token']}")
    assert response.status_code == 410
