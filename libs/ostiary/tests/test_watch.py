"""Responses that outlast the authorisation of their request end with their token."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI
from fastapi.responses import StreamingResponse
from timing import until

from ostiary import KeySet, LocalKeys, LocalRevocations, Revocations, VerifiedToken, Verifier, VerifierConfig, _watch
from ostiary._watch import Watch
from ostiary.asgi import MAX_STALENESS, TOKEN, App, BearerAuth, EndWithToken, Message, Receive, Scope, Send
from ostiary.errors import Expired, OstiaryError
from ostiary.fastapi import Auth
from ostiary.feed import GENESIS, Answer, Kind
from ostiary.http import grace_of
from ostiary.testing import Issuer

EVENTS = (b"content-type", b"text/event-stream; charset=utf-8")
BYTES = (b"content-type", b"application/octet-stream")


@pytest.fixture
def issuer(issuer: Issuer) -> Issuer:
    """An issuer whose revocations are this test's own."""
    return Issuer(private_key=issuer.private_key)


@dataclass
class Clock:
    """A clock that is set by hand, and counts how often it is read."""

    now: float
    looks: int = 0

    def __call__(self) -> float:
        self.looks += 1
        return self.now

    async def is_looked_at(self) -> None:
        """Wait until it was read several times more."""
        before = self.looks
        await until(lambda: self.looks >= before + 6)


@pytest.fixture
def wall_clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The time of day, set by hand."""
    clock = Clock(time.time())
    monkeypatch.setattr("time.time", clock)
    return clock


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Check every millisecond instead of every ten seconds."""
    monkeypatch.setattr(_watch, "MAX_SLICE", 0.001)


def revocations_of(issuer: Issuer) -> Revocations:
    return issuer._revoked.revocations


def targets_of(token: VerifiedToken) -> dict[Kind, str]:
    assert token.session_id is not None
    return {
        Kind.SESSION: token.session_id,
        Kind.TOKEN: token.token_id,
        Kind.KEY: token.key_id,
        Kind.SUBJECT: token.subject,
        Kind.CLIENT: token.client_id,
        Kind.ALL: "*",
    }


class Ends:
    """Records the calls of `on_end`."""

    def __init__(self) -> None:
        self.codes: list[str] = []

    def __call__(self, error: OstiaryError) -> None:
        self.codes.append(error.code)


@pytest.fixture
def ends() -> Ends:
    return Ends()


