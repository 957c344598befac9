"""What clients of all kinds do beyond a single request, and what no library sends but may come."""

import json
import subprocess
from pathlib import Path

import aiohttp
import pytest
import websockets
from gateways import read_all
from ordinary import FILE, FILE_CONTENT, Ordinary, curl, program


def wget(directory: Path, *arguments: str) -> list[tuple[str, str]]:
    """Run wget, and return names and contents of the files that are there then."""
    command = [program("wget"), "--quiet", "--tries", "1", "--timeout", "20", "--no-proxy", *arguments]
    subprocess.run(command, cwd=directory, check=True)  # noqa: S603 - a program of the machine
    return sorted((path.name, path.read_text()) for path in directory.iterdir())


class TestWget:
    def test_a_page(self, ordinary: Ordinary, tmp_path: Path) -> None:
        ordinary.start("nginx")
        url = f"http://127.0.0.1:{ordinary.gateway.port}/folder/"
        assert wget(tmp_path, "--header", "Host: nginx.localhost", url) == [("index.html", "<p>index")]

    def test_a_redirect(self, base: str, tmp_path: Path) -> None:
        ((_, content),) = wget(tmp_path, base + "/redirect")
        assert json.loads(content)["target"] == "/echo/arrived"

    def test_a_file_named_by_the_service(self, ordinary: Ordinary, tmp_path: Path) -> None:
        ordinary.start("flask")
        url = f"http://127.0.0.1:{ordinary.gateway.port}/report"
        ((name, content),) = wget(tmp_path, "--content-disposition", "--header", "Host: flask.localhost", url)
        assert content == FILE_CONTENT
        assert name.endswith("[1].txt")

    def test_a_download_goes_on(self, ordinary: Ordinary, tmp_path: Path) -> None:
        ordinary.start("flask")
        (tmp_path / "report").write_text(FILE_CONTENT[:5000])
        url = f"http://127.0.0.1:{ordinary.gateway.port}/report"
        assert wget(tmp_path, "--continue", "--header", "Host: flask.localhost", url) == [("report", FILE_CONTENT)]


class TestCurl:
    """What curl does beyond a single request; it knows `NAME.localhost` by itself."""

    def test_connections_are_kept(self, ordinary: Ordinary) -> None:
        url = ordinary.url("nginx") + "/folder/"
        _, text = curl(url, url, url, "--write-out", " %{num_connects}\n%{http_code}")
        assert text == "<p>index 1\n200<p>index 0\n200<p>index 0"

    def test_cookies_over_several_requests(self, base: str, tmp_path: Path) -> None:
        jar = str(tmp_path / "jar")
        curl(base + "/cookies", "--cookie-jar", jar)
        fields = dict(json.loads(curl(base + "/echo/a", "--cookie", jar)[1])["fields"])
        assert sorted(fields["Cookie"].split("; ")) == ["one=1", "two=2"]

    def test_a_range_and_a_download_that_goes_on(self, ordinary: Ordinary, tmp_path: Path) -> None:
        url = ordinary.url("nginx") + "/list/" + FILE.replace(" ", "%20")
        assert curl(url, "--range", "5-9") == (206, "56789")
        part = tmp_path / "part"
        part.write_text(FILE_CONTENT[:100])
        assert curl(url, "--continue-at", "-", "--output", str(part))[0] == 206
        assert part.read_text() == FILE_CONTENT

    def test_only_what_has_changed(self, ordinary: Ordinary, tmp_path: Path) -> None:
        url = ordinary.url("nginx") + "/folder/"
        etag = str(tmp_path / "etag")
        assert curl(url, "--etag-save", etag)[0] == 200
        assert curl(url, "--etag-compare", etag) == (304, "")

    def test_directory_listings_of_webdav(self, ordinary: Ordinary) -> None:
        # nginx has no PROPFIND of its own; that its 405 comes, and not the gateway's, is the point.
        status, text = curl(ordinary.url("nginx") + "/dav/", "--request", "PROPFIND", "--header", "Depth: 1")
        assert (status, "nginx" in text) == (405, True)

    def test_it_may_take_the_gateway_for_a_proxy(self, ordinary: Ordinary) -> None:
        url = ordinary.url("nginx")
        command = ["--noproxy", "", "--proxy", f"http://127.0.0.1:{ordinary.gateway.port}", url + "/folder/"]
        assert curl(*command) == (200, "<p>index")

    @pytest.mark.parametrize("name", ["@types%2fnode", "group%2Fproject", "C%23", "100%25", "a;v=1", "libstdc%2b%2b6"])
    def test_names_of_packages_and_projects(self, base: str, name: str) -> None:
        status, text = curl(f"{base}/echo/encoded/{name}")
        assert (status, json.loads(text)["target"]) == (
            200,
            f"/echo/encoded/{name.replace('%2f', '%2F').replace('%2b', '%2B')}",
        )

    @pytest.mark.parametrize(
        "field",
        [
            "X-Scope-OrgID: tenant",
            "X-Auth-Token: gAAAA",
            "X-Tenant-ID: 7",
            "X-Registry-Auth: e30=",
            "api_key: k",
            "X-API-Key: k",
            "Ocp-Apim-Subscription-Key: k",
            "Subscription-Key: k",
            "X-Smoke-Test: 1",
            "X-CSRFToken: t",
            "X-XSRF-TOKEN: t",
            "X-Requested-With: XMLHttpRequest",
            "Idempotency-Key: 1",
            "X-GitHub-Event: push",
            "X-Hub-Signature-256: sha256=00",
            "Stripe-Signature: t=1",
            "X-Amz-Target: a.b",
            "DNT: 1",
            "Sec-GPC: 1",
            "If-Match: *",
            "Accept-Language: de-CH, de;q=0.9",
            "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "X-Grafana-Org-Id: 1",
            "X-Vault-Token: t",
            "X-Consul-Token: t",
            "PRIVATE-TOKEN: t",
            "Authorization: Basic YTpi",
            'SOAPAction: "urn:a"',
            "Tus-Resumable: 1.0.0",
            "Prefer: return=minimal",
        ],
    )
    def test_fields_of_ordinary_products(self, base: str, field: str) -> None:
        status, text = curl(base + "/echo/a", "--header", field)
        assert status == 200, text
        name, _, value = field.partition(": ")
        fields = {each.lower(): value for each, value in json.loads(text)["fields"]}
        assert fields.get(name.lower()) == value

    @pytest.mark.parametrize("size", [20_000, 30_000])
    def test_large_cookies(self, base: str, size: int) -> None:
        status, text = curl(base + "/echo/a", "--header", f"Cookie: a={'x' * size}")
        assert status in {200, 400}, text  # aiohttp's own limit of a field is 8190 bytes
        assert "problem" not in text


