"""Admission: requirements of the access token, the size of the head, and trusted proxies."""

from pathlib import Path

import pytest
import structlog.testing
from harness import (
    RecordingUpstream,
)
from route_files import bearer, errors_of, open_gateway, trust_proxies

from ostiary.testing import Issuer


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
async def test_claim_conditions_compare_type_and_value(
    issuer: Issuer, upstream: RecordingUpstream, condition: str, good: list[object], bad: list[object]
) -> None:
    access = f"access: {{claims: {{plan: {condition}}}}}"
    async with open_gateway(
        issuer, upstream, f"name: a, match: {{path: /a, methods: [GET]}}, upstream: up, {access}"
    ) as it:
        for value in good:
            assert (await it.request("/a", bearer(issuer.token(claims={"plan": value})))).status == 200, value
        count = len(upstream.requests)
        for value in [*bad, Issuer.REMOVED]:
            answer = await it.request("/a", bearer(issuer.token(claims={"plan": value})))
            assert (answer.status, answer.code) == (403, "insufficient_claims"), value
        assert (await it.request("/a")).status == 401
        assert len(upstream.requests) == count


@pytest.mark.parametrize(
    ("lines", "code"),
    [
        (["X-Version: 2", "X-Version: 2"], "repeated_field"),
        (["X-Version: 2", "Connection: X-Version"], "nominated_field"),
        # Also where the path takes a route without a condition: the service may look at the field as well.
        (["Connection: close, x-version"], "nominated_field"),
    ],
)
async def test_a_routing_field_reaches_the_service_once_or_not_at_all(
    issuer: Issuer, upstream: RecordingUpstream, lines: list[str], code: str
) -> None:
    route = "name: {name}, match: {{path: /a, methods: [GET]{headers}}}, upstream: up, access: public"
    routes = (route.format(name="a", headers=""), route.format(name="b", headers=', headers: {X-Version: "2"}'))
    async with open_gateway(issuer, upstream, *routes) as it:
        response = await it.request("/a", *lines)
        assert (response.status, response.code) == (400, code)
        assert upstream.requests == []
        assert (await it.request("/a", "X-Version: 2")).status == 200
        assert upstream.last.values("x-version") == ["2"]


async def test_the_debug_log_names_the_fields_that_a_request_loses(issuer: Issuer, upstream: RecordingUpstream) -> None:
    route = "name: a, match: {path: /a, methods: [GET]}, upstream: up, access: public, drop_headers: [X-Debug]"
    async with open_gateway(issuer, upstream, route) as it:
        with structlog.testing.capture_logs() as logged:
            await it.request("/a", "X-User-Id: hidden", "X-Debug: hidden", "Accept: */*", "X-Request-ID: r1")
            await it.request("/a", "Accept: */*")
    (event,) = [each for each in logged if each["event"] == "header fields dropped"]
    assert event == {
        "event": "header fields dropped",
        "log_level": "debug",
        "route": "a",
        "names": ["x-debug", "x-request-id", "x-user-id"],
        "request_id": "r1",
    }


async def test_all_claims_scopes_and_roles_are_required(issuer: Issuer, upstream: RecordingUpstream) -> None:
    access = "access: {scopes: [read], roles: [staff], claims: {plan: {equals: gold}, team: {equals: 1}}}"
    async with open_gateway(
        issuer, upstream, f"name: a, match: {{path: /a, methods: [GET]}}, upstream: up, {access}"
    ) as it:

        async def status(scope: str = "read", role: str = "staff", plan: str = "gold", team: int = 1) -> int:
            token = issuer.token(scopes=[scope], roles=[role], claims={"plan": plan, "team": team})
            return (await it.request("/a", bearer(token))).status

        assert await status() == 200
        assert [await status(scope="x"), await status(role="x"), await status(plan="x"), await status(team=2)] == [
            *[403] * 4
        ]


async def test_conditions_may_name_subject_and_client(issuer: Issuer, upstream: RecordingUpstream) -> None:
    async with open_gateway(
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
def test_an_invalid_condition_is_an_error_on_its_line(tmp_path: Path, condition: str) -> None:
    access = f"access: {{claims: {{x: {condition}}}}}"
    found = errors_of(tmp_path, f"name: a, match: {{path: /a, methods: [GET]}}, upstream: up, {access}")
    assert "gateway.yaml:4: " in found


async def test_a_head_over_the_routes_limit_gets_431(issuer: Issuer, upstream: RecordingUpstream) -> None:
    async with open_gateway(
        issuer,
        upstream,
        "name: a, match: {path: /a, methods: [GET]}, upstream: up, access: authenticated, limits: {header_bytes: 300}",
        "name: b, match: {path: /b, methods: [GET]}, upstream: up, access: public",
    ) as it:
        refused = await it.request("/a", "X-Pad: " + "x" * 300)
        assert (refused.status, refused.code) == (431, "head_too_large")
        long = await it.request("/a?" + "x" * 300)
        assert (long.status, long.code) == (414, "target_too_long")
        empty = len("GET /a HTTP/1.1\r\nHost: gw\r\nConnection: close\r\nX-Pad: \r\n\r\n")
        assert (await it.request("/a", "X-Pad: " + "x" * (300 - empty))).status == 401
        assert (await it.request("/a", "X-Pad: " + "x" * (301 - empty))).status == 431
        assert (await it.request("/b", "X-Pad: " + "x" * 300)).status == 200


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
async def test_only_trusted_proxies_set_client_and_scheme(
    issuer: Issuer, upstream: RecordingUpstream, peer: str, lines: list[str], client: str, scheme: str
) -> None:
    async with open_gateway(
        issuer, upstream, "name: a, match: {path: /a, methods: [GET]}, upstream: up, access: public"
    ) as it:
        trust_proxies(it, "10.0.0.0/8")
        forged = ["X-Real-IP: 1.2.3.4", "Forwarded: for=1.2.3.4"]
        assert (await it.request("/a", *lines, *forged, peer=peer)).status == 200
        last = upstream.last
        assert (last.values("x-forwarded-for"), last.values("x-forwarded-proto")) == ([client], [scheme])
        node = f'"[{client}]"' if ":" in client else client
        assert (last.values("x-real-ip"), last.values("forwarded")) == ([], [f"for={node};host=gw;proto={scheme}"])
        assert last.values("x-forwarded-host") == ["gw"]
