"""Attacks on browser sessions, each judged by the bytes that a service behind the gateway saw."""

import json
import re
import secrets
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import product
from pathlib import Path

import pytest
from clusters import wait_until
from people import PASSWORD
from session_site import (
    HOST,
    KINDS,
    ORIGIN,
    OWN,
    SECRET_LENGTH,
    SESSION,
    TOKEN,
    Answer,
    Cookies,
    Site,
    caller_of,
    cookie,
    cookies_seen,
    named,
    shape,
    values_of,
)
from upstreams import OK, name_of


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with Site(tmp_path_factory.mktemp("site")).running() as site:
        yield site


@pytest.fixture(scope="module")
def victim(site: Site) -> Cookies:
    return site.person()


@pytest.fixture(scope="module")
def attacker(site: Site) -> Cookies:
    return site.person()


#: How names that a browser lets others set, or that parsers confuse with ours, differ from ours.
LOOKALIKES: list[tuple[str, Callable[[bytes], bytes]]] = [
    ("without the prefix", lambda name: name.removeprefix(b"__Host-")),
    ("with the prefix that subdomains may use", lambda name: name.replace(b"__Host-", b"__Secure-")),
    ("of another issuer", lambda name: name.removeprefix(b"__Host-") + b"-8080"),
    ("in lower case", bytes.lower),
    ("in upper case", bytes.upper),
    ("after U+00A0", lambda name: b"\xa0" + name),
    ("after U+00A0 in UTF-8", lambda name: b"\xc2\xa0" + name),
    ("after U+2003", lambda name: b"\xe2\x80\x83" + name),
    ("before U+0085", lambda name: name + b"\x85"),
    ("before a space", lambda name: name + b" "),
    ("without a name", lambda name: b"=" + name),
    ("in the value of another", lambda name: b"a=b " + name),
    ("after a comma", lambda name: b"a=b," + name),
    ("with a ligature", lambda name: name.replace(b"st", b"\xef\xac\x86")),
]


class TestTossedCookies:
    """RFC 6265bis section 8.6: cookies that a sibling subdomain, or somebody on the network, has set."""

    @pytest.mark.parametrize("change", [each for _, each in LOOKALIKES], ids=[what for what, _ in LOOKALIKES])
    @pytest.mark.parametrize("is_first", [False, True])
    def test_the_victims_session_goes_on(
        self, site: Site, victim: Cookies, attacker: Cookies, change: Callable[[bytes], bytes], is_first: bool
    ) -> None:
        tossed = [named(change(SESSION), attacker.session), named(change(TOKEN), attacker.token)]
        values = [*tossed, victim.pair, b"theme=dark"] if is_first else [victim.pair, *tossed, b"theme=dark"]
        answer, seen = site.attack("private", cookie(*values))
        assert (answer.status, caller_of(seen), cookies_seen(seen)) == (200, victim.user, b"theme=dark")

    @pytest.mark.parametrize("change", [each for _, each in LOOKALIKES], ids=[what for what, _ in LOOKALIKES])
    def test_nobody_is_logged_in_by_it(self, site: Site, attacker: Cookies, change: Callable[[bytes], bytes]) -> None:
        tossed = [named(change(SESSION), attacker.session), named(change(TOKEN), attacker.token)]
        for kind, status in (("private", 401), ("optional", 200), ("public", 200), ("bearer", 401)):
            answer, seen = site.attack(kind, cookie(*tossed, b"theme=dark"))
            assert (answer.status, caller_of(seen)) == (status, None)
            assert seen is None or cookies_seen(seen) == b"theme=dark"

    @pytest.mark.parametrize("name", [SESSION, TOKEN])
    @pytest.mark.parametrize("are_apart", [False, True])
    def test_two_of_one_name_are_refused(
        self, site: Site, victim: Cookies, attacker: Cookies, name: bytes, are_apart: bool
    ) -> None:
        for other in (attacker, victim):
            again = named(name, other.session if name == SESSION else other.token)
            for values in ([victim.pair, again], [again, victim.pair]):
                fields = cookie(values[0]) + cookie(values[1]).removeprefix(OWN) if are_apart else cookie(*values)
                answer, seen = site.attack("private", fields)
                assert (answer.status, answer.code, seen) == (400, "repeated_cookie", None)

    @pytest.mark.parametrize(
        "value",
        [b'"%b"', b"%b\xa0", b" %b", b"%b=", b"%b,", b"%b\x80", b"x%b"],
        ids=["quoted", "U+00A0", "space", "equals", "comma", "byte", "longer"],
    )
    def test_a_value_in_another_form_is_none(self, site: Site, victim: Cookies, value: bytes) -> None:
        session = named(SESSION, value % victim.session)
        answer, seen = site.attack("private", cookie(session, named(TOKEN, victim.token)))
        if value.startswith(b" "):
            # RFC 6265 section 5.4 sends none, but `Cookie: name= value` has one, and it is not the session's.
            assert answer.status == 401
        assert (answer.status, answer.code, seen) == (401, "missing_token", None)

    @pytest.mark.parametrize("size", [4096, 20_000])
    def test_an_oversized_token_is_none(self, site: Site, victim: Cookies, size: int) -> None:
        values = [named(SESSION, victim.session), named(TOKEN, b"a" * size + b".b.c")]
        answer, seen = site.attack("private", cookie(*values))
        assert (answer.status, caller_of(seen), cookies_seen(seen)) == (200, victim.user, b"")

    def test_cookies_without_end_reach_nobody(self, site: Site, victim: Cookies) -> None:
        answer, seen = site.attack("private", cookie(victim.pair, named(b"a", b"x" * 200_000)))
        assert (answer.status, seen) == (431, None)

    def test_a_value_in_quotes_around_the_session_shows_nothing(self, site: Site, victim: Cookies) -> None:
        """Some parsers would make one value of all between, which a page might show to a script."""
        answer, seen = site.attack("private", cookie(b'a="', victim.pair, b'z="'))
        assert (answer.status, caller_of(seen), cookies_seen(seen)) == (200, victim.user, b'a="; z="')


