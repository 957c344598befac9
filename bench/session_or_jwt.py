"""Sessions in Redis, JSON Web Tokens, and Ostiary: what a login costs, when it ends, what happens without the store.

Express with `express-session`, `connect-redis` and Redis; Express with `jsonwebtoken` (HS256 and RS256); our gateway in
front of a service, with cookies and with a bearer. All answer the same `GET /profile` with the same document. Real
processes, packages of npm pinned in `peers_node/package-lock.json`; what is not installed is named and left out.

requests  Requests per second of CPU time of all processes that take part: application and Redis; gateway, service and
          auth service. They share a core, the load has the other one. Contenders take turns; results are medians of the
          rounds. `p99` is at the same load for all. `bare` frameworks show what is due to them. Goals: with cookies at
          least 0.95 of what a bearer gets, and twice what a session in Redis gets.
wire      Bytes of one request and its response, headers included; and between application and Redis, or gateway and
          service.
memory    What ten thousand sessions occupy: in Redis, in the auth service's database, in the gateway once all are used.
logout    Tabs at two application processes, or two gateways, send requests all the time; one logs out. From sending the
          logout, and from its response, until the last tab has its first refusal. Goal: a p99 below 50 ms.
outage    The store, or the auth service, is killed for ten seconds under constant load.
browser   In Chromium: what a script of the page can read, and what forms of other sites do.

Results are printed and written to `bench/results/session_or_jwt.json`, and as a table into
`docs/explanation/session-or-jwt.md`. `--quick` is a short functional check, and part names select parts; neither writes
results.

    python bench/session_or_jwt.py [--quick] [part ...]
"""

import json
import socket
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import session_page
from common import CONTENT_LENGTH, HOST, Place, Row, hit, in_turn, measure, on, ratios, summary, versions
from contenders import (
    EMAIL,
    NODE_MODULES,
    Contender,
    Login,
    Persistence,
    Redis,
    Unavailable,
    running_bare,
    running_bare_service,
    running_cluster,
    running_jwt,
    running_session,
)
from outages import DOWN, Victim, outage
from relay import Relay
from session_browser import KEEP_TOKEN, OWN, SEND_TOKEN, Page, watch
from session_ends import logouts
from session_memory import in_cluster, in_redis
from session_service import Kind

LIMIT_SECONDS = 3000
CONNECTIONS = 64
LIBRARIES = ("ostiary", "ostiary-gateway", "ostiary-auth", "fastapi", "starlette", "uvicorn", "uvloop", "cryptography")
PROGRAMS = {"node": "--version", "redis-server": "-v", "chromium": "--version", "wrk": "-v"}
PACKAGES = ("express", "express-session", "connect-redis", "redis", "jsonwebtoken")

#: Requests per second at which latency is measured: a load that all of them can take.
PACED_RATE = 1000

#: Milliseconds that each connection of wrk waits between two requests, a few more or less.
PACE = """\
math.randomseed(7)
function delay() return math.random({least}, {most}) end
"""

#: Seconds for which tokens are valid that nobody can end.
SHORT_LIFE = 5


@dataclass(frozen=True, slots=True)
class Scale:
    """How much to measure."""

    rounds: int = 7
    seconds: int = 2
    sessions: int = 10_000
    logouts: int = 200
    unstoppable_logouts: int = 5
    clients: int = 100


QUICK = Scale(rounds=1, seconds=1, sessions=300, logouts=10, unstoppable_logouts=1, clients=20)


# Requests per second, and latency.


@dataclass(frozen=True, slots=True)
class Round:
    """One round of load."""

    per_cpu_second: float
    per_second: float
    p99_ms: float


def requests(scale: Scale) -> Row:
    place = Place.apart()
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        with on(place.server):
            contenders = dict(running_contenders(stack, folder))
        stack.enter_context(on(place.load))
        logins = {name: each.log_in() for name, each in contenders.items()}
        loads = {name: partial(loaded, each, logins[name], scale) for name, each in contenders.items()}
        full = in_turn(loads, scale.rounds)
        script = pace(folder)
        paced = in_turn(
            {name: partial(each, script) for name, each in loads.items() if name in session_page.COLUMNS}, scale.rounds
        )
    rows: Row = {
        name: {
            "per_cpu_second": summary((each.per_cpu_second for each in rounds), 0),
            "per_second": summary((each.per_second for each in rounds), 0),
        }
        for name, rounds in full.items()
    }
    rows["paced_p99_ms"] = {name: summary((each.p99_ms for each in rounds), 2) for name, rounds in paced.items()}
    rates = {name: [each.per_cpu_second for each in rounds] for name, rounds in full.items()}
    return {**rows, **compared(rates, "ostiary_cookies", "ostiary_bearer", "express_session")}


