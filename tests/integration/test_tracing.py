"""Traces of a real gateway, at a collector that speaks OTLP over HTTP."""

import signal
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from clusters import NO_TLS, LocalCluster, wait_until
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

pytestmark = pytest.mark.serial

#: Seconds in which container runtimes expect a process to end.
END_SECONDS = 10.0

#: Seconds for the last spans to be sent, and for all else that a process does at its end. Together they are less
#: than the exporter's own time-out of 10 s.
FLUSH_SECONDS = 2.0
SPARE_SECONDS = 6.0


class Collector:
    """Takes spans."""

    def __init__(self) -> None:
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                collector.requests.append((self.path, ExportTraceServiceRequest.FromString(body)))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_arguments: object) -> None:
                """Say nothing."""

        self.requests: list[tuple[str, ExportTraceServiceRequest]] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector = Collector()
    yield collector
    collector.close()


def start(directory: Path, endpoint: str) -> LocalCluster:
    cluster = LocalCluster(directory, OTEL_EXPORTER_OTLP_ENDPOINT=endpoint, OTEL_SERVICE_NAME="front")
    cluster.start("auth")
    cluster.start("gateway")
    return cluster


def test_spans_get_to_the_collector_before_the_gateway_ends(tmp_path: Path, collector: Collector) -> None:
    cluster = start(tmp_path, collector.url)
    try:
        assert httpx.get(f"{cluster.url}/auth/me", trust_env=False, verify=NO_TLS).status_code == 401
        cluster.stop("gateway")
    finally:
        cluster.stop_all()
    ((path, request),) = collector.requests
    (resource,) = request.resource_spans
    assert path == "/v1/traces"
    assert {each.key: each.value.string_value for each in resource.resource.attributes}["service.name"] == "front"
    assert [span.name for scope in resource.scope_spans for span in scope.spans] == ["GET /auth/me"]


def test_a_collector_that_is_not_there_holds_nothing_up(tmp_path: Path) -> None:
    cluster = start(tmp_path, "http://127.0.0.1:1")
    try:
        assert httpx.get(f"{cluster.url}/auth/me", trust_env=False, verify=NO_TLS).status_code == 401
        began = time.monotonic()
        assert cluster.signal("gateway", signal.SIGTERM) == 0
        assert time.monotonic() - began < END_SECONDS
    finally:
        cluster.stop_all()


def test_a_collector_that_never_answers_holds_nothing_up_for_long(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as collector:
        collector.settimeout(FLUSH_SECONDS)
        cluster = start(tmp_path, f"http://127.0.0.1:{collector.getsockname()[1]}")
        try:
            assert httpx.get(f"{cluster.url}/auth/me", trust_env=False, verify=NO_TLS).status_code == 401
            began = time.monotonic()
            assert cluster.signal("gateway", signal.SIGTERM) == 0
            assert time.monotonic() - began < FLUSH_SECONDS + SPARE_SECONDS
            # It was asked.
            collector.accept()[0].close()
        finally:
            cluster.stop_all()


def test_an_address_of_a_collector_that_is_none_is_one_line(tmp_path: Path) -> None:
    cluster = LocalCluster(tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT="collector:4318")
    cluster.start("gateway", wait=False)
    wait_until(lambda: "OTEL_EXPORTER_OTLP_ENDPOINT" in cluster.log("gateway"), "it says what is wrong")
    cluster.stop_all()
