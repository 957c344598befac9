"""The gateway beside other proxies: the same upstream, the same load, one core for the proxy and one for all else.

An authenticated GET with a small JSON answer, over 64 connections. The gateway does all it always does: it verifies,
follows revocations, counts and logs. HAProxy verifies the same tokens with `jwt_verify` and checks the same claims;
nginx and Caddy pass requests on without any check. Contenders take turns in each round; the quotient of medians
counts. A peer that is not installed is left out, with a line that says so.

    python bench/gateway.py [--quick] [part ...]
"""

import argparse
import asyncio
import base64
import json
import re
import shutil
import signal
import subprocess
import tempfile
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlencode

from common import (
    HOST,
    Place,
    Process,
    Row,
    Service,
    answers,
    ask_all,
    circumstances,
    free_ports,
    on,
    percentile,
    request,
    show,
    summary,
    write,
)
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicNumbers
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

LIMIT_SECONDS = 1500
CONNECTIONS = 64
SCOPE = "orders:read"
ISSUER, AUDIENCE = "http://localhost:8080", "ostiary"
LIBRARIES = ("ostiary", "ostiary-gateway", "uvloop", "cryptography")

ROUTES = """\
upstreams:
  orders: {{url: "http://{host}:{port}"}}
routes:
  - {{name: orders, match: {{path: /orders, methods: [GET]}}, upstream: orders, access: {{scopes: ["{scope}"]}}}}
"""

#: One worker on one core, keeping connections open on both sides.
NGINX = """\
daemon off; worker_processes 1; pid {folder}/nginx-{port}.pid; error_log stderr error;
events {{ worker_connections 4096; }}
http {{
  access_log off; keepalive_requests 1000000000; client_body_temp_path {folder}/b; proxy_temp_path {folder}/p;
  fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  {upstream}
  server {{
    listen {host}:{port} backlog=4096 reuseport;
    location / {{ {location} }}
  }}
}}
"""
ANSWER = """default_type application/json; return 200 '{"id":7,"items":[{"sku":"a-1","count":2}],"total":19.9}';"""

HAPROXY = """\
global
  nbthread 1
  maxconn 8000
  log stdout format raw local0
defaults
  mode http
  log global
  option httplog
  timeout connect 2s
  timeout client 75s
  timeout server 30s
frontend front
  bind {host}:{port}
  http-request set-var(txn.alg) http_auth_bearer,jwt_header_query('$.alg')
  http-request set-var(txn.iss) http_auth_bearer,jwt_payload_query('$.iss')
  http-request set-var(txn.aud) http_auth_bearer,jwt_payload_query('$.aud')
  http-request set-var(txn.exp) http_auth_bearer,jwt_payload_query('$.exp','int')
  http-request set-var(txn.scope) http_auth_bearer,jwt_payload_query('$.scope')
  http-request set-var(txn.now) date()
  http-request deny deny_status 401 unless {{ var(txn.alg) -m str RS256 }}
  http-request deny deny_status 401 unless {{ var(txn.iss) -m str {issuer} }}
  http-request deny deny_status 401 unless {{ var(txn.aud) -m str {audience} }}
  http-request deny deny_status 401 if {{ var(txn.exp),sub(txn.now) -m int lt 0 }}
  http-request deny deny_status 401 unless {{ http_auth_bearer,jwt_verify(txn.alg,"{key}") -m int 1 }}
  http-request deny deny_status 403 unless {{ var(txn.scope) -m sub {scope} }}
  http-request del-header X-User-Id
  http-request set-header X-Forwarded-For %[src]
  unique-id-format %[uuid()]
  unique-id-header X-Request-ID
  default_backend orders
backend orders
  http-reuse always
  server orders {host}:{upstream}
"""

