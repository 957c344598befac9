"""The rules of browser sessions: names, reading, setting, cross-site requests and paths to return to."""

import http.cookies
from collections.abc import Callable
from itertools import product
from urllib.parse import urljoin

import pytest
from aiohttp._cookie_helpers import parse_cookie_header
from django.http.cookie import parse_cookie as parse_as_django
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import cookie_parser as parse_as_starlette
from werkzeug.sansio.http import parse_cookie as parse_as_werkzeug
from yarl import URL

from ostiary.browser import (
    CROSS_SITE_REQUEST,
    MAX_COOKIE_BYTES,
    MAX_RETURN_CHARACTERS,
    REPEATED_COOKIE,
    SESSION_ENDED,
    BrowserCookies,
    RepeatedCookie,
    Verdict,
    cookie_names,
    is_return_path,
    judge,
    read_cookies,
    resembles_ours,
    set_cookie,
)

NAMES = cookie_names("https://app.example")
LOCAL = cookie_names("http://localhost:8080")

SID = b"6f1d1c2e-58f4-4a4e-9d55-3b1a8f4b7c11"
SESSION = SID + b"." + b"s" * 43
TOKEN = b"eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ1MSJ9.c2lnbmF0dXJl"


def fields_of(**cookies: bytes) -> bytes:
    return b"; ".join(getattr(NAMES, name) + b"=" + value for name, value in cookies.items())


class TestNames:
    def test_over_https_they_have_the_prefix_that_binds_them_to_the_host(self) -> None:
        assert NAMES.session == b"__Host-ostiary-session"
        assert NAMES.token == b"__Host-ostiary-token"
        assert NAMES.device == b"__Host-ostiary-device"
        assert NAMES.flow == b"__Host-ostiary-flow"
        assert NAMES.is_secure

    def test_over_plain_http_they_have_the_port(self) -> None:
        assert LOCAL.session == b"ostiary-session-8080"
        assert LOCAL.every == {LOCAL.session, LOCAL.token, LOCAL.device, LOCAL.flow}
        assert not LOCAL.is_secure
        assert cookie_names("http://localhost").session == b"ostiary-session-80"

    @pytest.mark.parametrize("host", ["localhost", "app.localhost", "LOCALHOST", "127.0.0.1", "127.8.8.8", "[::1]"])
    def test_plain_http_will_do_on_this_machine(self, host: str) -> None:
        assert cookie_names(f"http://{host}:8080") == LOCAL

    @pytest.mark.parametrize(
        "issuer",
        [
            "http://app.example",
            "http://localhost.example",
            "http://notlocalhost",
            "http://10.0.0.1:8080",
            "http://0.0.0.0:8080",
            "http://127.0.0.1.example",
            "http://[::2]",
            "http://localhost@app.example",
            "http:///path",
            "ws://localhost",
            "localhost:8080",
            "",
        ],
    )
    def test_any_other_issuer_is_an_error(self, issuer: str) -> None:
        with pytest.raises(ValueError, match="https issuer"):
            cookie_names(issuer)


