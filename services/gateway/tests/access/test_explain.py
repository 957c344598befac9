"""Explanations: the route, its rules, and why a request is rejected."""

import pytest

from ostiary.testing import Issuer
from ostiary_chassis.proxies import TrustedProxies
from ostiary_gateway.access.explain import HypotheticalRequest, explain
from ostiary_gateway.config import GatewayConfig
from ostiary_gateway.routing.config import RoutesFile
from ostiary_gateway.routing.source import load_routes

ROUTES = """\
upstreams:
  shop: {url: "http://shop:1"}
  stock: {urls: ["http://stock:1", "http://stock:2"], host: upstream}
routes:
  - {name: home, match: {path: /, methods: [GET]}, upstream: shop, access: public}
  - name: order
    match: {path: "/orders/{id}", methods: [GET]}
    upstream: shop
    access: {scopes: ["orders:read"], roles: [clerk], claims: {org: {one_of: [acme, 7]}, groups: {contains: a}}}
    cors: {origins: ["https://app.example"], headers: [X-Version]}
    rate_limits: [{by: subject, requests: 100, seconds: 60}]
    retries: {attempts: 2, statuses: [503]}
    timeouts: {total: 60}
    max_staleness: 1.0
  - {name: shelf, match: {path: "/v1/shelves/{id}", methods: [GET]}, upstream: stock, access: {scopes: [stock]},
     allows_encoded: ["/", "#"]}
  - name: public-shelf
    match: {path: "/shelves/{id}", methods: [GET, PUT]}
    upstream: stock
    rewrite: "/v1/shelves/{id}"
    access: {scopes: [stock]}
  - {name: live, match: {path: /live, methods: [GET]}, upstream: shop, access: public, websocket: true}
"""


@pytest.fixture(scope="module")
def routes(tmp_path_factory: pytest.TempPathFactory) -> RoutesFile:
    path = tmp_path_factory.mktemp("routes") / "gateway.yaml"
    path.write_text(ROUTES)
    return load_routes(path)


@pytest.fixture
def explainer(routes: RoutesFile, issuer: Issuer) -> "Explainer":
    return Explainer(routes, issuer)


class Explainer:
    """Explains requests to the routes."""

    def __init__(self, routes: RoutesFile, issuer: Issuer) -> None:
        self._routes = routes
        self._verifier = issuer.verifier()
        self.proxies = TrustedProxies()

    def __call__(
        self, method: str, url: str, *headers: str, token: str | None = None, client: str = "192.0.2.1"
    ) -> tuple[dict[str, list[str]], bool]:
        """Return the lines of the explanation, by their labels, and whether the request is allowed."""
        request = HypotheticalRequest(method, url, headers, token, client)
        output, is_allowed = explain(self._routes, self._verifier, self.proxies, "https://shop.example", request)
        assert token is None or token not in "".join(output)
        lines: dict[str, list[str]] = {}
        for line in output:
            lines.setdefault(line[:12].strip(), []).append(line[12:])
        return lines, is_allowed


def test_an_allowed_request_is_explained_with_all_rules(explainer: Explainer, issuer: Issuer) -> None:
    claims = {"org": "acme", "groups": ["a", "b"]}
    token = issuer.token(subject="ada", scopes=["orders:read"], roles=["clerk"], claims=claims)
    lines, is_allowed = explainer("GET", "https://shop.example/orders/1?a=b", token=token)
    assert is_allowed
    assert lines == {
        "request": ["GET /orders/1?a=b"],
        "client": ["192.0.2.1"],
        "route": ["order: GET, HEAD /orders/{id}"],
        "access": ['scope orders:read and role clerk and claim groups containing "a" and claim org = "acme" or 7'],
        "staleness": ["1.0"],
        "rate limit": ["100 requests per 60 s by subject"],
        "limits": ["body 1048576 bytes, head 32768 bytes"],
        "timeouts": ["connect 2 s, first_byte 45 s, idle 30 s, stream_idle 3600 s, total 60 s"],
        "retries": ["at most 2, after no response or 503"],
        "cors": ["https://app.example"],
        "token": ["subject ada, client test-client; scopes: orders:read; roles: clerk"],
        "upstream": ["shop (http://shop:1) gets /orders/1?a=b"],
        "host": ["shop.example"],
    }


