"""What a route does besides passing requests on: claims, paths, limits, browsers, retries, shares, time."""

import asyncio
import random
from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager, suppress
from ipaddress import ip_network
from pathlib import Path

import pytest
from harness import (
    CapturedAccessLog,
    Clock,
    GatewayHarness,
    ReceivedRequest,
    ReceivedResponse,
    RecordingUpstream,
    parse_responses,
    respond_and_close,
    respond_and_stall,
    settled,
    short_directory,
    until,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from ostiary.testing import Issuer
from ostiary_chassis.logs import LogFormat
from ostiary_chassis.proxies import TrustedProxies
from ostiary_chassis.settings import ConfigError
from ostiary_gateway.observability.access_log import pseudonym
from ostiary_gateway.proxy.connection_manager import ConnectionManager
from ostiary_gateway.proxy.downstream import ClientConnection
from ostiary_gateway.ratelimit.token_bucket import RateLimiter
from ostiary_gateway.routing.config import RateLimit
from ostiary_gateway.routing.loader import load_file

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
BUSY = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nbusy"


def file(*routes: str, upstreams: str = "") -> str:
    lines = "".join(f"  - {{{route}}}\n" for route in routes)
    return f'upstreams:\n  up: {{url: "${{UPSTREAM}}"}}\n{upstreams}routes:\n{lines}'


def opened(
    issuer: Issuer, upstream: RecordingUpstream, *routes: str, upstreams: str = ""
) -> AbstractAsyncContextManager[GatewayHarness]:
    return GatewayHarness.open(file(*routes, upstreams=upstreams), upstream.url, issuer.verifier())


def bearer(token: str) -> str:
    return f"Authorization: Bearer {token}"


def mistakes(tmp_path: Path, *routes: str) -> str:
    """Return what is wrong with a file."""
    path = tmp_path / "gateway.yaml"
    path.write_text(file(*routes))
    with pytest.raises(ConfigError) as caught:
        load_file(path, {"UPSTREAM": "http://up:9000"})
    return str(caught.value)


# Claims.


@pytest.mark.parametrize(
    ("condition", "good", "bad"),
    [
        ("{equals: acme}", ["acme"], ["Acme", "acme ", ["acme"], {"acme": 1}, None, True, 1]),
        ("{equals: 1}", [1], [True, "1", 1.0, [1], 2, None]),
        ("{equals: true}", [True], [1, "true", 1.0, "True", [True], False]),
        ('{equals: "1"}', ["1"], [1, True, ["1"]]),
        ("{equals: 0}", [0], [False, "", None, "0", 0.0, []]),
        ("{equals: false}", [False], [0, None, "false", ""]),
        ("{one_of: [1, gold, true]}", [1, "gold", True], ["1", 2, "true", [1], 1.0, None]),
        ("{contains: staff}", [["staff"], ["a", "staff"]], ["staff", ["staffed"], {"staff": 1}, [["staff"]], [], None]),
        ("{contains: 1}", [[1], [0, 1]], [[True], ["1"], [1.0], 1]),
        ("{contains: true}", [[True]], [[1], ["true"], True]),
    ],
)
async def test_a_claim_is_of_one_type(
    issuer: Issuer, upstream: RecordingUpstream, condition: str, good: list[object], bad: list[object]
) -> None:
    access = f"access: {{claims: {{plan: {condition}}}}}"
    async with opened(issuer, upstream, f"name: a, match: {{path: /a, methods: [GET]}}, upstream: up, {access}") as it:
        for value in good:
            assert (await it.request("/a", bearer(issuer.token(claims={"plan": value})))).status == 200, value
        count = len(upstream.requests)
        for value in [*bad, Issuer.REMOVED]:
            answer = await it.request("/a", bearer(issuer.token(claims={"plan": value})))
            assert (answer.status, answer.code) == (403, "insufficient_claims"), value
        assert (await it.request("/a")).status == 401
        assert len(upstream.requests) == count


async def test_all_claims_scopes_and_roles_are_asked_for(issuer: Issuer, upstream: RecordingUpstream) -> None:
    access = "access: {scopes: [read], roles: [staff], claims: {plan: {equals: gold}, team: {equals: 1}}}"
    async with opened(issuer, upstream, f"name: a, match: {{path: /a, methods: [GET]}}, upstream: up, {access}") as it:

        async def status(scope: str = "read", role: str = "staff", plan: str = "gold", team: int = 1) -> int:
            token = issuer.token(scopes=[scope], roles=[role], claims={"plan": plan, "team": team})
            return (await it.request("/a", bearer(token))).status

        assert await status() == 200
        assert [await status(scope="x"), await status(role="x"), await status(plan="x"), await status(team=2)] == [
            *[403] * 4
        ]


async def test_subject_and_client_are_claims_too(issuer: Issuer, upstream: RecordingUpstream) -> None:
    async with opened(
        issuer,
        upstream,
        "name: a, match: {path: /ada, methods: [GET]}, upstream: up, access: {claims: {sub: {equals: ada}}}",
        "name: b, match: {path: /batch, methods: [GET]}, upstream: up, access: {claims: {client_id: {one_of: [b, c]}}}",
    ) as it:
        for subject, client, expected in [("ada", "x", (200, 403)), ("bob", "b", (403, 200)), ("Ada", "B", (403, 403))]:
            token = bearer(issuer.token(subject=subject, claims={"client_id": client}))
            assert ((await it.request("/ada", token)).status, (await it.request("/batch", token)).status) == expected


@pytest.mark.parametrize(
    "condition", ["{}", "{equals: 1, contains: 1}", "{one_of: []}", "{equals: null}", "{equals: 1.5}", "{is: 1}", "1"]
)
def test_a_condition_that_says_nothing_clear_is_an_error_on_its_line(tmp_path: Path, condition: str) -> None:
    access = f"access: {{claims: {{x: {condition}}}}}"
    found = mistakes(tmp_path, f"name: a, match: {{path: /a, methods: [GET]}}, upstream: up, {access}")
    assert "gateway.yaml:4: " in found


# Paths.

REWRITES = [
    (
        'name: api, match: {path: "/api/{rest...}", methods: [GET, POST]}, upstream: up, access: public,'
        ' rewrite: "/{rest...}"'
    ),
    "name: fixed, match: {path: /status, methods: [GET]}, upstream: up, access: public, rewrite: /internal/health",
    (
        'name: turned, match: {path: "/shops/{shop}/items/{item}", methods: [GET]}, upstream: up, access: public,'
        ' rewrite: "/items/{item}/of/{shop}"'
    ),
    "name: admin, match: {path: /admin, methods: [GET, POST]}, upstream: up, access: {roles: [admin]}",
    'name: admins, match: {path: "/admin/{rest...}", methods: [GET, POST]}, upstream: up, access: {roles: [admin]}',
    "name: reports, match: {path: /reports, methods: [GET]}, upstream: up, access: {roles: [admin]}",
    "name: mine, match: {path: /mine, methods: [GET]}, upstream: up, access: {claims: {plan: {equals: gold}}}",
    "name: elsewhere, match: {path: /elsewhere, methods: [GET]}, upstream: other, access: {roles: [admin]}",
]
OTHER = '  other: {url: "http://127.0.0.1:9"}\n'


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("/api/orders", "/orders"),
        ("/api/orders/7/lines?a=1&b=/api/x", "/orders/7/lines?a=1&b=/api/x"),
        ("/api/api/x", "/api/x"),
        ("/api/a%20b/%C3%A4", "/a%20b/%C3%A4"),
        ("/api/x?", "/x?"),
        ("/status", "/internal/health"),
        ("/status?deep=1", "/internal/health?deep=1"),
        ("/shops/s1/items/i%201", "/items/i%201/of/s1"),
        ("/api/elsewhere", "/elsewhere"),
    ],
)
async def test_an_upstream_gets_the_path_that_the_route_makes(
    issuer: Issuer, upstream: RecordingUpstream, target: str, expected: str
) -> None:
    async with opened(issuer, upstream, *REWRITES, upstreams=OTHER) as it:
        assert (await it.request(target)).status == 200
        assert upstream.last.target == expected