class TestTokensOfOthers:
    def test_beside_ones_own_session_it_is_absent(self, site: Site, victim: Cookies, attacker: Cookies) -> None:
        values = [named(SESSION, attacker.session), named(TOKEN, victim.token)]
        answer, seen = site.attack("private", cookie(*values))
        assert (answer.status, caller_of(seen)) == (200, attacker.user)

    def test_beside_the_victims_session_nobody_else_is_seen(
        self, site: Site, victim: Cookies, attacker: Cookies
    ) -> None:
        """Who tosses a token of their own into the victim's browser does not get what the victim types."""
        values = [named(SESSION, victim.session), named(TOKEN, attacker.token)]
        answer, seen = site.attack("private", cookie(*values))
        assert (answer.status, caller_of(seen)) == (200, victim.user)

    def test_without_a_session_it_is_absent(self, site: Site, victim: Cookies) -> None:
        for kind, status in (("private", 401), ("optional", 200), ("bearer", 401)):
            answer, seen = site.attack(kind, cookie(named(TOKEN, victim.token)))
            assert (answer.status, caller_of(seen)) == (status, None)

    def test_a_token_that_nobody_signed_is_absent(self, site: Site, victim: Cookies, attacker: Cookies) -> None:
        head, _, signature = attacker.token.split(b".")
        forged = b".".join([head, victim.token.split(b".")[1], signature])
        answer, seen = site.attack("private", cookie(named(SESSION, attacker.session), named(TOKEN, forged)))
        assert (answer.status, caller_of(seen)) == (200, attacker.user)