class TestReading:
    def test_values_come_as_they_were_sent(self) -> None:
        cookies = read_cookies([b"a=1; " + fields_of(session=SESSION, token=TOKEN, device=b"d", flow=b"f=")], NAMES)
        assert (cookies.session, cookies.session_id, cookies.token) == (SESSION, SID.decode(), TOKEN)
        assert (cookies.device, cookies.flow, cookies.others) == (b"d", b"f=", b"a=1")

    @pytest.mark.parametrize("fields", [[], [b""], [b" ; ;\t;"], [b"=; ;"]])
    def test_nothing_is_read_from_nothing(self, fields: list[bytes]) -> None:
        cookies = read_cookies(fields, NAMES)
        assert not cookies.session + cookies.token + cookies.device + cookies.flow
        assert cookies.others.strip(b"=") == b""

    @pytest.mark.parametrize("space", [b"", b" ", b"\t", b" \t  "])
    def test_spaces_and_tabs_around_a_cookie_are_no_part_of_it(self, space: bytes) -> None:
        field = b"a=1;" + space + NAMES.session + b"=" + SESSION + space + b";" + space + b"b=2"
        cookies = read_cookies([field], NAMES)
        assert cookies.session == SESSION
        assert cookies.others == b"a=1;" + space + b"b=2"

    def test_several_fields_are_one(self) -> None:
        cookies = read_cookies([b"a=1", fields_of(session=SESSION), b"b=2; " + fields_of(token=TOKEN)], NAMES)
        assert (cookies.session, cookies.token, cookies.others) == (SESSION, TOKEN, b"a=1; b=2")

    @pytest.mark.parametrize("name", ["session", "token", "device", "flow"])
    @pytest.mark.parametrize("values", [(b"x", b"y"), (SESSION, SESSION), (b"", SESSION), (SESSION, b'"')])
    @pytest.mark.parametrize("are_apart", [False, True])
    def test_one_of_ours_twice_is_an_error(self, name: str, values: tuple[bytes, bytes], are_apart: bool) -> None:
        both = [getattr(NAMES, name) + b"=" + value for value in values]
        with pytest.raises(RepeatedCookie):
            read_cookies(both if are_apart else [b"; ".join(both)], NAMES)

    def test_those_of_another_issuer_are_passed_to_nobody_and_may_repeat(self) -> None:
        other = cookie_names("http://localhost:9090").session + b"=" + SESSION
        cookies = read_cookies([other + b"; " + other + b"; a=1"], LOCAL)
        assert (cookies.session, cookies.others) == (b"", b"a=1")

    @pytest.mark.parametrize(
        "value",
        [
            b"",
            SID,
            SID + b".",
            SID + b"." + b"s" * 42,
            SID + b"." + b"s" * 44,
            SID + b"." + b"s" * 42 + b"=",
            SID + b"." + b"s" * 42 + b"+",
            SID.upper() + b"." + b"s" * 43,
            b'"' + SESSION + b'"',
            b" " + SESSION,
            b"\xa0" + SESSION,
            SESSION + b"\xa0",
            SESSION + b"\n",
            SESSION + b"\x00",
            SESSION.replace(b"-", b"%2D"),
            SESSION + b"." + b"s" * 43,
            b"s" * 100_000,
        ],
    )
    def test_a_value_that_cannot_be_a_session_is_as_absent(self, value: bytes) -> None:
        cookies = read_cookies([fields_of(session=value, token=TOKEN) + b"; a=1"], NAMES)
        assert (cookies.session, cookies.session_id, cookies.token, cookies.others) == (b"", "", b"", b"a=1")

    @pytest.mark.parametrize(
        "value",
        [
            b"",
            b"a.b",
            b"a.b.c.d",
            b"abc",
            b'"' + TOKEN + b'"',
            TOKEN + b"=",
            b"a b.c.d",
            b"Bearer " + TOKEN,
            TOKEN + b"\r",
            TOKEN + b"\n",
            TOKEN + b"\xa0",
            b"a" * (MAX_COOKIE_BYTES - 4) + b".b.c",
            SESSION,
        ],
    )
    def test_a_value_that_cannot_be_a_token_is_as_absent(self, value: bytes) -> None:
        cookies = read_cookies([fields_of(session=SESSION, token=value) + b"; a=1"], NAMES)
        assert (cookies.session, cookies.token, cookies.others) == (SESSION, b"", b"a=1")

    def test_a_token_by_itself_is_as_absent(self) -> None:
        cookies = read_cookies([fields_of(token=TOKEN)], NAMES)
        assert (cookies.session, cookies.token, cookies.others) == (b"", b"", b"")

    @pytest.mark.parametrize(
        "field",
        [b'a="x;y"; b=2', b"a=1;;b=2", b"a", b"a=", b"a==; b", b"\xff=\xfe", b'a="; b=c="', b"a=1  ;  b=2"],
    )
    def test_cookies_of_others_are_kept_byte_for_byte(self, field: bytes) -> None:
        assert read_cookies([field], NAMES).others == field
        assert read_cookies([field + b"; " + fields_of(session=SESSION)], NAMES).others == field
        assert read_cookies([fields_of(session=SESSION) + b"; " + field], NAMES).others == field


