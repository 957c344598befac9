"""Client connections whose request waits for a new access token."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from harness import CapturedAccessLog, Clock, RecordingUpstream, never, parse_responses, until
from harness.sessions import BrowserSession, SessionsHarness, open_sessions, response
from harness.websockets import ACCEPTED, HANDSHAKE, UpstreamWebSocket, frame

from ostiary.feed import Kind
from ostiary.testing import Issuer
from ostiary_gateway.proxy.downstream import KEEP_ALIVE_SECONDS
from ostiary_gateway.routing.source import RoutesSource
from ostiary_gateway.sessions.renewals import RENEWAL_SECONDS
from ostiary_gateway.upstream import fair_queue

MINE = "name: mine, match: {path: /mine, methods: [GET, POST, PUT]}, upstream: up, access: authenticated"
LIVE = "name: live, match: {path: /live, methods: [GET]}, upstream: up, access: authenticated, websocket: true"

#: More than is kept of a body while its request waits.
BIG = b"x" * 300_000


@pytest.fixture
async def it(issuer: Issuer, upstream: RecordingUpstream) -> AsyncIterator[SessionsHarness]:
    async with open_sessions(issuer, upstream, MINE, LIVE, browser='trusted_origins: ["https://app.gw"]') as harness:
        yield harness


@pytest.fixture
def session(it: SessionsHarness) -> BrowserSession:
    it.auth.goes_on.clear()
    return it.auth.open_session()


def head(session: BrowserSession, *lines: str, method: str = "GET", path: str = "/mine") -> bytes:
    fields = (f"{method} {path} HTTP/1.1", "Host: gw", "Sec-Fetch-Site: same-origin", session.cookies(None))
    return "\r\n".join([*fields, *lines, "", ""]).encode()


async def test_pipelined_requests_wait_for_their_turn(it: SessionsHarness, session: BrowserSession) -> None:
    client = await it.gateway.connect()
    client.send(head(session) * 3 + head(session, "Connection: close"))
    await until(lambda: it.renewals.waiting == 1)
    await never(lambda: it.upstream.requests)
    it.auth.goes_on.set()
    answers = parse_responses(await client.wait_closed(), *["GET"] * 4)
    assert [answer.status for answer in answers] == [200] * 4
    assert len(it.auth.exchanged) == 1


async def test_a_body_that_comes_meanwhile_is_kept_within_limits(it: SessionsHarness, session: BrowserSession) -> None:
    client, connection = await it.gateway.connect_both_sides()
    client.send(head(session, f"Content-Length: {len(BIG)}", "Connection: close", method="PUT") + BIG)
    await until(lambda: it.renewals.waiting == 1)
    await until(lambda: connection._is_reading_paused)
    it.auth.goes_on.set()
    assert parse_responses(await client.wait_closed(), "PUT")[0].status == 200
    assert it.upstream.last.body == BIG


async def test_a_client_sends_its_body_only_when_it_is_needed(it: SessionsHarness, session: BrowserSession) -> None:
    client = await it.gateway.connect()
    client.send(head(session, "Content-Length: 2", "Expect: 100-continue", "Connection: close", method="PUT"))
    await until(lambda: it.renewals.waiting == 1)
    await never(lambda: client.received)
    it.auth.goes_on.set()
    await client.wait_for(b"HTTP/1.1 100 ")
    client.send(b"ok")
    assert parse_responses(await client.wait_closed(), "PUT")[0].status == 200


async def test_a_rejected_request_with_a_body_ends_its_connection(it: SessionsHarness, session: BrowserSession) -> None:
    client = await it.gateway.connect()
    client.send(head(session, f"Content-Length: {len(BIG)}", method="PUT") + BIG)
    await until(lambda: it.renewals.waiting == 1)
    it.auth.end(session)
    it.auth.goes_on.set()
    await client.wait_for(b"session_ended")
    client.transport.write_eof()
    answer = parse_responses(await client.wait_closed(), "PUT")[0]
    assert (answer.status, answer.values("connection")) == (401, ["close"])
    assert it.upstream.requests == []


async def test_a_connection_goes_on_after_a_rejection(it: SessionsHarness, session: BrowserSession) -> None:
    client = await it.gateway.connect()
    client.send(head(session) + b"GET /none HTTP/1.1\r\nHost: gw\r\nConnection: close\r\n\r\n")
    await until(lambda: it.renewals.waiting == 1)
    it.auth.end(session)
    it.auth.goes_on.set()
    answers = parse_responses(await client.wait_closed(), "GET", "GET")
    assert [(answer.status, answer.code) for answer in answers] == [(401, "session_ended"), (404, "not_found")]


async def test_a_client_that_leaves_does_not_end_the_renewal(it: SessionsHarness, session: BrowserSession) -> None:
    log = CapturedAccessLog(it.gateway)
    client = await it.gateway.connect()
    client.send(head(session))
    await until(lambda: it.renewals.waiting == 1)
    client.transport.abort()
    await until(lambda: it.renewals.waiting == 0)
    it.auth.goes_on.set()
    await until(lambda: it.renewals.remembered == 1)
    assert [(line["status"], line["decision"]) for line in log.lines] == [(499, "client_left")]
    assert it.upstream.requests == []


async def test_what_takes_too_long_is_given_up(it: SessionsHarness, session: BrowserSession, clock: Clock) -> None:
    client = await it.gateway.connect()
    client.send(head(session, "Connection: close"))
    await until(lambda: it.auth.exchanged)
    clock.skip(RENEWAL_SECONDS)
    answer = parse_responses(await client.wait_closed())[0]
    assert (answer.status, answer.code, answer.values("retry-after")) == (503, "session_undecided", ["1"])
    assert answer.values("set-cookie") == []
    it.auth.goes_on.set()
    assert (await it.request("/mine", session.cookies(None))).status == 200


async def test_a_waiting_connection_is_not_idle(it: SessionsHarness, session: BrowserSession, clock: Clock) -> None:
    client = await it.gateway.connect()
    client.send(head(session))
    it.auth.goes_on.set()
    await client.wait_for(b"/mine")
    clock.skip(KEEP_ALIVE_SECONDS)
    await client.wait_closed()


async def test_a_request_that_waits_is_answered_before_the_gateway_ends(
    it: SessionsHarness, session: BrowserSession
) -> None:
    client, connection = await it.gateway.connect_both_sides()
    client.send(head(session))
    await until(lambda: it.renewals.waiting == 1)
    it.gateway.gateway.stop()
    connection.shutdown()
    await never(lambda: client.is_closed)
    it.auth.goes_on.set()
    answer = parse_responses(await client.wait_closed())[0]
    assert (answer.status, answer.values("connection")) == (200, ["close"])


async def test_a_request_that_waits_is_cut_off_at_the_end(it: SessionsHarness, session: BrowserSession) -> None:
    log = CapturedAccessLog(it.gateway)
    client, connection = await it.gateway.connect_both_sides()
    client.send(head(session))
    await until(lambda: it.renewals.waiting == 1)
    connection.cut_off()
    assert await client.wait_closed() == b""
    assert [(line["status"], line["decision"]) for line in log.lines] == [(503, "gateway_shutdown")]
    assert it.renewals.waiting == 0


async def test_routes_that_change_meanwhile_decide(
    it: SessionsHarness, session: BrowserSession, tmp_path: Path
) -> None:
    runtime = it.gateway.gateway.runtime
    file = tmp_path / "gateway.yaml"
    runtime._source = RoutesSource(file)

    async def change(text: str) -> None:
        file.write_text(text)
        runtime.reload()
        assert runtime._task is not None
        await runtime._task

    upstreams = f'upstreams: {{up: {{url: "{it.upstream.url}"}}, auth: {{url: "{it.auth.url}"}}}}\n'
    waiting = asyncio.create_task(it.request("/mine", session.cookies(None)))
    await until(lambda: it.renewals.waiting == 1)
    await change(
        f"{upstreams}browser: {{upstream: auth}}\nroutes:\n  - {{{MINE.replace('authenticated', '{roles: [x]}')}}}"
    )
    it.auth.goes_on.set()
    assert (await waiting).code == "insufficient_role"
    it.auth.goes_on.clear()
    other = it.auth.open_session()
    waiting = asyncio.create_task(it.request("/mine", other.cookies(None)))
    await until(lambda: it.renewals.waiting == 1)
    await change(f"{upstreams}routes:\n  - {{{MINE}}}")
    it.auth.goes_on.set()
    assert (await waiting).code == "missing_token"


async def test_a_session_and_its_successor_do_not_mix(it: SessionsHarness, session: BrowserSession) -> None:
    late = asyncio.create_task(it.request("/mine", session.cookies(None)))
    await until(lambda: it.renewals.waiting == 1)
    other = it.auth.open_session("bob")
    token = other.token()
    assert (await it.request("/mine", other.cookies(token))).status == 200
    it.auth.goes_on.set()
    (cookie,) = (await late).values("set-cookie")
    stale = cookie.partition(";")[0].partition("=")[2]
    # The browser now has the new session's cookie beside the old one's token.
    assert (await it.request("/mine", other.cookies(stale))).status == 200
    assert stale not in it.upstream.last.values("authorization")[0]
    assert it.auth.exchanged == [session.value, other.value]


async def test_renewals_beyond_the_queue_are_refused(
    it: SessionsHarness, session: BrowserSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fair_queue, "MAX_WAITING", 2)
    it.renewals._queue = fair_queue.FairQueue(1)
    sessions = [session, *(it.auth.open_session() for _ in range(2))]
    waiting = [asyncio.create_task(it.request("/mine", each.cookies(None))) for each in sessions]
    await until(lambda: it.renewals.waiting == 3)
    assert it.renewals.queued == 2
    last = it.auth.open_session()
    refused = await it.request("/mine", last.cookies(None))
    assert (refused.status, refused.code, refused.values("retry-after")) == (503, "session_undecided", ["1"])
    # What is under way has room for all who need it; and a good token needs no renewal.
    waiting.append(asyncio.create_task(it.request("/mine", session.cookies(None))))
    await until(lambda: it.renewals.waiting == 4)
    assert (await it.request("/mine", last.cookies(last.token(30)))).status == 200
    await never(lambda: len(it.auth.exchanged) > 1)
    it.auth.goes_on.set()
    assert {answer.status for answer in await asyncio.gather(*waiting)} == {200}
    assert len(it.auth.exchanged) == 3


async def test_without_the_auth_service_good_tokens_go_on_and_no_cookie_is_lost(
    it: SessionsHarness, session: BrowserSession
) -> None:
    it.auth.stop_listening()
    for _ in range(3):
        assert (await it.request("/mine", session.cookies(session.token(30)))).status == 200
        answer = await it.request("/mine", session.cookies(session.token(-1)))
        assert (answer.status, answer.code, answer.values("set-cookie")) == (503, "session_undecided", [])
    await it.auth.__aenter__()
    it.auth.goes_on.set()
    await until(lambda: it.gateway.upstream("auth").is_circuit_closed)
    assert (await it.request("/mine", session.cookies(session.token(-1)))).status == 200


async def test_a_websocket_is_opened_with_the_bearer_and_ends_with_its_token(
    it: SessionsHarness, session: BrowserSession
) -> None:
    it.auth.goes_on.set()
    peer = UpstreamWebSocket(ACCEPTED)
    peer.may_accept.set()
    it.upstream.response = peer
    client = await it.gateway.connect()
    client.send(head(session, *HANDSHAKE, "Origin: https://gw", path="/live"))
    await client.wait_for(b"\r\n\r\n")
    assert client.received.startswith(b"HTTP/1.1 101 ")
    assert not {b"set-cookie", b"vary", b"cache-control"} & set(client.received.lower().replace(b":", b" ").split())
    assert it.upstream.last.values("authorization")[0].startswith("Bearer ")
    assert it.upstream.last.values("cookie") == []
    peer.send(frame(b"one"))
    await client.wait_for(frame(b"one"))
    it.auth.issuer.revoke(Kind.SESSION, session.id)
    await client.wait_closed()
    assert (4401).to_bytes(2) in client.received.rpartition(frame(b"one"))[2]


@pytest.mark.parametrize(
    ("lines", "code"),
    [
        (["Origin: https://evil.example"], "cross_site_request"),
        (["Origin: https://app.gw"], None),
        (["Sec-Fetch-Site: cross-site"], "cross_site_request"),
        ([], None),
    ],
)
async def test_who_may_open_a_websocket_with_a_session(
    it: SessionsHarness, session: BrowserSession, lines: list[str], code: str | None
) -> None:
    it.auth.goes_on.set()
    peer = UpstreamWebSocket(ACCEPTED)
    peer.may_accept.set()
    it.upstream.response = peer
    client = await it.gateway.connect()
    cookies = session.cookies(session.token(), "own=1")
    fields = ["GET /live HTTP/1.1", "Host: gw", *HANDSHAKE, cookies, *lines, "", ""]
    client.send("\r\n".join(fields).encode())
    await client.wait_for(b"\r\n\r\n")
    if code is None:
        assert client.received.startswith(b"HTTP/1.1 101 ")
    else:
        await client.wait_for(code.encode())
        assert it.upstream.requests == []


async def test_logs_have_no_credential(
    it: SessionsHarness, session: BrowserSession, capsys: pytest.CaptureFixture[str]
) -> None:
    log = CapturedAccessLog(it.gateway)
    it.auth.goes_on.set()
    it.auth.answers = [response(500, {"detail": session.value}), response(200, it.auth.members(session, persistent=1))]
    token = session.token(-1)
    for status in (503, 503, 200):
        assert (await it.request("/mine", session.cookies(token))).status == status
    written = log.text + "".join(capsys.readouterr())
    assert "session_undecided" in written
    for secret in (session.value, session.id, token, token.rpartition(".")[2]):
        assert secret not in written
    assert [line["subject"] != "" for line in log.lines] == [False, False, True]
