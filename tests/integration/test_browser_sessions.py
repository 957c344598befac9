"""Browser sessions on two gateways of one auth service: tabs, renewals, the end of sessions, and outages."""

import re
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.cookiejar import DefaultCookiePolicy
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

import httpx
import pytest
from clusters import LocalCluster, client_of, wait_until
from people import PASSWORD

GATEWAYS = (0, 1)
TABS = 20
CLIENTS = 24

#: Seconds that a revocation takes at most to be in force, on a busy machine.
IN_FORCE = 10

_COUNT = re.compile(r'http_requests_total\{method="POST",route="/sessions/exchange",status="200"\} ([0-9.]+)')
_PAIR = re.compile(r"([^=;]+)=([^;]*)")


class Site:
    """Two gateways with one issuer."""

    def __init__(self, directory: Path, **settings: str) -> None:
        self.cluster = LocalCluster(directory / "one", **settings)
        shared = (
            *("OSTIARY_ISSUER", "OSTIARY_AUTH_URL", "OSTIARY_PROFILE_URL"),
            *("OSTIARY_FEED_SECRET_FILE", "OSTIARY_GATEWAY_SECRET_FILE"),
        )
        self.other = LocalCluster(directory / "two", **settings)
        self.other.environ |= {name: self.cluster.environ[name] for name in shared}
        self.urls = [each.urls["gateway"] for each in (self.cluster, self.other)]
        self.host = urlsplit(self.cluster.url).netloc
        self.clients = [client_of(url) for url in self.urls]
        for client in self.clients:
            # The browsers keep their cookies themselves.
            client.cookies.jar.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        self._count = 0

    def __enter__(self) -> Self:
        self.cluster.start_all()
        self.other.start("gateway")
        return self

    def __exit__(self, *_: object) -> None:
        for client in self.clients:
            client.close()
        self.other.stop_all()
        self.cluster.stop_all()

    @property
    def exchanges(self) -> int:
        """How many tokens the auth service has issued in exchange for a session."""
        with client_of(self.cluster.operations["auth"]) as client:
            found = _COUNT.search(client.get("/metrics").text)
        return int(float(found[1])) if found else 0

    def person(self) -> "Browser":
        """Register somebody, and log in."""
        self._count += 1
        browser = Browser(self, f"tab-{self._count}@example.com")
        account = {"email": browser.email, "password": PASSWORD}
        assert browser.ask("POST", "/auth/register", json=account).status_code == 201
        browser.log_in()
        return browser


class Browser:
    """The cookies of one browser, and requests with them. Threads are its tabs."""

    def __init__(self, site: Site, email: str) -> None:
        self.site = site
        self.email = email
        self.cookies: dict[str, str] = {}

    @property
    def names(self) -> tuple[str, str]:
        port = self.site.host.rpartition(":")[2]
        return f"ostiary-session-{port}", f"ostiary-token-{port}"

    @property
    def session(self) -> str:
        return self.cookies[self.names[0]]

    def log_in(self, password: str = PASSWORD) -> None:
        answer = self.ask("POST", "/session", json={"email": self.email, "password": password})
        assert answer.status_code == 200, answer.text
        assert set(self.names) <= set(self.cookies)

    def forget_token(self) -> None:
        """As when the token's cookie has ended."""
        self.cookies.pop(self.names[1], None)

    def copy(self) -> "Browser":
        """Return a browser with the same cookies, as a tab that has been asleep has them."""
        twin = Browser(self.site, self.email)
        twin.cookies = dict(self.cookies)
        return twin

    def ask(self, method: str, path: str, gateway: int = 0, **options: object) -> httpx.Response:
        headers = {
            "Host": self.site.host,
            "Sec-Fetch-Site": "same-origin",
            "Cookie": "; ".join(f"{name}={value}" for name, value in self.cookies.items()),
            "Prefer": f"wait={IN_FORCE}",
        }
        answer = self.site.clients[gateway].request(method, path, headers=headers, **options)  # type: ignore[arg-type]  # of httpx
        for line in answer.headers.get_list("set-cookie"):
            pair = _PAIR.match(line)
            assert pair is not None
            if "Max-Age=0" in line:
                self.cookies.pop(pair[1], None)
            else:
                self.cookies[pair[1]] = pair[2]
        return answer

    def me(self, gateway: int = 0) -> httpx.Response:
        """Ask a service that verifies tokens by itself."""
        return self.ask("GET", "/profiles/me", gateway)

    def in_tabs(self, count: int = TABS) -> list[httpx.Response]:
        """Ask with all tabs at once, through both gateways, each with the cookies that the browser has now."""
        barrier = threading.Barrier(count)
        twins = [self.copy() for _ in range(count)]

        def tab(number: int) -> httpx.Response:
            barrier.wait()
            return twins[number].me(number % 2)

        with ThreadPoolExecutor(count) as pool:
            return list(pool.map(tab, range(count)))

    def verdicts(self) -> list[str]:
        """Return what both gateways say."""
        return [verdict(self.me(gateway)) for gateway in GATEWAYS]


def verdict(answer: httpx.Response) -> str:
    """Return `good` for a person who is known, with or without a profile; or the code of a problem."""
    code = "" if answer.status_code == httpx.codes.OK else str(answer.json()["code"])
    return "good" if code in {"", "profile_not_found"} else code


GOOD, ENDED, UNDECIDED = (["good"] * 2, ["session_ended"] * 2, ["session_undecided"] * 2)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with Site(tmp_path_factory.mktemp("site")) as site:
        yield site


