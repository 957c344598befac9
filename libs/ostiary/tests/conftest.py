import pytest

from ostiary.testing import Issuer


@pytest.fixture(scope="session")
def issuer() -> Issuer:
    return Issuer()


@pytest.fixture(scope="session")
def stranger() -> Issuer:
    """Somebody with another key, who claims everything else to be the same."""
    return Issuer()
