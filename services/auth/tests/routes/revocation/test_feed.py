"""`GET /feed` over HTTP: who may ask, what is a question, and when it is answered."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
import pytest_asyncio
from fastapi import FastAPI
from users import new_user

from ostiary import KeySet, LocalKeys, Verifier, VerifierConfig
from ostiary._feed_client import Feed, FeedClient
from ostiary.errors import Revoked
from ostiary.feed import (
    MAX_NONCE_LENGTH,
    MAX_NUMBER,
    MEDIA_TYPE,
    MIN_NONCE_LENGTH,
    Answer,
    FeedFault,
    Kind,
    read,
)
from ostiary_auth.app import create_app
from ostiary_auth.config import AuthConfig
from ostiary_auth.domain.accounts.model import User
from ostiary_auth.domain.audit.model import Event
from ostiary_auth.domain.context import Context
from ostiary_auth.domain.errors import InvalidClient, InvalidClientSettings
from ostiary_auth.domain.oauth.clients import OLD_SECRET_GRACE
from ostiary_auth.domain.oauth.model import FIRST_PARTY_CLIENT_ID, Client, Credentials
from ostiary_auth.domain.revocation import verifiers as verifiers_module
from ostiary_auth.domain.revocation.model import RegisteredVerifier
from ostiary_auth.routes.revocation.feed import MAX_LEASE_MS, MAX_WAIT_MS
from ostiary_auth.services import Services, ServiceSecrets
from ostiary_auth.startup import MIN_CLIENT_SECRET_CHARACTERS, prepare
from ostiary_chassis.client_ids import VERIFIERS_CLIENT_ID
from ostiary_chassis.settings import ConfigError

ISSUER = "http://localhost:8080"
FEED = "/feed"
SOON = 10.0

Question = dict[str, str | int | None]

#: One application serves all tests here, as making one takes longer than most of them.
pytestmark = pytest.mark.asyncio(loop_scope="module")


@dataclass
class Session:
    """Somebody who is logged in."""

    user: User
    token: str

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}


class Asking:
    """A verifier of its own for each test, and the replica that it asks."""

    token: str

    def __init__(self, http: httpx.AsyncClient, services: Services, config: AuthConfig) -> None:
        self.http = http
        self.services = services
        self.config = config
        self.name = f"orders-{uuid4().hex[:8]}"
        self.epoch, self.number, self.keys = "", 0, services.local_keys.ring().version

    @property
    def secret(self) -> str:
        return self.config.feed_secret_path.read_text().strip()

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}

    async def get_token(self, **form: str) -> httpx.Response:
        credentials = {"client_id": VERIFIERS_CLIENT_ID, "client_secret": self.secret}
        return await self.http.post("/oauth/token", data={"grant_type": "client_credentials", **credentials, **form})

    async def ask(self, question: Question | None = None, headers: dict[str, str] | None = None) -> httpx.Response:
        """Ask what this verifier would ask next, but for what is said here; None leaves a parameter out."""
        good: Question = {
            "epoch": self.epoch,
            "after": self.number,
            "wait": 0,
            "verifier": self.name,
            "keys": self.keys,
            "nonce": secrets.token_urlsafe(16),
        }
        parameters = {name: value for name, value in {**good, **(question or {})}.items() if value is not None}
        return await self.http.get(FEED, params=parameters, headers=self.headers if headers is None else headers)

    async def follow(self, question: Question | None = None) -> Answer:
        """Ask, and go to where the answer ends."""
        answer = await self.read(await self.ask(question))
        self.epoch, self.number = answer.epoch, answer.head
        return answer

    async def read(self, response: httpx.Response, nonce: str | None = None) -> Answer:
        """Read an answer, to its own question unless another nonce is said."""
        assert response.status_code == 200, response.text
        keys = KeySet.from_json((await self.http.get("/.well-known/jwks.json")).content)
        return read(
            response.content, ISSUER, keys, set[str]().__contains__, nonce or response.request.url.params["nonce"]
        )

    async def log_in(self, *roles: str) -> Session:
        """Return a new user with a session; no password is needed for that here."""
        now = datetime.now(UTC)
        user = new_user(f"{uuid4()}@example.com", *roles, at=now)
        async with self.services.store.write() as transaction:
            await transaction.users.add(user)
            grant = await self.services.sessions.open(transaction, user, FIRST_PARTY_CLIENT_ID, Context(now))
        return Session(user, (await self.services.tokens.for_session(grant, now)).token)

    async def log_out(self) -> str:
        """Have somebody log out, and return their session."""
        session = await self.log_in()
        response = await self.http.post("/auth/logout", headers=session.headers)
        assert response.json() == {"revoked": 1}
        presented = self.services.tokens.read(session.token)
        assert presented is not None
        return str(presented.token.session_id)

    async def stored(self) -> dict[str, RegisteredVerifier]:
        """Return the rows of the client's verifiers, by their names."""
        async with self.services.store.read() as transaction:
            rows = await transaction.verifiers.all()
        clients = ((*row.id.partition(":"), row) for row in rows)
        return {name: row for client_id, _, name, row in clients if client_id == VERIFIERS_CLIENT_ID}