class TestBearers:
    def test_a_bearer_is_decided_by_itself(self, site: Site, victim: Cookies, attacker: Cookies) -> None:
        bearer = b"Authorization: Bearer " + attacker.token + b"\r\n"
        for kind, values in product(("private", "bearer", "optional"), ([victim.pair], [victim.pair, victim.pair])):
            answer, seen = site.attack(kind, cookie(*values, b"theme=dark") + bearer)
            assert (answer.status, caller_of(seen), cookies_seen(seen)) == (200, attacker.user, b"theme=dark")
            assert answer.all("set-cookie") == []

    @pytest.mark.parametrize("value", [b"Bearer", b"bearer x", b"Bearer x.y.z", b"BEARER  {}", b"Bearer\t{}"])
    def test_an_invalid_bearer_does_not_fall_back_to_cookies(self, site: Site, victim: Cookies, value: bytes) -> None:
        for kind in ("private", "optional", "embed", "page"):
            answer, seen = site.attack(kind, cookie(victim.pair) + b"Authorization: " + value + b"\r\n")
            assert (answer.status, seen) == (401, None)

    def test_a_sessions_secret_is_no_bearer(self, site: Site, victim: Cookies) -> None:
        for value in (victim.session, *victim.secrets, victim.session_id):
            for kind in ("private", "optional", "bearer"):
                answer, seen = site.attack(kind, b"Authorization: Bearer " + value + b"\r\n")
                assert (answer.status, seen) == (401, None)

    def test_a_sessions_secret_is_no_refresh_token(self, site: Site, victim: Cookies) -> None:
        for value in (victim.session, *victim.secrets):
            body = json.dumps({"refresh_token": value.decode()}).encode()
            answer = site.ask("/auth/refresh", b"Content-Type: application/json\r\n", "POST", body)
            assert answer.status == 401
        assert caller_of(site.attack("private", cookie(victim.pair))[1]) == victim.user

    def test_nobody_outside_can_exchange_a_session(self, site: Site, victim: Cookies) -> None:
        body = json.dumps({"session": victim.session.decode()}).encode()
        for path in ("/sessions/exchange", "/session/exchange", "/auth/sessions/exchange"):
            answer = site.ask(path, b"Content-Type: application/json\r\n" + cookie(victim.pair), "POST", body)
            assert answer.status in {401, 404, 405}
            assert b"access_token" not in answer.body

    def test_what_a_browser_resends_by_itself_is_dropped(self, site: Site, victim: Cookies) -> None:
        answer, seen = site.attack("private", cookie(victim.pair) + b"Authorization: Basic dTpw\r\n")
        assert (answer.status, caller_of(seen)) == (200, victim.user)


HANDSHAKE = b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
HANDSHAKE += b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"

SIBLING = b"Sec-Fetch-Site: same-site\r\nOrigin: https://blog.app.example\r\n"
STRANGER = b"Sec-Fetch-Site: cross-site\r\nOrigin: https://evil.example\r\n"
UNSAFE = ["POST", "PUT", "PATCH", "DELETE", "PROPFIND"]