@pytest.mark.parametrize(
    "target", ["/api/", "/api", "/api//admin", "/api/../admin", "/api/%2e%2e/admin", "/api/x/", "/api/%2Fadmin"]
)
async def test_nothing_odd_comes_of_a_rewritten_path(issuer: Issuer, upstream: RecordingUpstream, target: str) -> None:
    async with opened(issuer, upstream, *REWRITES, upstreams=OTHER) as it:
        assert (await it.request(target)).status in {400, 404}
        assert upstream.requests == []


@pytest.mark.parametrize("target", ["/api/admin", "/api/admin/x?y", "/api/mine"])
async def test_a_rewritten_path_takes_the_access_of_its_own_route_too(
    issuer: Issuer, upstream: RecordingUpstream, target: str
) -> None:
    async with opened(issuer, upstream, *REWRITES, upstreams=OTHER) as it:
        assert (await it.request(target)).status == 401
        assert (await it.request(target, bearer(issuer.token(roles=["user"])))).status == 403
        assert upstream.requests == []
        good = issuer.token(roles=["admin"], claims={"plan": "gold"})
        assert (await it.request(target, bearer(good))).status == 200
        assert upstream.last.target == target.removeprefix("/api")


async def test_a_rewritten_path_is_no_way_around_the_methods_of_its_own_route(
    issuer: Issuer, upstream: RecordingUpstream
) -> None:
    async with opened(issuer, upstream, *REWRITES, upstreams=OTHER) as it:
        assert (await it.request("/reports", method="POST")).status == 405
        assert (await it.request("/api/reports", method="POST")).status in {401, 403, 405}
        assert upstream.requests == []


async def test_a_rewritten_path_is_not_about_routes_to_other_upstreams(
    issuer: Issuer, upstream: RecordingUpstream
) -> None:
    async with opened(issuer, upstream, *REWRITES, upstreams=OTHER) as it:
        assert (await it.request("/api/elsewhere", method="POST")).status == 200


@pytest.mark.parametrize(
    ("path", "rewrite"),
    [
        ("/a/{id}", "/{other}"),
        ("/a/{id}", "/{id...}"),
        ("/a/{rest...}", "/{rest}"),
        ("/a/{id}", "/{id}/{id}"),
        ("/a", "/{id}"),
        ("/a/{rest...}", "/{rest...}/x"),
        ("/a", "a"),
        ("/a", "/../b"),
        ("/a", "/b//c"),
        ("/a", "http://other/"),
    ],
)
def test_a_rewrite_that_cannot_be_made_is_an_error_on_its_line(tmp_path: Path, path: str, rewrite: str) -> None:
    text = f'name: a, match: {{path: "{path}", methods: [GET]}}, upstream: up, access: public, rewrite: "{rewrite}"'
    assert "gateway.yaml:4: " in mistakes(tmp_path, text)


# Rate limits.


class StillClock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def limiter(requests: int, seconds: float) -> tuple[RateLimiter, StillClock]:
    clock = StillClock()
    return RateLimiter(RateLimit(by="address", requests=requests, seconds=seconds), clock), clock


_LIMITS = st.tuples(st.integers(1, 50), st.floats(0.1, 3600))


@given(_LIMITS, st.lists(st.tuples(st.sampled_from("ab"), st.floats(0, 100)), max_size=200))
@settings(deadline=None)
def test_nobody_gets_more_than_a_full_bucket_and_what_comes_in_the_time(
    limit: tuple[int, float], steps: list[tuple[str, float]]
) -> None:
    requests, seconds = limit
    it, clock = limiter(requests, seconds)
    started, taken = clock.now, {"a": 0, "b": 0}
    for key, pause in steps:
        clock.now += pause
        taken[key] += it.take(key) == 0
        assert taken[key] <= requests + (clock.now - started) * requests / seconds + 1e-6


