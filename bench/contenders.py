"""The ways of staying logged in that `session_or_jwt.py` compares, as running processes.

Applications on Express, with packages of npm pinned in `peers_node/package-lock.json` (`make build/peers/installed`):

    session.js   express-session and connect-redis, with Redis beside it
    jwt.js       jsonwebtoken, with HS256 or RS256

Ours: the gateway in front of a service, both with compiled modules as in the images, and the auth service.
"""

import asyncio
import http.client
import json
import secrets
import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any, Literal

from common import HOST, PASSWORD, Process, Service, free_ports, listens, request, sign_up
from session_service import SCOPES, Kind, Settings

ROOT = Path(__file__).parents[1]
COMPILED = ROOT / "build" / "compiled"
NODE_SOURCES = Path(__file__).parent / "peers_node"
NODE_MODULES = ROOT / "build" / "peers" / "node_modules"

#: The account of the applications on Express.
EMAIL = "ada@example.com"

#: What browsers send with a request of a script, besides the credential.
BROWSER_FIELDS = (
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
    "Accept: */*",
    "Accept-Language: en-US,en;q=0.5",
    "Sec-Fetch-Dest: empty",
    "Sec-Fetch-Mode: cors",
    "Sec-Fetch-Site: same-origin",
)

Endpoint = tuple[str, str]
Persistence = Literal["never", "each second", "default"]


class Unavailable(Exception):
    """A contender cannot be run on this machine."""


@dataclass(frozen=True, slots=True)
class Login:
    """A login: the field that later requests carry, and how it ends."""

    credential: str
    end: Endpoint

    @property
    def fields(self) -> tuple[str, ...]:
        return (*BROWSER_FIELDS, self.credential) if self.credential else BROWSER_FIELDS

    @property
    def profile(self) -> bytes:
        return request("GET", "/profile", b"", *self.fields)

    @property
    def logout(self) -> bytes:
        return request(*self.end, b"", *self.fields)


@dataclass(frozen=True, slots=True)
class Contender:
    """Running processes that serve `/profile` at each of these ports."""

    ports: tuple[int, ...]
    #: All that take part, whose CPU time counts.
    processes: tuple[Process, ...]
    log_in: Callable[[], Login]

    @property
    def port(self) -> int:
        return self.ports[0]

    def cpu_seconds(self) -> float:
        return sum(each.cpu_seconds() for each in self.processes)


@dataclass(frozen=True, slots=True)
class Reply:
    """A response to a login: its document and the cookies that it sets, as a `Cookie` field."""

    document: dict[str, Any]
    cookies: str


def post(port: int, path: str, document: object, *fields: str) -> Reply:
    """Send one request. Raises RuntimeError for an error response."""
    connection = http.client.HTTPConnection(HOST, port, timeout=30)
    headers = {"Content-Type": "application/json", **dict(each.split(": ", 1) for each in fields)}
    connection.request("POST", path, json.dumps(document), headers)
    response = connection.getresponse()
    body = response.read()
    connection.close()
    if response.status >= HTTPStatus.BAD_REQUEST:
        raise RuntimeError(f"POST {path}: {response.status} {body.decode()}")
    pairs = (each.partition(";")[0] for each in response.headers.get_all("Set-Cookie", []))
    return Reply(json.loads(body), "Cookie: " + "; ".join(pairs))


# Applications on Express.


class Redis(Process):
    """Redis on a port of its own."""

    def __init__(self, folder: Path, persistence: Persistence = "never") -> None:
        """Prepare a server that writes its data to disk: never, each second, or as it does by default.

        Raises Unavailable.
        """
        (self.port,) = free_ports(1)
        command = [program("redis-server"), "--bind", HOST, "--port", str(self.port), "--dir", str(folder)]
        command += {"never": ["--save", ""], "each second": ["--appendonly", "yes"], "default": []}[persistence]
        super().__init__(command, folder / f"redis-{self.port}.log", partial(listens, self.port))

    def number(self, section: str, name: str) -> int:
        """Return a number of the server's own statistics."""
        with socket.create_connection((HOST, self.port), timeout=10) as connection:
            connection.sendall(f"INFO {section}\r\n".encode())
            received = connection.recv(65536).decode()
        (line,) = (each for each in received.splitlines() if each.startswith(f"{name}:"))
        return int(line.partition(":")[2])


