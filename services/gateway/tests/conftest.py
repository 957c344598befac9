import ssl
import time
from collections.abc import AsyncIterator, Iterator
from functools import cache

import pytest
from stage import Clock, RecordingUpstream, short_directory

from ostiary.testing import Issuer


@pytest.fixture(scope="session", autouse=True)
def certificates_are_read_once() -> Iterator[None]:
    """Give all gateways the same TLS context: to read the machine's certificates for each of them takes 20 ms."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ssl, "create_default_context", cache(ssl.create_default_context))
        yield


@pytest.fixture(scope="session")
def issuer() -> Issuer:
    return Issuer("http://localhost:8080")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock(time.monotonic)
    monkeypatch.setattr(time, "monotonic", clock)
    return clock


@pytest.fixture
async def upstream() -> AsyncIterator[RecordingUpstream]:
    with short_directory() as directory:
        async with RecordingUpstream(directory / "up") as upstream:
            yield upstream