@given(_LIMITS, st.floats(0, 1))
@settings(deadline=None)
def test_who_waits_as_long_as_is_said_gets_through(limit: tuple[int, float], part: float) -> None:
    requests, seconds = limit
    it, clock = limiter(requests, seconds)
    assert [it.take("a") for _ in range(requests)] == [0] * requests
    clock.now += part * seconds / requests * 0.99
    wait = it.take("a")
    assert wait >= 1
    assert it.take("b") == 0
    # Asking in vain costs nothing.
    assert it.take("a") == wait
    clock.now += wait + 1e-6
    assert it.take("a") == 0


@given(_LIMITS)
def test_a_bucket_is_full_again_after_its_time_and_never_fuller(limit: tuple[int, float]) -> None:
    requests, seconds = limit
    it, clock = limiter(requests, seconds)
    for _ in range(2):
        assert [it.take("a") for _ in range(requests)] == [0] * requests
        assert it.take("a") >= 1
        clock.now += 5 * seconds


@given(_LIMITS, st.lists(st.tuples(st.booleans(), st.floats(0, 10), st.booleans()), max_size=200))
@settings(deadline=None)
def test_two_that_settle_let_through_no_more_than_one_but_for_what_they_have_not_told(
    limit: tuple[int, float], steps: list[tuple[bool, float, bool]]
) -> None:
    requests, seconds = limit
    clock = StillClock()
    rate_limit = RateLimit(by="address", requests=requests, seconds=seconds)
    limiters = [RateLimiter(rate_limit, clock) for _ in range(2)]
    store = RateLimiter(rate_limit, clock)
    for each in limiters:
        each.hand_over()
    started, through, untold, most_untold = clock.now, 0, 0, 0
    for of_second, pause, settles in steps:
        clock.now += pause
        limiter = limiters[of_second]
        if limiter.take("a") == 0:
            through, untold = through + 1, untold + 1
        most_untold = max(most_untold, untold)
        allowed = requests + (clock.now - started) * requests / seconds
        assert through <= allowed + most_untold + 1e-6
        if settles:
            untold = 0
            for each in limiters:
                # What the store's script does.
                left, at = store._buckets.get("a", (float(requests), clock.now))
                full = min(float(requests), left + (clock.now - at) * requests / seconds)
                store._put("a", full - each.hand_over().get("a", 0), clock.now)
            for each in limiters:
                each.settle("a", store._buckets["a"][0])


def test_the_buckets_of_the_long_gone_are_given_up_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ostiary_gateway.ratelimit.token_bucket.MAX_BUCKETS", 3)
    it, _ = limiter(1, 100)
    assert [it.take(key) for key in "abc"] == [0, 0, 0]
    assert it.take("a") > 0
    assert it.take("d") == 0
    # It was "b" that had been away for longest.
    assert it.take("a") > 0
    assert it.take("b") == 0
    assert len(it._buckets) == 3


LIMITED = (
    (
        "name: address, match: {path: /address, methods: [GET]}, upstream: up, access: public,"
        " rate_limits: [{by: address, requests: 2, seconds: 1000}]"
    ),
    (
        "name: subject, match: {path: /subject, methods: [GET]}, upstream: up, access: authenticated,"
        " rate_limits: [{by: subject, requests: 2, seconds: 1000}]"
    ),
    (
        "name: client, match: {path: /client, methods: [GET]}, upstream: up, access: authenticated,"
        " rate_limits: [{by: client, requests: 2, seconds: 1000}]"
    ),
    (
        "name: both, match: {path: /both, methods: [GET]}, upstream: up, access: authenticated,"
        " rate_limits: [{by: address, requests: 3, seconds: 60}, {by: subject, requests: 1, seconds: 60}]"
    ),
)


def use_proxies(harness: GatewayHarness, *networks: str) -> None:
    """Trust proxies, from the next request on."""
    harness.gateway.runtime.current.admission._proxies = TrustedProxies([ip_network(each) for each in networks])


async def test_an_address_has_a_limit_of_its_own(issuer: Issuer, upstream: RecordingUpstream) -> None:
    async with opened(issuer, upstream, *LIMITED) as it:
        assert [(await it.request("/address", peer="192.0.2.1")).status for _ in range(3)] == [200, 200, 429]
        assert (await it.request("/address", peer="192.0.2.2")).status == 200
        refused = await it.request("/address", peer="192.0.2.1")
        assert (refused.status, refused.code) == (429, "too_many_requests")
        assert 400 < int(refused.values("retry-after")[0]) <= 500
        # Somebody untrusted may say what he likes.
        assert (await it.request("/address", "X-Forwarded-For: 192.0.2.77", peer="192.0.2.1")).status == 429
        assert len(upstream.requests) == 3


async def test_behind_a_trusted_proxy_its_clients_have_the_limit(issuer: Issuer, upstream: RecordingUpstream) -> None:
    async with opened(issuer, upstream, *LIMITED) as it:
        use_proxies(it, "10.0.0.0/8")
        for client in ("192.0.2.1", "192.0.2.2:4711", "2001:db8::1", "[2001:db8:1::1]:443"):
            said = f"X-Forwarded-For: 198.51.100.9, {client}"
            assert [(await it.request("/address", said, peer="10.1.1.1")).status for _ in range(3)] == [200, 200, 429]


async def test_one_network_of_ipv6_has_one_limit(issuer: Issuer, upstream: RecordingUpstream) -> None:
    async with opened(issuer, upstream, *LIMITED) as it:
        peers = ["2001:db8::1", "2001:db8::2:3:4:5", "2001:db8::ffff", "2001:db8:0:1::1"]
        assert [(await it.request("/address", peer=peer)).status for peer in peers] == [200, 200, 429, 200]