CADDY = """\
{{
  admin off
  auto_https off
}}
http://{host}:{port} {{
  bind {host}
  reverse_proxy {host}:{upstream}
}}
"""

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


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is measured."""

    rounds: int = 7
    seconds: int = 4
    new_tokens: int = 25_000


QUICK = Scale(rounds=2, seconds=2, new_tokens=12_000)


@dataclass(frozen=True, slots=True)
class Contender:
    """A proxy that is running, and whether it asks for a token."""

    name: str
    port: int


@contextmanager
def stage(place: Place, scale: Scale) -> Iterator[tuple[list[Contender], list[str]]]:
    """Run the upstream, the issuer and all proxies that there are; yields those, and access tokens."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        upstream, auth_port, gateway_port = free_ports(3)
        with on(place.load):
            stack.enter_context(nginx(folder, upstream, ANSWER))
            auth = Service("auth", folder, port=auth_port, OSTIARY_ISSUER=ISSUER, **shared(folder))
            stack.enter_context(auth.running())
            tokens = asyncio.run(client_tokens(auth, scale.new_tokens))
        (folder / "key.pem").write_bytes(public_key(auth_port))
        (folder / "gateway.yaml").write_text(ROUTES.format(host=HOST, port=upstream, scope=SCOPE))
        gateway = Service(
            "gateway",
            folder,
            port=gateway_port,
            OSTIARY_ISSUER=ISSUER,
            OSTIARY_AUTH_URL=f"http://{HOST}:{auth_port}",
            OSTIARY_GATEWAY_ROUTES=str(folder / "gateway.yaml"),
            **shared(folder),
        )
        contenders = [Contender("ostiary", gateway_port)]
        with on(place.server):
            stack.enter_context(gateway.running())
            for peer, start in PEERS.items():
                if shutil.which(peer) is None:
                    print(f"{peer} is not installed, and left out")
                    continue
                (port,) = free_ports(1)
                stack.enter_context(start(folder, port, upstream))
                contenders.append(Contender(peer, port))
        yield contenders, tokens


def shared(folder: Path) -> dict[str, str]:
    """Return the settings that the issuer and the gateway share."""
    return {"OSTIARY_FEED_SECRET_FILE": str(folder / "feed-secret")}


def nginx(folder: Path, port: int, location: str, upstream: str = "") -> Any:
    """Return nginx, ready to run."""
    path = folder / f"nginx-{port}.conf"
    path.write_text(NGINX.format(folder=folder, host=HOST, port=port, location=location, upstream=upstream))
    return program([shutil.which("nginx") or "nginx", "-c", str(path)], folder, port)


def nginx_proxy(folder: Path, port: int, upstream: int) -> Any:
    """Return nginx as a proxy."""
    servers = f"upstream orders {{ server {HOST}:{upstream}; keepalive 256; keepalive_requests 1000000000; }}"
    location = 'proxy_pass http://orders; proxy_http_version 1.1; proxy_set_header Connection "";'
    return nginx(folder, port, location, servers)


def haproxy(folder: Path, port: int, upstream: int) -> Any:
    """Return HAProxy with the checks that the gateway makes."""
    path = folder / "haproxy.cfg"
    values = {"issuer": ISSUER, "audience": AUDIENCE, "scope": SCOPE, "key": folder / "key.pem"}
    path.write_text(HAPROXY.format(host=HOST, port=port, upstream=upstream, **values))
    return program([shutil.which("haproxy") or "haproxy", "-f", str(path)], folder, port)


def caddy(folder: Path, port: int, upstream: int) -> Any:
    """Return Caddy as a proxy."""
    path = folder / "Caddyfile"
    path.write_text(CADDY.format(host=HOST, port=port, upstream=upstream))
    command = [shutil.which("caddy") or "caddy", "run", "--config", str(path), "--adapter", "caddyfile"]
    return program(command, folder, port, GOMAXPROCS="1", HOME=str(folder))


PEERS: dict[str, Callable[[Path, int, int], Any]] = {"haproxy": haproxy, "nginx": nginx_proxy, "caddy": caddy}


def program(command: Sequence[str], folder: Path, port: int, **settings: str) -> Any:
    """Return somebody else's program, ready to run."""

    def is_ready() -> bool:
        return answers(port, "/orders") or refuses(port)

    return Process(command, folder / f"{Path(command[0]).name}-{port}.log", is_ready, **settings).running()


def refuses(port: int) -> bool:
    """Return whether somebody there wants a token."""
    try:
        urllib.request.urlopen(f"http://{HOST}:{port}/orders", timeout=1)
    except urllib.error.HTTPError as error:
        return error.code in {401, 403}
    except OSError:
        return False
    return False


async def client_tokens(auth: Service, count: int) -> list[str]:
    """Return so many access tokens of a client."""
    secret = auth.command("clients", "create", "bench", "--scope", SCOPE)
    form = urlencode({"grant_type": "client_credentials", "client_id": "bench", "client_secret": secret}).encode()
    asking = request("POST", "/oauth/token", form, "Content-Type: application/x-www-form-urlencoded")
    return [answer["access_token"] for answer in await ask_all(auth.port, [asking] * count)]