class Application(Process):
    """An application on Express, on a port of its own."""

    def __init__(self, folder: Path, script: str, *arguments: object, **settings: str) -> None:
        """Prepare it. Raises Unavailable."""
        if not NODE_MODULES.exists():
            raise Unavailable("the packages are not installed: make build/peers/installed")
        (self.port,) = free_ports(1)
        command = [program("node"), str(NODE_SOURCES / script), str(self.port), *map(str, arguments)]
        environ = {"NODE_PATH": str(NODE_MODULES), "NODE_ENV": "production", **settings}
        super().__init__(command, folder / f"node-{self.port}.log", partial(listens, self.port), **environ)


def program(name: str) -> str:
    """Return the path of a program. Raises Unavailable."""
    path = shutil.which(name)
    if path is None:
        raise Unavailable(f"{name} is not installed")
    return path


@contextmanager
def running_session(
    folder: Path, redis: Redis, *options: str, instances: int = 1, redis_port: int = 0
) -> Iterator[Contender]:
    """Run applications with sessions in a Redis that runs, reached at its own port or another. Raises Unavailable."""
    arguments = (redis_port or redis.port, *options)
    secret = secrets.token_hex(32)
    applications = [Application(folder, "session.js", *arguments, SESSION_SECRET=secret) for _ in range(instances)]
    with ExitStack() as stack:
        for each in applications:
            stack.enter_context(each.running())
        ports = tuple(each.port for each in applications)
        yield Contender(ports, (*applications, redis), partial(_log_in_with_session, ports[0]))


def _log_in_with_session(port: int) -> Login:
    reply = post(port, "/login", {"email": EMAIL, "password": PASSWORD})
    return Login(reply.cookies, ("POST", "/logout"))


@contextmanager
def running_jwt(folder: Path, algorithm: str, keys: str = "parsed", *, life: int = 900) -> Iterator[Contender]:
    """Run an application with tokens that live for `life` seconds. Raises Unavailable."""
    application = Application(folder, "jwt.js", algorithm, life, keys)
    with application.running():
        yield Contender((application.port,), (application,), partial(_log_in_with_jwt, application.port))


def _log_in_with_jwt(port: int) -> Login:
    reply = post(port, "/login", {"email": EMAIL, "password": PASSWORD})
    return Login(f"Authorization: Bearer {reply.document['token']}", ("POST", "/logout"))


@contextmanager
def running_bare(folder: Path) -> Iterator[Contender]:
    """Run an application that knows no login. Raises Unavailable."""
    application = Application(folder, "bare.js")
    with application.running():
        yield Contender((application.port,), (application,), _no_login)


def _no_login() -> Login:
    return Login("", ("POST", "/logout"))


# Ours.


class OwnService(Process):
    """A small service that answers `/profile`; without an issuer, it knows no login."""

    def __init__(self, folder: Path, kind: Kind, issuer: str = "", auth_port: int = 0) -> None:
        """`auth_port` is where it reaches the auth service."""
        (self.port,) = free_ports(1)
        settings = Settings(kind, self.port)
        if issuer:
            settings = Settings(kind, self.port, issuer, auth_port, str(folder / "feed-secret"))
        command = [sys.executable, str(Path(__file__).with_name("session_service.py")), json.dumps(asdict(settings))]
        log = folder / f"service-{self.port}.log"
        super().__init__(command, log, partial(listens, self.port), PYTHONPATH=str(COMPILED))


