"""Revocations in a verifier and its adapters: revoked tokens are rejected, and stale revocations are a 503."""

import asyncio
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, Self

import httpx
import pytest
from fastapi import Depends, FastAPI
from prometheus_client import CollectorRegistry, generate_latest
from timing import Clock

from ostiary import (
    KeySet,
    LocalKeys,
    LocalRevocations,
    Revocations,
    SyncVerifier,
    VerifiedToken,
    Verifier,
    VerifierConfig,
    errors,
)
from ostiary._verifier import MAX_STALENESS
from ostiary.asgi import BearerAuth, Receive, Scope, Send
from ostiary.fastapi import Auth
from ostiary.feed import EVERYTHING, GENESIS, Answer, Kind, Revocation, chain
from ostiary.http import problem_for
from ostiary.prometheus import PrometheusObserver
from ostiary.testing import Issuer

ISSUED_AT = 1_700_000_000


@dataclass
class Source(LocalRevocations):
    """Revocations that arrive and age under a test's control."""

    clock: Clock = field(default_factory=Clock)
    epoch: str = "e1"
    number: int = 0
    digest: bytes = GENESIS

    def __post_init__(self) -> None:
        self.revocations = Revocations(self.clock)
        self.loop: asyncio.AbstractEventLoop | None = None

    async def __aenter__(self) -> Self:
        self.loop = asyncio.get_running_loop()
        return self

    def hear(self, kind: Kind | None = None, target: str = EVERYTHING, *, more: bool = False) -> None:
        """Apply an answer with one revocation or none."""
        first = self.number + 1
        news = [] if kind is None else [Revocation(first, kind, target, ISSUED_AT + 900)]
        for revocation in news:
            self.number, self.digest = revocation.number, chain(self.digest, revocation)
        answer = Answer(
            issuer="https://issuer.example",
            issued_at=ISSUED_AT,
            epoch=self.epoch,
            first=first,
            head=self.number,
            more=more,
            digest=self.digest,
            reset=False,
            revocations=tuple(news),
            keys="k",
        )
        self.revocations.apply(answer, self.clock.now)


@pytest.fixture
def source() -> Source:
    """Revocations before the first answer."""
    return Source()


def config_of(issuer: Issuer, source: Source | None, **changes: Any) -> VerifierConfig:
    values: dict[str, Any] = {
        "issuer": issuer.issuer,
        "audience": issuer.audience,
        "key_source": LocalKeys(KeySet.from_json(issuer.jwks())),
        "revocation_source": source,
    }
    return VerifierConfig(**{**values, **changes})


@pytest.fixture
def verifier(issuer: Issuer, source: Source) -> Verifier:
    return Verifier(config_of(issuer, source))


@pytest.fixture
def without_feed(issuer: Issuer) -> Verifier:
    return Verifier(config_of(issuer, None))


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