@pytest_asyncio.fixture(loop_scope="module")
async def asking(shared_client: httpx.AsyncClient, shared_services: Services, shared_config: AuthConfig) -> Asking:
    """Return a verifier that knows all that has been revoked so far."""
    asking = Asking(shared_client, shared_services, shared_config)
    asking.token = (await asking.get_token()).json()["access_token"]
    await asking.follow()
    return asking


class TestWhoMayAsk:
    @pytest.mark.parametrize("method", ["GET", "DELETE"])
    async def test_nobody_without_a_token(self, asking: Asking, method: str) -> None:
        for headers, code in (({}, "missing_token"), ({"Authorization": "Bearer x"}, "malformed")):
            response = await asking.http.request(method, FEED, headers=headers)
            assert (response.status_code, response.json()["code"]) == (401, code)
            assert response.headers["WWW-Authenticate"].startswith("Bearer ")

    @pytest.mark.parametrize("method", ["GET", "DELETE"])
    async def test_nobody_without_the_scope(self, asking: Asking, method: str) -> None:
        now = datetime.now(UTC)
        other = Client("other", "Other", ("client_credentials",), ("feed",), (asking.config.audience,), created_at=now)
        without = (await asking.services.tokens.for_client(other, asking.config.audience, ("feed",), now)).token
        for token in (without, (await asking.log_in()).token):
            parameters: dict[str, str] = {"after": "0", "wait": "0", "verifier": asking.name, "keys": asking.keys}
            headers = {"Authorization": f"Bearer {token}"}
            response = await asking.http.request(method, FEED, params=parameters, headers=headers)
            assert (response.status_code, response.json()["code"]) == (403, "insufficient_scope")
        assert asking.name in await asking.stored()

    async def test_a_registered_client_with_the_scope(self, asking: Asking) -> None:
        name, now = f"other-{uuid4().hex[:8]}", Context(datetime.now(UTC))
        other = Client(name, "Other", ("client_credentials",), ("feed:read",), (asking.config.audience,))
        _, secret = await asking.services.clients.create(other, now)
        assert secret is not None
        granted = await asking.get_token(client_id=name, client_secret=secret)
        headers = {"Authorization": f"Bearer {granted.json()['access_token']}"}
        assert (await asking.ask(headers=headers)).status_code == 200
        await asking.services.clients.disable(name, now)
        await asking.follow()
        response = await asking.ask(headers=headers)
        assert (response.status_code, response.json()["code"]) == (401, "revoked")