class TestRequestsOfOtherSites:
    @pytest.mark.parametrize("method", UNSAFE)
    @pytest.mark.parametrize(
        "fields",
        [
            SIBLING,
            STRANGER,
            b"Sec-Fetch-Site: same-site\r\n",
            b"Sec-Fetch-Site: cross-site\r\n",
            b"Sec-Fetch-Site: Same-Origin\r\n",
            b"Sec-Fetch-Site: same-origin\r\nSec-Fetch-Site: cross-site\r\n",
            b"Sec-Fetch-Site: cross-site\r\nSec-Fetch-Site: same-origin\r\n",
            b"Sec-Fetch-Site: cross-site\r\nOrigin: https://app.example\r\n",
            b"Origin: null\r\n",
            b"Origin: https://evil.example\r\n",
            b"Origin: https://blog.app.example\r\n",
            b"Origin: http://app.example\r\n",
            b"Origin: https://app.example:8443\r\n",
            b"Origin: https://app.example.evil.example\r\n",
            b"Origin: https://trusted.app.example.evil.example\r\n",
        ],
    )
    def test_what_they_would_change_reaches_nobody(
        self, site: Site, victim: Cookies, method: str, fields: bytes
    ) -> None:
        for kind in ("private", "optional", "embed", "page"):
            answer, seen = site.attack(kind, fields + cookie(victim.pair).removeprefix(OWN), method)
            assert (answer.status, answer.code, seen) == (403, "cross_site_request", None)

    def test_two_origins_reach_nobody(self, site: Site, victim: Cookies) -> None:
        for first, second in ((ORIGIN, "https://evil.example"), ("https://evil.example", ORIGIN), (ORIGIN, ORIGIN)):
            fields = f"Origin: {first}\r\nOrigin: {second}\r\n".encode()
            answer, seen = site.attack("private", fields + cookie(victim.pair).removeprefix(OWN), "POST")
            assert (answer.status, seen) == (400, None)

    @pytest.mark.parametrize("content_type", [b"", b"Content-Type: text/plain\r\n"])
    def test_a_form_of_an_old_browser_reaches_nobody(self, site: Site, victim: Cookies, content_type: bytes) -> None:
        answer, seen = site.attack("private", content_type + cookie(victim.pair).removeprefix(OWN), "POST")
        assert (answer.code, seen) == ("cross_site_request", None)

    def test_a_host_of_their_own_does_not_make_it_theirs(self, site: Site, victim: Cookies) -> None:
        """DNS rebinding, and a proxy that anybody can talk to: the own origin is not what a request says of itself."""
        name = secrets.token_hex(8)
        for extra in (
            b"X-Forwarded-Host: evil.example\r\n",
            b"X-Forwarded-Proto: https\r\n",
            b"Forwarded: host=evil.example\r\n",
        ):
            fields = b"Origin: https://evil.example\r\n" + extra + cookie(victim.pair).removeprefix(OWN)
            assert site.ask(f"/private/{name}", fields, "POST").code == "cross_site_request"
        head = b"POST /private/%b HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n" % name.encode()
        fields = b"Origin: https://evil.example\r\n" + cookie(victim.pair).removeprefix(OWN)
        assert Answer.parse(site.send(head + fields + b"\r\n")).status == 421
        assert not [each for each in site.upstream.received if name_of(each) == name]

    @pytest.mark.parametrize("fields", [SIBLING, STRANGER, b"Origin: https://evil.example\r\n", b"Origin: null\r\n"])
    def test_no_websocket_is_opened(self, site: Site, victim: Cookies, fields: bytes) -> None:
        answer, seen = site.attack("private", HANDSHAKE + fields + cookie(victim.pair).removeprefix(OWN))
        assert (answer.status, seen) == (403, None)

    @pytest.mark.parametrize("site_of_page", [b"same-site", b"cross-site"])
    @pytest.mark.parametrize(
        "what", [b"no-cors image", b"no-cors script", b"navigate iframe", b"navigate object", b"cors empty"]
    )
    def test_what_they_embed_looks_the_same_with_and_without_a_session(
        self, site: Site, victim: Cookies, site_of_page: bytes, what: bytes
    ) -> None:
        """XS-leaks: whether somebody is logged in, or who, must not show in a status, a size or a redirect."""
        mode, dest = what.split()
        fields = b"Sec-Fetch-Site: %b\r\nSec-Fetch-Mode: %b\r\nSec-Fetch-Dest: %b\r\n" % (site_of_page, mode, dest)
        for kind in ("private", "optional", "page"):
            with_cookies, seen = site.attack(kind, fields + b"Cookie: " + victim.pair + b"\r\n")
            without, _ = site.attack(kind, fields)
            assert caller_of(seen) is None
            assert shape(with_cookies) == shape(without)

    def test_a_link_leads_into_the_session(self, site: Site, victim: Cookies) -> None:
        fields = b"Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: document\r\n"
        answer, seen = site.attack("private", fields + b"Cookie: " + victim.pair + b"\r\n")
        assert (answer.status, caller_of(seen)) == (200, victim.user)

    def test_nobody_else_logs_people_in_or_out(self, site: Site, victim: Cookies) -> None:
        email = site.register()
        for fields in (SIBLING, STRANGER, b"Origin: https://evil.example\r\n", b"Origin: null\r\n"):
            answer = site.log_in(email, fields)
            assert (answer.status, answer.code, answer.all("set-cookie")) == (403, "cross_site_request", [])
            for path, method in (("/session", "DELETE"), ("/session/end", "POST")):
                form = b"Content-Type: application/x-www-form-urlencoded\r\n"
                answer = site.ask(path, fields + form + b"Cookie: " + victim.pair + b"\r\n", method)
                assert (answer.status, answer.all("set-cookie")) == (403, [])
        assert caller_of(site.attack("private", cookie(victim.pair))[1]) == victim.user

    def test_a_form_of_another_site_logs_nobody_in(self, site: Site) -> None:
        body = f"email={site.register()}&password={PASSWORD.replace(' ', '+')}&return_to=/".encode()
        form = b"Content-Type: application/x-www-form-urlencoded\r\n"
        for fields in (b"", SIBLING, STRANGER, b"Origin: null\r\n"):
            answer = site.ask("/session", fields + form, "POST", body)
            assert (answer.status, answer.all("set-cookie")) == (403, [])