#: What no service may take for a cookie of ours.
LOOKALIKES = [
    b"__host-ostiary-session=x",
    b"__HOST-OSTIARY-SESSION=x",
    b"__Host-Ostiary-Token=x",
    b"__Secure-ostiary-session=x",
    b"ostiary-session=x",
    b"ostiary-session-9090=x",
    b"OSTIARY-DEVICE-1=x",
    b"__Host-ostiary-flow =x",
    b"__Host-ostiary-flow\t=x",
    b"\xa0__Host-ostiary-session=x",
    b"__Host-ostiary-session\xa0=x",
    b"\xc2\xa0__Host-ostiary-session=x",
    b"\xe2\x80\x80__Host-ostiary-session=x",
    b"\xef\xbb\xbf__Host-ostiary-session=x",
    b"\x85__Host-ostiary-session\x85=x",
    b"\x0b__Host-ostiary-session\x1f=x",
    b"\x00__Host-ostiary-session\x00 =x",
    b"__Host-o\xef\xac\x86iary-session=x",
    b"__Host-ost\xc4\xb1ary-session=x",
    b"__Host-ostiary-to\xe2\x84\xaaen=x",
    b"__Host-o\xc5\xbftiary-token=x",
    b"__Host-ostiary-session",
    b"=__Host-ostiary-session",
    b"=__Host-ostiary-session=x",
    b"==__Host-ostiary-session=x",
    b" = __Host-ostiary-session=x",
    b"a=b __Host-ostiary-session=x",
    b"a b\t__Host-ostiary-session = x",
    b"a=b,__Host-ostiary-session=x",
    b"a=b, __Host-ostiary-session=x",
    b"__Host-ostiary-session ,",
]


class TestLookalikes:
    @pytest.mark.parametrize("cookie", LOOKALIKES)
    def test_they_are_passed_to_nobody(self, cookie: bytes) -> None:
        assert resembles_ours(cookie)
        cookies = read_cookies([b"a=1; " + cookie + b"; b=2; " + fields_of(session=SESSION)], NAMES)
        assert (cookies.session, cookies.others) == (SESSION, b"a=1; b=2")

    @pytest.mark.parametrize("cookie", LOOKALIKES)
    def test_they_are_not_read(self, cookie: bytes) -> None:
        cookies = read_cookies([cookie.replace(b"=x", b"=" + SESSION)], NAMES)
        assert cookies.session + cookies.token + cookies.device + cookies.flow == b""

    @pytest.mark.parametrize(
        "cookie",
        [
            b"session=x",
            b"token=x",
            b"__Host-session=x",
            b"my-ostiary-session=x",
            b"ostiary-sessions=x",
            b"ostiary-theme=x",
            b"ostiary-session-=x",
            b"ostiary-session-a=x",
            b"__Host-ostiary-session2=x",
            b"a=ostiary-session",
            b"a=/login?ostiary-session=1",
            b'a={"ostiary-session":1}',
            b"\xc3\xa4=ostiary-session-x",
        ],
    )
    def test_cookies_of_services_are_none(self, cookie: bytes) -> None:
        assert not resembles_ours(cookie)

    def test_the_way_through_a_quoted_value_is_closed(self) -> None:
        """Cookies in front and behind make some parsers take all between for one value, which a page may show."""
        field = b'a="; ' + fields_of(session=SESSION, token=TOKEN) + b'; z="'
        cookies = read_cookies([field], NAMES)
        assert (cookies.session, cookies.token) == (SESSION, TOKEN)
        assert cookies.others == b'a="; z="'


def parse_as_simple_cookie(field: str) -> dict[str, str]:
    jar = http.cookies.SimpleCookie()
    try:
        jar.load(field)
    except http.cookies.CookieError:
        return {}
    return {name: morsel.value for name, morsel in jar.items()}


