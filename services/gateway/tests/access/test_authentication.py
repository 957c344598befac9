"""Browser sessions at the gateway: which credential counts, and what the service sees of it."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from harness import RecordingUpstream, eventually, never, until
from harness.sessions import SESSION, TOKEN, BrowserSession, SessionsHarness, open_sessions, response

from ostiary.feed import Kind
from ostiary.testing import Issuer

ROUTES = (
    "name: mine, match: {path: /mine, methods: [GET, POST]}, upstream: up, access: authenticated",
    "name: maybe, match: {path: /maybe, methods: [GET, POST]}, upstream: up, access: optional",
    "name: open, match: {path: /open, methods: [GET, POST]}, upstream: up, access: public",
    "name: staff, match: {path: /staff, methods: [GET]}, upstream: up, access: {roles: [staff]}",
    """name: page, match: {path: "/pages/{rest...}", methods: [GET, POST]}, upstream: up, access: authenticated,
     login: redirect""",
    "name: frame, match: {path: /frame, methods: [GET]}, upstream: up, access: authenticated, embed: same-site",
    "name: api, match: {path: /api, methods: [GET]}, upstream: up, access: authenticated, credentials: [bearer]",
    """name: browser, match: {path: /browser, methods: [GET]}, upstream: up, access: authenticated,
     credentials: [cookie]""",
    "name: session, match: {path: /session, methods: [GET]}, upstream: auth, access: optional",
    "name: login, match: {path: /session, methods: [POST, DELETE]}, upstream: auth, access: public",
    "name: me, match: {path: /me, methods: [GET]}, upstream: auth, access: authenticated",
)

SAME_ORIGIN, SAME_SITE, CROSS_SITE = (f"Sec-Fetch-Site: {each}" for each in ("same-origin", "same-site", "cross-site"))


@pytest.fixture
async def it(issuer: Issuer, upstream: RecordingUpstream) -> AsyncIterator[SessionsHarness]:
    async with open_sessions(
        issuer, upstream, *ROUTES, browser='login_path: /login, trusted_origins: ["https://app.gw"]'
    ) as harness:
        yield harness


@pytest.fixture
def session(it: SessionsHarness) -> BrowserSession:
    return it.auth.open_session()


async def test_a_cookie_becomes_the_bearer_that_services_know(it: SessionsHarness, session: BrowserSession) -> None:
    token = session.token()
    answer = await it.request("/mine", session.cookies(token, "theme=dark"), "Authorization: Basic eDp5")
    assert answer.status == 200
    assert it.upstream.last.values("authorization") == [f"Bearer {token}"]
    assert it.upstream.last.values("cookie") == ["theme=dark"]
    assert it.auth.requests == []
    assert answer.values("vary") == ["Cookie"]
    assert answer.values("cache-control") == ["private"]
    assert answer.values("set-cookie") == []


async def test_a_bearer_wins_and_no_cookie_is_passed_on(it: SessionsHarness, session: BrowserSession) -> None:
    token = it.auth.issuer.token(subject="bob")
    bearer = f"Authorization: Bearer {token}"
    for path in ("/mine", "/maybe", "/open", "/api"):
        answer = await it.request(path, session.cookies(session.token(), "a=b"), bearer, CROSS_SITE)
        assert answer.status == 200
        assert it.upstream.last.values("authorization") == [f"Bearer {token}"]
        assert it.upstream.last.values("cookie") == ["a=b"]
        assert answer.values("cache-control") == []
    assert (await it.request("/me", session.cookies(session.token()), bearer)).status == 200
    assert it.auth.others[-1].values("cookie") == []


async def test_an_invalid_bearer_is_refused_beside_a_good_cookie(it: SessionsHarness, session: BrowserSession) -> None:
    for path in ("/mine", "/maybe"):
        answer = await it.request(path, session.cookies(session.token()), "Authorization: Bearer x.y.z")
        assert (answer.status, answer.code) == (401, "malformed")
    assert it.upstream.requests == []


async def test_routes_take_the_credentials_that_they_name(it: SessionsHarness, session: BrowserSession) -> None:
    cookies, bearer = session.cookies(session.token()), f"Authorization: Bearer {session.token()}"
    answer = await it.request("/api", cookies)
    assert (answer.status, answer.code, answer.values("vary")) == (401, "missing_token", [])
    assert (await it.request("/browser", cookies)).status == 200
    answer = await it.request("/browser", bearer)
    assert (answer.status, answer.code) == (401, "bearer_not_accepted")
    assert (await it.request("/browser")).code == "missing_token"


async def test_public_routes_count_no_cookie_and_pass_none_on(it: SessionsHarness, session: BrowserSession) -> None:
    answer = await it.request("/open", session.cookies(None), CROSS_SITE, method="POST")
    assert answer.status == 200
    assert it.upstream.last.values("cookie") == it.upstream.last.values("authorization") == []
    assert it.auth.requests == []
    assert answer.values("vary") == answer.values("cache-control") == []


async def test_a_token_needs_a_session_cookie_of_the_same_session(it: SessionsHarness, session: BrowserSession) -> None:
    other = it.auth.open_session("eve")
    assert (await it.request("/mine", f"Cookie: {TOKEN}={session.token()}")).code == "missing_token"
    answer = await it.request("/mine", session.cookies(other.token()))
    assert answer.status == 200
    # The session's own token, and not the other one.
    assert it.auth.exchanged == [session.value]
    assert f"Bearer {other.token()}" not in it.upstream.last.values("authorization")
    answer = await it.request("/mine", f"Cookie: {SESSION}={session.id}; {TOKEN}={session.token()}")
    assert answer.code == "missing_token"


@pytest.mark.parametrize("path", ["/mine", "/maybe", "/session", "/me"])
async def test_a_cookie_twice_is_an_error(it: SessionsHarness, session: BrowserSession, path: str) -> None:
    answer = await it.request(path, session.cookies(None), session.cookies(None))
    assert (answer.status, answer.code) == (400, "repeated_cookie")


async def test_a_missing_token_is_renewed_and_its_cookie_set(it: SessionsHarness, session: BrowserSession) -> None:
    answer = await it.request("/mine", session.cookies(None))
    assert answer.status == 200
    (bearer,) = it.upstream.last.values("authorization")
    (cookie,) = answer.values("set-cookie")
    assert cookie.startswith(f"{TOKEN}={bearer.removeprefix('Bearer ')}; Path=/; Max-Age=")
    assert cookie.endswith("; HttpOnly; SameSite=Lax; Secure")
    assert 895 <= int(cookie.partition("Max-Age=")[2].partition(";")[0]) <= 900
    # From memory, until the browser has the cookie.
    assert (await it.request("/mine", session.cookies(session.token(-10)))).values("set-cookie") != []
    assert it.auth.exchanged == [session.value]
    assert it.auth.authorizations == ["Basic b3N0aWFyeS1nYXRld2F5czp0aGUgZ2F0ZXdheXMnIHNlY3JldA=="]


async def test_cookies_of_a_session_that_ends_with_the_browser_do_so_too(
    it: SessionsHarness, session: BrowserSession
) -> None:
    it.auth.is_persistent = False
    (cookie,) = (await it.request("/mine", session.cookies(None))).values("set-cookie")
    assert "Max-Age" not in cookie


@pytest.mark.parametrize("seconds", [-1, 0, -1000])
async def test_an_expired_token_is_renewed_before_the_request_goes_on(
    it: SessionsHarness, session: BrowserSession, seconds: int
) -> None:
    old = session.token(seconds)
    assert (await it.request("/mine", session.cookies(old))).status == 200
    assert it.upstream.last.values("authorization") != [f"Bearer {old}"]
    assert len(it.auth.exchanged) == 1


async def test_in_its_last_minute_a_token_is_renewed_while_requests_go_on(
    it: SessionsHarness, session: BrowserSession
) -> None:
    it.auth.goes_on.clear()
    old = session.token(59)
    for _ in range(3):
        answer = await it.request("/mine", session.cookies(old))
        assert (answer.status, answer.values("set-cookie")) == (200, [])
        assert it.upstream.last.values("authorization") == [f"Bearer {old}"]
    await until(lambda: len(it.auth.exchanged) == 1)
    it.auth.goes_on.set()
    await until(lambda: it.renewals.remembered == 1)
    answer = await it.request("/mine", session.cookies(old))
    assert answer.values("set-cookie") != []
    assert it.upstream.last.values("authorization") != [f"Bearer {old}"]
    assert len(it.auth.exchanged) == 1


@pytest.mark.parametrize(("seconds", "life", "count"), [(61, 900, 0), (5, 100, 1), (11, 100, 0), (119, 3600, 0)])
async def test_a_token_is_renewed_in_the_last_tenth_of_its_life(
    it: SessionsHarness, session: BrowserSession, seconds: int, life: int, count: int
) -> None:
    assert (await it.request("/mine", session.cookies(session.token(seconds + 0.9, life)))).status == 200
    await eventually(lambda: len(it.auth.exchanged) == count)


async def test_a_failed_renewal_of_a_good_token_is_not_seen(it: SessionsHarness, session: BrowserSession) -> None:
    it.auth.answers = [response(500, {}), response(500, {})]
    for _ in range(3):
        assert (await it.request("/mine", session.cookies(session.token(30)))).status == 200
    await until(lambda: it.renewals.outcomes["failed"] == 1)


async def test_roles_that_have_changed_come_with_a_new_token(it: SessionsHarness, session: BrowserSession) -> None:
    old = session.token()
    assert (await it.request("/staff", session.cookies(old))).status == 403
    it.auth.issuer.revoke(Kind.SUBJECT, "ada")
    session.roles = ["staff"]
    answer = await it.request("/staff", session.cookies(old))
    assert (answer.status, len(answer.values("set-cookie"))) == (200, 1)
    it.auth.issuer.revoke(Kind.SUBJECT, "ada")
    assert (await it.request("/staff", session.cookies(old))).status == 200
    assert len(it.auth.exchanged) == 2


async def test_a_problem_after_a_renewal_sets_the_cookie_too(it: SessionsHarness, session: BrowserSession) -> None:
    answer = await it.request("/staff", session.cookies(None))
    assert (answer.status, answer.code, len(answer.values("set-cookie"))) == (403, "insufficient_role", 1)


async def test_a_revoked_session_has_ended_without_asking(it: SessionsHarness, session: BrowserSession) -> None:
    it.auth.issuer.revoke(Kind.SESSION, session.id)
    for cookies in (session.cookies(session.token()), session.cookies(None)):
        answer = await it.request("/mine", cookies)
        assert (answer.status, answer.code, answer.values("set-cookie")) == (401, "session_ended", [])
        assert (await it.request("/maybe", cookies)).status == 200
        assert it.upstream.last.values("authorization") == []
    assert it.auth.exchanged == []


async def test_that_a_session_has_ended_is_remembered(it: SessionsHarness, session: BrowserSession) -> None:
    it.auth.end(session)
    for _ in range(3):
        answer = await it.request("/mine", session.cookies(session.token(-1)))
        assert (answer.status, answer.code, answer.values("set-cookie")) == (401, "session_ended", [])
    assert len(it.auth.exchanged) == 1
    # A guess at the secret says nothing about the session.
    again = it.auth.open_session(session_id=session.id)
    assert (await it.request("/mine", again.cookies(None))).status == 200


async def test_a_renewed_token_of_a_session_that_has_ended_meanwhile_does_not_count(
    it: SessionsHarness, session: BrowserSession
) -> None:
    it.auth.goes_on.clear()
    waiting = asyncio.create_task(it.request("/mine", session.cookies(None)))
    await until(lambda: it.auth.exchanged)
    it.auth.issuer.revoke(Kind.SESSION, session.id)
    it.auth.goes_on.set()
    answer = await waiting
    assert (answer.code, answer.values("set-cookie")) == ("session_ended", [])
    assert it.upstream.requests == []


async def test_a_token_that_was_cut_off_on_its_way_is_renewed_once_more(
    it: SessionsHarness, session: BrowserSession
) -> None:
    token = session.token()
    it.auth.issuer.revoke(Kind.SUBJECT, "ada")
    it.auth.answers = [response(200, it.auth.members(session, access_token=token))]
    assert (await it.request("/mine", session.cookies(None))).status == 200
    assert len(it.auth.exchanged) == 2
    token = session.token()
    it.auth.issuer.revoke(Kind.SUBJECT, "ada")
    it.auth.answers = [response(200, it.auth.members(session, access_token=token))] * 2
    answer = await it.request("/mine", session.cookies(None))
    assert (answer.status, answer.code, len(it.auth.exchanged)) == (503, "session_undecided", 4)


@pytest.mark.parametrize(
    "changes",
    [
        {"access_token": "x.y.z"},
        {"access_token": "x"},
        {"access_token": 1},
        {"session_id": "another"},
        {"persistent": "yes"},
        {"expires_in": 0},
        {"expires_in": True},
        {"expires_in": "900"},
    ],
)
async def test_an_answer_that_is_not_as_agreed_decides_nothing(
    it: SessionsHarness, session: BrowserSession, changes: dict[str, object]
) -> None:
    it.auth.answers = [response(200, it.auth.members(session, **changes))]
    answer = await it.request("/mine", session.cookies(None))
    assert (answer.status, answer.code, answer.values("retry-after")) == (503, "session_undecided", ["1"])
    assert len(it.auth.exchanged) == 1
    assert (await it.request("/mine", session.cookies(None))).status == 200


async def test_a_renewed_token_of_another_session_does_not_count(it: SessionsHarness, session: BrowserSession) -> None:
    other = it.auth.open_session("eve")
    it.auth.answers = [response(200, it.auth.members(session, access_token=other.token()))]
    assert (await it.request("/mine", session.cookies(None))).code == "session_undecided"


@pytest.mark.parametrize(
    ("method", "path", "lines", "status"),
    [
        ("POST", "/mine", [CROSS_SITE], 403),
        ("POST", "/mine", [SAME_SITE], 403),
        ("POST", "/mine", [SAME_ORIGIN], 200),
        ("POST", "/mine", ["Sec-Fetch-Site: none"], 200),
        ("POST", "/mine", ["Origin: https://gw"], 200),
        ("POST", "/mine", ["Origin: HTTPS://GW"], 200),
        ("POST", "/mine", ["Origin: http://gw"], 403),
        ("POST", "/mine", ["Origin: https://gw:8443"], 403),
        ("POST", "/mine", ["Origin: null"], 403),
        ("POST", "/mine", [SAME_SITE, "Origin: https://app.gw"], 200),
        ("POST", "/mine", [SAME_SITE, "Origin: https://evil.gw"], 403),
        ("POST", "/mine", [], 403),
        ("POST", "/mine", ["Content-Type: text/plain; charset=utf-8"], 403),
        ("POST", "/mine", ["Content-Type: application/json"], 200),
        ("POST", "/mine", [f"{SAME_ORIGIN}, cross-site"], 403),
        ("POST", "/mine", [CROSS_SITE, SAME_ORIGIN], 403),
        ("POST", "/maybe", [CROSS_SITE], 403),
        ("GET", "/mine", [CROSS_SITE], 401),
        ("GET", "/mine", [SAME_SITE], 401),
        ("GET", "/mine", [CROSS_SITE, "Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: document"], 200),
        ("GET", "/mine", [CROSS_SITE, "Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: iframe"], 401),
        ("GET", "/frame", [SAME_SITE], 200),
        ("GET", "/frame", [CROSS_SITE], 401),
        ("GET", "/mine", [], 200),
    ],
)
async def test_what_makes_a_cookie_count(
    it: SessionsHarness, session: BrowserSession, method: str, path: str, lines: list[str], status: int
) -> None:
    cookies = session.cookies(session.token())
    answer = await it.request(path, cookies, *lines, method=method)
    assert answer.status == status
    if status == 403:
        assert answer.code == "cross_site_request"
    assert len(it.upstream.requests) == (status == 200)
    # Nothing but the cookie is refused.
    if path == "/maybe":
        assert (await it.request(path, *lines, method=method)).status == 200


async def test_an_optional_route_knows_the_person_if_there_is_one(it: SessionsHarness, session: BrowserSession) -> None:
    assert (await it.request("/maybe", "Authorization: Basic eDp5", "Cookie: a=b")).status == 200
    assert it.upstream.last.values("authorization") == ["Basic eDp5"]
    assert it.upstream.last.values("cookie") == ["a=b"]
    answer = await it.request("/maybe", session.cookies(None))
    assert it.upstream.last.values("authorization")[0].startswith("Bearer ")
    assert (answer.values("vary"), answer.values("cache-control")) == (["Cookie"], ["private"])
    answer = await it.request("/maybe", session.cookies(session.token()), CROSS_SITE)
    assert it.upstream.last.values("authorization") == it.upstream.last.values("cookie") == []
    assert (answer.values("vary"), answer.values("cache-control")) == (["Cookie"], ["no-store"])


async def test_what_another_page_gets_without_the_session_is_kept_by_no_cache(
    it: SessionsHarness, session: BrowserSession
) -> None:
    cookies = session.cookies(session.token())
    for lines, expected in (
        ((SAME_SITE, cookies), ["no-store"]),
        # The same without cookies, so that no other site learns whether there are any.
        ((SAME_SITE,), ["no-store"]),
        ((SAME_ORIGIN,), []),
        ((SAME_ORIGIN, cookies), ["private"]),
    ):
        answer = await it.request("/maybe", *lines)
        assert (answer.status, answer.values("cache-control")) == (200, expected)
        assert answer.values("vary") == ["Cookie"]


async def test_no_cache_keeps_an_error(it: SessionsHarness, session: BrowserSession) -> None:
    for path, *lines in (["/mine"], ["/staff", session.cookies(session.token())], ["/nowhere"]):
        assert (await it.request(path, *lines)).values("cache-control") == ["no-store"]


async def test_nobody_is_taken_for_a_stranger_while_it_cannot_be_told(
    it: SessionsHarness, session: BrowserSession
) -> None:
    it.auth.answers = [response(503, {}, "Retry-After: 7")]
    answer = await it.request("/maybe", session.cookies(None))
    assert (answer.status, answer.values("retry-after")) == (503, ["7"])


async def test_the_auth_service_gets_its_cookies(it: SessionsHarness, session: BrowserSession) -> None:
    own = ("__Host-ostiary-device=d", "__host-ostiary-flow=x", "__Host-ostiary-flow=f", "a=b")
    session_pair = f"{SESSION}={session.value}"
    await it.request("/session", session.cookies(session.token(), *own), SAME_ORIGIN)
    assert it.auth.others[-1].values("cookie") == [
        f"a=b; __Host-ostiary-device=d; __Host-ostiary-flow=f; {session_pair}"
    ]
    assert it.auth.others[-1].values("authorization")[0].startswith("Bearer ")
    for line, expected in ((SAME_ORIGIN, [session_pair]), (CROSS_SITE, [])):
        answer = await it.request("/session", session.cookies(session.token()), line, method="POST")
        assert (answer.status, it.auth.others[-1].values("cookie")) == (200, expected)
        assert it.auth.others[-1].values("authorization") == []
    await it.request("/session", session.cookies(session.token()), CROSS_SITE)
    assert it.auth.others[-1].values("cookie") == it.auth.others[-1].values("authorization") == []
    assert it.auth.exchanged == []


@pytest.mark.parametrize(
    "name",
    [
        SESSION,
        "\xa0" + TOKEN,
        "__host-OSTIARY-session",
        "ostiary-token-8080",
        "__Secure-ostiary-session",
        "=" + SESSION,
        "__Host-ostiary-device",
    ],
)
async def test_no_service_gets_what_it_could_take_for_our_cookies(it: SessionsHarness, name: str) -> None:
    for path in ("/open", "/maybe"):
        await it.request(path, f"Cookie: a=1; {name}=x; b=2", SAME_ORIGIN)
        (cookie,) = it.upstream.last.values("cookie")
        assert [each.strip() for each in cookie.split(";")] == ["a=1", "b=2"]


@pytest.mark.parametrize(
    ("lines", "is_led"),
    [
        (["Sec-Fetch-Mode: navigate"], True),
        (["Accept: text/html,*/*"], True),
        (["Sec-Fetch-Mode: cors", "Accept: text/html"], False),
        ([], False),
        (["Sec-Fetch-Mode: navigate", "Authorization: Bearer x.y.z"], False),
    ],
)
async def test_a_person_without_a_session_is_led_to_the_login_page(
    it: SessionsHarness, session: BrowserSession, lines: list[str], *, is_led: bool
) -> None:
    it.auth.issuer.revoke(Kind.SESSION, session.id)
    for cookies in ([], [session.cookies(session.token())]):
        answer = await it.request("/pages/a?b=c&d=%C3%BC", *lines, *cookies)
        if is_led:
            assert answer.status == 303
            assert answer.values("location") == ["/login?return_to=%2Fpages%2Fa%3Fb%3Dc%26d%3D%25C3%25BC"]
            assert (answer.values("cache-control"), answer.body) == (["no-store"], b"")
        else:
            assert answer.status == 401
    assert (await it.request("/pages/a", "Accept: text/html", method="POST")).status == 401
    assert (await it.request("/mine", "Accept: text/html")).status == 401


async def test_a_stream_begins_with_a_token_that_lasts(it: SessionsHarness, session: BrowserSession) -> None:
    old = session.token(449)
    assert (await it.request("/mine", session.cookies(old))).values("set-cookie") == []
    assert it.auth.exchanged == []
    answer = await it.request("/mine", session.cookies(old), "Accept: text/event-stream")
    assert (answer.status, len(answer.values("set-cookie"))) == (200, 1)
    it.auth.answers = [response(500, {})]
    other = it.auth.open_session()
    old = other.token(449)
    answer = await it.request("/mine", other.cookies(old), "Accept: text/event-stream")
    assert (answer.status, it.upstream.last.values("authorization")) == (200, [f"Bearer {old}"])


async def test_requests_wait_for_one_renewal(it: SessionsHarness, session: BrowserSession) -> None:
    it.auth.goes_on.clear()
    waiting = [asyncio.create_task(it.request("/mine", session.cookies(session.token(-1)))) for _ in range(20)]
    await until(lambda: it.renewals.waiting == 20)
    await never(lambda: len(it.auth.exchanged) > 1)
    it.auth.goes_on.set()
    answers = await asyncio.gather(*waiting)
    assert {answer.status for answer in answers} == {200}
    assert len({str(answer.values("set-cookie")) for answer in answers}) <= 2
    assert len(it.auth.exchanged) == 1
