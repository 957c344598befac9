"""Pages of ordinary services work in Chromium, through the gateway."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import Browser
from clusters import wait_until
from ordinary import FILE, FILE_CONTENT, Ordinary


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("browser")) as browser:
        yield browser


class TestDjangoAdmin:
    def test_somebody_logs_in_and_adds_something(self, ordinary: Ordinary, browser: Browser) -> None:
        browser.open(ordinary.url("django") + "/admin")
        assert browser.run("return location.pathname + location.search") == "/admin/login/?next=/admin/"
        assert browser.run("return getComputedStyle(document.querySelector('#header')).backgroundColor") != ""
        browser.submit(
            "id_username.value = 'admin'; id_password.value = 'correct horse'; document.forms['login-form'].submit()"
        )
        assert browser.run("return document.querySelector('h1').innerText") == "Site administration"
        browser.open(ordinary.url("django") + "/admin/auth/group/add/")
        browser.submit("id_name.value = 'Zoë & Co'; document.querySelector('[name=_save]').click()")
        assert "was added successfully" in browser.run("return document.querySelector('.messagelist').innerText")
        assert browser.run("return location.pathname") == "/admin/auth/group/"
        browser.submit("document.querySelector('#result_list tbody a').click()")
        assert browser.run("return id_name.value") == "Zoë & Co"
        browser.submit("document.querySelector('#logout-form').submit()")
        assert "Logged out" in browser.run("return document.body.innerText")

    def test_its_styles_are_loaded(self, ordinary: Ordinary, browser: Browser) -> None:
        browser.open(ordinary.url("django") + "/admin/login/")
        assert browser.run("return document.styleSheets[0].cssRules.length > 0")


class TestPages:
    @pytest.fixture(autouse=True)
    def _page(self, ordinary: Ordinary, browser: Browser) -> None:
        browser.open(ordinary.url("fastapi") + "/static/pages")

    def test_modules_are_loaded(self, ordinary: Ordinary, browser: Browser) -> None:
        assert browser.run("return document.title") == "modules are loaded"
        assert browser.run("return location.href") == ordinary.url("fastapi") + "/static/pages/"

    def test_a_service_worker_answers(self, browser: Browser) -> None:
        script = """
            await navigator.serviceWorker.register("worker.js");
            await navigator.serviceWorker.ready;
            if (!navigator.serviceWorker.controller)
              await new Promise((resolve) => navigator.serviceWorker.addEventListener("controllerchange", resolve));
            return await (await fetch("made-up")).text();
        """
        assert browser.run(script) == "from the worker"

    def test_a_websocket_with_cookies(self, ordinary: Ordinary, browser: Browser) -> None:
        script = """
            document.cookie = "theme=dark";
            const socket = new WebSocket(`ws://${location.host}/ws`);
            const received = [];
            return await new Promise((resolve, reject) => {
              socket.onmessage = (event) => {
                received.push(event.data);
                if (received.length === 1) socket.send("hello");
                else resolve(received);
              };
              socket.onclose = (event) => reject(new Error(`closed: ${event.code}`));
            });
        """
        url = ordinary.url("fastapi")
        assert browser.run(script) == [f"{url.replace('http:', 'ws:')}/ws {url}", "hello"]

    def test_events_that_come_late(self, browser: Browser) -> None:
        script = """
            const source = new EventSource("/events");
            const received = [];
            return await new Promise((resolve, reject) => {
              source.onmessage = (event) => {
                received.push(event.data);
                if (received.length === 2) { source.close(); resolve(received); }
              };
              source.onerror = () => reject(new Error("closed"));
            });
        """
        assert browser.run(script) == ["first", "second"]

    def test_an_upload(self, browser: Browser) -> None:
        script = """
            const form = new FormData();
            form.append("note", "ü");
            form.append("file", new File(["content"], "Büro [1].txt"));
            return await (await fetch("/upload", { method: "POST", body: form })).json();
        """
        answer = browser.run(script)
        assert (answer["note"], answer["name"], answer["size"]) == ("ü", "Büro [1].txt", 7)

    @pytest.mark.parametrize(
        "name",
        [
            "a[1]",
            "a|b",
            "a^b",
            "{x}",
            "it's",
            'say "x"',
            "a b",
            "ü",
            "~a_b-c.d",
            "a(b)",
            "a@b:c",
            "a,b;"[:3],
            "a!$&*+=b",
        ],
    )
    def test_names_in_paths(self, browser: Browser, name: str) -> None:
        script = f"return (await (await fetch({'/items/' + name!r})).json()).name"
        assert browser.run(script) == name

    def test_a_beacon(self, browser: Browser) -> None:
        assert browser.run('return navigator.sendBeacon("/body", "bye")') is True

    def test_another_origin_may_read_with_cookies(self, ordinary: Ordinary, browser: Browser) -> None:
        url = ordinary.url("fastapi")
        browser.open(ordinary.url("node") + "/where")
        script = f"""
            const options = {{ method: "POST", credentials: "include", headers: {{ "X-Own": "1" }}, body: "text" }};
            const response = await fetch("{url}/body", options);
            return [response.status, (await response.json()).size];
        """
        assert browser.run(script) == [200, 4]


@pytest.mark.parametrize(("name", "status"), [("node", 413), ("flask", 403)])
def test_an_upload_that_is_refused_early_gets_its_answer(
    ordinary: Ordinary, browser: Browser, name: str, status: int
) -> None:
    browser.open(ordinary.url(name) + "/where")
    script = """
        const statuses = [];
        for (let count = 0; count < 5; count++)
          statuses.push((await fetch("/refuse", { method: "POST", body: new Uint8Array(8_000_000) })).status);
        return statuses;
    """
    assert browser.run(script) == [status] * 5


def test_a_listing_s_links_lead_to_files(ordinary: Ordinary, browser: Browser) -> None:
    browser.open(ordinary.url("nginx") + "/list/")
    browser.submit("document.querySelectorAll('a')[1].click()")
    assert browser.run("return document.body.innerText.trim()") == FILE_CONTENT
    browser.open(f"{ordinary.url('nginx')}/list/{FILE}")
    assert browser.run("return document.body.innerText.trim()") == FILE_CONTENT


def test_a_download_has_its_name(ordinary: Ordinary, browser: Browser, tmp_path: Path) -> None:
    browser.open(ordinary.url("flask") + "/me")
    browser.call("Page.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    browser.run("const link = document.createElement('a'); link.href = '/report'; link.click()")
    file = tmp_path / "Büro [1].txt"
    wait_until(file.exists, "the download is complete")
    assert file.read_text() == FILE_CONTENT
