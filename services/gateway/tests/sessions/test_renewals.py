"""Renewals of browser sessions' tokens: once per session, fair, bounded, and remembered."""

import asyncio
import base64
from collections.abc import AsyncIterator

import pytest
import structlog.testing
from harness import ClientSocket, Clock, RecordingUpstream, eventually, never, parse_responses, settled, until
from harness.sessions import BrowserSession, SessionsHarness, open_sessions, response

from ostiary.testing import Issuer
from ostiary_gateway.access.renewal import Session
from ostiary_gateway.sessions import renewals as module
from ostiary_gateway.sessions.renewals import BACKGROUND_RETRY_SECONDS, ENDED_SECONDS, MAX_EXCHANGES

MINE = "name: mine, match: {path: /mine, methods: [GET]}, upstream: up, access: authenticated"


@pytest.fixture
async def it(issuer: Issuer, upstream: RecordingUpstream) -> AsyncIterator[SessionsHarness]:
    async with open_sessions(issuer, upstream, MINE) as harness:
        yield harness


async def status(it: SessionsHarness, session: BrowserSession, seconds: float | None = None, peer: str = "::1") -> int:
    token = session.token(seconds) if seconds is not None else None
    return (await it.request("/mine", session.cookies(token), peer=peer)).status


def known(session: BrowserSession) -> Session:
    return Session(session.value.encode(), session.id)


async def begin(it: SessionsHarness, session: BrowserSession, peer: str) -> ClientSocket:
    """Send a request that needs a renewal."""
    client = await it.gateway.connect(peer)
    fields = ["GET /mine HTTP/1.1", "Host: gw", "Connection: close", session.cookies(None), "", ""]
    client.send("\r\n".join(fields).encode())
    return client


async def statuses(clients: list[ClientSocket]) -> list[int]:
    return [parse_responses(await each.wait_closed())[0].status for each in clients]


async def test_so_many_are_under_way_at_once_and_the_others_follow(it: SessionsHarness) -> None:
    it.auth.goes_on.clear()
    sessions = [it.auth.open_session() for _ in range(MAX_EXCHANGES + 10)]
    clients = [await begin(it, each, f"10.0.0.{number}") for number, each in enumerate(sessions)]
    await until(lambda: it.renewals.waiting == len(sessions))
    await until(lambda: len(it.auth.exchanged) == MAX_EXCHANGES)
    await never(lambda: len(it.auth.exchanged) > MAX_EXCHANGES)
    it.auth.goes_on.set()
    assert await statuses(clients) == [200] * len(sessions)
    assert sorted(it.auth.exchanged) == sorted(each.value for each in sessions)
    assert (it.renewals.waiting, it.renewals.queued, it.renewals.outcomes["renewed"]) == (0, 0, len(sessions))


async def test_one_client_does_not_take_the_turns_of_others(it: SessionsHarness) -> None:
    it.auth.goes_on.clear()
    many = [it.auth.open_session() for _ in range(3 * MAX_EXCHANGES)]
    flood = [await begin(it, each, "10.0.0.1") for each in many]
    await until(lambda: it.renewals.waiting == len(many))
    begun = await settled(lambda: len(it.auth.exchanged))
    assert begun < MAX_EXCHANGES
    other = it.auth.open_session()
    client = await begin(it, other, "10.0.0.2")
    await until(lambda: other.value in it.auth.exchanged)
    assert it.auth.exchanged.index(other.value) == begun
    it.auth.goes_on.set()
    assert set(await statuses([client, *flood])) == {200}


async def test_a_replaced_secret_is_read_again(it: SessionsHarness) -> None:
    assert await status(it, it.auth.open_session()) == 200
    it.auth.secret = "another secret"
    it.renewals._secret._file.write_text("another secret\n")
    assert await status(it, it.auth.open_session()) == 200
    expected = "Basic " + base64.b64encode(b"ostiary-gateways:another secret").decode()
    assert it.auth.authorizations[-1] == expected
    it.auth.secret = "a third one"
    count = len(it.auth.exchanged)
    with structlog.testing.capture_logs() as logged:
        assert await status(it, it.auth.open_session()) == 503
        assert await status(it, it.auth.open_session()) == 503
        it.renewals._secret._file.write_text("a third one\n")
        assert await status(it, it.auth.open_session()) == 200
    assert len(it.auth.exchanged) == count + 6
    assert [(each["event"], each.get("reason")) for each in logged] == [
        ("sessions not renewed", "status 401"),
        ("sessions renewed again", None),
    ]


