from collections.abc import AsyncIterator

import pytest
from stage import RecordingUpstream, short_directory

from ostiary.testing import Issuer


@pytest.fixture(scope="session")
def issuer() -> Issuer:
    return Issuer("http://localhost:8080")


@pytest.fixture
async def upstream() -> AsyncIterator[RecordingUpstream]:
    with short_directory() as directory:
        async with RecordingUpstream(directory / "up") as upstream:
            yield upstream