class TestQuestions:
    @pytest.mark.parametrize(
        ("parameter", "values"),
        [
            ("after", [None, "", "-1", "+1", "1.0", "1e3", "x", " 1", "\u0663", "0x1", MAX_NUMBER, "9" * 30]),
            ("wait", [None, "", "-1", "0.5", "x", MAX_WAIT_MS + 1, "\u0663"]),
            ("lease", ["", "-1", "0.5", "x", MAX_LEASE_MS + 1, "\u0663"]),
            ("keys", [None, "", "a b", "k" * 65, "key\n", "k\u00e9y", "a,b"]),
            (
                "nonce",
                [None, "", "n" * (MIN_NONCE_LENGTH - 1), "n" * (MAX_NONCE_LENGTH + 1), "n" * 16 + "\n", "n." * 10],
            ),
            ("verifier", [None, "", "a b", "v" * 65, "orders\n", "ord\u00e9rs", "a/b"]),
        ],
    )
    async def test_one_that_is_none_is_refused_and_leaves_nothing(
        self, asking: Asking, parameter: str, values: list[str | int | None]
    ) -> None:
        before = await asking.stored()
        for value in values:
            name = f"{asking.name}-2"
            response = await asking.ask({"verifier": name, parameter: value})
            assert (response.status_code, response.json()["code"]) == (422, "invalid_request"), value
            assert f"'{parameter}'" in response.json()["detail"]
        assert (await asking.stored()).keys() == before.keys()

    @pytest.mark.parametrize("parameter", ["verifier", "epoch", "after", "wait", "lease", "keys", "nonce", "receipt"])
    async def test_one_that_is_repeated_is_refused(self, asking: Asking, parameter: str) -> None:
        before = await asking.stored()
        question = (await asking.ask({"lease": 1, "receipt": "x"})).request.url
        twice = f"{question}&{parameter}={question.params[parameter]}"
        for method in ("GET", "DELETE"):
            response = await asking.http.request(method, twice, headers=asking.headers)
            assert (response.status_code, response.json()["code"]) == (422, "invalid_request")
            assert f"'{parameter}' is repeated" in response.json()["detail"]
        assert (await asking.stored()).keys() == before.keys()

    async def test_all_that_may_be_said_is_understood(self, asking: Asking) -> None:
        questions: list[Question] = [
            {"after": 0},
            {"after": MAX_NUMBER - 1},
            {"lease": 0},
            {"lease": MAX_LEASE_MS},
            {"verifier": "A-z.0_9" + "x" * 57},
            {"epoch": None},
            {"epoch": "anything, really"},
            {"unknown": "parameter"},
            # At once, as it is behind or has other keys.
            {"after": 0, "keys": "other", "wait": MAX_WAIT_MS},
        ]
        for question in questions:
            assert (await asking.ask(question)).status_code == 200, question

    async def test_a_verifier_is_named_when_it_leaves(self, asking: Asking) -> None:
        for parameters in ({}, {"verifier": ""}, {"verifier": "a b"}):
            response = await asking.http.delete(FEED, params=parameters, headers=asking.headers)
            assert (response.status_code, response.json()["code"]) == (422, "invalid_request")

    async def test_it_is_between_us_and_verifiers(self, asking: Asking) -> None:
        assert FEED not in (await asking.http.get("/openapi.json")).json()["paths"]
        assert (await asking.http.post(FEED, headers=asking.headers)).status_code == 405