async def test_one_network_of_ipv6_has_the_connections_of_one_address(
    issuer: Issuer, upstream: RecordingUpstream
) -> None:
    async with opened(issuer, upstream, *LIMITED) as it:
        manager = it.gateway._manager = ConnectionManager(2, TrustedProxies([ip_network("2001:db8:0:9::/64")]))

        def add(peer: str) -> ClientConnection:
            connection = it.gateway.protocol(server_state=None, app_state={})
            assert isinstance(connection, ClientConnection)
            connection.peer = peer
            told.append(manager.add(connection))
            return connection

        told: list[bool] = []
        first, *_ = [add(f"2001:db8::{number}") for number in (1, 2, 3)]
        add("2001:db8:0:1::1")
        assert told == [True, True, False, True]
        for number in (1, 2, 3):
            add(f"2001:db8:0:9::{number}")
        assert told[4:] == [True, True, True]
        manager.remove(first)
        add("2001:db8::4")
        assert told[-1] is False
        for connection in list(manager.connections):
            manager.remove(connection)
        add("2001:db8::4")
        assert told[-1] is True


async def test_a_preflight_counts_like_any_other_request(issuer: Issuer, upstream: RecordingUpstream) -> None:
    async with opened(issuer, upstream, *LIMITED) as it:
        asks = ("Origin: https://a.example", "Access-Control-Request-Method: GET")
        answers = [await it.request("/address", *asks, method="OPTIONS") for _ in range(3)]
        assert [answer.status for answer in answers] == [204, 204, 429]
        assert (await it.request("/address")).status == 429
        assert upstream.requests == []


async def test_a_subject_and_a_client_have_limits_of_their_own(issuer: Issuer, upstream: RecordingUpstream) -> None:
    async with opened(issuer, upstream, *LIMITED) as it:

        async def statuses(target: str, subject: str, client: str, count: int) -> list[int]:
            tokens = [issuer.token(subject=subject, claims={"client_id": client}) for _ in range(count)]
            return [(await it.request(target, bearer(token))).status for token in tokens]

        assert await statuses("/subject", "ada", "one", 2) == [200, 200]
        assert await statuses("/subject", "ada", "two", 1) == [429]
        assert await statuses("/subject", "bob", "one", 1) == [200]
        assert await statuses("/client", "ada", "one", 2) == [200, 200]
        assert await statuses("/client", "bob", "one", 1) == [429]
        assert await statuses("/client", "ada", "two", 1) == [200]


async def test_who_has_no_good_token_uses_up_nobodys_limit(issuer: Issuer, upstream: RecordingUpstream) -> None:
    async with opened(issuer, upstream, *LIMITED) as it:
        forged = Issuer(issuer.issuer).token(subject="ada")
        for _ in range(5):
            assert (await it.request("/subject", bearer(forged))).status == 401
        assert (await it.request("/subject", bearer(issuer.token(subject="ada")))).status == 200
        # But what its address may ask is used up by whatever comes from there.
        assert [(await it.request("/both")).status for _ in range(4)] == [401, 401, 401, 429]


def test_a_public_route_cannot_be_limited_by_token(tmp_path: Path) -> None:
    for by in ("subject", "client"):
        limits = f"rate_limits: [{{by: {by}, requests: 1, seconds: 1}}]"
        text = f"name: a, match: {{path: /a, methods: [GET]}}, upstream: up, access: public, {limits}"
        assert "a public route takes no tokens" in mistakes(tmp_path, text)


# Sizes.


async def test_a_head_may_be_as_large_as_the_route_says(issuer: Issuer, upstream: RecordingUpstream) -> None:
    async with opened(
        issuer,
        upstream,
        "name: a, match: {path: /a, methods: [GET]}, upstream: up, access: authenticated, limits: {header_bytes: 300}",
        "name: b, match: {path: /b, methods: [GET]}, upstream: up, access: public",
    ) as it:
        refused = await it.request("/a", "X-Pad: " + "x" * 300)
        assert (refused.status, refused.code) == (431, "head_too_large")
        assert (await it.request("/a?" + "x" * 300)).status == 431
        empty = len("GET /a HTTP/1.1\r\nHost: gw\r\nConnection: close\r\nX-Pad: \r\n\r\n")
        assert (await it.request("/a", "X-Pad: " + "x" * (300 - empty))).status == 401
        assert (await it.request("/a", "X-Pad: " + "x" * (301 - empty))).status == 431
        assert (await it.request("/b", "X-Pad: " + "x" * 300)).status == 200


# Browsers.

SHOP, OTHER_PAGE = "Origin: https://shop.example", "Origin: https://evil.example"
ASKS = "Access-Control-Request-Method: PUT"
CORS = (
    (
        "name: shop, match: {path: /shop, methods: [GET, PUT]}, upstream: up, access: authenticated, cors: {origins:"
        ' ["https://shop.example"], headers: [X-Cart], expose: [X-Total], credentials: true, max_age: 60}'
    ),
    'name: open, match: {path: /open, methods: [GET, OPTIONS]}, upstream: up, access: public, cors: {origins: ["*"]}',
    "name: plain, match: {path: /plain, methods: [GET, PUT, OPTIONS]}, upstream: up, access: public",
)


def cors_fields(answer: ReceivedResponse) -> dict[str, str]:
    found = [(name, value) for name, value in answer.fields if name.startswith("access-control-")]
    assert len(dict(found)) == len(found)
    return {name.removeprefix("access-control-"): value for name, value in found}


async def test_a_preflight_is_answered_for_the_route(issuer: Issuer, upstream: RecordingUpstream) -> None:
    async with opened(issuer, upstream, *CORS) as it:
        answer = await it.request("/shop", SHOP, ASKS, "Access-Control-Request-Headers: x-cart", method="OPTIONS")
        assert (answer.status, answer.body, answer.values("vary")) == (204, b"", ["origin"])
        assert cors_fields(answer) == {
            "allow-origin": "https://shop.example",
            "allow-credentials": "true",
            "allow-methods": "GET, PUT",
            "allow-headers": "Authorization, Content-Type, X-Cart",
            "max-age": "60",
        }
        assert upstream.requests == []


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "http://shop.example",
        "https://shop.example:444",
        "https://shop.example.evil.example",
        "https://xshop.example",
        "null",
        "*",
        "",
        "https://shop.example https://evil.example",
        "https://shop.example\xff",
    ],
)
async def test_pages_of_other_origins_are_allowed_nothing(
    issuer: Issuer, upstream: RecordingUpstream, origin: str
) -> None:
    async with opened(issuer, upstream, *CORS) as it:
        token = bearer(issuer.token())
        for answer in (
            await it.request("/shop", f"Origin: {origin}", ASKS, method="OPTIONS"),
            await it.request("/shop", f"Origin: {origin}", token),
        ):
            assert answer.status in {200, 204}
            assert (cors_fields(answer), answer.values("vary")) == ({}, ["origin"])