PARSERS: list[Callable[[str], dict[str, str]]] = [
    parse_as_simple_cookie,
    parse_as_starlette,
    parse_as_django,
    lambda field: dict(parse_as_werkzeug(field)),
    lambda field: {name: morsel.value for name, morsel in parse_cookie_header(field)},
]

#: What cookie fields are made of, and what confuses parsers.
PIECES = st.sampled_from(
    [
        *[getattr(names, kind) for names in (NAMES, LOCAL) for kind in ("session", "token", "device", "flow")],
        *(b"=", b"=", b";", b"; ", b" ", b"\t", b",", b'"', b"\\", b"$", b"a", b"a=b", SESSION, TOKEN),
        *(b"\xa0", b"\x85", b"\x00", b"\x0b", b"\x1f", b"\xc2\xa0", b"\xe2\x80\x8b", b"\xef\xbb\xbf", b"%2D"),
        *(b"__host-", b"__Host-", b"Ostiary-Session", b"OSTIARY-TOKEN", b"ostiary-session-1", b"-1", b"-"),
    ]
)
FIELDS = st.lists(st.lists(PIECES | st.binary(max_size=3), max_size=12).map(b"".join), max_size=3)


class TestAnyField:
    @given(FIELDS)
    def test_no_parser_takes_for_ours_what_is_passed_on(self, fields: list[bytes]) -> None:
        try:
            others = read_cookies(fields, NAMES).others
        except RepeatedCookie:
            return
        for encoding, parse in product(("latin-1", "utf-8"), PARSERS):
            for name in parse(others.decode(encoding, "replace")):
                plain = name.strip().strip("\x00").strip().casefold().encode("utf-8", "replace")
                assert plain not in {each.lower() for each in NAMES.every | LOCAL.every}

    @given(FIELDS)
    def test_a_session_is_read_from_its_exact_name_only(self, fields: list[bytes]) -> None:
        parts = [part.strip(b" \t") for field in fields for part in field.split(b";")]
        exact = [part.partition(b"=")[2] for part in parts if part.startswith(NAMES.session + b"=")]
        try:
            cookies = read_cookies(fields, NAMES)
        except RepeatedCookie:
            names = [part.partition(b"=")[0] for part in parts if b"=" in part]
            assert any(names.count(name) > 1 for name in NAMES.every)
            return
        assert exact == [cookies.session] or not cookies.session
        assert cookies.session == SESSION or exact != [SESSION]
        assert cookies.session.startswith(cookies.session_id.encode())

    @given(FIELDS)
    def test_no_secret_is_left_in_what_is_passed_on(self, fields: list[bytes]) -> None:
        try:
            cookies = read_cookies([*fields, b"x=1; " + NAMES.session + b"=" + SESSION.replace(b"s", b"Z")], NAMES)
        except RepeatedCookie:
            return
        assert b"Z" * 43 not in cookies.others

    @given(st.lists(st.sampled_from([b"a=1", b"b=2; c", b'd="x;y"', b"\xff", b"ostiary=1"]), min_size=1, max_size=5))
    def test_fields_without_ours_are_passed_on_as_they_came(self, fields: list[bytes]) -> None:
        assert read_cookies(fields, NAMES).others == b"; ".join(fields)


class TestSetting:
    def test_attributes_are_spelled_out(self) -> None:
        assert set_cookie(NAMES.session, SESSION, 600, is_secure=True) == (
            NAMES.session + b"=" + SESSION + b"; Path=/; Max-Age=600; HttpOnly; SameSite=Lax; Secure"
        )

    def test_without_an_age_it_ends_with_the_browser(self) -> None:
        assert set_cookie(b"n", b"v", None, is_secure=False) == b"n=v; Path=/; HttpOnly; SameSite=Lax"

    def test_an_age_of_nothing_deletes(self) -> None:
        assert b"; Max-Age=0;" in set_cookie(b"n", b"", 0, is_secure=True)

    def test_what_is_set_is_read(self) -> None:
        cookie = set_cookie(NAMES.session, SESSION, 600, is_secure=True).partition(b";")[0]
        assert read_cookies([cookie], NAMES).session == SESSION