def running_contenders(stack: ExitStack, folder: Path) -> Iterator[tuple[str, Contender]]:
    """Run all that can be run; say what is missing."""
    try:
        redis = Redis(folder)
        stack.enter_context(redis.running())
        yield "express_session", stack.enter_context(running_session(folder, redis))
        yield (
            "express_session_without_touch",
            stack.enter_context(running_session(folder, redis, "without-touch")),
        )
    except Unavailable as error:
        print(f"express-session is left out: {error}")
    try:
        for name, algorithm, keys in JWTS:
            yield name, stack.enter_context(running_jwt(folder, algorithm, keys))
        yield "express_bare", stack.enter_context(running_bare(folder))
    except Unavailable as error:
        print(f"jsonwebtoken is left out: {error}")
    for kind, suffix in KINDS:
        cluster = stack.enter_context(running_cluster(new_folder(folder, kind), kind))
        yield f"ostiary_cookies{suffix}", cluster.with_cookies()
        yield f"ostiary_bearer{suffix}", cluster.with_bearer()
        yield f"service_alone{suffix}", cluster.without_gateway()
        yield f"service_bare{suffix}", stack.enter_context(running_bare_service(folder, kind))


#: By name: algorithm, and whether keys are parsed once or, as in most articles, by `jsonwebtoken` each time.
JWTS = (
    ("express_jwt_hs256", "HS256", "parsed"),
    ("express_jwt_rs256", "RS256", "parsed"),
    ("express_jwt_hs256_raw_key", "HS256", "raw"),
)

#: The services behind the gateway, and what is added to the names of their figures.
KINDS: tuple[tuple[Kind, str], ...] = (("starlette", ""), ("fastapi", "_fastapi"))


def new_folder(folder: Path, name: str) -> Path:
    path = folder / name
    path.mkdir()
    return path


def loaded(contender: Contender, login: Login, scale: Scale, script: Path | None = None) -> Round:
    """Send requests as fast as responses arrive, or as the script says."""
    options = [each for field in login.fields for each in ("--header", field)]
    options += ["--timeout", "10s"]
    if script is not None:
        options += ["--script", str(script)]
    busy = contender.cpu_seconds()
    outcome = hit(contender.port, "/profile", scale.seconds, CONNECTIONS, *options)
    busy = contender.cpu_seconds() - busy
    return Round(outcome.rate * scale.seconds / busy, outcome.rate, outcome.p99_ms)


