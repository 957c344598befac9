"""`/auth/sessions`."""

from uuid import uuid4

import httpx
import pytest
from throttling import HOME
from users import ADA, bearer


class TestSessionList:
    @pytest.fixture
    async def two(self, client: httpx.AsyncClient) -> list[httpx.Response]:
        await client.post("/auth/register", json=ADA)
        agents = ["Mozilla/5.0 (X11; Linux x86_64; rv:127.0) Gecko/20100101 Firefox/127.0", "curl/8.5.0"]
        return [await client.post("/auth/login", json=ADA, headers={"User-Agent": agent}) for agent in agents]

    async def test_a_session_shows_where_and_with_what_it_was_opened(
        self, client: httpx.AsyncClient, two: list[httpx.Response]
    ) -> None:
        for number, own in enumerate(two):
            sessions = (await client.get("/auth/sessions", headers=bearer(own.json()))).json()["sessions"]
            shown = {session["id"]: session for session in sessions}
            ids = [each.json()["session_id"] for each in two]
            assert shown.keys() == set(ids)
            assert [shown[each]["device"] for each in ids] == ["Firefox on Linux", "curl"]
            assert [shown[each]["address"] for each in ids] == [HOME, HOME]
            assert [shown[each]["current"] for each in ids] == [number == 0, number == 1]

    async def test_a_session_of_ones_own_can_be_ended_once(
        self, client: httpx.AsyncClient, two: list[httpx.Response]
    ) -> None:
        own, other = two
        path = f"/auth/sessions/{other.json()['session_id']}"
        response = await client.delete(path, headers=bearer(own.json()))
        assert (response.status_code, response.json()) == (200, {"revoked": 1})
        refreshed = await client.post("/auth/refresh", json={"refresh_token": other.json()["refresh_token"]})
        assert refreshed.status_code == 401
        again = await client.delete(path, headers=bearer(own.json()))
        assert (again.status_code, again.json()["code"]) == (404, "session_not_found")
        (left,) = (await client.get("/auth/sessions", headers=bearer(own.json()))).json()["sessions"]
        assert left["id"] == own.json()["session_id"]

    async def test_anothers_session_cannot_be_ended(self, client: httpx.AsyncClient, two: list[httpx.Response]) -> None:
        eve = {**ADA, "email": "eve@example.com"}
        await client.post("/auth/register", json=eve)
        eves = await client.post("/auth/login", json=eve)
        for session_id, status in ((two[0].json()["session_id"], 404), (uuid4(), 404), ("x", 422)):
            response = await client.delete(f"/auth/sessions/{session_id}", headers=bearer(eves.json()))
            assert response.status_code == status
        sessions = (await client.get("/auth/sessions", headers=bearer(two[0].json()))).json()["sessions"]
        assert len(sessions) == 2
        assert len((await client.get("/auth/sessions", headers=bearer(eves.json()))).json()["sessions"]) == 1