async def test_preflights_where_there_is_nothing_to_allow(issuer: Issuer, upstream: RecordingUpstream) -> None:
    async with opened(issuer, upstream, *CORS) as it:
        assert (await it.request("/nothing", SHOP, ASKS, method="OPTIONS")).status == 404
        wrong = "Access-Control-Request-Method: DELETE"
        assert (await it.request("/shop", SHOP, wrong, method="OPTIONS")).status == 405
        for origin in (SHOP, OTHER_PAGE):
            assert cors_fields(await it.request("/plain", origin, ASKS, method="OPTIONS")) == {}
        assert upstream.requests == []


async def test_a_preflight_is_for_the_route_whose_fields_the_browser_announces(
    issuer: Issuer, upstream: RecordingUpstream
) -> None:
    made = (
        "name: %s, match: {path: %s, methods: [GET]%s}, upstream: up, access: public,"
        " cors: {origins: ['*'], max_age: %d}"
    )
    beta = ", headers: {X-Beta: '1'}"
    routes = (made % ("b", "/shop", beta, 1), made % ("plain", "/shop", "", 2), made % ("c", "/beta", beta, 3))
    asks, announces = "Access-Control-Request-Method: GET", "Access-Control-Request-Headers: x-other, x-beta"
    async with opened(issuer, upstream, *routes) as it:
        assert cors_fields(await it.request("/shop", SHOP, asks, announces, method="OPTIONS"))["max-age"] == "1"
        assert cors_fields(await it.request("/shop", SHOP, asks, method="OPTIONS"))["max-age"] == "2"
        assert cors_fields(await it.request("/beta", SHOP, asks, announces, method="OPTIONS"))["max-age"] == "3"
        assert (await it.request("/beta", SHOP, asks, method="OPTIONS")).status == 404


async def test_options_that_asks_for_no_method_is_an_ordinary_request(
    issuer: Issuer, upstream: RecordingUpstream
) -> None:
    async with opened(issuer, upstream, *CORS) as it:
        assert (await it.request("/plain", SHOP, method="OPTIONS")).status == 200
        assert (await it.request("/plain", ASKS, method="OPTIONS")).status == 200
        assert [each.method for each in upstream.requests] == ["OPTIONS", "OPTIONS"]
        assert (await it.request("/shop", SHOP, method="OPTIONS")).status == 405


async def test_an_upstream_has_no_say_about_pages(issuer: Issuer, upstream: RecordingUpstream) -> None:
    upstream.response = (
        b"HTTP/1.1 200 OK\r\nAccess-Control-Allow-Origin: https://evil.example\r\nACCESS-CONTROL-EXPOSE-HEADERS: *\r\n"
        b"Access-Control-Allow-Credentials: true\r\nAccess-Control-Max-Age: 9\r\n"
        b"X-Total: 1\r\nContent-Length: 0\r\n\r\n"
    )
    async with opened(issuer, upstream, *CORS) as it:
        answer = await it.request("/shop", SHOP, bearer(issuer.token()))
        assert cors_fields(answer) == {
            "allow-origin": "https://shop.example",
            "allow-credentials": "true",
            "expose-headers": "X-Request-ID, X-Total",
        }
        assert answer.values("x-total") == ["1"]
        assert cors_fields(await it.request("/shop", OTHER_PAGE, bearer(issuer.token()))) == {}
        assert cors_fields(await it.request("/open", OTHER_PAGE)) == {
            "allow-origin": "*",
            "expose-headers": "X-Request-ID",
        }
        # Of a route that says nothing, the service may.
        assert cors_fields(await it.request("/plain", SHOP))["allow-origin"] == "https://evil.example"


async def test_an_answer_to_no_page_says_that_it_would_be_another_one_for_a_page(
    issuer: Issuer, upstream: RecordingUpstream
) -> None:
    async with opened(issuer, upstream, *CORS) as it:
        assert (await it.request("/shop", bearer(issuer.token()))).values("vary") == ["origin"]


async def test_pages_may_read_errors_too(issuer: Issuer, upstream: RecordingUpstream) -> None:
    async with opened(issuer, upstream, *CORS) as it:
        refused = await it.request("/shop", SHOP)
        upstream.response = b"nonsense\r\n\r\n"
        failed = await it.request("/shop", SHOP, bearer(issuer.token()))
        for answer, status in [(refused, 401), (failed, 502)]:
            assert answer.status == status
            assert cors_fields(answer)["allow-origin"] == "https://shop.example"
            assert "X-Request-ID" in cors_fields(answer)["expose-headers"]


def test_credentials_are_not_for_all_pages(tmp_path: Path) -> None:
    for cors in ('{origins: ["*"], credentials: true}', '{origins: ["*", "https://a.test"], credentials: true}'):
        text = f"name: a, match: {{path: /a, methods: [GET]}}, upstream: up, access: public, cors: {cors}"
        assert "name the origins" in mistakes(tmp_path, text)


@pytest.mark.parametrize("origin", ["null", "shop.example", "https://shop.example/", "https://*.shop.example", ""])
def test_what_is_no_origin_is_an_error(tmp_path: Path, origin: str) -> None:
    cors = f'cors: {{origins: ["{origin}"]}}'
    text = f"name: a, match: {{path: /a, methods: [GET]}}, upstream: up, access: public, {cors}"
    assert "gateway.yaml:4: " in mistakes(tmp_path, text)


# Retries.


