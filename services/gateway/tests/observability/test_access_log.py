"""The access log: what a line has, and what it never has."""

import pytest
from harness import (
    CapturedAccessLog,
    RecordingUpstream,
    respond_and_close,
)
from route_files import bearer, open_gateway, trust_proxies

from ostiary.testing import Issuer
from ostiary_chassis.logs import LogFormat
from ostiary_gateway.observability.access_log import pseudonym

LOGGED = (
    'name: a, match: {path: "/a/{id}", methods: [GET, POST]}, upstream: up, access: authenticated',
    "name: p, match: {path: /p, methods: [GET]}, upstream: up, access: public",
)


async def test_a_line_has_the_decision_and_no_identity(issuer: Issuer, upstream: RecordingUpstream) -> None:
    async with open_gateway(issuer, upstream, *LOGGED) as it:
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


async def test_a_rejected_request_is_logged_with_its_subject(issuer: Issuer, upstream: RecordingUpstream) -> None:
    route = "name: a, match: {path: /a, methods: [GET]}, upstream: up, access: {roles: [admin]}"
    async with open_gateway(issuer, upstream, route) as it:
        log = CapturedAccessLog(it)
        assert (await it.request("/a", bearer(issuer.token(subject="eve")))).status == 403
        assert upstream.requests == []
        (line,) = log.lines
        assert (line["status"], line["subject"]) == (403, pseudonym("eve"))


@pytest.mark.parametrize("kind", ["json", "text"])
async def test_hostile_input_does_not_break_a_line(
    issuer: Issuer, upstream: RecordingUpstream, kind: LogFormat
) -> None:
    async with open_gateway(issuer, upstream, *LOGGED) as it:
        trust_proxies(it, "10.0.0.0/8")
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


async def test_an_aborted_response_is_logged_as_such(issuer: Issuer, upstream: RecordingUpstream) -> None:
    upstream.response = respond_and_close(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npart")
    async with open_gateway(issuer, upstream, *LOGGED) as it:
        log = CapturedAccessLog(it)
        assert not (await it.request("/p")).is_complete
        (line,) = log.lines
        assert (line["status"], line["decision"]) == (200, "response_aborted")