def test_the_limits_of_a_websocket_are_those_that_hold(explainer: Explainer) -> None:
    handshake = ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: x"]
    assert explainer("GET", "/live", *handshake)[0]["timeouts"] == ["connect 2 s, first_byte 45 s, stream_idle 3600 s"]
    plain = ["connect 2 s, first_byte 45 s, idle 30 s, stream_idle 3600 s"]
    assert explainer("GET", "/live")[0]["timeouts"] == plain


def test_the_canonical_path_and_what_it_may_have_are_shown(explainer: Explainer, issuer: Issuer) -> None:
    lines, is_allowed = explainer("GET", "/v1/%73helves/a%2fb|?q", token=issuer.token(scopes=["stock"]))
    assert is_allowed
    assert lines["encoded"] == ["# /"]
    assert lines["upstream"][0].endswith(" gets /v1/shelves/a%2Fb%7C?q")


def test_missing_requirements_are_listed_beside_the_tokens_own(explainer: Explainer, issuer: Issuer) -> None:
    token = issuer.token(scopes=["profile"], roles=["clerk"], claims={"org": "umbrella"})
    lines, is_allowed = explainer("GET", "/orders/1", token=token)
    assert not is_allowed
    assert lines["token"] == ["subject user-1, client test-client; scopes: profile; roles: clerk"]
    assert lines["missing"] == [
        "scope orders:read",
        'claim groups containing "a"; the token has null',
        'claim org = "acme" or 7; the token has "umbrella"',
    ]
    assert lines["response"][0].startswith("403 insufficient_scope: ")
    assert "upstream" not in lines


@pytest.mark.parametrize(
    ("claims", "missing"),
    [({"roles": []}, "role clerk"), ({"org": True}, 'claim org = "acme" or 7; the token has true')],
)
def test_a_single_missing_requirement_is_named(
    explainer: Explainer, issuer: Issuer, claims: dict[str, object], missing: str
) -> None:
    given = {"org": "acme", "groups": ["a"], "roles": ["clerk"], **claims}
    lines, is_allowed = explainer("GET", "/orders/1", token=issuer.token(scopes=["orders:read"], claims=given))
    assert (lines["missing"], is_allowed) == ([missing], False)


def test_an_expired_token_is_explained(explainer: Explainer, issuer: Issuer) -> None:
    lines, is_allowed = explainer("GET", "/orders/1", token=issuer.token(claims={"exp": 1, "iat": 0, "nbf": 0}))
    assert lines["response"] == ["401 expired: The access token has expired; refresh it."]
    assert "token" not in lines
    assert not is_allowed


def test_the_owner_of_a_rewritten_path_is_named(explainer: Explainer, issuer: Issuer) -> None:
    lines, is_allowed = explainer("GET", "/shelves/3", token=issuer.token())
    assert not is_allowed
    assert lines["route"] == ["public-shelf: GET, HEAD, PUT /shelves/{id}"]
    assert lines["missing"] == ["scope stock"]
    lines, is_allowed = explainer("GET", "/shelves/3", token=issuer.token(scopes=["stock"]))
    assert is_allowed
    assert lines["path owner"] == ["shelf: GET, HEAD /v1/shelves/{id}; its access applies, too: scope stock"]
    assert lines["upstream"] == ["stock (http://stock:1, http://stock:2) gets /v1/shelves/3"]


PREFLIGHT = "Access-Control-Request-Method: GET"


