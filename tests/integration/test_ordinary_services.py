"""Services as everybody has them get what they expect, and what they answer gets out."""

import hashlib
import re
from collections.abc import Iterator

import httpx
import pytest
from clusters import ROOT
from ordinary import FILE, FILE_CONTENT, MOUNTED, NGINX, SERVICES, Ordinary

MIB = 1024 * 1024


@pytest.mark.parametrize("name", ["django", "flask", "fastapi", "node", "express"])
def test_the_service_knows_its_public_address(ordinary: Ordinary, name: str) -> None:
    path = {"django": "/where/", "fastapi": "/items/a"}.get(name, "/where")
    with ordinary.client(name) as client:
        assert client.get(path).json()["url"] == ordinary.url(name) + path


@pytest.mark.parametrize("name", ["django", "flask", "fastapi", "express"])
def test_behind_a_tls_proxy_the_service_knows_the_scheme(ordinary: Ordinary, name: str) -> None:
    path = {"django": "/where/", "fastapi": "/items/a"}.get(name, "/where")
    with ordinary.client(name, proxy=True, headers={"X-Forwarded-Proto": "https"}) as client:
        assert client.get(path).json()["url"] == ordinary.url(name).replace("http:", "https:") + path


@pytest.mark.parametrize("name", ["flask", "fastapi", "nginx", "express"])
def test_the_service_knows_the_clients_address(ordinary: Ordinary, name: str) -> None:
    path = {"fastapi": "/items/a"}.get(name, "/where")
    with ordinary.client(name, proxy=True, headers={"X-Forwarded-For": "192.0.2.7"}) as client:
        assert "192.0.2.7" in client.get(path).text


@pytest.mark.parametrize(
    ("name", "path", "arrives"),
    [
        ("django", "/admin", "/admin/login/?next=/admin/"),
        ("django", "/api/groups", "/api/groups/"),
        ("flask", "/pages", "/pages/"),
        ("flask", "/moved", "/pages/"),
        ("flask", "/moved-absolute", "/pages/"),
        ("fastapi", "/items", "/items/"),
        ("fastapi", "/moved", "/items/"),
        ("aiohttp", "/redirect", "/echo/arrived"),
        ("nginx", "/folder", "/folder/"),
        ("node", "/moved", "/where"),
        ("express", "/moved", "/where"),
        ("express", "/files", "/files/"),
        ("files", "/folder", "/folder/"),
    ],
)
def test_redirects_lead_where_they_should(ordinary: Ordinary, name: str, path: str, arrives: str) -> None:
    with ordinary.client(name, follow_redirects=True) as client:
        response = client.get(path)
    assert str(response.url) == ordinary.url(name) + arrives
    assert len(response.history) >= 1
    assert response.status_code == (404 if arrives == "/files/" else 200)
    assert f":{ordinary.ports[name]}" not in str([each.headers for each in (response, *response.history)])


@pytest.mark.parametrize("name", MOUNTED)
def test_under_a_path_of_a_common_name_the_service_knows_its_address(ordinary: Ordinary, name: str) -> None:
    ordinary.start(name)
    where, moved, arrives = {
        "django-mounted": ("/where/", "/api/groups", "/api/groups/"),
        "fastapi-mounted": ("/items/a", "/moved", "/items/"),
        "flask": ("/where", "/moved", "/pages/"),
    }[name]
    with ordinary.client("shop", follow_redirects=True) as client:
        url = f"{ordinary.url('shop')}/{name}"
        assert client.get(f"/{name}{where}").json()["url"] == url + where
        response = client.get(f"/{name}{moved}")
        assert (response.status_code, str(response.url)) == (200, url + arrives)


def test_the_page_names_what_the_services_have() -> None:
    page = (ROOT / "docs" / "how-to" / "ordinary-services.md").read_text()
    sources = [path.read_text() for path in SERVICES.iterdir() if path.suffix in {".py", ".js"}]
    text = "\n".join([*sources, NGINX.format(files="", port=""), " ".join(Ordinary.uvicorn("1"))])
    blocks = re.findall(r"^```(?:python|js|nginx|sh)\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    lines = [
        line.partition("  #")[0].removeprefix("uvicorn app:app ").rstrip()
        for each in blocks
        for line in each.splitlines()
    ]
    assert len(lines) >= 6
    assert [line for line in lines if line not in text] == []


