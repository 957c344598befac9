"""The gateway compared with other proxies: same upstream, same load, one core for the proxy and one for the rest.

The gateway does all its work: it verifies tokens, follows revocations, counts and logs. Its modules are compiled, as in
its image (`make build/compiled`); `requests` also measures it interpreted. Contenders take turns in each round; results
are ratios of medians. A proxy that is not installed is skipped with a message.

requests  An authenticated GET with a small JSON response over 64 connections, with repeated tokens and with new ones.
          HAProxy verifies the same tokens with `jwt_verify` and checks the same claims; nginx and Caddy forward
          requests without any check. Goal: a p99 not above HAProxy's.
cookies   The same GET with the cookies of a browser session and with its access token as a bearer, at one gateway; the
          latter also at a gateway without browser sessions. Goal: 0.95 of the requests per second with a bearer.
routes    The same with a thousand routes, one of which is used, and with ten. Goal: 0.9 of the requests per second.
workers   The same with two workers on two cores, and with one. Goal: 1.8 times the requests per second. If no cores are
          left for the load, all processes share all cores, `cores_free` is false, and the goal cannot be measured.
body      A gigabyte down and up, compared with nginx, which also streams (`proxy_buffering off`,
          `proxy_request_buffering off`) and verifies no token. Goals: half of its throughput, and at most 80 MB of
          memory. If the load's core is the bottleneck, compare `cpu_seconds_per_gb`.
idle      Ten thousand idle keep-alive connections. Goal: at most 200 MB of memory.

Results are printed and written to `bench/results/gateway.json`. Takes twelve minutes. `--quick` is a short functional
check, and part names select parts; neither writes results.

    python bench/gateway.py [--quick] [part ...]
"""

import asyncio
import base64
import json
import resource
import shutil
import socket
import struct
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from common import (
    HOST,
    Cores,
    Hit,
    Place,
    Row,
    Service,
    ask_all,
    free_ports,
    hit,
    in_turn,
    log_in,
    measure,
    on,
    post_json,
    ratios,
    request,
    side_by_side,
    sign_up,
    summary,
    usable_cores,
    versions,
)
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicNumbers
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from peers import ANSWER, ISSUER, SCOPE, STREAM, Peer, nginx, nginx_proxy, running_proxies
from transfers import ask, download, running_sink, upload

from ostiary.browser import cookie_names

LIMIT_SECONDS = 1500
COMPILED = Path(__file__).parents[1] / "build" / "compiled"
CONNECTIONS = 64
LIBRARIES = ("ostiary", "ostiary-gateway", "uvloop", "cryptography")
PROGRAMS = {"haproxy": "-v", "nginx": "-v", "caddy": "version", "wrk": "-v"}

#: wrk sends the next token of the file with each request; no token repeats while it is cached.
NEW_TOKENS = """\
local values = {{}}
for line in io.lines("{values}") do values[#values + 1] = line end
local number = 0
request = function()
  number = number % #values + 1
  return wrk.format("GET", nil, {{ ["{field}"] = values[number] }})
end
"""


Proxy = Service | Peer


@dataclass(frozen=True, slots=True)
class Scale:
    """How much to measure."""

    rounds: int = 7
    seconds: int = 4
    new_tokens: int = 25_000
    session_tokens: int = 12_000
    body_bytes: int = 1_000_000_000
    idle_rounds: int = 3
    idle_connections: int = 10_000


#: With so few tokens, even the new ones are cached.
QUICK = Scale(
    rounds=1,
    seconds=1,
    new_tokens=1000,
    session_tokens=100,
    body_bytes=200_000_000,
    idle_rounds=1,
    idle_connections=1000,
)


# The gateway's surroundings.


