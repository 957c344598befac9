"""Explanations of requests with the cookies of a browser session."""

import secrets
import time
import uuid

import pytest

from ostiary.feed import Kind
from ostiary.testing import Issuer
from ostiary_chassis.proxies import TrustedProxies
from ostiary_gateway.access.explain import HypotheticalRequest, explain
from ostiary_gateway.routing.config import RoutesFile
from ostiary_gateway.routing.source import load_routes

ROUTES = """\
upstreams:
  shop: {url: "http://shop:1"}
  auth: {url: "http://auth:1"}
browser: {upstream: auth, trusted_origins: ["https://app.shop.example"], login_path: /login}
routes:
  - {name: home, match: {path: /, methods: [GET]}, upstream: shop, access: optional}
  - {name: login, match: {path: /login, methods: [GET]}, upstream: shop, access: public}
  - {name: orders, match: {path: /orders, methods: [GET, POST]}, upstream: shop, access: authenticated, login: redirect}
  - {name: photo, match: {path: /photo, methods: [GET]}, upstream: shop, access: authenticated, embed: same-site}
  - {name: api, match: {path: /api, methods: [GET]}, upstream: shop, access: authenticated, credentials: [bearer]}
  - {name: staff, match: {path: /staff, methods: [GET]}, upstream: shop, access: {roles: [staff]}}
  - {name: log-in, match: {path: /session, methods: [POST]}, upstream: auth, access: public}
  - {name: live, match: {path: /live, methods: [GET]}, upstream: shop, access: authenticated, websocket: true}
"""
URL = "https://shop.example"
SESSION, TOKEN = "__Host-ostiary-session", "__Host-ostiary-token"


@pytest.fixture(scope="module")
def routes(tmp_path_factory: pytest.TempPathFactory) -> RoutesFile:
    path = tmp_path_factory.mktemp("routes") / "gateway.yaml"
    path.write_text(ROUTES)
    return load_routes(path, issuer=URL)


class Explainer:
    """Explains requests of one browser, whose session it has."""

    def __init__(self, routes: RoutesFile, issuer: Issuer) -> None:
        self._routes = routes
        self.issuer = issuer
        self._verifier = issuer.verifier()
        self.id = str(uuid.uuid4())
        self._secret = secrets.token_urlsafe(32)
        self._secrets = {self._secret, self.id}

    def token(self, session_id: str | None = None, seconds: float = 900, **claims: object) -> str:
        expires_at = int(time.time() + seconds)
        dates = {"iat": expires_at - 900, "nbf": expires_at - 900, "exp": expires_at}
        token = self.issuer.token(subject="ada", claims={"sid": session_id or self.id, **dates, **claims})
        self._secrets |= set(token.split("."))
        return token

    def cookies(self, token: str | None = None) -> str:
        return f"Cookie: theme=dark; {SESSION}={self.id}.{self._secret}" + (f"; {TOKEN}={token}" if token else "")

    def __call__(self, method: str, path: str, *headers: str) -> tuple[dict[str, list[str]], bool]:
        """Return the lines of the explanation, by their labels, and whether the request is allowed."""
        request = HypotheticalRequest(method, f"{URL}{path}", headers, None, "192.0.2.1")
        output, is_allowed = explain(self._routes, self._verifier, TrustedProxies(), URL, request)
        shown = "\n".join(output)
        for secret in self._secrets:
            assert secret not in shown
        lines: dict[str, list[str]] = {}
        for line in output:
            lines.setdefault(line[:12].strip(), []).append(line[12:])
        return lines, is_allowed


@pytest.fixture
def explainer(routes: RoutesFile, issuer: Issuer) -> Explainer:
    return Explainer(routes, Issuer(URL, private_key=issuer.private_key))


OWN = "own origin https://shop.example"
NEEDED = "the gateway asks the auth service for another one first"


