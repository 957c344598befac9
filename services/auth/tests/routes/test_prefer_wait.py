"""`Prefer: wait=S` (RFC 7240): the answer to a call that revokes something comes when that is in force everywhere."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
import pytest_asyncio
from starlette.requests import Request
from starlette.responses import Response
from users import PASSWORD, new_user

from ostiary.feed import EVERYTHING, Kind
from ostiary_auth.config import AuthConfig
from ostiary_auth.domain.accounts.model import User
from ostiary_auth.domain.context import Context
from ostiary_auth.domain.keys.model import KeyState
from ostiary_auth.domain.oauth.model import FIRST_PARTY_CLIENT_ID, Client
from ostiary_auth.domain.sessions.model import Grant
from ostiary_auth.routes import prefer_wait
from ostiary_auth.routes.prefer_wait import MAX_WAIT_SECONDS, apply_prefer_wait
from ostiary_auth.services import Services
from ostiary_chassis.client_ids import VERIFIERS_CLIENT_ID
from ostiary_chassis.verifying import DEFAULT_MAX_STALENESS

SOON = 10.0
WAITED = {"revoked", "cursor", "acknowledged_by", "in_force_after_ms", "complete"}

#: One application serves all tests here, as making one takes longer than most of them.
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module")
def shared_config(
    copy: Callable[[Path], AbstractContextManager[AuthConfig]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[AuthConfig]:
    with copy(tmp_path_factory.mktemp("waiting")) as config:
        # Small keys are made in a tenth of the time.
        yield config.model_copy(update={"rsa_bits": 1024})


@dataclass
class Login:
    """Somebody who is logged in."""

    user: User
    grant: Grant
    token: str

    @property
    def session_id(self) -> UUID:
        return self.grant.session.id

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}


@dataclass(frozen=True)
class Call:
    """A call that revokes something: how it is made, what it revokes, and how it answers if nobody waits."""

    method: str
    path: str
    headers: Mapping[str, str]
    revokes: list[tuple[Kind, str]]
    status: int
    keys: set[str]
    json: object = None
    form: Mapping[str, str] | None = None


class Calls:
    """Calls, on people and clients of their own."""

    def __init__(self, http: httpx.AsyncClient, services: Services) -> None:
        self.http = http
        self.services = services

    async def make(self, call: Call, *prefer: str) -> httpx.Response:
        fields = [*call.headers.items(), *(("Prefer", each) for each in prefer)]
        return await self.http.request(call.method, call.path, headers=fields, json=call.json, data=call.form)

    async def log_in(self, user: User | None = None, *roles: str, password: str | None = None) -> Login:
        now = datetime.now(UTC)
        if user is None:
            hashed = "-" if password is None else await self.services.hasher.hash(password)
            user = new_user(f"{uuid4()}@example.com", *roles, password_hash=hashed, at=now)
            async with self.services.store.write() as transaction:
                await transaction.users.add(user)
        async with self.services.store.write() as transaction:
            grant = await self.services.sessions.open(transaction, user, FIRST_PARTY_CLIENT_ID, Context(now))
        return Login(user, grant, (await self.services.tokens.for_session(grant, now)).token)

    async def admin(self) -> Login:
        return await self.log_in(None, "admin")

    async def client(self) -> str:
        name = f"worker-{uuid4().hex[:8]}"
        client = Client(name, "Worker", ("client_credentials",), (), ("ostiary",))
        await self.services.clients.create(client, Context(datetime.now(UTC)))
        return name

    async def head(self) -> int:
        async with self.services.store.read() as transaction:
            return (await transaction.revocations.head()).number

    async def revoked_since(self, number: int) -> list[tuple[Kind, str]]:
        async with self.services.store.read() as transaction:
            head = await transaction.revocations.head()
            found = await transaction.revocations.after(number, head.number, 1000)
        return [(logged.kind, logged.target) for logged in found]


@pytest.fixture
def calls(shared_client: httpx.AsyncClient, shared_services: Services) -> Calls:
    return Calls(shared_client, shared_services)


async def logout(calls: Calls) -> Call:
    login = await calls.log_in()
    return Call("POST", "/auth/logout", login.headers, [(Kind.SESSION, str(login.session_id))], 200, {"revoked"})


async def global_logout(calls: Calls) -> Call:
    login = await calls.log_in()
    sessions = [login.session_id, (await calls.log_in(login.user)).session_id]
    revokes = [(Kind.SESSION, str(session)) for session in sessions]
    return Call("POST", "/auth/logout", login.headers, revokes, 200, {"revoked"}, json={"scope": "global"})


async def end_of_a_session(calls: Calls) -> Call:
    login = await calls.log_in()
    other = str((await calls.log_in(login.user)).session_id)
    return Call("DELETE", f"/auth/sessions/{other}", login.headers, [(Kind.SESSION, other)], 200, {"revoked"})


async def change_of_a_password(calls: Calls) -> Call:
    login = await calls.log_in(password=PASSWORD)
    other = str((await calls.log_in(login.user)).session_id)
    body = {"current_password": PASSWORD, "new_password": "a whole new battery staple"}
    return Call("POST", "/auth/password", login.headers, [(Kind.SESSION, other)], 204, set(), json=body)


USER = {"id", "email", "display_name", "roles", "created_at", "disabled_at"}


async def change_of_roles(calls: Calls) -> Call:
    user, admin = (await calls.log_in()).user, await calls.admin()
    revokes = [(Kind.SUBJECT, str(user.id))]
    return Call("PATCH", f"/admin/users/{user.id}", admin.headers, revokes, 200, USER, json={"roles": ["admin"]})


async def change_of_all_about_a_user(calls: Calls) -> Call:
    login, admin = await calls.log_in(), await calls.admin()
    revokes = [(Kind.SUBJECT, str(login.user.id)), (Kind.SESSION, str(login.session_id))]
    body = {"roles": ["admin"], "disabled": True}
    return Call("PATCH", f"/admin/users/{login.user.id}", admin.headers, revokes, 200, USER, json=body)


async def end_of_a_user(calls: Calls) -> Call:
    login, admin = await calls.log_in(), await calls.admin()
    revokes = [(Kind.SESSION, str(login.session_id))]
    return Call("DELETE", f"/admin/users/{login.user.id}", admin.headers, revokes, 204, set())


async def end_of_a_users_sessions(calls: Calls) -> Call:
    login, admin = await calls.log_in(), await calls.admin()
    revokes = [(Kind.SESSION, str(login.session_id))]
    return Call("DELETE", f"/admin/users/{login.user.id}/sessions", admin.headers, revokes, 200, {"revoked"})


async def disabling_a_client(calls: Calls) -> Call:
    name, admin = await calls.client(), await calls.admin()
    keys = {"id", "name", "grants", "scopes", "audiences", "authentication", "created_at", "disabled_at"}
    body = {"disabled": True}
    return Call("PATCH", f"/admin/clients/{name}", admin.headers, [(Kind.CLIENT, name)], 200, keys, json=body)


async def end_of_a_client(calls: Calls) -> Call:
    name, admin = await calls.client(), await calls.admin()
    return Call("DELETE", f"/admin/clients/{name}", admin.headers, [(Kind.CLIENT, name)], 204, set())


async def end_of_a_key(calls: Calls) -> Call:
    admin = await calls.admin()
    (kid,) = [key.kid for key in await calls.services.keys.stored() if key.state is KeyState.NEXT]
    return Call("POST", f"/admin/keys/{kid}/revoke", admin.headers, [(Kind.KEY, kid)], 200, {"keys"})


async def end_of_everything(calls: Calls) -> Call:
    admin = await calls.admin()
    return Call("POST", "/admin/tokens/revoke", admin.headers, [(Kind.ALL, EVERYTHING)], 204, set())


async def revocation_of_an_access_token(calls: Calls) -> Call:
    login = await calls.log_in()
    presented = calls.services.tokens.read(login.token)
    assert presented is not None
    form = {"client_id": FIRST_PARTY_CLIENT_ID, "token": login.token}
    return Call("POST", "/oauth/revoke", {}, [(Kind.TOKEN, presented.token.token_id)], 200, set(), form=form)


async def revocation_of_a_refresh_token(calls: Calls) -> Call:
    login = await calls.log_in()
    form = {"client_id": FIRST_PARTY_CLIENT_ID, "token": login.grant.refresh_token}
    return Call("POST", "/oauth/revoke", {}, [(Kind.SESSION, str(login.session_id))], 200, set(), form=form)


ALL_CALLS = [
    logout,
    global_logout,
    end_of_a_session,
    change_of_a_password,
    change_of_roles,
    change_of_all_about_a_user,
    end_of_a_user,
    end_of_a_users_sessions,
    disabling_a_client,
    end_of_a_client,
    end_of_a_key,
    end_of_everything,
    revocation_of_an_access_token,
    revocation_of_a_refresh_token,
]

#: One of a kind: with a body, without one, and one that is no JSON API.
SOME_CALLS = [logout, end_of_a_client, revocation_of_an_access_token]


def body_of(response: httpx.Response) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(response.content or b"{}")
    return body


@pytest.mark.parametrize("prepare", ALL_CALLS)
async def test_who_waits_is_told_since_when_it_is_in_force(
    calls: Calls, prepare: Callable[[Calls], Awaitable[Call]]
) -> None:
    call = await prepare(calls)
    before = await calls.head()
    response = await calls.make(call, "wait=10")
    body = body_of(response)
    assert sorted(await calls.revoked_since(before)) == sorted(call.revokes)
    assert response.status_code == 200
    assert response.headers["Preference-Applied"] == "wait"
    assert response.headers["Content-Type"] == "application/json"
    assert response.headers["Cache-Control"] == "no-store"
    assert body.keys() == call.keys | WAITED
    assert body["revoked"] == len(call.revokes)
    assert body["cursor"] == before + len(call.revokes)
    # The replica itself is a verifier.
    assert body["acknowledged_by"] >= 1
    assert body["complete"] is True
    assert 0 <= body["in_force_after_ms"] < SOON * 1000


@pytest.mark.parametrize("prepare", ALL_CALLS)
async def test_who_does_not_is_answered_as_ever(calls: Calls, prepare: Callable[[Calls], Awaitable[Call]]) -> None:
    call = await prepare(calls)
    before = await calls.head()
    response = await calls.make(call)
    assert sorted(await calls.revoked_since(before)) == sorted(call.revokes)
    assert response.status_code == call.status
    assert body_of(response).keys() == call.keys
    assert "Preference-Applied" not in response.headers


class TestWaiting:
    @pytest_asyncio.fixture(loop_scope="module")
    async def vanished(self, shared_services: Services) -> AsyncIterator[str]:
        """A verifier that nothing is heard of for ten minutes."""
        await shared_services.verifiers.on_poll("vanished", 0, "keys", 600_000)
        yield "vanished"
        await shared_services.verifiers.remove("vanished")

    @pytest.mark.usefixtures("vanished")
    @pytest.mark.parametrize("prepare", SOME_CALLS)
    async def test_when_the_time_is_up_the_answer_says_how_far_it_has_come(
        self, calls: Calls, prepare: Callable[[Calls], Awaitable[Call]]
    ) -> None:
        call = await prepare(calls)
        response = await calls.make(call, "wait=0")
        body = body_of(response)
        assert response.status_code == 200
        assert (body["complete"], body["in_force_after_ms"]) == (False, None)
        assert body["acknowledged_by"] >= 1
        assert (body["revoked"], body["cursor"]) == (len(call.revokes), await calls.head())

    @pytest.mark.usefixtures("vanished")
    async def test_it_takes_as_long_as_was_asked_for(self, calls: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(prefer_wait, "MAX_WAIT_SECONDS", 0.1)
        began_at = time.monotonic()
        body = body_of(await calls.make(await logout(calls), "wait=100000"))
        assert 0.1 <= time.monotonic() - began_at < SOON
        assert body["complete"] is False
        assert MAX_WAIT_SECONDS > DEFAULT_MAX_STALENESS

    async def test_it_comes_when_the_last_verifier_has_applied_it(
        self, calls: Calls, shared_config: AuthConfig
    ) -> None:
        verifier = f"orders-{uuid4().hex[:8]}"
        credentials = (VERIFIERS_CLIENT_ID, shared_config.feed_secret_path.read_text().strip())
        granted = await calls.http.post("/oauth/token", data={"grant_type": "client_credentials"}, auth=credentials)
        headers = {"Authorization": f"Bearer {granted.json()['access_token']}"}
        async with calls.services.store.read() as transaction:
            head = await transaction.revocations.head()

        async def acknowledge(number: int) -> None:
            """Ask, as somebody does who has applied all up to a number."""
            known: dict[str, str | int] = {"epoch": head.epoch, "after": number, "keys": "keys"}
            question = {**known, "wait": 0, "nonce": uuid4().hex, "verifier": verifier, "lease": 600_000}
            response = await calls.http.get("/feed", params=question, headers=headers)
            assert response.status_code == 200

        await acknowledge(head.number)
        waiting = asyncio.create_task(calls.make(await logout(calls), "wait=20"))
        async with asyncio.timeout(SOON):
            while await calls.head() == head.number:
                await asyncio.sleep(0)
        await acknowledge(head.number)
        assert not waiting.done()
        await acknowledge(head.number + 1)
        async with asyncio.timeout(SOON):
            body = body_of(await waiting)
        assert (body["cursor"], body["complete"]) == (head.number + 1, True)
        assert body["acknowledged_by"] >= 2
        await calls.http.delete("/feed", params={"verifier": verifier}, headers=headers)

    @pytest.mark.usefixtures("vanished")
    async def test_what_was_revoked_is_so_whether_or_not_anybody_waits(self, calls: Calls) -> None:
        login = await calls.log_in()
        call = Call("POST", "/auth/logout", login.headers, [], 200, set())
        assert body_of(await calls.make(call, "wait=0"))["complete"] is False
        response = await calls.make(call, "wait=0")
        assert (response.status_code, response.json()["code"]) == (401, "revoked")

    async def test_where_nothing_was_revoked_it_is_about_all_that_was_before(self, calls: Calls) -> None:
        call = await change_of_roles(calls)
        await calls.make(call)
        body = body_of(await calls.make(call, "wait=10"))
        assert (body["revoked"], body["cursor"], body["complete"]) == (0, await calls.head(), True)

    @pytest.mark.parametrize("prepare", [revocation_of_an_access_token, revocation_of_a_refresh_token])
    async def test_who_need_not_be_anybody_is_told_nothing_of_what_others_did(
        self, calls: Calls, prepare: Callable[[Calls], Awaitable[Call]]
    ) -> None:
        call = await prepare(calls)
        assert body_of(await calls.make(call, "wait=10"))["revoked"] == 1
        for token in ((call.form or {})["token"], "unknown"):
            again = replace(call, form={"client_id": FIRST_PARTY_CLIENT_ID, "token": token})
            response = await calls.make(again, "wait=10")
            assert (response.status_code, body_of(response)) == (200, {})
            assert "Preference-Applied" not in response.headers

    async def test_where_anybody_may_ask_nothing_is_told_that_has_not_come_of_it(self, calls: Calls) -> None:
        call = await revocation_of_an_access_token(calls)
        await calls.make(call)
        again = await calls.make(call, "wait=10")
        assert (again.status_code, again.json()) == (200, {})
        assert "Preference-Applied" not in again.headers


class TestPreference:
    @pytest.mark.parametrize(
        "prefer",
        [
            ["wait=5"],
            ["WAIT=5"],
            [" wait = 5 "],
            ['wait="5"'],
            ["respond-async, wait=5"],
            ["respond-async", "wait=5"],
            ["wait=5; foo=bar"],
            ["wait=5, wait=x"],
            ['handling=lenient; a="b", wait=5'],
            ["wait=000000005"],
        ],
    )
    async def test_one_that_can_be_read_is_kept_to(self, calls: Calls, prefer: list[str]) -> None:
        call = await revocation_of_a_refresh_token(calls)
        response = await calls.make(call, *prefer)
        assert response.headers["Preference-Applied"] == "wait"
        assert body_of(response).keys() == WAITED

    @pytest.mark.parametrize(
        "prefer",
        [
            [""],
            ["wait"],
            ["wait="],
            ["wait=x"],
            ["wait=-1"],
            ["wait=+1"],
            ["wait=1.5"],
            ["wait=1e3"],
            ["wait=5s"],
            ["wait=5 5"],
            ["wait=1234567890"],
            ["wait: 5"],
            ["waiting=5"],
            ["no-wait=5"],
            ["respond-async"],
            [",,;,"],
            ["wait=\u0665"],
        ],
    )
    async def test_one_that_cannot_is_none(self, calls: Calls, prefer: list[str]) -> None:
        call = await revocation_of_a_refresh_token(calls)
        fields = [(b"Prefer", each.encode()) for each in prefer]
        response = await calls.http.request(call.method, call.path, headers=fields, data=call.form)
        assert (response.status_code, body_of(response)) == (200, {})
        assert "Preference-Applied" not in response.headers

    async def test_where_nothing_can_be_revoked_it_says_nothing(self, calls: Calls) -> None:
        login = await calls.log_in()
        for path in ("/auth/me", "/auth/sessions"):
            response = await calls.http.get(path, headers={**login.headers, "Prefer": "wait=5"})
            assert response.status_code == 200
            assert "Preference-Applied" not in response.headers
            assert "cursor" not in response.json()


class TestFailures:
    async def test_a_failure_is_the_same_for_who_waits(self, calls: Calls) -> None:
        admin, user = await calls.admin(), await calls.log_in()
        failing = [
            ("POST", "/auth/logout", {}, None, 401),
            ("POST", "/auth/logout", user.headers, {"scope": "x"}, 422),
            ("DELETE", f"/auth/sessions/{uuid4()}", user.headers, None, 404),
            ("DELETE", "/auth/sessions/x", user.headers, None, 422),
            ("DELETE", f"/admin/users/{uuid4()}", admin.headers, None, 404),
            ("DELETE", f"/admin/users/{uuid4()}", user.headers, None, 403),
            ("PATCH", f"/admin/users/{user.user.id}", admin.headers, {"roles": ["x"]}, 422),
            ("DELETE", "/admin/clients/nobody", admin.headers, None, 404),
            ("POST", "/admin/keys/unknown/revoke", admin.headers, None, 404),
            ("POST", "/admin/tokens/revoke", {}, None, 401),
            ("GET", "/auth/logout", user.headers, None, 405),
        ]
        for method, path, headers, body, status in failing:
            without = await calls.http.request(method, path, headers=headers, json=body)
            waited = await calls.http.request(method, path, headers={**headers, "Prefer": "wait=5"}, json=body)
            assert without.status_code == waited.status_code == status, (method, path)
            assert waited.content == without.content
            assert waited.headers["Content-Type"] == without.headers["Content-Type"]
            assert "Preference-Applied" not in waited.headers

    async def test_an_oauth_refusal_is_the_same_for_who_waits(self, calls: Calls) -> None:
        for form, status in (({"client_id": "nobody", "token": "x"}, 401), ({"client_id": FIRST_PARTY_CLIENT_ID}, 400)):
            without = await calls.http.post("/oauth/revoke", data=form)
            waited = await calls.http.post("/oauth/revoke", data=form, headers={"Prefer": "wait=5"})
            assert without.status_code == waited.status_code == status
            assert waited.content == without.content
            assert "Preference-Applied" not in waited.headers

    async def test_half_a_change_that_failed_says_nothing_of_the_other_half(self, calls: Calls) -> None:
        admin = await calls.admin()
        user = (await calls.log_in()).user
        path, body = f"/admin/users/{user.id}", {"roles": ["nobility"], "disabled": True}
        before = await calls.head()
        response = await calls.http.patch(path, headers={**admin.headers, "Prefer": "wait=5"}, json=body)
        assert response.status_code == 422
        assert await calls.head() == before

    async def test_with_the_database_away_what_was_revoked_is_no_failure(
        self, calls: Calls, shared_services: Services, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def fail() -> None:
            raise OSError("away")

        monkeypatch.setattr(shared_services.feed, "refresh", fail)
        request = Request({"type": "http", "headers": [(b"prefer", b"wait=0")], "state": {}})
        request.state.revoked = (await calls.head(),)
        response = await apply_prefer_wait(shared_services, request, Response(b'{"revoked": 1}'))
        assert json.loads(bytes(response.body))["complete"] is False


async def test_the_openapi_document_has_it_where_it_works(calls: Calls) -> None:
    document = (await calls.http.get("/openapi.json")).json()
    waits = {
        f"{method.upper()} {path}"
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
        if any(parameter["name"] == "Prefer" for parameter in operation.get("parameters", ()))
    }
    assert waits >= {
        "POST /auth/logout",
        "DELETE /auth/sessions/{session_id}",
        "POST /auth/password",
        "PATCH /admin/users/{user_id}",
        "DELETE /admin/users/{user_id}",
        "DELETE /admin/users/{user_id}/sessions",
        "PATCH /admin/clients/{client_id}",
        "DELETE /admin/clients/{client_id}",
        "POST /admin/keys/{kid}/revoke",
        "POST /admin/tokens/revoke",
        "POST /oauth/revoke",
    }
    for operation in (document["paths"]["/admin/tokens/revoke"]["post"], document["paths"]["/auth/password"]["post"]):
        assert {"200", "204"} <= operation["responses"].keys()
