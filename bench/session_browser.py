"""What scripts and forms can do in a real browser, Chromium: whether they can, not whether they should be able to."""

import json
import shutil
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from common import HOST, PASSWORD, Row
from contenders import ROOT, Unavailable

sys.path.append(str(ROOT / "tests" / "integration"))
from browser import Browser

#: Chromium resolves all names below `localhost` to this machine. `example.localhost` is a site of its own.
OWN, SIBLING, ELSEWHERE = "app.example.localhost", "evil.example.localhost", "evil.localhost"

HOSTILE_PAGE = """\
<!doctype html><title>Hostile</title>
<form method="post" action="{action}">{inputs}</form>
"""


@dataclass(frozen=True, slots=True)
class Page:
    """How the page of an application logs in, and sends what needs a login."""

    port: int
    login_path: str
    email: str
    #: A script that keeps what the answer to the login has in `answer`.
    keep: str = ""
    #: The second argument of `fetch` for what needs a login.
    options: str = "{}"

    @property
    def origin(self) -> str:
        return f"http://{OWN}:{self.port}"

    @property
    def credentials(self) -> dict[str, str]:
        return {"email": self.email, "password": PASSWORD}


#: As articles on tokens show it.
KEEP_TOKEN = "localStorage.setItem('token', answer.{member});"  # noqa: S105 - a script
SEND_TOKEN = "{headers: {Authorization: `Bearer ${localStorage.getItem('token')}`}}"  # noqa: S105 - a script

#: All that a script of the page can read, to be searched for credentials.
READ_ALL = "return document.cookie + JSON.stringify(localStorage) + JSON.stringify(sessionStorage)"


def watch(folder: Path, page: Page) -> Row:
    """Log in, and try what scripts of the page and forms of other pages can do. Raises Unavailable."""
    if shutil.which("chromium") is None:
        raise Unavailable("chromium is not installed")
    with hostile_pages() as hostile, Browser(folder) as browser:
        log_in(browser, page)
        readable = str(browser.run(READ_ALL)).replace("{}", "")
        row: Row = {"script_reads_credential": bool(readable), "script_reads_characters": len(readable)}
        for name, host in (("form_of_sibling_changes", SIBLING), ("form_of_other_site_changes", ELSEWHERE)):
            before = profile(browser, page)
            submit(browser, f"http://{host}:{hostile}", f"{page.origin}/profile", {"display_name": name})
            browser.open(page.origin)
            row[name] = profile(browser, page) != before
        browser.run("localStorage.clear()")
        browser.call("Network.clearBrowserCookies")
        submit(browser, f"http://{ELSEWHERE}:{hostile}", page.origin + page.login_path, page.credentials)
        browser.open(page.origin)
        row["form_of_other_site_logs_in"] = profile(browser, page) is not None
    return row


def log_in(browser: Browser, page: Page) -> None:
    """Log in as the application's page does. Raises RuntimeError."""
    browser.open(page.origin)
    body = json.dumps(json.dumps(page.credentials))
    options = f"{{method: 'POST', headers: {{'Content-Type': 'application/json'}}, body: {body}}}"
    browser.run(f"const answer = await (await fetch('{page.login_path}', {options})).json(); {page.keep}")
    if profile(browser, page) is None:
        raise RuntimeError("the page is not logged in after the login")


def profile(browser: Browser, page: Page) -> Mapping[str, Any] | None:
    """Return the profile that the application's page gets; None without a login."""
    found: Mapping[str, Any] | None = browser.run(
        f"const got = await fetch('/profile', {page.options}); return got.ok ? await got.json() : null"
    )
    return found


def submit(browser: Browser, hostile: str, action: str, fields: Mapping[str, str]) -> None:
    """Open a hostile page, and let it submit a form."""
    browser.open(f"{hostile}/?{urlencode({'action': action, **fields})}")
    browser.submit("document.forms[0].submit()")


class Hostile(BaseHTTPRequestHandler):
    """Serves a form with what the query says."""

    def do_GET(self) -> None:
        fields = dict(parse_qsl(urlsplit(self.path).query))
        action = fields.pop("action", "")
        inputs = "".join(f'<input name="{escape(name)}" value="{escape(value)}">' for name, value in fields.items())
        body = HOSTILE_PAGE.format(action=escape(action), inputs=inputs).encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


@contextmanager
def hostile_pages() -> Iterator[int]:
    """Serve hostile pages; yields the port."""
    server = ThreadingHTTPServer((HOST, 0), Hostile)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