class TestRevoked:
    @pytest.mark.parametrize("remember", [0, 10])
    @pytest.mark.parametrize("is_seen_before", [False, True])
    @pytest.mark.parametrize(
        ("kind", "target"),
        [
            (Kind.SESSION, "s1"),
            (Kind.TOKEN, "t1"),
            (Kind.KEY, "test-key"),
            (Kind.SUBJECT, "u1"),
            (Kind.CLIENT, "test-client"),
            (Kind.ALL, EVERYTHING),
        ],
    )
    def test_a_revoked_token_is_rejected_cached_or_not(
        self, issuer: Issuer, source: Source, kind: Kind, target: str, remember: int, is_seen_before: bool
    ) -> None:
        verifier = Verifier(config_of(issuer, source), remember=remember)
        source.hear()
        token = issuer.token(subject="u1", claims={"jti": "t1", "sid": "s1"})
        other = issuer.token(subject="u2", claims={"jti": "t2", "sid": "s2", "client_id": "c2", "rev": 1})
        if is_seen_before:
            assert verifier.verify(token).subject == "u1"
            assert verifier.verify(other).subject == "u2"
        source.hear(kind, target)
        for _ in range(3):
            with pytest.raises(errors.Revoked):
                verifier.verify(token)
        if kind is not Kind.KEY:
            assert verifier.verify(other).subject == "u2"

    def test_a_cached_token_is_evicted_when_it_is_revoked(
        self, verifier: Verifier, issuer: Issuer, source: Source
    ) -> None:
        source.hear()
        token = issuer.token(subject="u1")
        verifier.verify(token)
        assert verifier._cache is not None
        assert len(verifier._cache) == 1
        source.hear(Kind.SUBJECT, "u1")
        with pytest.raises(errors.Revoked):
            verifier.verify(token)
        assert len(verifier._cache) == 0

    def test_a_cached_token_that_no_revocation_matches_stays_the_same_object(
        self, verifier: Verifier, issuer: Issuer, source: Source
    ) -> None:
        source.hear()
        token = issuer.token(subject="u1")
        before = verifier.verify(token)
        for _ in range(3):
            source.hear(Kind.SUBJECT, "u2")
            assert verifier.verify(token) is before

    def test_a_token_contains_the_log_position_at_its_issue(
        self, verifier: Verifier, issuer: Issuer, source: Source
    ) -> None:
        for _ in range(3):
            source.hear(Kind.SUBJECT, "user-1")
        for claims in ({"rev": Issuer.REMOVED}, {"rev": 0}, {"rev": 2}):
            with pytest.raises(errors.Revoked):
                verifier.verify(issuer.token(claims=claims))
        assert verifier.verify(issuer.token(claims={"rev": 3})).log_position == 3

    @pytest.mark.parametrize("rev", [-1, 1.0, True, "3", [3]])
    def test_an_invalid_log_position_is_malformed(
        self, verifier: Verifier, issuer: Issuer, source: Source, rev: object
    ) -> None:
        source.hear()
        with pytest.raises(errors.Malformed):
            verifier.verify(issuer.token(claims={"rev": rev}))

    def test_revocations_are_of_their_own_issuer(self, issuer: Issuer, source: Source) -> None:
        other = Issuer("https://other.example", kid="other-key")
        verifier = Verifier(config_of(issuer, source), config_of(other, Source(clock=source.clock)), max_staleness=None)
        source.hear(Kind.ALL)
        with pytest.raises(errors.Revoked):
            verifier.verify(issuer.token())
        assert verifier.verify(other.token()).issuer == "https://other.example"

    def test_a_revoked_token_is_at_fault(self) -> None:
        problem = problem_for(errors.Revoked())
        assert (problem.status, problem.code) == (401, "revoked")
        assert 'error="invalid_token"' in problem.headers["WWW-Authenticate"]

    def test_the_issuer_for_tests_revokes_too(self) -> None:
        issuer = Issuer()
        verifier, token = issuer.verifier(), issuer.token(subject="u1")
        assert verifier.verify(token).subject == "u1"
        issuer.revoke(Kind.SUBJECT, "u1")
        with pytest.raises(errors.Revoked):
            verifier.verify(token)
        assert verifier.verify(issuer.token(subject="u1")).log_position == 1
        issuer.revoke(Kind.ALL)
        with pytest.raises(errors.Revoked):
            issuer.verifier().verify(issuer.token(claims={"rev": 1}))


class TestSessionRevoked:
    """Whether a session has ended, for those that hold its id but no token of it."""

    def test_it_has_ended_once_the_feed_says_so(self, verifier: Verifier, source: Source) -> None:
        source.hear()
        assert not verifier.session_revoked("s1")
        source.hear(Kind.SESSION, "s1")
        assert verifier.session_revoked("s1")
        assert not verifier.session_revoked("s2")

    @pytest.mark.parametrize("kind", [kind for kind in Kind if kind is not Kind.SESSION])
    def test_what_cuts_off_tokens_ends_no_session(self, verifier: Verifier, source: Source, kind: Kind) -> None:
        source.hear(kind, "s1")
        assert not verifier.session_revoked("s1")

    def test_the_feed_of_any_issuer_counts(self, issuer: Issuer, source: Source) -> None:
        other, other_source = Issuer("https://other.example", private_key=issuer.private_key), Source(epoch="e2")
        verifier = Verifier(config_of(issuer, source), config_of(other, other_source))
        other_source.hear(Kind.SESSION, "s1")
        assert verifier.session_revoked("s1")

    def test_without_a_feed_no_end_is_known(self, without_feed: Verifier) -> None:
        assert not without_feed.session_revoked("s1")

    def test_it_is_known_as_long_as_tokens_of_the_session_may_live(self, verifier: Verifier, source: Source) -> None:
        source.hear(Kind.SESSION, "s1")
        source.clock.now += 3600
        source.hear()
        assert verifier.session_revoked("s1")
        source.clock.now += 3600
        source.hear()
        assert not verifier.session_revoked("s1")