@pytest.mark.usefixtures("base")
class TestRaw:
    """What may come, and no library here sends."""

    # Lines end with `|`.
    @pytest.mark.parametrize(
        "messages",
        [
            "GET /echo/a HTTP/1.1|Host: localhost|Connection: keep-alive, close||",
            "GET /echo/a HTTP/1.1|Host: localhost|Connection: Close|TE: trailers||",
            "GET /echo/a HTTP/1.1|host:localhost|connection:close||",
            "GET /echo/a HTTP/1.1|Host: LOCALHOST|Connection: close||",
            "GET /echo/a HTTP/1.1|Host: 127.0.0.1|Connection: close||",
            "GET /echo/a HTTP/1.0|Host: localhost||",
            "GET /echo/a HTTP/1.0|Host: localhost|Connection: Keep-Alive||GET /echo/a HTTP/1.0|Host: localhost||",
            "|GET /echo/a HTTP/1.1|Host: localhost|Connection: close||",
            "POST /echo/a HTTP/1.1|Host: localhost|Connection: close||",
            "POST /echo/a HTTP/1.1|Host: localhost|Content-Length: 0|Connection: close||",
            "GET /echo/a HTTP/1.1|Host: localhost|Content-Length: 0|Connection: close||",
            "POST /echo/a HTTP/1.1|Host: localhost|Transfer-Encoding: chunked|Connection: close||0||",
            "POST /echo/a HTTP/1.1|Host: localhost|Transfer-Encoding: Chunked|Connection: close||1;a=b|x|0|X-Sum: 1||",
            "POST /echo/a HTTP/1.1|Host: localhost|Content-Length: 2||hi|GET /echo/a HTTP/1.0|Host: localhost||",
            "GET /echo/a HTTP/1.1|Host: localhost|Accept: |X-Empty:|Connection: close||",
            "GET /echo/a HTTP/1.1|Host: localhost|X-Latin: caf\xe9|Connection: close||",
            "GET /echo/a HTTP/1.0|Host: localhost|Connection: Upgrade, HTTP2-Settings|Upgrade: h2c|HTTP2-Settings: A||",
            "GET /echo/a HTTP/1.1|Host: localhost|Accept: a|Accept: b|Cookie: a=1|Cookie: b=2|Connection: close||",
            "GET /echo/a?a=b?c=d&e=/f HTTP/1.1|Host: localhost|Connection: close||",
            "GET /echo/a? HTTP/1.1|Host: localhost|Connection: close||",
            "GET http://localhost/echo/a HTTP/1.1|Host: localhost|Connection: close||",
        ],
    )
    def test_messages(self, ordinary: Ordinary, messages: str) -> None:
        with ordinary.gateway.connect() as connection:
            connection.sendall(messages.replace("|", "\r\n").encode("latin-1"))
            received = read_all(connection)
        expected = messages.count("/echo/a")
        assert received.count(b"HTTP/1.1 200 OK") == expected, received
        assert received.count(b'"method"') == expected

    def test_a_pipeline(self, ordinary: Ordinary) -> None:
        requests = [f"GET /echo/{number} HTTP/1.{int(number < 9)}\r\nHost: localhost\r\n\r\n" for number in range(10)]
        with ordinary.gateway.connect() as connection:
            connection.sendall("".join(requests).encode())
            received = read_all(connection)
        assert [f'"/echo/{number}"'.encode() in received for number in range(10)] == [True] * 10


class TestWebSockets:
    async def test_the_one_of_websockets(self, base: str) -> None:
        async with websockets.connect(base.replace("http", "ws") + "/ws", proxy=None) as connection:
            await connection.send("x" * 100_000)
            assert await connection.recv() == "x" * 100_000
            await connection.send(b"\x00\xff")
            assert await connection.recv() == b"\x00\xff"
            await (await connection.ping())

    async def test_the_one_of_aiohttp(self, base: str) -> None:
        async with aiohttp.ClientSession() as session, session.ws_connect(base + "/ws", protocols=["chat"]) as socket_:
            await socket_.send_str("hello")
            assert (socket_.protocol, await socket_.receive_str()) == ("chat", "hello")
