"""Requests that wait for their connection: what is known when their head is written decides about them."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
from harness import (
    CapturedAccessLog,
    ClientSocket,
    GatewayHarness,
    PausedResponse,
    ReceivedRequest,
    ReceivedResponse,
    RecordingUpstream,
    eventually,
    never,
    parse_responses,
    until,
)
from harness.pool import ControlledDials
from harness.sessions import TOKEN, SessionsHarness, open_sessions
from harness.websockets import HANDSHAKE
from route_files import bearer, open_gateway

from ostiary.feed import Kind
from ostiary.testing import Issuer

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

MINE = "name: mine, match: {path: /mine, methods: [GET, POST, PUT]}, upstream: up, access: authenticated"
ROUTES = (
    f"{MINE}, retries: {{attempts: 2, statuses: [503]}}",
    "name: open, match: {path: /open, methods: [GET]}, upstream: up, access: public",
    "name: live, match: {path: /live, methods: [GET]}, upstream: up, access: authenticated, websocket: true",
    "name: lax, match: {path: /lax, methods: [GET]}, upstream: up, access: authenticated, max_staleness: none",
    (
        "name: wide, match: {path: '/wide/{rest...}', methods: [GET]}, rewrite: '/{rest...}', upstream: up,"
        " access: authenticated, max_staleness: 20.0"
    ),
    "name: strict, match: {path: /strict, methods: [GET]}, upstream: up, access: authenticated, max_staleness: 1.0",
    (
        "name: counted, match: {path: /counted, methods: [GET]}, upstream: up, access: authenticated,"
        " rate_limits: [{by: address, requests: 9, seconds: 60}, {by: subject, requests: 9, seconds: 60}]"
    ),
)


@pytest.fixture
def own(issuer: Issuer) -> Issuer:
    return Issuer(issuer.issuer, private_key=issuer.private_key)


@pytest.fixture
async def gateway(own: Issuer, upstream: RecordingUpstream) -> AsyncIterator[GatewayHarness]:
    async with open_gateway(own, upstream, *ROUTES) as harness:
        yield harness


@pytest.fixture
async def it(issuer: Issuer, upstream: RecordingUpstream) -> AsyncIterator[SessionsHarness]:
    optional = "name: any, match: {path: /any, methods: [GET]}, upstream: up, access: optional"
    page = "name: page, match: {path: /page, methods: [GET]}, upstream: up, access: authenticated, login: redirect"
    async with open_sessions(issuer, upstream, *ROUTES, optional, page) as harness:
        yield harness


def token_of(own: Issuer) -> str:
    return bearer(own.token(subject="ada"))


def ages(own: Issuer, seconds: float) -> None:
    source = own.config().revocation_source
    assert source is not None
    source.revocations.fresh_at = source.revocations.now() - seconds


class Queue:
    """Requests that wait for the only connection, which somebody else's request has."""

    def __init__(self, gateway: GatewayHarness, upstream: RecordingUpstream) -> None:
        self._gateway = gateway
        (self._pool,) = gateway.upstream().pools
        self._response = upstream.response = PausedResponse(then=OK)
        self._waiting: list[ClientSocket] = []
        gateway.limit_connections(1)

    async def occupy(self) -> None:
        holder = await self._gateway.connect()
        holder.send(b"GET /open HTTP/1.1\r\nHost: gw\r\n\r\n")
        await until(lambda: self._pool.busy == 1)

    async def send(self, target: str, *lines: str, method: str = "GET", body: bytes = b"") -> None:
        client = await self._gateway.connect()
        fields = [f"{method} {target} HTTP/1.1", "Host: gw", *lines]
        if not any(line.startswith("Connection:") for line in lines):
            fields.append("Connection: close")
        client.send("\r\n".join([*fields, "", ""]).encode() + body)
        self._waiting.append(client)
        await until(lambda: self._pool.waiting == len(self._waiting))

    async def answers(self, method: str = "GET") -> list[ReceivedResponse]:
        """Let the connection become free; return the answers to those that waited."""
        self._response.resume()
        answers = [parse_responses(await client.wait_closed(), method)[0] for client in self._waiting]
        await until(lambda: not self._pool.busy and not self._pool.waiting)
        return answers


@pytest.fixture
async def queue(gateway: GatewayHarness, upstream: RecordingUpstream) -> Queue:
    queue = Queue(gateway, upstream)
    await queue.occupy()
    return queue


@pytest.fixture
async def queue_of_sessions(it: SessionsHarness, upstream: RecordingUpstream) -> Queue:
    queue = Queue(it.gateway, upstream)
    await queue.occupy()
    return queue


