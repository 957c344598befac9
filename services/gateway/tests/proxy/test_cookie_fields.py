"""What responses say about cookies of browser sessions."""

import pytest
from harness import RecordingUpstream
from harness.sessions import SESSION, TOKEN, open_sessions

from ostiary.testing import Issuer
from ostiary_gateway.access.rules import COUNTED, FROM_ISSUER, SESSIONS, UNCOUNTED, VARIES
from ostiary_gateway.http1.fields import with_member
from ostiary_gateway.http1.parser import parse_response
from ostiary_gateway.http1.serializer import lines
from ostiary_gateway.proxy.cookie_fields import lines_to_add, may_set_cookie, with_cookie_rules

ROUTES = (
    "name: mine, match: {path: /mine, methods: [GET]}, upstream: up, access: authenticated",
    """name: shared, match: {path: /shared, methods: [GET]}, upstream: up, access: authenticated,
     cors: {origins: ["https://app.gw"], credentials: true}""",
    "name: open, match: {path: /open, methods: [GET]}, upstream: up, access: public",
    "name: me, match: {path: /me, methods: [GET]}, upstream: auth, access: optional",
)
OURS = (SESSION, TOKEN, "__Host-ostiary-device", "ostiary-token-8080", "__HOST-Ostiary-Session")


def changed(*given: str, rules: int, status: int = 200) -> list[str]:
    head = "\r\n".join([f"HTTP/1.1 {status} ", *given, "", ""]).encode()
    answer = parse_response(head, "GET")
    return [
        f"{name.decode()}: {value.decode('latin-1')}" for name, value in with_cookie_rules(answer, answer.fields, rules)
    ]


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([], ["vary: Cookie", "cache-control: private"]),
        (["Vary: Accept"], ["vary: Accept, Cookie", "cache-control: private"]),
        (["Vary: Accept", "Vary: Origin"], ["vary: Accept, Origin, Cookie", "cache-control: private"]),
        (["Vary: cookie"], ["vary: cookie", "cache-control: private"]),
        (["Vary: *"], ["vary: *", "cache-control: private"]),
        (["Vary:"], ["vary: Cookie", "cache-control: private"]),
        (["Cache-Control: max-age=60"], ["vary: Cookie", "cache-control: max-age=60, private"]),
        (["Cache-Control: no-store"], ["vary: Cookie", "cache-control: no-store, private"]),
        (["Cache-Control: Private"], ["cache-control: Private", "vary: Cookie"]),
        (["Cache-Control: max-age=1, PUBLIC"], ["cache-control: max-age=1, PUBLIC", "vary: Cookie"]),
        (["Cache-Control: s-maxage=60"], ["cache-control: s-maxage=60", "vary: Cookie"]),
        (["Cache-Control: x-public"], ["vary: Cookie", "cache-control: x-public, private"]),
        (['Cache-Control: private="set-cookie"'], ["vary: Cookie", 'cache-control: private="set-cookie", private']),
    ],
)
def test_caches_are_told_that_a_response_is_one_persons(lines: list[str], expected: list[str]) -> None:
    assert changed(*lines, rules=SESSIONS | VARIES | COUNTED) == expected


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("X: y", ["x: y", "cache-control: no-store"]),
        ("Cache-Control: max-age=60", ["cache-control: max-age=60, no-store"]),
        ("Cache-Control: public, max-age=60", ["cache-control: public, max-age=60"]),
        ("Cache-Control: no-store", ["cache-control: no-store"]),
    ],
)
def test_what_another_sites_page_gets_is_kept_nowhere(line: str, expected: list[str]) -> None:
    assert changed(line, rules=SESSIONS | UNCOUNTED) == expected


def test_responses_without_a_session_stay_public() -> None:
    assert changed("Cache-Control: max-age=60", rules=SESSIONS | VARIES) == [
        "cache-control: max-age=60",
        "vary: Cookie",
    ]
    assert changed("Cache-Control: max-age=60", rules=SESSIONS) == ["cache-control: max-age=60"]
    assert changed("Set-Cookie: __Host-ostiary-token=x", rules=0) == ["set-cookie: __Host-ostiary-token=x"]


@pytest.mark.parametrize("name", [*OURS, "\xa0" + SESSION, "=" + SESSION, "ostiary-session-8080 "])
def test_only_the_auth_service_sets_our_cookies(name: str) -> None:
    lines = ("Set-Cookie: a=b", f"Set-Cookie: {name}=x; Path=/", "Set-Cookie: c=d")
    others = ["set-cookie: a=b", "set-cookie: c=d"]
    assert changed(*lines, rules=SESSIONS) == others
    assert len(changed(*lines, rules=SESSIONS | FROM_ISSUER)) == 3
    assert changed(*lines, rules=SESSIONS | FROM_ISSUER, status=304) == others
    assert changed(*lines, rules=SESSIONS | FROM_ISSUER, status=103) == others
    assert changed("Cache-Control: public", *lines, rules=SESSIONS | FROM_ISSUER)[1:] == others


