"""A site with browser sessions under attack: the auth service and the gateway, and a service that records what it gets.

Both are real processes with an https issuer, as in production; the TLS is a proxy's affair. Requests are written byte
by byte: what arrives is what a hostile page, a sibling subdomain or a program could send.
"""

import json
import re
import secrets
import socket
from base64 import urlsafe_b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from clusters import LocalCluster
from gateways import read_all
from people import PASSWORD
from upstreams import RawUpstream, name_of

HOST = "app.example"
ORIGIN = f"https://{HOST}"
SESSION, TOKEN = b"__Host-ostiary-session", b"__Host-ostiary-token"

#: Characters of a session's secret.
SECRET_LENGTH = 43

ROUTES = """
upstreams:
  auth: {{url: "{auth}"}}
  seen: {{url: "http://127.0.0.1:{seen}"}}
browser: {{upstream: auth, trusted_origins: ["https://trusted.app.example"], login_path: /login}}
routes:
  - {{name: s, match: {{path: /session, methods: [GET]}}, upstream: auth, access: optional}}
  - {{name: login, match: {{path: /session, methods: [POST, DELETE]}}, upstream: auth, access: public}}
  - {{name: end, match: {{path: /session/end, methods: [POST]}}, upstream: auth, access: public}}
  - {{name: register, match: {{path: /auth/register, methods: [POST]}}, upstream: auth, access: public}}
  - {{name: refresh, match: {{path: /auth/refresh, methods: [POST]}}, upstream: auth, access: public}}
  - {{name: password, match: {{path: /auth/password, methods: [POST]}}, upstream: auth, access: authenticated}}
"""
ROUTE = """
  - name: {name}
    match: {{path: "/{name}/{{rest...}}", methods: [GET, POST, PUT, PATCH, DELETE, PROPFIND]}}
    upstream: seen
"""
KINDS = {
    "private": "    access: authenticated\n    websocket: true\n",
    "optional": "    access: optional\n",
    "public": "    access: public\n",
    "bearer": "    access: authenticated\n    credentials: [bearer]\n",
    "embed": "    access: authenticated\n    embed: same-site\n",
    "page": "    access: authenticated\n    login: redirect\n",
}

#: What a page of the site itself sends.
OWN = b"Sec-Fetch-Site: same-origin\r\n"


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    fields: list[tuple[str, str]]
    body: bytes

    @classmethod
    def parse(cls, received: bytes) -> "Answer":
        head, _, body = received.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        pairs = [line.partition(":") for line in lines]
        return cls(int(first.split(" ")[1]), [(name.lower(), value.strip()) for name, _, value in pairs], body)

    def all(self, name: str) -> list[str]:
        return [value for each, value in self.fields if each == name]

    @property
    def code(self) -> str:
        """The code of a problem; empty if it is none."""
        return str(json.loads(self.body)["code"]) if self.all("content-type") == ["application/problem+json"] else ""


@dataclass(frozen=True)
class Cookies:
    """The cookies of somebody's browser."""

    user: str
    session: bytes
    token: bytes

    @property
    def session_id(self) -> bytes:
        return self.session.partition(b".")[0]

    @property
    def pair(self) -> bytes:
        return b"%b=%b; %b=%b" % (SESSION, self.session, TOKEN, self.token)

    @property
    def secrets(self) -> list[bytes]:
        """What nobody but the browser and the auth service may have: the session's secret."""
        return [self.session.partition(b".")[2]]


