"""Blocking work holds up neither the event loop nor other work, nor the end of the process."""

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Iterable

import pytest
from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from ostiary_chassis.metrics import Metrics
from ostiary_chassis.threads import in_thread


async def test_results_and_errors_reach_who_awaits_them() -> None:
    assert await in_thread(divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        await in_thread(divmod, 7, 0)


async def test_work_waits_for_no_other_work() -> None:
    released = threading.Event()
    stuck = [in_thread(released.wait) for _ in range(100)]
    assert await in_thread(int, "1") == 1
    assert not any(each.done() for each in stuck)
    stuck[0].cancel()
    released.set()
    assert await asyncio.gather(*stuck[1:]) == [True] * 99


def test_a_process_ends_while_work_is_stuck() -> None:
    script = """
import asyncio, threading
from ostiary_chassis.threads import in_thread
async def main():
    in_thread(threading.Event().wait)
    print("done", flush=True)
asyncio.run(main())
"""
    started_at = time.monotonic()
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)  # noqa: S603 - ours
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")
    assert time.monotonic() - started_at < 30


async def test_metrics_are_collected_on_the_event_loop_and_formatted_elsewhere() -> None:
    class Value:
        """A value that says where it is formatted."""

        def __float__(self) -> float:
            places.append(threading.current_thread() is threading.main_thread())
            return 1.0

    class Places(Collector):
        def collect(self) -> Iterable[Metric]:
            places.append(threading.current_thread() is threading.main_thread())
            family = GaugeMetricFamily("place", "Where it is.")
            family.add_metric([], Value())  # type: ignore[arg-type]  # it has __float__
            yield family

    metrics = Metrics()
    metrics.registry.register(Places())
    places: list[bool] = []
    assert b"\nplace 1.0\n" in await metrics.read()
    assert places[0] is True
    assert set(places[1:]) == {False}
