"""`/session`: a browser logs in and out, and asks who is logged in."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from admin import logged_in
from browsers import (
    DEVICE_COOKIE,
    SESSION_COOKIE,
    TOKEN_COOKIE,
    cookie_header,
    cookies_of,
    exchange,
    open_browser,
)
from oauth_harness import claims_of
from serving import serving
from users import ADA, PASSWORD, bearer, log_in

from ostiary_auth.app import create_app
from ostiary_auth.config import AuthConfig
from ostiary_auth.domain.context import Context
from ostiary_auth.domain.sessions.session_secrets import parse
from ostiary_auth.services import Services, ServiceSecrets

EVE: dict[str, Any] = {"email": "eve@example.com", "password": PASSWORD}
SAME_ORIGIN = {"Sec-Fetch-Site": "same-origin"}


@pytest.fixture(autouse=True)
async def ada(client: httpx.AsyncClient) -> None:
    for account in (ADA, EVE):
        assert (await client.post("/auth/register", json=account)).status_code == 201


async def submit(client: httpx.AsyncClient, path: str = "/session", **fields: str | list[str]) -> httpx.Response:
    """Send a form as a page of the site does."""
    client.cookies.clear()
    return await client.post(path, data=fields, headers=SAME_ORIGIN)


async def log_in_with(client: httpx.AsyncClient, headers: dict[str, str] | None = None, **body: Any) -> httpx.Response:
    # The cookies of this client are those of the test alone.
    client.cookies.clear()
    response = await client.post("/session", json={**ADA, **body}, headers=headers or {})
    client.cookies.clear()
    return response


def credential_of(response: httpx.Response) -> str:
    return cookies_of(response)[SESSION_COOKIE][0]


class TestLogin:
    async def test_it_answers_who_it_is_and_keeps_what_is_secret_in_cookies(self, client: httpx.AsyncClient) -> None:
        response = await log_in_with(client)
        assert response.status_code == 200, response.text
        assert response.headers["Cache-Control"] == "no-store"
        body = response.json()
        assert body.keys() == {"user", "session_id", "expires_at", "persistent", "scope", "roles"}
        assert body["user"].keys() == {"id", "email", "display_name", "created_at"}
        assert (body["user"]["email"], body["roles"]) == (ADA["email"], ["user"])
        assert (body["scope"], body["persistent"]) == ("profile:read profile:write", True)
        assert datetime.fromisoformat(body["expires_at"]) > datetime.now(UTC) + timedelta(days=89)
        for value, _ in cookies_of(response).values():
            assert value not in response.text
            assert value.partition(".")[2] not in response.text

    async def test_its_cookies_are_those_of_the_contract(self, client: httpx.AsyncClient) -> None:
        response = await log_in_with(client)
        cookies = cookies_of(response)
        assert cookies.keys() == {SESSION_COOKIE, TOKEN_COOKIE, DEVICE_COOKIE}
        for _, attributes in cookies.values():
            assert attributes.keys() == {"Max-Age", "Path", "HttpOnly", "SameSite"}
            assert (attributes["Path"], attributes["SameSite"]) == ("/", "Lax")
        session, attributes = cookies[SESSION_COOKIE]
        sid, _, secret = session.partition(".")
        assert (sid, len(secret)) == (response.json()["session_id"], 43)
        assert 90 * 86400 - 5 <= int(attributes["Max-Age"]) <= 90 * 86400
        token, attributes = cookies[TOKEN_COOKIE]
        assert (claims_of(token)["sid"], attributes["Max-Age"]) == (sid, "900")

    async def test_with_tls_no_subdomain_can_set_them(self, config: AuthConfig, own: ServiceSecrets) -> None:
        config = config.model_copy(update={"issuer": "https://shop.example"})
        async with serving(create_app(config, own), "https://shop.example") as client:
            for path in ("/session", "/auth/login"):
                client.cookies.clear()
                cookies = cookies_of(await client.post(path, json=ADA))
                names = {"__Host-ostiary-device"}
                if path == "/session":
                    names |= {"__Host-ostiary-session", "__Host-ostiary-token"}
                assert cookies.keys() == names
                for _, attributes in cookies.values():
                    assert attributes.keys() == {"Max-Age", "Path", "HttpOnly", "SameSite", "Secure"}

    async def test_an_issuer_without_tls_has_none(self, config: AuthConfig, own: ServiceSecrets) -> None:
        config = config.model_copy(update={"issuer": "http://shop.example"})
        async with serving(create_app(config, own)) as client:
            for method, path in (("POST", "/session"), ("GET", "/session"), ("POST", "/session/end")):
                assert (await client.request(method, path)).status_code == 404
            response = await client.post("/auth/login", json=ADA)
            assert (response.status_code, cookies_of(response)) == (200, {})

    async def test_one_that_is_not_to_be_remembered_ends_with_the_browser(
        self, client: httpx.AsyncClient, config: AuthConfig
    ) -> None:
        response = await log_in_with(client, remember=False)
        cookies = cookies_of(response)
        assert "Max-Age" not in cookies[SESSION_COOKIE][1]
        assert "Max-Age" not in cookies[TOKEN_COOKIE][1]
        assert "Max-Age" in cookies[DEVICE_COOKIE][1]
        assert response.json()["persistent"] is False
        assert (await exchange(client, config, credential_of(response))).json()["persistent"] is False

    async def test_the_session_is_one_like_all_others(self, client: httpx.AsyncClient, config: AuthConfig) -> None:
        login = (await client.post("/auth/login", json=ADA)).json()
        agent = {"User-Agent": "Mozilla/5.0 (X11; Linux x86_64; rv:127.0) Gecko/20100101 Firefox/127.0"}
        response = await log_in_with(client, headers=agent)
        listed = (await client.get("/auth/sessions", headers=bearer(login))).json()["sessions"]
        (shown,) = [each for each in listed if each["id"] == response.json()["session_id"]]
        assert (shown["device"], shown["current"]) == ("Firefox on Linux", False)
        ended = await client.delete(f"/auth/sessions/{shown['id']}", headers=bearer(login))
        assert ended.json() == {"revoked": 1}
        assert (await exchange(client, config, credential_of(response))).status_code == 410

    async def test_a_refusal_sets_nothing(self, client: httpx.AsyncClient) -> None:
        response = await log_in_with(client, password="wrong")
        assert (response.status_code, response.json()["code"]) == (401, "invalid_credentials")
        assert cookies_of(response) == {}

    @pytest.mark.parametrize(
        ("content", "media_type", "refusal"),
        [
            (b"{", "application/json", (400, "malformed_json")),
            (b'{"email": "a", "email": "a", "password": "x"}', "application/json", (400, "malformed_json")),
            (b"{}", "application/json-patch+json", (415, "unsupported_media_type")),
            (b"{}", "application/json; charset=utf-16", (415, "unsupported_media_type")),
            (b"email=a", "application/x-www-form-urlencoded; charset=latin1", (415, "unsupported_media_type")),
            (b"[]", "application/json", (422, "invalid_request")),
            (b"{}", "application/json", (422, "invalid_request")),
            (
                b'{"email": "a@example.com", "password": "x", "remember": 1}',
                "application/json",
                (422, "invalid_request"),
            ),
            (
                b'{"email": "a@example.com", "password": "x", "scope": "a"}',
                "application/json",
                (422, "invalid_request"),
            ),
            (b"email=a", "text/plain", (415, "unsupported_media_type")),
            (b"email=a", "multipart/form-data; boundary=x", (415, "unsupported_media_type")),
            (b"email=a&email=b", "application/x-www-form-urlencoded", (422, "invalid_request")),
            (b"email=%ff", "application/x-www-form-urlencoded", (422, "invalid_request")),
            (b"email=" + b"a" * 400, "application/x-www-form-urlencoded", (422, "invalid_request")),
            (b"", "application/x-www-form-urlencoded", (401, "invalid_credentials")),
        ],
    )
    async def test_a_body_of_another_shape_is_refused(
        self, client: httpx.AsyncClient, content: bytes, media_type: str, refusal: tuple[int, str]
    ) -> None:
        headers = {**SAME_ORIGIN, "Content-Type": media_type}
        response = await client.post("/session", content=content, headers=headers)
        assert (response.status_code, response.json()["code"]) == refusal, response.text

    async def test_a_password_is_repeated_by_no_refusal(self, client: httpx.AsyncClient) -> None:
        secret = "s3cret" * 300
        for response in (await log_in_with(client, password=secret), await submit(client, email="a", password=secret)):
            assert response.status_code == 422
            assert secret not in response.text


class TestFixation:
    async def test_each_login_has_a_session_and_a_secret_of_its_own(
        self, client: httpx.AsyncClient, config: AuthConfig
    ) -> None:
        planted = credential_of(await log_in_with(client, **EVE))
        response = await log_in_with(client, headers=cookie_header(planted))
        credential = credential_of(response)
        assert credential.partition(".")[0] != planted.partition(".")[0]
        assert credential.partition(".")[2] != planted.partition(".")[2]
        # Whoever it belongs to: it does not go on behind the new one.
        assert (await exchange(client, config, planted)).status_code == 410
        assert (await exchange(client, config, credential)).status_code == 200

    async def test_ones_own_session_is_replaced(
        self, client: httpx.AsyncClient, config: AuthConfig, services: Services
    ) -> None:
        first = credential_of(await log_in_with(client))
        elsewhere = credential_of(await log_in_with(client))
        second = await log_in_with(client, headers=cookie_header(first))
        assert (await exchange(client, config, first)).status_code == 410
        for credential in (elsewhere, credential_of(second)):
            assert (await exchange(client, config, credential)).status_code == 200
        async with services.store.read() as transaction:
            entries = await transaction.audit.entries(0, 100)
        events = [(entry.event, entry.facts.get("reason")) for entry in entries[-2:]]
        assert events == [("session.ended", "logout"), ("login.succeeded", None)]

    async def test_a_refused_login_ends_nothing(self, client: httpx.AsyncClient, config: AuthConfig) -> None:
        credential = credential_of(await log_in_with(client))
        assert (await log_in_with(client, headers=cookie_header(credential), password="wrong")).status_code == 401
        assert (await exchange(client, config, credential)).status_code == 200

    async def test_a_session_that_is_not_proven_does_not_end(
        self, client: httpx.AsyncClient, config: AuthConfig
    ) -> None:
        credential = credential_of(await log_in_with(client, **EVE))
        sid = credential.partition(".")[0]
        for forged in (f"{sid}.{'A' * 43}", sid, f"{sid}."):
            assert (await log_in_with(client, headers=cookie_header(forged))).status_code == 200
        assert (await exchange(client, config, credential)).status_code == 200

    async def test_two_cookies_of_one_name_are_refused(self, client: httpx.AsyncClient) -> None:
        credential = credential_of(await log_in_with(client))
        twice = {"Cookie": f"{SESSION_COOKIE}={credential}; {SESSION_COOKIE}={credential}"}
        for method, path in (("POST", "/session"), ("DELETE", "/session")):
            response = await client.request(method, path, json=ADA, headers={**SAME_ORIGIN, **twice})
            assert (response.status_code, response.json()["code"]) == (400, "repeated_cookie")
            assert cookies_of(response) == {}


class TestForm:
    async def test_a_login_leads_to_where_the_page_says(self, client: httpx.AsyncClient) -> None:
        response = await submit(client, **ADA, return_to="/account/?tab=2", login_page="/login", csrf="whatever")
        assert (response.status_code, response.headers["Location"]) == (303, "/account/?tab=2")
        assert response.headers["Cache-Control"] == "no-store"
        assert cookies_of(response).keys() == {SESSION_COOKIE, TOKEN_COOKIE, DEVICE_COOKIE}

    @pytest.mark.parametrize(
        "elsewhere",
        [
            *(
                "",
                "https://evil.example/",
                "//evil.example/",
                "/\\evil.example",
                "\\/evil.example",
                "javascript:alert(1)",
            ),
            *("evil.example", "/\t/evil.example", "/%0d%0aSet-Cookie:a=b\r\n", "http:evil.example", "/" + "a" * 3000),
        ],
    )
    async def test_no_form_leads_elsewhere(self, client: httpx.AsyncClient, elsewhere: str) -> None:
        for path in ("/session", "/session/end"):
            response = await submit(client, path, **ADA, return_to=elsewhere, login_page=elsewhere)
            assert (response.status_code, response.headers["Location"]) == (303, "/")
        refused = await submit(client, **{**ADA, "password": "wrong"}, return_to=elsewhere, login_page=elsewhere)
        assert refused.status_code == 401
        assert "Location" not in refused.headers

    async def test_a_failure_leads_back_to_the_page_and_tells_why(self, client: httpx.AsyncClient) -> None:
        pages = {"return_to": "/a?b=1&c=2#d", "login_page": "/login?lang=de#form"}
        response = await submit(client, **{**ADA, "password": "wr0ng-password"}, **pages)
        assert response.status_code == 303
        assert cookies_of(response) == {}
        location = urlsplit(response.headers["Location"])
        assert (location.path, location.fragment) == ("/login", "form")
        query = parse_qs(location.query)
        assert query == {"lang": ["de"], "error": ["invalid_credentials"], "return_to": ["/a?b=1&c=2#d"]}
        # What was typed is in no URL.
        assert "wr0ng" not in response.headers["Location"]
        assert "ada" not in response.headers["Location"]

    async def test_a_form_that_is_not_filled_in_leads_back_to_the_page(self, client: httpx.AsyncClient) -> None:
        response = await submit(client, email="x" * 400, password="y", login_page="/login")
        assert response.headers["Location"] == "/login?error=invalid_request&return_to=%2F"

    @pytest.mark.parametrize(("remember", "stays"), [("", True), ("on", True), ("true", True), ("false", False)])
    async def test_a_page_may_ask_whether_to_remember(
        self, client: httpx.AsyncClient, remember: str, stays: bool
    ) -> None:
        response = await submit(client, **ADA, remember=remember)
        assert ("Max-Age" in cookies_of(response)[SESSION_COOKIE][1]) is stays

    @pytest.mark.parametrize(("sent", "stays"), [(["false"], False), (["false", "true"], True)])
    async def test_a_page_may_ask_with_a_checkbox(
        self, client: httpx.AsyncClient, sent: list[str], *, stays: bool
    ) -> None:
        """A hidden field says what counts without the checkbox: browsers send nothing for one that is not checked."""
        response = await submit(client, **ADA, remember=sent)
        assert ("Max-Age" in cookies_of(response)[SESSION_COOKIE][1]) is stays

    async def test_nothing_else_is_said_twice(self, client: httpx.AsyncClient) -> None:
        response = await submit(client, email=[ADA["email"], "bob@example.com"], password=ADA["password"])
        assert (response.status_code, cookies_of(response)) == (422, {})


class TestCrossSite:
    @pytest.mark.parametrize(
        "headers",
        [
            {"Sec-Fetch-Site": "cross-site"},
            {"Sec-Fetch-Site": "same-site"},
            {"Sec-Fetch-Site": "Same-Origin"},
            {"Sec-Fetch-Site": "", "Origin": "http://auth"},
            {"Sec-Fetch-Site": "cross-site", "Origin": "http://auth"},
            {"Sec-Fetch-Site": "same-site", "Origin": "http://sub.auth"},
            # A page of the issuer, of the same site as this host.
            {"Sec-Fetch-Site": "same-site", "Origin": "http://localhost:8080"},
            {"Origin": "http://evil.example"},
            {"Origin": "http://auth:8080"},
            {"Origin": "https://auth"},
            {"Origin": "http://auth.evil.example"},
            {"Origin": "null"},
            {"Origin": ""},
            {},
        ],
    )
    async def test_another_site_logs_nobody_in_or_out(self, client: httpx.AsyncClient, headers: dict[str, str]) -> None:
        for path in ("/session", "/session/end"):
            response = await client.post(path, data={**ADA, "login_page": "/login"}, headers=headers)
            assert (response.status_code, response.json()["code"]) == (403, "cross_site_request")
            assert cookies_of(response) == {}
        if headers:
            for method in ("POST", "DELETE"):
                response = await client.request(method, "/session", json=ADA, headers=headers)
                assert (response.status_code, response.json()["code"]) == (403, "cross_site_request")

    @pytest.mark.parametrize(
        "headers",
        [
            {"Sec-Fetch-Site": "same-origin"},
            {"Sec-Fetch-Site": "none"},
            {"Origin": "http://auth"},
            {"Origin": "HTTP://AUTH"},
            {"Origin": "http://auth", "Host": "auth:80"},
            {"Origin": "http://shop.example:8080", "Host": "Shop.Example:8080"},
            # The issuer's pages, by whatever name the gateway is called.
            {"Origin": "http://localhost:8080", "Host": "gateway:8080"},
            # Not from a trusted proxy.
            {"Origin": "http://auth", "X-Forwarded-Host": "evil.example"},
        ],
    )
    async def test_a_page_of_ones_own_does(self, client: httpx.AsyncClient, headers: dict[str, str]) -> None:
        assert (await client.post("/session", data=ADA, headers=headers)).status_code == 303
        assert (await client.post("/session/end", headers=headers)).status_code == 303
        assert (await client.delete("/session", headers=headers)).status_code == 200

    async def test_a_program_sends_neither_field(self, client: httpx.AsyncClient) -> None:
        assert (await client.post("/session", json=ADA)).status_code == 200
        assert (await client.delete("/session")).status_code == 200

    async def test_a_trusted_origin_does(self, config: AuthConfig, own: ServiceSecrets) -> None:
        environ = {
            "OSTIARY_AUTH_TRUSTED_ORIGINS": "https://app.example.com, http://localhost:5173, https://*.pages.example"
        }
        trusted = AuthConfig.load(environ).trusted_origins
        config = config.model_copy(update={"trusted_origins": trusted})
        async with serving(create_app(config, own)) as client:
            for origin, status in (
                ("https://app.example.com", 200),
                ("https://APP.example.com", 200),
                ("http://localhost:5173", 200),
                ("https://shop.pages.example", 200),
                ("https://pages.example", 403),
                ("http://localhost", 403),
                ("https://app.example.com.evil.example", 403),
                ("https://sub.app.example.com", 403),
            ):
                headers = {"Sec-Fetch-Site": "same-site", "Origin": origin}
                assert (await client.post("/session", json=ADA, headers=headers)).status_code == status

    async def test_the_host_is_the_one_that_a_trusted_proxy_tells(
        self, config: AuthConfig, own: ServiceSecrets
    ) -> None:
        trusted = AuthConfig.load({"OSTIARY_AUTH_TRUSTED_PROXIES": "192.0.2.0/24"}).trusted_proxies
        config = config.model_copy(update={"trusted_proxies": trusted})
        async with serving(create_app(config, own)) as client:
            for origin, status in (("http://shop.example", 303), ("http://auth", 403)):
                headers = {"Origin": origin, "X-Forwarded-Host": "shop.example"}
                assert (await client.post("/session", data=ADA, headers=headers)).status_code == status


class TestLogout:
    async def test_it_ends_the_session_and_deletes_its_cookies(
        self, client: httpx.AsyncClient, config: AuthConfig
    ) -> None:
        login = await log_in_with(client)
        token = cookies_of(login)[TOKEN_COOKIE][0]
        # Whatever has become of the token.
        response = await client.delete("/session", headers=cookie_header(credential_of(login)))
        assert (response.status_code, response.json()) == (200, {"revoked": 1})
        self.deleted(response)
        assert (await exchange(client, config, credential_of(login))).status_code == 410
        await client.post("/auth/logout", headers={"Authorization": f"Bearer {token}", "Prefer": "wait=5"})
        refused = await client.get("/auth/me", headers={"Authorization": f"Bearer {token}"})
        assert (refused.status_code, refused.json()["code"]) == (401, "revoked")

    def deleted(self, response: httpx.Response) -> None:
        cookies = cookies_of(response)
        assert cookies.keys() == {SESSION_COOKIE, TOKEN_COOKIE}
        for value, attributes in cookies.values():
            assert (value, attributes["Max-Age"], attributes["Path"]) == ("", "0", "/")
        assert response.headers["Clear-Site-Data"] == '"cache"'

    async def test_without_a_session_it_deletes_cookies_all_the_same(self, client: httpx.AsyncClient) -> None:
        ended = credential_of(await log_in_with(client))
        await client.delete("/session", headers=cookie_header(ended))
        for credential in ("", "x", ended, f"{ended[:36]}.{'A' * 43}"):
            client.cookies.clear()
            response = await client.delete("/session", headers={**cookie_header(credential), "Prefer": "wait=5"})
            assert (response.status_code, response.json()) == (200, {"revoked": 0})
            self.deleted(response)

    async def test_it_waits_until_it_is_in_force(self, client: httpx.AsyncClient) -> None:
        credential = credential_of(await log_in_with(client))
        response = await client.delete("/session", headers={**cookie_header(credential), "Prefer": "wait=5"})
        assert response.headers["Preference-Applied"] == "wait"
        assert (response.json()["revoked"], response.json()["complete"]) == (1, True)
        self.deleted(response)

    async def test_a_page_without_scripts_logs_out_with_a_form(
        self, client: httpx.AsyncClient, config: AuthConfig
    ) -> None:
        credential = credential_of(await log_in_with(client))
        headers = {**SAME_ORIGIN, **cookie_header(credential)}
        response = await client.post("/session/end", data={"return_to": "/bye"}, headers=headers)
        assert (response.status_code, response.headers["Location"]) == (303, "/bye")
        self.deleted(response)
        assert (await exchange(client, config, credential)).status_code == 410

    async def test_it_is_in_the_audit_log_as_the_persons_own(
        self, client: httpx.AsyncClient, services: Services
    ) -> None:
        login = await log_in_with(client)
        await client.delete("/session", headers=cookie_header(credential_of(login)))
        async with services.store.read() as transaction:
            entry = (await transaction.audit.entries(0, 100))[-1]
        user = f"user:{login.json()['user']['id']}"
        assert (entry.event, entry.actor, entry.subject) == ("session.ended", user, user)
        assert entry.facts == {"session_id": login.json()["session_id"], "reason": "logout"}


class TestCurrent:
    async def ask(self, client: httpx.AsyncClient, token: str = "") -> Any:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        response = await client.get("/session", headers=headers)
        assert response.status_code == 200
        assert response.headers["Cache-Control"] == "no-store"
        assert cookies_of(response) == {}
        return response.json()

    async def test_it_tells_who_is_logged_in(self, client: httpx.AsyncClient) -> None:
        login = await log_in_with(client)
        current = await self.ask(client, cookies_of(login)[TOKEN_COOKIE][0])
        expected = {name: value for name, value in login.json().items() if name != "persistent"}
        assert current == {"authenticated": True, **expected}

    async def test_it_tells_so_of_any_session(self, client: httpx.AsyncClient) -> None:
        login = (await client.post("/auth/login", json=ADA)).json()
        current = await self.ask(client, login["access_token"])
        assert (current["authenticated"], current["session_id"]) == (True, login["session_id"])

    async def test_nobody_is_logged_in_without_a_token_that_is_valid(
        self, client: httpx.AsyncClient, services: Services
    ) -> None:
        _, of_another = await log_in(services)
        login = await log_in_with(client)
        token = cookies_of(login)[TOKEN_COOKIE][0]
        for given in ("", "x", f"{token[:-8]}AAAAAAAA", credential_of(login)):
            assert await self.ask(client, given) == {"authenticated": False}
        # A cookie alone is the gateway's affair.
        response = await client.get("/session", headers=cookie_header(credential_of(login), token))
        assert response.json() == {"authenticated": False}
        assert (await self.ask(client, of_another))["user"]["id"] != login.json()["user"]["id"]

    async def test_a_session_that_has_just_ended_is_none(self, client: httpx.AsyncClient, services: Services) -> None:
        browser = await open_browser(services)
        now = datetime.now(UTC)
        token = (await services.tokens.for_session(browser, now)).token
        assert (await self.ask(client, token))["authenticated"] is True
        async with services.store.write() as transaction:
            await transaction.users.replace(replace(browser.user, disabled_at=now))
        assert await self.ask(client, token) == {"authenticated": False}
        await services.accounts.delete(browser.user.id, Context(now))
        assert await self.ask(client, token) == {"authenticated": False}


class TestPassword:
    NEW = "a whole new battery staple"

    async def change(
        self, client: httpx.AsyncClient, login: httpx.Response, headers: dict[str, str], current: str = PASSWORD
    ) -> httpx.Response:
        client.cookies.clear()
        token = cookies_of(login)[TOKEN_COOKIE][0]
        return await client.post(
            "/auth/password",
            json={"current_password": current, "new_password": self.NEW},
            headers={"Authorization": f"Bearer {token}", **headers},
        )

    async def test_the_browser_in_which_it_was_changed_gets_a_new_secret(
        self, client: httpx.AsyncClient, config: AuthConfig
    ) -> None:
        login, other = await log_in_with(client), await log_in_with(client)
        old = credential_of(login)
        response = await self.change(client, login, cookie_header(old))
        assert response.status_code == 204
        cookies = cookies_of(response)
        assert cookies.keys() == {SESSION_COOKIE, TOKEN_COOKIE}
        new = cookies[SESSION_COOKIE][0]
        assert (new[:36] == old[:36], new != old) == (True, True)
        # Whoever has a copy of the old one, and the tokens that it was exchanged for, has nothing.
        for credential in (old, credential_of(other)):
            assert (await exchange(client, config, credential)).status_code == 410
        assert (await exchange(client, config, new)).status_code == 200
        waited = await client.get("/auth/me", headers={"Authorization": f"Bearer {cookies[TOKEN_COOKIE][0]}"})
        assert waited.status_code == 200

    async def test_the_tokens_of_the_old_secret_are_revoked(self, client: httpx.AsyncClient) -> None:
        login = await log_in_with(client)
        response = await self.change(client, login, {**cookie_header(credential_of(login)), "Prefer": "wait=5"})
        assert (response.status_code, response.json()["complete"]) == (200, True)
        assert cookies_of(response).keys() == {SESSION_COOKIE, TOKEN_COOKIE}
        old, new = (cookies_of(each)[TOKEN_COOKIE][0] for each in (login, response))
        refused = await client.get("/auth/me", headers={"Authorization": f"Bearer {old}"})
        assert (refused.status_code, refused.json()["code"]) == (401, "revoked")
        assert (await client.get("/auth/me", headers={"Authorization": f"Bearer {new}"})).status_code == 200

    async def test_the_cookie_has_to_be_the_sessions_own(self, client: httpx.AsyncClient, config: AuthConfig) -> None:
        login, eves = await log_in_with(client), await log_in_with(client, **EVE)
        old = credential_of(login)
        current = PASSWORD
        for headers in ({}, cookie_header(credential_of(eves)), cookie_header(f"{old[:36]}.{'A' * 43}")):
            login = await log_in_with(client, password=current)
            response = await self.change(client, login, headers, current)
            current = self.NEW
            self.NEW = f"{self.NEW}!"
            assert response.status_code == 204
            assert cookies_of(response) == {}
            # Its secret was replaced all the same.
            assert (await exchange(client, config, credential_of(login))).status_code == 410
        assert (await exchange(client, config, credential_of(eves))).status_code == 200

    async def test_a_refusal_changes_nothing(self, client: httpx.AsyncClient, config: AuthConfig) -> None:
        login = await log_in_with(client)
        response = await self.change(client, login, cookie_header(credential_of(login)), "wrong")
        assert response.status_code == 403
        assert (await exchange(client, config, credential_of(login))).status_code == 200

    async def test_a_session_without_cookies_goes_on_as_it_was(self, client: httpx.AsyncClient) -> None:
        tokens = (await client.post("/auth/login", json=ADA)).json()
        body = {"current_password": PASSWORD, "new_password": self.NEW}
        response = await client.post("/auth/password", json=body, headers={**bearer(tokens), "Prefer": "wait=5"})
        assert response.json()["revoked"] == 0
        assert (await client.get("/auth/me", headers=bearer(tokens))).status_code == 200


async def test_an_export_has_a_browsers_session_without_its_secret(
    client: httpx.AsyncClient, services: Services
) -> None:
    admin = await logged_in(services, client, "admin", "admin")
    login = await log_in_with(client)
    exported = await admin.get(f"/admin/users/{login.json()['user']['id']}/export")
    assert [session["id"] for session in exported["sessions"]] == [login.json()["session_id"]]
    proof = parse(credential_of(login))
    text = json.dumps(exported)
    assert credential_of(login).partition(".")[2] not in text
    assert proof.secret_hash.hex() not in text
    assert "secret" not in text


class TestDevice:
    @pytest.mark.parametrize("first", ["/auth/login", "/session"])
    @pytest.mark.parametrize("then", ["/auth/login", "/session"])
    async def test_a_device_that_is_known_to_one_login_is_known_to_the_other(
        self, client: httpx.AsyncClient, first: str, then: str
    ) -> None:
        value, attributes = cookies_of(await client.post(first, json=ADA))[DEVICE_COOKIE]
        assert attributes["Path"] == "/"
        client.cookies.clear()
        known = {"Cookie": f"a=b; {DEVICE_COOKIE}={value}"}
        assert DEVICE_COOKIE not in cookies_of(await client.post(then, json=ADA, headers=known))
        for unknown in (f"{DEVICE_COOKIE}=x", f"{DEVICE_COOKIE}=\xe9.\xe9", f"x{DEVICE_COOKIE}={value}"):
            client.cookies.clear()
            response = await client.post(then, json=ADA, headers={b"Cookie": unknown.encode("latin-1")})
            assert DEVICE_COOKIE in cookies_of(response)
        client.cookies.clear()
        twice = {"Cookie": f"{DEVICE_COOKIE}={value}; {DEVICE_COOKIE}={value}"}
        assert (await client.post(then, json=ADA, headers=twice)).json()["code"] == "repeated_cookie"
