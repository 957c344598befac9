"""People use the examples in Chromium: what works in tabs and windows, and what pages of others cannot do."""

import json
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from clusters import client_of
from ordinary import node_modules, program
from people import PASSWORD
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Locator,
    Page,
    Playwright,
    Response,
    expect,
    sync_playwright,
)
from sites import BROWSER_OPTIONS, HOSTILE, SIBLING, Site

#: Chromium drops its connections when a network interface comes or goes, as those of containers do in other tests.
pytestmark = pytest.mark.serial

#: Seconds that an access token of the site lives: as few as there can be, so that every test here renews some.
TOKEN_SECONDS = 10

#: Milliseconds for a page to get where it should, on a busy machine.
PATIENCE_MS = 30_000

expect.set_options(timeout=PATIENCE_MS)

#: What the browser says in its console when a server refuses what a test does on purpose.
REFUSED = re.compile(r"Failed to load resource: the server responded with a status of 4\d\d")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with Site(tmp_path_factory.mktemp("site"), OSTIARY_ACCESS_TOKEN_TTL=str(TOKEN_SECONDS)) as site:
        yield site


@pytest.fixture(scope="module")
def playwright() -> Iterator[Playwright]:
    with sync_playwright() as playwright:
        yield playwright


@pytest.fixture(scope="module")
def browser(playwright: Playwright) -> Iterator[Browser]:
    browser = playwright.chromium.launch(executable_path=program("chromium"), args=BROWSER_OPTIONS)
    yield browser
    browser.close()


