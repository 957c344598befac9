"""The examples' answers, through the gateway and without it."""

import base64
import hashlib
import re
import signal
from collections.abc import Iterator
from contextlib import suppress

import httpx
import pytest
from clusters import NO_TLS, ROOT, client_of
from people import People, User
from sites import Site
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

#: Bytes of a page that a slow line takes in no time.
SMALL = 20_000


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with Site(tmp_path_factory.mktemp("site"), tls=False) as site:
        yield site


@pytest.fixture
def client(site: Site) -> Iterator[httpx.Client]:
    with client_of(site.url) as client:
        yield client


@pytest.fixture
def ada(client: httpx.Client) -> User:
    return People(client).new()


class TestSinglePageApplication:
    def test_the_policy_lets_in_the_page_s_own_script_and_style_only(self, client: httpx.Client) -> None:
        page = client.get("/")
        policy = dict(part.split(" ", 1) for part in page.headers["Content-Security-Policy"].split("; "))
        assert policy["default-src"] == "'none'"
        for name in ("script", "style"):
            (text,) = re.findall(rf"<{name}>(.*?)</{name}>", page.text, re.DOTALL)
            digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
            assert policy[f"{name}-src"] == f"'sha256-{digest}'"
        assert " style=" not in page.text
        assert not re.search(r" on\w+=", page.text.partition("<script>")[0])
        assert page.headers["X-Content-Type-Options"] == "nosniff"

    def test_it_asks_nobody_else_for_anything(self) -> None:
        text = (ROOT / "examples" / "spa" / "index.html").read_text()
        urls = set(re.findall(r"https?://[\w.-]+", text))
        # A name space of XML, and an example in words.
        assert urls == {"http://www.w3.org", "https://example.com."}

    def test_it_is_small_and_kept(self, client: httpx.Client) -> None:
        with client.stream("GET", "/", headers={"Accept-Encoding": "gzip"}) as page:
            assert page.headers["Content-Encoding"] == "gzip"
            assert len(b"".join(page.iter_raw())) < SMALL
        headers = {"If-None-Match": page.headers["ETag"]}
        assert client.get("/", headers=headers).status_code == 304
        assert client.get("/", headers={"Accept-Encoding": "identity"}).text.startswith("<!doctype html>")

    def test_the_live_connection_needs_a_token(self, site: Site) -> None:
        for url in (site.url, site.address("app")):
            with pytest.raises(InvalidStatus), connect(f"{url.replace('http', 'ws')}/live", proxy=None):
                pass

    def test_the_live_connection_tells_other_tabs_and_ends_with_the_session(
        self, site: Site, client: httpx.Client, ada: User
    ) -> None:
        other = People(client).new()
        url = f"{site.url.replace('http', 'ws')}/live"
        with (
            connect(url, additional_headers=other.headers, proxy=None) as stranger,
            connect(url, additional_headers=ada.headers, proxy=None) as first,
            connect(url, additional_headers=ada.headers, proxy=None) as second,
        ):
            assert first.recv(10) == "sessions"
            second.send("something")
            second.send("profile")
            assert first.recv(10) == "profile"
            client.post("/auth/logout", headers={**ada.headers, "Prefer": "wait=30"})
            for socket in (first, second):
                assert set(received(socket)) <= {"sessions"}
                assert socket.protocol.close_code == 4401
            stranger.send("profile")
            with pytest.raises(TimeoutError):
                stranger.recv(0)


def received(socket: ClientConnection) -> Iterator[str | bytes]:
    """Yield what comes until the connection ends."""
    with suppress(ConnectionClosed):
        while True:
            yield socket.recv(10)


