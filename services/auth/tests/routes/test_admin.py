"""Access to `/admin`."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import httpx
import pytest
from admin import REPORTS, Admin, logged_in
from users import ADA, PASSWORD

from ostiary_auth.domain.context import Context
from ostiary_auth.domain.oauth.model import FIRST_PARTY_CLIENT_ID
from ostiary_auth.services import Services

NOBODY = UUID(int=1)
REVOKE_ALL = "/admin/tokens/revoke"


#: Every operation, with a path and a body that it takes; what they name does not exist.
OPERATIONS: list[tuple[str, str, object]] = [
    ("GET", "/admin/users", None),
    ("POST", "/admin/users", {**ADA, "roles": ["nobility"]}),
    ("GET", f"/admin/users/{NOBODY}", None),
    ("PATCH", f"/admin/users/{NOBODY}", {"disabled": True}),
    ("DELETE", f"/admin/users/{NOBODY}", None),
    ("DELETE", f"/admin/users/{NOBODY}/sessions", None),
    ("GET", f"/admin/users/{NOBODY}/export", None),
    ("GET", "/admin/clients", None),
    ("POST", "/admin/clients", {**REPORTS, "id": "Not an id"}),
    ("GET", "/admin/clients/nobody", None),
    ("PATCH", "/admin/clients/nobody", {"disabled": True}),
    ("POST", "/admin/clients/nobody/secret", None),
    ("DELETE", "/admin/clients/nobody", None),
    ("GET", "/admin/keys", None),
    ("POST", "/admin/keys/rotate", None),
    ("POST", "/admin/keys/nothing/revoke", None),
    ("GET", "/admin/audit", None),
    ("GET", "/admin/audit/verify", None),
    ("GET", "/admin/verifiers", None),
    # The last one, as it ends the caller's own token too.
    ("POST", REVOKE_ALL, None),
]


PARAMETERS = {"{user_id}": str(NOBODY), "{client_id}": "nobody", "{kid}": "nothing"}


class TestAccess:
    async def test_every_operation_is_tried(self, client: httpx.AsyncClient) -> None:
        document = (await client.get("/openapi.json")).json()
        tried = {(method, path.partition("?")[0]) for method, path, _ in OPERATIONS}
        for path, operations in document["paths"].items():
            for name, value in PARAMETERS.items():
                path = path.replace(name, value)  # noqa: PLW2901
            if path.startswith("/admin"):
                assert {(method.upper(), path) for method in operations} <= tried

    async def test_nobody_gets_in_without_a_token(self, client: httpx.AsyncClient) -> None:
        for method, path, body in OPERATIONS:
            response = await client.request(method, path, json=body)
            assert (response.status_code, response.json()["code"]) == (401, "missing_token"), (method, path)
            assert response.headers["WWW-Authenticate"] == 'Bearer realm="ostiary"'
        # What a visitor sends is not looked at.
        assert (await client.post("/admin/users", json={"nonsense": True})).status_code == 401

    async def test_an_ordinary_user_does_not_get_in(self, services: Services, client: httpx.AsyncClient) -> None:
        user = await logged_in(services, client, "ada", "user")
        for method, path, body in OPERATIONS:
            response = await user.ask(method, path, body)
            assert (response.status_code, response.json()["code"]) == (403, "insufficient_scope"), (method, path)

    async def test_an_admin_gets_in_everywhere(self, admin: Admin) -> None:
        for method, path, body in OPERATIONS:
            response = await admin.ask(method, path, body)
            expected = {204} if path == REVOKE_ALL else {200, 404, 409, 422}
            assert response.status_code in expected, (method, path, response.text)

    async def test_a_client_with_the_scope_is_an_admin_and_no_user(self, admin: Admin) -> None:
        body = {**REPORTS, "scopes": ["admin"]}
        secret = (await admin.ask("POST", "/admin/clients", body)).json()["secret"]
        token = (await admin.client_token(secret)).json()["access_token"]
        program = Admin(admin.client, admin.user, token)
        assert (await program.get("/admin/users"))["users"][0]["email"] == "admin@example.com"
        await program.ask("DELETE", f"/admin/users/{admin.user.id}/sessions")
        assert (await program.last_entry())["actor"] == "client:reports"
        passwords = {"current_password": "x", "new_password": ADA["password"]}
        for method, path, content in (
            ("POST", "/auth/logout", None),
            ("GET", "/auth/sessions", None),
            ("DELETE", f"/auth/sessions/{NOBODY}", None),
            ("POST", "/auth/password", passwords),
        ):
            assert await program.refused(method, path, content) == (403, "not_a_user")


class TestRepeatedParameters:
    @pytest.mark.parametrize(
        "path",
        [
            "/admin/users?limit=1&limit=2",
            "/admin/users?limit=1&other=x&limit=1",
            f"/admin/users?after={NOBODY}&limit=1&after={NOBODY}",
            "/admin/clients?after=a&after=b",
            "/admin/audit?subject=a&subject=b",
            "/admin/audit?after=0&%61fter=0",
        ],
    )
    async def test_one_that_is_known_is_refused(self, admin: Admin, path: str) -> None:
        response = await admin.ask("GET", path)
        assert (response.status_code, response.json()["code"]) == (422, "invalid_request")
        assert "is repeated: send it once." in response.json()["detail"]

    @pytest.mark.parametrize("path", ["/admin/users?other=1&other=2&limit=1", "/admin/keys?limit=1&limit=2"])
    async def test_one_that_is_not_is_ignored(self, admin: Admin, path: str) -> None:
        assert (await admin.ask("GET", path)).status_code == 200


class TestWhoIsAnAdminNoMore:
    """A token says what was so when it was issued; here that is looked up again."""

    @pytest.fixture
    async def mallory(self, services: Services) -> tuple[UUID, dict[str, str]]:
        context = Context(datetime.now(UTC))
        user = await services.accounts.create("mallory@example.com", PASSWORD, None, ("user", "admin"), context)
        async with services.store.write() as transaction:
            grant = await services.sessions.open(transaction, user, FIRST_PARTY_CLIENT_ID, context)
        services.local_keys.use(await services.keys.load())
        token = (await services.tokens.for_session(grant, context.now)).token
        return user.id, {"Authorization": f"Bearer {token}"}

    async def store(self, services: Services, user_id: UUID, **changes: Any) -> None:
        """Change a user in the store, without what else comes with the change."""
        async with services.store.write() as transaction:
            user = await transaction.users.get(user_id)
            assert user is not None
            await transaction.users.replace(replace(user, **changes))

    async def test_who_was_disabled_cannot_enable_themselves(
        self, client: httpx.AsyncClient, services: Services, mallory: tuple[UUID, dict[str, str]]
    ) -> None:
        user_id, bearer = mallory
        assert (await client.get("/admin/users", headers=bearer)).status_code == 200
        await services.accounts.disable(user_id, Context(datetime.now(UTC)))
        response = await client.patch(f"/admin/users/{user_id}", json={"disabled": False}, headers=bearer)
        assert (response.status_code, response.json()["code"]) == (401, "revoked")
        body = {"current_password": PASSWORD, "new_password": "a whole new staple"}
        assert (await client.post("/auth/password", json=body, headers=bearer)).status_code == 401

    async def test_whose_role_was_taken_away_has_it_no_more(
        self, client: httpx.AsyncClient, services: Services, mallory: tuple[UUID, dict[str, str]]
    ) -> None:
        user_id, bearer = mallory
        # Without the revocation that comes with it: the token may still be good for who has not heard of that.
        await self.store(services, user_id, roles=("user",))
        response = await client.patch(f"/admin/users/{user_id}", json={"roles": ["admin"]}, headers=bearer)
        assert (response.status_code, response.json()["code"]) == (403, "insufficient_scope")
        await services.accounts.delete(user_id, Context(datetime.now(UTC)))
        assert (await client.get("/admin/users", headers=bearer)).status_code == 401

    async def test_who_was_disabled_is_out_though_their_session_has_not_ended(
        self, client: httpx.AsyncClient, services: Services, mallory: tuple[UUID, dict[str, str]]
    ) -> None:
        user_id, bearer = mallory
        # Disabling a user does not end sessions that are idle for too long.
        await self.store(services, user_id, disabled_at=datetime.now(UTC))
        for path in ("/admin/users", "/auth/sessions"):
            response = await client.get(path, headers=bearer)
            assert (response.status_code, response.json()["code"]) == (401, "revoked")