class TestStale:
    @pytest.mark.parametrize("remember", [0, 10])
    def test_stale_revocations_raise(self, issuer: Issuer, source: Source, remember: int) -> None:
        verifier, token = Verifier(config_of(issuer, source), remember=remember, max_staleness=30), issuer.token()
        source.hear()
        for _ in range(2):
            source.clock.now += 30
            assert verifier.verify(token).issuer == issuer.issuer
            source.clock.now += 0.001
            for undecided in (token, issuer.token()):
                with pytest.raises(errors.RevocationStale):
                    verifier.verify(undecided)
            source.hear()
            assert verifier.verify(token).issuer == issuer.issuer

    def test_half_a_minute_is_the_default(self, verifier: Verifier, issuer: Issuer, source: Source) -> None:
        token = issuer.token()
        source.hear()
        source.clock.now += 30
        assert verifier.verify(token).issuer == issuer.issuer
        source.clock.now += 0.001
        with pytest.raises(errors.RevocationStale):
            verifier.verify(token)

    def test_each_call_may_have_its_own_bound(self, verifier: Verifier, issuer: Issuer, source: Source) -> None:
        token = issuer.token()
        source.hear()
        accepted: dict[float | None, list[float]] = {5.0: [], 30.0: [], 60.0: [], None: []}
        for age in (0, 5, 6, 30, 31, 60, 61, 1e9):
            source.clock.now = source.revocations.fresh_at + age
            for bound, ages in accepted.items():
                try:
                    verifier.verify(token, max_staleness=bound)
                except errors.RevocationStale:
                    continue
                ages.append(age)
        assert accepted == {
            5.0: [0, 5],
            30.0: [0, 5, 6, 30],
            60.0: [0, 5, 6, 30, 31, 60],
            None: [0, 5, 6, 30, 31, 60, 61, 1e9],
        }

    def test_a_call_may_be_stricter_than_a_verifier_that_bears_anything(self, issuer: Issuer, source: Source) -> None:
        verifier, token = Verifier(config_of(issuer, source), max_staleness=None), issuer.token()
        assert verifier.verify(token).issuer == issuer.issuer
        with pytest.raises(errors.RevocationStale):
            verifier.verify(token, max_staleness=5)
        source.hear()
        assert verifier.verify(token, max_staleness=5).issuer == issuer.issuer

    def test_a_revoked_token_is_rejected_however_stale_revocations_are(
        self, verifier: Verifier, issuer: Issuer, source: Source
    ) -> None:
        """A client must not be told to retry with a revoked token."""
        token, seen = issuer.token(subject="u1"), issuer.token(subject="u1")
        source.hear()
        verifier.verify(seen)
        source.hear(Kind.SUBJECT, "u1")
        source.clock.now += 1e6
        for bound in (..., None, 5.0):
            for asked in (token, seen):
                with pytest.raises(errors.Revoked):
                    verifier.verify(asked, max_staleness=bound)

    def test_an_invalid_token_is_rejected_however_stale_revocations_are(
        self, verifier: Verifier, issuer: Issuer, stranger: Issuer
    ) -> None:
        with pytest.raises(errors.BadSignature):
            verifier.verify(stranger.token())
        with pytest.raises(errors.Expired):
            verifier.verify(issuer.token(), now=time.time() + 10_000)

    def test_an_undecided_token_is_not_cached(self, verifier: Verifier, issuer: Issuer, source: Source) -> None:
        with pytest.raises(errors.RevocationStale):
            verifier.verify(issuer.token())
        assert verifier._cache is not None
        assert len(verifier._cache) == 0
        assert source.revocations.position is None

    def test_an_outage_evicts_no_cached_token(self, verifier: Verifier, issuer: Issuer, source: Source) -> None:
        token = issuer.token()
        source.hear()
        before = verifier.verify(token)
        source.clock.now += 31
        with pytest.raises(errors.RevocationStale):
            verifier.verify(token)
        source.hear()
        assert verifier.verify(token) is before

    def test_the_outcome_is_counted(self, issuer: Issuer, source: Source) -> None:
        registry = CollectorRegistry()
        observer = PrometheusObserver(registry)
        verifier = Verifier(config_of(issuer, source), observer=observer)
        with pytest.raises(errors.RevocationStale):
            verifier.verify(issuer.token())
        source.hear(Kind.ALL)
        with pytest.raises(errors.Revoked):
            verifier.verify(issuer.token())
        observer.followed(issuer.issuer, "updated", 0.1, 7)
        observer.followed(issuer.issuer, "rejected", 0.1, None)
        text = generate_latest(registry).decode()
        assert 'ostiary_verifications_total{outcome="revocation_stale"} 1.0' in text
        assert 'ostiary_verifications_total{outcome="revoked"} 1.0' in text
        assert f'ostiary_feed_polls_total{{issuer="{issuer.issuer}",outcome="rejected"}} 1.0' in text
        assert f'ostiary_revocation_log_position{{issuer="{issuer.issuer}"}} 7.0' in text


