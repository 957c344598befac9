"""A gateway whose requests wait, against a model of what it promises: it sends what is good by all that it knows.

The gateway is the real one, in the world of `revocation_model`: connections with clients, admission, renewals of
sessions, pools, retries. Stood in for are its sockets, and those behind them. A request may wait for its connection,
for a dial, for a retry, and for a new token of its session, while tokens are revoked and expire, and while its verifier
is cut off. Whenever the gateway writes the head of a request, its token must be good:

1.  by all revocations that this gateway has applied, and applied recently enough for its bound;
2.  and be alive: for a bearer with leeway, for the token of a session without.

Services decide alone; what they accept is the matter of the other model. And when all is well again, every request gets
an answer.
"""

# What stands in for sockets has their methods, and not all of their types.
# mypy: disable-error-code="override, attr-defined, name-defined, arg-type, assignment, method-assign"

import asyncio
import json
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import revocation_model as model
import uvicorn.server
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from ostiary.feed import Kind
from ostiary_gateway.access import authentication
from ostiary_gateway.app import Gateway
from ostiary_gateway.config import GatewayConfig
from ostiary_gateway.proxy import connection_manager, downstream, exchange
from ostiary_gateway.routing.bypass_check import IndexedRoutes, indexed
from ostiary_gateway.routing.loader import load_file
from ostiary_gateway.sessions import renewals
from ostiary_gateway.upstream import circuit_breaker, connection, endpoint, pool
from ostiary_gateway.upstream.connection import UpstreamConnection
from ostiary_gateway.upstream.pool import Pool

#: Whose `time` is simulated.
ON_SIMULATED_TIME = (
    *(authentication, circuit_breaker, connection, connection_manager, downstream, endpoint),
    *(exchange, pool, renewals),
)

ROUTES = """\
upstreams:
  up: {url: "http://up:9000"}
  auth: {url: "http://auth:9000"}
browser: {upstream: auth}
routes:
  - name: any
    match: {path: /any, methods: [GET]}
    upstream: up
    access: authenticated
    retries: {attempts: 2, statuses: [503]}
    timeouts: {connect: 6.0, first_byte: 6.0}
"""

#: Seconds in which all happens that takes no time: so many turns of the event loop.
MOMENT = 20 * model.TURN

#: Connections to the service: most requests wait for one.
CONNECTIONS = 2

SESSIONS = tuple(str(uuid.UUID(int=number)) for number in range(3))
SECRET = "A" * 43

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
BUSY = b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"


class Socket(asyncio.Transport):
    """One end of a connection. What is written to it goes to `receive`."""

    def __init__(self, receive: Callable[[bytes], None]) -> None:
        super().__init__()
        self._receive = receive
        self.is_closed = False

    def write(self, data: bytes) -> None:
        self._receive(data)

    def abort(self) -> None:
        self.is_closed = True

    close = write_eof = abort

    def is_closing(self) -> bool:
        return self.is_closed

    def can_write_eof(self) -> bool:
        return False

    def get_extra_info(self, _name: str, default: object = None) -> object:
        return default

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Take everything."""

    def pause_reading(self) -> None:
        """Nothing comes unasked."""

    resume_reading = pause_reading


class Dialer:
    """In place of a pool's own: connections are made when the test wants."""

    def __init__(self, gateway: "QueueingGateway", pool: Pool) -> None:
        self._gateway, self._pool = gateway, pool
        self.host = pool.host

    async def dial(self, protocol: Callable[[], UpstreamConnection], seconds: float) -> tuple[Any, UpstreamConnection]:
        made: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._gateway.dials.append(made)
        async with asyncio.timeout(seconds):
            if not await made:
                raise ConnectionRefusedError
        opened = protocol()
        opened.send_request = partial(self._gateway.send, self._pool, opened, opened.send_request)
        opened.connection_made(Socket(lambda _data: None))
        return None, opened