class TestOrigins:
    @pytest.mark.parametrize(
        "origin", ["https://app.example", "HTTPS://App.Example:8443", "http://localhost:8083", "http://[::1]:8083"]
    )
    def test_they_are_taken_as_browsers_send_them(self, origin: str) -> None:
        cookies = BrowserCookies(origin, trusted_origins=["https://Admin.example"])
        assert cookies.origin == origin.lower().encode()
        assert cookies.trusts(b"https://admin.example")
        assert not cookies.trusts(cookies.origin)

    def test_the_names_are_those_of_the_auth_service(self) -> None:
        assert BrowserCookies("http://localhost:8083", issuer="http://localhost:8080").names == LOCAL
        assert BrowserCookies("https://app.example").names == NAMES

    @pytest.mark.parametrize(
        "origin",
        [
            "",
            "null",
            "app.example",
            "https://",
            "https://app.example/",
            "https://app.example:443",
            "https://*.example",
            "https://user@app.example",
            "https://app.example?x",
            "https://bücher.example",
            "ftp://app.example",
        ],
    )
    def test_what_no_browser_sends_is_an_error(self, origin: str) -> None:
        with pytest.raises(ValueError, match="not an origin"):
            BrowserCookies("https://app.example", trusted_origins=[origin])

    def test_cookies_over_plain_http_are_an_error(self) -> None:
        with pytest.raises(ValueError, match="https issuer"):
            BrowserCookies("http://app.example")


OWN = b"https://app.example"
TRUSTED = b"https://trusted.example"

#: Every form of `Origin`, by whether it is the site's own.
OWN_ORIGINS = [OWN, b"HTTPS://App.Example", b"https://APP.EXAMPLE"]
FOREIGN_ORIGINS = [
    b"",
    b"null",
    b"https://evil.example",
    b"https://sibling.app.example",
    b"https://example",
    b"https://app.example.evil.example",
    b"https://evilapp.example",
    b"http://app.example",
    b"https://app.example:443",
    b"https://app.example:8443",
    b"https://app.example.",
    b"https://app.example/",
    b"https://app.example@evil.example",
    b"https://app.example https://evil.example",
    b"https://app.example, https://evil.example",
    b"https://app.example,https://app.example",
    b"https://\xc3\xa4pp.example",
    b"https://xn--pp-uia.example",
    b"app.example",
    b"NULL",
    b"file://",
]
OTHER_SITES = [
    b"same-site",
    b"cross-site",
    b"",
    b"Same-Origin",
    b"SAME-ORIGIN",
    b"None",
    b"same-origin, cross-site",
    b"same-origin,same-origin",
    b"same-origin;x",
    b'"same-origin"',
    b"?1",
]
UNSAFE = ["POST", "PUT", "PATCH", "DELETE", "PROPFIND", "QUERY", "TRACE", "CONNECT", "get", "Head"]
READING = ["GET", "HEAD", "OPTIONS"]
FORM_TYPES = [
    b"",
    b"text/plain",
    b"TEXT/PLAIN",
    b"text/plain; charset=utf-8",
    b" text/plain ;x",
    b"text/plain, application/json",
    b"application/x-www-form-urlencoded",
    b"multipart/form-data; boundary=x",
]
SCRIPT_TYPES = [b"application/json", b"application/json, text/plain", b"text/html", b"text/plainx", b"application/xml"]


def verdict(
    method: str,
    site: bytes | None = None,
    origin: bytes | None = None,
    others: dict[bytes, bytes] | None = None,
    *,
    own: bytes = OWN,
    is_websocket: bool = False,
    embeds_same_site: bool = False,
) -> Verdict:
    fields = {b"sec-fetch-site": site, b"origin": origin, **(others or {})}
    sent = {name: value for name, value in fields.items() if value is not None}
    trusted = {TRUSTED, b"https://xn--trsted-3ya.example"}
    return judge(method, sent, own, trusted.__contains__, is_websocket=is_websocket, embeds_same_site=embeds_same_site)