class Site:
    """A gateway with the auth service and a service that records what it gets."""

    def __init__(self, directory: Path, **settings: str) -> None:
        directory.mkdir(exist_ok=True)
        self.upstream = RawUpstream()
        self.cluster = LocalCluster(
            directory / "data",
            OSTIARY_GATEWAY_ROUTES=str(directory / "gateway.yaml"),
            **settings,
        )
        self.cluster.environ["OSTIARY_ISSUER"] = ORIGIN
        file = ROUTES.format(auth=self.cluster.urls["auth"], seen=self.upstream.port)
        file += "".join(ROUTE.format(name=name) + rest for name, rest in KINDS.items())
        (directory / "gateway.yaml").write_text(file)
        #: Where requests go: the gateway, or what a test puts before it.
        self.port = self.gateway_port = int(self.cluster.urls["gateway"].rpartition(":")[2])

    @contextmanager
    def running(self) -> Iterator[Self]:
        try:
            for service in ("auth", "gateway"):
                self.cluster.start(service)
            yield self
        finally:
            self.cluster.stop_all()
            self.upstream.close()

    def send(self, request: bytes) -> bytes:
        with socket.create_connection(("127.0.0.1", self.port), timeout=30) as connection:
            connection.sendall(request)
            return read_all(connection)

    def switch(self, request: bytes) -> bytes:
        """Return the head of what comes back: what follows it does not end by itself."""
        received = b""
        with socket.create_connection(("127.0.0.1", self.port), timeout=30) as connection:
            connection.sendall(request)
            while b"\r\n\r\n" not in received and (chunk := connection.recv(65536)):
                received += chunk
        return received.partition(b"\r\n\r\n")[0]

    def raw(self, path: str, fields: bytes = b"", method: str = "GET", body: bytes = b"") -> bytes:
        length = b"Content-Length: %d\r\n" % len(body) if body or method != "GET" else b""
        head = f"{method} {path} HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n".encode()
        return self.send(head + length + fields + b"\r\n" + body)

    def ask(self, path: str, fields: bytes = b"", method: str = "GET", body: bytes = b"") -> Answer:
        return Answer.parse(self.raw(path, fields, method, body))

    def answer_with_caller(self, name: str, fields: bytes = b"") -> None:
        """Have the service tell whose request it got, under the last part of a path."""

        def tell(connection: socket.socket) -> None:
            body = (caller_of(self.upstream.last(name)) or "nobody").encode()
            head = b"HTTP/1.1 200 OK\r\n" + fields + b"Content-Length: %d\r\n\r\n" % len(body)
            connection.sendall(head + body)

        self.upstream.answers[name] = tell

    def attack(self, kind: str, fields: bytes, method: str = "GET") -> tuple[Answer, bytes | None]:
        """Send a request to a kind of route. Return the answer, and what the service saw of it."""
        name = secrets.token_hex(8)
        answer = self.ask(f"/{kind}/{name}", fields, method)
        return answer, next((each for each in self.upstream.received if name_of(each) == name), None)

    def register(self) -> str:
        email = f"{secrets.token_hex(6)}@example.com"
        body = json.dumps({"email": email, "password": PASSWORD}).encode()
        assert self.ask("/auth/register", b"Content-Type: application/json\r\n", "POST", body).status == 201
        return email

    def log_in(self, email: str, fields: bytes = OWN) -> Answer:
        body = json.dumps({"email": email, "password": PASSWORD}).encode()
        return self.ask("/session", b"Content-Type: application/json\r\n" + fields, "POST", body)

    def person(self) -> Cookies:
        answer = self.log_in(self.register())
        return self.cookies_of(answer)

    @staticmethod
    def cookies_of(answer: Answer) -> Cookies:
        assert answer.status == 200, answer.body
        jar = dict(value.partition(";")[0].split("=", 1) for value in answer.all("set-cookie"))
        user = json.loads(answer.body)["user"]["id"]
        return Cookies(user, jar[SESSION.decode()].encode(), jar[TOKEN.decode()].encode())


def cookie(*values: bytes) -> bytes:
    """Return a field with these cookies, as a page of the site itself sends it."""
    return OWN + b"Cookie: " + b"; ".join(values) + b"\r\n"


def named(name: bytes, value: bytes) -> bytes:
    return name + b"=" + value


def values_of(request: bytes, name: bytes) -> list[bytes]:
    lines = request.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]
    return [value.strip() for each, _, value in (line.partition(b":") for line in lines) if each.lower() == name]


def caller_of(request: bytes | None) -> str | None:
    """Return whose bearer token a service got; None if it got none."""
    if request is None:
        return None
    found = values_of(request, b"authorization")
    if not found:
        return None
    (value,) = found
    assert value.startswith(b"Bearer "), value
    payload = value.removeprefix(b"Bearer ").split(b".")[1]
    return str(json.loads(urlsafe_b64decode(payload + b"=" * (-len(payload) % 4)))["sub"])


def cookies_seen(request: bytes | None) -> bytes:
    assert request is not None
    return b"; ".join(values_of(request, b"cookie"))


#: Fields of answers that differ from one to the next.
VARIABLE = frozenset({"x-request-id", "date", "traceparent"})


def shape(answer: Answer) -> tuple[int, list[tuple[str, str]], bytes]:
    """Return what a page could learn from an answer."""
    kept = [(name, value) for name, value in answer.fields if name not in VARIABLE]
    location = [(name, re.sub(r"[0-9a-f]{16}", "NAME", value)) for name, value in kept]
    return answer.status, location, answer.body