@pytest.mark.parametrize(
    ("path", "headers", "fault"),
    [
        ("/", ["Origin: https://app.example"], "the route has no 'cors'"),
        ("/orders/1", ["Origin: https://other.example"], "the route's 'cors' does not name its origin"),
        (
            "/orders/1",
            ["Origin: https://app.example", "Access-Control-Request-Headers: authorization,x-other"],
            "the route's 'cors' does not name x-other",
        ),
    ],
)
def test_a_preflight_that_makes_a_browser_block_the_request_is_not_allowed(
    explainer: Explainer, path: str, headers: list[str], fault: str
) -> None:
    lines, is_allowed = explainer("OPTIONS", path, PREFLIGHT, *headers)
    assert lines["response"] == [f"204; a browser blocks the request: {fault}"]
    assert not is_allowed


def test_a_successful_preflight_is_allowed(explainer: Explainer) -> None:
    fields = ["Origin: https://app.example", "Access-Control-Request-Headers: authorization,x-version"]
    lines, is_allowed = explainer("OPTIONS", "/orders/1", PREFLIGHT, *fields)
    assert lines["response"] == ["204; a browser sends the request"]
    assert is_allowed


def test_other_options_requests_are_explained_with_the_allowed_methods(explainer: Explainer) -> None:
    for path, methods in (("/orders/1", "GET, HEAD, OPTIONS"), ("*", "GET, HEAD, OPTIONS, PUT")):
        lines, is_allowed = explainer("OPTIONS", path)
        assert (lines["response"], is_allowed) == ([f"204; Allow: {methods}"], True)


@pytest.mark.parametrize("name", ["access_token", "token", "code", "api_key", "KEY", "access%5Ftoken", "id_token_hint"])
def test_secrets_in_a_query_are_redacted(explainer: Explainer, name: str) -> None:
    lines, _ = explainer("GET", f"/?a=1&{name}=hidden=1&b=2")
    assert lines["request"] == [f"GET /?a=1&{name}=***&b=2"]
    assert lines["upstream"] == [f"shop (http://shop:1) gets /?a=1&{name}=***&b=2"]


def test_fields_that_the_service_does_not_get_are_named(explainer: Explainer) -> None:
    fields = ["X-User-Id: 1", "X-Trace: 2", "x_forwarded_for: 3", "Connection: close", "api_key: 4"]
    lines, is_allowed = explainer("GET", "/", *fields)
    assert is_allowed
    assert lines["not sent"] == [
        "x-user-id: is trusted by services (Apache APISIX)",
        "x_forwarded_for: is set by the gateway",
    ]


def test_the_client_is_taken_from_trusted_proxies_only(explainer: Explainer) -> None:
    forwarded = "X-Forwarded-For: 198.51.100.7"
    assert explainer("GET", "/", forwarded, client="10.0.0.1")[0]["client"] == ["10.0.0.1"]
    config = GatewayConfig.load({"OSTIARY_GATEWAY_TRUSTED_PROXIES": "10.0.0.0/8"})
    explainer.proxies = TrustedProxies(config.trusted_proxies)
    assert explainer("GET", "/", forwarded, client="10.0.0.1")[0]["client"] == ["198.51.100.7"]


@pytest.mark.parametrize(
    ("method", "url", "answer"),
    [
        ("GET", "/nothing", "404 not_found"),
        ("POST", "/orders/1", "405 method_not_allowed"),
        ("GET", "/orders/../1", "400 ambiguous_path"),
        ("GET", "/%zz", "400 ambiguous_path"),
        ("GET", "/a b", "400: not valid HTTP/1.1"),
        ("G T", "/", "400: not valid HTTP/1.1"),
        ("GET", "//", "400 encoded_character"),
        ("GET", "/orders/a%2fb", "400 encoded_character"),
        ("GET", "/shelves/a%23b", "400 encoded_character"),
        ("GET", "/" + 9000 * "a", "414 path_too_long"),
    ],
)
def test_rejected_requests_are_explained_with_their_response(
    explainer: Explainer, method: str, url: str, answer: str
) -> None:
    lines, is_allowed = explainer(method, url)
    assert lines["response"][0].startswith(answer)
    assert not is_allowed


def test_local_paths_are_explained(explainer: Explainer) -> None:
    assert explainer("GET", "http://gw/livez") == (
        {"request": ["GET /livez"], "client": ["192.0.2.1"], "response": ["from the gateway itself"]},
        True,
    )