class TestReady:
    def test_it_takes_a_first_full_set(self, verifier: Verifier, source: Source) -> None:
        assert not verifier.ready
        source.hear(Kind.SESSION, "s1", more=True)
        assert not verifier.ready
        source.hear()
        assert verifier.ready

    def test_it_takes_that_of_each_issuer(self, issuer: Issuer, source: Source) -> None:
        other = Source()
        verifier = Verifier(config_of(issuer, source), config_of(Issuer("https://other.example"), other))
        source.hear()
        assert not verifier.ready
        other.hear()
        assert verifier.ready

    def test_it_takes_keys_too(self, issuer: Issuer, source: Source) -> None:
        keys = LocalKeys()
        verifier = Verifier(config_of(issuer, source, key_source=keys))
        source.hear()
        assert not verifier.ready
        keys.replace(KeySet.from_json(issuer.jwks()))
        assert verifier.ready

    def test_it_lasts_as_long_as_the_bound(self, verifier: Verifier, source: Source) -> None:
        source.hear()
        source.clock.now += MAX_STALENESS
        assert (verifier.ready, verifier.unready_reason) == (True, "")
        source.clock.now += 0.1
        assert not verifier.ready
        assert verifier.unready_reason.endswith("are out of date")
        source.hear()
        assert verifier.ready

    def test_a_stricter_bound_of_a_route_does_not_count(self, verifier: Verifier, source: Source) -> None:
        verifier.require_staleness(1.0)
        source.hear()
        source.clock.now += 2
        assert verifier.ready

    def test_keys_will_do_where_any_age_does(self, issuer: Issuer, source: Source) -> None:
        verifier = Verifier(config_of(issuer, source), max_staleness=None)
        assert verifier.ready
        assert verifier.verify(issuer.token()).issuer == issuer.issuer

    def test_keys_will_do_without_a_feed(self, without_feed: Verifier) -> None:
        assert without_feed.ready


