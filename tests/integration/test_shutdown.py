"""The end of a service: not ready first, then nothing new, and what is under way completes, within limits."""

import os
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from clusters import NO_TLS, SERVICES, LocalCluster, is_alive, is_ready, is_running, wait_until
from gateways import GatewayProcess, head, read_all, read_until
from upstreams import OK, RawUpstream

PATIENCE = 30.0

ROUTES = """\
upstreams:
  up: {{url: "http://127.0.0.1:{port}"}}
routes:
  - {{name: r, match: {{path: "/r/{{name}}", methods: [GET]}}, upstream: up, access: public}}
"""

#: Seconds that no test waits for.
LONG = "300"


class Held:
    """An answer that the upstream holds back."""

    def __init__(self, first: bytes = b"") -> None:
        self.has_come, self.released = threading.Event(), threading.Event()
        self._first = first

    def __call__(self, connection: socket.socket) -> None:
        connection.sendall(self._first)
        self.has_come.set()
        self.released.wait(PATIENCE)
        connection.sendall(OK)


@pytest.fixture
def held(upstream: RawUpstream) -> Iterator[Held]:
    held = Held()
    upstream.answers["held"] = held
    yield held
    held.released.set()


@pytest.fixture
def gateway_with(upstream: RawUpstream, tmp_path: Path) -> Callable[..., GatewayProcess]:
    def gateway(**settings: str) -> GatewayProcess:
        named = {f"OSTIARY_GATEWAY_{name.upper()}": value for name, value in settings.items()}
        return GatewayProcess(tmp_path, ROUTES.format(port=upstream.port), **named)

    return gateway


def statuses(cluster: LocalCluster, service: str) -> tuple[int, int, str]:
    """Return the statuses of liveness and readiness, and what a connection is told."""
    addresses = (f"{cluster.urls[service]}/livez", f"{cluster.operations[service]}/readyz")
    alive, ready = (httpx.get(address, timeout=PATIENCE, trust_env=False, verify=NO_TLS) for address in addresses)
    if ready.status_code != httpx.codes.OK:
        assert (ready.json()["code"], ready.json()["failing"]) == ("not_ready", ["draining"])
    return alive.status_code, ready.status_code, alive.headers.get("connection", "keep-alive")


def workers_in(url: str) -> int:
    """Return how many workers are in a gateway's metrics."""
    text = httpx.get(f"{url}/metrics", timeout=PATIENCE, trust_env=False, verify=NO_TLS).text
    return len(set(re.findall(r'worker="(\d+)"', text)))


