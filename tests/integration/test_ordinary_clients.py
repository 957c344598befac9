"""Clients as everybody has them, each with its defaults, get what they ask for through the gateway.

What each client does is a behaviour with a name; what the service has to get then, or the client, is one table.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
import requests
from clusters import NO_TLS, clean_environment, run
from ordinary import Got, curl, node_modules, program

CLIENTS = Path(__file__).parent / "clients"
LARGE = bytes(3 * 1024 * 1024)
JSON = '{"a": "ü"}'
FILE_NAME = "Büro [1].txt"

#: A path as a person types it, and as the service finds it.
PATH = "/echo/a file [1] {x}|^ü'.txt"

PARTS = "".join(f"part {number}\n" for number in range(5))

#: What the service got, for each behaviour.
ECHOES: Mapping[str, Callable[[dict[str, Any]], bool]] = {
    "get": lambda got: (got["method"], got["query"].replace("%5B%5D", "[]")) == ("GET", "x=1&y[]=2"),
    "post": lambda got: json.loads(bytes_of(got)) == {"a": "ü"},
    "get with content": lambda got: json.loads(bytes_of(got)) == {"a": "ü"},
    "empty": lambda got: (got["method"], got["size"]) == ("POST", 0),
    "large": lambda got: got["sha256"] == hashlib.sha256(LARGE).hexdigest(),
    "stream": lambda got: got["sha256"] == hashlib.sha256(LARGE).hexdigest(),
    "form": lambda got: "ü".encode() in bytes_of(got) and FILE_NAME.encode() in bytes_of(got),
    "path": lambda got: bool(got["path"] == PATH),
    "redirect": lambda got: bool(got["path"] == "/echo/arrived"),
    "options": lambda got: bool(got["method"] == "OPTIONS"),
    "delete": lambda got: bool(got["method"] == "DELETE"),
    "cookies": lambda got: sorted(fields_of(got)["cookie"].split("; ")) == ["one=1", "two=2"],
    "compressed": lambda got: "gzip" in fields_of(got)["accept-encoding"],
    "http/1.0": lambda got: bool(got["method"] == "GET"),
    "http/2 preferred": lambda got: "upgrade" not in fields_of(got),
    "few fields": lambda got: not {"user-agent", "accept"} & set(fields_of(got)),
}

#: What the client got, for behaviours that no echo answers.
ANSWERS: Mapping[str, set[Got]] = {
    "nothing": {(204, "")},
    "parts": {(200, PARTS)},
    "parts over http/1.0": {(200, PARTS)},
    "websocket": {(1000, "hello")},
    "websocket with cookies": {(1000, "hello")},
    "websocket with an origin": {(1000, "hello")},
}

ALL = ["get", "post", "empty", "large", "stream", "form", "path", "redirect", "head", "options", "delete"]
ALL += ["nothing", "parts"]
OF_CURL = ["get with content", "compressed", "http/1.0", "http/2 preferred", "few fields", "parts over http/1.0"]


def bytes_of(got: dict[str, Any]) -> bytes:
    """Return the content that the service got."""
    content: str = got["body"]
    return content.encode("latin-1")


def fields_of(got: dict[str, Any]) -> dict[str, str]:
    """Return the header fields that the service got."""
    return {name.lower(): value for name, value in got["fields"]}


def expect(behaviour: str, got: Got) -> None:
    """Assert that a client got what it asked for."""
    if behaviour in ANSWERS:
        assert got in ANSWERS[behaviour]
    elif behaviour == "head":
        assert got[0] == 200
    else:
        assert got[0] == 200, got
        assert ECHOES[behaviour](json.loads(got[1])), got


def pieces() -> Iterator[bytes]:
    for _ in range(48):
        yield LARGE[: len(LARGE) // 48]


def with_curl(base: str) -> dict[str, Callable[[], Got]]:
    echo = base + "/echo/a"
    as_json = ["--header", "Content-Type: application/json", "--data", JSON]
    return {
        "get": lambda: curl(f"{echo}?x=1&y[]=2"),
        "post": lambda: curl(echo, *as_json),
        "empty": lambda: curl(echo, "--request", "POST"),
        # With Expect: 100-continue, for a body of this size.
        "large": lambda: curl(echo, "--request", "PUT", "--data-binary", "@-", stdin=LARGE),
        "stream": lambda: curl(echo, "--request", "POST", "--upload-file", "-", stdin=LARGE),
        "form": lambda: curl(echo, "--form", "note=ü", "--form", f"file=@-;filename={FILE_NAME}", stdin=b"content"),
        "path": lambda: curl(base + PATH.replace(" ", "%20")),
        "redirect": lambda: curl(base + "/redirect", "--location"),
        "head": lambda: curl(echo, "--head"),
        "options": lambda: curl(echo, "--request", "OPTIONS"),
        "delete": lambda: curl(echo, "--request", "DELETE"),
        "nothing": lambda: curl(base + "/status/204"),
        "parts": lambda: curl(base + "/drip"),
        "get with content": lambda: curl(echo, "--request", "GET", *as_json),
        "compressed": lambda: curl(echo, "--compressed"),
        "http/1.0": lambda: curl(echo, "--http1.0"),
        "http/2 preferred": lambda: curl(echo, "--http2"),
        "few fields": lambda: curl(echo, "--user-agent", "", "--header", "Accept:"),
        "parts over http/1.0": lambda: curl(base + "/drip", "--http1.0"),
    }


def with_session(base: str, session: Any, content: str) -> dict[str, Callable[[], Got]]:
    """Return what requests and httpx do alike, but for the name of the argument for content."""
    echo = base + "/echo/a"

    def ask(method: str, url: str, **options: Any) -> Got:
        response = session.request(method, url, timeout=20, **options)
        return response.status_code, response.text

    def cookies() -> Got:
        ask("GET", base + "/cookies")
        return ask("GET", echo)

    return {
        "get": lambda: ask("GET", echo, params={"x": "1", "y[]": "2"}),
        "post": lambda: ask("POST", echo, **{content: JSON.encode()}),
        "empty": lambda: ask("POST", echo),
        "large": lambda: ask("PUT", echo, **{content: LARGE}),
        "stream": lambda: ask("POST", echo, **{content: pieces()}),
        "form": lambda: ask("POST", echo, data={"note": "ü"}, files={"file": (FILE_NAME, b"content")}),
        "path": lambda: ask("GET", base + PATH),
        "redirect": lambda: ask("GET", base + "/redirect"),
        "head": lambda: ask("HEAD", echo),
        "options": lambda: ask("OPTIONS", echo),
        "delete": lambda: ask("DELETE", echo),
        "nothing": lambda: ask("GET", base + "/status/204"),
        "parts": lambda: ask("GET", base + "/drip"),
        "cookies": cookies,
    }


@pytest.fixture(scope="module")
def got_by_node(base: str) -> dict[str, Got]:
    done = run(program("node"), CLIENTS / "node_clients.js", base, env=clean_environment(NODE_PATH=str(node_modules())))
    assert done.returncode == 0, done.stderr
    return {name: (status, text) for name, (status, text) in json.loads(done.stdout).items()}


@pytest.fixture(scope="module")
def got_by_java(base: str) -> dict[str, Got]:
    done = run(program("java"), "-XX:TieredStopAtLevel=1", "-Dfile.encoding=UTF-8", CLIENTS / "JavaClient.java", base)
    assert done.returncode == 0, done.stderr
    return {name: (status, text) for name, status, text in json.loads(f"[{done.stdout}]")}


@pytest.mark.parametrize("behaviour", [*ALL, *OF_CURL])
def test_curl(base: str, behaviour: str) -> None:
    expect(behaviour, with_curl(base)[behaviour]())


@pytest.mark.parametrize("behaviour", [*ALL, "cookies"])
def test_requests(base: str, behaviour: str) -> None:
    with requests.Session() as session:
        session.trust_env = False
        expect(behaviour, with_session(base, session, "data")[behaviour]())


@pytest.mark.parametrize("behaviour", [*ALL, "cookies"])
def test_httpx(base: str, behaviour: str) -> None:
    with httpx.Client(trust_env=False, verify=NO_TLS, follow_redirects=True) as client:
        expect(behaviour, with_session(base, client, "content")[behaviour]())


@pytest.mark.parametrize("client", ["fetch", "axios"])
@pytest.mark.parametrize("behaviour", ALL)
def test_fetch_and_axios(got_by_node: dict[str, Got], client: str, behaviour: str) -> None:
    expect(behaviour, got_by_node[f"{client}: {behaviour}"])


@pytest.mark.parametrize("behaviour", [each for each in ALL if each not in {"form", "redirect"}])
def test_node_s_agent_that_keeps_connections(got_by_node: dict[str, Got], behaviour: str) -> None:
    expect(behaviour, got_by_node[f"http.Agent: {behaviour}"])


@pytest.mark.parametrize("behaviour", ["websocket", "websocket with cookies", "websocket with an origin"])
def test_ws(got_by_node: dict[str, Got], behaviour: str) -> None:
    expect(behaviour, got_by_node[f"ws: {behaviour}"])


@pytest.mark.parametrize("behaviour", [*(each for each in ALL if each != "form"), "cookies", "websocket"])
def test_java(got_by_java: dict[str, Got], behaviour: str) -> None:
    expect(behaviour, got_by_java[behaviour])