@dataclass(frozen=True, slots=True)
class Setup:
    """What a gateway needs, running: an issuer, and an upstream with a constant response."""

    folder: Path
    issuer: Service
    upstream: int
    tokens: list[str]

    @property
    def bearer(self) -> str:
        return f"Authorization: Bearer {self.tokens[0]}"

    def gateway(self, routes: dict[str, Any], *, is_compiled: bool = True, **settings: str) -> Service:
        """Return a gateway with these routes, not yet started."""
        if is_compiled:
            settings["PYTHONPATH"] = str(COMPILED)
        # JSON is YAML.
        file = self.folder / f"routes-{len(list(self.folder.glob('routes-*')))}.yaml"
        file.write_text(json.dumps(routes))
        return Service(
            "gateway",
            self.folder,
            port=free_ports(1)[0],
            OSTIARY_ISSUER=ISSUER,
            OSTIARY_AUTH_URL=f"http://{HOST}:{self.issuer.port}",
            OSTIARY_FEED_SECRET_FILE=str(self.folder / "feed-secret"),
            OSTIARY_GATEWAY_ROUTES=str(file),
            **settings,
        )


@contextmanager
def running_setup(load: Cores, tokens: int = 1) -> Iterator[Setup]:
    """Run issuer and upstream on the load's cores, and get access tokens."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        stack.enter_context(on(load))
        upstream = nginx(folder, ANSWER)
        stack.enter_context(upstream.running())
        issuer = Service("auth", folder, OSTIARY_ISSUER=ISSUER, OSTIARY_FEED_SECRET_FILE=str(folder / "feed-secret"))
        stack.enter_context(issuer.running())
        yield Setup(folder, issuer, upstream.port, asyncio.run(client_tokens(issuer, tokens)))


async def client_tokens(issuer: Service, count: int) -> list[str]:
    secret = issuer.command("clients", "create", "bench", "--scope", SCOPE)
    form = urlencode({"grant_type": "client_credentials", "client_id": "bench", "client_secret": secret}).encode()
    asking = request("POST", "/oauth/token", form, "Content-Type: application/x-www-form-urlencoded")
    return [answer["access_token"] for answer in await ask_all(issuer.port, [asking] * count)]


def public_key(port: int, token: str) -> bytes:
    """Return the key that signed a token, in PEM."""
    kid = json.loads(decoded(token.partition(".")[0]))["kid"]
    with urllib.request.urlopen(f"http://{HOST}:{port}/.well-known/jwks.json") as answer:
        (key,) = (each for each in json.load(answer)["keys"] if each["kid"] == kid)
    n, e = (int.from_bytes(decoded(key[name])) for name in ("n", "e"))
    return RSAPublicNumbers(e, n).public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "==")


def upstream_at(port: int) -> dict[str, str]:
    return {"url": f"http://{HOST}:{port}"}


def route(name: str, path: str, method: str, upstream: str, scope: str = SCOPE) -> dict[str, Any]:
    match = {"path": path, "methods": [method]}
    return {"name": name, "match": match, "upstream": upstream, "access": {"scopes": [scope]}}


def orders(port: int) -> dict[str, Any]:
    return {"upstreams": {"orders": upstream_at(port)}, "routes": [route("orders", "/orders", "GET", "orders")]}


# Requests per second.


def requests(scale: Scale) -> Row:
    """Measure requests per second of all proxies, with repeated and with new tokens."""
    place = Place.apart()
    with running_setup(place.load, scale.new_tokens) as setup, ExitStack() as stack:
        (setup.folder / "key.pem").write_bytes(public_key(setup.issuer.port, setup.tokens[0]))
        ours = setup.gateway(orders(setup.upstream))
        interpreted = setup.gateway(orders(setup.upstream), is_compiled=False)
        with on(place.server):
            stack.enter_context(ours.running())
            stack.enter_context(interpreted.running())
            peers = stack.enter_context(running_proxies(setup.folder, setup.upstream))
        contenders: dict[str, Proxy] = {"ostiary": ours, **peers, "ostiary_not_compiled": interpreted}
        checking = {name: each for name, each in contenders.items() if name not in {"nginx", "caddy"}}
        returning, new = ["--header", setup.bearer], ["--script", str(new_tokens(setup))]
        return {
            "returning": side_by_side(loads(contenders, scale, "/orders", *returning), scale.rounds),
            "new": side_by_side(loads(checking, scale, "/orders", *new), scale.rounds),
        }


def new_tokens(setup: Setup) -> Path:
    """Return a wrk script that sends another token each time."""
    return changing(setup, "Authorization", [f"Bearer {token}" for token in setup.tokens])


def changing(setup: Setup, field: str, values: Iterable[str]) -> Path:
    """Return a wrk script that sends a field with another value each time."""
    file, script = setup.folder / f"{field}.txt", setup.folder / f"{field}.lua"
    file.write_text("\n".join(values))
    script.write_text(NEW_TOKENS.format(values=file, field=field))
    return script


# Browser sessions.

#: Sessions whose tokens are renewed side by side.
SESSIONS = 4


def cookies(scale: Scale) -> Row:
    """Measure requests per second with the cookies of browser sessions, and with the same tokens as bearers."""
    place = Place.apart()
    with running_setup(place.load) as setup, ExitStack() as stack:
        tokens = asyncio.run(session_tokens(setup.issuer.port, scale.session_tokens))
        match, upstreams = {"path": "/orders", "methods": ["GET"]}, {"orders": upstream_at(setup.upstream)}
        routes = [{"name": "orders", "match": match, "upstream": "orders", "access": "authenticated"}]
        plain = {"upstreams": upstreams, "routes": routes}
        auth = {"auth": upstream_at(setup.issuer.port)}
        ours = setup.gateway({**plain, "upstreams": {**upstreams, **auth}, "browser": {"upstream": "auth"}})
        without = setup.gateway(plain)
        with on(place.server):
            stack.enter_context(ours.running())
            stack.enter_context(without.running())
        bearers, jars = [f"Bearer {token}" for token in tokens], [jar(token) for token in tokens]

        def contenders(bearer: list[str], cookie: list[str]) -> dict[str, Callable[[], Hit]]:
            ways = {"cookie": (ours, cookie), "bearer": (ours, bearer), "bearer_without_browser": (without, bearer)}
            return {
                name: partial(hit, each.port, "/orders", scale.seconds, CONNECTIONS, *options)
                for name, (each, options) in ways.items()
            }

        same = [["--header", f"Authorization: {bearers[0]}"], ["--header", f"Cookie: {jars[0]}"]]
        new = [
            ["--script", str(changing(setup, name, values))]
            for name, values in (("Authorization", bearers), ("Cookie", jars))
        ]
        return {
            "returning": side_by_side(contenders(*same), scale.rounds),
            "new": side_by_side(contenders(*new), scale.rounds),
        }


async def session_tokens(port: int, count: int) -> list[str]:
    """Return access tokens of some sessions, which are renewed until there are enough."""
    people = await log_in(port, await sign_up(port, SESSIONS))

    async def renewed(session: dict[str, Any]) -> list[str]:
        found = [session["access_token"]]
        while len(found) < max(1, count // SESSIONS):
            asking = post_json("/auth/refresh", {"refresh_token": session["refresh_token"]})
            (session,) = await ask_all(port, [asking])
            found.append(session["access_token"])
        return found

    return [token for each in await asyncio.gather(*map(renewed, people)) for token in each]


def jar(token: str) -> str:
    """Return the `Cookie` of a browser with this token. While that is good, nobody looks at the session's secret."""
    names = cookie_names(ISSUER)
    session_id = json.loads(decoded(token.split(".")[1]))["sid"]
    return f"{names.session.decode()}={session_id}.{'A' * 43}; {names.token.decode()}={token}"


