"""`/admin/clients`."""

from datetime import UTC, datetime, timedelta

import pytest
from admin import REPORTS, Admin
from client_keys import PUBLIC_KEY

from ostiary_auth.domain.context import Context
from ostiary_auth.domain.errors import InvalidClient
from ostiary_auth.domain.oauth.clients import OLD_SECRET_GRACE
from ostiary_auth.domain.oauth.model import Credentials
from ostiary_auth.services import Services
from ostiary_chassis.client_ids import GATEWAYS_CLIENT_ID, VERIFIERS_CLIENT_ID


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
        assert [client["id"] for client in clients] == [GATEWAYS_CLIENT_ID, VERIFIERS_CLIENT_ID]

    async def test_an_id_is_given_once(self, admin: Admin) -> None:
        await self.create(admin)
        assert await admin.refused("POST", "/admin/clients", REPORTS) == (409, "client_taken")

    async def test_clients_come_in_pages(self, admin: Admin) -> None:
        for number in (2, 1, 3):
            await admin.ask("POST", "/admin/clients", {**REPORTS, "id": f"client{number}"})
        first = await admin.get("/admin/clients?limit=2")
        assert ([client["id"] for client in first["clients"]], first["next"]) == (["client1", "client2"], "client2")
        # Whether the last page is full or not, nothing comes after it.
        for limit in (3, 4):
            last = await admin.get(f"/admin/clients?limit={limit}&after={first['next']}")
            assert [client["id"] for client in last["clients"]] == ["client3", GATEWAYS_CLIENT_ID, VERIFIERS_CLIENT_ID]
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