class Script:
    """Answers with one thing after the other; None closes the connection."""

    def __init__(self, *parts: bytes | None) -> None:
        self.left = list(parts)

    async def __call__(self, _: ReceivedRequest, writer: asyncio.StreamWriter) -> None:
        part = self.left.pop(0)
        if part is None:
            writer.close()
        else:
            writer.write(part)


METHODS = "methods: [GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS]"
RETRYING = (
    (
        f"name: again, match: {{path: /again, {METHODS}}}, upstream: up, access: public,"
        " retries: {attempts: 2, statuses: [503]}"
    ),
    f"name: once, match: {{path: /once, {METHODS}}}, upstream: up, access: public",
)


@pytest.mark.parametrize(
    ("parts", "status", "count"),
    [
        ((OK,), 200, 1),
        ((BUSY, OK), 200, 2),
        ((BUSY, BUSY, OK), 200, 3),
        ((BUSY, BUSY, BUSY), 503, 3),
        ((None, BUSY, OK), 200, 3),
        ((None, None, OK), 200, 3),
        ((None, None, None), 502, 3),
        ((OK.replace(b"200 OK", b"500 x"),), 500, 1),
        ((OK.replace(b"200 OK", b"404 x"),), 404, 1),
    ],
)
async def test_a_request_is_sent_again_as_often_as_the_route_says(
    issuer: Issuer, upstream: RecordingUpstream, parts: Iterable[bytes | None], status: int, count: int
) -> None:
    upstream.response = Script(*parts)
    async with opened(issuer, upstream, *RETRYING) as it:
        answer = await it.request("/again")
        assert (answer.status, answer.is_complete, len(upstream.requests)) == (status, True, count)
        assert answer.values("content-length") == [str(len(answer.body))]
        assert len({each.head for each in upstream.requests}) == 1


@pytest.mark.parametrize(
    ("method", "body", "count"),
    [
        ("GET", b"", 2),
        ("HEAD", b"", 2),
        ("OPTIONS", b"", 2),
        ("PUT", b"", 2),
        ("DELETE", b"", 2),
        ("POST", b"", 1),
        ("PATCH", b"", 1),
        ("PUT", b"x", 1),
        ("GET", b"x", 1),
    ],
)
async def test_only_what_may_be_sent_twice_is(
    issuer: Issuer, upstream: RecordingUpstream, method: str, body: bytes, count: int
) -> None:
    empty = b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"
    upstream.response = Script(empty, empty.replace(b"503 Busy", b"200 OK"))
    async with opened(issuer, upstream, *RETRYING) as it:
        answer = await it.request(
            "/again", *([f"Content-Length: {len(body)}"] if body else []), method=method, body=body
        )
        assert (answer.status, len(upstream.requests)) == (200 if count == 2 else 503, count)


async def test_a_route_that_says_nothing_sends_once(issuer: Issuer, upstream: RecordingUpstream) -> None:
    # A connection that was used before may have been closed for another reason.
    upstream.response = Script(BUSY, None, None)
    async with opened(issuer, upstream, *RETRYING) as it:
        assert [(await it.request("/once")).status for _ in range(2)] == [503, 502]
        assert len(upstream.requests) == 3


