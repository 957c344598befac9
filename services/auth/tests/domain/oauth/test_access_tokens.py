"""How long access tokens are: browsers have to keep them in cookies."""

from datetime import UTC, datetime

import pytest
from admin import add_user
from browsers import open_browser

from ostiary.feed import MAX_NUMBER
from ostiary_auth.domain.oauth.access_tokens import characters_of
from ostiary_auth.services import Services, _token_policy


@pytest.mark.parametrize("roles", [("user",), ("admin",), ("admin", "user")])
async def test_no_token_is_longer_than_was_foreseen(services: Services, roles: tuple[str, ...]) -> None:
    now, config = datetime.now(UTC), services.config
    browser = await open_browser(services, await add_user(services, "eve", *roles))
    token = (await services.tokens.for_session(browser, now)).token
    foreseen = characters_of(_token_policy(config), roles, config.rsa_bits, now)
    # All that differs is the number of the last revocation, in base64.
    digits = len(str(MAX_NUMBER)) - len(str(browser.as_of))
    assert 0 <= foreseen - len(token) <= 4 * digits / 3 + 1