class TestBounds:
    @pytest.mark.parametrize("bound", [0.19, 0, -1, 3600.1, math.inf, math.nan])
    def test_a_bound_that_cannot_be_met_is_rejected(self, issuer: Issuer, source: Source, bound: float) -> None:
        with pytest.raises(ValueError, match="max_staleness must be"):
            Verifier(config_of(issuer, source), max_staleness=bound)
        verifier = Verifier(config_of(issuer, source))
        with pytest.raises(ValueError, match="max_staleness must be"):
            verifier.verify(issuer.token(), max_staleness=bound)
        with pytest.raises(ValueError, match="max_staleness must be"):
            Auth(verifier).require(max_staleness=bound)
        assert verifier._bounds == {30.0}

    @pytest.mark.parametrize("bound", [0.2, 3600])
    def test_bounds_are_a_fifth_of_a_second_to_an_hour(self, issuer: Issuer, source: Source, bound: float) -> None:
        assert Verifier(config_of(issuer, source), max_staleness=bound).require_staleness(...) == bound

    @pytest.mark.parametrize("bound", [0.2, 5.0, 60.0, 3600.0])
    def test_a_bound_needs_a_feed(self, without_feed: Verifier, issuer: Issuer, bound: float) -> None:
        token = issuer.token()
        with pytest.raises(ValueError, match="needs a feed"):
            without_feed.verify(token, max_staleness=bound)
        with pytest.raises(ValueError, match="needs a feed"):
            Auth(without_feed).require(max_staleness=bound)
        with pytest.raises(ValueError, match="needs a feed"):
            BearerAuth(answer_subject, without_feed, max_staleness=bound)
        assert without_feed.verify(token).issuer == issuer.issuer
        assert without_feed.verify(token, max_staleness=None).issuer == issuer.issuer

    def test_a_bound_needs_a_feed_of_each_issuer(self, issuer: Issuer, source: Source) -> None:
        verifier = Verifier(config_of(issuer, source), config_of(Issuer("https://other.example"), None))
        with pytest.raises(ValueError, match="needs a feed"):
            verifier.require_staleness(5)

    def test_a_route_announces_its_bound_before_the_first_request(self, verifier: Verifier) -> None:
        auth = Auth(verifier)
        auth.require(max_staleness=5)
        auth.require(max_staleness=None)
        auth.require()
        BearerAuth(answer_subject, verifier, max_staleness=2)
        assert verifier._bounds == {30.0, 5, 2}

    def test_a_feed_and_another_source_are_not_both_given(self, issuer: Issuer, source: Source) -> None:
        with pytest.raises(ValueError, match="must not both"):
            config_of(issuer, source, feed=object())


