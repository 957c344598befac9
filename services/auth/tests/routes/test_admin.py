"""The admin API: who may use it, and what each of its operations does."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from ostiary_auth.domain.accounts.model import User
from ostiary_auth.domain.context import Context
from ostiary_auth.domain.errors import InvalidClient
from ostiary_auth.domain.oauth.clients import OLD_SECRET_GRACE
from ostiary_auth.domain.oauth.model import FIRST_PARTY_CLIENT_ID, Credentials
from ostiary_auth.services import Services
from ostiary_auth.storage.audit.tables import audit_log
from ostiary_auth.storage.keys.tables import signing_keys
from ostiary_chassis.client_ids import VERIFIERS_CLIENT_ID

PASSWORD = "correct horse battery staple"

ADA = {"email": "ada@example.com", "password": "correct horse battery staple"}
NOBODY = UUID(int=1)
REPORTS = {"id": "reports", "name": "Nightly reports", "scopes": ["orders:read"]}
PUBLIC_KEY = {
    "kty": "EC",
    "crv": "P-256",
    "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
    "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
}

#: Entries of the audit log that preparing the service makes: two keys, and the client of the stack's own verifiers.
PREPARED_ENTRIES = 3

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


class Admin:
    """Somebody with a token, and the API."""

    def __init__(self, client: httpx.AsyncClient, user: User, token: str) -> None:
        self.client = client
        self.user = user
        self.headers = {"Authorization": f"Bearer {token}"}

    async def ask(self, method: str, path: str, body: object = None) -> httpx.Response:
        return await self.client.request(method, path, json=body, headers=self.headers)

    async def get(self, path: str) -> Any:
        response = await self.ask("GET", path)
        assert response.status_code == 200, response.text
        return response.json()

    async def refused(self, method: str, path: str, body: object = None) -> tuple[int, str]:
        response = await self.ask(method, path, body)
        assert response.headers["Content-Type"] == "application/problem+json"
        return response.status_code, response.json()["code"]

    async def last_entry(self) -> Any:
        return (await self.get("/admin/audit?limit=200"))["entries"][-1]

    async def client_token(self, secret: str, client_id: str = "reports") -> httpx.Response:
        form = {"grant_type": "client_credentials", "client_id": client_id, "client_secret": secret}
        return await self.client.post("/oauth/token", data=form)


async def add_user(services: Services, name: str, *roles: str) -> User:
    """Add a user who cannot log in, which saves the time to hash a password."""
    email = f"{name}@example.com"
    user = User(uuid4(), email, email, None, "-", roles, None, datetime.now(UTC))
    async with services.store.write() as transaction:
        await transaction.users.add(user)
    return user


async def open_session(services: Services, user: User) -> tuple[str, str]:
    """Return the access and the refresh token of a new session."""
    context = Context(datetime.now(UTC), source="203.0.113.9", user_agent="Test/1.0")
    async with services.store.write() as transaction:
        grant = await services.sessions.open(transaction, user, FIRST_PARTY_CLIENT_ID, context)
    return (await services.tokens.for_session(grant, context.now)).token, grant.refresh_token


async def logged_in(services: Services, client: httpx.AsyncClient, name: str, *roles: str) -> Admin:
    user = await add_user(services, name, *roles)
    access, _ = await open_session(services, user)
    return Admin(client, user, access)


@pytest.fixture
async def admin(services: Services, client: httpx.AsyncClient) -> Admin:
    return await logged_in(services, client, "admin", "admin", "user")


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


class TestUsers:
    async def test_an_account_is_opened_for_somebody(self, admin: Admin) -> None:
        response = await admin.ask("POST", "/admin/users", {**ADA, "display_name": " Ada ", "roles": ["user", "admin"]})
        assert response.status_code == 201
        user = response.json()
        assert user.keys() == {"id", "email", "display_name", "roles", "disabled_at", "created_at"}
        assert (user["display_name"], user["roles"], user["disabled_at"]) == ("Ada", ["admin", "user"], None)
        assert await admin.get(f"/admin/users/{user['id']}") == user
        entry = await admin.last_entry()
        assert (entry["event"], entry["actor"]) == ("user.created", f"user:{admin.user.id}")
        assert entry["subject"] == f"user:{user['id']}"
        assert entry["personal"].keys() == {"source", "user_agent"}
        login = await admin.client.post("/auth/login", json=ADA)
        assert login.json()["scope"] == "admin profile:read profile:read:any profile:write"

    async def test_an_account_that_cannot_be_is_refused(self, admin: Admin) -> None:
        refusals: list[tuple[dict[str, object], int, str]] = [
            ({"email": "admin@example.com"}, 409, "email_taken"),
            ({"roles": ["nobility"]}, 422, "unknown_role"),
            ({"password": "short"}, 422, "unacceptable_password"),
            ({"email": "ada"}, 422, "invalid_email"),
            ({"disabled": True}, 422, "invalid_request"),
        ]
        for change, status, code in refusals:
            assert await admin.refused("POST", "/admin/users", {**ADA, **change}) == (status, code)
        assert len((await admin.get("/admin/users"))["users"]) == 1

    async def test_users_come_in_pages(self, admin: Admin, services: Services) -> None:
        expected = {str((await add_user(services, f"user{number}", "user")).id) for number in range(4)}
        expected.add(str(admin.user.id))
        seen: list[str] = []
        page: dict[str, Any] = {"next": None}
        while not seen or page["next"]:
            after = f"&after={page['next']}" if page["next"] else ""
            page = await admin.get(f"/admin/users?limit=2{after}")
            assert len(page["users"]) <= 2
            seen += [user["id"] for user in page["users"]]
        assert seen == sorted(expected)

    async def test_a_page_that_cannot_be_is_refused(self, admin: Admin) -> None:
        for query in ("users?limit=0", "users?limit=201", "users?after=x", "clients?after=%00", "clients?limit=x"):
            assert await admin.refused("GET", f"/admin/{query}") == (422, "invalid_request"), query
        for query in (f"after={2**63}", "after=-1", "subject=%00", "limit=1000"):
            assert await admin.refused("GET", f"/admin/audit?{query}") == (422, "invalid_request"), query

    async def test_a_disabled_user_is_out_until_they_are_enabled(self, admin: Admin) -> None:
        user_id = (await admin.ask("POST", "/admin/users", ADA)).json()["id"]
        tokens = (await admin.client.post("/auth/login", json=ADA)).json()
        response = await admin.ask("PATCH", f"/admin/users/{user_id}", {"disabled": True})
        assert response.json()["disabled_at"] is not None
        refresh = {"refresh_token": tokens["refresh_token"]}
        assert (await admin.client.post("/auth/refresh", json=refresh)).status_code == 401
        login = await admin.client.post("/auth/login", json=ADA)
        assert (login.status_code, login.json()["code"]) == (401, "invalid_credentials")
        response = await admin.ask("PATCH", f"/admin/users/{user_id}", {"disabled": False})
        assert response.json()["disabled_at"] is None
        assert (await admin.client.post("/auth/login", json=ADA)).status_code == 200
        # The session that was ended stays so.
        assert (await admin.client.post("/auth/refresh", json=refresh)).status_code == 401

    async def test_new_roles_count_from_the_next_token_on(self, admin: Admin, services: Services) -> None:
        user = await add_user(services, "ada", "user")
        _, refresh_token = await open_session(services, user)
        response = await admin.ask("PATCH", f"/admin/users/{user.id}", {"roles": ["admin", "admin"]})
        assert response.json()["roles"] == ["admin"]
        assert (await admin.last_entry())["facts"] == {"roles": ["admin"]}
        tokens = (await admin.client.post("/auth/refresh", json={"refresh_token": refresh_token})).json()
        assert tokens["scope"] == "admin profile:read:any"
        body = {"roles": ["nobility"], "disabled": True}
        assert await admin.refused("PATCH", f"/admin/users/{user.id}", body) == (422, "unknown_role")
        after = await admin.get(f"/admin/users/{user.id}")
        assert (after["roles"], after["disabled_at"]) == (["admin"], None)

    async def test_what_is_left_out_of_a_change_stays(self, admin: Admin, services: Services) -> None:
        user = await add_user(services, "ada", "user")
        before = await admin.get(f"/admin/users/{user.id}")
        assert (await admin.ask("PATCH", f"/admin/users/{user.id}", {})).json() == before
        body = {"roles": [], "disabled": True}
        changed = (await admin.ask("PATCH", f"/admin/users/{user.id}", body)).json()
        assert (changed["roles"], changed["email"]) == ([], before["email"])

    async def test_all_sessions_of_a_user_are_ended(self, admin: Admin, services: Services) -> None:
        user = await add_user(services, "ada", "user")
        _, refresh_token = await open_session(services, user)
        await open_session(services, user)
        response = await admin.ask("DELETE", f"/admin/users/{user.id}/sessions")
        assert response.json() == {"revoked": 2}
        response = await admin.client.post("/auth/refresh", json={"refresh_token": refresh_token})
        assert response.status_code == 401
        assert (await admin.last_entry())["facts"]["reason"] == "ended_by_admin"
        assert (await admin.get("/admin/users"))["users"]

    async def test_a_deleted_user_is_gone(self, admin: Admin, services: Services) -> None:
        user = await add_user(services, "ada", "user")
        _, refresh_token = await open_session(services, user)
        response = await admin.ask("DELETE", f"/admin/users/{user.id}")
        assert (response.status_code, response.content) == (204, b"")
        for method in ("GET", "DELETE"):
            assert await admin.refused(method, f"/admin/users/{user.id}") == (404, "user_not_found")
        response = await admin.client.post("/auth/refresh", json={"refresh_token": refresh_token})
        assert response.status_code == 401
        assert (await admin.get("/admin/audit/verify"))["intact"]

    async def test_an_export_has_all_that_is_stored_and_no_secrets(self, admin: Admin, services: Services) -> None:
        user = await add_user(services, "ada", "user")
        await open_session(services, user)
        await admin.ask("PATCH", f"/admin/users/{user.id}", {"disabled": True})
        export = await admin.get(f"/admin/users/{user.id}/export")
        assert export.keys() == {"user", "sessions", "audit"}
        assert export["user"]["email"] == "ada@example.com"
        (session,) = export["sessions"]
        assert (session["address"], session["user_agent"]) == ("203.0.113.9", "Test/1.0")
        assert session["ended_at"] is not None
        assert [entry["event"] for entry in export["audit"]] == ["session.ended", "user.disabled"]
        text = str(export)
        assert "salt" not in text
        assert "password" not in text


class TestClients:
    async def create(self, admin: Admin) -> str:
        response = await admin.ask("POST", "/admin/clients", REPORTS)
        assert response.status_code == 201
        return str(response.json()["secret"])

    async def test_a_client_gets_a_secret_that_is_shown_once(self, admin: Admin) -> None:
        response = await admin.ask("POST", "/admin/clients", REPORTS)
        created = response.json()
        assert created["client"] == {
            "id": "reports",
            "name": "Nightly reports",
            "grants": ["client_credentials"],
            "scopes": ["orders:read"],
            "audiences": ["ostiary"],
            "authentication": "client_secret",
            "disabled_at": None,
            "created_at": created["client"]["created_at"],
        }
        assert await admin.get("/admin/clients/reports") == created["client"]
        token = await admin.client_token(created["secret"])
        assert (token.status_code, token.json()["scope"]) == (200, "orders:read")
        assert created["secret"] not in str(await admin.get("/admin/audit"))

    async def test_a_client_with_public_keys_has_no_secret(self, admin: Admin) -> None:
        body = {**REPORTS, "jwks": {"keys": [PUBLIC_KEY]}}
        created = (await admin.ask("POST", "/admin/clients", body)).json()
        assert created["secret"] is None
        assert created["client"]["authentication"] == "private_key_jwt"
        refused = await admin.refused("POST", "/admin/clients/reports/secret")
        assert refused == (422, "invalid_client_settings")

    async def test_a_client_that_cannot_be_is_refused(self, admin: Admin) -> None:
        changes: list[dict[str, object]] = [
            {"id": "Reports"},
            {"id": "first-party"},
            {"id": "abcdef00-0000-4000-8000-000000000000"},
            {"scopes": ["two words"]},
            {"audiences": []},
            {"jwks": {"keys": []}},
            {"jwks": {"keys": [{**PUBLIC_KEY, "d": "AA"}]}},
        ]
        for change in changes:
            refused = await admin.refused("POST", "/admin/clients", {**REPORTS, **change})
            assert refused == (422, "invalid_client_settings"), change
        clients = (await admin.get("/admin/clients"))["clients"]
        assert [client["id"] for client in clients] == [VERIFIERS_CLIENT_ID]

    async def test_an_id_is_given_once(self, admin: Admin) -> None:
        await self.create(admin)
        assert await admin.refused("POST", "/admin/clients", REPORTS) == (409, "client_taken")

    async def test_clients_come_in_pages(self, admin: Admin) -> None:
        for number in (2, 1, 3):
            await admin.ask("POST", "/admin/clients", {**REPORTS, "id": f"client{number}"})
        first = await admin.get("/admin/clients?limit=2")
        assert ([client["id"] for client in first["clients"]], first["next"]) == (["client1", "client2"], "client2")
        # Whether the last page is full or not, nothing comes after it.
        for limit in (2, 3):
            last = await admin.get(f"/admin/clients?limit={limit}&after={first['next']}")
            assert [client["id"] for client in last["clients"]] == ["client3", VERIFIERS_CLIENT_ID]
            assert last["next"] is None

    async def test_a_secret_is_good_for_a_day_after_it_was_rotated(self, admin: Admin, services: Services) -> None:
        old = await self.create(admin)
        rotated_at = datetime.now(UTC)
        new = (await admin.ask("POST", "/admin/clients/reports/secret")).json()["secret"]
        assert new != old
        for secret in (old, new):
            assert (await admin.client_token(secret)).status_code == 200
        in_grace = Context(rotated_at + OLD_SECRET_GRACE - timedelta(seconds=1))
        assert (await services.clients.authenticate(Credentials("reports", old), in_grace)).id == "reports"
        # What is remembered of a client is forgotten by then.
        after = Context(rotated_at + OLD_SECRET_GRACE + timedelta(minutes=1))
        with pytest.raises(InvalidClient):
            await services.clients.authenticate(Credentials("reports", old), after)
        assert (await services.clients.authenticate(Credentials("reports", new), after)).id == "reports"
        await admin.ask("POST", "/admin/clients/reports/secret")
        assert (await admin.client_token(old)).status_code == 401

    async def test_a_disabled_client_is_out_until_it_is_enabled(self, admin: Admin) -> None:
        secret = await self.create(admin)
        assert (await admin.client_token(secret)).status_code == 200
        response = await admin.ask("PATCH", "/admin/clients/reports", {"disabled": True})
        assert response.json()["disabled_at"] is not None
        refused = await admin.client_token(secret)
        assert (refused.status_code, refused.json()["error"]) == (401, "invalid_client")
        response = await admin.ask("PATCH", "/admin/clients/reports", {"disabled": False})
        assert response.json()["disabled_at"] is None
        assert (await admin.client_token(secret)).status_code == 200

    async def test_a_deleted_client_is_gone(self, admin: Admin) -> None:
        secret = await self.create(admin)
        assert (await admin.client_token(secret)).status_code == 200
        assert (await admin.ask("DELETE", "/admin/clients/reports")).status_code == 204
        assert await admin.refused("GET", "/admin/clients/reports") == (404, "client_not_found")
        assert (await admin.client_token(secret)).status_code == 401


class TestKeys:
    async def states(self, admin: Admin) -> dict[str, str]:
        keys = (await admin.get("/admin/keys"))["keys"]
        return {key["state"]: key["kid"] for key in keys}

    async def test_keys_are_listed_without_what_is_secret(self, admin: Admin, services: Services) -> None:
        keys = (await admin.get("/admin/keys"))["keys"]
        assert [key.keys() for key in keys] == [{"kid", "state", "since", "created_at"}] * 2
        assert {key["kid"] for key in keys} == {key.kid for key in services.local_keys.ring().published}

    async def test_a_rotation_too_early_says_when(self, admin: Admin, services: Services) -> None:
        async with services.database.write() as connection:
            await connection.execute(signing_keys.update().values(since=datetime.now(UTC)))
        response = await admin.ask("POST", "/admin/keys/rotate")
        assert (response.status_code, response.json()["code"]) == (409, "key_not_ready")
        assert 0 < int(response.headers["Retry-After"]) <= 600

    async def test_the_next_key_is_made_to_sign(self, admin: Admin, services: Services) -> None:
        before = await self.states(admin)
        async with services.database.write() as connection:
            long_ago = datetime.now(UTC) - timedelta(days=1)
            await connection.execute(signing_keys.update().values(since=long_ago))
        response = await admin.ask("POST", "/admin/keys/rotate")
        assert response.status_code == 200
        after = {key["state"]: key["kid"] for key in response.json()["keys"]}
        assert (after["signing"], after["retired"]) == (before["next"], before["signing"])
        assert after == await self.states(admin)

    async def test_a_key_is_revoked(self, admin: Admin) -> None:
        before = await self.states(admin)
        response = await admin.ask("POST", f"/admin/keys/{before['next']}/revoke")
        assert response.status_code == 200
        after = await self.states(admin)
        assert after["signing"] == before["signing"]
        assert before["next"] not in after.values()
        assert await admin.refused("POST", f"/admin/keys/{before['next']}/revoke") == (404, "key_not_found")


class TestAudit:
    async def test_the_log_comes_in_pages(self, admin: Admin) -> None:
        for number in range(3):
            await admin.ask("POST", "/admin/clients", {**REPORTS, "id": f"client{number}"})
        numbers = list(range(1, PREPARED_ENTRIES + 4))
        first = await admin.get("/admin/audit?limit=4")
        assert ([entry["number"] for entry in first["entries"]], first["next"]) == (numbers[:4], 4)
        second = await admin.get(f"/admin/audit?limit=4&after={first['next']}")
        assert ([entry["number"] for entry in second["entries"]], second["next"]) == (numbers[4:], None)

    async def test_the_log_is_searched_by_subject(self, admin: Admin) -> None:
        for client_id in ("reports", "others", "reports-2"):
            await admin.ask("POST", "/admin/clients", {**REPORTS, "id": client_id})
        entries = (await admin.get("/admin/audit?subject=client:reports"))["entries"]
        assert [(entry["event"], entry["subject"]) for entry in entries] == [("client.created", "client:reports")]

    async def test_an_entry_does_not_show_its_salt(self, admin: Admin) -> None:
        await admin.ask("POST", "/admin/clients", REPORTS)
        entry = await admin.last_entry()
        assert entry["personal"]["source"] == "192.0.2.7"
        assert "salt" not in entry["personal"]

    async def test_the_log_is_verified(self, admin: Admin, services: Services) -> None:
        await admin.ask("POST", "/admin/clients", REPORTS)
        head = (await admin.last_entry())["mac"]
        whole = {"intact": True, "entries": PREPARED_ENTRIES + 1, "broken_at": None, "head": head}
        assert await admin.get("/admin/audit/verify") == whole
        async with services.database.write() as connection:
            await connection.execute(audit_log.update().where(audit_log.c.number == 2).values(actor="nobody"))
        report = await admin.get("/admin/audit/verify")
        assert (report["intact"], report["entries"], report["broken_at"]) == (False, 1, 2)


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
        async with services.store.write() as transaction:
            user = await transaction.users.get(user_id)
            assert user is not None
            await transaction.users.replace(replace(user, roles=("user",)))
        response = await client.patch(f"/admin/users/{user_id}", json={"roles": ["admin"]}, headers=bearer)
        assert (response.status_code, response.json()["code"]) == (403, "insufficient_scope")
        await services.accounts.delete(user_id, Context(datetime.now(UTC)))
        assert (await client.get("/admin/users", headers=bearer)).status_code == 401
