"""Settings of all tests: unit tests may not open sockets, so that nothing depends on a network."""

import gc
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
from databases import PostgresServer, running_postgres

_ROOT = Path(__file__).parent

# How long one example takes is up to what else the machine does.
hypothesis.settings.register_profile("ostiary", deadline=None)
hypothesis.settings.load_profile("ostiary")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Switch sockets off for what lies in a part, as against `tests/`, unless it needs the engine."""
    for item in items:
        in_a_part = item.path.relative_to(_ROOT).parts[0] in {"libs", "services"}
        if in_a_part and item.get_closest_marker("docker") is None:
            item.add_marker(pytest.mark.disable_socket)


def pytest_collection_finish() -> None:
    """Leave what was imported out of the garbage collections to come: it stays, and it is most of what there is."""
    gc.freeze()
    # The rest is short-lived, and there is memory enough.
    gc.set_threshold(20_000, 50, 100)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """Yield a real PostgreSQL, the same for all tests of a run."""
    with running_postgres() as server:
        yield server