async def test_an_upstream_that_is_down_gets_few_requests_again(
    issuer: Issuer, upstream: RecordingUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ostiary_gateway.upstream.cluster.MAX_RETRY_BUDGET", 3.0)
    upstream.response = BUSY
    async with opened(issuer, upstream, *RETRYING) as it:
        for _ in range(50):
            assert (await it.request("/again")).status == 503
        # A fifth of them, and what was left to begin with.
        assert 50 + 10 <= len(upstream.requests) <= 50 + 10 + 3


async def test_nothing_is_sent_again_when_the_time_is_over(
    issuer: Issuer, upstream: RecordingUpstream, clock: Clock
) -> None:
    async def wait(request: ReceivedRequest, _: asyncio.StreamWriter) -> None:
        clock.skip(0.3)
        await request.connection.wait_closed()

    upstream.response = wait
    route = (
        "name: a, match: {path: /a, methods: [GET]}, upstream: up, access: public, retries: {attempts: 3},"
        " timeouts: {total: 0.2}"
    )
    async with opened(issuer, upstream, route) as it:
        assert (await it.request("/a")).status == 504
        assert len(upstream.requests) == 1


async def test_who_waits_too_long_for_a_connection_does_not_get_two(
    issuer: Issuer, upstream: RecordingUpstream, clock: Clock
) -> None:
    goes_on = asyncio.Event()

    def times_again() -> int:
        return [each.target for each in upstream.requests].count("/again")

    async def wait(request: ReceivedRequest, writer: asyncio.StreamWriter) -> None:
        await goes_on.wait()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndo")
        if request.target == "/again":
            await settled(times_again)
        writer.write(b"ne")

    upstream.response = wait
    route = (
        "name: again, match: {path: /again, methods: [GET]}, upstream: up, access: public, retries: {attempts: 1},"
        " timeouts: {connect: 0.2}"
    )
    async with opened(issuer, upstream, route, RETRYING[1]) as it:
        it.limit_connections(2)
        others = [asyncio.create_task(it.request("/once")) for _ in range(2)]
        await until(lambda: len(upstream.requests) == 2)
        line = await it.connect()
        line.send(b"GET /again HTTP/1.1\r\nHost: gw\r\nConnection: close\r\n\r\n")
        (pool,) = it.gateway.runtime.current.upstreams["up"].pools
        await until(lambda: pool._queue._waiting)
        clock.skip(0.3)
        with suppress(TimeoutError):
            await until(lambda: len(pool._queue._waiting) > 1 or line.is_closed)
        goes_on.set()
        assert [answer.body for answer in await asyncio.gather(*others)] == [b"done"] * 2
        data = await line.wait_closed()
        assert data.count(b"HTTP/1.1 ") == 1, data
        assert times_again() <= 1


# Shares.


async def test_several_upstreams_get_their_shares(
    issuer: Issuer, upstream: RecordingUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ostiary_gateway.runtime.random", random.Random(11))  # noqa: S311 - the same each time
    with short_directory() as directory:
        async with RecordingUpstream(directory / "canary") as canary:
            route = "name: a, match: {path: /a, methods: [GET]}, upstream: {up: 9, canary: 3}, access: public"
            more = f'  canary: {{url: "{canary.url}"}}\n'
            async with opened(issuer, upstream, route, upstreams=more) as it:
                for _ in range(400):
                    assert (await it.client.get("/a")).status_code == 200
                assert len(upstream.requests) + len(canary.requests) == 400
                assert 75 < len(canary.requests) < 125


def test_shares_are_of_upstreams_that_are_there(tmp_path: Path) -> None:
    for shares in ("{up: 1, other: 1}", "{up: 1}", "{up: 0, up2: 1}"):
        text = f"name: a, match: {{path: /a, methods: [GET]}}, upstream: {shares}, access: public"
        assert "gateway.yaml:4: " in mistakes(tmp_path, text)


# Time.


def dripping(clock: Clock, *, head: bool) -> Callable[[ReceivedRequest, asyncio.StreamWriter], asyncio.Future[None]]:
    """Return an answer of which a little comes all the time, and that never ends."""

    async def drip(request: ReceivedRequest, writer: asyncio.StreamWriter) -> None:
        lost = asyncio.ensure_future(request.connection.wait_closed())
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" if head else b"HTTP/1.1 200 OK\r\n")
        while not lost.done():
            writer.write(b"x" if head else b"X: 1\r\n")
            clock.skip(0.02)
            await asyncio.wait({lost}, timeout=0.001)

    return lambda request, writer: asyncio.ensure_future(drip(request, writer))


def timed(timeouts: str) -> str:
    return f"name: a, match: {{path: /a, methods: [GET]}}, upstream: up, access: public, timeouts: {timeouts}"


async def ask_briefly(harness: GatewayHarness) -> ReceivedResponse:
    """Ask, and see that it does not take three seconds."""
    async with asyncio.timeout(3):
        return await harness.request("/a")


@pytest.mark.parametrize("timeouts", ["{total: 0.3}", "{total: 0.3, first_byte: 5, idle: 5}"])
async def test_an_answer_has_to_end_in_all_of_its_time(
    issuer: Issuer, upstream: RecordingUpstream, clock: Clock, timeouts: str
) -> None:
    upstream.response = dripping(clock, head=True)
    async with opened(issuer, upstream, timed(timeouts)) as it:
        answer = await ask_briefly(it)
        assert (answer.status, answer.is_complete) == (200, False)
        assert answer.body
        await until(lambda: upstream.connections[0].is_closed)


@pytest.mark.parametrize("timeouts", ["{first_byte: 0.3}", "{total: 0.3}"])
async def test_a_head_has_to_come_in_time(
    issuer: Issuer, upstream: RecordingUpstream, clock: Clock, timeouts: str
) -> None:
    upstream.response = dripping(clock, head=False)
    async with opened(issuer, upstream, timed(timeouts)) as it:
        answer = await ask_briefly(it)
        assert (answer.status, answer.code) == (504, "upstream_timeout")


async def test_an_answer_that_goes_on_may_take_as_long_as_it_likes(
    issuer: Issuer, upstream: RecordingUpstream, clock: Clock
) -> None:
    upstream.response = dripping(clock, head=True)
    async with opened(issuer, upstream, timed("{idle: 0.3}")) as it:
        line = await it.connect()
        line.send(b"GET /a HTTP/1.1\r\nHost: gw\r\n\r\n")
        # 0.8 seconds.
        await line.wait_for(b"x", 40)
        assert not line.is_closed


async def test_an_answer_that_does_not_go_on_is_broken_off(
    issuer: Issuer, upstream: RecordingUpstream, clock: Clock
) -> None:
    upstream.response = respond_and_stall(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\npart")
    async with opened(issuer, upstream, timed("{idle: 0.2}")) as it:
        line = await it.connect()
        line.send(b"GET /a HTTP/1.1\r\nHost: gw\r\n\r\n")
        await line.wait_for(b"part")
        clock.skip(0.3)
        (answer,) = parse_responses(await line.wait_closed())
        assert (answer.body, answer.is_complete) == (b"part", False)


# Who asks.


@pytest.mark.parametrize(
    ("peer", "lines", "client", "scheme"),
    [
        ("192.0.2.1", [], "192.0.2.1", "http"),
        ("192.0.2.1", ["X-Forwarded-For: 203.0.113.5", "X-Forwarded-Proto: https"], "192.0.2.1", "http"),
        ("10.0.0.1", ["X-Forwarded-For: 203.0.113.5", "X-Forwarded-Proto: https"], "203.0.113.5", "https"),
        ("10.0.0.1", ["X-Forwarded-For: 203.0.113.5"], "203.0.113.5", "http"),
        ("10.0.0.1", ["X-Forwarded-For: 1.1.1.1, 203.0.113.5, 10.0.0.2"], "203.0.113.5", "http"),
        ("10.0.0.1", ["X-Forwarded-For: 1.1.1.1", "X-Forwarded-For: 203.0.113.5"], "203.0.113.5", "http"),
        ("10.0.0.1", ["X-Forwarded-For: nonsense\\r, unknown"], "10.0.0.1", "http"),
        ("10.0.0.1", ["X-Forwarded-Proto: HTTPS"], "10.0.0.1", "https"),
        ("10.0.0.1", ["X-Forwarded-Proto: https, http"], "10.0.0.1", "http"),
        ("10.0.0.1", ["X-Forwarded-Proto: http, https"], "10.0.0.1", "https"),
        ("10.0.0.1", ["X-Forwarded-Proto: https", "X-Forwarded-Proto: http"], "10.0.0.1", "http"),
        ("10.0.0.1", ["X-Forwarded-For: 203.0.113.5:1234"], "203.0.113.5", "http"),
        ("10.0.0.1", ["X-Forwarded-For: 1.1.1.1, [2001:db8::7]:80, 10.0.0.2:99"], "2001:db8::7", "http"),
        ("10.0.0.1", ["X-Forwarded-For: [2001:db8::7]"], "2001:db8::7", "http"),
        ("10.0.0.1", ["X-Forwarded-For: 203.0.113.5:http"], "10.0.0.1", "http"),
        ("10.0.0.1", ["X-Forwarded-Proto: gopher"], "10.0.0.1", "http"),
        ("::ffff:10.0.0.1", ["X-Forwarded-For: 2001:db8::7"], "2001:db8::7", "http"),
    ],
)
async def test_only_trusted_proxies_say_who_asks(
    issuer: Issuer, upstream: RecordingUpstream, peer: str, lines: list[str], client: str, scheme: str
) -> None:
    async with opened(
        issuer, upstream, "name: a, match: {path: /a, methods: [GET]}, upstream: up, access: public"
    ) as it:
        use_proxies(it, "10.0.0.0/8")
        forged = ["X-Real-IP: 1.2.3.4", "Forwarded: for=1.2.3.4", "X-Forwarded-Host: evil.example"]
        assert (await it.request("/a", *lines, *forged, peer=peer)).status == 200
        last = upstream.last
        assert (last.values("x-forwarded-for"), last.values("x-forwarded-proto")) == ([client], [scheme])
        assert (last.values("x-real-ip"), last.values("forwarded")) == ([], [])
        assert last.values("x-forwarded-host") == ["gw"]


# The log.


LOGGED = (
    'name: a, match: {path: "/a/{id}", methods: [GET, POST]}, upstream: up, access: authenticated',
    "name: p, match: {path: /p, methods: [GET]}, upstream: up, access: public",
)


async def test_a_line_says_what_was_decided_and_not_who_it_was(issuer: Issuer, upstream: RecordingUpstream) -> None:
    async with opened(issuer, upstream, *LOGGED) as it:
        log, token = CapturedAccessLog(it), issuer.token(subject="ada@example.org")
        await it.request(
            f"/a/secret-id?access_token={token}", bearer(token), "X-Request-ID: id-1", f"Cookie: s={token}"
        )
        await it.request("/a/7", bearer(token[:-4] + "AAAA"))
        await it.request("/nothing/" + token.replace(".", "-"))
        (line, refused, lost) = log.lines
        timed = {"ms", "upstream_ms", "timestamp"}
        assert {name: value for name, value in line.items() if name not in timed} == {
            "method": "GET",
            "route": "/a/{id}",
            "status": 200,
            "decision": "allowed",
            "client": "unknown",
            "subject": pseudonym("ada@example.org"),
            "request_id": "id-1",
            "event": "request",
            "level": "info",
            "logger": "access",
            "service": "gateway",
        }
        assert timed <= line.keys()
        assert (refused["status"], refused["subject"], refused["route"]) == (401, "", "/a/{id}")
        assert refused["decision"] not in {"allowed", ""}
        assert (lost["status"], lost["decision"], lost["route"]) == (404, "not_found", "unmatched")
        text = log.text
        for part in (token, token.replace(".", "-"), token.split(".")[2][:20], "ada@", "secret-id", "Bearer"):
            assert part not in text


async def test_a_line_says_who_was_refused(issuer: Issuer, upstream: RecordingUpstream) -> None:
    route = "name: a, match: {path: /a, methods: [GET]}, upstream: up, access: {roles: [admin]}"
    async with opened(issuer, upstream, route) as it:
        log = CapturedAccessLog(it)
        assert (await it.request("/a", bearer(issuer.token(subject="eve")))).status == 403
        assert upstream.requests == []
        (line,) = log.lines
        assert (line["status"], line["subject"]) == (403, pseudonym("eve"))


@pytest.mark.parametrize("kind", ["json", "text"])
async def test_nothing_that_is_sent_breaks_a_line(issuer: Issuer, upstream: RecordingUpstream, kind: LogFormat) -> None:
    async with opened(issuer, upstream, *LOGGED) as it:
        use_proxies(it, "10.0.0.0/8")
        log = CapturedAccessLog(it, kind)
        hostile = [
            '/"',
            "/%22,%22status%22:1",
            "/p?\"}\\n{'",
            "/%0A%7B",
            "/%s%d",
            "/p?%(x)s",
            "/'$(id)",
            '/p?","status":1',
        ]
        for target in hostile:
            await it.request(target)
        for method in ("BREW", "!#$%&'*+-.^_`|~", "get", "A" * 300):
            await it.request("/p", method=method)
        for name in ('"', 'x","status":1,"y":"', "a b", "%s", "\xe4", "a" * 65, "", "{}"):
            await it.request("/p", f"X-Request-ID: {name}")
        for said in ('"', "1.1.1.1%s", 'fe80::1%","x":"', "a, b"):
            await it.request("/p", f"X-Forwarded-For: {said}", peer="10.0.0.1")
        expected = len(hostile) + 4 + 8 + 4
        if kind == "text":
            assert len(log.text.splitlines()) == expected
            assert all(" request_id=" in each and "[access]" in each for each in log.text.splitlines())
            return
        lines = log.lines
        assert len(lines) == expected
        assert {line["method"] for line in lines} == {"GET", "other"}
        assert {line["route"] for line in lines} <= {"/p", "unmatched"}
        assert len({line["request_id"] for line in lines}) == expected
        assert len({frozenset(line) for line in lines}) == 1


async def test_an_answer_that_was_broken_off_is_logged_as_that(issuer: Issuer, upstream: RecordingUpstream) -> None:
    upstream.response = respond_and_close(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npart")
    async with opened(issuer, upstream, *LOGGED) as it:
        log = CapturedAccessLog(it)
        assert not (await it.request("/p")).is_complete
        (line,) = log.lines
        assert (line["status"], line["decision"]) == (200, "broken_off")


async def test_a_log_that_cannot_be_written_stops_nobody(issuer: Issuer, upstream: RecordingUpstream) -> None:
    async with opened(issuer, upstream, *LOGGED) as it:
        CapturedAccessLog(it).stream.close()
        assert (await it.request("/p")).status == 200
        it.gateway._access_log.flush()
        assert (await it.request("/p")).status == 200