class QueueingGateway:
    """A gateway that verifies with what one of the world's services knows."""

    def __init__(self, world: model.World, service: model.Service) -> None:
        self.world = world
        self.service = service
        self.dials: deque[asyncio.Future[bool]] = deque()
        #: Requests that services and the auth service have not answered, and the latter's sessions.
        self.sent: deque[UpstreamConnection] = deque()
        self.exchanges: deque[tuple[UpstreamConnection, str]] = deque()
        self.requests = self.answers = self.forwarded = 0
        self._gateway = service.process.context.run(self._new)
        self.do(self._gateway._manager.start)

    def _new(self) -> Gateway:
        config = GatewayConfig(issuer=model.ISSUER, gateway_secret_file=secret_file())
        gateway = Gateway(config, routes(), verifier=self.service.party.verifier)
        for cluster in gateway.runtime.current.upstreams.values():
            for each in cluster.pools:
                each.dialer = Dialer(self, each)
                each._queue.max_connections = CONNECTIONS
        return gateway

    def do(self, work: Callable[[], object]) -> None:
        """Have the gateway's process do something."""
        self.world.loop.call_soon(work, context=self.service.process.context.copy())
        self.world.run(MOMENT)

    # What comes in.

    def request(self, *fields: str) -> None:
        client = self._gateway.protocol(server_state=uvicorn.server.ServerState(), app_state={})
        lines = ["GET /any HTTP/1.1", "Host: auth.example", "Sec-Fetch-Site: same-origin", *fields, "", ""]
        self.requests += 1

        def begin() -> None:
            client.connection_made(Socket(self._count))
            client.data_received("\r\n".join(lines).encode())

        self.do(begin)

    def _count(self, data: bytes) -> None:
        self.answers += data.count(b"HTTP/1.1 ")

    # What goes out.

    def send(
        self, to: Pool, opened: UpstreamConnection, send: Callable[..., None], *arguments: Any, **options: Any
    ) -> None:
        """Look at a request whose head is written."""
        send(*arguments, **options)
        if self.service.process.dead:
            return
        handler, _, head = arguments
        if to.name == "auth":
            self.exchanges.append((opened, handler._session_id))
            return
        self.forwarded += 1
        self.sent.append(opened)
        text = next(line for line in head.decode().split("\r\n") if line.startswith("authorization: ")).split()[-1]
        (token,) = [each for each in self.world.tokens if each.text == text]
        self._check(token, is_session=handler._context.session is not None)

    def _check(self, token: model.Token, *, is_session: bool) -> None:
        party, now = self.service.party, self.world.now
        ends_at = token.expires_at + (0.0 if is_session else model.LEEWAY)
        if any(token.is_hit(state) for state in party.known):
            self.world.report(party, f"sent {token.names}, which it knew to be revoked")
        if now - party.revocations.fresh_at > party.bound:
            self.world.report(party, f"sent {token.names} by what it knew at {party.revocations.fresh_at}")
        if model.wall(now) > ends_at:
            self.world.report(party, f"sent {token.names} of {token.expires_at} at {model.wall(now)}")

    # What comes back.

    def connect(self, *, is_made: bool) -> None:
        made = self.dials.popleft()

        def come() -> None:
            if not made.done():
                made.set_result(is_made)

        self.do(come)

    def answer(self, content: bytes | None) -> None:
        self._answer(self.sent.popleft(), content)

    def answer_exchange(self, token: str | None) -> None:
        """Answer the first exchange with a token, or with a failure."""
        opened, session = self.exchanges.popleft()
        members = {"access_token": token, "expires_in": int(model.LIFETIME), "session_id": session, "persistent": False}
        content = json.dumps(members).encode()
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(content)}\r\n\r\n".encode()
        self._answer(opened, BUSY if token is None else head + content)

    def _answer(self, opened: UpstreamConnection, content: bytes | None) -> None:
        """Have a connection receive an answer, or be closed."""

        def come() -> None:
            if not opened.is_open or opened._transport is None:
                return
            if content is None:
                opened._transport.abort()
                opened.connection_lost(None)
            else:
                opened.data_received(content)

        self.do(come)


@cache
def routes() -> IndexedRoutes:
    return indexed(load_file(_FOLDER[0] / "routes.yaml", {}))


def secret_file() -> Path:
    return _FOLDER[0] / "secret"


_FOLDER: list[Path] = []


@pytest.fixture(autouse=True)
def simulated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    model.scale(monkeypatch)

    def now() -> float:
        return asyncio.get_running_loop().time()

    simulated_time = SimpleNamespace(monotonic=now, time=lambda: model.wall(now()), perf_counter=now)
    for module in ON_SIMULATED_TIME:
        monkeypatch.setattr(module, "time", simulated_time)
    (tmp_path / "routes.yaml").write_text(ROUTES)
    (tmp_path / "secret").write_text("secret")
    _FOLDER[:] = [tmp_path]
    yield
    routes.cache_clear()


