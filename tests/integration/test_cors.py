"""A page in Chromium reads what it gets from another origin, through the gateway."""

from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest
from browser import Browser
from clusters import free_ports
from gateways import GatewayProcess
from upstreams import RawUpstream

ROUTES = """\
upstreams:
  up: {{url: "http://127.0.0.1:{port}"}}
  dead: {{url: "http://127.0.0.1:{dead}"}}
defaults:
  cors: {{origins: ["{origin}"], headers: ["*"], expose: [X-Total]}}
routes:
  - {{name: open, match: {{path: /open, methods: [GET, PUT]}}, upstream: up, access: public}}
  - {{name: mine, match: {{path: /mine, methods: [GET]}}, upstream: up, access: authenticated}}
  - {{name: dead, match: {{path: /dead, methods: [GET]}}, upstream: dead, access: public}}
  - name: limited
    match: {{path: /limited, methods: [GET]}}
    upstream: up
    access: public
    rate_limits: [{{by: address, requests: 2, seconds: 3600}}]
  - name: cookies
    match: {{path: /cookies, methods: [GET]}}
    upstream: up
    access: public
    cors: {{origins: ["{origin}"], credentials: true}}
  - {{name: own, match: {{path: /own, methods: [GET, PUT, OPTIONS]}}, upstream: up, access: public, cors: none}}
  - {{name: closed, match: {{path: /closed, methods: [GET]}}, upstream: up, access: public, cors: none}}
"""

#: Returns status, text or null, and fields that the page can read; the text of the error if it can't read anything.
FETCH = """
  const readable = async (path, options) => {{
    try {{
      const response = await fetch("{gateway}" + path, options);
      return {{status: response.status, fields: Object.fromEntries(response.headers), text: await response.text()}};
    }} catch (error) {{
      return {{status: 0, fields: {{}}, text: String(error)}};
    }}
  }};
  {script}
"""


class Page:
    """A page of another origin than the gateway's."""

    def __init__(self, browser: Browser, gateway: str) -> None:
        self._browser = browser
        self._gateway = gateway

    def fetch(self, path: str, options: str = "{}") -> dict[str, Any]:
        """Return the status, the fields and the text that the page can read; the status is 0 if it can't."""
        script = f"return await readable({path!r}, {options});"
        found: dict[str, Any] = self._browser.run(FETCH.format(gateway=self._gateway, script=script))
        return found


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Not needed."""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    directory, upstream, (dead,) = tmp_path_factory.mktemp("page"), RawUpstream(), free_ports(1)
    (directory / "index.html").write_text("<!doctype html><title>page</title>")
    upstream.answer("open", _ok('ETag: "1"\r\nX-Total: 7\r\nX-Secret: 8\r\nAccess-Control-Allow-Origin: *\r\n'))
    upstream.answer("cookies", _ok(""))
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(directory)))
    Thread(target=server.serve_forever, daemon=True).start()
    origin = f"http://127.0.0.1:{server.server_port}"
    upstream.answer("own", _ok(f"Access-Control-Allow-Origin: {origin}\r\nAccess-Control-Allow-Methods: PUT\r\n"))
    routes = ROUTES.format(port=upstream.port, dead=dead, origin=origin)
    with (
        GatewayProcess(directory, routes) as gateway,
        Browser(tmp_path_factory.mktemp("browser")) as browser,
    ):
        browser.open(f"{origin}/index.html")
        yield Page(browser, f"http://localhost:{gateway.port}")
    server.shutdown()
    server.server_close()
    upstream.close()


def _ok(fields: str) -> bytes:
    return f"HTTP/1.1 200 OK\r\n{fields}Content-Length: 2\r\n\r\nok".encode()


def test_a_response_and_its_exposed_fields(page: Page) -> None:
    for options in ("{}", "{method: 'PUT', headers: {'If-Match': '\"1\"', 'X-Whatever': '1'}}"):
        found = page.fetch("/open", options)
        assert (found["status"], found["text"]) == (200, "ok")
        assert found["fields"]["etag"] == '"1"'
        assert found["fields"]["x-total"] == "7"
        assert found["fields"]["x-request-id"]
        assert "x-secret" not in found["fields"]


AUTHORIZED = "{headers: {Authorization: 'Bearer x'}}"


@pytest.mark.parametrize(
    ("path", "options", "status", "exposed"),
    [
        ("/mine", "{}", 401, {"www-authenticate"}),
        ("/mine", AUTHORIZED, 401, {"www-authenticate"}),
        ("/nothing", "{}", 404, set()),
        ("/nothing", AUTHORIZED, 404, set()),
        ("/nothing", "{method: 'DELETE'}", 404, set()),
        ("/open", "{method: 'POST', body: 'x'}", 405, {"allow"}),
        ("/open", "{method: 'DELETE'}", 405, {"allow"}),
        ("/open", "{method: 'PROPFIND', headers: {Depth: '1'}}", 405, {"allow"}),
        ("/a%2Fb", "{}", 400, set()),
        ("/a%2Fb", AUTHORIZED, 400, set()),
        ("/LONG", "{}", 414, set()),
        ("/open", "{method: 'PUT', body: 'x'.repeat(2000000)}", 413, set()),
        ("/open", "{headers: {'X-Long': 'x'.repeat(200000)}}", 431, set()),
        ("/open?LONGER", "{}", 414, set()),
        ("/LONGER", "{}", 414, set()),
        ("/dead", "{}", 503, {"retry-after"}),
        ("/livez", "{}", 200, set()),
        ("/livez", AUTHORIZED, 200, set()),
    ],
)
def test_the_gateways_own_responses(page: Page, path: str, options: str, status: int, exposed: set[str]) -> None:
    found = page.fetch(path.replace("LONGER", 300_000 * "a").replace("LONG", 9000 * "a"), options)
    assert (found["status"], found["text"] != "") == (status, True)
    assert found["fields"].keys() >= {"x-request-id", *exposed}


def test_rate_limits(page: Page) -> None:
    # Each of these has a preflight, which counts.
    found = [page.fetch("/limited", f"{{headers: {{'X-Number': '{number}'}}}}") for number in range(3)]
    assert [each["status"] for each in found][-1] == 429
    assert found[0]["fields"]["ratelimit-policy"] == '"address";q=2;w=3600'
    assert found[-1]["fields"]["ratelimit"].startswith('"address";r=0;t=')
    assert int(found[-1]["fields"]["retry-after"]) > 0


def test_cookies_need_credentials(page: Page) -> None:
    assert page.fetch("/cookies", "{credentials: 'include'}")["status"] == 200
    assert page.fetch("/open", "{credentials: 'include'}")["status"] == 0


def test_a_service_with_cors_rules_of_its_own(page: Page) -> None:
    for options in ("{}", "{method: 'PUT'}"):
        assert page.fetch("/own", options)["status"] == 200


def test_a_page_reads_nothing_without_cors(page: Page) -> None:
    assert page.fetch("/closed")["status"] == 0