class TestDjango:
    def test_the_rest_framework_creates_changes_and_removes(self, ordinary: Ordinary) -> None:
        with ordinary.client("django") as client:
            created = client.post("/api/groups/", json={"name": "editors"})
            assert created.status_code == 201
            path = f"/api/groups/{created.json()['id']}/"
            assert client.patch(path, json={"name": "writers"}).json()["name"] == "writers"
            assert client.options(path).json()["name"] == "Groups Instance"
            assert client.delete(path).status_code == 204
            assert client.get(path).status_code == 404
            assert isinstance(client.get("/api/groups/", params={"format": "json"}).json(), list)
            assert "<title>" in client.get("/api/", headers={"Accept": "text/html"}).text

    def test_its_forms_pass_the_csrf_check(self, ordinary: Ordinary) -> None:
        self._log_in(ordinary.client("django"), ordinary.url("django"))

    def test_its_forms_pass_the_csrf_check_behind_a_tls_proxy(self, ordinary: Ordinary) -> None:
        client = ordinary.client("django", proxy=True, headers={"X-Forwarded-Proto": "https"})
        origin = ordinary.url("django").replace("http:", "https:")
        client.headers["Referer"] = f"{origin}/admin/login/"
        self._log_in(client, origin)

    def _log_in(self, client: httpx.Client, origin: str) -> None:
        with client:
            token = client.get("/admin/login/").cookies["csrftoken"]
            form = {"username": "admin", "password": "correct horse", "next": "/admin/"}
            form["csrfmiddlewaretoken"] = token
            logged_in = client.post("/admin/login/", data=form, headers={"Origin": origin})
            assert (logged_in.status_code, logged_in.headers["Location"]) == (302, "/admin/")
            assert logged_in.cookies["sessionid"]


