"""`/admin/keys`."""

from datetime import UTC, datetime, timedelta

from admin import Admin

from ostiary_auth.services import Services
from ostiary_auth.storage.keys.tables import signing_keys


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