class TestServices:
    @pytest.mark.parametrize("kind", list(KINDS))
    def test_what_a_service_sets_under_our_names_does_not_reach_the_browser(
        self, site: Site, victim: Cookies, kind: str
    ) -> None:
        names = [SESSION, TOKEN, b"__Host-ostiary-device", b"__Host-ostiary-flow"]
        lines = [named(change(name), b"x; Path=/") for name in names for _, change in LOOKALIKES]
        lines += [named(name, b"x; Path=/; Secure; HttpOnly") for name in names]
        fields = b"".join(b"Set-Cookie: " + line + b"\r\n" for line in [*lines, b"theme=dark; Path=/"])
        site.upstream.answer(
            name := secrets.token_hex(8), b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n" + fields + b"\r\n"
        )
        sent = b"Authorization: Bearer " + victim.token + b"\r\n" if kind == "bearer" else cookie(victim.pair)
        answer = site.ask(f"/{kind}/{name}", sent)
        assert (answer.status, answer.all("set-cookie")) == (200, ["theme=dark; Path=/"])

    def test_nor_does_it_in_interim_responses_trailers_and_handshakes(self, site: Site, victim: Cookies) -> None:
        ours = b"Set-Cookie: " + named(SESSION, b"x; Path=/; Secure") + b"\r\n"
        hints = b"HTTP/1.1 103 Early Hints\r\n" + ours + b"\r\n"
        chunked = (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: Set-Cookie\r\n\r\n2\r\nok\r\n0\r\n"
            + ours
            + b"\r\n"
        )
        for response in (hints + OK, chunked):
            site.upstream.answer(name := secrets.token_hex(8), response)
            received = site.raw(f"/private/{name}", cookie(victim.pair))
            assert b"ok" in received
            assert b"set-cookie" not in received.lower().replace(b"trailer: set-cookie", b"")
        # The key and its answer are those of RFC 6455 section 1.3.
        switching = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        switching += b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" + ours + b"\r\n"
        site.upstream.answer(name := secrets.token_hex(8), switching)
        head = (
            f"GET /private/{name} HTTP/1.1\r\nHost: {HOST}\r\n".encode() + HANDSHAKE + f"Origin: {ORIGIN}\r\n".encode()
        )
        received = site.switch(head + cookie(b"a=1", victim.pair) + b"\r\n")
        assert received.startswith(b"HTTP/1.1 101 ")
        assert b"set-cookie" not in received.lower()
        seen = site.upstream.last(name)
        assert (caller_of(seen), cookies_seen(seen)) == (victim.user, b"a=1")

    @pytest.mark.parametrize("kind", list(KINDS))
    def test_no_service_ever_gets_a_secret(self, site: Site, victim: Cookies, kind: str) -> None:
        for method, extra in product(("GET", "POST", "DELETE"), (b"", b"Authorization: Basic dTpw\r\n")):
            _, seen = site.attack(kind, cookie(b"a=1", victim.pair, b"__Host-ostiary-device=d") + extra, method)
            assert seen is None or cookies_seen(seen) == b"a=1"
            assert seen is None or victim.secrets[0] not in seen

    def test_who_is_not_asked_for_is_not_told(self, site: Site, victim: Cookies) -> None:
        _, seen = site.attack("public", cookie(victim.pair))
        assert caller_of(seen) is None


