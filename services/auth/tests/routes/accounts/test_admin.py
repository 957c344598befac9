"""`/admin/users`."""

from typing import Any

from admin import Admin, add_user, open_session
from users import ADA

from ostiary_auth.services import Services


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