class TestRevocation:
    @pytest.mark.parametrize("kind", Kind)
    async def test_it_ends_a_token_at_once(self, issuer: Issuer, ends: Ends, kind: Kind) -> None:
        verifier = issuer.verifier()
        token = verifier.verify(issuer.token())
        with verifier.watch(token, ends):
            assert ends.codes == []
            issuer.revoke(kind, targets_of(token)[kind])
            # Nothing was awaited.
            assert ends.codes == ["revoked"]

    async def test_a_failing_callback_does_not_stop_others(
        self, issuer: Issuer, ends: Ends, caplog: pytest.LogCaptureFixture
    ) -> None:
        def fail(_: OstiaryError) -> None:
            raise ZeroDivisionError

        verifier = issuer.verifier()
        token = verifier.verify(issuer.token())
        with verifier.watch(token, fail), verifier.watch(token, ends), verifier.watch(token, fail):
            issuer.revoke(Kind.SUBJECT, token.subject)
        assert ends.codes == ["revoked"]
        assert len(caplog.records) == 2

    async def test_other_targets_end_nothing(self, issuer: Issuer, ends: Ends) -> None:
        verifier = issuer.verifier()
        token = verifier.verify(issuer.token())
        with verifier.watch(token, ends):
            for kind in Kind:
                if kind is not Kind.ALL:
                    issuer.revoke(kind, "another")
        assert ends.codes == []

    async def test_a_token_from_after_a_cutoff_goes_on(self, issuer: Issuer, ends: Ends) -> None:
        verifier = issuer.verifier()
        token = verifier.verify(issuer.token(claims={"rev": 1}))
        with verifier.watch(token, ends):
            issuer.revoke(Kind.SUBJECT, token.subject)
            assert ends.codes == []
            issuer.revoke(Kind.SUBJECT, token.subject)
            assert ends.codes == ["revoked"]

    async def test_what_came_between_verifying_and_watching_is_seen(self, issuer: Issuer, ends: Ends) -> None:
        verifier = issuer.verifier()
        token = verifier.verify(issuer.token())
        issuer.revoke(Kind.TOKEN, token.token_id)
        with verifier.watch(token, ends):
            assert ends.codes == ["revoked"]

    async def test_all_watches_of_a_token_end(self, issuer: Issuer, ends: Ends) -> None:
        verifier = issuer.verifier()
        token = verifier.verify(issuer.token())
        with verifier.watch(token, ends), verifier.watch(token, ends), verifier.watch(token, ends):
            issuer.revoke(Kind.TOKEN, token.token_id)
        assert ends.codes == ["revoked"] * 3

    async def test_the_callback_is_called_once(self, issuer: Issuer, ends: Ends) -> None:
        verifier = issuer.verifier()
        token = verifier.verify(issuer.token())
        with verifier.watch(token, ends) as watch:
            issuer.revoke(Kind.TOKEN, token.token_id)
            issuer.revoke(Kind.TOKEN, token.token_id)
            issuer.revoke(Kind.SUBJECT, token.subject)
            # It does not look any more, neither at news nor at the time.
            assert revocations_of(issuer)._listeners == {}
            assert watch._timer is not None
            assert watch._timer.cancelled()
        assert ends.codes == ["revoked"]

    async def test_the_callback_is_not_called_after_leaving(self, issuer: Issuer, ends: Ends) -> None:
        verifier = issuer.verifier()
        token = verifier.verify(issuer.token())
        watch = verifier.watch(token, ends)
        with watch:
            pass
        issuer.revoke(Kind.TOKEN, token.token_id)
        assert ends.codes == []
        assert revocations_of(issuer)._listeners == {}
        assert watch._timer is not None
        assert watch._timer.cancelled()


class TestExpiry:
    async def test_it_ends_a_token_in_time(self, issuer: Issuer, ends: Ends) -> None:
        verifier = Verifier(issuer.config(leeway=0))
        expires_at = time.time() + 0.15
        token = verifier.verify(issuer.token(claims={"exp": expires_at}))
        with verifier.watch(token, ends):
            assert ends.codes == []
            await until(lambda: bool(ends.codes))
            # Not some seconds later, as when it were looked for now and then.
            assert expires_at <= time.time() < expires_at + _watch.MAX_SLICE / 2
        assert ends.codes == ["expired"]

    @pytest.mark.usefixtures("often")
    async def test_the_leeway_counts(self, issuer: Issuer, ends: Ends, wall_clock: Clock) -> None:
        verifier = Verifier(issuer.config(leeway=5))
        token = verifier.verify(issuer.token())
        wall_clock.now = token.expires_at + 5 - 0.001
        with verifier.watch(token, ends):
            await wall_clock.is_looked_at()
            assert ends.codes == []
            wall_clock.now = token.expires_at + 5
            await until(lambda: bool(ends.codes))
        assert ends.codes == ["expired"]

    async def test_it_is_seen_where_no_revocations_are_followed(self, issuer: Issuer, ends: Ends) -> None:
        keys = LocalKeys(KeySet.from_json(issuer.jwks()))
        config = VerifierConfig(issuer=issuer.issuer, audience=issuer.audience, key_source=keys, leeway=0)
        verifier = Verifier(config)
        token = verifier.verify(issuer.token(claims={"exp": time.time() + 0.15}))
        with verifier.watch(token, ends):
            await until(lambda: bool(ends.codes))
        assert ends.codes == ["expired"]