async def test_without_a_secret_nobody_is_logged_out(it: SessionsHarness) -> None:
    it.renewals._secret._file.unlink()
    session = it.auth.open_session()
    assert await status(it, session) == 503
    assert await status(it, session, 30) == 200
    assert it.auth.exchanged == []


async def test_an_ended_session_is_asked_about_again_after_a_minute(it: SessionsHarness, clock: Clock) -> None:
    session = it.auth.open_session()
    it.auth.end(session)
    assert [await status(it, session) for _ in range(2)] == [401, 401]
    it.auth.sessions[session.value] = session
    clock.skip(ENDED_SECONDS - 1)
    assert await status(it, session) == 401
    clock.skip(2)
    assert await status(it, session) == 200
    assert len(it.auth.exchanged) == 2


async def test_a_renewal_for_nobody_is_not_repeated_at_once(it: SessionsHarness, clock: Clock) -> None:
    session = it.auth.open_session()
    it.auth.answers = [response(500, {})]
    assert await status(it, session, 30) == 200
    await until(lambda: it.renewals.outcomes["failed"] == 1)
    assert await status(it, session, 30) == 200
    await never(lambda: len(it.auth.exchanged) > 1)
    clock.skip(BACKGROUND_RETRY_SECONDS)
    assert await status(it, session, 30) == 200
    await until(lambda: it.renewals.outcomes["renewed"] == 1)


async def test_a_throttled_session_is_no_outage(it: SessionsHarness) -> None:
    it.auth.answers = [response(429, {"code": "too_many_requests"}, "Retry-After: 9")]
    with structlog.testing.capture_logs() as logged:
        answer = await it.request("/mine", it.auth.open_session().cookies(None))
    assert (answer.status, answer.values("retry-after"), logged) == (503, ["9"], [])
    assert it.renewals.outcomes == {"throttled": 1}


async def test_an_exchange_is_sent_again_on_a_new_connection(it: SessionsHarness) -> None:
    async def close(_: object, writer: asyncio.StreamWriter) -> None:
        it.auth.response = answer
        writer.close()

    assert await status(it, it.auth.open_session()) == 200
    answer, it.auth.response = it.auth.response, close
    assert await status(it, it.auth.open_session()) == 200
    assert len(it.auth.connections) == 2


@pytest.mark.parametrize("content", [b"x" * 100_000, b""])
async def test_no_answer_is_believed_that_is_none(it: SessionsHarness, content: bytes) -> None:
    it.auth.answers = [b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(content), content)]
    session = it.auth.open_session()
    assert await status(it, session) == 503
    assert await status(it, session) == 200


async def test_memory_is_bounded_and_the_oldest_goes_first(
    it: SessionsHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_REMEMBERED", 2)
    sessions = [it.auth.open_session() for _ in range(3)]
    for each in sessions:
        await status(it, each)
    assert it.renewals.remembered == 2
    assert [it.renewals.token_of(known(each)) is not None for each in sessions] == [False, True, True]
    for each in sessions:
        it.auth.end(each)
        it.renewals.forget(known(each))
        assert await status(it, each) == 401
    assert [it.renewals.has_ended(known(each)) for each in sessions] == [False, True, True]


async def test_a_renewed_token_is_forgotten_at_its_end(it: SessionsHarness, clock: Clock) -> None:
    await status(it, it.auth.open_session())
    assert it.renewals.remembered == 1
    clock.skip(900)
    await eventually(lambda: it.renewals.remembered == 0)


async def test_an_ended_session_takes_its_token_along(it: SessionsHarness) -> None:
    session = it.auth.open_session()
    it.auth.life = 30
    await status(it, session)
    it.auth.end(session)
    # In the last tenth of its life the token is renewed.
    it.renewals.begin(known(session), "::1")
    await until(lambda: it.renewals.outcomes["ended"] == 1)
    assert it.renewals.remembered == 0


async def test_the_gateways_metrics_count_renewals(it: SessionsHarness) -> None:
    await status(it, it.auth.open_session())
    session = it.auth.open_session()
    it.auth.end(session)
    await status(it, session)
    text = (await it.gateway.client.get("/metrics")).text
    for line in (
        'gateway_session_renewals_total{outcome="renewed"} 1.0',
        'gateway_session_renewals_total{outcome="ended"} 1.0',
        "gateway_session_renewal_seconds_count 2.0",
        "gateway_session_waiting_requests 0.0",
        "gateway_session_queued_renewals 0.0",
        "gateway_session_remembered_tokens 1.0",
    ):
        assert line in text