@pytest.mark.parametrize(
    ("status", "line", "expected"),
    [
        (200, "X: y", True),
        (401, "Cache-Control: no-store", True),
        (304, "X: y", False),
        (103, "X: y", False),
        (101, "X: y", False),
        (200, "Cache-Control: public", False),
        (200, "Cache-Control: max-age=1,s-maxage=2", False),
        (200, "CDN-Cache-Control: max-age=60", False),
        (200, "Example-CDN-Cache-Control: max-age=60", False),
        (200, "CDN-Cache-Control: private, max-age=60", True),
        (200, "CDN-Cache-Control: no-store", True),
        (200, "Cache-Control: no-store\r\nCDN-Cache-Control: max-age=60", False),
        (200, "Surrogate-Control: max-age=60", False),
        (200, "X-Accel-Expires: 60", False),
    ],
)
def test_some_responses_set_no_cookie(status: int, line: str, *, expected: bool) -> None:
    assert may_set_cookie(parse_response(f"HTTP/1.1 {status} \r\n{line}\r\n\r\n".encode(), "GET")) is expected


@pytest.mark.parametrize("rules", range(32))
@pytest.mark.parametrize("line", ["X: y", "Vary: A", "Cache-Control: max-age=1", "Set-Cookie: a=b"])
@pytest.mark.parametrize("status", [200, 304, 103])
def test_what_is_only_added_is_the_same(rules: int, line: str, status: int) -> None:
    rules |= SESSIONS
    answer = parse_response(f"HTTP/1.1 {status} \r\n{line}\r\n\r\n".encode(), "GET")
    added = lines_to_add(answer, rules)
    if added is None:
        assert status == 103 or line != "X: y"
    else:
        assert lines([*answer.fields]) + added == lines(with_cookie_rules(answer, answer.fields, rules))


def test_interim_responses_are_not_about_caches() -> None:
    assert changed("Link: x", rules=SESSIONS | VARIES | COUNTED, status=103) == ["link: x"]


def test_a_member_is_added_once() -> None:
    fields = with_member([(b"vary", b"a")], b"vary", b"Cookie")
    assert with_member(fields, b"vary", b"Cookie") is fields


async def test_a_service_cannot_log_anybody_in(issuer: Issuer, upstream: RecordingUpstream) -> None:
    async with open_sessions(issuer, upstream, *ROUTES, browser='trusted_origins: ["https://app.gw"]') as it:
        lines = "".join(f"Set-Cookie: {name}=x\r\n" for name in ("a", *OURS))
        upstream.response = f"HTTP/1.1 200 OK\r\n{lines}Vary: Accept\r\nContent-Length: 0\r\n\r\n".encode()
        it.auth.response = upstream.response
        session = it.auth.open_session()
        bearer = f"Authorization: Bearer {session.token()}"
        cors = ("Origin: https://app.gw", "Sec-Fetch-Site: same-site")
        cookies = session.cookies(session.token())
        for path, fields in (("/open", ()), ("/mine", (bearer,)), ("/mine", (cookies,))):
            answer = await it.request(path, *fields)
            assert (answer.status, answer.values("set-cookie")) == (200, ["a=x"])
        answer = await it.request("/shared", cookies, *cors)
        assert (answer.status, answer.values("set-cookie")) == (200, ["a=x"])
        assert answer.values("vary") == ["Accept, Origin, Cookie"]
        assert answer.values("cache-control") == ["private"]
        assert len((await it.request("/me")).values("set-cookie")) == len(OURS) + 1


@pytest.mark.parametrize(
    ("status", "line", "count"),
    [(200, b"", 1), (404, b"", 1), (304, b"", 0), (200, b"Cache-Control: public, max-age=1\r\n", 0)],
)
async def test_a_renewed_token_goes_on_no_response_for_caches(
    issuer: Issuer, upstream: RecordingUpstream, status: int, line: bytes, count: int
) -> None:
    async with open_sessions(issuer, upstream, ROUTES[0], ROUTES[2]) as it:
        length = b"" if status == 304 else b"Content-Length: 0\r\n"
        upstream.response = b"HTTP/1.1 %d \r\n%b%b\r\n" % (status, line, length)
        answer = await it.request("/mine", it.auth.open_session().cookies(None))
        assert (answer.status, len(answer.values("set-cookie"))) == (status, count)
        assert answer.values("vary") == ["Cookie"]


async def test_one_connections_responses_differ_by_who_asks(issuer: Issuer, upstream: RecordingUpstream) -> None:
    async with open_sessions(issuer, upstream, ROUTES[0], ROUTES[2]) as it:
        session = it.auth.open_session()
        for _ in range(2):
            answer = await it.request("/mine", session.cookies(session.token()))
            assert (answer.values("vary"), answer.values("cache-control")) == (["Cookie"], ["private"])
            answer = await it.request("/mine", f"Authorization: Bearer {session.token()}")
            assert (answer.values("vary"), answer.values("cache-control")) == (["Cookie"], [])
            answer = await it.request("/open")
            assert answer.values("vary") == answer.values("cache-control") == []
        assert len(upstream.connections) == 1