def test_twenty_tabs_renew_once_at_each_gateway(site: Site) -> None:
    ada = site.person()
    session, exchanges = ada.session, site.exchanges
    ada.forget_token()
    tabs = ada.in_tabs()
    assert {verdict(answer) for answer in tabs} == {"good"}
    assert 1 <= site.exchanges - exchanges <= 2
    # All tabs of a gateway get the same token, and other ones from its memory. The session's cookie stays.
    tokens = {answer.headers["set-cookie"].partition("; ")[0] for answer in [*tabs, *ada.in_tabs()]}
    assert len(tokens) <= 2
    assert site.exchanges - exchanges <= 2
    assert not any(token.startswith(ada.names[0]) for token in tokens)
    assert (ada.verdicts(), ada.session) == (GOOD, session)


def test_a_logout_is_in_force_everywhere_when_it_is_answered(site: Site) -> None:
    ada = site.person()
    assert ada.verdicts() == GOOD
    late = ada.copy()
    answer = ada.ask("DELETE", "/session")
    assert (answer.status_code, answer.json()["complete"]) == (200, True)
    assert answer.json()["in_force_after_ms"] < IN_FORCE * 1000
    assert set(ada.names) & set(ada.cookies) == set()
    assert late.verdicts() == ENDED
    late.forget_token()
    assert late.verdicts() == ENDED
    # What a tab of yesterday gets expires nothing that a login has set since.
    assert [answer.headers.get("set-cookie") for answer in late.in_tabs(4)] == [None] * 4


def test_no_tab_is_served_after_a_logout_however_many_ask(site: Site) -> None:
    ada = site.person()
    twins = [ada.copy() for _ in range(8)]
    ended = threading.Event()
    late: list[int] = []

    def tab(number: int) -> None:
        while True:
            # Before the request is sent.
            was_ended = ended.is_set()
            status = twins[number].me(number % 2).status_code
            if was_ended and status != httpx.codes.UNAUTHORIZED:
                late.append(status)
            if was_ended:
                return

    with ThreadPoolExecutor(len(twins)) as pool:
        tabs = [pool.submit(tab, number) for number in range(len(twins))]
        answer = ada.ask("DELETE", "/session", 1)
        ended.set()
        for each in tabs:
            each.result()
    assert answer.json()["complete"] is True
    assert late == []


def test_another_login_in_the_same_browser_takes_over(site: Site) -> None:
    ada, bob = site.person(), site.person()
    ids = [each.ask("GET", "/auth/me").json()["id"] for each in (ada, bob)]
    assert ids[0] != ids[1]
    old = ada.copy()
    ada.email = bob.email
    ada.log_in()
    assert ada.session != old.session
    wait_until(lambda: old.verdicts() == ENDED, "the first session has ended", IN_FORCE)
    # A late answer may have left the old session's token beside the new session.
    ada.cookies[ada.names[1]] = old.cookies[old.names[1]]
    assert [ada.ask("GET", "/auth/me", each).json()["id"] for each in GATEWAYS] == [ids[1]] * 2


def test_a_password_change_ends_all_others_and_replaces_the_secret(site: Site) -> None:
    ada = site.person()
    elsewhere = Browser(site, ada.email)
    elsewhere.log_in()
    stolen = ada.copy()
    new = PASSWORD + " 2"
    answer = ada.ask("POST", "/auth/password", json={"current_password": PASSWORD, "new_password": new})
    assert (answer.status_code, answer.json()["complete"]) == (200, True)
    wait_until(lambda: elsewhere.verdicts() == ENDED, "the other session has ended")
    stolen.forget_token()
    wait_until(lambda: stolen.verdicts() == ENDED, "the old secret counts no more")
    assert ada.verdicts() == GOOD
    ada.forget_token()
    assert ada.verdicts() == GOOD


def test_new_roles_hold_at_the_next_request(site: Site) -> None:
    ada = site.person()
    assert ada.ask("GET", "/admin/users").status_code == 403
    site.cluster.auth_command("users", "roles", ada.email, "admin")
    wait_until(lambda: ada.ask("GET", "/admin/users").status_code == 200, "the new role holds", IN_FORCE)
    assert ada.ask("GET", "/admin/users", 1).status_code == 200
    assert ada.ask("GET", "/session").json()["authenticated"] is True


def test_a_disabled_person_is_out(site: Site) -> None:
    ada = site.person()
    site.cluster.auth_command("users", "disable", ada.email)
    wait_until(lambda: ada.verdicts() == ENDED, "the sessions have ended", IN_FORCE)
    assert ada.ask("GET", "/session").json() == {"authenticated": False}


def test_an_outage_of_the_auth_service_logs_nobody_out(tmp_path: Path) -> None:
    with Site(tmp_path) as site:
        people = [site.person() for _ in range(5)]
        for each in people:
            assert each.verdicts() == GOOD
        tired = [each.copy() for each in people]
        for each in tired:
            each.forget_token()
        site.cluster.signal("auth", signal.SIGKILL)
        stop = threading.Event()
        failed: list[str] = []

        def browse(number: int) -> int:
            count, twin = 0, people[number % len(people)].copy()
            while not stop.is_set():
                found = verdict(twin.me(number % 2))
                count += 1
                if found != "good":
                    failed.append(found)
            return count

        with ThreadPoolExecutor(CLIENTS) as pool:
            browsing = [pool.submit(browse, number) for number in range(CLIENTS)]
            for each in tired:
                cookies = dict(each.cookies)
                answers = [each.me(gateway) for gateway in GATEWAYS]
                assert [verdict(answer) for answer in answers] == UNDECIDED
                assert all(int(answer.headers["retry-after"]) >= 1 for answer in answers)
                assert each.cookies == cookies
            stop.set()
            assert min(each.result() for each in browsing) > 0
        assert failed == []
        site.cluster.start("auth")
        for each in tired:
            wait_until(lambda each=each: each.verdicts() == GOOD, "nobody had to log in again")  # type: ignore[misc]  # a default