class QueueingMachine(model.Machine):
    """Has requests come to a gateway in the world of the other model."""

    EXAMPLES = 25

    # What happens in it besides is a matter of the other model.
    end_service = let_through = lose_messages = mend_link = restart_replica = restart_service = None
    stop_or_go_on = trouble_the_store = wait_for_what_was_revoked = None

    def __init__(self) -> None:
        super().__init__()
        self.world.close()
        self.world = model.World(0, services=1)
        self.gateway = QueueingGateway(self.world, self.world.services[0])

    @rule(seconds=st.sampled_from((0.0, 0.0, 1.4, 2.9)))
    def change_link(self, seconds: float) -> None:
        """Mend the way of revocations, or cut it, for long enough to be noticed."""
        fate = model.Fate.IS_LOST if seconds else model.Fate.ARRIVES
        self.world.links[0] = model.Link(answers=fate)
        self.world.run(seconds)

    @rule(seconds=st.sampled_from((0.4, 2.9)))
    def sleep(self, seconds: float) -> None:
        """Stop the gateway for a while."""
        process = self.gateway.service.process
        process.stopped = True
        self.world.run(seconds)
        process.go_on()

    @precondition(lambda self: self.world.tokens)
    @rule(numbers=st.lists(st.integers(0, 7), min_size=1, max_size=3))
    def request_with_bearers(self, numbers: list[int]) -> None:
        for number in numbers:
            token = self.world.tokens[-1 - number % len(self.world.tokens)]
            self.gateway.request(f"Authorization: Bearer {token.text}")

    @rule(session=st.sampled_from(SESSIONS), has_token=st.booleans())
    def request_with_cookies(self, session: str, has_token: bool) -> None:
        cookies = [f"__Host-ostiary-session={session}.{SECRET}"]
        tokens = [each.text for each in self.world.tokens if each.names[Kind.SESSION] == session]
        if has_token:
            cookies.append(f"__Host-ostiary-token={tokens[-1] if tokens else self.world.issue('ann', session).text}")
        self.gateway.request(f"Cookie: {'; '.join(cookies)}")

    @precondition(lambda self: self.gateway.dials)
    @rule(is_made=st.sampled_from((True, True, True, False)))
    def connect(self, is_made: bool) -> None:
        self.gateway.connect(is_made=is_made)

    @precondition(lambda self: self.gateway.sent)
    @rule(content=st.sampled_from((OK, BUSY, None)))
    def answer(self, content: bytes | None) -> None:
        self.gateway.answer(content)

    @precondition(lambda self: self.gateway.exchanges)
    @rule(is_renewed=st.sampled_from((True, True, True, False)))
    def answer_exchange(self, is_renewed: bool) -> None:
        session = self.gateway.exchanges[0][1]
        self.gateway.answer_exchange(self.world.issue("ann", session).text if is_renewed else None)

    def teardown(self) -> None:
        if not self.world.violations:
            self.world.mend()
            self.check_answers()
        super().teardown()

    def check_answers(self) -> None:
        """Let everything go on until each request has an answer."""
        gateway, until = self.gateway, self.world.now + 30.0
        while gateway.answers < gateway.requests and self.world.now < until:
            while gateway.dials:
                gateway.connect(is_made=True)
            while gateway.sent:
                gateway.answer(OK)
            while gateway.exchanges:
                gateway.answer_exchange(self.world.issue("ann", gateway.exchanges[0][1]).text)
            self.world.run(0.1)
        if gateway.answers != gateway.requests:
            self.world.violations.append(f"{gateway.requests} requests got {gateway.answers} answers")


def test_what_is_sent_is_good_by_all_that_the_gateway_knows() -> None:
    model.search(QueueingMachine)


@pytest.mark.parametrize("is_cut_off", [False, True])
def test_a_request_that_waits_longer_than_its_gateway_knows_enough_is_not_sent(is_cut_off: bool) -> None:
    with closing(model.World(services=1)) as world:
        gateway = QueueingGateway(world, world.services[0])
        world.run(0.2)
        gateway.request(f"Authorization: Bearer {world.issue('ann', SESSIONS[0]).text}")
        if is_cut_off:
            world.links[0] = model.Link(answers=model.Fate.IS_LOST)
        world.run(2.9)
        gateway.connect(is_made=True)
        assert (gateway.forwarded, gateway.answers) == ((0, 1) if is_cut_off else (1, 0))
        assert not world.violations
