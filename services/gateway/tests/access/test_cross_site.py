"""Cookies count only for requests that a page of the site's own has made: on what the services see.

Browsers send cookies with requests that other pages make them send, by forms, images, scripts and WebSockets. The rules
are written down here a second time, as the design has them.
"""

import itertools
from collections.abc import AsyncIterator, Iterable
from typing import NamedTuple

import pytest
from harness import RecordingUpstream
from harness.sessions import SESSION, BrowserSession, SessionsHarness, open_sessions
from harness.websockets import HANDSHAKE
from route_files import bearer, trust_proxies

from ostiary.testing import Issuer

UNSAFE = ["POST", "PUT", "PATCH", "DELETE", "PROPFIND", "REPORT", "QUERY"]
METHODS = ["GET", "HEAD", *UNSAFE]

TAKES_ALL = f"methods: [{', '.join(each for each in METHODS if each != 'HEAD')}]"
ROUTES = (
    f"name: mine, match: {{path: /mine, {TAKES_ALL}}}, upstream: up, access: authenticated",
    f"name: maybe, match: {{path: /maybe, {TAKES_ALL}}}, upstream: up, access: optional",
    f"name: frame, match: {{path: /frame, {TAKES_ALL}}}, upstream: up, access: authenticated, embed: same-site",
    "name: session, match: {path: /session, methods: [GET]}, upstream: auth, access: optional",
    "name: log-in, match: {path: /session, methods: [POST, DELETE]}, upstream: auth, access: public",
    (
        "name: live, match: {path: /live, methods: [GET]}, upstream: up, access: authenticated, websocket: true,"
        " embed: same-site"
    ),
    "name: shop, match: {path: /mine, methods: [POST], hosts: [shop.example]}, upstream: up, access: authenticated",
    "name: idn, match: {path: /mine, methods: [POST], hosts: [xn--bcher-kva.example]}, upstream: up, access: optional",
    "name: data, match: {path: /data, methods: [GET]}, upstream: up, access: authenticated, credentials: [bearer]",
    "name: plain, match: {path: /plain, methods: [GET]}, upstream: up, access: authenticated",
    "name: wide, match: {path: '/{rest...}', methods: [GET]}, upstream: up, access: authenticated, embed: same-site",
    "name: files, match: {path: '/files/{rest...}', methods: [COPY]}, upstream: up, access: authenticated",
    (
        "name: vault, match: {path: '/files/vault/{rest...}', methods: [COPY]}, upstream: up, access: authenticated,"
        " credentials: [bearer]"
    ),
)
BROWSER = 'trusted_origins: ["https://app.gw", "https://*.team.gw"], login_path: /login'
HOSTS = "hosts_internal: [gateway]"


@pytest.fixture
async def it(issuer: Issuer, upstream: RecordingUpstream) -> AsyncIterator[SessionsHarness]:
    async with open_sessions(issuer, upstream, *ROUTES, browser=BROWSER, more=HOSTS) as harness:
        yield harness


@pytest.fixture
def session(it: SessionsHarness) -> BrowserSession:
    return it.auth.open_session()


class Page(NamedTuple):
    """What a browser tells about the page that makes a request."""

    site: str | None = None
    origin: str | None = None
    mode: str | None = None
    dest: str | None = None
    content_type: str | None = None

    @property
    def lines(self) -> list[str]:
        names = ("Sec-Fetch-Site", "Origin", "Sec-Fetch-Mode", "Sec-Fetch-Dest", "Content-Type")
        return [f"{name}: {value}" for name, value in zip(names, self, strict=True) if value is not None]


TRUSTED = {"https://app.gw", "https://x.team.gw", "https://APP.gw"}
OWN = {"https://gw", "HTTPS://GW"}
FOREIGN = {
    "null",
    "http://gw",
    "https://gw:8443",
    "https://gw.",
    "https://evil.gw",
    "https://team.gw",
    "https://gw.evil.example",
    "https://evilgw",
    "https://app.gw:444",
    "https://xn--gw-eka.example",
    "",
}
ORIGINS: list[str | None] = [None, *sorted(OWN), *sorted(TRUSTED), *sorted(FOREIGN)]
SITES = [None, "same-origin", "none", "same-site", "cross-site", "SAME-ORIGIN", "same-origin, none", "whatever", ""]
FORMS = [None, "text/plain", "application/x-www-form-urlencoded; charset=utf-8", "Multipart/Form-Data; boundary=x", ""]
TYPES = [*FORMS, "application/json", "application/x-www-form-urlencoded-not"]
DESTINATIONS = [(None, None), ("navigate", "document"), ("navigate", "iframe"), ("cors", "empty"), ("no-cors", "image")]