class TestQueue:
    async def test_a_token_that_is_revoked_meanwhile_is_rejected(
        self, own: Issuer, gateway: GatewayHarness, upstream: RecordingUpstream, queue: Queue
    ) -> None:
        log = CapturedAccessLog(gateway)
        await queue.send("/mine", token_of(own))
        await queue.send("/mine", bearer(own.token(subject="bob")))
        own.revoke(Kind.SUBJECT, "ada")
        rejected, served = await queue.answers()
        assert (rejected.status, rejected.code, served.status) == (401, "revoked", 200)
        assert 'error="invalid_token"' in rejected.values("www-authenticate")[0]
        assert [each.target for each in upstream.requests] == ["/open", "/mine"]
        assert [line["decision"] for line in log.lines if line["route"] == "/mine"] == ["revoked", "allowed"]

    async def test_nothing_is_held_against_the_upstream(
        self, own: Issuer, gateway: GatewayHarness, upstream: RecordingUpstream, queue: Queue
    ) -> None:
        await queue.send("/mine", token_of(own))
        own.revoke(Kind.SUBJECT, "ada")
        await queue.answers()
        cluster = gateway.upstream()
        (pool,) = cluster.pools
        assert (sum(cluster.failures.values()), cluster.retries, cluster.ejected_endpoints) == (0, 0, 0)
        # The connection, which nothing was sent on, serves the next request.
        assert (pool.idle, pool._queue._held) == (1, {})
        assert (await gateway.request("/open")).status == 200
        assert len(upstream.connections) == 1

    @pytest.mark.parametrize(
        ("target", "status"), [("/mine", 503), ("/lax", 200), ("/open", 200), ("/wide/strict", 503)]
    )
    async def test_each_route_has_its_bound(self, own: Issuer, queue: Queue, target: str, status: int) -> None:
        await queue.send(target, token_of(own))
        ages(own, 31)
        (answer,) = await queue.answers()
        assert answer.status == status
        if status == 503:
            assert (answer.code, answer.values("retry-after")) == ("revocation_stale", ["1"])

    @pytest.mark.parametrize(("target", "status"), [("/wide/strict", 503), ("/wide/mine", 200)])
    async def test_the_strictest_bound_of_the_path_holds(
        self, own: Issuer, queue: Queue, target: str, status: int
    ) -> None:
        await queue.send(target, token_of(own))
        ages(own, 2)
        assert [answer.status for answer in await queue.answers()] == [status]

    async def test_content_is_not_read_for_a_rejected_request(self, own: Issuer, queue: Queue) -> None:
        await queue.send("/mine", token_of(own), "Content-Length: 2", "Expect: 100-continue", method="POST")
        own.revoke(Kind.SUBJECT, "ada")
        (answer,) = await queue.answers("POST")
        assert (answer.status, answer.values("connection")) == (401, ["close"])

    async def test_a_handshake_is_a_request(self, own: Issuer, upstream: RecordingUpstream, queue: Queue) -> None:
        await queue.send("/live", token_of(own), *HANDSHAKE[1:], "Connection: close, upgrade")
        own.revoke(Kind.SUBJECT, "ada")
        (answer,) = await queue.answers()
        assert (answer.status, answer.code) == (401, "revoked")
        assert [each.target for each in upstream.requests] == ["/open"]

    async def test_a_client_that_goes_on_is_served(self, own: Issuer, queue: Queue) -> None:
        await queue.send("/mine", token_of(own), "Connection: keep-alive")
        own.revoke(Kind.SUBJECT, "ada")
        client = queue._waiting.pop()
        client.send(b"GET /open HTTP/1.1\r\nHost: gw\r\nConnection: close\r\n\r\n")
        assert await queue.answers() == []
        answers = parse_responses(await client.wait_closed(), "GET", "GET")
        assert [answer.status for answer in answers] == [401, 200]


