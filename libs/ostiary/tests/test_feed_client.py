"""The feed client: it applies revocations at once, and never applies an invalid answer."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar
from unittest.mock import ANY
from urllib.parse import parse_qs

import httpx
import pytest
from timing import Clock, until

from ostiary import Feed, KeySet, LocalKeys, Verifier, VerifierConfig, _base64url, _feed_client, _polling, errors, feed
from ostiary._feed_client import FeedClient
from ostiary.feed import GENESIS, Kind, Position, Revocation, chain
from ostiary.testing import Issuer

ISSUED_AT = 1_700_000_000

Answer = Callable[[httpx.Request], httpx.Response | Awaitable[httpx.Response]]


class Notes:
    """An observer that records polls."""

    def __init__(self) -> None:
        self.outcomes: list[str] = []
        self.numbers: list[int | None] = []

    def verified(self, outcome: str, seconds: float) -> None:
        raise AssertionError(f"nothing is verified here: {outcome} {seconds}")

    def fetched(self, issuer: str, outcome: str, seconds: float) -> None:
        raise AssertionError(f"no keys are fetched here: {issuer} {outcome} {seconds}")

    def followed(self, issuer: str, outcome: str, seconds: float, number: int | None) -> None:
        assert issuer == "https://issuer.example"
        assert seconds >= 0
        self.outcomes.append(outcome)
        self.numbers.append(number)


class Keys(LocalKeys):
    """Keys that count announcements of others."""

    announced = 0

    def report_new_keys(self) -> None:
        self.announced += 1


def keys_of(*issuers: Issuer) -> KeySet:
    return KeySet.from_json(json.dumps({"keys": [issuer.jwk() for issuer in issuers]}).encode())


@dataclass
class Server:
    """An issuer with a token endpoint and a feed, reached without a network."""

    signer: Issuer
    epoch: str = "e1"
    listed: list[Revocation] = field(default_factory=list)
    digests: list[bytes] = field(default_factory=lambda: [GENESIS])
    #: Revocations in one answer at most.
    page: int = feed.MAX_EVENTS
    lifetime: object = 900
    keys: str | None = None
    #: What answers instead of the feed, or of the token endpoint.
    instead: Answer | None = None
    token_instead: Answer | None = None
    token: str | None = None
    #: The one before it, which is good, too.
    earlier_token: str | None = None
    requests: list[httpx.Request] = field(default_factory=list)
    news: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        match request.method, request.url.path:
            case "POST", "/oauth/token":
                instead = self.token_instead or self.grant
            case "GET", "/feed":
                instead = self.instead or self.answer
            case "DELETE", "/feed":
                return httpx.Response(204 if self.accepts(request) else 401)
            case _:
                raise AssertionError(request.url)
        response = instead(request)
        return response if isinstance(response, httpx.Response) else await response

    @property
    def version(self) -> str:
        """The version of the keys that the issuer announces."""
        return self.keys or keys_of(self.signer).version

    def revoke(self, kind: Kind, target: str) -> None:
        revocation = Revocation(len(self.listed) + 1, kind, target, ISSUED_AT + 900)
        self.listed.append(revocation)
        self.digests.append(chain(self.digests[-1], revocation))
        self.wake()

    def wake(self) -> None:
        """Answer waiting polls."""
        self.news.set()
        self.news = asyncio.Event()

    def grant(self, _: httpx.Request) -> httpx.Response:
        self.earlier_token, self.token = self.token, f"token-{len(self.received('POST'))}"
        granted = {"access_token": self.token, "token_type": "Bearer", "expires_in": self.lifetime}
        return json_response(granted)

    def accepts(self, request: httpx.Request) -> bool:
        return request.headers["Authorization"] in {f"Bearer {self.token}", f"Bearer {self.earlier_token}"}

    async def answer(self, request: httpx.Request) -> httpx.Response:
        """Answer at once if there are new revocations or keys, else after the wait."""
        if not self.accepts(request):
            return httpx.Response(401)
        after, wait = int(request.url.params["after"]), int(request.url.params["wait"])
        if after == len(self.listed) and request.url.params["keys"] == self.version:
            try:
                async with asyncio.timeout(wait / 1000):
                    await self.news.wait()
            except TimeoutError:
                pass
        return self.response(request)

    def response(self, request: httpx.Request, **changes: Any) -> httpx.Response:
        return feed_response(self.signed(request, **changes))

    def signed(
        self, request: httpx.Request, signer: Issuer | None = None, typ: str = feed.TYPE, **changes: object
    ) -> bytes:
        after = int(request.url.params["after"])
        head = min(len(self.listed), after + self.page)
        payload = {
            "iss": self.signer.issuer,
            "iat": ISSUED_AT,
            "epoch": self.epoch,
            "first": after + 1,
            "head": head,
            "more": head < len(self.listed),
            "digest": _base64url.encode(self.digests[head]).decode(),
            "reset": False,
            "page": None,
            "events": [revocation.to_json() for revocation in self.listed[after:head]],
            "keys": self.version,
            "nonces": [request.url.params["nonce"]],
            "receipt": f"receipt-{head}",
            **changes,
        }
        by = signer or self.signer
        header = {"alg": "RS256", "typ": typ, "kid": by.kid}
        return by.sign(json.dumps(header).encode(), json.dumps(payload).encode()).encode()

    def received(self, method: str = "GET") -> list[httpx.Request]:
        return [request for request in self.requests if request.method == method]

    def has_received(self, polls: int) -> bool:
        return len(self.received()) == polls

    def tokens(self) -> list[str]:
        """The authorisation of each poll."""
        return [request.headers["Authorization"] for request in self.received()]

    def polls(self) -> list[dict[str, str]]:
        return [dict(request.url.params) for request in self.received()]


def json_response(body: object, status: int = 200, **headers: str) -> httpx.Response:
    fields = {"Content-Type": "application/json", **{k.replace("_", "-"): v for k, v in headers.items()}}
    return httpx.Response(status, stream=httpx.ByteStream(json.dumps(body).encode()), headers=fields)


def feed_response(body: bytes, status: int = 200, **headers: str) -> httpx.Response:
    fields = {"Content-Type": feed.MEDIA_TYPE, **{k.replace("_", "-"): v for k, v in headers.items()}}
    return httpx.Response(status, stream=httpx.ByteStream(body), headers=fields)


CONFIG = Feed(url="https://issuer.example/feed", client_id="orders", client_secret="swordfish", name="orders")


@pytest.fixture
def server(issuer: Issuer) -> Server:
    return Server(issuer)


@pytest.fixture
def keys(issuer: Issuer) -> Keys:
    return Keys(keys_of(issuer))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def notes() -> Notes:
    return Notes()


@pytest.fixture(autouse=True)
def fast_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use delays of milliseconds instead of up to a second."""
    monkeypatch.setattr(_feed_client, "RETRY_DELAYS", (0.001, 0.002))
    monkeypatch.setattr(_feed_client, "IDLE_DELAY", 0.001)


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The delays between polls, none of which is slept."""
    noted: list[float] = []
    step = FeedClient._poll

    async def note(self: FeedClient, client: httpx.AsyncClient) -> float:
        noted.append(await step(self, client))
        return 0.0

    monkeypatch.setattr(FeedClient, "_poll", note)
    monkeypatch.setattr(_feed_client, "RETRY_DELAYS", (0.05, 1.0))
    monkeypatch.setattr(_feed_client, "IDLE_DELAY", 0.05)
    return noted


@dataclass
class Made:
    """The arguments of a feed client, unless a test changes them."""

    server: Server
    keys: Keys
    notes: Notes

    def __call__(self, config: Feed = CONFIG, bounds: set[float] | None = None, **changes: Any) -> FeedClient:
        made = {"observer": self.notes, "transport": httpx.MockTransport(self.server), **changes}
        return FeedClient("https://issuer.example", config, self.keys, {30.0} if bounds is None else bounds, **made)


@pytest.fixture
def make(server: Server, keys: Keys, notes: Notes) -> Made:
    return Made(server, keys, notes)


def number_of(client: FeedClient) -> int | None:
    position = client.revocations.position
    return None if position is None else position.number


class TestPolling:
    async def test_entering_applies_all_revocations(self, make: Made, server: Server, notes: Notes) -> None:
        server.revoke(Kind.SESSION, "s1")
        server.revoke(Kind.KEY, "k1")
        async with make() as client:
            assert client.revocations.position == Position("e1", 2)
            assert client.revocations.complete
            assert client.revocations.has_key("k1")
            assert (notes.outcomes, notes.numbers) == (["updated"], [2])

    async def test_later_revocations_are_applied_at_once(self, make: Made, server: Server, notes: Notes) -> None:
        async with make() as client:
            assert number_of(client) == 0
            for number in (1, 2, 3):
                await until(lambda: len(server.received()) == number + 1)  # noqa: B023 - done within the iteration
                server.revoke(Kind.KEY, f"k{number}")
                await until(lambda: number_of(client) == number)  # noqa: B023 - the same
            assert all(map(client.revocations.has_key, ("k1", "k2", "k3")))
            assert (notes.outcomes, notes.numbers) == (["unchanged", "updated", "updated", "updated"], [0, 1, 2, 3])

    async def test_a_verifier_rejects_revoked_tokens(
        self, make: Made, server: Server, issuer: Issuer, keys: Keys
    ) -> None:
        client = make()
        config = VerifierConfig(
            issuer=issuer.issuer, audience=issuer.audience, key_source=keys, revocation_source=client
        )
        token = issuer.token(claims={"sid": "s1"})
        async with Verifier(config) as verifier:
            assert verifier.ready
            assert verifier.verify(token).session_id == "s1"
            server.revoke(Kind.SESSION, "s1")
            await until(lambda: number_of(client) == 1)
            with pytest.raises(errors.Revoked):
                verifier.verify(token)

    async def test_entering_returns_after_all_pages(self, make: Made, server: Server) -> None:
        server.page = 2
        for number in range(7):
            server.revoke(Kind.KEY, f"k{number}")
        async with make() as client:
            assert client.revocations.complete
            assert len(client.revocations) == 7
            # Nothing is waited for in between.
            assert [(poll["after"], poll["wait"]) for poll in server.polls()[:4]] == [
                ("0", "0"),
                ("2", "0"),
                ("4", "0"),
                ("6", "0"),
            ]

    async def test_a_failure_while_catching_up_does_not_block_the_start(self, make: Made, server: Server) -> None:
        server.page = 2
        for number in range(7):
            server.revoke(Kind.KEY, f"k{number}")

        def answer(request: httpx.Request) -> httpx.Response:
            return server.response(request) if request.url.params["after"] in {"0", "2"} else httpx.Response(500)

        server.instead = answer
        async with make() as client:
            assert number_of(client) == 4
            assert not client.revocations.complete
            server.instead = None
            await until(lambda: client.revocations.complete)
            assert len(client.revocations) == 7

    async def test_age_counts_from_before_the_poll(self, make: Made, server: Server, clock: Clock) -> None:
        def slow(request: httpx.Request) -> httpx.Response:
            clock.now += 3
            return server.response(request)

        server.instead = slow
        async with make(clock=clock) as client:
            server.instead = None
            assert client.revocations.age() == 3

    async def test_revocations_are_not_used_beyond_the_lease(self, make: Made, server: Server, clock: Clock) -> None:
        bounds = {30.0}
        async with make(bounds=bounds, clock=clock) as client:
            await until(lambda: len(server.received()) == 2)
            clock.now += 30
            bounds.add(60.0)
            assert client.revocations.is_fresh(60)
            clock.now += 0.001
            assert not client.revocations.is_fresh(60)
            server.revoke(Kind.SESSION, "s1")
            await until(lambda: len(server.received()) == 3)
            server.revoke(Kind.SESSION, "s2")
            await until(lambda: number_of(client) == 2)
            clock.now += 60
            assert client.revocations.is_fresh(60)

    async def test_without_bounds_there_is_no_lease(self, make: Made, clock: Clock) -> None:
        async with make(bounds=set(), clock=clock) as client:
            clock.now += 1e9
            assert client.revocations.is_fresh(2e9)

    async def test_a_source_can_be_entered_again(self, make: Made, server: Server) -> None:
        client = make()
        for number in (1, 2):
            server.revoke(Kind.KEY, f"k{number}")
            seen = len(server.received())
            async with client:
                assert number_of(client) == number
                assert server.polls()[seen]["after"] == str(number - 1)


class TestPolls:
    async def test_the_first_poll_does_not_wait_and_has_no_position(
        self, make: Made, server: Server, issuer: Issuer
    ) -> None:
        async with make() as client:
            first = server.polls()[0]
            assert first == {
                "epoch": "",
                "after": "0",
                "wait": "0",
                "verifier": client._id,
                "keys": keys_of(issuer).version,
                "lease": "30000",
                "nonce": ANY,
            }
            name, _, rest = first["verifier"].rpartition("-")
            assert name == "orders"
            assert len(bytes.fromhex(rest)) == 8

    async def test_later_polls_acknowledge_what_was_applied_and_wait(self, make: Made, server: Server) -> None:
        server.revoke(Kind.SESSION, "s1")
        async with make():
            await until(lambda: len(server.received()) == 2)
            second = server.polls()[1]
            assert (second["epoch"], second["after"], second["wait"]) == ("e1", "1", "7500")
            assert second["verifier"] == server.polls()[0]["verifier"]

    async def test_polls_show_the_last_receipt_for_the_log(self, make: Made, server: Server) -> None:
        server.revoke(Kind.SESSION, "s1")
        async with make():
            await until(lambda: len(server.received()) == 2)
            server.revoke(Kind.SESSION, "s2")
            await until(lambda: len(server.received()) == 3)
            assert [poll.get("receipt") for poll in server.polls()] == [None, "receipt-1", "receipt-2"]

    async def test_verifiers_with_the_same_name_get_ids_of_their_own_when_they_start(
        self, make: Made, server: Server
    ) -> None:
        """A server may fork its workers after it has created the client."""
        client = make()
        for each in (client, client, make()):
            async with each:
                pass
        assert len({poll["verifier"] for poll in server.polls()}) == 3

    @pytest.mark.parametrize(
        ("bounds", "wait", "lease"),
        [
            (set[float](), "10000", None),
            ({3600.0}, "10000", "3600000"),
            ({30.0}, "7500", "30000"),
            ({6.0}, "1500", "6000"),
            ({6.0, 30.0, 1.6}, "400", "30000"),
            ({0.2}, "50", "200"),
            ({0.1}, "50", "100"),
            ({30.0, 59.9995}, "7500", "60000"),
        ],
    )
    async def test_the_strictest_bound_determines_the_wait_and_the_loosest_is_the_lease(
        self, make: Made, server: Server, bounds: set[float], wait: str, lease: str | None
    ) -> None:
        async with make(bounds=bounds):
            await until(lambda: len(server.received()) >= 2)
            assert server.polls()[1]["wait"] == wait
            assert server.polls()[1].get("lease") == lease

    async def test_a_later_bound_counts_from_the_next_poll_on(self, make: Made, server: Server) -> None:
        bounds = {30.0}
        async with make(bounds=bounds):
            await until(lambda: len(server.received()) == 2)
            bounds.update((3.0, 60.0))
            server.revoke(Kind.SESSION, "s1")
            await until(lambda: len(server.received()) == 3)
            assert [(poll["wait"], poll["lease"]) for poll in server.polls()[1:3]] == [
                ("7500", "30000"),
                ("750", "60000"),
            ]

    async def test_new_keys_are_acknowledged(
        self, make: Made, server: Server, keys: Keys, issuer: Issuer, stranger: Issuer
    ) -> None:
        other = Issuer(kid="other") if stranger.kid == issuer.kid else stranger
        async with make():
            await until(lambda: len(server.received()) == 2)
            keys.replace(keys_of(issuer, other))
            server.keys = keys.current().version
            server.revoke(Kind.SESSION, "s1")
            await until(lambda: len(server.received()) == 3)
            versions = [poll["keys"] for poll in server.polls()[1:3]]
            assert versions == [keys_of(issuer).version, keys_of(issuer, other).version]

    async def test_the_request_is_authorised_and_kept_out_of_caches(self, make: Made, server: Server) -> None:
        async with make():
            await until(lambda: len(server.received()) == 2)
        first, second = server.received()
        for request in (first, second):
            assert request.headers["Authorization"] == "Bearer token-1"
            assert request.headers["Accept"] == "application/ostiary-feed"
            assert request.headers["Accept-Encoding"] == "identity"
            assert request.headers["Cache-Control"] == "no-store"

    async def test_no_two_polls_have_the_same_nonce(self, make: Made, server: Server) -> None:
        async with make():
            for number in range(2, 8):
                await until(partial(server.has_received, number))
                server.wake()
        nonces = [poll["nonce"] for poll in server.polls()]
        assert len(set(nonces)) == len(nonces) >= 7
        assert all(len(nonce) == 22 for nonce in nonces)

    async def test_after_a_failure_the_next_poll_does_not_wait(self, make: Made, server: Server) -> None:
        async with make():
            await until(lambda: len(server.received()) == 2)
            server.instead = lambda _: httpx.Response(500)
            server.wake()
            await until(lambda: len(server.received()) >= 5)
            server.instead = None
            await until(lambda: server.polls()[-1]["wait"] != "0")
            waits = [poll["wait"] for poll in server.polls()]
        assert waits[:3] == ["0", "7500", "7500"]
        assert set(waits[3:-1]) == {"0"}


class TestTimeout:
    @pytest.mark.parametrize(("seconds", "patience"), [(0.0, 1.5), (0.7, 1.5), (3.0, 6.0), (30.0, 10.0)])
    async def test_the_timeout_is_twice_the_time_of_the_last_answer_within_bounds(
        self, make: Made, server: Server, clock: Clock, seconds: float, patience: float
    ) -> None:
        async def answer(request: httpx.Request) -> httpx.Response:
            if len(server.received()) > 1:
                return await hang(request)
            clock.now += seconds
            return server.response(request)

        server.instead = answer
        async with make(bounds={6.0, 60.0}, clock=clock) as client:
            assert client.revocations.complete
            assert client._timeout == patience

    async def test_the_timeout_grows_with_a_slow_issuer(self, make: Made, server: Server, clock: Clock) -> None:
        """It cannot meet the strictest bound then, but the others."""

        async def slow(request: httpx.Request) -> httpx.Response:
            await asyncio.sleep(0.12)
            return server.response(request)

        # By a clock that stands still, no answer so far has taken any time.
        async with make(bounds={0.2, 30.0}, clock=clock) as client:
            await until(lambda: len(server.received()) >= 2)
            assert client._timeout == _feed_client.MIN_WAIT
            server.instead = slow
            server.revoke(Kind.SESSION, "s1")
            await until(lambda: len(server.received()) >= 4)
            server.revoke(Kind.SESSION, "s2")
            await until(lambda: number_of(client) == 2)

    async def test_when_servers_hang_the_last_one_is_asked_within_the_bound(
        self, make: Made, server: Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        bound, hanging, allowed = 0.8, set[str](), list[float]()
        limit = asyncio.timeout

        def noted(seconds: float) -> asyncio.Timeout:
            if hanging and seconds < bound:
                allowed.append(seconds)
            return limit(seconds)

        async def answer(request: httpx.Request) -> httpx.Response:
            return await (hang(request) if request.url.host in hanging else server(request))

        monkeypatch.setattr(asyncio, "timeout", noted)
        config = Feed(url=[f"https://{name}.example/feed" for name in "abc"], client_id="orders", client_secret="s")
        async with make(config, bounds={bound}, transport=httpx.MockTransport(answer)) as client:
            hanging |= {"a.example", "b.example"}
            # The poll that waits is answered by this, and those after it are not.
            server.revoke(Kind.KEY, "k1")
            await until(lambda: number_of(client) == 1)
            server.revoke(Kind.KEY, "k2")
            await until(lambda: number_of(client) == 2)
        assert sum(allowed[:2]) < bound


class TestToken:
    async def test_it_is_fetched_with_the_clients_credentials(self, make: Made, server: Server) -> None:
        async with make():
            pass
        [request] = server.received("POST")
        assert str(request.url) == "https://issuer.example/oauth/token"
        assert parse_qs(request.content.decode(), strict_parsing=True) == {
            "grant_type": ["client_credentials"],
            "scope": ["feed:read"],
            "client_id": ["orders"],
            "client_secret": ["swordfish"],
        }
        assert server.requests[0] is request

    async def test_it_may_come_from_another_host(self, make: Made, server: Server) -> None:
        config = Feed(
            url="https://feed.example/feed",
            client_id="orders",
            client_secret="swordfish",
            token_url="https://tokens.example/oauth/token",
        )
        async with make(config):
            pass
        assert {request.url.host for request in server.received("POST")} == {"tokens.example"}
        assert {request.url.host for request in server.received()} == {"feed.example"}

    async def test_it_is_renewed_after_four_fifths_of_its_life(self, make: Made, server: Server, clock: Clock) -> None:
        server.lifetime = 100
        async with make(clock=clock):
            await until(lambda: len(server.received()) == 2)
            for number in (2, 3):
                clock.now += 79.9
                polls = len(server.received())
                server.revoke(Kind.SESSION, "s")
                await until(lambda: len(server.received()) > polls)  # noqa: B023 - done within the iteration
                assert len(server.received("POST")) == number - 1
                clock.now += 0.1
                server.revoke(Kind.SESSION, "s")
                await until(lambda: len(server.received("POST")) == number)  # noqa: B023 - the same
                server.revoke(Kind.SESSION, "s")
                await until(lambda: server.tokens()[-1] == f"Bearer token-{number}")  # noqa: B023 - the same

    async def test_polls_go_on_while_the_next_token_is_requested(
        self, make: Made, server: Server, clock: Clock
    ) -> None:
        """A token endpoint that is slow costs no freshness while the current token is good."""
        server.lifetime = 100
        async with make(clock=clock) as client:
            await until(lambda: len(server.received()) == 2)
            server.token_instead = hang
            clock.now += 99.0
            for number in range(1, 4):
                server.revoke(Kind.SESSION, "s")
                await until(lambda: number_of(client) == number)  # noqa: B023 - done within the iteration
            assert client.revocations.age() == 0
            assert len(server.received("POST")) == 2
            assert set(server.tokens()) == {"Bearer token-1"}

    async def test_a_request_for_the_next_token_that_fails_is_repeated(
        self, make: Made, server: Server, clock: Clock, notes: Notes
    ) -> None:
        server.lifetime = 100
        async with make(clock=clock) as client:
            await until(lambda: len(server.received()) == 2)
            server.token_instead = lambda _: httpx.Response(503)
            clock.now += 90.0
            for requests in (2, 3):
                server.revoke(Kind.SESSION, "s")
                await until(lambda: len(server.received("POST")) == requests)  # noqa: B023 - done within the iteration
                clock.now += 1.0
            assert "failed" not in notes.outcomes
            # Now the current one has ended.
            clock.now += 10.0
            server.revoke(Kind.SESSION, "s")
            await until(lambda: "failed" in notes.outcomes)
            server.token_instead = None
            await until(lambda: number_of(client) == 3)

    async def test_a_rejected_token_is_replaced(self, make: Made, server: Server, notes: Notes) -> None:
        async with make() as client:
            await until(lambda: len(server.received()) == 2)
            server.token = "other"
            server.revoke(Kind.SESSION, "s1")
            await until(lambda: number_of(client) == 1)
            server.revoke(Kind.SESSION, "s2")
            await until(lambda: number_of(client) == 2)
        assert len(server.received("POST")) == 2
        assert notes.outcomes[:4] == ["unchanged", "updated", "failed", "updated"]

    async def test_another_failure_does_not_cost_the_token(self, make: Made, server: Server) -> None:
        server.instead = lambda _: httpx.Response(503)
        async with make() as client:
            await until(lambda: len(server.received()) >= 3)
            server.instead = None
            await until(lambda: client.revocations.complete)
        assert len(server.received("POST")) == 1

    async def test_the_secret_may_come_later_and_change(self, make: Made, server: Server, tmp_path: Path) -> None:
        path = tmp_path / "secret"
        config = Feed(url=CONFIG.url, client_id="orders", secret_file=path)
        async with make(config) as client:
            assert not client.revocations.complete
            assert server.requests == []
            path.write_text("first\r\n", encoding="utf-8")
            await until(lambda: client.revocations.complete)
            path.write_text("second", encoding="utf-8")
            await until(lambda: len(server.received()) >= 2)
            server.token = "other"
            server.wake()
            await until(lambda: len(server.received("POST")) == 2)
        secrets = [parse_qs(request.content.decode())["client_secret"] for request in server.received("POST")]
        assert secrets == [["first"], ["second"]]

    @pytest.mark.parametrize("rest", ["?tenant=1", "?", "#feed", "#"])
    def test_a_url_with_a_query_or_a_fragment_is_rejected(self, rest: str) -> None:
        with pytest.raises(ValueError, match="query or fragment"):
            replace(CONFIG, url=f"{CONFIG.url}{rest}")

    async def test_an_observer_that_raises_does_not_end_it(
        self, make: Made, server: Server, notes: Notes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        polls = 0

        def followed(*_: object) -> None:
            nonlocal polls
            polls += 1
            raise ZeroDivisionError

        monkeypatch.setattr(notes, "followed", followed)
        async with make() as client:
            server.revoke(Kind.SESSION, "s1")
            await until(lambda: polls >= 2 and len(client.revocations) == 1)

    async def test_a_secret_that_is_no_text_is_a_failure_like_others(
        self, make: Made, server: Server, tmp_path: Path, notes: Notes
    ) -> None:
        path = tmp_path / "secret"
        path.write_bytes(b"\xff\xfe")
        async with make(Feed(url=CONFIG.url, client_id="orders", secret_file=path)):
            await until(lambda: len(notes.outcomes) >= 3)
        assert set(notes.outcomes) == {"failed"}
        assert server.received("POST") == []

    @pytest.mark.parametrize(
        "answer",
        [
            lambda _: httpx.Response(500),
            lambda _: json_response({"error": "invalid_client"}, 401),
            lambda _: json_response({"access_token": "evil", "expires_in": 900}, 302, Location="https://evil.example/"),
            lambda _: json_response({"access_token": "evil", "expires_in": 900}, 307, Location="https://evil.example/"),
            lambda _: json_response([]),
            lambda _: json_response({}),
            lambda _: json_response({"access_token": "evil"}),
            lambda _: json_response({"access_token": "evil", "expires_in": "900"}),
            lambda _: json_response({"access_token": "evil", "expires_in": None}),
            lambda _: json_response({"access_token": ["evil"], "expires_in": 900}),
            lambda _: json_response({"access_token": "\u00e9vil", "expires_in": 900}),
            lambda _: json_response({"access_token": "evil" * 20_000, "expires_in": 900}),
            lambda _: json_response({"access_token": "evil", "expires_in": 900}, Content_Encoding="gzip"),
            lambda _: httpx.Response(200, stream=httpx.ByteStream(b"<html></html>")),
            lambda _: httpx.Response(200, stream=httpx.ByteStream(b'{"access_token":"a","access_token":"b"}')),
        ],
    )
    async def test_without_a_token_nothing_is_polled(
        self, make: Made, server: Server, notes: Notes, answer: Answer
    ) -> None:
        server.token_instead = answer
        async with make() as client:
            await until(lambda: len(server.received("POST")) >= 3)
            assert server.received() == []
            assert set(notes.outcomes) == {"failed"}
            server.token_instead = None
            await until(lambda: client.revocations.complete)
        assert {request.url.host for request in server.requests} == {"issuer.example"}

    async def test_a_token_endpoint_that_hangs_times_out(
        self, make: Made, server: Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(_feed_client, "TOKEN_TIMEOUT", 0.005)
        server.token_instead = hang
        async with make() as client:
            await until(lambda: len(server.received("POST")) >= 3)
            server.token_instead = None
            await until(lambda: client.revocations.complete)

    async def test_the_secret_does_not_leak(self, make: Made, server: Server, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.DEBUG)
        server.token_instead = lambda _: httpx.Response(500)
        config = VerifierConfig(issuer="https://issuer.example", audience="a", feed=CONFIG, key_source=LocalKeys())
        async with make() as client:
            await until(lambda: len(server.received("POST")) >= 2)
            server.token_instead = None
            await until(lambda: len(server.received()) >= 2)
            said = [repr(CONFIG), str(CONFIG), repr(config), repr(client), caplog.text]
        assert not any("swordfish" in text or "token-1" in text for text in said)
        for request in (*server.received(), *server.received("DELETE")):
            assert "swordfish" not in f"{request.url} {request.headers} {request.content!r}"


async def hang(_: httpx.Request) -> httpx.Response:
    await asyncio.sleep(3600)
    raise AssertionError


async def drip(_: httpx.Request) -> httpx.Response:
    async def bytes_of() -> AsyncIterator[bytes]:
        while True:
            yield b"e"
            await asyncio.sleep(0.001)

    headers = {"Content-Type": feed.MEDIA_TYPE}
    return httpx.Response(200, content=bytes_of(), headers=headers)


def refuse_connection(request: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("refused", request=request)


def break_down(_: httpx.Request) -> httpx.Response:
    raise RuntimeError("a defect")


def to_another_poll(request: httpx.Request) -> dict[str, object]:
    after = int(request.url.params["after"])
    return {"first": after + 2, "head": after + 1, "events": []}


OTHER_KEY = Issuer()

#: How an answer may be bad, and as what it is counted.
BAD_ANSWERS: dict[str, tuple[str, Callable[[Server], Answer]]] = {
    "refused connection": ("failed", lambda _: refuse_connection),
    "breakdown": ("failed", lambda _: break_down),
    "hangs": ("failed", lambda _: hang),
    "drips": ("failed", lambda _: drip),
    "500": ("failed", lambda s: lambda r: feed_response(s.signed(r), 500)),
    "503": ("failed", lambda s: lambda r: feed_response(s.signed(r), 503)),
    "403": ("failed", lambda s: lambda r: feed_response(s.signed(r), 403)),
    "204": ("failed", lambda _: lambda _: httpx.Response(204)),
    "206": ("failed", lambda s: lambda r: feed_response(s.signed(r), 206)),
    "304": ("failed", lambda s: lambda r: feed_response(s.signed(r), 304)),
    "redirect": ("failed", lambda s: lambda r: feed_response(s.signed(r), 302, Location="https://evil.example/")),
    "redirect that keeps the method": (
        "failed",
        lambda s: lambda r: feed_response(s.signed(r), 307, Location="https://evil.example/"),
    ),
    "another content type": ("failed", lambda s: lambda r: feed_response(s.signed(r), Content_Type="text/plain")),
    "JSON": ("failed", lambda s: lambda r: feed_response(s.signed(r), Content_Type="application/json")),
    "compressed": ("failed", lambda s: lambda r: feed_response(s.signed(r), Content_Encoding="gzip")),
    "said to be compressed": ("failed", lambda s: lambda r: feed_response(s.signed(r), Content_Encoding="identity")),
    "too large": ("failed", lambda _: lambda _: feed_response(b"e" * (feed.MAX_BYTES + 1))),
    "to other polls": ("rejected", lambda s: lambda r: s.response(r, nonces=["A" * 22, r.url.params["nonce"][::-1]])),
    "to no poll": ("rejected", lambda s: lambda r: s.response(r, nonces=[])),
    "to too many polls": ("rejected", lambda s: lambda r: s.response(r, nonces=[r.url.params["nonce"]] * 101)),
    "empty": ("rejected", lambda _: lambda _: feed_response(b"")),
    "truncated": ("rejected", lambda s: lambda r: feed_response(s.signed(r)[:-1])),
    "not ASCII": ("rejected", lambda s: lambda r: feed_response(s.signed(r) + b"\xff")),
    "with a page that is not signed": ("rejected", lambda s: lambda r: feed_response(s.signed(r) + b"\n" + bytes(24))),
    "another issuer's": ("rejected", lambda s: lambda r: s.response(r, iss="https://other.example")),
    "signed with another key": ("rejected", lambda s: lambda r: s.response(r, signer=OTHER_KEY)),
    "an access token": ("rejected", lambda s: lambda r: s.response(r, typ="at+jwt")),
    "malformed": ("rejected", lambda s: lambda r: s.response(r, events=None)),
    "to another poll": ("rejected", lambda s: lambda r: s.response(r, **to_another_poll(r))),
    "of another past": ("rejected", lambda s: lambda r: s.response(r, digest="A" * 42 + "E")),
}


class TestReplays:
    """Whoever sits between a verifier and its issuer can hold answers back, and nothing else."""

    async def test_an_answer_to_an_earlier_poll_makes_nothing_fresh(
        self, make: Made, server: Server, clock: Clock, notes: Notes
    ) -> None:
        async with make(clock=clock) as client:
            await until(lambda: client.revocations.complete)
            earlier = server.signed(server.received()[-1])
            fresh_at = client.revocations.fresh_at
            server.instead = lambda _: feed_response(earlier)
            clock.now += 1.0
            server.wake()
            await until(lambda: notes.outcomes.count("rejected") >= 3)
            assert client.revocations.fresh_at == fresh_at
            clock.now += 29.5
            assert not client.revocations.is_fresh(30.0)
            server.instead = None
            await until(lambda: client.revocations.is_fresh(30.0))

    async def test_answers_that_others_asked_for_do_not_help(self, make: Made, server: Server, notes: Notes) -> None:
        """Whoever may read the feed gets answers to nonces of their choice, and cannot guess a verifier's."""
        collected = [f"{number:022}" for number in range(feed.MAX_NONCES)]
        server.instead = lambda request: server.response(request, nonces=collected)
        async with make() as client:
            await until(lambda: notes.outcomes.count("rejected") >= 3)
            assert not client.revocations.complete

    async def test_of_answers_that_come_in_another_order_each_is_for_its_own_poll(
        self, make: Made, server: Server, notes: Notes
    ) -> None:
        answers: list[bytes] = []

        def swapped(request: httpx.Request) -> httpx.Response:
            answers.append(server.signed(request))
            return feed_response(answers[-2] if len(answers) > 1 else answers[-1])

        server.instead = swapped
        async with make() as client:
            await until(lambda: notes.outcomes.count("rejected") >= 3)
            assert client.revocations.fresh_at > 0
            assert notes.outcomes.count("unchanged") == 1

    async def test_among_the_polls_of_many_others_a_verifiers_own_is_found(self, make: Made, server: Server) -> None:
        def among_others(request: httpx.Request) -> httpx.Response:
            nonce = request.url.params["nonce"]
            others = [f"{number:022}" for number in range((feed.MAX_NONCES - 2) // 2)]
            return server.response(request, nonces=[*others, nonce, nonce, *others])

        server.instead = among_others
        async with make() as client:
            await until(lambda: client.revocations.complete)


class TestBadAnswers:
    @pytest.fixture(autouse=True)
    def short_timeout(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """Use a short timeout where an answer never arrives."""
        if name in {"hangs", "drips"}:
            monkeypatch.setattr(_feed_client, "MAX_WAIT", 0.05)
            monkeypatch.setattr(_feed_client, "MAX_ANSWER_SECONDS", 0.05)

    @pytest.mark.parametrize("name", BAD_ANSWERS)
    async def test_at_the_start_bad_answers_are_not_applied_until_a_good_one_arrives(
        self, make: Made, server: Server, notes: Notes, name: str
    ) -> None:
        outcome, bad = BAD_ANSWERS[name]
        server.instead = bad(server)
        async with make() as client:
            await until(lambda: len(notes.outcomes) >= 3)
            assert set(notes.outcomes) == {outcome}
            assert set(notes.numbers) == {None}
            assert client.revocations.position is None
            assert not client.revocations.complete
            server.instead = None
            await until(lambda: client.revocations.complete)
        assert {request.url.host for request in server.requests} == {"issuer.example"}

    @pytest.mark.parametrize("name", BAD_ANSWERS)
    async def test_later_bad_answers_change_nothing_and_do_not_refresh_the_age(
        self, make: Made, server: Server, notes: Notes, clock: Clock, name: str
    ) -> None:
        outcome, bad = BAD_ANSWERS[name]
        server.revoke(Kind.KEY, "k1")
        async with make(clock=clock) as client:
            server.instead = bad(server)
            server.wake()
            await until(lambda: outcome in notes.outcomes)
            clock.now += 100
            server.revoke(Kind.KEY, "k2")
            seen = len(notes.outcomes)
            await until(lambda: len(notes.outcomes) >= seen + 3)
            assert set(notes.outcomes[seen:]) == {outcome}
            assert client.revocations.position == Position("e1", 1)
            assert client.revocations.age() == 100
            assert client.revocations.has_key("k1")
            server.instead = None
            await until(lambda: number_of(client) == 2)
            assert client.revocations.age() == 0
            assert client.revocations.has_key("k2")


class TestForks:
    """A log whose past has changed, by tampering or by a restored backup."""

    FORKS: ClassVar[dict[str, Callable[[Server], None]]] = {
        "another log": lambda server: setattr(server, "epoch", "e2"),
        "another past": lambda server: server.digests.__setitem__(slice(None), [bytes([7]) * 32] * 9),
        "a shorter log": lambda server: server.listed.clear(),
    }

    @pytest.mark.parametrize("name", FORKS)
    async def test_a_fork_is_counted_each_time_and_logged_once(
        self, make: Made, server: Server, notes: Notes, caplog: pytest.LogCaptureFixture, name: str
    ) -> None:
        caplog.set_level(logging.INFO, "ostiary")
        server.revoke(Kind.KEY, "k1")
        server.revoke(Kind.KEY, "k2")
        before = (server.epoch, [*server.digests], [*server.listed])

        def forked(request: httpx.Request) -> httpx.Response:
            return server.response(request, **({"head": 0, "events": []} if name == "a shorter log" else {}))

        async with make() as client:
            await until(lambda: len(server.received()) == 2)
            self.FORKS[name](server)
            server.instead = forked
            server.wake()
            await until(lambda: notes.outcomes.count("rejected") >= 4)
            assert client.revocations.position == Position("e1", 2)
            assert len(client.revocations) == 2
            said = [
                (record.levelname, record.name) for record in caplog.records if record.name == "ostiary.revocations"
            ]
            assert said == [("ERROR", "ostiary.revocations")]
            server.epoch, server.digests, server.listed = before
            server.instead = None
            await until(lambda: notes.outcomes[-1] in {"unchanged", "updated"})
        said = [(record.levelname, record.name) for record in caplog.records if record.name == "ostiary.revocations"]
        assert said == [("ERROR", "ostiary.revocations"), ("INFO", "ostiary.revocations")]

    async def test_another_reason_is_logged_too(
        self, make: Made, server: Server, notes: Notes, caplog: pytest.LogCaptureFixture
    ) -> None:
        server.instead = lambda request: server.response(request, iss="https://other.example")
        async with make():
            await until(lambda: notes.outcomes.count("rejected") >= 3)
            server.instead = lambda request: server.response(request, events=None)
            seen = len(notes.outcomes)
            await until(lambda: len(notes.outcomes) >= seen + 3)
        assert len([record for record in caplog.records if record.levelname == "ERROR"]) == 2


class TestFailures:
    async def test_pauses_get_longer_and_begin_anew_after_an_answer(
        self, make: Made, server: Server, pauses: list[float]
    ) -> None:
        def answer(request: httpx.Request) -> httpx.Response:
            return httpx.Response(500) if len(server.received()) % 10 else server.response(request)

        server.instead = answer
        async with make():
            await until(lambda: len(pauses) >= 25)
        for number, longest in enumerate([0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0, 1.0, 1.0]):
            for pause in (pauses[number], pauses[number + 10]):
                assert longest / 2 <= pause <= longest
        assert len(set(pauses[:9])) == 9

    async def test_a_feed_that_answers_at_once_without_revocations_is_polled_with_a_delay(
        self, make: Made, server: Server, clock: Clock, pauses: list[float]
    ) -> None:
        server.instead = server.response
        async with make(clock=clock):
            await until(lambda: len(pauses) >= 3)
            assert pauses[1:3] == [0.05, 0.05]
            server.revoke(Kind.KEY, "k1")
            await until(lambda: 0.0 in pauses[1:])

    async def test_a_feed_that_announces_keys_that_do_not_arrive_is_polled_with_backoff(
        self, make: Made, server: Server, pauses: list[float]
    ) -> None:
        server.keys = "another"
        async with make(bounds={6.0}) as client:
            await until(lambda: len(pauses) >= 8)
            assert client.revocations.complete
            assert pauses[:8] == [0.1, 0.2, 0.4, 0.8, 1.5, 1.5, 1.5, 1.5]
            server.keys = None
            await until(lambda: len(server.received()) > len(pauses))
            answered = len(pauses)
            server.wake()
            await until(lambda: len(server.received()) > len(pauses) > answered)
            answered = len(pauses)
            server.keys = "another"
            server.wake()
            await until(lambda: len(pauses) > answered)
            # It begins anew.
            assert pauses[answered] == 0.1

    async def test_a_failing_feed_is_logged_once(
        self, make: Made, server: Server, notes: Notes, clock: Clock, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO, "ostiary")
        server.instead = lambda _: httpx.Response(500)
        async with make(clock=clock) as client:
            await until(lambda: len(notes.outcomes) >= 3)
            assert caplog.records == []
            clock.now += _polling.WARN_AFTER
            seen = len(notes.outcomes)
            await until(lambda: len(notes.outcomes) >= seen + 3)
            server.instead = None
            await until(lambda: client.revocations.complete)
        assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
        assert caplog.records[0].__dict__["reason"] == "status 500"

    async def test_without_keys_nothing_is_polled(
        self, make: Made, server: Server, notes: Notes, issuer: Issuer
    ) -> None:
        make.keys = Keys()
        async with make() as client:
            await until(lambda: len(notes.outcomes) >= 3)
            assert set(notes.outcomes) == {"failed"}
            assert server.requests == []
            make.keys.replace(keys_of(issuer))
            await until(lambda: client.revocations.complete)


class TestKeys:
    async def test_a_feed_signed_with_an_unknown_key_makes_the_keys_be_fetched(
        self, make: Made, server: Server, keys: Keys, notes: Notes, issuer: Issuer
    ) -> None:
        following = Issuer(kid="following")
        async with make() as client:
            await until(lambda: len(server.received()) == 2)
            assert keys.announced == 0
            server.instead = lambda request: server.response(request, signer=following)
            server.revoke(Kind.SESSION, "s1")
            await until(lambda: notes.outcomes.count("failed") >= 2)
            assert keys.announced >= 2
            assert "rejected" not in notes.outcomes
            keys.replace(keys_of(issuer, following))
            await until(lambda: number_of(client) == 1)

    async def test_announced_keys_are_fetched(
        self, make: Made, server: Server, keys: Keys, notes: Notes, issuer: Issuer
    ) -> None:
        other = Issuer(kid="other")
        async with make():
            await until(lambda: len(server.received()) == 2)
            assert keys.announced == 0
            server.keys = keys_of(issuer, other).version
            server.wake()
            await until(lambda: keys.announced >= 1)
            keys.replace(keys_of(other, issuer))
            await until(lambda: server.polls()[-1]["keys"] == server.keys)
            settled, seen = keys.announced, len(server.received())
            server.revoke(Kind.SESSION, "s1")
            await until(lambda: len(server.received()) > seen)
            assert keys.announced == settled
        assert set(notes.outcomes) <= {"updated", "unchanged"}

    async def test_a_key_that_was_revoked_signs_no_further_answer(
        self, make: Made, server: Server, keys: Keys, notes: Notes, issuer: Issuer
    ) -> None:
        other = Issuer(kid="other")
        keys.replace(keys_of(issuer, other))
        server.keys = keys.current().version
        server.revoke(Kind.KEY, issuer.kid)
        async with make() as client:
            assert number_of(client) == 1
            server.revoke(Kind.SESSION, "s1")
            await until(lambda: notes.outcomes.count("rejected") >= 2)
            assert number_of(client) == 1
            server.instead = lambda request: server.response(request, signer=other)
            await until(lambda: number_of(client) == 2)


class TestStopping:
    async def test_a_stopping_verifier_deregisters(self, make: Made, server: Server) -> None:
        async with make() as client:
            await until(lambda: len(server.received()) == 2)
            assert server.received("DELETE") == []
        [request] = server.received("DELETE")
        assert request is server.requests[-1]
        assert request.url.copy_with(query=None) == httpx.URL("https://issuer.example/feed")
        assert dict(request.url.params) == {"verifier": client._id}
        assert request.headers["Authorization"] == "Bearer token-1"

    async def test_revocations_are_stale_before_it_deregisters(self, make: Made, server: Server) -> None:
        """The issuer does not count on this verifier from then on."""
        aged: list[bool] = []

        async def note(request: httpx.Request) -> httpx.Response:
            if request.method == "DELETE":
                aged.append(not client.revocations.complete and not client.revocations.is_fresh(1e9))
            return await server(request)

        client = make(transport=httpx.MockTransport(note))
        async with client:
            assert client.revocations.complete
        assert aged == [True]

    async def test_nothing_is_polled_afterwards(self, make: Made, server: Server) -> None:
        async with make():
            pass
        seen = len(server.requests)
        for _ in range(20):
            server.wake()
            await asyncio.sleep(0)
        assert len(server.requests) == seen

    @pytest.mark.parametrize("deregistration", [hang, refuse_connection, lambda _: httpx.Response(500)])
    async def test_an_unreachable_issuer_does_not_delay_the_stop(
        self, make: Made, server: Server, monkeypatch: pytest.MonkeyPatch, deregistration: Answer
    ) -> None:
        monkeypatch.setattr(_feed_client, "LEAVE_TIMEOUT", 0.01)
        monkeypatch.setattr(_feed_client, "LEAVE_DELAYS", (0.001, 0.001, 0.001))

        async def answer(request: httpx.Request) -> httpx.Response:
            if request.method != "DELETE":
                return await server(request)
            server.requests.append(request)
            response = deregistration(request)
            return response if isinstance(response, httpx.Response) else await response

        client = make(transport=httpx.MockTransport(answer))
        async with asyncio.timeout(5):
            async with client:
                pass
        assert len(server.received("DELETE")) == 3
        assert client._task is not None
        assert client._task.cancelled()

    @pytest.mark.parametrize("trouble", [hang, refuse_connection, lambda _: httpx.Response(503)])
    async def test_it_deregisters_at_an_issuer_that_was_away_for_a_moment(
        self, make: Made, server: Server, monkeypatch: pytest.MonkeyPatch, trouble: Answer
    ) -> None:
        monkeypatch.setattr(_feed_client, "LEAVE_TIMEOUT", 0.01)
        monkeypatch.setattr(_feed_client, "LEAVE_DELAYS", (0.001,) * 5)
        attempts = 0

        async def answer(request: httpx.Request) -> httpx.Response:
            nonlocal attempts
            attempts += request.method == "DELETE"
            if request.method != "DELETE" or attempts == 3:
                return await server(request)
            response = trouble(request)
            return response if isinstance(response, httpx.Response) else await response

        async with make(transport=httpx.MockTransport(answer)):
            pass
        assert (attempts, len(server.received("DELETE"))) == (3, 1)

    async def test_it_deregisters_with_another_token_if_its_own_is_refused(self, make: Made, server: Server) -> None:
        async with make():
            server.token, server.earlier_token = "of another key", ""
        assert [request.headers["Authorization"] for request in server.received("DELETE")] == [
            "Bearer token-1",
            "Bearer token-2",
        ]

    async def test_one_that_has_never_polled_has_nothing_to_deregister(self, make: Made, server: Server) -> None:
        server.token_instead = lambda _: httpx.Response(503)
        async with make():
            pass
        assert server.received("DELETE") == []

    async def test_cancelling_the_start_ends_the_task(self, make: Made, server: Server) -> None:
        server.instead = hang
        client = make()
        entering = asyncio.create_task(client.__aenter__())
        await until(lambda: len(server.received()) == 1)
        entering.cancel()
        with pytest.raises(asyncio.CancelledError):
            await entering
        task = client._task
        assert task is not None
        await until(task.done)


class TestAddresses:
    @pytest.mark.parametrize(
        ("url", "token_url"),
        [
            ("http://issuer.example/feed", None),
            ("http://issuer.example/feed", "https://issuer.example/oauth/token"),
            ("https://issuer.example/feed", "http://issuer.example/oauth/token"),
            ("http://8.8.8.8/feed", None),
        ],
    )
    def test_a_secret_does_not_go_over_plain_http_to_a_public_address(
        self, make: Made, url: str, token_url: str | None
    ) -> None:
        config = Feed(url=url, client_id="orders", client_secret="swordfish", token_url=token_url)
        with pytest.raises(ValueError, match="need https") as caught:
            make(config)
        assert "swordfish" not in str(caught.value)
        settings = VerifierConfig(
            issuer="https://issuer.example", audience="ostiary", key_source=LocalKeys(), feed=config
        )
        with pytest.raises(ValueError, match="need https"):
            Verifier(settings)
        assert make(config, allow_insecure=True).revocations.position is None

    @pytest.mark.parametrize("url", ["ftp://issuer.example/feed", "/feed", "", "https:///feed"])
    def test_an_invalid_url_is_rejected(self, make: Made, url: str) -> None:
        with pytest.raises(ValueError, match="not an http or https address"):
            make(Feed(url=url, client_id="orders", client_secret="s"), allow_insecure=True)

    def test_credentials_do_not_belong_into_an_address(self, make: Made) -> None:
        with pytest.raises(ValueError, match="credentials") as caught:
            make(Feed(url="https://orders:swordfish@issuer.example/feed", client_id="orders", client_secret="s"))
        assert "swordfish" not in str(caught.value)

    @pytest.mark.parametrize(
        ("url", "endpoint"),
        [
            ("https://issuer.example/feed", "https://issuer.example/oauth/token"),
            ("https://issuer.example:8443/a/feed", "https://issuer.example:8443/oauth/token"),
            ("http://127.0.0.1:8000/feed", "http://127.0.0.1:8000/oauth/token"),
            ("http://auth:8000/feed", "http://auth:8000/oauth/token"),
            ("http://auth.ns.svc/feed", "http://auth.ns.svc/oauth/token"),
        ],
    )
    def test_tokens_come_from_the_feeds_own_host_and_private_networks_need_no_https(
        self, make: Made, url: str, endpoint: str
    ) -> None:
        config = Feed(url=url, client_id="orders", client_secret="s")
        assert config.token_endpoint(url) == endpoint
        assert make(config).revocations.position is None

    async def test_a_feed_of_several_servers_is_read_from_the_next_when_one_fails(
        self, make: Made, server: Server, pauses: list[float]
    ) -> None:
        away = {"a.example"}

        async def answer(request: httpx.Request) -> httpx.Response:
            if request.url.host in away:
                server.requests.append(request)
                raise httpx.ConnectError("away")
            return await server(request)

        urls = ["https://a.example/feed", "https://b.example/feed"]
        config = Feed(url=urls, client_id="orders", client_secret="s")
        async with make(config, transport=httpx.MockTransport(answer)) as client:
            # The first poll counts only once each server was asked, which takes no delay.
            assert client.revocations.complete
            assert pauses[0] == 0.0
            assert [request.url.host for request in server.received("POST")] == ["a.example", "b.example"]
            away.add("b.example")
            server.wake()
            await until(lambda: any(pauses))
            away.clear()
            server.revoke(Kind.KEY, "k1")
            await until(lambda: number_of(client) == 1)

    async def test_a_verifier_leaves_at_another_server_when_one_cannot_take_that(
        self, make: Made, server: Server
    ) -> None:
        async def answer(request: httpx.Request) -> httpx.Response:
            if request.method == "DELETE" and request.url.host == "a.example":
                return httpx.Response(503)
            return await server(request)

        urls = ["https://a.example/feed", "https://b.example/feed"]
        config = Feed(url=urls, client_id="orders", client_secret="s")
        async with make(config, transport=httpx.MockTransport(answer)) as client:
            assert client.revocations.complete
        assert [request.url.host for request in server.received("DELETE")] == ["b.example"]

    def test_a_feed_has_a_server(self) -> None:
        with pytest.raises(ValueError, match="at least one URL"):
            Feed(url=(), client_id="orders", client_secret="s")

    @pytest.mark.parametrize("secrets", [{}, {"client_secret": ""}, {"client_secret": "s", "secret_file": "/run/s"}])
    def test_a_feed_has_one_secret(self, secrets: dict[str, str]) -> None:
        with pytest.raises(ValueError, match="client_secret or secret_file"):
            Feed(url=CONFIG.url, client_id="orders", **secrets)

    def test_the_secret_is_not_in_its_text(self) -> None:
        assert "swordfish" not in repr(CONFIG)
        assert "client_secret" not in repr(CONFIG)
        assert CONFIG.secret() == "swordfish"