def verdict(method: str, page: Page, *, embeds: bool = False) -> int:
    """Return the status of a request with a session's cookies to a route that asks for a session."""
    if page.site in {"same-origin", "none"} or page.origin in TRUSTED:
        return 200
    if page.site is None and page.origin in OWN:
        return 200
    if page.site is None and page.origin is None:
        return 403 if method == "POST" and page.content_type in FORMS else 200
    if method not in {"GET", "HEAD"}:
        return 403
    is_link = page.site is not None and (page.mode, page.dest) == ("navigate", "document")
    return 200 if is_link or (embeds and page.site == "same-site") else 401


def pages(sites: Iterable[str | None], origins: Iterable[str | None]) -> list[Page]:
    return [
        *(Page(site, origin) for site, origin in itertools.product(sites, origins)),
        *(Page(site, None, mode, dest) for site, (mode, dest) in itertools.product(sites, DESTINATIONS)),
        *(
            Page(None, origin, content_type=each)
            for origin, each in itertools.product([None, "https://evil.gw"], TYPES)
        ),
    ]


ALL_PAGES = pages(SITES, ORIGINS)
PAGES = pages(SITES[:5], [None, "https://gw", "https://app.gw", "https://evil.gw", "null"])


@pytest.mark.parametrize("method", METHODS)
async def test_who_may_use_a_session(it: SessionsHarness, session: BrowserSession, method: str) -> None:
    token = session.token()
    cookies = session.cookies(token)
    for page in ALL_PAGES if method in {"GET", "POST"} else PAGES:
        it.upstream.requests.clear()
        answer = await it.request("/mine", cookies, *page.lines, method=method)
        expected = verdict(method, page)
        assert answer.status == expected, page
        assert [each.values("authorization") for each in it.upstream.requests] == (
            [[f"Bearer {token}"]] if expected == 200 else []
        ), page
        if method != "HEAD" and expected != 200:
            assert answer.code == ("cross_site_request" if expected == 403 else "missing_token"), page
        assert answer.values("vary") == ["Cookie"], page


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
async def test_what_siblings_may_embed(it: SessionsHarness, session: BrowserSession, method: str) -> None:
    cookies = session.cookies(session.token())
    for page in PAGES:
        answer = await it.request("/frame", cookies, *page.lines, method=method)
        assert answer.status == verdict(method, page, embeds=True), page


async def test_an_optional_route_takes_a_reader_of_another_site_for_nobody(
    it: SessionsHarness, session: BrowserSession
) -> None:
    for page in PAGES:
        answer = await it.request("/maybe", session.cookies(session.token(), "theme=dark"), *page.lines)
        assert answer.status == 200
        is_known = verdict("GET", page) == 200
        assert bool(it.upstream.last.values("authorization")) is is_known, page
        assert it.upstream.last.values("cookie") == ["theme=dark"]


@pytest.mark.parametrize("method", UNSAFE)
async def test_an_optional_route_refuses_writers_of_another_site(
    it: SessionsHarness, session: BrowserSession, method: str
) -> None:
    for page in PAGES:
        answer = await it.request("/maybe", session.cookies(session.token()), *page.lines, method=method)
        assert answer.status == verdict(method, page), page


async def test_without_a_session_nobody_is_refused(it: SessionsHarness) -> None:
    for page in PAGES:
        for cookies in ([], ["Cookie: theme=dark"], [f"Cookie: {SESSION}=x"]):
            assert (await it.request("/maybe", *cookies, *page.lines, method="POST")).status == 200, page


async def test_a_bearer_is_nobody_elses(it: SessionsHarness, session: BrowserSession) -> None:
    token = it.auth.issuer.token(subject="bob")
    for page in PAGES:
        answer = await it.request("/mine", session.cookies(None), bearer(token), *page.lines, method="POST")
        assert answer.status == 200, page
        assert it.upstream.last.values("authorization") == [f"Bearer {token}"]


