"""A gateway of several processes: one address, one answer, whichever of them is asked."""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from clusters import NO_TLS, READY_SECONDS, LocalCluster, is_ready, is_running, wait_until
from gateways import GatewayProcess
from people import People, User
from prometheus_client.parser import text_string_to_metric_families
from upstreams import RawUpstream

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
    text = httpx.get(f"{cluster.operations['gateway']}/metrics", trust_env=False, verify=NO_TLS).text
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
    return [
        httpx.get(f"{cluster.url}/auth/me", headers=user.headers, trust_env=False, verify=NO_TLS) for _ in range(MANY)
    ]


def children(pid: int) -> list[int]:
    """Return the processes that a process has started."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


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
    answer = httpx.post(
        f"{cluster.url}/auth/logout", headers={**user.headers, "Prefer": "wait=30"}, trust_env=False, verify=NO_TLS
    )
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
    assert is_ready(cluster.operations["gateway"])


ROUTES = """\
upstreams:
  up: {{url: "http://127.0.0.1:{port}"}}
routes:
  - {{name: old, match: {{path: /old, methods: [GET]}}, upstream: up, access: {access}}}
"""


@pytest.fixture
def changing(tmp_path: Path, upstream: RawUpstream) -> Iterator[GatewayProcess]:
    """A gateway of two workers whose one route is public, and will not be."""
    gateway = GatewayProcess(tmp_path, ROUTES.format(port=upstream.port, access="public"), OSTIARY_GATEWAY_WORKERS="2")
    with gateway:
        wait_until(lambda: gateway.log.count("starting") == 2, "both workers have started")
        gateway.change(ROUTES.format(port=upstream.port, access="authenticated"))
        wait_until(lambda: gateway.log.count("routes reloaded") == 2, "both workers have seen the change")
        yield gateway


def statuses(gateway: GatewayProcess) -> set[str]:
    """Return what is answered over many connections, one after the other."""
    return {gateway.ask("/old").split(b" ", 2)[1].decode() for _ in range(MANY)}


@pytest.mark.parametrize("is_bad", [False, True], ids=["a good file", "a bad file"])
def test_workers_that_are_started_again_bring_no_old_route_back(changing: GatewayProcess, *, is_bad: bool) -> None:
    assert statuses(changing) == {"401"}
    if is_bad:
        changing.change("routes: [")
        wait_until(lambda: changing.log.count("routes file rejected") == 2, "both have seen the bad file")
    for child in children(changing.process.pid):
        os.kill(child, signal.SIGKILL)
    wait_until(lambda: changing.log.count("starting") == 4, "there are new workers")
    wait_until(changing.listens, "they listen")
    assert statuses(changing) == {"401"}


def test_sighup_makes_all_workers_read_the_file(changing: GatewayProcess) -> None:
    before = children(changing.process.pid)
    changing.process.send_signal(signal.SIGHUP)
    wait_until(lambda: changing.log.count("routes reloaded") == 4, "both workers have read it again")
    assert children(changing.process.pid) == before
    assert changing.process.poll() is None


SUPERVISOR = """\
import sys
from ostiary_chassis import server, workers
from ostiary_chassis.settings import ConfigError

def wait(_worker):
    print("working", flush=True)
    print("heard", sys.stdin.readline(), flush=True)

def fail(_worker):
    raise ConfigError("OSTIARY_GATEWAY_PORT: cannot listen")

workers.RESTART_SECONDS = 0.01
server.run("gateway", lambda: workers.run(1, {work}))
"""


def supervise(work: str) -> subprocess.Popen[str]:
    return subprocess.Popen(  # noqa: S603 - our own code
        [sys.executable, "-c", SUPERVISOR.format(work=work)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_sighup_does_not_end_a_worker_that_does_not_listen_to_it_yet() -> None:
    with supervise("wait") as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "working\n"
        process.send_signal(signal.SIGHUP)
        for child in children(process.pid):
            os.kill(child, signal.SIGHUP)
        process.stdin.write("it\n")
        process.stdin.flush()
        assert process.stdout.readline() == "heard it\n"
        process.terminate()
        assert process.wait(READY_SECONDS) == 0


def test_workers_that_cannot_start_end_the_service_with_one_line() -> None:
    with supervise("fail") as process:
        output, errors = process.communicate(timeout=READY_SECONDS)
    assert (process.returncode, errors) == (2, "gateway: OSTIARY_GATEWAY_PORT: cannot listen\n")
    assert len(re.findall("worker cannot start", output)) == 5