class TestDelay:
    @pytest.mark.parametrize(("service", "workers"), [("auth", 1), ("profile", 1), ("gateway", 1), ("gateway", 2)])
    def test_a_service_serves_on_though_it_is_not_ready(
        self, own_cluster: LocalCluster, service: str, workers: int
    ) -> None:
        own_cluster.environ["OSTIARY_GATEWAY_WORKERS"] = str(workers)
        own_cluster.environ[f"OSTIARY_{service.upper()}_DRAIN_DELAY"] = "4"
        for each in dict.fromkeys(("auth", service)):
            own_cluster.start(each)
        url, process = own_cluster.urls[service], own_cluster.process(service)
        if workers > 1:
            # It is ready with the first one, and one that still starts has nothing to drain.
            wait_until(lambda: workers_in(own_cluster.operations[service]) == workers, "all workers serve")
        assert statuses(own_cluster, service) == (200, 200, "keep-alive")
        asked_at = time.monotonic()
        process.send_signal(signal.SIGTERM)
        wait_until(lambda: not is_ready(own_cluster.operations[service]), "it is not ready")
        # The supervisor answers for its workers, and tells them.
        wait_until(lambda: own_cluster.log(service).count("draining") >= workers, "all workers drain")
        # New connections are taken, answered, and told not to be used again.
        is_first = True
        while is_first or time.monotonic() < asked_at + 1.5:
            assert statuses(own_cluster, service) == (200, 503, "close")
            is_first = False
        assert process.wait(PATIENCE) == 0
        assert time.monotonic() - asked_at >= 4
        assert not is_alive(url)

    def test_idle_connections_are_kept_and_told_with_the_next_response(
        self, gateway_with: Callable[..., GatewayProcess]
    ) -> None:
        with gateway_with(drain_delay=LONG) as gateway, gateway.connect() as used, gateway.connect() as new:
            used.sendall(head("/r/good"))
            assert b"close" not in read_until(used, b"ok")
            gateway.process.send_signal(signal.SIGTERM)
            wait_until(lambda: "draining" in gateway.log, "it drains")
            for connection in (used, new):
                connection.sendall(head("/r/good"))
                response = read_all(connection)
                assert response.startswith(b"HTTP/1.1 200 ")
                assert b"\r\nconnection: close\r\n" in response.lower()
            gateway.process.send_signal(signal.SIGTERM)
            assert gateway.process.wait(PATIENCE) == 0

    def test_there_is_none_after_sigint(self, gateway_with: Callable[..., GatewayProcess]) -> None:
        with gateway_with(drain_delay=LONG) as gateway:
            gateway.process.send_signal(signal.SIGINT)
            assert gateway.process.wait(PATIENCE) == 0


class TestTimeout:
    def test_what_is_under_way_completes(self, gateway_with: Callable[..., GatewayProcess], held: Held) -> None:
        with gateway_with(drain_timeout=LONG) as gateway, gateway.connect() as waiting, gateway.connect() as half:
            waiting.sendall(head("/r/held"))
            half.sendall(head("/r/good")[:20])
            assert held.has_come.wait(PATIENCE)
            gateway.process.send_signal(signal.SIGTERM)
            wait_until(lambda: not gateway.listens(), "it listens no more")
            half.sendall(head("/r/good")[20:])
            held.released.set()
            for connection in (waiting, half):
                assert read_all(connection).endswith(b"ok")
            assert gateway.process.wait(PATIENCE) == 0
            assert "cut off" not in gateway.log

    @pytest.mark.parametrize("workers", ["1", "2"])
    def test_what_does_not_is_cut_off_and_logged_as_such(
        self, gateway_with: Callable[..., GatewayProcess], upstream: RawUpstream, held: Held, workers: str
    ) -> None:
        begun = Held(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nbegun")
        upstream.answers["begun"] = begun
        with (
            gateway_with(drain_timeout="0.5", workers=workers) as gateway,
            gateway.connect() as waiting,
            gateway.connect() as reading,
        ):
            waiting.sendall(head("/r/held"))
            reading.sendall(head("/r/begun"))
            read_until(reading, b"begun")
            assert held.has_come.wait(PATIENCE)
            gateway.process.send_signal(signal.SIGTERM)
            assert gateway.process.wait(PATIENCE) == 0
            assert (read_all(waiting), read_all(reading)) == (b"", b"")
            begun.released.set()
            assert "status=503 decision=gateway_shutdown " in gateway.log
            assert "status=200 decision=gateway_shutdown " in gateway.log
            assert gateway.log.count("cut off") in {1, 2}

    @pytest.mark.parametrize("workers", ["1", "2"])
    @pytest.mark.parametrize("settings", [{"drain_delay": LONG}, {"drain_timeout": LONG}], ids=["delay", "timeout"])
    @pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
    def test_a_second_signal_ends_it_at_once(
        self,
        gateway_with: Callable[..., GatewayProcess],
        held: Held,
        settings: dict[str, str],
        second: signal.Signals,
        workers: str,
    ) -> None:
        with gateway_with(**settings, workers=workers) as gateway, gateway.connect() as waiting:
            waiting.sendall(head("/r/held"))
            assert held.has_come.wait(PATIENCE)
            gateway.process.send_signal(signal.SIGTERM)
            step = "draining" if "drain_delay" in settings else "stopping"
            wait_until(lambda: gateway.log.count(step) == int(workers), f"it is {step}")
            gateway.process.send_signal(second)
            assert gateway.process.wait(PATIENCE) == 0
            assert read_all(waiting) == b""
            assert "decision=gateway_shutdown " in gateway.log

    def test_a_signal_to_supervisor_and_workers_counts_once(
        self, gateway_with: Callable[..., GatewayProcess], held: Held
    ) -> None:
        with gateway_with(workers="2") as gateway, gateway.connect() as waiting:
            waiting.sendall(head("/r/held"))
            assert held.has_come.wait(PATIENCE)
            pid = gateway.process.pid
            workers = list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))
            # As service managers and terminals do.
            for process in (pid, *workers):
                os.kill(process, signal.SIGTERM)
            wait_until(lambda: not gateway.listens(), "it listens no more")
            held.released.set()
            assert read_all(waiting).endswith(b"ok")
            assert gateway.process.wait(PATIENCE) == 0
            assert not any(map(is_running, workers))