class TestAnswers:
    async def test_an_answer_is_signed_and_nobody_keeps_it(self, asking: Asking) -> None:
        session = await asking.log_out()
        response = await asking.ask()
        assert response.headers["Content-Type"] == MEDIA_TYPE == "application/ostiary-feed"
        assert response.headers["Cache-Control"] == "no-store"
        answer = await asking.read(response)
        assert (answer.issuer, answer.epoch, answer.first) == (ISSUER, asking.epoch, asking.number + 1)
        assert [(each.kind, each.target) for each in answer.revocations] == [(Kind.SESSION, session)]
        assert (answer.head, answer.more, answer.reset) == (asking.number + 1, False, False)
        assert answer.keys == asking.keys
        assert abs(answer.issued_at - time.time()) < 60

    async def test_it_lists_the_nonce_of_the_question(self, asking: Asking) -> None:
        for nonce in ("-_" * 8, "n" * MAX_NONCE_LENGTH):
            assert (await asking.read(await asking.ask({"nonce": nonce}), nonce)).nonces == (nonce,)

    async def test_an_answer_that_was_fetched_for_others_helps_nobody(self, asking: Asking) -> None:
        collected = [await asking.ask({"nonce": secrets.token_urlsafe(16)}) for _ in range(3)]
        for response in collected:
            with pytest.raises(FeedFault, match="answer to other polls"):
                await asking.read(response, secrets.token_urlsafe(16))

    async def test_what_another_replica_has_committed_is_in_it(self, asking: Asking) -> None:
        for _ in range(3):
            context = Context(datetime.now(UTC))
            async with asking.services.store.write() as transaction:
                revoked = await asking.services.revocations.revoke(transaction, context, Kind.SESSION, str(uuid4()))
            assert ((await asking.follow()).head,) == revoked

    async def test_with_news_it_comes_at_once(self, asking: Asking) -> None:
        session = await asking.log_out()
        began_at = time.monotonic()
        answer = await asking.follow({"wait": MAX_WAIT_MS})
        assert time.monotonic() - began_at < SOON
        assert [each.target for each in answer.revocations] == [session]

    async def test_without_news_it_comes_when_the_wait_is_over(self, asking: Asking) -> None:
        began_at = time.monotonic()
        answer = await asking.follow({"wait": 80})
        assert 0.08 <= time.monotonic() - began_at < SOON
        assert (answer.revocations, answer.first, answer.head) == ((), asking.number + 1, asking.number)

    async def test_to_one_who_holds_other_keys_it_comes_at_once(self, asking: Asking) -> None:
        began_at = time.monotonic()
        answer = await asking.follow({"wait": MAX_WAIT_MS, "keys": "other"})
        assert time.monotonic() - began_at < SOON
        assert answer.keys == asking.keys

    async def test_a_question_that_waits_is_answered_when_something_is_revoked(self, asking: Asking) -> None:
        lease = 123_456
        waiting = [asyncio.create_task(asking.ask({"wait": MAX_WAIT_MS, "lease": lease})) for _ in range(3)]
        # It is known who may be accepting tokens, and no answer has come.
        async with asyncio.timeout(SOON):
            while (await asking.stored())[asking.name].lease_ms != lease:
                await asyncio.sleep(0)
        assert not any(question.done() for question in waiting)
        session = await asking.log_out()
        async with asyncio.timeout(SOON):
            for question in waiting:
                answer = await asking.read(await question)
                assert [each.target for each in answer.revocations] == [session]

    async def test_it_is_answered_when_another_replica_revokes_something(self, asking: Asking) -> None:
        waiting = asyncio.create_task(asking.ask({"wait": MAX_WAIT_MS}))
        async with asking.services.store.write() as transaction:
            await asking.services.revocations.revoke(transaction, Context(datetime.now(UTC)), Kind.SESSION, "elsewhere")
        async with asyncio.timeout(SOON):
            answer = await asking.read(await waiting)
        assert [each.target for each in answer.revocations] == ["elsewhere"]

    async def test_when_the_service_ends_all_are_answered(
        self, shared_config: AuthConfig, own: ServiceSecrets, asking: Asking
    ) -> None:
        app = create_app(shared_config, own)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://auth") as http,
        ):
            there = Asking(http, asking.services, shared_config)
            there.token, there.epoch, there.number = asking.token, asking.epoch, asking.number
            waiting = asyncio.create_task(there.ask({"wait": MAX_WAIT_MS}))
            async with asyncio.timeout(SOON):
                while there.name not in await there.stored():
                    await asyncio.sleep(0)
                app.state.on_stop()
                assert (await there.read(await waiting)).revocations == ()
                await there.ask({"wait": MAX_WAIT_MS})


