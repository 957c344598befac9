"""Metrics of several workers, read together; tests/integration/test_workers.py has the processes."""

import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from ostiary_chassis.workers import Worker, WorkerMetrics


@pytest.fixture
def folder() -> Iterator[Path]:
    # The path of a socket has 107 bytes at most.
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def counts(text: bytes) -> dict[str, float]:
    """Return how many requests each worker has counted."""
    families = text_string_to_metric_families(text.decode())
    samples = [sample for family in families for sample in family.samples if sample.name == "http_requests_total"]
    return {sample.labels["worker"]: sample.value for sample in samples}


async def test_each_worker_shows_what_all_have_counted(folder: Path) -> None:
    one, two = (WorkerMetrics(Worker(number, 2, folder)) for number in range(2))
    one.requests.record("GET", "/a", 200, 0.1)
    for _ in range(2):
        two.requests.record("GET", "/a", 200, 0.1)
    async with one.shared(), two.shared():
        assert counts(await one.read()) == counts(await two.read()) == {"0": 1, "1": 2}
        names = [line.split()[2] for line in (await one.read()).decode().splitlines() if line.startswith("# TYPE")]
        assert len(names) == len(set(names))


async def test_a_worker_that_does_not_answer_is_left_out(folder: Path) -> None:
    one = WorkerMetrics(Worker(0, 2, folder))
    one.requests.record("GET", "/a", 200, 0.1)
    async with one.shared():
        assert counts(await one.read()) == {"0": 1}


async def test_a_worker_takes_the_place_of_one_that_was_killed(folder: Path) -> None:
    (folder / "0").write_text("left behind")
    one = WorkerMetrics(Worker(0, 1, folder))
    async with one.shared():
        assert b"http_requests_total" in await one.read()


@pytest.mark.parametrize("length", range(-60, 0, 7))
async def test_what_a_worker_tells_that_dies_meanwhile_is_left_out(folder: Path, length: int) -> None:
    one, two = (WorkerMetrics(Worker(number, 2, folder)) for number in range(2))
    for each in (one, two):
        each.requests.record("GET", "/ä", 200, 0.1)

    def tell_a_part(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(generate_latest(two.registry)[:length])
        writer.close()

    async with one.shared(), await asyncio.start_unix_server(tell_a_part, folder / "1"):
        assert counts(await one.read()) == {"0": 1}


async def test_metrics_read_together_are_those_of_each_with_its_number(folder: Path) -> None:
    workers = [WorkerMetrics(Worker(number, 3, folder)) for number in range(3)]
    for number, each in enumerate(workers):
        each.requests.record("GET", '/a"# HELP x\n', 200, 0.1)
        each.requests.record("POST", "/only-here" if number == 1 else "/b", 404, 20.0)
    async with workers[0].shared(), workers[1].shared(), workers[2].shared():
        text = (await workers[0].read()).decode()
    expected: dict[str, set[tuple[object, ...]]] = {}
    for number, each in enumerate(workers):
        for family in each.registry.collect():
            for sample in family.samples:
                labels = {**sample.labels, "worker": str(number)}
                expected.setdefault(family.name, set()).add((sample.name, *sorted(labels.items()), sample.value))
    families = {family.name: family for family in text_string_to_metric_families(text)}
    found = {
        name: {(sample.name, *sorted(sample.labels.items()), sample.value) for sample in family.samples}
        for name, family in families.items()
    }
    assert found == expected
