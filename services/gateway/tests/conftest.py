import pytest

from ostiary.testing import Issuer


@pytest.fixture(scope="session")
def issuer() -> Issuer:
    return Issuer("http://localhost:8080")