class TestInjection:
    @pytest.mark.parametrize("bad", [b"\n", b"\r", b"\x00", b"\r\n ", b"\n\t"])
    def test_no_line_ends_inside_a_cookie(self, site: Site, victim: Cookies, bad: bytes) -> None:
        for value in (victim.pair + bad + b"X-Evil: 1", b"a=" + bad + b"X-Evil: 1; " + victim.pair):
            answer, seen = site.attack("private", cookie(value))
            assert answer.status == 400 or seen is None or not values_of(seen, b"x-evil")

    @pytest.mark.parametrize(
        "path",
        [
            "//evil.example",
            "/\\evil.example",
            "https://evil.example",
            "/\t/evil.example",
            "/a\r\nSet-Cookie: x=1",
            "/%0d%0aSet-Cookie:x=1",
            "/%5Cevil.example",
            "/.//evil.example",
        ],
    )
    def test_no_login_leads_elsewhere(self, site: Site, path: str) -> None:
        email = site.register()
        encoded = "".join(f"%{byte:02x}" for byte in path.encode())
        form = b"Content-Type: application/x-www-form-urlencoded\r\n" + OWN
        for password, page, expected in ((PASSWORD, "", "/"), ("wrong password here", "/login", "/login?")):
            body = f"email={email}&password={password.replace(' ', '+')}&return_to={encoded}&login_page={page}"
            answer = site.ask("/session", form, "POST", body.encode())
            (location,) = answer.all("location")
            assert answer.status == 303
            assert location.startswith(expected)
            assert "evil" not in location
            assert "x=1" not in str(answer.all("set-cookie"))
        body = f"email={email}&password=wrong+password+here&login_page={encoded}"
        answer = site.ask("/session", form, "POST", body.encode())
        assert answer.all("location") == []

    def test_no_page_leads_elsewhere(self, site: Site) -> None:
        navigation = b"Sec-Fetch-Site: none\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: document\r\n"
        for path in ("/page//evil.example", "/page/x?next=//evil.example", "/page/x?a=%0d%0aSet-Cookie:x=1"):
            answer = site.ask(path, navigation)
            assert answer.all("set-cookie") == []
            for location in answer.all("location"):
                assert re.fullmatch(r"/login(\?return_to=%2Fpage%2F[A-Za-z0-9%._~-]*)?", location)


class TestGuessing:
    def test_a_guess_opens_nothing_and_the_owner_is_not_disturbed(self, site: Site) -> None:
        owner = site.person()
        for _ in range(60):
            guess = owner.session_id + b"." + secrets.token_urlsafe(32).encode()
            answer, seen = site.attack("private", cookie(named(SESSION, guess)))
            assert answer.status in {401, 429}
            assert seen is None
        # Without a token, so that it has to be exchanged.
        answer, seen = site.attack("private", cookie(named(SESSION, owner.session)))
        assert (answer.status, caller_of(seen)) == (200, owner.user)

    def test_an_answer_does_not_tell_which_sessions_there_are(self, site: Site, victim: Cookies) -> None:
        guess = secrets.token_urlsafe(32).encode()
        unknown = victim.session_id[:-4] + (b"0000" if victim.session_id[-4:] != b"0000" else b"1111")
        answers = [
            site.attack("private", cookie(named(SESSION, session_id + b"." + guess)))[0]
            for session_id in (victim.session_id, unknown)
        ]
        assert shape(answers[0]) == shape(answers[1])

    def test_no_secret_is_known_by_its_beginning(self, site: Site, victim: Cookies) -> None:
        secret = victim.secrets[0]
        assert len(secret) == SECRET_LENGTH
        last = b"A" if secret[-1:] != b"A" else b"B"
        for guess in (secret[:-1] + last, secret.swapcase(), secret[::-1], b"A" * SECRET_LENGTH):
            answer, seen = site.attack("private", cookie(named(SESSION, victim.session_id + b"." + guess)))
            assert (answer.status, answer.code, seen) == (401, "session_ended", None)

    def test_a_login_ends_the_session_that_was_there(self, site: Site, attacker: Cookies) -> None:
        """Session fixation: whoever plants a session of their own does not get into that of the victim."""
        planted = site.person()
        victim = site.cookies_of(site.log_in(site.register(), cookie(planted.pair)))
        assert victim.session_id != planted.session_id
        assert victim.secrets != planted.secrets
        wait_until(
            lambda: site.attack("private", cookie(planted.pair))[0].status == 401, "the planted session has ended"
        )
        assert caller_of(site.attack("private", cookie(victim.pair))[1]) == victim.user
        assert caller_of(site.attack("private", cookie(attacker.pair))[1]) == attacker.user