async def answer_subject(scope: Scope, _receive: Receive, send: Send) -> None:
    """Respond with the subject, without a framework."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": scope["ostiary.token"].subject.encode()})


def by_fastapi(verifier: Verifier) -> Any:
    auth = Auth(verifier)
    app = FastAPI(lifespan=auth.lifespan, exception_handlers=auth.exception_handlers)

    @app.get("/")
    async def default(token: Annotated[VerifiedToken, Depends(auth.require())]) -> str:
        return token.subject

    @app.get("/lenient")
    async def lenient(token: Annotated[VerifiedToken, Depends(auth.require(max_staleness=None))]) -> str:
        return token.subject

    if verifier._issuers["https://issuer.example"].revocations is not None:

        @app.get("/strict")
        async def strict(token: Annotated[VerifiedToken, Depends(auth.require(max_staleness=5))]) -> str:
            return token.subject

    return app


def by_middleware(verifier: Verifier) -> Any:
    return BearerAuth(answer_subject, verifier)


def client_of(app: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service")


def assert_stale(response: httpx.Response) -> None:
    assert response.status_code == 503
    assert response.headers["Content-Type"] == "application/problem+json"
    assert response.headers["Retry-After"] == "1"
    assert response.json()["code"] == "revocation_stale"
    assert "WWW-Authenticate" not in response.headers


async def test_routes_have_bounds_of_their_own(verifier: Verifier, issuer: Issuer, source: Source) -> None:
    token = issuer.token()
    async with client_of(by_fastapi(verifier)) as client:
        source.hear()
        statuses = []
        for later in (0, 6, 26):
            source.clock.now += later
            answers = [await client.get(path, headers=bearer(token)) for path in ("/strict", "/", "/lenient")]
            statuses.append([answer.status_code for answer in answers])
        assert statuses == [[200, 200, 200], [503, 200, 200], [503, 503, 200]]
        assert_stale(await client.get("/strict", headers=bearer(token)))
        source.hear(Kind.SUBJECT, "user-1")
        source.clock.now += 100
        for path in ("/strict", "/", "/lenient"):
            answer = await client.get(path, headers=bearer(token))
            assert (answer.status_code, answer.json()["code"]) == (401, "revoked")


@pytest.mark.parametrize(("bound", "statuses"), [(5, [200, 503, 503]), (..., [200, 200, 503]), (None, [200] * 3)])
async def test_so_has_the_middleware(
    verifier: Verifier,
    issuer: Issuer,
    source: Source,
    bound: Any,  # a number, None or `...`
    statuses: list[int],
) -> None:
    source.hear()
    answers = []
    async with client_of(BearerAuth(answer_subject, verifier, max_staleness=bound)) as client:
        for later in (0, 6, 26):
            source.clock.now += later
            answers.append(await client.get("/", headers=bearer(issuer.token())))
    assert [answer.status_code for answer in answers] == statuses


@pytest.mark.parametrize("adapter", [by_fastapi, by_middleware])
class TestAdapters:
    async def test_undecided_is_503_with_a_time_to_come_back(
        self, adapter: Callable[[Verifier], Any], verifier: Verifier, issuer: Issuer, source: Source
    ) -> None:
        async with client_of(adapter(verifier)) as client:
            assert_stale(await client.get("/", headers=bearer(issuer.token())))
            source.hear()
            assert (await client.get("/", headers=bearer(issuer.token()))).status_code == 200

    async def test_revoked_is_a_challenge(
        self, adapter: Callable[[Verifier], Any], verifier: Verifier, issuer: Issuer, source: Source
    ) -> None:
        source.hear(Kind.SUBJECT, "user-1")
        async with client_of(adapter(verifier)) as client:
            answer = await client.get("/", headers=bearer(issuer.token()))
        assert (answer.status_code, answer.json()["code"]) == (401, "revoked")
        assert 'error="invalid_token"' in answer.headers["WWW-Authenticate"]


class TestSync:
    def test_calls_may_have_bounds_of_their_own(self, issuer: Issuer, source: Source) -> None:
        source.hear()
        with SyncVerifier(config_of(issuer, source)) as verifier:
            token = issuer.token()
            source.clock.now += 6
            assert verifier.verify(token).issuer == issuer.issuer
            with pytest.raises(errors.RevocationStale):
                verifier.verify(token, max_staleness=5)
            source.clock.now += 25
            with pytest.raises(errors.RevocationStale):
                verifier.verify(token)
            assert verifier.verify(token, max_staleness=None).issuer == issuer.issuer
            with pytest.raises(ValueError, match="max_staleness must be"):
                verifier.verify(token, max_staleness=0.1)

    def test_the_default_is_given_when_it_is_made(self, issuer: Issuer, source: Source) -> None:
        with SyncVerifier(config_of(issuer, source), max_staleness=None) as verifier:
            assert verifier.ready
            assert verifier.verify(issuer.token()).issuer == issuer.issuer
        with SyncVerifier(config_of(issuer, source), max_staleness=5) as verifier:
            assert not verifier.ready
            with pytest.raises(errors.RevocationStale):
                verifier.verify(issuer.token())

    def test_a_revoked_token_is_rejected(self, issuer: Issuer, source: Source) -> None:
        source.hear()
        with SyncVerifier(config_of(issuer, source)) as verifier:
            token = issuer.token()
            assert verifier.verify(token).issuer == issuer.issuer
            in_loop(source, lambda: source.hear(Kind.SUBJECT, "user-1"))
            with pytest.raises(errors.Revoked):
                verifier.verify(token)

    def test_a_bound_needs_a_feed(self, issuer: Issuer) -> None:
        with SyncVerifier(config_of(issuer, None)) as verifier, pytest.raises(ValueError, match="needs a feed"):
            verifier.verify(issuer.token(), max_staleness=5)

    def test_closing_twice_is_harmless(self, issuer: Issuer) -> None:
        verifier = SyncVerifier(config_of(issuer, None)).start()
        verifier.close()
        verifier.close()


def in_loop(source: Source, do: Callable[[], None]) -> None:
    """Run a function on the thread that applies answers."""
    done = threading.Event()

    def run() -> None:
        do()
        done.set()

    assert source.loop is not None
    source.loop.call_soon_threadsafe(run)
    assert done.wait(5)