@pytest.mark.parametrize(("name", "fields"), [("flask", {"note": "ü"}), ("fastapi", {"note": "ü"})])
def test_a_file_is_uploaded(ordinary: Ordinary, name: str, fields: dict[str, str]) -> None:
    content = b"0123456789abcdef" * (MIB // 4)
    with ordinary.client(name) as client:
        answer = client.post("/upload", data=fields, files={"file": ("Büro [1].bin", content)}).json()
    expected = {"name": "Büro [1].bin", "size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    assert answer == {**expected, **fields}


def test_a_session_cookie_comes_back(ordinary: Ordinary) -> None:
    with ordinary.client("flask", follow_redirects=True) as client:
        assert client.post("/login", data={"name": "Zoë"}).json() == {"name": "Zoë"}


class TestFastApi:
    def test_a_page_of_an_allowed_origin_may_read(self, ordinary: Ordinary) -> None:
        origin = {"Origin": f"http://node.localhost:{ordinary.gateway.port}"}
        with ordinary.client("fastapi", headers=origin) as client:
            ask = {"Access-Control-Request-Method": "PATCH", "Access-Control-Request-Headers": "x-own"}
            preflight = client.options("/items/a", headers=ask)
            assert preflight.status_code == 200
            assert "PATCH" in preflight.headers["Access-Control-Allow-Methods"]
            answer = client.get("/items/a")
        for response in (preflight, answer):
            assert response.headers["Access-Control-Allow-Origin"] == origin["Origin"]
            assert response.headers["Access-Control-Allow-Credentials"] == "true"
        assert answer.headers["Access-Control-Expose-Headers"] == "X-Total"

    def test_its_documentation_is_its_own(self, ordinary: Ordinary) -> None:
        with ordinary.client("fastapi") as client:
            assert "/items/" in client.get("/openapi.json").json()["paths"]
            assert "swagger" in client.get("/docs").text.lower()

    def test_a_compressed_answer_stays_compressed(self, ordinary: Ordinary) -> None:
        with ordinary.client("fastapi") as client:
            assert client.get("/long").headers["Content-Encoding"] == "gzip"
            assert "Content-Encoding" not in client.get("/long", headers={"Accept-Encoding": "identity"}).headers

    def test_a_stream_of_events_may_be_silent_for_longer_than_others(self, ordinary: Ordinary) -> None:
        with ordinary.client("fastapi") as client, client.stream("GET", "/events") as response:
            assert [line for line in response.iter_lines() if line] == ["data: first", "data: second"]


class TestNginx:
    def test_a_file_keeps_its_name(self, ordinary: Ordinary) -> None:
        with ordinary.client("nginx") as client:
            listing = client.get("/list/").text
            (link,) = [part.partition('"')[0] for part in listing.split('href="')[2:]]
            assert client.get(f"/list/{link}").text == FILE_CONTENT
            assert client.get(f"/list/{FILE}").text == FILE_CONTENT

    def test_parts_of_a_file(self, ordinary: Ordinary) -> None:
        with ordinary.client("nginx", headers={"Accept-Encoding": "identity"}) as client:
            part = client.get(f"/list/{FILE}", headers={"Range": "bytes=5-9"})
            assert (part.status_code, part.text, part.headers["Content-Range"]) == (206, "56789", "bytes 5-9/10000")
            several = client.get(f"/list/{FILE}", headers={"Range": "bytes=0-1,-2"})
            assert several.headers["Content-Type"].startswith("multipart/byteranges")
            whole = client.get(f"/list/{FILE}", headers={"Range": "bytes=5-", "If-Range": '"other"'})
            assert (whole.status_code, len(whole.content)) == (200, 10000)
            assert client.get(f"/list/{FILE}", headers={"Range": "bytes=99999-"}).status_code == 416

    def test_what_has_not_changed_is_not_sent(self, ordinary: Ordinary) -> None:
        with ordinary.client("nginx") as client:
            fields = client.get("/folder/").headers
            for condition in ({"If-None-Match": fields["ETag"]}, {"If-Modified-Since": fields["Last-Modified"]}):
                again = client.get("/folder/", headers=condition)
                assert (again.status_code, again.headers["ETag"]) == (304, fields["ETag"])
            assert client.get("/folder/", headers={"If-Match": '"other"'}).status_code == 412

    def test_it_compresses(self, ordinary: Ordinary) -> None:
        with ordinary.client("nginx") as client:
            response = client.get(f"/list/{FILE}")
        assert (response.headers["Content-Encoding"], response.text) == ("gzip", FILE_CONTENT)

    def test_head_tells_the_length(self, ordinary: Ordinary) -> None:
        with ordinary.client("nginx", headers={"Accept-Encoding": "identity"}) as client:
            assert client.head(f"/list/{FILE}").headers["Content-Length"] == "10000"

    def test_webdav(self, ordinary: Ordinary) -> None:
        with ordinary.client("nginx") as client:
            url = ordinary.url("nginx")
            assert client.request("MKCOL", "/dav/box/").status_code == 201
            assert client.put("/dav/box/one.txt", content=b"one").status_code == 201
            moved = client.request("MOVE", "/dav/box/one.txt", headers={"Destination": f"{url}/dav/box/two.txt"})
            assert moved.status_code == 204
            assert client.get("/dav/box/two.txt").text == "one"
            copied = client.request("COPY", "/dav/box/two.txt", headers={"Destination": f"{url}/dav/box/three.txt"})
            assert copied.status_code == 204
            assert client.delete("/dav/box/").status_code == 204


class TestNode:
    def test_hints_and_trailers(self, ordinary: Ordinary) -> None:
        with ordinary.client("node") as client:
            assert client.get("/hints").text == "after hints"
            assert client.get("/trailers").text == "content"


@pytest.mark.parametrize(("name", "status"), [("flask", 403), ("node", 413)])
@pytest.mark.parametrize("_attempt", range(5))
def test_a_refusal_comes_while_the_body_is_still_sent(
    ordinary: Ordinary, name: str, status: int, _attempt: int
) -> None:
    def body() -> Iterator[bytes]:
        for _ in range(64):
            yield bytes(65536)

    with ordinary.client(name) as client:
        assert client.post("/refuse", content=body()).status_code == status


class TestPythonsHttpServer:
    def test_answers_end_with_their_connection(self, ordinary: Ordinary) -> None:
        with ordinary.client("files") as client:
            assert [client.get(f"/list/{FILE}").text for _ in range(3)] == [FILE_CONTENT] * 3
            assert client.head(f"/list/{FILE}").headers["Content-Length"] == str(len(FILE_CONTENT))
            assert client.get("/nothing").status_code == 404


class TestExpress:
    def test_bodies_are_parsed(self, ordinary: Ordinary) -> None:
        with ordinary.client("express") as client:
            assert client.post("/json", json={"a": ["ü", 1]}).json() == {"a": ["ü", 1]}
            assert client.post("/form", data={"a": "b c&d"}).json() == {"a": "b c&d"}
            assert client.post("/json", content=b"{", headers={"Content-Type": "application/json"}).status_code == 400

    def test_a_large_body_is_refused_by_the_service(self, ordinary: Ordinary) -> None:
        with ordinary.client("express") as client:
            assert client.post("/json", json=["x" * 500_000]).status_code == 413

    @pytest.mark.parametrize(
        "query", ["a[]=1&a[]=2", "q=%22a%20b%22", "q=a+b", "a=1&a=2", "q=ü", "empty", "q=%", "q={x}|y"]
    )
    def test_a_query_gets_through(self, ordinary: Ordinary, query: str) -> None:
        with ordinary.client("express") as client:
            assert client.get(f"/search?{query}").status_code == 200

    def test_a_cookie_with_a_redirect(self, ordinary: Ordinary) -> None:
        with ordinary.client("express") as client:
            answer = client.get("/login")
        assert answer.headers["Set-Cookie"] == "session=a%20b; Path=/; HttpOnly"
        assert (answer.status_code, answer.headers["Location"]) == (303, "/where")