ANY_ORIGIN = [None, *OWN_ORIGINS, *FOREIGN_ORIGINS]
ANY_SITE = [None, b"same-origin", b"none", *OTHER_SITES]
NAVIGATION = {b"sec-fetch-mode": b"navigate", b"sec-fetch-dest": b"document"}


def typed(content_type: bytes) -> dict[bytes, bytes]:
    return {b"content-type": content_type}


class TestUnsafeMethods:
    @pytest.mark.parametrize("method", UNSAFE)
    @pytest.mark.parametrize("site", [b"same-origin", b"none"])
    def test_what_the_site_itself_or_the_person_sends_counts(self, method: str, site: bytes) -> None:
        for origin in ANY_ORIGIN:
            assert verdict(method, site, origin) is Verdict.COUNTS

    @pytest.mark.parametrize("method", UNSAFE)
    @pytest.mark.parametrize("site", OTHER_SITES)
    def test_what_another_site_sends_is_refused_whatever_else_it_says(self, method: str, site: bytes) -> None:
        for origin, content_type in product(ANY_ORIGIN, [b"application/json", b"text/plain"]):
            assert verdict(method, site, origin, typed(content_type)) is Verdict.REFUSED
            assert verdict(method, site, origin, {**typed(content_type), **NAVIGATION}) is Verdict.REFUSED
            assert verdict(method, site, origin, embeds_same_site=True) is Verdict.REFUSED

    @pytest.mark.parametrize("method", UNSAFE)
    @pytest.mark.parametrize("origin", OWN_ORIGINS)
    def test_an_old_browser_shows_the_sites_own_origin(self, method: str, origin: bytes) -> None:
        assert verdict(method, None, origin) is Verdict.COUNTS

    @pytest.mark.parametrize("method", UNSAFE)
    @pytest.mark.parametrize("origin", FOREIGN_ORIGINS)
    def test_an_old_browser_shows_the_origin_of_another_site(self, method: str, origin: bytes) -> None:
        for content_type in (b"application/json", b"text/plain"):
            assert verdict(method, None, origin, typed(content_type)) is Verdict.REFUSED

    @pytest.mark.parametrize("method", [*UNSAFE, *READING])
    @pytest.mark.parametrize("origin", [TRUSTED, TRUSTED.upper(), b"https://xn--trsted-3ya.example"])
    @pytest.mark.parametrize("site", [None, *OTHER_SITES])
    def test_pages_of_trusted_origins_may(self, method: str, origin: bytes, site: bytes | None) -> None:
        assert verdict(method, site, origin) is Verdict.COUNTS
        assert verdict(method, site, origin, is_websocket=True) is Verdict.COUNTS

    @pytest.mark.parametrize("content_type", FORM_TYPES)
    def test_what_a_form_of_a_very_old_browser_may_have_sent_is_refused(self, content_type: bytes) -> None:
        assert verdict("POST", None, None, typed(content_type)) is Verdict.REFUSED
        assert verdict("POST") is Verdict.REFUSED

    @pytest.mark.parametrize("content_type", SCRIPT_TYPES)
    def test_what_no_form_can_send_counts(self, content_type: bytes) -> None:
        assert verdict("POST", None, None, typed(content_type)) is Verdict.COUNTS

    @pytest.mark.parametrize("method", [method for method in UNSAFE if method != "POST"])
    def test_no_form_has_another_method(self, method: str) -> None:
        for content_type in FORM_TYPES:
            assert verdict(method, None, None, typed(content_type)) is Verdict.COUNTS

    def test_another_port_of_this_machine_is_another_origin(self) -> None:
        own = b"http://localhost:8080"
        assert verdict("POST", None, own, own=own) is Verdict.COUNTS
        for origin in (b"http://localhost", b"http://localhost:80", b"http://localhost:8081", b"http://127.0.0.1:8080"):
            assert verdict("POST", None, origin, own=own) is Verdict.REFUSED

    def test_an_international_name_is_compared_as_browsers_send_it(self) -> None:
        own = b"https://xn--bcher-kva.example"
        assert verdict("POST", None, own.upper(), own=own) is Verdict.COUNTS
        assert verdict("POST", None, "https://bücher.example".encode(), own=own) is Verdict.REFUSED


