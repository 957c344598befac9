"""A gateway of several processes: one address, one answer, whichever of them is asked."""

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from clusters import LocalCluster, is_ready, wait_until
from people import People, User
from prometheus_client.parser import text_string_to_metric_families

WORKERS = 3

#: Connections after which each worker has got some: one is left out in a hundred million runs.
MANY = 50


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    cluster = LocalCluster(tmp_path_factory.mktemp("workers"), OSTIARY_GATEWAY_WORKERS=str(WORKERS))
    cluster.start_all()
    wait_until(lambda: len(counted(cluster)) == WORKERS, "all workers answer")
    yield cluster
    cluster.stop_all()


def counted(cluster: LocalCluster) -> dict[str, float]:
    """Return how many requests each worker has counted."""
    text = httpx.get(f"{cluster.url}/metrics", trust_env=False).text
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == "http_requests_total":
                worker = sample.labels["worker"]
                found[worker] = found.get(worker, 0.0) + sample.value
            elif sample.name == "process_start_time_seconds" or sample.name.startswith("ostiary_"):
                found.setdefault(sample.labels["worker"], 0.0)
    return found


def ask_many(cluster: LocalCluster, user: User) -> list[httpx.Response]:
    """Ask over many connections, one after the other."""
    return [httpx.get(f"{cluster.url}/auth/me", headers=user.headers, trust_env=False) for _ in range(MANY)]


def children(pid: int) -> list[int]:
    """Return the processes that a process has started."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_running(pid: int) -> bool:
    """Return whether there is such a process, and not just what is left of one."""
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False


def test_all_workers_serve_and_are_counted_together(cluster: LocalCluster, people: People) -> None:
    user = people.new()
    before = counted(cluster)
    answers = ask_many(cluster, user)
    after = counted(cluster)
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.headers["x-request-id"] for answer in answers}) == MANY
    assert all(after[worker] > before[worker] for worker in before)
    assert sum(after.values()) - sum(before.values()) >= MANY


def test_a_logout_is_in_force_in_all_workers(cluster: LocalCluster, people: People) -> None:
    user = people.new()
    assert {answer.status_code for answer in ask_many(cluster, user)} == {200}
    answer = httpx.post(f"{cluster.url}/auth/logout", headers={**user.headers, "Prefer": "wait=5"}, trust_env=False)
    assert answer.json()["complete"] is True
    assert {answer.status_code for answer in ask_many(cluster, user)} == {401}


def test_a_worker_that_is_killed_is_started_again(cluster: LocalCluster, people: People) -> None:
    supervisor = cluster.process("gateway").pid
    before = children(supervisor)
    assert len(before) == WORKERS
    os.kill(before[0], signal.SIGKILL)
    wait_until(lambda: len(set(children(supervisor)) - set(before)) == 1, "there is a new worker")
    wait_until(lambda: len(counted(cluster)) == WORKERS, "all workers answer")
    assert {answer.status_code for answer in ask_many(cluster, people.new())} == {200}


def test_sigterm_ends_all_workers_cleanly(cluster: LocalCluster) -> None:
    workers = children(cluster.process("gateway").pid)
    cluster.stop("gateway")
    assert not any(map(is_running, workers))
    cluster.start("gateway")


def test_workers_end_with_the_process_that_has_started_them(cluster: LocalCluster) -> None:
    workers = children(cluster.process("gateway").pid)
    cluster.signal("gateway", signal.SIGKILL)
    wait_until(lambda: not any(map(is_running, workers)), "all workers have ended")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", int(cluster.url.rpartition(":")[2])))
    cluster.start("gateway")
    assert is_ready(cluster.url)
