"""Settings of all tests: unit tests may not open sockets, so that nothing depends on a network."""

from pathlib import Path

import pytest

_ROOT = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Switch sockets off for what lies in a part, as against `tests/`."""
    for item in items:
        if item.path.relative_to(_ROOT).parts[0] in {"libs", "services"}:
            item.add_marker(pytest.mark.disable_socket)