class TestReplay:
    def test_after_a_logout_nothing_of_it_opens_anything(self, site: Site) -> None:
        person = site.person()
        fields = cookie(person.pair) + b"Prefer: wait=30\r\n"
        answer = site.ask("/session", fields, "DELETE")
        assert answer.status == 200, answer.body
        assert answer.all("clear-site-data") == ['"cache"']
        for values in ([person.pair], [named(SESSION, person.session)], [named(TOKEN, person.token)]):
            answer, seen = site.attack("private", cookie(*values))
            assert (answer.status, seen, answer.all("set-cookie")) == (401, None, [])
            answer, seen = site.attack("optional", cookie(*values))
            assert (answer.status, caller_of(seen)) == (200, None)
        answer, seen = site.attack("bearer", b"Authorization: Bearer " + person.token + b"\r\n")
        assert (answer.status, answer.code, seen) == (401, "revoked", None)

    def test_a_logout_that_the_browser_does_not_obey_ends_it_all_the_same(self, site: Site) -> None:
        person = site.person()
        site.ask("/session", cookie(named(SESSION, person.session)) + b"Prefer: wait=30\r\n", "DELETE")
        answer, _ = site.attack("private", cookie(person.pair))
        assert (answer.status, answer.code) == (401, "session_ended")

    def test_after_a_change_of_the_password_what_was_copied_opens_nothing(self, site: Site) -> None:
        copied = site.person()
        body = json.dumps({"current_password": PASSWORD, "new_password": f"another {PASSWORD}"}).encode()
        fields = b"Content-Type: application/json\r\nPrefer: wait=30\r\n" + cookie(copied.pair)
        answer = site.ask("/auth/password", fields, "POST", body)
        assert answer.status in {200, 204}, answer.body
        jar = dict(value.partition(";")[0].split("=", 1) for value in answer.all("set-cookie"))
        renewed = Cookies(copied.user, jar[SESSION.decode()].encode(), jar[TOKEN.decode()].encode())
        assert renewed.session_id == copied.session_id
        for values in ([copied.pair], [named(SESSION, copied.session)]):
            answer, seen = site.attack("private", cookie(*values))
            assert (answer.status, answer.code, seen) == (401, "session_ended", None)
        answer, seen = site.attack("private", cookie(renewed.pair))
        assert (answer.status, caller_of(seen)) == (200, renewed.user)

    def test_a_session_does_not_come_back_with_the_next_login(self, site: Site) -> None:
        email = site.register()
        old = site.cookies_of(site.log_in(email))
        site.ask("/session", cookie(old.pair) + b"Prefer: wait=30\r\n", "DELETE")
        new = site.cookies_of(site.log_in(email))
        mixed = [named(SESSION, new.session), named(TOKEN, old.token)]
        answer, seen = site.attack("private", cookie(*mixed))
        assert (answer.status, caller_of(seen)) == (200, new.user)
        mixed = [named(SESSION, old.session), named(TOKEN, new.token)]
        answer, seen = site.attack("private", cookie(*mixed))
        assert (answer.status, answer.code, seen) == (401, "session_ended", None)


class TestHopByHop:
    """RFC 9110 section 7.6.1: what `Connection` names is removed, but not what the gateway has decided by."""

    @pytest.mark.parametrize("option", [b"Authorization", b"Cookie", b"Sec-Fetch-Site", b"Origin"])
    def test_no_client_takes_the_credential_off_on_its_way(self, site: Site, victim: Cookies, option: bytes) -> None:
        for kind in ("private", "optional"):
            fields = b"Connection: " + option + b"\r\n" + cookie(victim.pair)
            answer, seen = site.attack(kind, fields)
            assert answer.status == 400 or caller_of(seen) == victim.user
            answer, seen = site.attack(
                kind, STRANGER + b"Connection: " + option + b"\r\nCookie: " + victim.pair + b"\r\n", "POST"
            )
            assert answer.status in {400, 403}
            assert seen is None