class TestAcknowledging:
    async def test_a_question_says_what_has_been_applied(self, asking: Asking) -> None:
        await asking.log_out()
        await asking.follow()
        # Stored when something else changes.
        await asking.follow({"lease": 60_000})
        assert (await asking.stored())[asking.name].acknowledged == asking.number

    @pytest.mark.parametrize("epoch", [None, "", "another"])
    async def test_what_was_applied_of_another_log_does_not_count(self, asking: Asking, epoch: str | None) -> None:
        await asking.log_out()
        await asking.follow()
        other = f"{asking.name}-2"
        await asking.ask({"epoch": epoch, "verifier": other})
        assert (await asking.stored())[other].acknowledged == 0
        await asking.ask({"verifier": f"{asking.name}-3"})
        assert (await asking.stored())[f"{asking.name}-3"].acknowledged == asking.number > 0

    async def test_what_is_beyond_the_end_of_the_log_does_not_count(self, asking: Asking) -> None:
        for after in (asking.number + 1, MAX_NUMBER - 1):
            other = f"{asking.name}-{after}"
            assert (await asking.ask({"after": after, "verifier": other})).status_code == 200
            assert (await asking.stored())[other].acknowledged == 0

    async def test_what_was_learnt_from_another_replica_counts_at_once(self, asking: Asking) -> None:
        admin = await asking.log_in("admin")
        path = f"/admin/users/{admin.user.id}"
        context = Context(datetime.now(UTC))
        async with asking.services.store.write() as transaction:
            (revoked,) = await asking.services.revocations.revoke(transaction, context, Kind.SESSION, "elsewhere")
        assert (await asking.ask({"after": revoked})).status_code == 200
        # A call that changes nothing tells how far all that was revoked before has come.
        headers = {**admin.headers, "Prefer": "wait=0"}
        body = (await asking.http.patch(path, json={"roles": ["admin"]}, headers=headers)).json()
        assert body["cursor"] == revoked
        # The replica itself, and this one.
        assert body["acknowledged_by"] == 2

    async def test_it_says_which_keys_are_held_and_for_how_long_nothing_need_be_heard(self, asking: Asking) -> None:
        await asking.ask({"keys": "some-keys", "lease": 123_456})
        await asking.ask({"keys": "some-keys", "lease": 123_457})
        stored = (await asking.stored())[asking.name]
        assert (stored.keys, stored.lease_ms) == ("some-keys", 123_457)

    async def test_who_leaves_is_forgotten(self, asking: Asking) -> None:
        assert asking.name in await asking.stored()
        response = await asking.http.delete(FEED, params={"verifier": asking.name}, headers=asking.headers)
        assert (response.status_code, response.content) == (204, b"")
        assert asking.name not in await asking.stored()

    async def test_nobody_speaks_for_a_verifier_of_another_client(self, asking: Asking) -> None:
        """Neither a poll nor a good-bye under its name changes what it has told, or for how long it accepts tokens."""
        intruder, now = f"other-{uuid4().hex[:8]}", Context(datetime.now(UTC))
        client = Client(intruder, "Other", ("client_credentials",), ("feed:read",), (asking.config.audience,))
        _, secret = await asking.services.clients.create(client, now)
        assert secret is not None
        granted = (await asking.get_token(client_id=intruder, client_secret=secret)).json()
        headers = {"Authorization": f"Bearer {granted['access_token']}"}
        admin = await asking.log_in("admin")

        async def is_in_force() -> bool:
            path, waiting = f"/admin/users/{admin.user.id}", {**admin.headers, "Prefer": "wait=0"}
            answer = await asking.http.patch(path, json={"roles": ["admin"]}, headers=waiting)
            assert answer.json()["cursor"] > asking.number
            return bool(answer.json()["complete"])

        await asking.follow({"lease": 60_000})
        await asking.log_out()
        assert not await is_in_force()
        # As if all was applied, with an end to its lease, and away.
        questions: list[Question] = [{"after": asking.number + 1}, {"after": asking.number + 1, "lease": 0}]
        for question in questions:
            assert (await asking.ask(question, headers)).status_code == 200
            assert not await is_in_force()
        for name in (asking.name, f"{VERIFIERS_CLIENT_ID}:{asking.name}", f"{asking.name}@auth-1"):
            await asking.http.delete(FEED, params={"verifier": name}, headers=headers)
            assert not await is_in_force()
        asking.number += 1
        await asking.ask()
        assert (await asking.stored())[asking.name].lease_ms == 60_000
        await asking.http.delete(FEED, params={"verifier": asking.name}, headers=asking.headers)

    async def test_one_verifier_too_many_is_told_to_ask_elsewhere(
        self, asking: Asking, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(verifiers_module, "MAX_VERIFIERS", 1)
        response = await asking.ask({"verifier": f"{asking.name}-2"})
        assert (response.status_code, response.json()["code"]) == (503, "too_many_verifiers")
        assert response.headers["Retry-After"] == "1"
        assert (await asking.ask()).status_code == 200


class TestFollower:
    """The verifier's own side, with this one."""

    async def test_what_is_revoked_here_is_refused_there(self, asking: Asking, shared_app: FastAPI) -> None:
        keys = LocalKeys(KeySet.from_json((await asking.http.get("/.well-known/jwks.json")).content))
        feed = Feed(
            url="http://localhost/feed",
            client_id=VERIFIERS_CLIENT_ID,
            secret_file=asking.config.feed_secret_path,
            name=asking.name,
        )
        follower = FeedClient(ISSUER, feed, keys, {30.0}, transport=httpx.ASGITransport(shared_app))
        config = VerifierConfig(issuer=ISSUER, audience="ostiary", key_source=keys, revocation_source=follower)
        async with Verifier(config) as verifier:
            assert verifier.ready
            (stored,) = [row for name, row in (await asking.stored()).items() if name.startswith(f"{asking.name}-")]
            assert (stored.lease_ms, stored.keys) == (30_000, asking.keys)
            session = await asking.log_in()
            verified = verifier.verify(session.token)
            ended = asyncio.Event()
            with verifier.watch(verified, lambda _error: ended.set()):
                await asking.http.post("/auth/logout", headers=session.headers)
                async with asyncio.timeout(SOON):
                    await ended.wait()
            with pytest.raises(Revoked):
                verifier.verify(session.token)
            verifier.verify((await asking.log_in()).token)
        assert stored.id not in {row.id for row in (await asking.stored()).values()}


class TestClient:
    """The client that the stack's own verifiers ask as."""

    async def test_it_has_the_scope_and_no_other(self, asking: Asking) -> None:
        granted = (await asking.get_token()).json()
        assert granted["scope"] == "feed:read"
        assert (await asking.get_token(scope="admin")).json()["error"] == "invalid_scope"
        assert (await asking.get_token(client_secret="x")).json()["error"] == "invalid_client"

    async def test_nobody_else_can_be_registered_in_its_place(self, asking: Asking) -> None:
        other = Client(VERIFIERS_CLIENT_ID, "Other", ("client_credentials",), (), ("ostiary",))
        with pytest.raises(InvalidClientSettings):
            await asking.services.clients.create(other, Context(datetime.now(UTC)))


class Provided:
    """The client, and the file with its secret."""

    def __init__(self, config: AuthConfig, services: Services) -> None:
        self.config = config
        self.services = services

    async def authenticates(self, secret: str, context: Context | None = None) -> bool:
        clients = self.services.clients
        clients.invalidate()
        try:
            await clients.authenticate(Credentials(VERIFIERS_CLIENT_ID, secret), context or Context(datetime.now(UTC)))
        except InvalidClient:
            return False
        return True

    async def events(self) -> list[str]:
        async with self.services.store.read() as transaction:
            entries = await transaction.audit.entries(0, 100, subject=f"client:{VERIFIERS_CLIENT_ID}")
        return [entry.event for entry in entries]


class TestSecret:
    @pytest.fixture
    def fresh(self, copy: Callable[[Path], AbstractContextManager[AuthConfig]], tmp_path: Path) -> Iterator[AuthConfig]:
        with copy(tmp_path) as config:
            yield config

    @pytest_asyncio.fixture(loop_scope="module")
    async def provided(self, fresh: AuthConfig, own: ServiceSecrets) -> AsyncIterator[Provided]:
        services = Services(fresh, own)
        yield Provided(fresh, services)
        await services.close()

    async def test_it_is_made_once(self, provided: Provided) -> None:
        secret = provided.config.feed_secret_path.read_text().strip()
        assert len(secret) == 64
        await prepare(provided.config)
        assert provided.config.feed_secret_path.read_text().strip() == secret
        assert await provided.authenticates(secret)
        assert await provided.events() == [Event.CLIENT_CREATED]

    async def test_another_one_in_the_file_counts_from_the_next_start_on(self, provided: Provided) -> None:
        path, new = provided.config.feed_secret_path, "n" * MIN_CLIENT_SECRET_CHARACTERS
        old = path.read_text().strip()
        path.write_text(f"{new}\n")
        assert not await provided.authenticates(new)
        await prepare(provided.config)
        assert await provided.authenticates(new)
        assert await provided.events() == [Event.CLIENT_CREATED, Event.CLIENT_SECRET_ROTATED]
        # Verifiers that have not been started again go on for a day.
        assert await provided.authenticates(old)
        assert not await provided.authenticates(old, Context(datetime.now(UTC) + OLD_SECRET_GRACE))

    async def test_one_that_is_too_short_is_refused(self, provided: Provided) -> None:
        path = provided.config.feed_secret_path
        for secret in ("", "n", "n" * (MIN_CLIENT_SECRET_CHARACTERS - 1)):
            path.write_text(f"{secret}\n")
            with pytest.raises(ConfigError, match="OSTIARY_FEED_SECRET_FILE"):
                await prepare(provided.config)
        assert await provided.events() == [Event.CLIENT_CREATED]

    async def test_the_service_and_verifiers_read_the_same_out_of_the_file(self, provided: Provided) -> None:
        path = provided.config.feed_secret_path
        path.write_text(f" {'n' * MIN_CLIENT_SECRET_CHARACTERS} \r\n")
        await prepare(provided.config)
        feed = Feed(url="http://localhost/feed", client_id=VERIFIERS_CLIENT_ID, secret_file=path)
        assert await provided.authenticates(feed.secret())

    async def test_a_file_that_cannot_be_read_names_its_setting(self, provided: Provided) -> None:
        for path in (provided.config.data_dir, provided.config.data_dir / "missing" / "secret"):
            config = provided.config.model_copy(update={"feed_secret_file": path})
            with pytest.raises(ConfigError, match="OSTIARY_FEED_SECRET_FILE"):
                await prepare(config)

    async def test_what_an_operator_has_done_to_the_client_stays(self, provided: Provided) -> None:
        path = provided.config.feed_secret_path
        await provided.services.clients.disable(VERIFIERS_CLIENT_ID, Context(datetime.now(UTC)))
        path.write_text("n" * MIN_CLIENT_SECRET_CHARACTERS)
        await prepare(provided.config)
        client = await provided.services.clients.get(VERIFIERS_CLIENT_ID)
        assert client.disabled_at is not None
        assert not await provided.authenticates(path.read_text())
        await provided.services.clients.enable(VERIFIERS_CLIENT_ID, Context(datetime.now(UTC)))
        assert await provided.authenticates(path.read_text())

    async def test_of_several_replicas_that_start_first_each_does(self, provided: Provided) -> None:
        services, path = provided.services, provided.config.feed_secret_path
        context = Context(datetime.now(UTC))
        client = await services.clients.get(VERIFIERS_CLIENT_ID)
        # With connections for all of them, so that none comes late.
        await asyncio.gather(*(services.clients.get(VERIFIERS_CLIENT_ID) for _ in range(8)))
        await services.clients.delete(VERIFIERS_CLIENT_ID, context)
        secret = path.read_text().strip()
        await asyncio.gather(*(services.clients.ensure(client, secret, context) for _ in range(8)))
        assert await provided.authenticates(secret)
        assert await provided.events() == [Event.CLIENT_CREATED, Event.CLIENT_DELETED, Event.CLIENT_CREATED]
