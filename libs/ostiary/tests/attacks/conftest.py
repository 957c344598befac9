from collections.abc import AsyncIterator

import pytest
from catalogue import Target

from ostiary.testing import Issuer


@pytest.fixture
async def target(issuer: Issuer) -> AsyncIterator[Target]:
    target = Target(issuer)
    async with target.verifier:
        assert target.verifier.verify(issuer.token()).issuer == issuer.issuer
        yield target
    # The one fetch at the start, and nothing that a token brought about.
    assert [str(request.url) for request in target.requests] == [f"{issuer.issuer}/jwks"]
