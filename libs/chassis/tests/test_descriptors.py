"""What happens without file descriptors: nothing is lost, and it is said and counted."""

import errno
import http.client
import json
import re
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from structlog.testing import capture_logs

from ostiary_chassis import descriptors
from ostiary_chassis.descriptors import Shortage

#: Descriptors that the service may have. A quarter is kept for the service's own use.
LIMIT = 64

#: Seconds after which what has not come will not.
PATIENCE = 30.0

SERVICE = """
from contextlib import asynccontextmanager
from ostiary_chassis import logs, server
from ostiary_chassis.app import new_app
from ostiary_chassis.drain import Drain
from ostiary_chassis.metrics import Metrics

@asynccontextmanager
async def lifespan(app):
    yield

logs.configure("json", "test")
app = new_app(title="t", version="0", lifespan=lifespan, ready_checks={}, exception_handlers={}, metrics=Metrics())
server.serve(app, server.bind("127.0.0.1", 0, "test"), Drain(0, 0))
"""


class Service:
    """A service in a process of its own."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        started = self.wait_for("starting")
        self.port, self.limit = int(str(started["port"])), started["descriptors"]

    def wait_for(self, event: str) -> dict[str, object]:
        """Return the next log line with an event."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            record: dict[str, object] = json.loads(line)
            if record["event"] == event:
                return record
        raise AssertionError(event)

    def connect(self) -> http.client.HTTPConnection:
        """Connect, as soon as it listens."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        give_up_at = time.monotonic() + PATIENCE
        while connection.sock is None:
            try:
                connection.connect()
            except ConnectionRefusedError:
                assert time.monotonic() < give_up_at
                time.sleep(0.01)
        return connection


def ask(connection: http.client.HTTPConnection, path: str) -> tuple[int, str]:
    connection.request("GET", path)
    response = connection.getresponse()
    return response.status, response.read().decode()


def restrict() -> None:
    # The service raises it to the hard limit itself.
    resource.setrlimit(resource.RLIMIT_NOFILE, (LIMIT // 2, LIMIT))


@pytest.fixture
def service() -> Iterator[Service]:
    with subprocess.Popen(  # noqa: S603 - our own code
        [sys.executable, "-c", SERVICE],
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=restrict,  # noqa: PLW1509 - one system call, which is safe with threads
    ) as process:
        try:
            yield Service(process)
        finally:
            process.kill()


@pytest.mark.enable_socket
def test_connections_wait_until_there_are_descriptors(service: Service) -> None:
    assert service.limit == LIMIT
    with ExitStack() as stack:
        first = service.connect()
        stack.callback(first.close)
        assert ask(first, "/readyz")[0] == 200
        others = [stack.enter_context(socket.create_connection(("127.0.0.1", service.port))) for _ in range(LIMIT)]
        for other in others:
            other.sendall(b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n")
        record = service.wait_for("no file descriptors left")
        assert (record["use"], record["limit"]) == ("accept", LIMIT)
        # Whoever is connected is served, and what needs a descriptor has one.
        assert ask(first, "/livez")[0] == 200
        status, body = ask(first, "/readyz")
        assert (status, json.loads(body)["failing"]) == (503, ["descriptors"])
        counted = re.search(r'ostiary_descriptors_exhausted_total\{use="accept"\} ([0-9.]+)', ask(first, "/metrics")[1])
        assert counted is not None
        assert float(counted[1]) > 0
        # Nobody who waits is turned away: each connection that is closed makes room for one.
        for other in others:
            other.settimeout(PATIENCE)
            assert other.recv(4096).startswith(b"HTTP/1.1 200 ")
            other.close()
        service.wait_for("file descriptors available again")
        assert ask(first, "/readyz")[0] == 200
        last = service.connect()
        stack.callback(last.close)
        assert ask(last, "/livez")[0] == 200


class TestShortage:
    @pytest.fixture
    def now(self) -> list[float]:
        return [1000.0]

    @pytest.fixture
    def shortage(self, now: list[float]) -> Shortage:
        return Shortage(lambda: now[0])

    def test_it_is_counted_each_time_and_logged_once_in_a_while(self, shortage: Shortage, now: list[float]) -> None:
        with capture_logs() as records:
            for _ in range(25):
                shortage.note("connect")
                now[0] += 1
        assert shortage.counts["connect"] == 25
        assert [record["failures"] for record in records] == [1, 11, 21]

    def test_it_ends_after_a_while_without_failures(self, shortage: Shortage, now: list[float]) -> None:
        shortage.note("accept")
        with capture_logs() as records:
            shortage.check()
            now[0] += descriptors.QUIET_SECONDS
            shortage.check()
            shortage.check()
        assert not shortage.is_present
        assert [record["event"] for record in records] == ["file descriptors available again"]

    @pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE])
    def test_errors_for_want_of_a_descriptor_are_told_from_others(self, shortage: Shortage, code: int) -> None:
        assert not shortage.is_cause(TimeoutError(), "connect")
        assert not shortage.is_cause(OSError(errno.ECONNREFUSED, "refused"), "connect")
        assert shortage.counts["connect"] == 0
        assert shortage.is_cause(OSError(code, "none left"), "connect")
        assert shortage.counts["connect"] == 1