async def test_nothing_is_renewed_for_other_sites(it: SessionsHarness, session: BrowserSession) -> None:
    for page in PAGES:
        if verdict("POST", page) == 403:
            for path, method in (("/mine", "POST"), ("/maybe", "POST"), ("/session", "POST")):
                answer = await it.request(path, session.cookies(None), *page.lines, method=method)
                assert answer.values("set-cookie") == []
    assert it.auth.exchanged == []


class TestAuthService:
    """A cookie that does not count does not reach the auth service either, and nobody is refused there."""

    @pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
    async def test_it_gets_the_sessions_that_count(
        self, it: SessionsHarness, session: BrowserSession, method: str
    ) -> None:
        for page in PAGES:
            answer = await it.request("/session", session.cookies(session.token()), *page.lines, method=method)
            assert answer.status == 200, page
            received = it.auth.others[-1]
            expected = [f"{SESSION}={session.value}"] if verdict(method, page) == 200 else []
            assert received.values("cookie") == expected, page
            assert bool(received.values("authorization")) is (method == "GET" and bool(expected)), page

    async def test_it_gets_what_tells_who_asks(self, it: SessionsHarness) -> None:
        page = Page("cross-site", "https://evil.example", "navigate", "document", "text/plain")
        await it.request("/session", *page.lines, method="POST")
        received = it.auth.others[-1]
        assert [received.values(name) for name in ("sec-fetch-site", "origin", "host")] == [
            ["cross-site"],
            ["https://evil.example"],
            ["gw"],
        ]


class TestWebSockets:
    @pytest.mark.parametrize(
        ("page", "status"),
        [
            (Page(), 200),
            (Page("same-origin", "https://gw"), 200),
            (Page(None, "https://gw"), 200),
            (Page("same-site", "https://app.gw"), 200),
            (Page(None, "https://app.gw"), 200),
            (Page("same-site", "https://evil.gw"), 403),
            (Page("cross-site", "https://evil.example"), 403),
            (Page("cross-site", "https://evil.example", "navigate", "document"), 403),
            (Page("cross-site", "null"), 403),
            (Page(None, "http://gw"), 403),
            (Page(None, "null"), 403),
            (Page("cross-site"), 403),
        ],
    )
    async def test_a_handshake_is_no_reading(
        self, it: SessionsHarness, session: BrowserSession, page: Page, status: int
    ) -> None:
        answer = await it.request("/live", session.cookies(session.token()), *HANDSHAKE[1:], *UPGRADE, *page.lines)
        assert answer.status == status
        assert len(it.upstream.requests) == (status == 200)
        if status == 403:
            assert answer.code == "cross_site_request"

    async def test_other_cookies_have_the_rule_that_they_had(self, it: SessionsHarness) -> None:
        token = bearer(it.auth.issuer.token())
        lines = [*HANDSHAKE[1:], *UPGRADE, "Cookie: sid=1", "Origin: https://evil.example", token]
        answer = await it.request("/live", *lines)
        assert (answer.status, answer.code) == (403, "foreign_origin")


#: `request` closes the connection.
UPGRADE = ("Connection: Upgrade",)