class TestRenewedTokens:
    """What goes to the browser with a response that somebody else might get, too."""

    @pytest.mark.parametrize(
        ("response", "is_set", "is_private"),
        [
            (b"HTTP/1.1 200 OK\r\n", True, True),
            (b"HTTP/1.1 200 OK\r\nCache-Control: private, max-age=60\r\n", True, True),
            (b"HTTP/1.1 404 Not Found\r\nCache-Control: no-store\r\n", True, True),
            (b"HTTP/1.1 302 Found\r\nLocation: /x\r\n", True, True),
            (b"HTTP/1.1 200 OK\r\nCache-Control: public, max-age=60\r\n", False, False),
            (b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nCache-Control: PUBLIC\r\n", False, False),
            (b"HTTP/1.1 200 OK\r\nCache-Control: s-maxage=60\r\n", False, False),
            (b"HTTP/1.1 200 OK\r\nCache-Control: max-age=1,S-MaxAge = 60\r\n", False, False),
            (b'HTTP/1.1 200 OK\r\nCache-Control: s-maxage="60"\r\n', False, False),
            (b"HTTP/1.1 304 Not Modified\r\nETag: x\r\n", False, True),
        ],
    )
    def test_none_goes_where_a_cache_may_keep_it(
        self, site: Site, response: bytes, is_set: bool, is_private: bool
    ) -> None:
        person = site.person()
        end = b"\r\n" if b" 304 " in response else b"Content-Length: 0\r\n\r\n"
        site.upstream.answer(
            name := secrets.token_hex(8), b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + response + end
        )
        received = site.raw(f"/private/{name}", cookie(named(SESSION, person.session)))
        hints, _, rest = received.partition(b"\r\n\r\n")
        assert b"set-cookie" not in hints.lower()
        answer = Answer.parse(rest)
        assert (TOKEN.decode() in "".join(answer.all("set-cookie"))) is is_set
        assert SESSION.decode() not in "".join(answer.all("set-cookie"))
        assert "Cookie" in answer.all("vary")[0]
        directives = ",".join(answer.all("cache-control")).lower()
        assert ("private" in directives) is is_private


class Collector:
    """Takes traces, as they are on the wire."""

    def __init__(self) -> None:
        received: list[bytes] = []
        self.received = received

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                received.append(self.rfile.read(int(self.headers["Content-Length"])))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_arguments: object) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


class TestSecretsStaySecret:
    @pytest.fixture
    def collector(self) -> Iterator[Collector]:
        collector = Collector()
        yield collector
        collector.server.shutdown()
        collector.server.server_close()

    def test_no_log_no_trace_no_file_and_no_answer_has_them(self, tmp_path: Path, collector: Collector) -> None:
        endpoint = f"http://127.0.0.1:{collector.server.server_port}"
        own = Site(tmp_path, OSTIARY_GATEWAY_LOG_LEVEL="debug", OTEL_EXPORTER_OTLP_ENDPOINT=endpoint)
        with own.running() as site:
            person = site.person()
            (secret,), signature = person.secrets, person.token.rpartition(b".")[2]
            answers = []
            for kind, method in product(KINDS, ("GET", "POST")):
                attempts = (
                    cookie(person.pair),
                    STRANGER + cookie(person.pair).removeprefix(OWN),
                    cookie(person.pair, person.pair),
                    cookie(named(SESSION, person.session + b"\x00")),
                    cookie(named(SESSION, person.session + b"\xff")),
                    b"Authorization: Bearer " + person.session + b"\r\n",
                )
                answers += [site.raw(f"/{kind}/x", fields, method) for fields in attempts]
            answers.append(site.raw("/nowhere", cookie(person.pair)))
            answers.append(site.raw("/session", cookie(person.pair)))
            answers.append(site.raw("/session", cookie(person.pair), "DELETE"))
            for answer in answers:
                assert secret not in answer
                assert signature not in answer
            for service in ("gateway", "auth"):
                # The last spans are sent at the end.
                site.cluster.stop(service)
        assert collector.received
        written = [file.read_bytes() for file in site.cluster.data_dir.rglob("*") if file.is_file()]
        for content in (*written, *collector.received):
            assert secret not in content
            assert signature not in content