class TestPages:
    def test_a_stranger_s_form_keeps_what_was_typed(self, site: Site) -> None:
        typed = {"display_name": "Ada <b>", "bio": 'a "b"\n', "website": "x"}
        page = httpx.post(f"{site.address('pages')}/pages/profile", data=typed, trust_env=False, verify=NO_TLS)
        assert page.status_code == 401
        assert 'value="Ada &lt;b&gt;"' in page.text
        assert "a &#34;b&#34;" in page.text
        assert "Sign out" not in page.text

    @pytest.mark.parametrize("path", ["//evil.example", "https://evil.example", "/\\evil.example", "javascript:1", ""])
    def test_a_login_leads_back_to_this_site_only(self, site: Site, path: str, ada: User) -> None:
        url = f"{site.address('pages')}/pages/sign-in"
        page = httpx.get(url, params={"return_to": path}, trust_env=False, verify=NO_TLS)
        assert '<input type="hidden" name="return_to" value="/pages">' in page.text
        known = httpx.get(url, params={"return_to": path}, headers=ada.headers, trust_env=False, verify=NO_TLS)
        assert (known.status_code, known.headers["Location"]) == (303, "/pages")

    @pytest.mark.parametrize("path", ["/pages", "/pages/sign-in", "/pages/profile", "/pages/nothing"])
    def test_no_page_is_kept_or_framed(self, site: Site, path: str) -> None:
        page = httpx.get(f"{site.address('pages')}{path}", trust_env=False, verify=NO_TLS)
        assert page.headers["Cache-Control"] == "no-store"
        assert "frame-ancestors 'none'" in page.headers["Content-Security-Policy"]
        assert page.headers["Content-Type"] == "text/html; charset=utf-8"
        assert len(page.content) < SMALL

    @pytest.mark.parametrize(("field", "text"), [("website", "javascript:1"), ("display_name", "x" * 101)])
    def test_a_field_at_fault_is_named_and_nothing_is_lost(
        self, client: httpx.Client, ada: User, field: str, text: str
    ) -> None:
        typed = {"bio": "A long text.", field: text}
        page = client.post("/pages/profile", data=typed, headers=ada.headers)
        assert page.status_code == 422
        assert f'<a href="#{field}">' in page.text
        assert f'aria-describedby="{field}-error' in page.text
        assert text in page.text
        assert "A long text." in page.text

    def test_a_change_from_elsewhere_is_not_overwritten_unseen(self, client: httpx.Client, ada: User) -> None:
        client.put("/profiles/me", json={"bio": "first"}, headers=ada.headers)
        (etag,) = re.findall(
            r'name="etag" value="&#34;(\w+)&#34;"', client.get("/pages/profile", headers=ada.headers).text
        )
        client.put("/profiles/me", json={"bio": "elsewhere"}, headers=ada.headers)
        page = client.post("/pages/profile", data={"bio": "mine", "etag": f'"{etag}"'}, headers=ada.headers)
        assert page.status_code == 409
        assert "mine" in page.text
        (etag,) = re.findall(r'name="etag" value="&#34;(\w+)&#34;"', page.text)
        page = client.post("/pages/profile", data={"bio": "mine", "etag": f'"{etag}"'}, headers=ada.headers)
        assert (page.status_code, page.headers["Location"]) == (303, "/pages/profile?saved=1")
        assert client.get("/profiles/me", headers=ada.headers).json()["bio"] == "mine"

    def test_a_token_that_does_not_count_is_no_stranger(self, site: Site) -> None:
        headers = {"Authorization": "Bearer x.y.z"}
        page = httpx.get(f"{site.address('pages')}/pages", headers=headers, trust_env=False, verify=NO_TLS)
        assert page.status_code == 401
        assert "You're signed out" in page.text.replace("&#39;", "'")

    def test_without_the_profile_service_a_page_tries_again_by_itself_once(
        self, site: Site, client: httpx.Client, ada: User
    ) -> None:
        site.cluster.signal("profile", signal.SIGKILL)
        try:
            page = client.get("/pages/profile", headers=ada.headers)
            assert (page.status_code, page.headers["Retry-After"]) == (503, "5")
            assert '<meta http-equiv="refresh" content="5; url=/pages/profile?again=1">' in page.text
            assert "refresh" not in client.get("/pages/profile?again=1", headers=ada.headers).text
        finally:
            site.cluster.start("profile")
        assert client.get("/pages/profile?again=1", headers=ada.headers).status_code == 200
