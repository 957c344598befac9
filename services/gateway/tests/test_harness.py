"""The harness itself."""

import pkgutil
from collections.abc import Iterator
from importlib import import_module

import pytest
from harness import until
from harness.waiting import AT_ONCE

import ostiary_gateway

#: How often deadlines are checked, so what is due at once may happen as late as this, how often threads take turns, and
#: how long routes that nobody uses any more stay in memory.
INTERVALS = {"TICK_SECONDS", "SWITCH_SECONDS", "_FREE_AFTER_SECONDS"}


def timeouts() -> Iterator[tuple[str, float]]:
    """Yield all constants in seconds of the gateway."""
    for module in pkgutil.walk_packages(ostiary_gateway.__path__, "ostiary_gateway."):
        for name, value in vars(import_module(module.name)).items():
            if name.endswith("_SECONDS") and isinstance(value, int | float) and name not in INTERVALS:
                yield f"{module.name}.{name}", value


def test_tests_wait_less_than_any_timeout_of_the_gateway() -> None:
    found = dict(timeouts())
    assert found
    assert {name: value for name, value in found.items() if value <= AT_ONCE} == {}


async def test_waiting_fails_when_nothing_happens() -> None:
    with pytest.raises(TimeoutError, match="did not become true at once"):
        await until(lambda: False)