def pace(folder: Path) -> Path:
    """Return a script for wrk with which all connections together send `PACED_RATE` requests per second."""
    middle = CONNECTIONS * 1000 // PACED_RATE
    path = folder / "pace.lua"
    path.write_text(PACE.format(least=middle // 2, most=middle + middle // 2))
    return path


def compared(rates: Mapping[str, Sequence[float]], name: str, *others: str) -> Row:
    """Return the ratios of one contender's median to those of others, and of their rounds."""
    present = [other for other in others if other in rates]
    return {
        **ratios({each: rates[each] for each in (name, *present)}),
        **{
            f"rounds_of_{name}_over_{other}": summary(
                (a / b for a, b in zip(rates[name], rates[other], strict=True)), 3
            )
            for other in present
        },
    }


# Bytes.


def wire(scale: Scale) -> Row:
    """Measure the bytes of one request and its response, outside and inside."""
    del scale
    rows: Row = {}
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        with optional("express-session"):
            redis = Redis(folder)
            stack.enter_context(redis.running())
            relay = stack.enter_context(Relay.running(redis.port))
            session = stack.enter_context(running_session(folder, redis, redis_port=relay.port))
            rows["express_session"] = carried(session, relay)
        with optional("jsonwebtoken"):
            for key, algorithm, _ in JWTS[:2]:
                rows[key] = carried(stack.enter_context(running_jwt(folder, algorithm)), None)
        relays: list[Relay] = []

        def between(port: int) -> int:
            relays.append(stack.enter_context(Relay.running(port)))
            return relays[0].port

        cluster = stack.enter_context(running_cluster(new_folder(folder, "ours"), between=between))
        rows["ostiary_bearer"] = carried(cluster.with_bearer(), relays[0])
        rows["ostiary_cookies"] = carried(cluster.with_cookies(), relays[0])
    return rows


def carried(contender: Contender, relay: Relay | None) -> Row:
    """Count the bytes of a request and its response, when connections are open and caches warm."""
    login = contender.log_in()
    with socket.create_connection((HOST, contender.port), timeout=10) as connection:
        sizes = []
        for _ in range(5):
            if relay is not None:
                relay.taken()
            connection.sendall(login.profile)
            sizes.append((len(login.profile), response_bytes(connection), relay.taken() if relay else 0))
    asked, answered, inside = sizes[-1]
    return {"request": asked, "response": answered, "credential": len(login.credential) + 2, "inside": inside}


def response_bytes(connection: socket.socket) -> int:
    """Return the size of a response. Raises RuntimeError for an error response."""
    received = b""
    while True:
        received += connection.recv(65536)
        head, end, body = received.partition(b"\r\n\r\n")
        length = CONTENT_LENGTH.search(head)
        if not head.startswith(b"HTTP/1.1 200 "):
            raise RuntimeError(received.decode())
        if end and length and len(body) >= int(length[1]):
            return len(received)


# Logouts.


def ends(scale: Scale) -> Row:
    """Measure how long requests are accepted after a logout."""
    rows: Row = {}
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        with optional("express-session"):
            redis = Redis(folder)
            stack.enter_context(redis.running())
            with running_session(folder, redis, instances=2) as session:
                rows["express_session"] = logouts(session, scale.logouts)
        with optional("jsonwebtoken"), running_jwt(folder, "HS256", life=SHORT_LIFE) as jwt:
            rows["express_jwt"] = {"life_seconds": SHORT_LIFE, **logouts(jwt, scale.unstoppable_logouts)}
        cluster = stack.enter_context(running_cluster(new_folder(folder, "ours"), gateways=2))
        rows["ostiary_bearer"] = logouts(cluster.with_bearer(), scale.logouts)
        rows["ostiary_cookies"] = logouts(cluster.with_cookies(), scale.logouts)
    return rows


# Memory.


def memory(scale: Scale) -> Row:
    """Measure what sessions occupy."""
    rows: Row = {}
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        with optional("express-session"):
            redis = Redis(folder)
            stack.enter_context(redis.running())
            with running_session(folder, redis) as session:
                rows["express_session"] = in_redis(session, redis, scale.sessions)
        ours = new_folder(folder, "ours")
        with running_cluster(ours) as cluster:
            rows["ostiary_cookies"] = in_cluster(cluster, ours, scale.sessions)
    return rows


# A real browser.


def browsers(scale: Scale) -> Row:
    """Try in Chromium what scripts of the page and forms of other pages can do."""
    del scale
    rows: Row = {}
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack, optional("Chromium"):
        folder = Path(name)
        send = {"keep": KEEP_TOKEN.format(member="token"), "options": SEND_TOKEN}
        with optional("express-session"):
            redis = Redis(folder)
            stack.enter_context(redis.running())
            with running_session(folder, redis) as session:
                rows["express_session"] = watch(new_folder(folder, "1"), Page(session.port, "/login", EMAIL))
        with optional("jsonwebtoken"), running_jwt(folder, "HS256") as jwt:
            rows["express_jwt"] = watch(new_folder(folder, "2"), Page(jwt.port, "/login", EMAIL, **send))
        cluster = stack.enter_context(running_cluster(new_folder(folder, "ours"), host=OWN))
        port, email = cluster.gateways[0].port, cluster.email
        send = {"keep": KEEP_TOKEN.format(member="access_token"), "options": SEND_TOKEN}
        rows["ostiary_bearer"] = watch(new_folder(folder, "3"), Page(port, "/auth/login", email, **send))
        rows["ostiary_cookies"] = watch(new_folder(folder, "4"), Page(port, "/session", email))
    return rows


# Outages.

#: What Redis writes to disk: each change within a second, and what its defaults say.
PERSISTENCE: tuple[tuple[str, Persistence], ...] = (
    ("express_session", "each second"),
    ("express_session_redis_as_installed", "default"),
)


def outages(scale: Scale) -> Row:
    """Kill what logins depend on for ten seconds."""
    rows: Row = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with optional("express-session"):
            for key, persistence in PERSISTENCE:
                with ExitStack() as stack:
                    redis = Redis(new_folder(folder, key), persistence)
                    stack.enter_context(redis.running())
                    session = stack.enter_context(running_session(folder, redis, instances=2))
                    rows[key] = outage(session, Victim(redis, stack), logged_in(session, scale))
        for key, life in (("ostiary_cookies", 900), ("ostiary_cookies_expiring", int(DOWN)), ("ostiary_bearer", 900)):
            with ExitStack() as stack:
                cluster = stack.enter_context(running_cluster(new_folder(folder, key), gateways=2, token_seconds=life))
                ours = cluster.with_bearer() if key == "ostiary_bearer" else cluster.with_cookies()
                row = outage(ours, Victim(cluster.auth, stack), logged_in(ours, scale))
                rows[key] = {"token_seconds": life, **row}
    return rows


def logged_in(contender: Contender, scale: Scale) -> list[Login]:
    return [contender.log_in() for _ in range(scale.clients)]


@contextmanager
def optional(name: str) -> Iterator[None]:
    """Print that a contender is missing if it is not installed."""
    try:
        yield
    except Unavailable as error:
        print(f"{name} is left out: {error}")


def package_versions() -> Row:
    """Return the versions of the npm packages that are installed."""
    files = {name: NODE_MODULES / name / "package.json" for name in PACKAGES}
    return {name: json.loads(file.read_text())["version"] for name, file in files.items() if file.exists()}


PARTS: dict[str, Callable[[Scale], Row]] = {
    "requests": requests,
    "wire": wire,
    "memory": memory,
    "logout": ends,
    "outage": outages,
    "browser": browsers,
}


if __name__ == "__main__":
    participants = {**versions(LIBRARIES, PROGRAMS), **package_versions()}
    measure(
        "session_or_jwt",
        PARTS,
        Scale(),
        QUICK,
        seconds=LIMIT_SECONDS,
        participants=participants,
        after=session_page.main,
    )