class Person:
    """Somebody at one browser window: all their tabs, and what these say in the console."""

    def __init__(self, context: BrowserContext, site: Site, email: str) -> None:
        self.context = context
        self.site = site
        self.email = email
        self.messages: list[str] = []
        context.set_default_timeout(PATIENCE_MS)
        context.on("console", self._hear)
        context.on("weberror", lambda error: self.messages.append(f"error: {error.error}"))

    def open(self, path: str = "/") -> Page:
        """Open a page of the site in a new tab."""
        page = self.context.new_page()
        page.goto(self.site.url + path)
        return page

    def sign_in(self, path: str = "/") -> Page:
        """Sign in at the single-page application, in a new tab."""
        page = self.open(path)
        field(page, "Email").fill(self.email)
        field(page, "Password").fill(PASSWORD)
        page.get_by_role("button", name="Sign in").click()
        expect(heading(page)).to_have_text("Your account")
        return page

    def _hear(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            self.messages.append(f"{message.type}: {message.text} ({message.location['url']})")


def heading(page: Page) -> Locator:
    return page.locator("h1:visible")


def field(page: Page, label: str) -> Locator:
    return page.get_by_label(label).and_(page.locator("input:visible, textarea:visible"))


@pytest.fixture
def window(browser: Browser, site: Site) -> Iterator[Callable[..., Person]]:
    """Open browser windows that share nothing; those of one address are of one person. Nothing may go wrong in them."""
    people: list[Person] = []
    default = f"person-{os.urandom(4).hex()}@shop.example"
    with client_of(site.cluster.urls["auth"]) as client:

        def open_window(email: str = default, **options: Any) -> Person:
            person = Person(browser.new_context(ignore_https_errors=True, **options), site, email)
            if email not in {each.email for each in people}:
                registered = client.post("/auth/register", json={"email": email, "password": PASSWORD})
                assert registered.status_code == 201, registered.text
            people.append(person)
            return person

        yield open_window
    for person in people:
        person.context.close()


class TestSinglePageApplication:
    @pytest.fixture
    def ada(self, window: Callable[..., Person]) -> Iterator[Person]:
        ada = window()
        yield ada
        assert ada.messages == []

    def test_somebody_registers_and_stays_signed_in(self, ada: Person) -> None:
        page = ada.open()
        expect(heading(page)).to_have_text("Sign in")
        page.get_by_role("button", name="Create an account").click()
        field(page, "Name").fill("Ada Lovelace")
        field(page, "Email").fill(f"new-{ada.email}")
        field(page, "Password").fill(PASSWORD)
        page.get_by_role("button", name="Create account").click()
        expect(heading(page)).to_have_text("Your account")
        page.reload()
        expect(heading(page)).to_have_text("Your account")
        expect(page.locator("#who")).to_have_text(f"new-{ada.email}")

    def test_no_script_sees_a_credential(self, ada: Person) -> None:
        page = ada.sign_in()
        seen = page.evaluate("[document.cookie, localStorage.length, sessionStorage.length]")
        assert seen == ["", 0, 0]
        cookies = {each["name"]: each for each in ada.context.cookies()}
        for name in ("__Host-ostiary-session", "__Host-ostiary-token"):
            cookie = cookies[name]
            assert (cookie["httpOnly"], cookie["secure"], cookie["sameSite"]) == (True, True, "Lax")
            assert (cookie["path"], cookie["domain"]) == ("/", "app.shop.example")

    def test_signing_out_in_one_tab_is_seen_in_the_other(self, ada: Person) -> None:
        page, other = ada.sign_in(), ada.open()
        expect(heading(other)).to_have_text("Your account")
        page.get_by_role("button", name="Sign out", exact=True).first.click()
        expect(page.get_by_role("status").first).to_have_text(
            re.compile(r"You're signed out\. In force everywhere after [\d.]+ ms\.")
        )
        expect(heading(other)).to_have_text("Sign in")
        expect(other.get_by_role("status").first).to_have_text("You've been signed out. Sign in to go on.")
        assert ada.email not in other.content()

    def test_what_is_saved_in_one_tab_shows_in_the_other(self, ada: Person) -> None:
        page, other = ada.sign_in(), ada.open()
        expect(heading(other)).to_have_text("Your account")
        for name in ("Ada", "Ada, Countess of Lovelace"):
            field(page, "Name").fill(name)
            page.get_by_role("button", name="Save profile").click()
            expect(field(other, "Name")).to_have_value(name)

    def test_sessions_of_two_windows_are_listed_and_end_each_other(
        self, ada: Person, window: Callable[..., Person]
    ) -> None:
        agent = "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:144.0) Gecko/20100101 Firefox/144.0"
        elsewhere = window(ada.email, user_agent=agent)
        page, other = ada.sign_in(), elsewhere.sign_in()
        # It came after the page was there: the page follows.
        row = page.get_by_role("listitem").filter(has_text="Firefox on Windows")
        row.get_by_role("button").click()
        expect(page.locator("#sessions-status")).to_have_text(
            re.compile(r"Signed out of Firefox on Windows\. In force everywhere after [\d.]+ ms\.")
        )
        expect(heading(other)).to_have_text("Sign in")
        expect(page.get_by_role("listitem")).to_have_count(1)
        assert elsewhere.messages == []

    def test_signing_out_everywhere_says_when_it_is_in_force(self, ada: Person, window: Callable[..., Person]) -> None:
        elsewhere = window(ada.email)
        other, page = elsewhere.sign_in(), ada.sign_in()
        page.get_by_role("button", name="Sign out everywhere").click()
        page.get_by_role("dialog").get_by_role("button", name="Sign out everywhere").click()
        expect(page.get_by_role("status").first).to_have_text(
            re.compile(r"Signed out of 2 devices\. In force everywhere after [\d.]+ ms\.")
        )
        expect(heading(other)).to_have_text("Sign in")
        names = {each["name"] for each in ada.context.cookies()}
        assert names.isdisjoint({"__Host-ostiary-session", "__Host-ostiary-token"})
        assert elsewhere.messages == []

    def test_tokens_expire_while_two_tabs_are_used_and_nobody_notices(self, ada: Person) -> None:
        page = ada.sign_in()
        sockets: list[str] = []
        page.on("websocket", lambda socket: sockets.append(socket.url))
        other = ada.open()
        token = token_of(ada)
        until = time.monotonic() + 2.5 * TOKEN_SECONDS
        count = 0
        while time.monotonic() < until or token_of(ada) == token or not sockets:
            count += 1
            field(page, "About you").fill(f"{count} times")
            page.get_by_role("button", name="Save profile").click()
            # Over a live connection that has ended with its token, and come back, meanwhile.
            expect(field(other, "About you")).to_have_value(f"{count} times")
            other.wait_for_timeout(500)
        assert [heading(each).inner_text() for each in (page, other)] == ["Your account"] * 2

    def test_back_shows_nothing_to_whoever_comes_next(self, ada: Person) -> None:
        page = ada.sign_in()
        page.goto(f"{ada.site.url}/pages")
        page.get_by_role("button", name="Sign out").click()
        expect(heading(page)).to_have_text("You're not signed in")
        page.go_back()
        page.go_back()
        expect(heading(page)).to_have_text("Sign in")
        assert ada.email not in page.content()

    def test_the_next_person_at_this_browser_sees_their_own_account(self, window: Callable[..., Person]) -> None:
        ada = window()
        grace = window(f"grace-{os.urandom(4).hex()}@shop.example")
        page = ada.sign_in()
        script = """async (account) => (await fetch("/session", {
            method: "POST", headers: {"Content-Type": "application/json"}, body: JSON.stringify(account),
        })).status"""
        assert ada.open().evaluate(script, {"email": grace.email, "password": PASSWORD}) == 200
        expect(page.locator("#who")).to_have_text(grace.email)
        # The page may have asked for something when the first person's session had just ended.
        assert all(REFUSED.search(message) for message in ada.messages)

    def test_a_session_may_end_with_the_browser(self, ada: Person) -> None:
        page = ada.open()
        field(page, "Keep me signed in").uncheck()
        field(page, "Email").fill(ada.email)
        field(page, "Password").fill(PASSWORD)
        page.get_by_role("button", name="Sign in").click()
        expect(heading(page)).to_have_text("Your account")
        expires = {each["name"]: each["expires"] for each in ada.context.cookies()}
        assert expires["__Host-ostiary-session"] == expires["__Host-ostiary-token"] == -1


def test_a_wrong_password_keeps_what_was_typed_but_the_password(window: Callable[..., Person]) -> None:
    ada = window()
    page = ada.open()
    field(page, "Email").fill(ada.email)
    field(page, "Password").fill("not that one")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert").first).to_have_text("That email and password don't match an account. Check both.")
    expect(field(page, "Email")).to_have_value(ada.email)
    assert all(REFUSED.search(message) for message in ada.messages)


class TestServerRenderedPages:
    @pytest.fixture
    def ada(self, window: Callable[..., Person]) -> Person:
        return window(java_script_enabled=False)

    @staticmethod
    def sign_in(ada: Person, page: Page, password: str = PASSWORD) -> None:
        field(page, "Email").fill(ada.email)
        field(page, "Password").fill(password)
        page.get_by_role("button", name="Sign in").click()

    def test_a_page_for_one_reader_leads_to_the_login_and_back(self, ada: Person) -> None:
        page = ada.open("/pages")
        expect(heading(page)).to_have_text("You're not signed in")
        page.get_by_role("link", name="profile").click()
        assert page.url == f"{ada.site.url}/pages/sign-in?return_to=%2Fpages%2Fprofile"
        self.sign_in(ada, page)
        expect(heading(page)).to_have_text("Profile")
        assert page.url == f"{ada.site.url}/pages/profile"
        field(page, "Name").fill("مريم الأسطرلابية")
        page.get_by_role("button", name="Save").click()
        expect(page.get_by_role("status")).to_have_text("Your profile is saved.")
        page.reload()
        expect(field(page, "Name")).to_have_value("مريم الأسطرلابية")
        assert ada.messages == []

    def test_a_wrong_password_leads_back_to_the_form(self, ada: Person) -> None:
        page = ada.open("/pages/profile")
        self.sign_in(ada, page, "not that one")
        expect(page.get_by_role("alert")).to_have_text("That email and password don't match an account. Check both.")
        self.sign_in(ada, page)
        expect(heading(page)).to_have_text("Profile")

    def test_back_shows_nothing_after_signing_out(self, ada: Person) -> None:
        page = ada.open("/pages/profile")
        self.sign_in(ada, page)
        field(page, "Name").fill("Ada")
        page.get_by_role("button", name="Save").click()
        page.get_by_role("button", name="Sign out").click()
        expect(heading(page)).to_have_text("You're not signed in")
        page.go_back()
        expect(heading(page)).to_have_text("Sign in")

    def test_a_form_that_is_sent_too_late_keeps_what_was_typed(self, ada: Person) -> None:
        page = ada.open("/pages/profile")
        self.sign_in(ada, page)
        field(page, "About you").fill("A long text.")
        other = ada.open("/pages")
        other.get_by_role("button", name="Sign out").click()
        expect(heading(other)).to_have_text("You're not signed in")
        page.get_by_role("button", name="Save").click()
        expect(page.get_by_role("alert")).to_contain_text("You've been signed out, so this isn't saved yet.")
        expect(field(page, "About you")).to_have_value("A long text.")
        with ada.context.expect_page() as opened:
            page.get_by_role("link", name="Sign in again").click()
        self.sign_in(ada, opened.value)
        expect(heading(opened.value)).to_have_text("You're signed in")
        page.get_by_role("button", name="Save").click()
        expect(page.get_by_role("status")).to_have_text("Your profile is saved.")
        expect(field(page, "About you")).to_have_value("A long text.")

    def test_pages_go_on_when_the_token_has_expired(self, ada: Person) -> None:
        page = ada.open("/pages/profile")
        self.sign_in(ada, page)
        expect(heading(page)).to_have_text("Profile")
        ada.context.clear_cookies(name="__Host-ostiary-token")
        field(page, "Name").fill("Ada")
        page.get_by_role("button", name="Save").click()
        expect(page.get_by_role("status")).to_have_text("Your profile is saved.")
        assert "__Host-ostiary-token" in {each["name"] for each in ada.context.cookies()}
        assert ada.messages == []


@pytest.mark.parametrize("host", [SIBLING, HOSTILE])
class TestPagesOfOthers:
    """A page of another origin, which somebody who is signed in visits."""

    @pytest.fixture
    def ada(self, window: Callable[..., Person]) -> Iterator[Person]:
        """Somebody whose session goes on, whatever was tried."""
        ada = window()
        page = ada.sign_in()
        ada.site.recorder.received.clear()
        yield ada
        page.reload()
        expect(heading(page)).to_have_text("Your account")
        expect(page.locator("#who")).to_have_text(ada.email)
        assert field(page, "Name").input_value() == ""

    @pytest.fixture
    def page(self, ada: Person, host: str) -> Page:
        page = ada.context.new_page()
        page.goto(ada.site.origin(host))
        return page

    @pytest.mark.parametrize("path", ["/recorded/form", "/optional/form", "/pages/profile", "/session/end", "/session"])
    def test_a_form_is_refused(self, ada: Person, page: Page, path: str) -> None:
        # A sibling's forms come with cookies. Those of another site do not, and are as strangers'.
        strangers = {"/recorded/form": 401, "/optional/form": 200, "/pages/profile": 401}
        expected = strangers.get(path, 403) if HOSTILE in page.url else 403
        origin = page.url
        for kind in ("application/x-www-form-urlencoded", "multipart/form-data", "text/plain"):
            page.goto(origin)
            assert submit(page, ada.site.url + path, {"display_name": "Mallory"}, kind).status == expected
        assert all(not request.fields("authorization") for request in ada.site.recorder.received)

    def test_a_login_with_somebody_else_s_account_is_refused(self, ada: Person, page: Page) -> None:
        account = {"email": ada.email, "password": PASSWORD}
        before = session_of(ada)
        response = submit(page, f"{ada.site.url}/session", account)
        assert response.status == 403
        assert response.json()["code"] == "cross_site_request"
        assert session_of(ada) == before

    @pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
    def test_fetch_changes_nothing(self, ada: Person, page: Page, method: str) -> None:
        script = """async ([url, method]) => {
            const ways = [{}, {mode: "no-cors"}, {headers: {"Content-Type": "application/json"}, body: "{}"}];
            for (const way of ways) {
                try { await fetch(url, {method, credentials: "include", ...way}); } catch { /* refused */ }
            }
            navigator.sendBeacon(url, "x");
        }"""
        page.evaluate(script, [f"{ada.site.url}/recorded/fetch", method])
        page.evaluate(script, [f"{ada.site.url}/profiles/me", method])
        page.evaluate(script, [f"{ada.site.url}/session", method])
        assert ada.site.recorder.named("fetch") == []

    def test_what_is_embedded_is_as_for_strangers(self, ada: Person, page: Page) -> None:
        script = """async (url) => {
            const loads = (element) => new Promise((resolve) => {
                element.onload = element.onerror = resolve;
                document.body.append(element);
                setTimeout(resolve, 10_000);
            });
            const make = (name, values) => Object.assign(document.createElement(name), values);
            await Promise.all([
                loads(make("img", {src: `${url}/image`})),
                loads(make("iframe", {src: `${url}/iframe`})),
                loads(make("script", {src: `${url}/script`})),
                loads(make("link", {rel: "stylesheet", href: `${url}/style`})),
                fetch(`${url}/get`, {mode: "no-cors", credentials: "include"}).catch(() => {}),
                new Promise((resolve) => {
                    const source = new EventSource(`${url}/events`, {withCredentials: true});
                    source.onerror = () => { source.close(); resolve(); };
                    setTimeout(resolve, 10_000);
                }),
            ]);
        }"""
        page.evaluate(script, f"{ada.site.url}/recorded")
        page.evaluate(script, f"{ada.site.url}/optional")
        seen = {request.path: request for request in ada.site.recorder.received}
        # Where a session is required, nothing arrives; where it is not, nobody's name does.
        assert {path.rpartition("/")[0] for path in seen} == {"/optional"}
        assert {path.rpartition("/")[2] for path in seen} >= {"image", "iframe", "script", "style", "get", "events"}
        for request in seen.values():
            assert not request.fields("authorization")
            assert "ostiary" not in "".join(request.fields("cookie"))

    def test_a_websocket_is_refused(self, ada: Person, page: Page) -> None:
        script = """(url) => new Promise((resolve) => {
            const socket = new WebSocket(url.replace("https:", "wss:"));
            socket.onopen = () => resolve("open");
            socket.onclose = ({code}) => resolve(code);
        })"""
        assert page.evaluate(script, f"{ada.site.url}/recorded/socket") == 1006
        assert page.evaluate(script, f"{ada.site.url}/live") == 1006
        assert ada.site.recorder.received == []

    def test_a_frame_of_the_account_stays_empty(self, ada: Person, page: Page) -> None:
        script = "(src) => document.body.append(Object.assign(document.createElement('iframe'), {src}))"
        for path in ("/", "/pages"):
            with page.expect_console_message(lambda message: "frame-ancestors" in message.text):
                page.evaluate(script, ada.site.url + path)

    def test_it_plants_no_cookies(self, ada: Person, page: Page) -> None:
        script = """() => {
            const names = ["__Host-ostiary-session", "__Host-ostiary-token", "__HOST-ostiary-session"];
            names.push("\\u00a0__Host-ostiary-session", "ostiary-session", "OSTIARY-TOKEN", "=__Host-ostiary-session");
            for (const name of names) {
                document.cookie = `${name}=planted; Path=/; Secure; Domain=shop.example`;
                document.cookie = `${name}=planted; Path=/; Secure`;
            }
        }"""
        page.evaluate(script)
        ada.site.recorder.received.clear()
        reader = ada.open()
        assert reader.evaluate("fetch('/recorded/own').then((response) => response.status)") == 200
        (request,) = ada.site.recorder.named("own")
        assert "planted" not in request.head.decode("latin-1")
        assert len(request.fields("authorization")) == 1

    def test_a_link_leads_into_the_session(self, ada: Person, page: Page) -> None:
        page.evaluate(
            """(href) => {
                document.body.append(Object.assign(document.createElement("a"), {href, textContent: "go"}));
            }""",
            f"{ada.site.url}/pages/profile",
        )
        page.get_by_text("go", exact=True).click()
        expect(heading(page)).to_have_text("Profile")


def submit(
    page: Page, action: str, values: dict[str, str], enctype: str = "application/x-www-form-urlencoded"
) -> Response:
    """Submit a form of a page, and return the answer."""
    script = """([action, values, enctype]) => {
        const form = Object.assign(document.createElement("form"), {method: "post", action, enctype});
        for (const [name, value] of Object.entries(values))
            form.append(Object.assign(document.createElement("input"), {name, value}));
        document.body.append(form);
        form.submit();
    }"""
    with page.expect_navigation() as navigation:
        page.evaluate(script, [action, values, enctype])
    return navigation.value


def session_of(person: Person) -> str:
    """Return the value of a window's session cookie."""
    return cookies_of(person)["__Host-ostiary-session"]


def token_of(person: Person) -> str:
    """Return the value of a window's token cookie."""
    return cookies_of(person)["__Host-ostiary-token"]


def cookies_of(person: Person) -> dict[str, str]:
    return {each["name"]: each["value"] for each in person.context.cookies(person.site.url)}


class TestAccessibility:
    """axe (https://github.com/dequelabs/axe-core) finds nothing, in light and dark."""

    @pytest.fixture
    def axe(self) -> str:
        return (node_modules() / "axe-core" / "axe.min.js").read_text()

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_no_page_has_findings(self, window: Callable[..., Person], axe: str, scheme: str) -> None:
        ada = window(color_scheme=scheme, bypass_csp=True)
        page = ada.open()
        expect(heading(page)).to_have_text("Sign in")
        found = {"sign in": findings(page, axe)}
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_text("Enter your password.")).to_be_visible()
        found["errors"] = findings(page, axe)
        page.get_by_role("button", name="Create an account").click()
        found["register"] = findings(page, axe)
        page = ada.sign_in()
        found["account"] = findings(page, axe)
        page.get_by_role("button", name="Sign out everywhere").click()
        found["dialog"] = findings(page, axe)
        for path in ("/pages", "/pages/profile", "/pages/profile?saved=1", "/pages/nothing"):
            found[path] = findings(ada.open(path), axe) if path != "/pages/nothing" else []
        page = ada.open("/pages/profile")
        field(page, "Website").fill("javascript:alert(1)")
        page.get_by_role("button", name="Save").click()
        expect(page.get_by_role("alert")).to_be_visible()
        found["form errors"] = findings(page, axe)
        page.get_by_role("button", name="Sign out").click()
        for path in ("/pages", "/pages/sign-in", "/pages/sign-in?error=invalid_credentials"):
            found[f"{path} of a stranger"] = findings(ada.open(path), axe)
        assert {name: each for name, each in found.items() if each} == {}

    @pytest.mark.parametrize("path", ["/", "/pages/sign-in", "/pages/profile"])
    def test_nothing_is_cut_off_at_320_pixels(self, window: Callable[..., Person], path: str) -> None:
        ada = window(viewport={"width": 320, "height": 640})
        ada.sign_in()
        page = ada.open(path)
        expect(heading(page)).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= 320


def findings(page: Page, axe: str) -> list[str]:
    """Return what axe finds on a page as it is."""
    page.evaluate(axe)
    violations = page.evaluate("axe.run().then((results) => results.violations)")
    return [f"{each['id']}: {json.dumps([node['html'] for node in each['nodes']])}" for each in violations]


class TestPlainHttpOnThisMachine:
    def test_somebody_signs_in_and_out(self, browser: Browser, tmp_path: Path) -> None:
        with Site(tmp_path, tls=False) as site, client_of(site.url) as client:
            account = {"email": "ada@example.com", "password": PASSWORD}
            assert client.post("/auth/register", json=account).status_code == 201
            ada = Person(browser.new_context(), site, "ada@example.com")
            page, other = ada.sign_in(), ada.open()
            port = site.url.rpartition(":")[2]
            assert {each["name"] for each in ada.context.cookies()} >= {
                f"ostiary-session-{port}",
                f"ostiary-token-{port}",
            }
            assert page.evaluate("document.cookie") == ""
            page.get_by_role("button", name="Sign out", exact=True).first.click()
            expect(heading(other)).to_have_text("Sign in")
            assert ada.messages == []
            ada.context.close()