class TestReadingMethods:
    @pytest.mark.parametrize("method", READING)
    def test_the_sites_own_pages_may(self, method: str) -> None:
        for site, origin in product([b"same-origin", b"none"], ANY_ORIGIN):
            assert verdict(method, site, origin) is Verdict.COUNTS
        for origin in OWN_ORIGINS:
            assert verdict(method, None, origin) is Verdict.COUNTS
        assert verdict(method) is Verdict.COUNTS

    @pytest.mark.parametrize("method", READING)
    @pytest.mark.parametrize("site", OTHER_SITES)
    def test_a_link_from_another_site_leads_into_the_session(self, method: str, site: bytes) -> None:
        for origin in ANY_ORIGIN:
            assert verdict(method, site, origin, NAVIGATION) is Verdict.COUNTS

    @pytest.mark.parametrize("method", READING)
    @pytest.mark.parametrize(
        ("mode", "dest"),
        [
            (None, None),
            (b"navigate", None),
            (None, b"document"),
            (b"navigate", b"iframe"),
            (b"navigate", b"frame"),
            (b"navigate", b"embed"),
            (b"navigate", b"object"),
            (b"navigate", b"empty"),
            (b"no-cors", b"document"),
            (b"no-cors", b"image"),
            (b"no-cors", b"script"),
            (b"no-cors", b"style"),
            (b"no-cors", b"video"),
            (b"cors", b"empty"),
            (b"same-origin", b"empty"),
            (b"Navigate", b"document"),
            (b"navigate, navigate", b"document"),
        ],
    )
    def test_what_another_site_embeds_is_read_without_the_session(
        self, method: str, mode: bytes | None, dest: bytes | None
    ) -> None:
        fields = {b"sec-fetch-mode": mode, b"sec-fetch-dest": dest}
        sent = {name: value for name, value in fields.items() if value is not None}
        for site, origin in product(OTHER_SITES, ANY_ORIGIN):
            assert verdict(method, site, origin, sent) is Verdict.ABSENT
            embedded = verdict(method, site, origin, sent, embeds_same_site=True)
            assert embedded is (Verdict.COUNTS if site == b"same-site" else Verdict.ABSENT)

    @pytest.mark.parametrize("method", READING)
    @pytest.mark.parametrize("origin", FOREIGN_ORIGINS)
    def test_an_old_browser_that_shows_another_origin_reads_without_the_session(
        self, method: str, origin: bytes
    ) -> None:
        assert verdict(method, None, origin) is Verdict.ABSENT
        assert verdict(method, None, origin, NAVIGATION) is Verdict.ABSENT
        assert verdict(method, None, origin, embeds_same_site=True) is Verdict.ABSENT


class TestHandshakes:
    def test_those_of_the_sites_own_pages_count(self) -> None:
        for site, origin in product([b"same-origin", b"none"], ANY_ORIGIN):
            assert verdict("GET", site, origin, is_websocket=True) is Verdict.COUNTS
        for origin in OWN_ORIGINS:
            assert verdict("GET", None, origin, is_websocket=True) is Verdict.COUNTS

    def test_what_is_no_browser_counts(self) -> None:
        assert verdict("GET", is_websocket=True) is Verdict.COUNTS
        assert verdict("POST", is_websocket=True) is Verdict.COUNTS

    def test_all_others_are_refused(self) -> None:
        for site, origin in product(OTHER_SITES, ANY_ORIGIN):
            assert verdict("GET", site, origin, NAVIGATION, is_websocket=True) is Verdict.REFUSED
            assert verdict("GET", site, origin, is_websocket=True, embeds_same_site=True) is Verdict.REFUSED
        for origin in FOREIGN_ORIGINS:
            assert verdict("GET", None, origin, is_websocket=True) is Verdict.REFUSED


