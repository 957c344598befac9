"""Rate limits of routes, by address, subject and client."""

import re
from pathlib import Path

from harness import (
    RecordingUpstream,
)
from route_files import bearer, errors_of, open_gateway, trust_proxies

from ostiary.testing import Issuer

LIMITED = (
    (
        "name: address, match: {path: /address, methods: [GET]}, upstream: up, access: public,"
        " rate_limits: [{by: address, requests: 2, seconds: 1000}]"
    ),
    (
        "name: page, match: {path: /page, methods: [GET]}, upstream: up, access: public, cors: {origins:"
        ' ["https://a.example"]}, rate_limits: [{by: address, requests: 2, seconds: 1000}]'
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


async def test_each_address_has_its_own_limit(issuer: Issuer, upstream: RecordingUpstream) -> None:
    async with open_gateway(issuer, upstream, *LIMITED) as it:
        assert [(await it.request("/address", peer="192.0.2.1")).status for _ in range(3)] == [200, 200, 429]
        assert (await it.request("/address", peer="192.0.2.2")).status == 200
        refused = await it.request("/address", peer="192.0.2.1")
        assert (refused.status, refused.code) == (429, "too_many_requests")
        assert 400 < int(refused.values("retry-after")[0]) <= 500
        # An untrusted peer does not set the client.
        assert (await it.request("/address", "X-Forwarded-For: 192.0.2.77", peer="192.0.2.1")).status == 429
        assert len(upstream.requests) == 3


async def test_clients_behind_a_trusted_proxy_have_their_own_limits(
    issuer: Issuer, upstream: RecordingUpstream
) -> None:
    async with open_gateway(issuer, upstream, *LIMITED) as it:
        trust_proxies(it, "10.0.0.0/8")
        for client in ("192.0.2.1", "192.0.2.2:4711", "2001:db8::1", "[2001:db8:1::1]:443"):
            forwarded = f"X-Forwarded-For: 198.51.100.9, {client}"
            assert [(await it.request("/address", forwarded, peer="10.1.1.1")).status for _ in range(3)] == [
                200,
                200,
                429,
            ]


async def test_an_ipv6_network_has_one_limit(issuer: Issuer, upstream: RecordingUpstream) -> None:
    async with open_gateway(issuer, upstream, *LIMITED) as it:
        peers = ["2001:db8::1", "2001:db8::2:3:4:5", "2001:db8::ffff", "2001:db8:0:1::1"]
        assert [(await it.request("/address", peer=peer)).status for peer in peers] == [200, 200, 429, 200]


async def test_preflights_count_but_are_answered(issuer: Issuer, upstream: RecordingUpstream) -> None:
    """So that a page gets to read the 429."""
    async with open_gateway(issuer, upstream, *LIMITED) as it:
        origin, asks = "Origin: https://a.example", "Access-Control-Request-Method: GET"
        answers = [await it.request("/page", origin, asks, method="OPTIONS") for _ in range(3)]
        assert [answer.status for answer in answers] == [204, 204, 204]
        refused = await it.request("/page", origin)
        assert (refused.status, refused.values("access-control-allow-origin")) == (429, ["https://a.example"])
        assert upstream.requests == []


async def test_each_subject_and_client_has_its_own_limit(issuer: Issuer, upstream: RecordingUpstream) -> None:
    async with open_gateway(issuer, upstream, *LIMITED) as it:

        async def statuses(target: str, subject: str, client: str, count: int) -> list[int]:
            tokens = [issuer.token(subject=subject, claims={"client_id": client}) for _ in range(count)]
            return [(await it.request(target, bearer(token))).status for token in tokens]

        assert await statuses("/subject", "ada", "one", 2) == [200, 200]
        assert await statuses("/subject", "ada", "two", 1) == [429]
        assert await statuses("/subject", "bob", "one", 1) == [200]
        assert await statuses("/client", "ada", "one", 2) == [200, 200]
        assert await statuses("/client", "bob", "one", 1) == [429]
        assert await statuses("/client", "ada", "two", 1) == [200]


async def test_an_invalid_token_does_not_use_up_its_subjects_limit(issuer: Issuer, upstream: RecordingUpstream) -> None:
    async with open_gateway(issuer, upstream, *LIMITED) as it:
        forged = Issuer(issuer.issuer).token(subject="ada")
        for _ in range(5):
            assert (await it.request("/subject", bearer(forged))).status == 401
        assert (await it.request("/subject", bearer(issuer.token(subject="ada")))).status == 200
        # But all requests of an address count for the address.
        assert [(await it.request("/both")).status for _ in range(4)] == [401, 401, 401, 429]


def test_a_public_route_may_not_be_limited_by_token(tmp_path: Path) -> None:
    for by in ("subject", "client"):
        limits = f"rate_limits: [{{by: {by}, requests: 1, seconds: 1}}]"
        text = f"name: a, match: {{path: /a, methods: [GET]}}, upstream: up, access: public, {limits}"
        assert "a public route takes no tokens" in errors_of(tmp_path, text)


async def test_responses_tell_what_is_left(issuer: Issuer, upstream: RecordingUpstream) -> None:
    async with open_gateway(issuer, upstream, *LIMITED) as it:
        answers = [await it.request("/address") for _ in range(3)]
        assert [answer.status for answer in answers] == [200, 200, 429]
        assert [answer.values("ratelimit-policy") for answer in answers] == [['"address";q=2;w=1000']] * 3
        told = [answer.values("ratelimit")[0].partition(";t=") for answer in answers]
        assert [(left, 499 <= int(seconds) <= 500) for left, _, seconds in told] == [
            ('"address";r=1', True),
            ('"address";r=0', True),
            ('"address";r=0', True),
        ]
        assert answers[2].values("retry-after") == [told[2][2]]


async def test_each_limit_that_a_request_was_counted_by_is_told(issuer: Issuer, upstream: RecordingUpstream) -> None:
    policies = '"address";q=3;w=60, "subject";q=1;w=60'
    token = bearer(issuer.token(subject="ada"))
    async with open_gateway(issuer, upstream, *LIMITED) as it:
        for fields, status, told in (
            ((token,), 200, '"address";r=2, "subject";r=0'),
            # Nothing is known about the subject.
            ((), 401, '"address";r=1'),
            ((token,), 429, '"address";r=0, "subject";r=0'),
            ((token,), 429, '"address";r=0'),
        ):
            answer = await it.request("/both", *fields)
            assert (answer.status, answer.values("ratelimit-policy")) == (status, [policies])
            assert [re.sub(";t=[0-9]+", "", value) for value in answer.values("ratelimit")] == [told]


async def test_limits_of_one_kind_have_numbers(issuer: Issuer, upstream: RecordingUpstream) -> None:
    route = (
        "name: a, match: {path: /a, methods: [GET]}, upstream: up, access: public, rate_limits:"
        " [{by: address, requests: 10, seconds: 0.5}, {by: address, requests: 1000, seconds: 86400}]"
    )
    async with open_gateway(issuer, upstream, route) as it:
        answer = await it.request("/a")
        assert answer.values("ratelimit-policy") == ['"address-1";q=10, "address-2";q=1000;w=86400']
        assert answer.values("ratelimit") == ['"address-1";r=9;t=1, "address-2";r=999;t=87']


async def test_limits_of_an_upstream_are_told_as_well(issuer: Issuer, upstream: RecordingUpstream) -> None:
    upstream.response = (
        b'HTTP/1.1 200 OK\r\nRateLimit-Policy: "day";q=9;w=86400\r\nRateLimit: "day";r=3;t=60\r\n'
        b"Content-Length: 0\r\n\r\n"
    )
    plain = "name: plain, match: {path: /plain, methods: [GET]}, upstream: up, access: public"
    async with open_gateway(issuer, upstream, *LIMITED, plain) as it:
        answer = await it.request("/address")
        assert answer.values("ratelimit-policy") == ['"day";q=9;w=86400', '"address";q=2;w=1000']
        assert answer.values("ratelimit") == ['"day";r=3;t=60', '"address";r=1;t=500']
        assert (await it.request("/plain")).values("ratelimit") == ['"day";r=3;t=60']


async def test_routes_without_limits_tell_nothing(issuer: Issuer, upstream: RecordingUpstream) -> None:
    plain = "name: plain, match: {path: /plain, methods: [GET]}, upstream: up, access: public"
    async with open_gateway(issuer, upstream, plain) as it:
        for target in ("/plain", "/nothing"):
            answer = await it.request(target)
            assert (answer.values("ratelimit"), answer.values("ratelimit-policy")) == ([], [])
