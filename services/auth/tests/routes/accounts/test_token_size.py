"""Roles whose access tokens would not fit into a cookie are refused where they are set."""

from datetime import UTC, datetime
from typing import Any

import pytest
from admin import Admin, add_user
from browsers import TOKEN_COOKIE, cookies_of

from ostiary.browser import MAX_COOKIE_BYTES
from ostiary_auth.domain.accounts import model
from ostiary_auth.domain.errors import TokenTooLarge
from ostiary_auth.services import Services, check_token_size


@pytest.fixture
def wide(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Roles of which each one fits, and all together do not."""
    scopes = {f"wide{number}": tuple(f"scope-{number}-{count:04d}" for count in range(60)) for number in range(4)}
    monkeypatch.setattr(model, "SCOPES_OF_ROLE", {**model.SCOPES_OF_ROLE, **scopes})
    return list(scopes)


async def test_roles_that_are_too_many_for_a_cookie_are_refused_where_they_are_set(
    admin: Admin, services: Services, wide: list[str]
) -> None:
    user = await add_user(services, "eve", "user")
    path = f"/admin/users/{user.id}"
    assert (await admin.ask("PATCH", path, {"roles": wide[:1]})).status_code == 200
    assert await admin.refused("PATCH", path, {"roles": wide}) == (422, "token_too_large")
    assert (await services.accounts.get(user.id)).roles == (wide[0],)
    account: dict[str, Any] = {"email": "new@example.com", "password": "a long enough password", "roles": wide}
    assert await admin.refused("POST", "/admin/users", account) == (422, "token_too_large")


async def test_what_is_accepted_fits_with_name_and_attributes(
    admin: Admin, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = {"email": "new@example.com", "password": "a long enough password"}
    # One scope more each time, until it is refused.
    largest = 0
    for count in range(100, 200):
        monkeypatch.setitem(model.SCOPES_OF_ROLE, "wide", tuple(f"scope-{each:08d}" for each in range(count)))
        try:
            check_token_size(services.config, ("wide",), datetime.now(UTC))
        except TokenTooLarge:
            break
        largest = count
    assert 100 <= largest < 199
    monkeypatch.setitem(model.SCOPES_OF_ROLE, "wide", tuple(f"scope-{each:08d}" for each in range(largest)))
    assert (await admin.ask("POST", "/admin/users", {**account, "roles": ["wide"]})).status_code == 201
    response = await admin.client.post("/session", json=account)
    assert TOKEN_COOKIE in cookies_of(response)
    sizes = [len(field) for field in response.headers.get_list("set-cookie") if field.startswith(TOKEN_COOKIE)]
    assert MAX_COOKIE_BYTES - 60 <= sizes[0] <= MAX_COOKIE_BYTES