class TestSessions:
    async def test_a_token_that_was_cut_off_is_renewed(
        self, it: SessionsHarness, upstream: RecordingUpstream, queue_of_sessions: Queue
    ) -> None:
        session = it.auth.open_session()
        old = session.token()
        await queue_of_sessions.send("/mine", session.cookies(old), "Content-Length: 2", method="PUT", body=b"hi")
        it.auth.issuer.revoke(Kind.SUBJECT, session.subject)
        (answer,) = await queue_of_sessions.answers("PUT")
        assert (answer.status, len(it.auth.exchanged)) == (200, 1)
        assert answer.values("set-cookie")[0].startswith(f"{TOKEN}=")
        (sent,) = [each for each in upstream.requests if each.target == "/mine"]
        assert sent.body == b"hi"
        assert sent.values("authorization") != [f"Bearer {old}"]

    async def test_a_token_that_has_been_renewed_since_is_taken(
        self, it: SessionsHarness, queue_of_sessions: Queue
    ) -> None:
        session = it.auth.open_session()
        await queue_of_sessions.send("/mine", session.cookies(session.token()))
        it.auth.issuer.revoke(Kind.SUBJECT, session.subject)
        await queue_of_sessions.send("/mine", session.cookies(session.token()))
        answers = await queue_of_sessions.answers()
        assert [answer.status for answer in answers] == [200, 200]
        assert len(it.auth.exchanged) == 1

    async def test_a_token_that_expires_is_renewed(self, it: SessionsHarness, queue_of_sessions: Queue) -> None:
        session = it.auth.open_session()
        # Of a short life, so that it is not renewed before.
        token = session.token(seconds=2, life=2)
        await queue_of_sessions.send("/mine", session.cookies(token))
        assert it.auth.exchanged == []
        ends_at = time.time() + 2
        await eventually(lambda: time.time() > ends_at)
        assert [answer.status for answer in await queue_of_sessions.answers()] == [200]
        assert len(it.auth.exchanged) == 1

    async def test_a_session_that_has_ended_is_over(
        self, it: SessionsHarness, upstream: RecordingUpstream, queue_of_sessions: Queue
    ) -> None:
        session = it.auth.open_session()
        page = ("Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: document", "Accept: text/html")
        for target, lines in (("/mine", ()), ("/any", ()), ("/page", page)):
            await queue_of_sessions.send(target, session.cookies(session.token()), *lines)
        it.auth.issuer.revoke(Kind.SESSION, session.id)
        mine, optional, to_login = await queue_of_sessions.answers()
        assert (mine.status, mine.code) == (401, "session_ended")
        assert (optional.status, to_login.status) == (200, 303)
        assert [(each.target, each.values("authorization")) for each in upstream.requests[1:]] == [("/any", [])]
        assert it.auth.exchanged == []

    async def test_who_cannot_be_told_is_asked_to_come_back(
        self, it: SessionsHarness, queue_of_sessions: Queue
    ) -> None:
        session = it.auth.open_session()
        await queue_of_sessions.send("/mine", session.cookies(session.token()))
        it.auth.issuer.revoke(Kind.SUBJECT, session.subject)
        it.auth.answers = [b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"] * 2
        (answer,) = await queue_of_sessions.answers()
        assert (answer.status, answer.code) == (503, "session_undecided")

    async def test_a_request_is_counted_once(self, it: SessionsHarness, queue_of_sessions: Queue) -> None:
        session = it.auth.open_session()
        await queue_of_sessions.send("/counted", session.cookies(session.token()))
        it.auth.issuer.revoke(Kind.SUBJECT, session.subject)
        (answer,) = await queue_of_sessions.answers()
        assert (answer.status, len(it.auth.exchanged)) == (200, 1)
        left = [member.partition(";t=")[0] for member in answer.values("ratelimit")[0].split(", ")]
        assert left == ['"address";r=8', '"subject";r=8']


class TestDial:
    async def test_what_is_learnt_while_a_connection_is_opened_counts(
        self, own: Issuer, gateway: GatewayHarness, upstream: RecordingUpstream, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        dials = ControlledDials(monkeypatch, upstream.path)
        client = await gateway.connect()
        client.send(f"GET /mine HTTP/1.1\r\nHost: gw\r\nConnection: close\r\n{token_of(own)}\r\n\r\n".encode())
        await dials.wait_dialed(1)
        own.revoke(Kind.SUBJECT, "ada")
        dials.pending[0].set_result(True)
        answer = parse_responses(await client.wait_closed())[0]
        assert (answer.status, answer.code) == (401, "revoked")
        await never(lambda: upstream.requests)


class RevokingUpstream:
    """Has a token revoked with the first request, and then fails."""

    def __init__(self, own: Issuer, first: bytes | None) -> None:
        self._own = own
        self._first = first
        self.count = 0

    async def __call__(self, _: ReceivedRequest, writer: asyncio.StreamWriter) -> None:
        self.count += 1
        if self.count > 1:
            writer.write(OK)
            return
        self._own.revoke(Kind.SUBJECT, "ada")
        if self._first is None:
            writer.close()
        else:
            writer.write(self._first)


BUSY = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nbusy"


class TestRetry:
    @pytest.mark.parametrize("first", [None, BUSY])
    async def test_a_request_is_not_sent_again_with_a_token_that_is_revoked_meanwhile(
        self, own: Issuer, gateway: GatewayHarness, upstream: RecordingUpstream, first: bytes | None
    ) -> None:
        peer = upstream.response = RevokingUpstream(own, first)
        answer = await gateway.request("/mine", token_of(own))
        assert (answer.status, answer.code, peer.count) == (401, "revoked", 1)
        answer = await gateway.request("/mine", bearer(own.token(subject="bob")))
        assert (answer.status, peer.count) == (200, 2)

    async def test_it_is_sent_again_with_a_new_token_of_the_session(
        self, it: SessionsHarness, upstream: RecordingUpstream
    ) -> None:
        peer = upstream.response = RevokingUpstream(it.auth.issuer, BUSY)
        session = it.auth.open_session()
        answer = await it.request("/mine", session.cookies(session.token()))
        assert (answer.status, peer.count, len(it.auth.exchanged)) == (200, 2, 1)

    async def test_one_whose_content_is_gone_has_failed(self, it: SessionsHarness, upstream: RecordingUpstream) -> None:
        peer = upstream.response = RevokingUpstream(it.auth.issuer, None)
        session = it.auth.open_session()
        answer = await it.request(
            "/mine", session.cookies(session.token()), "Content-Length: 2", method="PUT", body=b"hi"
        )
        assert (answer.status, peer.count, it.auth.exchanged) == (502, 1, [])
