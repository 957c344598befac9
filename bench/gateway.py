"""The gateway beside other proxies: the same upstream, the same load, one core for the proxy and one for all else.

The gateway does all it always does: it verifies, follows revocations, counts and logs. Its modules are compiled, as in
its image (`make build/compiled`); `requests` also shows it as it is otherwise. Contenders take turns in each round; the
quotient of medians counts. A peer that is not installed is left out, with a line that says so.

requests  An authenticated GET with a small JSON answer, over 64 connections, with a token that comes again and with
          tokens that are new. HAProxy verifies the same tokens with `jwt_verify` and checks the same claims; nginx
          and Caddy pass requests on without any check. Goal: a p99 that is not higher than HAProxy's.
routes    The same with a thousand routes, of which it takes one, and with ten. Goal: 0.9 of the requests a second.
workers   The same with two workers, on two cores, and with one. Goal: 1.8 times the requests a second; where no cores
          are left for the load, all share all, `cores_free` is false, and that cannot show.
body      A gigabyte down and up, beside nginx, which streams too (`proxy_buffering off`, `proxy_request_buffering
          off`) and checks no token. Goals: half of its throughput, and at most 80 MB in memory. Where the load's core
          is what bounds both, `cpu_seconds_per_gb` says what each of them costs.
idle      Ten thousand connections that have had an answer and stay open. Goal: at most 200 MB in memory.

Results are printed and written to `bench/results/gateway.json`. Takes ten minutes. `--quick` does less of everything,
to see that it works, and names of parts do only those; neither writes anything.

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
from collections.abc import Callable, Iterator
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
    measure,
    on,
    quotients,
    request,
    side_by_side,
    summary,
    usable_cores,
    versions,
)
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicNumbers
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from peers import ANSWER, ISSUER, SCOPE, STREAM, Peer, nginx, nginx_proxy, running_proxies
from transfers import ask, download, running_sink, upload

LIMIT_SECONDS = 1500
COMPILED = Path(__file__).parents[1] / "build" / "compiled"
CONNECTIONS = 64
LIBRARIES = ("ostiary", "ostiary-gateway", "uvloop", "cryptography")
PROGRAMS = {"haproxy": "-v", "nginx": "-v", "caddy": "version", "wrk": "-v"}

#: Each request of wrk takes the next token of the file; no token comes again while it is remembered.
NEW_TOKENS = """\
local tokens = {{}}
for line in io.lines("{tokens}") do tokens[#tokens + 1] = "Bearer " .. line end
local number = 0
request = function()
  number = number % #tokens + 1
  return wrk.format("GET", nil, {{ ["Authorization"] = tokens[number] }})
end
"""


Proxy = Service | Peer


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is measured."""

    rounds: int = 7
    seconds: int = 4
    new_tokens: int = 25_000
    body_bytes: int = 1_000_000_000
    idle_rounds: int = 3
    idle_connections: int = 10_000


#: With so few tokens, they are remembered, and those that are said to be new are not.
QUICK = Scale(rounds=1, seconds=1, new_tokens=1000, body_bytes=200_000_000, idle_rounds=1, idle_connections=1000)


# What stands around the gateway.


@dataclass(frozen=True, slots=True)
class Stage:
    """What a gateway needs, running: an issuer, and an upstream that always answers the same."""

    folder: Path
    issuer: Service
    upstream: int
    tokens: list[str]

    @property
    def bearer(self) -> str:
        """The header field with a token."""
        return f"Authorization: Bearer {self.tokens[0]}"

    def gateway(self, routes: dict[str, Any], *, is_compiled: bool = True, **settings: str) -> Service:
        """Return a gateway with these routes, ready to run."""
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
def stage(load: Cores, tokens: int = 1) -> Iterator[Stage]:
    """Run issuer and upstream where the load runs, and get access tokens."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        stack.enter_context(on(load))
        upstream = nginx(folder, ANSWER)
        stack.enter_context(upstream.running())
        issuer = Service("auth", folder, OSTIARY_ISSUER=ISSUER, OSTIARY_FEED_SECRET_FILE=str(folder / "feed-secret"))
        stack.enter_context(issuer.running())
        yield Stage(folder, issuer, upstream.port, asyncio.run(client_tokens(issuer, tokens)))


async def client_tokens(issuer: Service, count: int) -> list[str]:
    """Return so many access tokens of a client."""
    secret = issuer.command("clients", "create", "bench", "--scope", SCOPE)
    form = urlencode({"grant_type": "client_credentials", "client_id": "bench", "client_secret": secret}).encode()
    asking = request("POST", "/oauth/token", form, "Content-Type: application/x-www-form-urlencoded")
    return [answer["access_token"] for answer in await ask_all(issuer.port, [asking] * count)]


def public_key(port: int, token: str) -> bytes:
    """Return the issuer's key that has signed a token, in PEM; there are others, for later."""
    kid = json.loads(decoded(token.partition(".")[0]))["kid"]
    with urllib.request.urlopen(f"http://{HOST}:{port}/.well-known/jwks.json") as answer:
        (key,) = (each for each in json.load(answer)["keys"] if each["kid"] == kid)
    n, e = (int.from_bytes(decoded(key[name])) for name in ("n", "e"))
    return RSAPublicNumbers(e, n).public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def decoded(text: str) -> bytes:
    """Return what is encoded in Base64url."""
    return base64.urlsafe_b64decode(text + "==")


def upstream_at(port: int) -> dict[str, str]:
    """Return an upstream, for a routes file."""
    return {"url": f"http://{HOST}:{port}"}


def route(name: str, path: str, method: str, upstream: str, scope: str = SCOPE) -> dict[str, Any]:
    """Return a route, for a routes file."""
    match = {"path": path, "methods": [method]}
    return {"name": name, "match": match, "upstream": upstream, "access": {"scopes": [scope]}}


def orders(port: int) -> dict[str, Any]:
    """Return the routes of a small gateway."""
    return {"upstreams": {"orders": upstream_at(port)}, "routes": [route("orders", "/orders", "GET", "orders")]}


# Requests a second.


def requests(scale: Scale) -> Row:
    """Measure requests a second of all proxies, with tokens that come again and with tokens that are new."""
    place = Place.apart()
    with stage(place.load, scale.new_tokens) as around, ExitStack() as stack:
        (around.folder / "key.pem").write_bytes(public_key(around.issuer.port, around.tokens[0]))
        ours = around.gateway(orders(around.upstream))
        as_it_is = around.gateway(orders(around.upstream), is_compiled=False)
        with on(place.server):
            stack.enter_context(ours.running())
            stack.enter_context(as_it_is.running())
            peers = stack.enter_context(running_proxies(around.folder, around.upstream))
        all_of_them: dict[str, Proxy] = {"ostiary": ours, **peers, "ostiary_not_compiled": as_it_is}
        checking = {name: each for name, each in all_of_them.items() if name not in {"nginx", "caddy"}}
        returning, new = ["--header", around.bearer], ["--script", str(new_tokens(around))]
        return {
            "returning": side_by_side(loads(all_of_them, scale, "/orders", *returning), scale.rounds),
            "new": side_by_side(loads(checking, scale, "/orders", *new), scale.rounds),
        }


def new_tokens(around: Stage) -> Path:
    """Return a script for wrk that sends another token each time."""
    tokens, script = around.folder / "tokens", around.folder / "new.lua"
    tokens.write_text("\n".join(around.tokens))
    script.write_text(NEW_TOKENS.format(tokens=tokens))
    return script


def loads(contenders: dict[str, Proxy], scale: Scale, path: str, *options: str) -> dict[str, Callable[[], Hit]]:
    """Return what loads each of these for a round."""
    return {
        name: partial(hit, each.port, path, scale.seconds, CONNECTIONS, *options) for name, each in contenders.items()
    }


#: What each of many services has: the end of the route's name, the path below the service's, the method, the right.
KINDS = (
    ("items", "/items", "GET", "read"),
    ("item", "/items/{id}", "GET", "read"),
    ("change-item", "/items/{id}", "PUT", "write"),
    ("orders", "/orders", "GET", "read"),
    ("order", "/orders", "POST", "write"),
)


def services(count: int, port: int) -> dict[str, Any]:
    """Return the routes of a gateway before many services, of which the first, and last in the file, is asked."""
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
    """Measure requests a second with a thousand routes and with ten."""
    place = Place.apart()
    with stage(place.load) as around, ExitStack() as stack:
        contenders: dict[str, Proxy] = {
            f"{count}_routes": around.gateway(services(count // len(KINDS), around.upstream)) for count in (1000, 10)
        }
        with on(place.server):
            for each in contenders.values():
                stack.enter_context(each.running())
        return side_by_side(loads(contenders, scale, "/service-0/items/4711", "--header", around.bearer), scale.rounds)


def workers(scale: Scale) -> Row:
    """Measure requests a second with two workers and with one; there are cores for two if some are left over."""
    cores = usable_cores()
    are_free = len(cores) > 2  # noqa: PLR2004 - two for the workers
    load = frozenset(cores[2:]) if are_free else frozenset(cores)
    with stage(load) as around, ExitStack() as stack:
        contenders: dict[str, Proxy] = {}
        for name, count in (("two_workers", 2), ("one_worker", 1)):
            contenders[name] = around.gateway(orders(around.upstream), OSTIARY_GATEWAY_WORKERS=str(count))
            with on(frozenset(cores[:count]) if are_free else load):
                stack.enter_context(contenders[name].running())
        figures = side_by_side(loads(contenders, scale, "/orders", "--header", around.bearer), scale.rounds)
        return {"cores_free": are_free, **figures}


# Large bodies.


@dataclass(frozen=True, slots=True)
class Transfer:
    """What one transfer came to: gigabytes a second, seconds on a core for each, and megabytes in memory at most."""

    rate: float
    cpu_seconds: float
    peak_mb: float


def bodies(scale: Scale) -> Row:
    """Measure large bodies, down and up, through the gateway and through nginx."""
    place = Place.apart()
    with stage(place.load) as around, ExitStack() as stack:
        files = nginx(around.folder, f"root {sparse_file(around.folder, scale.body_bytes)};")
        stack.enter_context(files.running())
        sink = stack.enter_context(running_sink())
        ways: dict[str, tuple[int, Callable[[int], float]]] = {
            "download": (files.port, lambda port: download(port, "/body", scale.body_bytes, around.bearer)),
            "upload": (sink, lambda port: upload(port, "/body", scale.body_bytes, around.bearer)),
        }
        return {way: transfers(around, place, scale, *of) for way, of in ways.items()}


def sparse_file(folder: Path, size: int) -> Path:
    """Return a folder with a file of so many bytes, which takes no room."""
    files = folder / "files"
    files.mkdir()
    # Where nginx was started by root, it reads as somebody else.
    folder.chmod(0o755)
    with (files / "body").open("wb") as file:
        file.truncate(size)
    return files


def transfers(around: Stage, place: Place, scale: Scale, upstream: int, transfer: Callable[[int], float]) -> Row:
    """Measure transfers with an upstream, in turn."""
    contenders: dict[str, Proxy] = {
        "ostiary": around.gateway(large_bodies(upstream, scale.body_bytes)),
        "nginx": nginx_proxy(around.folder, upstream, STREAM),
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
    return {**rows, **quotients(rates)}


def large_bodies(upstream: int, size: int) -> dict[str, Any]:
    """Return routes for bodies of so many bytes."""
    each = [route(f"body-{method.lower()}", "/body", method, "bodies") for method in ("GET", "POST")]
    return {
        "upstreams": {"bodies": upstream_at(upstream)},
        "routes": [{**one, "limits": {"body_bytes": size}} for one in each],
    }


def transferred(proxy: Proxy, transfer: Callable[[int], float], size: int) -> Transfer:
    """Let a body go through a proxy."""
    proxy.forget_peak()
    busy = proxy.cpu_seconds()
    seconds = transfer(proxy.port)
    gigabytes = size / 1e9
    return Transfer(gigabytes / seconds, (proxy.cpu_seconds() - busy) / gigabytes, proxy.peak_memory())


# Connections that do nothing.

#: Open files of a process besides the connections that are measured.
OTHER_FILES = 500

#: Seconds after which memory is looked at.
SETTLING_SECONDS = 1.0


def idle(scale: Scale) -> Row:
    """Measure the memory of gateways, each newly started, before and with connections that stay open."""
    place = Place.apart()
    count = raised_file_limit(scale.idle_connections + OTHER_FILES) - OTHER_FILES
    before: list[float] = []
    with_them: list[float] = []
    with stage(place.load) as around:
        question = request("GET", "/orders", b"", around.bearer)
        for _ in range(scale.idle_rounds):
            gateway = around.gateway(
                orders(around.upstream), OSTIARY_GATEWAY_MAX_CONNECTIONS_PER_ADDRESS=str(2 * count)
            )
            with on(place.server), ExitStack() as stack:
                stack.enter_context(gateway.running())
                with on(place.load), connections(gateway.port, 1, question):
                    before.append(gateway.memory())
                with on(place.load), connections(gateway.port, count, question):
                    with_them.append(gateway.memory())
    return {
        "connections": count,
        "memory_before_mb": summary(before, 1),
        "memory_mb": summary(with_them, 1),
    }


def raised_file_limit(wanted: int) -> int:
    """Let this process, and those it starts, have so many files open, or as many as may be; return how many."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = wanted if most == resource.RLIM_INFINITY else min(wanted, most)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, most))
    return files


@contextmanager
def connections(port: int, count: int, question: bytes) -> Iterator[None]:
    """Open so many connections, ask on each once, and keep them open. Raises RuntimeError if any is not."""
    with ExitStack() as stack:
        opened = [stack.enter_context(asked(port, question)) for _ in range(count)]
        time.sleep(SETTLING_SECONDS)
        yield
        if closed := sum(is_closed(each) for each in opened):
            raise RuntimeError(f"{closed} of {count} connections have been closed")


def asked(port: int, question: bytes) -> socket.socket:
    """Return a connection on which a question has been answered."""
    connection = socket.create_connection((HOST, port), timeout=10)
    # Closed with a reset, so that its port is free again at once.
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    ask(connection, question)
    return connection


def is_closed(connection: socket.socket) -> bool:
    """Return whether the other side has closed, or says anything unasked."""
    connection.setblocking(False)
    try:
        connection.recv(1)
    except BlockingIOError:
        return False
    return True


PARTS: dict[str, Callable[[Scale], Row]] = {
    "requests": requests,
    "routes": routes,
    "workers": workers,
    "body": bodies,
    "idle": idle,
}


def main() -> None:
    """Measure, print and store."""
    if shutil.which("wrk") is None or shutil.which("nginx") is None:
        print("wrk and nginx make load and answers here; without them, nothing is measured")
        return
    if not COMPILED.exists():
        print("the gateway is not compiled yet: make build/compiled")
        return
    taking_part = versions(LIBRARIES, PROGRAMS)
    measure("gateway", PARTS, Scale(), QUICK, seconds=LIMIT_SECONDS, taking_part=taking_part)


if __name__ == "__main__":
    main()