def public_key(port: int) -> bytes:
    """Return the issuer's signing key in PEM."""
    with urllib.request.urlopen(f"http://{HOST}:{port}/.well-known/jwks.json") as answer:
        key = json.load(answer)["keys"][0]
    n, e = (int.from_bytes(base64.urlsafe_b64decode(key[name] + "==")) for name in ("n", "e"))
    return RSAPublicNumbers(e, n).public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def hit(port: int, seconds: int, *options: str) -> tuple[float, float]:
    """Load with wrk; return the requests a second, and the milliseconds that 99 of 100 take at most."""
    command = ["wrk", "--threads", "1", "--connections", str(CONNECTIONS), "--latency", "--duration", f"{seconds}s"]
    said = subprocess.run(  # noqa: S603 - ours
        [*command, *options, f"http://{HOST}:{port}/orders"], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    rate, slowest = _WRK_RATE.search(said), _WRK_P99.search(said)
    if rate is None or slowest is None or "Non-2xx" in said or "Socket errors" in said:
        raise RuntimeError(f"wrk says of port {port}:\n{said}")
    return float(rate[1]), float(slowest[1]) * _IN_MS[slowest[2]]


_WRK_RATE = re.compile(r"Requests/sec: +([\d.]+)")
_WRK_P99 = re.compile(r"^ +99% +([\d.]+)(us|ms|s)$", re.MULTILINE)
_IN_MS = {"us": 0.001, "ms": 1.0, "s": 1000.0}


def requests(scale: Scale) -> Row:
    """Measure requests a second of all proxies, with tokens that come again and with tokens that are new."""
    place = Place.apart()
    with stage(place, scale) as (contenders, tokens), on(place.load), tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "tokens").write_text("\n".join(tokens))
        script = Path(folder) / "new.lua"
        script.write_text(NEW_TOKENS.format(tokens=Path(folder) / "tokens"))
        returning = ["--header", f"Authorization: Bearer {tokens[0]}"]
        anew = ["--script", str(script)]
        ways = {"returning": (returning, contenders), "new": (anew, [c for c in contenders if c.name in CHECKING])}
        return {way: in_turn(some, scale, options) for way, (options, some) in ways.items()}


#: Those that verify tokens.
CHECKING = {"ostiary", "haproxy"}


def in_turn(contenders: Sequence[Contender], scale: Scale, options: Sequence[str]) -> Row:
    """Load each in turn, round by round."""
    rates: dict[str, list[float]] = {each.name: [] for each in contenders}
    slowest: dict[str, list[float]] = {each.name: [] for each in contenders}
    for each in contenders:
        hit(each.port, 1, *options)
    for _ in range(scale.rounds):
        for each in contenders:
            rate, p99 = hit(each.port, scale.seconds, *options)
            rates[each.name].append(rate)
            slowest[each.name].append(p99)
    result: Row = {name: {"per_second": summary(rates[name], 0), "p99_ms": summary(slowest[name], 2)} for name in rates}
    for name in list(rates)[1:]:
        result[f"over_{name}"] = round(percentile(rates["ostiary"], 0.5) / percentile(rates[name], 0.5), 2)
    return result


PARTS: dict[str, Callable[[Scale], Row]] = {"requests": requests}


def versions() -> Row:
    """Return the versions of what takes part."""
    found: Row = {name: version(name) for name in LIBRARIES}
    for name, option in (("haproxy", "-v"), ("nginx", "-v"), ("caddy", "version"), ("wrk", "-v")):
        path = shutil.which(name)
        if path is not None:
            said = subprocess.run([path, option], capture_output=True, text=True, check=False)  # noqa: S603 - the system's own
            match = re.search(r"\d+\.\d+(?:\.\d+)?", said.stdout + said.stderr)
            found[name] = match[0] if match else None
    return found


def main() -> None:
    """Measure, print and store."""
    parser = argparse.ArgumentParser(description="Measure the gateway beside other proxies.")
    parser.add_argument("parts", nargs="*", help=f"what to measure: {', '.join(PARTS)}; by default, all of it")
    parser.add_argument("--quick", action="store_true", help="do less of everything")
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - PARTS.keys():
        parser.error(f"there is no part {', '.join(sorted(unknown))}")
    if shutil.which("wrk") is None or shutil.which("nginx") is None:
        print("wrk and nginx make load and answers here; without them, nothing is measured")
        return
    signal.signal(signal.SIGALRM, end)
    signal.signal(signal.SIGTERM, end)
    signal.alarm(LIMIT_SECONDS)
    result: Row = {**circumstances(), "versions": versions()}
    for name in arguments.parts or PARTS:
        result[name] = PARTS[name](QUICK if arguments.quick else Scale())
        show({name: result[name]})
    if not arguments.quick and not arguments.parts:
        write("gateway", result)


def end(number: int, _frame: object) -> NoReturn:
    """End it early: time is up, or somebody says so. What was started is ended on the way out."""
    raise SystemExit(f"ended by {signal.Signals(number).name}; all of it may take {LIMIT_SECONDS} s")


if __name__ == "__main__":
    main()
