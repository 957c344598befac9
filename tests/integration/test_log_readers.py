"""Services serve, and end, whatever happens to the reader of their logs."""

import json
import os
import re
import select
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from clusters import NO_TLS, SERVICES, LocalCluster, is_ready, is_running, wait_until

#: More than queue and pipe hold.
MANY = 6000

#: Requests sent at once.
_BATCH = 50

PATIENCE = 30.0


class Reader:
    """A reader of logs that reads when it is told to."""

    def __init__(self) -> None:
        self._descriptor, self.writer = os.pipe()

    def read(self, is_enough: Callable[[str], bool]) -> str:
        """Return what comes until it is enough."""
        text, until = "", time.monotonic() + PATIENCE
        while not is_enough(text):
            ready, _, _ = select.select((self._descriptor,), (), (), max(0.0, until - time.monotonic()))
            assert ready, text[-2000:]
            text += os.read(self._descriptor, 65536).decode()
        return text

    def leave(self) -> None:
        """Close the pipe's end."""
        os.close(self._descriptor)
        self._descriptor = os.open(os.devnull, os.O_RDONLY)

    def close(self) -> None:
        for descriptor in (self._descriptor, self.writer):
            os.close(descriptor)


@pytest.fixture
def settings() -> dict[str, str]:
    return {"OSTIARY_LOG_FORMAT": "json"}


@pytest.fixture
def reader() -> Iterator[Reader]:
    reader = Reader()
    yield reader
    reader.close()


def ask_many(url: str, count: int) -> set[bytes]:
    """Send logged requests over one connection; return the statuses."""
    port = int(url.rpartition(":")[2])
    statuses: set[bytes] = set()
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as connection:
        for _ in range(count // _BATCH):
            connection.sendall(b"GET /nothing HTTP/1.1\r\nHost: localhost:%d\r\n\r\n" % port * _BATCH)
            received = b""
            while received.count(b'"code":') < _BATCH:
                data = connection.recv(65536)
                assert data, received[-500:]
                received += data
            statuses.update(re.findall(rb"^HTTP/1.1 (\d+)", received, re.MULTILINE))
    return statuses


def dropped(url: str) -> float:
    """Return how many records a service says that its log has lost."""
    text = httpx.get(f"{url}/metrics", timeout=PATIENCE, trust_env=False, verify=NO_TLS).text
    return sum(float(value) for value in re.findall(r"^ostiary_log_records_dropped_total\S* (\S+)", text, re.MULTILINE))


@pytest.mark.parametrize(("service", "workers"), [("auth", "1"), ("profile", "1"), ("gateway", "1"), ("gateway", "2")])
def test_a_service_whose_log_nobody_reads_serves_on(
    own_cluster: LocalCluster, reader: Reader, service: str, workers: str
) -> None:
    own_cluster.environ["OSTIARY_GATEWAY_WORKERS"] = workers
    own_cluster.outputs[service] = reader.writer
    if service != "auth":
        own_cluster.start("auth")
    own_cluster.start(service)
    url = own_cluster.urls[service]
    for _ in range(int(workers)):
        assert ask_many(url, MANY) == {b"404"}
    wait_until(lambda: dropped(own_cluster.operations[service]) > 0, "drops are counted")
    # The reader goes on, and so do the lines.
    text = reader.read(lambda text: '"log records dropped"' in text and text.endswith("\n"))
    httpx.get(f"{url}/nothing", headers={"X-Request-ID": "is-back"}, trust_env=False, verify=NO_TLS)
    text += reader.read(lambda text: '"is-back"' in text and text.endswith("\n"))
    assert {json.loads(line)["service"] for line in text.splitlines()} == {service}
    # Nobody reads again: that keeps no process from ending.
    ask_many(url, MANY)
    assert own_cluster.signal(service, signal.SIGTERM) == 0


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_whose_log_reader_is_gone_or_full_serves_on(
    own_cluster: LocalCluster, reader: Reader, service: str
) -> None:
    if service != "auth":
        own_cluster.start("auth")
    with Path("/dev/full").open("wb") as full:
        own_cluster.outputs[service] = full.fileno()
        own_cluster.start(service)
        url = own_cluster.urls[service]
        assert ask_many(url, _BATCH) == {b"404"}
        wait_until(lambda: dropped(own_cluster.operations[service]) >= _BATCH, "drops are counted")
        own_cluster.stop(service)
    own_cluster.outputs[service] = reader.writer
    own_cluster.start(service)
    reader.read(lambda text: "starting" in text)
    reader.leave()
    assert ask_many(url, _BATCH) == {b"404"}
    assert is_ready(own_cluster.operations[service])
    assert own_cluster.signal(service, signal.SIGTERM) == 0


def test_a_worker_that_is_killed_comes_back_though_nobody_reads_the_log(
    own_cluster: LocalCluster, reader: Reader
) -> None:
    own_cluster.environ["OSTIARY_GATEWAY_WORKERS"] = "2"
    own_cluster.outputs["gateway"] = reader.writer
    for service in ("auth", "gateway"):
        own_cluster.start(service)
    url, supervisor = own_cluster.urls["gateway"], own_cluster.process("gateway").pid
    ask_many(url, MANY)
    ask_many(url, MANY)

    def children() -> set[int]:
        return set(map(int, Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()))

    before = children()
    for worker in before:
        os.kill(worker, signal.SIGKILL)
    wait_until(lambda: len(children() - before) == 2, "there are new workers")
    wait_until(lambda: is_ready(own_cluster.operations["gateway"]), "they serve")
    new = children()
    assert own_cluster.signal("gateway", signal.SIGTERM) == 0
    assert not any(map(is_running, new))