class TestOwnOrigin:
    """The scheme of the issuer with the host of the request, once that is known to be the gateway's."""

    @pytest.mark.parametrize(
        ("host", "origin", "status"),
        [
            ("gw", "https://gw", 200),
            ("GW.", "https://gw", 200),
            ("gw:443", "https://gw", 200),
            ("gw:8443", "https://gw:8443", 200),
            ("gw:8443", "https://gw", 403),
            ("gw", "https://gw:8443", 403),
            ("gw:80", "http://gw", 403),
            ("shop.example", "https://shop.example", 200),
            ("shop.example", "https://gw", 403),
            ("gw", "https://shop.example", 403),
            ("xn--bcher-kva.example", "https://xn--bcher-kva.example", 200),
            ("b\xc3\xbccher.example", "https://xn--bcher-kva.example", 200),
            ("B\xc3\x9cCHER.example", "https://XN--BCHER-KVA.example", 200),
            ("xn--bcher-kva.example", "https://b\xc3\xbccher.example", 403),
            ("gateway", "https://gw", 200),
            ("gateway:8080", "https://gw", 200),
            ("gateway:8080", "https://gateway:8080", 403),
            ("localhost:8080", "https://localhost:8080", 200),
            ("evil.example", "https://evil.example", 421),
        ],
    )
    async def test_old_browsers_name_it_in_origin(
        self, it: SessionsHarness, session: BrowserSession, host: str, origin: str, status: int
    ) -> None:
        assert await self._post(it, session, f"Host: {host}", f"Origin: {origin}") == status
        assert len(it.upstream.requests) == (status == 200)

    async def test_a_trusted_proxy_tells_the_host_and_nothing_tells_the_scheme(
        self, it: SessionsHarness, session: BrowserSession
    ) -> None:
        lines = [
            "Host: 10.0.0.1",
            "Origin: https://gw",
            "X-Forwarded-Host: evil.example, gw",
            "X-Forwarded-Proto: http",
        ]
        assert await self._post(it, session, *lines) == 421
        trust_proxies(it.gateway, "127.0.0.0/8")
        assert await self._post(it, session, *lines, peer="127.0.0.1") == 200
        plain = [line.replace("https://", "http://") for line in lines]
        assert await self._post(it, session, *plain, peer="127.0.0.1") == 403
        foreign = [line.replace("evil.example, gw", "gw, evil.example") for line in lines]
        assert await self._post(it, session, *foreign, peer="127.0.0.1") == 421

    async def test_a_stranger_does_not_tell_the_host(self, it: SessionsHarness, session: BrowserSession) -> None:
        lines = ["Host: gw", "Origin: https://shop.example", "X-Forwarded-Host: shop.example"]
        assert await self._post(it, session, *lines) == 403

    async def _post(self, it: SessionsHarness, session: BrowserSession, *lines: str, peer: str | None = None) -> int:
        socket = await it.gateway.connect(peer)
        head = ["POST /mine HTTP/1.1", "Connection: close", "Content-Length: 0", *lines]
        socket.send("\r\n".join([*head, session.cookies(session.token()), "", ""]).encode("latin-1"))
        return int((await socket.wait_closed()).split(b" ", 2)[1])


class TestPathOwners:
    """Each route that owns the upstream path has a say, by its own credentials and `embed`."""

    async def test_a_bearer_route_keeps_cookies_out(self, it: SessionsHarness, session: BrowserSession) -> None:
        for path in ("/data", "/data/", "/data."):
            answer = await it.request(path, session.cookies(session.token()), "Sec-Fetch-Site: same-origin")
            assert (answer.status, answer.code) == (401, "missing_token"), path
            assert it.upstream.requests == []
        assert (await it.request("/data/", bearer(session.token()))).status == 200
        assert (await it.request("/other/", session.cookies(session.token()))).status == 200

    async def test_what_may_not_be_embedded_may_not_by_another_spelling(
        self, it: SessionsHarness, session: BrowserSession
    ) -> None:
        cookies, same_site = session.cookies(session.token()), "Sec-Fetch-Site: same-site"
        assert (await it.request("/other", cookies, same_site)).status == 200
        it.upstream.requests.clear()
        for path in ("/plain", "/plain/", "/pl%EF%BD%81in"):
            assert (await it.request(path, cookies, same_site)).status == 401, path
        assert it.upstream.requests == []
        assert (await it.request("/plain/", cookies, "Sec-Fetch-Site: same-origin")).status == 200

    async def test_the_destination_of_a_copy_has_its_own_credentials(
        self, it: SessionsHarness, session: BrowserSession
    ) -> None:
        cookies, same_origin = session.cookies(session.token()), "Sec-Fetch-Site: same-origin"

        async def copy(to: str, *lines: str) -> int:
            answer = await it.request("/files/a", f"Destination: {to}", *lines, method="COPY")
            return answer.status

        assert await copy("/files/b", cookies, same_origin) == 200
        assert await copy("/files/b", cookies, "Sec-Fetch-Site: same-site") == 403
        it.upstream.requests.clear()
        assert await copy("/files/vault/b", cookies, same_origin) == 401
        assert await copy("/files/vault/b", session.cookies(None), same_origin) == 401
        assert it.upstream.requests == []
        assert await copy("/files/vault/b", bearer(session.token())) == 200
