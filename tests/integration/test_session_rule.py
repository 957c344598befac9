"""Any request: nothing but the rule of browser sessions has a bearer token reach a service.

What is expected is said here a second time, in the words of the routes file's reference and without the library's code.
"""

import secrets
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from session_site import ORIGIN, OWN, SESSION, TOKEN, Cookies, Site, caller_of, cookies_seen, named
from upstreams import name_of

#: Each takes some milliseconds.
EXAMPLES = 300

TRUSTED = "https://trusted.app.example"
FORM_TYPES = {None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"}


@dataclass(frozen=True)
class Fetched:
    """What a browser, or something else, says about a request."""

    method: str
    site: str | None
    origin: str | None
    mode: str | None
    dest: str | None
    content_type: str | None

    def fields(self) -> bytes:
        lines = {
            "Sec-Fetch-Site": self.site,
            "Origin": self.origin,
            "Sec-Fetch-Mode": self.mode,
            "Sec-Fetch-Dest": self.dest,
            "Content-Type": self.content_type,
        }
        return "".join(f"{name}: {value}\r\n" for name, value in lines.items() if value is not None).encode()

    def verdict(self, kind: str) -> str:
        """Return whether a cookie `counts`, is `absent` or makes the request `refused`."""
        if self.site in {"same-origin", "none"} or self.origin == TRUSTED:
            return "counts"
        if self.site is None and self.origin == ORIGIN:
            return "counts"
        if self.site is None and self.origin is None:
            return "refused" if self.method == "POST" and self.content_type in FORM_TYPES else "counts"
        if self.method not in {"GET", "HEAD"}:
            return "refused"
        if self.site is not None and (self.mode, self.dest) == ("navigate", "document"):
            return "counts"
        return "counts" if kind == "embed" and self.site == "same-site" else "absent"


FETCHED = st.builds(
    Fetched,
    method=st.sampled_from(["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "PROPFIND"]),
    site=st.sampled_from([None, None, "same-origin", "none", "same-site", "cross-site", "Same-Origin", "x"]),
    origin=st.sampled_from(
        [None, None, ORIGIN, TRUSTED, "null", "https://evil.example", "https://blog.app.example", f"{ORIGIN}:8443"]
    ),
    mode=st.sampled_from([None, "navigate", "navigate", "cors", "no-cors"]),
    dest=st.sampled_from([None, "document", "document", "iframe", "image", "empty"]),
    content_type=st.sampled_from([*sorted(filter(None, FORM_TYPES)), None, "application/json"]),
)

#: Cookies, by what they are; of which person is filled in.
COOKIES = st.lists(
    st.tuples(
        st.sampled_from(
            [*["session", "token"] * 3, "guessed", "quoted", "lower", "space", "nameless", "theme", "sandwich"]
        ),
        st.integers(0, 1),
    ),
    max_size=5,
)


def rendered(what: str, person: Cookies) -> bytes:
    guess = person.session_id + b"." + b"A" * 43
    return {
        "session": named(SESSION, person.session),
        "token": named(TOKEN, person.token),
        "guessed": named(SESSION, guess),
        "quoted": named(SESSION, b'"' + person.session + b'"'),
        "lower": named(SESSION.lower(), person.session),
        "space": named(b"\xa0" + TOKEN, person.token),
        "nameless": b"=" + named(SESSION, person.session),
        "theme": b"theme=dark",
        "sandwich": b'a="',
    }[what]


#: What is read from the cookie with the session's name, or the token's.
OF_SESSION, OF_TOKEN = {"session", "guessed", "quoted"}, {"token"}


def expected(
    kind: str, fetched: Fetched, cookies: list[tuple[str, int]], bearer: int | None
) -> tuple[set[int], int | None]:
    """Return the possible statuses, and whose bearer token the service gets."""
    if bearer is not None or kind == "public":
        return {200}, bearer
    nobody: tuple[set[int], int | None] = ({200} if kind == "optional" else {401, 303}, None)
    sessions = [each for each in cookies if each[0] in OF_SESSION]
    tokens = [each for each in cookies if each[0] in OF_TOKEN]
    if kind != "bearer" and (len(sessions) > 1 or len(tokens) > 1):
        return {400}, None
    what, person = sessions[0] if sessions else ("", 0)
    verdict = fetched.verdict(kind) if what in {"session", "guessed"} and kind != "bearer" else "absent"
    if verdict != "counts":
        return ({403}, None) if verdict == "refused" else nobody
    # A token of the session tells who it is; else only the secret does.
    return ({200}, person) if what == "session" or ("token", person) in tokens else nobody


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with Site(tmp_path_factory.mktemp("site")).running() as site:
        yield site


@pytest.fixture(scope="module")
def people(site: Site) -> tuple[Cookies, Cookies]:
    return site.person(), site.person()


@settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(["private", "private", "optional", "embed", "page", "public", "bearer"]),
    FETCHED,
    COOKIES,
    st.sampled_from([None, None, None, 0, 1]),
)
def test_a_service_sees_whom_the_rule_lets_it_see(
    site: Site,
    people: tuple[Cookies, Cookies],
    kind: str,
    fetched: Fetched,
    cookies: list[tuple[str, int]],
    bearer: int | None,
) -> None:
    fields = fetched.fields()
    if cookies:
        fields += b"Cookie: " + b"; ".join(rendered(what, people[who]) for what, who in cookies) + b"\r\n"
    if bearer is not None:
        fields += b"Authorization: Bearer " + people[bearer].token + b"\r\n"
    name = secrets.token_hex(8)
    answer = site.ask(f"/{kind}/{name}", fields, fetched.method)
    statuses, who = expected(kind, fetched, cookies, bearer)
    event(f"{kind}: {answer.status}")
    assert answer.status in statuses
    seen = next((each for each in site.upstream.received if name_of(each) == name), None)
    assert (seen is not None) is (answer.status == 200)
    assert caller_of(seen) == (None if who is None else people[who].user)
    if seen is not None:
        assert b"ostiary" not in cookies_seen(seen).lower()
        assert not any(person.secrets[0] in seen for person in people)
    site.upstream.received.clear()


#: What `Cookie` is made of, and what confuses parsers. The names of people stand for what their browsers have.
PIECES = st.sampled_from(
    [
        *("session 0", "session 1", "token 0", "token 1", "both 0", "both 1"),
        *(SESSION, TOKEN, SESSION.lower(), TOKEN.upper(), b"ostiary-session", b"a", b"a=b", b"Bearer "),
        *(b"=", b"=", b";", b"; ", b"; ", b" ", b"\t", b",", b'"', b"\\", b"$", b"%3B", b"%3D"),
        *(b"\xa0", b"\x85", b"\xc2\xa0", b"\xe2\x80\x8b", b"\xef\xbb\xbf"),
    ]
)


@settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(["private", "optional", "public", "bearer"]),
    st.lists(st.lists(PIECES, max_size=10), max_size=3),
)
def test_only_an_exact_cookie_opens_a_session(
    site: Site, people: tuple[Cookies, Cookies], kind: str, lines: list[list[bytes | str]]
) -> None:
    def bytes_of(piece: bytes | str) -> bytes:
        if isinstance(piece, bytes):
            return piece
        what, who = piece.split()
        person = people[int(who)]
        return {"session": person.session, "token": person.token, "both": person.pair}[what]

    values = [b"".join(bytes_of(piece) for piece in line).strip(b" \t") for line in lines]
    fields = OWN + b"".join(b"Cookie: " + value + b"\r\n" for value in values)
    answer = site.ask(f"/{kind}/{(name := secrets.token_hex(8))}", fields)
    seen = next((each for each in site.upstream.received if name_of(each) == name), None)
    site.upstream.received.clear()
    event(f"{kind}: {answer.status}")
    parts = [part.strip(b" \t") for value in values for part in value.split(b";")]
    found = [part.partition(b"=")[2] for part in parts if part.startswith(SESSION + b"=")]
    known = [person.user for person in people if [person.session] == found]
    if kind in {"public", "bearer"}:
        known = []
    assert answer.status in {200, 400, 401}
    assert caller_of(seen) == (known[0] if known and answer.status == 200 else None)
    if seen is not None:
        passed = {part.strip(b" \t") for part in cookies_seen(seen).split(b";")}
        assert passed.isdisjoint({named(SESSION, person.session) for person in people})