@pytest.mark.parametrize(
    ("path", "rules"),
    [
        ("/", {"credentials": ["bearer or cookie"]}),
        ("/api", {"credentials": ["bearer"]}),
        ("/login", {}),
        ("/orders", {"credentials": ["bearer or cookie"], "login": ["without a session, pages lead to /login"]}),
        (
            "/photo",
            {"credentials": ["bearer or cookie"], "embed": ["pages of the same site may embed what the session reads"]},
        ),
    ],
)
def test_the_rules_of_a_route_are_shown(explainer: Explainer, path: str, rules: dict[str, list[str]]) -> None:
    lines, _ = explainer("GET", path)
    assert {name: lines[name] for name in ("credentials", "login", "embed") if name in lines} == rules


def test_a_good_session_is_shown_with_its_person(explainer: Explainer) -> None:
    lines, is_allowed = explainer("GET", "/orders", explainer.cookies(explainer.token()), "Sec-Fetch-Site: same-origin")
    assert is_allowed
    assert lines["cookie"] == [f"{SESSION} counts: Sec-Fetch-Site same-origin; {OWN}"]
    assert lines["token"] == ["subject ada, client test-client; scopes: none; roles: none"]
    assert lines["upstream"] == ["shop (http://shop:1) gets /orders"]
    assert "response" not in lines


def test_missing_requirements_are_shown_as_for_bearers(explainer: Explainer) -> None:
    lines, is_allowed = explainer("GET", "/staff", explainer.cookies(explainer.token(roles=["clerk"])))
    assert (lines["missing"], is_allowed) == (["role staff"], False)
    assert lines["response"][0].startswith("403 insufficient_role")


@pytest.mark.parametrize(
    ("method", "path", "fields", "verdict", "response"),
    [
        ("POST", "/orders", ["Sec-Fetch-Site: none"], f"counts: Sec-Fetch-Site none; {OWN}", None),
        ("POST", "/orders", ["Origin: https://SHOP.example"], f"counts: Origin https://SHOP.example; {OWN}", None),
        (
            "POST",
            "/orders",
            ["Sec-Fetch-Site: same-site", "Origin: https://app.shop.example"],
            f"counts: Sec-Fetch-Site same-site, Origin https://app.shop.example; {OWN}",
            None,
        ),
        (
            "POST",
            "/orders",
            ["Content-Type: application/json"],
            f"counts: neither Sec-Fetch-Site nor Origin, Content-Type application/json; {OWN}",
            None,
        ),
        (
            "POST",
            "/orders",
            [],
            f"is refused: neither Sec-Fetch-Site nor Origin, Content-Type none; {OWN}",
            "403 cross_site_request",
        ),
        (
            "POST",
            "/orders",
            ["Sec-Fetch-Site: cross-site"],
            f"is refused: Sec-Fetch-Site cross-site; {OWN}",
            "403 cross_site_request",
        ),
        (
            "GET",
            "/orders",
            ["Sec-Fetch-Site: same-site", "Sec-Fetch-Mode: no-cors", "Sec-Fetch-Dest: image"],
            f"counts as absent: Sec-Fetch-Site same-site, Sec-Fetch-Mode no-cors, Sec-Fetch-Dest image; {OWN}; ",
            "401 missing_token",
        ),
        ("GET", "/photo", ["Sec-Fetch-Site: same-site"], f"counts: Sec-Fetch-Site same-site; {OWN}", None),
        ("GET", "/", ["Sec-Fetch-Site: cross-site"], f"counts as absent: Sec-Fetch-Site cross-site; {OWN}; ", None),
        ("POST", "/session", ["Sec-Fetch-Site: cross-site"], "counts as absent: ", None),
        ("POST", "/session", ["Sec-Fetch-Site: same-origin"], "counts: ", None),
        ("GET", "/login", [], "does not count: the route is public", None),
        ("GET", "/api", [], "does not count: the route takes bearer tokens alone", "401 missing_token"),
        (
            "GET",
            "/orders",
            ["Authorization: Bearer a.b.c"],
            "is not looked at: there is a bearer token",
            "401 malformed",
        ),
    ],
)
def test_whether_the_cookie_counts_is_shown_with_the_reason(
    explainer: Explainer, method: str, path: str, fields: list[str], verdict: str, response: str | None
) -> None:
    lines, is_allowed = explainer(method, path, explainer.cookies(explainer.token()), *fields)
    assert lines["cookie"][0].startswith(f"{SESSION} {verdict}")
    assert is_allowed is (response is None)
    assert response is None or lines["response"][0].startswith(response)


