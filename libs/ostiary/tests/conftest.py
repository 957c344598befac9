from collections.abc import AsyncIterator

import pytest
from jwks_server import JwksServer

from ostiary import _jwks
from ostiary.testing import Issuer


@pytest.fixture(scope="session")
def issuer() -> Issuer:
    return Issuer()


@pytest.fixture(scope="session")
def stranger() -> Issuer:
    """An issuer with another key and the same name."""
    return Issuer()


@pytest.fixture
async def server() -> AsyncIterator[JwksServer]:
    async with JwksServer().listening() as server:
        yield server


@pytest.fixture
def fast_refresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fetch keys every few milliseconds, not every few minutes."""
    monkeypatch.setattr(_jwks, "MIN_FRESH", 0.01)
    monkeypatch.setattr(_jwks, "UNKNOWN_KEY_COOLDOWN", 0.01)
    monkeypatch.setattr(_jwks, "RETRY_DELAYS_WITH_KEYS", (0.01, 0.02))
    monkeypatch.setattr(_jwks, "RETRY_DELAYS_WITHOUT_KEYS", (0.01, 0.02))