@dataclass(frozen=True, slots=True)
class Cluster:
    """The auth service with an account, gateways, and the service behind them, all running."""

    auth: Service
    gateways: tuple[Service, ...]
    service: OwnService
    email: str

    @property
    def behind_gateways(self) -> tuple[tuple[int, ...], tuple[Process, ...]]:
        return tuple(each.port for each in self.gateways), (*self.gateways, self.service, self.auth)

    def with_cookies(self) -> Contender:
        return Contender(*self.behind_gateways, self.log_in_with_cookies)

    def with_bearer(self) -> Contender:
        return Contender(*self.behind_gateways, self.log_in_with_bearer)

    def without_gateway(self) -> Contender:
        return Contender((self.service.port,), (self.service, self.auth), self.log_in_with_bearer)

    def log_in_with_cookies(self) -> Login:
        reply = self.log_in("/session")
        return Login(reply.cookies, ("DELETE", "/session"))

    def log_in_with_bearer(self) -> Login:
        reply = self.log_in("/auth/login")
        return Login(f"Authorization: Bearer {reply.document['access_token']}", ("POST", "/auth/logout"))

    def log_in(self, path: str) -> Reply:
        # From another address each time, so that no throttle counts it with another.
        source = f"X-Forwarded-For: 10.{secrets.randbelow(256)}.{secrets.randbelow(256)}.{secrets.randbelow(256)}"
        return post(self.auth.port, path, {"email": self.email, "password": PASSWORD}, source)


@contextmanager
def running_cluster(
    folder: Path,
    kind: Kind = "starlette",
    *,
    gateways: int = 1,
    host: str = "localhost",
    between: Callable[[int], int] = int,
    token_seconds: int = 900,
) -> Iterator[Cluster]:
    """Run a cluster whose issuer is the first gateway, by the name `host`.

    `between` returns the port at which gateways reach the service.
    """
    auth_port, *ports = free_ports(1 + gateways)
    settings = cluster_settings(folder, f"http://{host}:{ports[0]}", token_seconds)
    settings["OSTIARY_AUTH_URL"] = f"http://{HOST}:{auth_port}"
    auth = Service("auth", folder, port=auth_port, **settings)
    service = OwnService(folder, kind, settings["OSTIARY_ISSUER"], auth_port)
    # JSON is YAML.
    (folder / "routes.yaml").write_text(json.dumps(routes(auth_port, between(service.port))))
    followers = tuple(Service("gateway", folder, port=port, PYTHONPATH=str(COMPILED), **settings) for port in ports)
    with ExitStack() as stack:
        for each in (auth, service, *followers):
            stack.enter_context(each.running())
        (email,) = asyncio.run(sign_up(auth_port, 1))
        yield Cluster(auth, followers, service, email)


def cluster_settings(folder: Path, issuer: str, token_seconds: int) -> dict[str, str]:
    """Return the settings that all processes of a cluster share; `folder` has its files."""
    return {
        "OSTIARY_ISSUER": issuer,
        "OSTIARY_FEED_SECRET_FILE": str(folder / "feed-secret"),
        "OSTIARY_GATEWAY_SECRET_FILE": str(folder / "gateway-secret"),
        "OSTIARY_GATEWAY_ROUTES": str(folder / "routes.yaml"),
        "OSTIARY_ACCESS_TOKEN_TTL": str(token_seconds),
        # Clients of the load say which addresses they have.
        "OSTIARY_GATEWAY_TRUSTED_PROXIES": HOST,
    }


def routes(auth: int, service: int) -> dict[str, Any]:
    """Return the gateway's routes file."""
    return {
        "upstreams": {"auth": {"url": f"http://{HOST}:{auth}"}, "profile": {"url": f"http://{HOST}:{service}"}},
        "browser": {"upstream": "auth"},
        "routes": [
            route("session", "/session", ["POST", "DELETE"], "auth", "public"),
            route("login", "/auth/login", ["POST"], "auth", "public"),
            route("logout", "/auth/logout", ["POST"], "auth", "authenticated"),
            route("profile", "/profile", ["GET", "POST"], "profile", {"scopes": list(SCOPES)}),
            route("page", "/", ["GET"], "profile", "public"),
        ],
    }


def route(name: str, path: str, methods: list[str], upstream: str, access: object) -> dict[str, Any]:
    return {"name": name, "match": {"path": path, "methods": methods}, "upstream": upstream, "access": access}


@contextmanager
def running_bare_service(folder: Path, kind: Kind) -> Iterator[Contender]:
    """Run a service that knows no login."""
    service = OwnService(folder, kind)
    with service.running():
        yield Contender((service.port,), (service,), _no_login)