def test_a_websocket_of_another_page_is_refused(explainer: Explainer) -> None:
    handshake = ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: x"]
    page = ["Origin: https://evil.example", "Sec-Fetch-Site: cross-site"]
    lines, is_allowed = explainer("GET", "/live", explainer.cookies(explainer.token()), *handshake, *page)
    assert lines["cookie"] == [f"{SESSION} is refused: Sec-Fetch-Site cross-site, Origin https://evil.example; {OWN}"]
    assert not is_allowed


def test_other_cookies_are_none_of_a_session(explainer: Explainer) -> None:
    for cookies in ("theme=dark", f"{SESSION}=x.y", f"{TOKEN}={explainer.token()}"):
        lines, _ = explainer("GET", "/orders", f"Cookie: {cookies}")
        assert lines["cookie"] == [f"none of a session: it has no {SESSION} of the right form"]
    assert "cookie" not in explainer("GET", "/orders")[0]


def test_a_cookie_that_came_twice_is_refused(explainer: Explainer) -> None:
    lines, is_allowed = explainer("GET", "/orders", explainer.cookies(), explainer.cookies())
    assert lines["cookie"] == ["refused: a cookie of the session came twice"]
    assert lines["response"][0].startswith("400 repeated_cookie")
    assert not is_allowed


@pytest.mark.parametrize(
    ("headers", "token", "needed"),
    [
        ([], None, False),
        (["Accept: */*"], None, False),
        ([], "a.b.c", True),
        (["Cookie: a=b"], None, True),
        (["authorization: Basic x"], None, True),
    ],
)
def test_keys_are_needed_for_requests_with_credentials_only(
    headers: list[str], token: str | None, *, needed: bool
) -> None:
    assert HypotheticalRequest("GET", "/", headers, token).has_credentials is needed


class TestTokens:
    """A token that does not count, and what the gateway does then."""

    def test_none(self, explainer: Explainer) -> None:
        assert self._token(explainer, None) == f"none came along: {NEEDED}"

    def test_one_of_another_session(self, explainer: Explainer) -> None:
        other = explainer.token(str(uuid.uuid4()))
        assert self._token(explainer, other) == f"the one that came along is of another session: {NEEDED}"

    def test_an_expired_one(self, explainer: Explainer) -> None:
        expired = explainer.token(seconds=-10)
        assert self._token(explainer, expired) == f"the one that came along is not good (expired): {NEEDED}"

    def test_an_ended_session(self, explainer: Explainer) -> None:
        explainer.issuer.revoke(Kind.SESSION, explainer.id)
        lines, is_allowed = explainer("GET", "/orders", explainer.cookies(explainer.token()))
        assert lines["token"] == ["none counts: the session has ended"]
        assert lines["response"][0].startswith("401 session_ended")
        assert not is_allowed

    def _token(self, explainer: Explainer, token: str | None) -> str:
        lines, is_allowed = explainer("GET", "/orders", explainer.cookies(token))
        assert is_allowed
        assert lines["response"] == ["depends on the answer"]
        assert "upstream" not in lines
        (line,) = lines["token"]
        return line


def test_a_page_that_leads_to_the_login_page_says_so(explainer: Explainer) -> None:
    lines, is_allowed = explainer("GET", "/orders?x=1", "Sec-Fetch-Mode: navigate")
    assert lines["response"] == ["303 to /login?return_to=%2Forders%3Fx%3D1, in place of 401 missing_token"]
    assert not is_allowed