class TestStreams:
    def test_event_streams_end_as_a_whole(
        self, gateway_with: Callable[..., GatewayProcess], upstream: RawUpstream
    ) -> None:
        streaming = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n%b\r\n%b"
        chunked = Held(streaming % (b"Transfer-Encoding: chunked\r\n", b"9\r\ndata: 1\n\n\r\n"))
        closing = Held(streaming % (b"Connection: close\r\n", b"data: 1\n\n"))
        upstream.answers |= {"chunked": chunked, "closing": closing}
        with gateway_with(drain_timeout=LONG) as gateway, gateway.connect() as one, gateway.connect() as two:
            one.sendall(head("/r/chunked"))
            two.sendall(head("/r/closing"))
            for connection in (one, two):
                read_until(connection, b"data: 1\n\n\r\n")
            gateway.process.send_signal(signal.SIGTERM)
            assert [read_all(connection) for connection in (one, two)] == [b"0\r\n\r\n"] * 2
            assert gateway.process.wait(PATIENCE) == 0
            assert gateway.log.count("status=200 decision=allowed ") == 2
        chunked.released.set()
        closing.released.set()

    def test_an_event_stream_that_begins_late_does_not_hold_up_the_end(
        self, gateway_with: Callable[..., GatewayProcess], upstream: RawUpstream
    ) -> None:
        asked, released, over = threading.Event(), threading.Event(), threading.Event()

        def begin_late(connection: socket.socket) -> None:
            asked.set()
            released.wait(PATIENCE)
            connection.sendall(
                b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
                b"9\r\ndata: 1\n\n\r\n"
            )
            over.wait(PATIENCE)

        upstream.answers["late"] = begin_late
        with gateway_with(drain_timeout=LONG) as gateway, gateway.connect() as connection:
            connection.sendall(head("/r/late"))
            assert asked.wait(PATIENCE)
            gateway.process.send_signal(signal.SIGTERM)
            wait_until(lambda: not gateway.listens(), "it listens no more")
            released.set()
            assert read_all(connection).endswith(b"data: 1\n\n\r\n0\r\n\r\n")
            assert gateway.process.wait(PATIENCE) == 0
        over.set()


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize(("name", "value"), [("DELAY", "-1"), ("DELAY", "301"), ("TIMEOUT", "3601"), ("TIMEOUT", "x")])
def test_a_setting_that_makes_no_sense_is_refused(
    own_cluster: LocalCluster, service: str, name: str, value: str
) -> None:
    setting = f"OSTIARY_{service.upper()}_DRAIN_{name}"
    own_cluster.environ[setting] = value
    own_cluster.start(service, wait=False)
    assert own_cluster.process(service).wait(PATIENCE) == 2
    assert setting in own_cluster.log(service)