#: From published lists of open redirects; each would lead elsewhere in some browser, or once it is decoded.
OPEN_REDIRECTS = [
    "",
    "evil.example",
    ".evil.example",
    "@evil.example",
    "https://evil.example",
    "https:evil.example",
    "https:/evil.example",
    "HTTPS://evil.example/",
    "//evil.example",
    "///evil.example",
    "////evil.example/%2e%2e",
    "//evil.example/..;/css",
    "//evil%E3%80%82example",
    "/\\evil.example",
    "\\/evil.example",
    "\\\\evil.example",
    "/\\/evil.example/",
    "/a\\b",
    "/\t/evil.example",
    "/\n/evil.example",
    "/\r\n/evil.example",
    "\t//evil.example",
    " //evil.example",
    " /path",
    "/path ",
    "/%09/evil.example",
    "/%0a/evil.example",
    "/%0D%0ASet-Cookie:x=1",
    "/%00/evil.example",
    "/%5cevil.example",
    "/%5Cevil.example",
    "/a/%5C%5Cevil.example",
    "/%2f/evil.example",
    "/%2F%2Fevil.example",
    "/./\\evil.example",
    "/.//evil.example",
    "/..//evil.example",
    "/a/..//evil.example",
    "/%2e//evil.example",
    "/%2E%2e//evil.example",
    "/.%2e//evil.example",
    "/a/..",
    "/.",
    "/a/../b",
    "/a\r\nSet-Cookie: x=1",
    "/a\x00b",
    "/a\x7fb",
    "/a\x85b",
    "/a\xa0b",
    "/\u2028/evil.example",
    "/\u3002evil.example",
    "/\uff0f/evil.example",
    "/\uff3cevil.example",
    "/größe",
    "/a<script>",
    '/a"onmouseover="x',
    "javascript:alert(1)",
    "javascript://evil.example/%0aalert(1)",
    "data:text/html,x",
    "http:/\\evil.example",
    "//evil.example@app.example",
    "//app.example",
    "https://app.example/path",
    "/" + "a" * MAX_RETURN_CHARACTERS,
    "/path\n",
]


def test_problems_and_limits_are_as_documented() -> None:
    found = [(each.status, each.code) for each in (REPEATED_COOKIE, SESSION_ENDED, CROSS_SITE_REQUEST)]
    assert found == [(400, "repeated_cookie"), (401, "session_ended"), (403, "cross_site_request")]
    assert SESSION_ENDED.headers == {"WWW-Authenticate": 'Bearer realm="ostiary"'}
    assert (MAX_COOKIE_BYTES, MAX_RETURN_CHARACTERS) == (4096, 2048)


class TestReturnPaths:
    @pytest.mark.parametrize("path", OPEN_REDIRECTS)
    def test_what_could_lead_elsewhere_is_none(self, path: str) -> None:
        assert not is_return_path(path)

    @pytest.mark.parametrize(
        "path",
        [
            "/",
            "/profile",
            "/a/b/",
            "/a?b=c&d=/e/../f",
            "/a?return_to=//evil.example",
            "/a?x=%0d%0a%5c%2f",
            "/?",
            "/a//b",
            "/a%2Fb/%20/%C3%A4",
            "/.well-known/x",
            "/...",
            "/a.b/..c",
            "/@user/~me/(x)'!*,;=:$&+",
            "/a?q={x}|[y]^`z",
            "/app#/profile/../x",
            "/:80",
            "/" + "a" * (MAX_RETURN_CHARACTERS - 1),
        ],
    )
    def test_what_people_come_from_is_one(self, path: str) -> None:
        assert is_return_path(path)

    @given(st.text(st.sampled_from("/\\.:?#@%2fF5cC09eE a\t\r\n\x00\xa0\u2028ä-_")).map("/".__add__) | st.text())
    def test_all_stay_at_their_origin_when_they_are_followed_and_decoded(self, path: str) -> None:
        if not is_return_path(path):
            return
        base = "https://app.example/login"
        for url in (urljoin(base, path), str(URL(base).join(URL(path, encoded=True)))):
            assert url.startswith("https://app.example/")
            assert not url.startswith("https://app.example//")