class Aging(LocalRevocations):
    """Revocations that get older by a clock that is set by hand."""

    def __init__(self, clock: Clock, issuer: Issuer) -> None:
        super().__init__()
        self.revocations = Revocations(clock)
        self.clock = clock
        self.issuer = issuer

    def hear(self) -> None:
        """Apply an answer without revocations."""
        answer = Answer(self.issuer.issuer, 0, "e1", 1, 0, False, GENESIS, False, (), "k")
        self.revocations.apply(answer, self.clock.now)

    def verifier(self, max_staleness: float | None = 30.0) -> Verifier:
        return Verifier(
            VerifierConfig(
                issuer=self.issuer.issuer,
                audience=self.issuer.audience,
                key_source=LocalKeys(KeySet.from_json(self.issuer.jwks())),
                revocation_source=self,
            ),
            max_staleness=max_staleness,
        )


@pytest.fixture
def aging(issuer: Issuer) -> Aging:
    aging = Aging(Clock(1000.0), issuer)
    aging.hear()
    return aging


@pytest.mark.usefixtures("often")
class TestStaleness:
    async def test_it_ends_a_token_when_the_bound_is_passed(self, aging: Aging, issuer: Issuer, ends: Ends) -> None:
        verifier = aging.verifier()
        token = verifier.verify(issuer.token())
        with verifier.watch(token, ends):
            aging.clock.now += 30
            await aging.clock.is_looked_at()
            assert ends.codes == []
            aging.clock.now += 0.001
            await until(lambda: bool(ends.codes))
        assert ends.codes == ["revocation_stale"]

    async def test_fresh_revocations_keep_it_alive(self, aging: Aging, issuer: Issuer, ends: Ends) -> None:
        verifier = aging.verifier()
        token = verifier.verify(issuer.token())
        with verifier.watch(token, ends):
            for _ in range(5):
                aging.clock.now += 20
                aging.hear()
                await aging.clock.is_looked_at()
        assert ends.codes == []

    async def test_the_bound_may_be_the_watchs_own(self, aging: Aging, issuer: Issuer, ends: Ends) -> None:
        verifier, strict = aging.verifier(), Ends()
        token = verifier.verify(issuer.token())
        with verifier.watch(token, strict, max_staleness=5), verifier.watch(token, ends):
            aging.clock.now += 6
            await until(lambda: bool(strict.codes))
            assert ends.codes == []
            aging.clock.now += 30
            await until(lambda: bool(ends.codes))
        assert strict.codes == ends.codes == ["revocation_stale"]

    async def test_without_a_bound_any_age_is_accepted(
        self, aging: Aging, issuer: Issuer, ends: Ends, wall_clock: Clock
    ) -> None:
        verifier = aging.verifier()
        token = verifier.verify(issuer.token())
        with verifier.watch(token, ends, max_staleness=None):
            aging.clock.now += 1e9
            await wall_clock.is_looked_at()
        assert ends.codes == []