def loads(contenders: dict[str, Proxy], scale: Scale, path: str, *options: str) -> dict[str, Callable[[], Hit]]:
    return {
        name: partial(hit, each.port, path, scale.seconds, CONNECTIONS, *options) for name, each in contenders.items()
    }


#: The routes of each of many services: suffix of the name, path below the service's, method, permission.
KINDS = (
    ("items", "/items", "GET", "read"),
    ("item", "/items/{id}", "GET", "read"),
    ("change-item", "/items/{id}", "PUT", "write"),
    ("orders", "/orders", "GET", "read"),
    ("order", "/orders", "POST", "write"),
)


def services(count: int, port: int) -> dict[str, Any]:
    """Return routes to many services; the load uses the first service, which is last in the file."""
    names = [f"service-{number}" for number in reversed(range(count))]
    return {
        "upstreams": {name: upstream_at(port) for name in names},
        "routes": [
            route(f"{name}-{kind}", f"/{name}{path}", method, name, SCOPE if name == names[-1] else f"{name}:{right}")
            for name in names
            for kind, path, method, right in KINDS
        ],
    }


def routes(scale: Scale) -> Row:
    """Measure requests per second with a thousand routes and with ten."""
    place = Place.apart()
    with running_setup(place.load) as setup, ExitStack() as stack:
        contenders: dict[str, Proxy] = {
            f"{count}_routes": setup.gateway(services(count // len(KINDS), setup.upstream)) for count in (1000, 10)
        }
        with on(place.server):
            for each in contenders.values():
                stack.enter_context(each.running())
        return side_by_side(loads(contenders, scale, "/service-0/items/4711", "--header", setup.bearer), scale.rounds)


def workers(scale: Scale) -> Row:
    """Measure requests per second with two workers and with one."""
    cores = usable_cores()
    are_free = len(cores) > 2  # noqa: PLR2004 - two for the workers
    load = frozenset(cores[2:]) if are_free else frozenset(cores)
    with running_setup(load) as setup, ExitStack() as stack:
        contenders: dict[str, Proxy] = {}
        for name, count in (("two_workers", 2), ("one_worker", 1)):
            contenders[name] = setup.gateway(orders(setup.upstream), OSTIARY_GATEWAY_WORKERS=str(count))
            with on(frozenset(cores[:count]) if are_free else load):
                stack.enter_context(contenders[name].running())
        figures = side_by_side(loads(contenders, scale, "/orders", "--header", setup.bearer), scale.rounds)
        return {"cores_free": are_free, **figures}


# Large bodies.


@dataclass(frozen=True, slots=True)
class Transfer:
    """One transfer: gigabytes per second, CPU seconds per gigabyte, and peak memory in MB."""

    rate: float
    cpu_seconds: float
    peak_mb: float


def bodies(scale: Scale) -> Row:
    """Measure large bodies, down and up, through the gateway and through nginx."""
    place = Place.apart()
    with running_setup(place.load) as setup, ExitStack() as stack:
        files = nginx(setup.folder, f"root {sparse_file(setup.folder, scale.body_bytes)};")
        stack.enter_context(files.running())
        sink = stack.enter_context(running_sink())
        ways: dict[str, tuple[int, Callable[[int], float]]] = {
            "download": (files.port, lambda port: download(port, "/body", scale.body_bytes, setup.bearer)),
            "upload": (sink, lambda port: upload(port, "/body", scale.body_bytes, setup.bearer)),
        }
        return {way: transfers(setup, place, scale, *of) for way, of in ways.items()}


def sparse_file(folder: Path, size: int) -> Path:
    """Return a folder with a sparse file of that many bytes."""
    files = folder / "files"
    files.mkdir()
    # nginx started by root reads files as another user.
    folder.chmod(0o755)
    with (files / "body").open("wb") as file:
        file.truncate(size)
    return files


def transfers(setup: Setup, place: Place, scale: Scale, upstream: int, transfer: Callable[[int], float]) -> Row:
    """Measure transfers through each proxy in turn."""
    contenders: dict[str, Proxy] = {
        "ostiary": setup.gateway(large_bodies(upstream, scale.body_bytes)),
        "nginx": nginx_proxy(setup.folder, upstream, STREAM),
    }
    with ExitStack() as stack:
        with on(place.server):
            for each in contenders.values():
                stack.enter_context(each.running())
        rounds = in_turn(
            {name: partial(transferred, each, transfer, scale.body_bytes) for name, each in contenders.items()},
            scale.rounds,
        )
    rates = {name: [each.rate for each in values] for name, values in rounds.items()}
    rows = {
        name: {
            "gb_per_second": summary(rates[name], 3),
            "cpu_seconds_per_gb": summary((each.cpu_seconds for each in values), 3),
            "peak_memory_mb": summary((each.peak_mb for each in values), 1),
        }
        for name, values in rounds.items()
    }
    return {**rows, **ratios(rates)}


def large_bodies(upstream: int, size: int) -> dict[str, Any]:
    each = [route(f"body-{method.lower()}", "/body", method, "bodies") for method in ("GET", "POST")]
    return {
        "upstreams": {"bodies": upstream_at(upstream)},
        "routes": [{**one, "limits": {"body_bytes": size}} for one in each],
    }


def transferred(proxy: Proxy, transfer: Callable[[int], float], size: int) -> Transfer:
    proxy.forget_peak()
    busy = proxy.cpu_seconds()
    seconds = transfer(proxy.port)
    gigabytes = size / 1e9
    return Transfer(gigabytes / seconds, (proxy.cpu_seconds() - busy) / gigabytes, proxy.peak_memory())


# Idle connections.

#: Open files of a process besides the measured connections.
OTHER_FILES = 500

#: Seconds before memory is measured.
SETTLING_SECONDS = 1.0


def idle(scale: Scale) -> Row:
    """Measure the memory of fresh gateways, with one and with many idle connections."""
    place = Place.apart()
    count = raised_file_limit(scale.idle_connections + OTHER_FILES) - OTHER_FILES
    before: list[float] = []
    with_connections: list[float] = []
    with running_setup(place.load) as setup:
        query = request("GET", "/orders", b"", setup.bearer)
        for _ in range(scale.idle_rounds):
            gateway = setup.gateway(orders(setup.upstream), OSTIARY_GATEWAY_MAX_CONNECTIONS_PER_ADDRESS=str(2 * count))
            with on(place.server), ExitStack() as stack:
                stack.enter_context(gateway.running())
                with on(place.load), connections(gateway.port, 1, query):
                    before.append(gateway.memory())
                with on(place.load), connections(gateway.port, count, query):
                    with_connections.append(gateway.memory())
    return {
        "connections": count,
        "memory_before_mb": summary(before, 1),
        "memory_mb": summary(with_connections, 1),
    }


def raised_file_limit(wanted: int) -> int:
    """Raise the limit of open files towards `wanted`; return the new limit."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = wanted if most == resource.RLIM_INFINITY else min(wanted, most)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, most))
    return files


@contextmanager
def connections(port: int, count: int, query: bytes) -> Iterator[None]:
    """Open connections, send one request on each, and keep them open. Raises RuntimeError if any is closed."""
    with ExitStack() as stack:
        opened = [stack.enter_context(connected(port, query)) for _ in range(count)]
        time.sleep(SETTLING_SECONDS)
        yield
        if closed := sum(is_closed(each) for each in opened):
            raise RuntimeError(f"{closed} of {count} connections were closed")


def connected(port: int, query: bytes) -> socket.socket:
    """Return a connection after one request and its response."""
    connection = socket.create_connection((HOST, port), timeout=10)
    # Close with a reset, so that the port is free at once.
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    ask(connection, query)
    return connection


def is_closed(connection: socket.socket) -> bool:
    """Return whether the peer has closed the connection or sent anything unexpected."""
    connection.setblocking(False)
    try:
        connection.recv(1)
    except BlockingIOError:
        return False
    return True


PARTS: dict[str, Callable[[Scale], Row]] = {
    "requests": requests,
    "cookies": cookies,
    "routes": routes,
    "workers": workers,
    "body": bodies,
    "idle": idle,
}


def main() -> None:
    if shutil.which("wrk") is None or shutil.which("nginx") is None:
        print("wrk and nginx are required: install them to run this benchmark")
        return
    if not COMPILED.exists():
        print("the gateway is not compiled; run: make build/compiled")
        return
    participants = versions(LIBRARIES, PROGRAMS)
    measure("gateway", PARTS, Scale(), QUICK, seconds=LIMIT_SECONDS, participants=participants)


if __name__ == "__main__":
    main()
