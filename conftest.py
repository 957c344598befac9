"""Settings of all tests: unit tests may not open sockets, so that nothing depends on a network."""

import gc
import os
import shutil
import tempfile
from pathlib import Path

import hypothesis
import pytest
import structlog
from databases import PostgresServer, SharedPostgres
from xdist.workermanage import WorkerController

_ROOT = Path(__file__).parent
_RUN_DIRECTORY = pytest.StashKey[Path]()

# No limits of time: how long an example takes depends on what else the machine does. Examples differ from run to run,
# so that many quick runs try as many as a thorough one.
for _name, _examples in (("quick", 40), ("thorough", 80)):
    hypothesis.settings.register_profile(
        _name, deadline=None, max_examples=_examples, suppress_health_check=[hypothesis.HealthCheck.too_slow]
    )
hypothesis.settings.load_profile("thorough" if os.environ.get("CI") == "true" else "quick")


def pytest_configure(config: pytest.Config) -> None:
    """Give all processes of a run a folder, and log tracebacks as plain text.

    Where rich is installed, structlog has it colour each traceback, which takes 50 ms.
    """
    shared = getattr(config, "workerinput", {}).get("run_directory")
    config.stash[_RUN_DIRECTORY] = Path(shared or tempfile.mkdtemp(prefix="tests-"))
    *processors, _ = structlog.get_config()["processors"]
    renderer = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(processors=[*processors, renderer])


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: WorkerController) -> None:
    node.workerinput["run_directory"] = str(node.config.stash[_RUN_DIRECTORY])


def pytest_unconfigure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        SharedPostgres(config.stash[_RUN_DIRECTORY]).close()
        shutil.rmtree(config.stash[_RUN_DIRECTORY])


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
def postgres_server(pytestconfig: pytest.Config) -> PostgresServer:
    """Return a real PostgreSQL, the same for all tests of a run."""
    return SharedPostgres(pytestconfig.stash[_RUN_DIRECTORY]).server()