class TestLooking:
    async def test_it_is_checked_repeatedly(self, ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
        """The event loop's clock stops in suspend, so a timer is never long."""
        monkeypatch.setattr(_watch, "MAX_SLICE", 0.001)
        looks: list[None] = []

        def check() -> float:
            looks.append(None)
            if len(looks) > 5:
                raise Expired
            return 3600.0

        with Watch(check, lambda _: lambda: None, ends, 0.0):
            assert len(looks) == 1
            await until(lambda: bool(ends.codes))
        assert len(looks) == 6

    async def test_grace_is_given_after_the_end(self, issuer: Issuer, ends: Ends) -> None:
        verifier, loop = issuer.verifier(), asyncio.get_running_loop()
        token = verifier.verify(issuer.token())
        with verifier.watch(token, ends, grace=0.05):
            issuer.revoke(Kind.TOKEN, token.token_id)
            ended_at = loop.time()
            assert ends.codes == []
            issuer.revoke(Kind.SUBJECT, token.subject)
            await until(lambda: bool(ends.codes))
            # The loop's timers are as exact as its clock.
            assert loop.time() - ended_at >= 0.049
        assert ends.codes == ["revoked"]

    async def test_what_ends_by_itself_within_its_grace_is_not_ended(self, issuer: Issuer, ends: Ends) -> None:
        verifier = issuer.verifier()
        token = verifier.verify(issuer.token())
        watch = verifier.watch(token, ends, grace=0.01)
        with watch:
            issuer.revoke(Kind.TOKEN, token.token_id)
        assert watch._timer is not None
        assert watch._timer.cancelled()
        loop = asyncio.get_running_loop()
        over_at = loop.time() + 0.03
        await until(lambda: loop.time() > over_at)
        assert ends.codes == []

    @pytest.mark.usefixtures("often")
    async def test_grace_does_not_let_a_token_live_again(self, aging: Aging, issuer: Issuer, ends: Ends) -> None:
        """A token that has ended stays so, even if fresh revocations arrive a moment later."""
        verifier = aging.verifier()
        token = verifier.verify(issuer.token())
        with verifier.watch(token, ends, grace=0.02) as watch:
            aging.clock.now += 31
            await until(lambda: watch._unsubscribe is None)
            aging.hear()
            await until(lambda: bool(ends.codes))
        assert ends.codes == ["revocation_stale"]


class Application:
    """An application whose response a test sends in pieces, and that records how it ended."""

    def __init__(self, *fields: tuple[bytes, bytes]) -> None:
        self.fields = fields
        self.pieces: asyncio.Queue[Message | None] = asyncio.Queue()
        self.ended: str | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            if scope["type"] == "websocket":
                assert await receive() == {"type": "websocket.connect"}
                await send({"type": "websocket.accept"})
            else:
                await send({"type": "http.response.start", "status": 200, "headers": self.fields})
            while (piece := await self.pieces.get()) is not None:
                await send(piece)
        except asyncio.CancelledError:
            self.ended = "cancelled"
            raise
        self.ended = "by itself"

    def give(self, body: bytes = b"x", *, more: bool = True) -> None:
        self.pieces.put_nowait({"type": "http.response.body", "body": body, "more_body": more})

    def finish(self) -> None:
        self.give(b"", more=False)
        self.pieces.put_nowait(None)


class Connection:
    """A client's connection: what the application has sent, and the task in which the server runs it."""

    def __init__(self, app: App, scope: Scope, *, is_slow: bool = True) -> None:
        self.sent: list[Message] = []
        self._is_slow = is_slow
        self._received = False
        self._kind = scope["type"]
        self.task = asyncio.create_task(self._serve(app, scope))

    async def _serve(self, app: App, scope: Scope) -> str:
        await app(scope, self.receive, self.send)
        # A server does something afterwards, as does middleware.
        await asyncio.sleep(0)
        return "served"

    async def receive(self) -> Message:
        if self._received:
            await asyncio.Event().wait()
        self._received = True
        return {"type": "websocket.connect"} if self._kind == "websocket" else {"type": "http.request", "body": b""}

    async def send(self, message: Message) -> None:
        self.sent.append(message)
        if self._is_slow:
            await asyncio.sleep(0)

    @property
    def bodies(self) -> list[bytes]:
        return [message["body"] for message in self.sent if message["type"] == "http.response.body"]

    async def has_sent(self, count: int) -> None:
        await until(lambda: len(self.sent) >= count)

    async def is_served(self) -> None:
        """Wait for the end, which must not cancel the server's task."""
        assert await asyncio.wait_for(self.task, 60) == "served"


@dataclass
class Service:
    """A protected application."""

    issuer: Issuer
    app: Application

    def connect(
        self, kind: str = "http", raw_token: str | None = None, *, is_nested: bool = False, **settings: Any
    ) -> Connection:
        verifier = self.issuer.verifier()
        protected = BearerAuth(EndWithToken(self.app, verifier) if is_nested else self.app, verifier, **settings)
        authorization = f"Bearer {raw_token or self.issuer.token(subject='u1')}".encode()
        scope: dict[str, Any] = {"type": kind, "path": "/", "headers": [(b"authorization", authorization)]}
        return Connection(protected, scope)

    @property
    def is_watched(self) -> bool:
        return bool(revocations_of(self.issuer)._listeners)


@pytest.fixture
def events(issuer: Issuer) -> Service:
    return Service(issuer, Application(EVENTS))


@pytest.fixture
def download(issuer: Issuer) -> Service:
    return Service(issuer, Application(BYTES))


class TestStreams:
    async def test_an_event_stream_is_aborted_at_once(self, events: Service, issuer: Issuer) -> None:
        connection = events.connect()
        events.app.give(b"1")
        events.app.give(b"2")
        await connection.has_sent(3)
        issuer.revoke(Kind.SUBJECT, "u1")
        events.app.give(b"3")
        await connection.is_served()
        # The server sees that the last piece is missing.
        assert connection.bodies == [b"1", b"2"]
        assert connection.sent[-1]["more_body"]
        assert events.app.ended == "cancelled"
        assert not events.is_watched

    @pytest.mark.parametrize("kind", ["http", "websocket"])
    async def test_nested_middleware_ends_a_connection_once(self, events: Service, issuer: Issuer, kind: str) -> None:
        connection = events.connect(kind, is_nested=True)
        await connection.has_sent(1)
        await until(lambda: events.is_watched)
        issuer.revoke(Kind.SUBJECT, "u1")
        await connection.is_served()
        assert connection.task.cancelling() == 0
        assert events.app.ended == "cancelled"
        assert [message["type"] for message in connection.sent] == {
            "http": ["http.response.start"],
            "websocket": ["websocket.accept", "websocket.close"],
        }[kind]
        assert not events.is_watched

    @pytest.mark.parametrize(
        "field",
        [
            (b"content-type", b"text/event-stream"),
            (b"Content-Type", b"Text/Event-Stream"),
            (b"content-type", b"text/event-stream ; charset=utf-8"),
        ],
    )
    async def test_an_event_stream_is_recognised_in_any_spelling(
        self, issuer: Issuer, monkeypatch: pytest.MonkeyPatch, field: tuple[bytes, bytes]
    ) -> None:
        monkeypatch.setattr("ostiary.http.RESPONSE_GRACE", 3600.0)
        app = Application((b"cache-control", b"no-store"), field)
        connection = Service(issuer, app).connect()
        app.give(b"1")
        await connection.has_sent(2)
        issuer.revoke(Kind.SUBJECT, "u1")
        await connection.is_served()
        assert app.ended == "cancelled"

    async def test_another_subjects_stream_continues(self, events: Service, issuer: Issuer) -> None:
        connection = events.connect()
        events.app.give(b"1")
        await connection.has_sent(2)
        issuer.revoke(Kind.SUBJECT, "u2")
        events.app.finish()
        await connection.is_served()
        assert connection.bodies == [b"1", b""]
        assert events.app.ended == "by itself"

    async def test_it_ends_when_its_token_expires(self, events: Service, issuer: Issuer) -> None:
        # The leeway is 5 seconds; it is nearly over.
        now = time.time()
        token = issuer.token(claims={"iat": now - 60, "nbf": now - 60, "exp": now - 4.7})
        connection = events.connect(raw_token=token)
        events.app.give(b"1")
        await connection.is_served()
        assert connection.bodies == [b"1"]
        assert events.app.ended == "cancelled"

    @pytest.mark.parametrize("content_type", [b"application/octet-stream", b"application/json", b"text/html", None])
    async def test_other_responses_have_a_grace_period(
        self, issuer: Issuer, monkeypatch: pytest.MonkeyPatch, content_type: bytes | None
    ) -> None:
        monkeypatch.setattr("ostiary.http.RESPONSE_GRACE", 3600.0)
        app = Application(*([(b"Content-Type", content_type)] if content_type else []))
        connection = Service(issuer, app).connect()
        app.give(b"1")
        await connection.has_sent(2)
        issuer.revoke(Kind.SUBJECT, "u1")
        app.give(b"2")
        app.finish()
        await connection.is_served()
        assert connection.bodies == [b"1", b"2", b""]
        assert app.ended == "by itself"
        assert revocations_of(issuer)._listeners == {}

    def test_the_grace_period_is_a_second(self) -> None:
        assert grace_of("application/json") == grace_of("") == 1.0
        assert grace_of("text/event-stream") == 0.0

    async def test_other_responses_are_aborted_after_the_grace_period(
        self, download: Service, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("ostiary.http.RESPONSE_GRACE", 0.03)
        connection = download.connect()
        download.app.give(b"1")
        await connection.has_sent(2)
        revoked_at = asyncio.get_running_loop().time()
        issuer.revoke(Kind.SUBJECT, "u1")
        await connection.is_served()
        assert asyncio.get_running_loop().time() - revoked_at >= 0.029
        assert connection.bodies == [b"1"]
        assert download.app.ended == "cancelled"

    async def test_a_response_in_one_piece_is_not_watched(self, download: Service, issuer: Issuer) -> None:
        connection = download.connect()
        await connection.has_sent(1)
        assert not download.is_watched
        issuer.revoke(Kind.SUBJECT, "u1")
        download.app.finish()
        await connection.is_served()
        assert connection.bodies == [b""]
        assert download.app.ended == "by itself"

    async def test_a_stream_is_watched_as_long_as_it_lasts(self, events: Service) -> None:
        connection = events.connect()
        events.app.give()
        await connection.has_sent(2)
        assert events.is_watched
        events.app.finish()
        await connection.is_served()
        assert not events.is_watched

    async def test_what_needs_no_token_is_not_watched(self, events: Service, issuer: Issuer) -> None:
        connection = events.connect(public=["/"])
        events.app.give()
        await connection.has_sent(2)
        assert not events.is_watched
        issuer.revoke(Kind.ALL)
        events.app.finish()
        await connection.is_served()
        assert events.app.ended == "by itself"

    async def test_a_scope_without_a_token_is_not_watched(self, issuer: Issuer) -> None:
        app = Application(EVENTS)
        connection = Connection(EndWithToken(app, issuer.verifier()), {"type": "http", "path": "/", "headers": []})
        app.give(b"1")
        await connection.has_sent(2)
        issuer.revoke(Kind.ALL)
        app.finish()
        await connection.is_served()
        assert connection.bodies == [b"1", b""]

    @pytest.mark.usefixtures("often")
    @pytest.mark.parametrize(("bound", "ends"), [(..., True), (5.0, True), (3600.0, False), (None, False)])
    async def test_the_routes_bound_on_the_age_of_revocations_holds_for_streams(
        self,
        aging: Aging,
        issuer: Issuer,
        wall_clock: Clock,
        bound: Any,  # a number, None or `...`
        ends: bool,
    ) -> None:
        app = Application(EVENTS)
        protected = BearerAuth(app, aging.verifier(), max_staleness=bound)
        headers = [(b"authorization", f"Bearer {issuer.token()}".encode())]
        connection = Connection(protected, {"type": "http", "path": "/", "headers": headers})
        app.give()
        await connection.has_sent(2)
        aging.clock.now += 31
        if not ends:
            await wall_clock.is_looked_at()
            app.finish()
        await connection.is_served()
        assert app.ended == ("cancelled" if ends else "by itself")


class TestCancellation:
    def connect(self, application: App, issuer: Issuer, *, is_slow: bool = True) -> Connection:
        headers = [(b"authorization", f"Bearer {issuer.token(subject='u1')}".encode())]
        protected = BearerAuth(application, issuer.verifier())
        return Connection(protected, {"type": "http", "path": "/", "headers": headers}, is_slow=is_slow)

    async def test_the_servers_cancellation_is_propagated(self, events: Service) -> None:
        connection = events.connect()
        events.app.give()
        await connection.has_sent(2)
        connection.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await connection.task
        assert events.app.ended == "cancelled"
        assert not events.is_watched

    async def test_a_websockets_cancellation_is_propagated_without_a_message(self, events: Service) -> None:
        connection = events.connect("websocket")
        await connection.has_sent(1)
        connection.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await connection.task
        assert connection.sent == [{"type": "websocket.accept"}]

    async def test_the_servers_cancellation_is_propagated_if_the_token_ends_at_the_same_time(
        self, events: Service, issuer: Issuer
    ) -> None:
        connection = events.connect()
        events.app.give()
        await connection.has_sent(2)
        issuer.revoke(Kind.SUBJECT, "u1")
        connection.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await connection.task

    async def test_an_application_that_catches_it_sends_nothing_more(self, issuer: Issuer) -> None:
        async def application(_scope: Scope, _receive: Receive, send: Send) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": [EVENTS]})
            await send({"type": "http.response.body", "body": b"1", "more_body": True})
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
            await send({"type": "http.response.body", "body": b"2", "more_body": True})

        connection = self.connect(application, issuer)
        await connection.has_sent(2)
        issuer.revoke(Kind.SUBJECT, "u1")
        await connection.is_served()
        assert connection.bodies == [b"1"]

    async def test_an_application_that_catches_it_and_returns_leaves_no_cancellation(self, issuer: Issuer) -> None:
        async def application(_scope: Scope, _receive: Receive, send: Send) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": [EVENTS]})
            await send({"type": "http.response.body", "body": b"1", "more_body": True})
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()

        connection = self.connect(application, issuer)
        await connection.has_sent(2)
        issuer.revoke(Kind.SUBJECT, "u1")
        await connection.is_served()
        assert connection.task.cancelling() == 0

    async def test_an_application_that_returned_before_leaves_no_cancellation(self, issuer: Issuer) -> None:
        """The token ends before the first piece, and the application never waits after it."""

        async def application(_scope: Scope, _receive: Receive, send: Send) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": [EVENTS]})
            issuer.revoke(Kind.SUBJECT, "u1")
            await send({"type": "http.response.body", "body": b"1", "more_body": True})

        connection = self.connect(application, issuer, is_slow=False)
        await connection.is_served()
        assert connection.task.cancelling() == 0

    async def test_the_applications_cancellation_is_propagated(self, issuer: Issuer) -> None:
        async def application(_scope: Scope, _receive: Receive, send: Send) -> None:
            await send({"type": "http.response.body", "body": b"", "more_body": True})
            raise asyncio.CancelledError

        with pytest.raises(asyncio.CancelledError):
            await self.connect(application, issuer).task
        assert revocations_of(issuer)._listeners == {}

    async def test_an_error_of_the_application_is_propagated(self, issuer: Issuer) -> None:
        async def application(_scope: Scope, _receive: Receive, send: Send) -> None:
            await send({"type": "http.response.body", "body": b"", "more_body": True})
            raise LookupError

        with pytest.raises(LookupError):
            await self.connect(application, issuer).task
        assert revocations_of(issuer)._listeners == {}

    async def test_a_timeout_around_still_works_after_a_stream_was_broken_off(
        self, events: Service, issuer: Issuer
    ) -> None:
        inner = BearerAuth(events.app, issuer.verifier())

        async def with_timeout(scope: Scope, receive: Receive, send: Send) -> None:
            await inner(scope, receive, send)
            task = asyncio.current_task()
            assert task is not None
            assert task.cancelling() == 0
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.001):
                    await asyncio.Event().wait()

        headers = [(b"authorization", f"Bearer {issuer.token(subject='u1')}".encode())]
        connection = Connection(with_timeout, {"type": "http", "path": "/", "headers": headers})
        events.app.give()
        await connection.has_sent(2)
        issuer.revoke(Kind.SUBJECT, "u1")
        await connection.is_served()


class TestWebSockets:
    async def test_one_is_closed_when_its_token_is_revoked(self, events: Service, issuer: Issuer) -> None:
        connection = events.connect("websocket")
        await connection.has_sent(1)
        assert events.is_watched
        issuer.revoke(Kind.SUBJECT, "u1")
        await connection.is_served()
        assert connection.sent == [
            {"type": "websocket.accept"},
            {"type": "websocket.close", "code": 4401, "reason": "revoked"},
        ]
        assert events.app.ended == "cancelled"
        assert not events.is_watched

    async def test_no_grace_is_given(self, events: Service, issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("ostiary.http.RESPONSE_GRACE", 3600.0)
        connection = events.connect("websocket")
        await connection.has_sent(1)
        issuer.revoke(Kind.SUBJECT, "u1")
        await connection.is_served()

    async def test_the_close_reason_is_the_error_code(self, events: Service, issuer: Issuer) -> None:
        now = time.time()
        token = issuer.token(claims={"iat": now - 60, "nbf": now - 60, "exp": now - 4.7})
        connection = events.connect("websocket", token)
        await connection.is_served()
        assert connection.sent[-1] == {"type": "websocket.close", "code": 4401, "reason": "expired"}

    async def test_a_closed_one_is_not_closed_again(self, events: Service, issuer: Issuer) -> None:
        connection = events.connect("websocket")
        events.app.pieces.put_nowait({"type": "websocket.close", "code": 1000})
        await connection.has_sent(2)
        issuer.revoke(Kind.SUBJECT, "u1")
        events.app.pieces.put_nowait(None)
        await connection.is_served()
        assert [message["type"] for message in connection.sent] == ["websocket.accept", "websocket.close"]
        assert connection.sent[-1]["code"] == 1000

    async def test_one_that_is_not_open_yet_is_not_watched(self, issuer: Issuer) -> None:
        asked, denied = asyncio.Event(), asyncio.Event()

        async def application(_scope: Scope, _receive: Receive, send: Send) -> None:
            asked.set()
            await denied.wait()
            await send({"type": "websocket.close", "code": 1008})

        headers = [(b"authorization", f"Bearer {issuer.token(subject='u1')}".encode())]
        app = BearerAuth(application, issuer.verifier())
        connection = Connection(app, {"type": "websocket", "path": "/", "headers": headers})
        await asked.wait()
        issuer.revoke(Kind.SUBJECT, "u1")
        denied.set()
        await connection.is_served()
        assert connection.sent == [{"type": "websocket.close", "code": 1008}]


class TestFramework:
    """Behind FastAPI's routes, with Starlette's own tasks and cancellation scopes in between."""

    @pytest.fixture
    def stopped(self) -> list[str]:
        return []

    @pytest.fixture
    def is_waiting(self) -> asyncio.Event:
        """Set once the stream waits for its second event."""
        return asyncio.Event()

    @pytest.fixture
    def service(self, issuer: Issuer, stopped: list[str], is_waiting: asyncio.Event) -> App:
        verifier = issuer.verifier()
        auth = Auth(verifier)
        app = FastAPI(lifespan=auth.lifespan, exception_handlers=auth.exception_handlers)
        app.add_middleware(EndWithToken, verifier=verifier)

        async def ticks() -> AsyncIterator[bytes]:
            try:
                yield b"data: 1\n\n"
                is_waiting.set()
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                stopped.append("cancelled")
                raise

        @app.get("/events")
        async def events(_: Annotated[VerifiedToken, Depends(auth.require(max_staleness=5))]) -> StreamingResponse:
            return StreamingResponse(ticks(), media_type="text/event-stream")

        return app

    def scope(self, raw_token: str, spec_version: str) -> dict[str, Any]:
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": spec_version},
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": "/events",
            "raw_path": b"/events",
            "root_path": "",
            "query_string": b"",
            "headers": [(b"authorization", f"Bearer {raw_token}".encode())],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 2),
        }

    @pytest.mark.parametrize("spec_version", ["2.0", "2.4"])
    async def test_a_stream_is_aborted_at_once(
        self, service: App, issuer: Issuer, stopped: list[str], is_waiting: asyncio.Event, spec_version: str
    ) -> None:
        scope = self.scope(issuer.token(subject="u1"), spec_version)
        connection = Connection(service, scope)
        await is_waiting.wait()
        assert scope[TOKEN].subject == "u1"
        assert scope[MAX_STALENESS] == 5
        issuer.revoke(Kind.SUBJECT, "u1")
        await connection.is_served()
        assert connection.bodies == [b"data: 1\n\n"]
        assert connection.sent[-1]["more_body"]
        assert stopped == ["cancelled"]
        assert revocations_of(issuer)._listeners == {}

    @pytest.mark.parametrize("spec_version", ["2.0", "2.4"])
    async def test_the_servers_cancellation_ends_it(
        self, service: App, issuer: Issuer, stopped: list[str], is_waiting: asyncio.Event, spec_version: str
    ) -> None:
        connection = Connection(service, self.scope(issuer.token(), spec_version))
        await is_waiting.wait()
        connection.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await connection.task
        assert stopped == ["cancelled"]
        assert revocations_of(issuer)._listeners == {}
