"""Tracing: spans, and the trace context for upstreams."""

from collections.abc import AsyncIterator

import pytest
from harness import GatewayHarness, RecordingUpstream
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from ostiary.testing import Issuer
from ostiary_gateway.observability.tracing import Tracing

ROUTES = """\
upstreams:
  up: {url: "${UPSTREAM}"}
  nobody: {url: "unix:/nonexistent"}
routes:
  - {name: item, match: {path: "/items/{id}", methods: [GET]}, upstream: up, access: public}
  - {name: mine, match: {path: /mine, methods: [GET]}, upstream: up, access: authenticated}
  - {name: nobody, match: {path: /nobody, methods: [GET]}, upstream: nobody, access: public}
"""

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
CALLER = f"Traceparent: 00-{TRACE}-{SPAN}-01"


@pytest.fixture
def spans() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
async def harness(
    issuer: Issuer, upstream: RecordingUpstream, spans: InMemorySpanExporter
) -> AsyncIterator[GatewayHarness]:
    async with GatewayHarness.open(ROUTES, upstream.url, issuer.verifier(), Tracing(spans)) as harness:
        yield harness


async def finished(harness: GatewayHarness, spans: InMemorySpanExporter) -> list[ReadableSpan]:
    assert harness.gateway._tracing is not None
    await harness.gateway._tracing.close()
    return list(spans.get_finished_spans())


async def test_a_request_is_a_span_with_the_data_of_the_access_log(
    harness: GatewayHarness, spans: InMemorySpanExporter, issuer: Issuer
) -> None:
    token = issuer.token(subject="alice@example.com")
    answer = await harness.request("/mine?secret=1", f"Authorization: Bearer {token}")
    (span,) = await finished(harness, spans)
    assert span.attributes is not None
    assert (span.name, span.kind, span.parent) == ("GET /mine", SpanKind.SERVER, None)
    assert span.attributes["http.route"] == "/mine"
    assert span.attributes["http.response.status_code"] == answer.status == 200
    assert span.attributes["ostiary.decision"] == "allowed"
    assert span.attributes["ostiary.request_id"] == answer.values("x-request-id")[0]
    text = span.to_json()
    assert not any(secret in text for secret in (token, "alice", "secret"))


async def test_the_gateways_span_is_the_parent_for_the_upstream(
    harness: GatewayHarness, spans: InMemorySpanExporter, upstream: RecordingUpstream
) -> None:
    await harness.request("/items/1", CALLER, "Tracestate: a=b")
    (span,) = await finished(harness, spans)
    assert span.parent is not None
    assert span.context is not None
    assert (f"{span.context.trace_id:032x}", f"{span.parent.span_id:016x}") == (TRACE, SPAN)
    assert upstream.last.values("traceparent") == [f"00-{TRACE}-{span.context.span_id:016x}-01"]
    assert upstream.last.values("tracestate") == ["a=b"]


async def test_connection_cannot_drop_the_gateways_trace_context(
    harness: GatewayHarness, spans: InMemorySpanExporter, upstream: RecordingUpstream
) -> None:
    await harness.request("/items/1", CALLER, "Tracestate: a=b", "Connection: traceparent, tracestate")
    (span,) = await finished(harness, spans)
    assert span.context is not None
    assert upstream.last.values("traceparent") == [f"00-{TRACE}-{span.context.span_id:016x}-01"]
    assert upstream.last.values("tracestate") == ["a=b"]


@pytest.mark.parametrize(
    "field",
    [
        "Traceparent: 00-00000000000000000000000000000000-b7ad6b7169203331-01",
        "Traceparent: 00-xyz-1-01",
        "Traceparent: \xff",
        "Traceparent: " + "0" * 5000,
        "Traceparent:",
    ],
)
async def test_an_invalid_trace_context_starts_a_new_trace(
    harness: GatewayHarness, spans: InMemorySpanExporter, upstream: RecordingUpstream, field: str
) -> None:
    answer = await harness.request("/items/1", field, "Tracestate: a=b")
    (span,) = await finished(harness, spans)
    assert (answer.status, span.parent) == (200, None)
    assert span.context is not None
    (passed,) = upstream.last.values("traceparent")
    assert passed.startswith(f"00-{span.context.trace_id:032x}-{span.context.span_id:016x}-")
    assert upstream.last.values("tracestate") == []


async def test_an_unsampled_trace_stays_unsampled(
    harness: GatewayHarness, spans: InMemorySpanExporter, upstream: RecordingUpstream
) -> None:
    await harness.request("/items/1", f"Traceparent: 00-{TRACE}-{SPAN}-00")
    assert await finished(harness, spans) == []
    (passed,) = upstream.last.values("traceparent")
    assert passed.startswith(f"00-{TRACE}-")
    assert passed.endswith("-00")


@pytest.mark.parametrize(
    ("target", "name", "status", "decision", "code"),
    [
        ("/mine", "GET /mine", 401, "missing_token", StatusCode.UNSET),
        ("/elsewhere/zebra", "GET unmatched", 404, "not_found", StatusCode.UNSET),
        ("/nobody", "GET /nobody", 503, "upstream_unavailable", StatusCode.ERROR),
    ],
)
async def test_rejected_and_failed_requests_are_spans_too(
    harness: GatewayHarness,
    spans: InMemorySpanExporter,
    target: str,
    name: str,
    status: int,
    decision: str,
    code: StatusCode,
) -> None:
    assert (await harness.request(target)).status == status
    (span,) = await finished(harness, spans)
    assert span.attributes is not None
    assert (span.name, span.status.status_code) == (name, code)
    assert span.attributes["ostiary.decision"] == decision
    # No hexadecimal digits: ids and times of spans may have any of those.
    assert "zebra" not in span.to_json()


async def test_without_tracing_the_clients_trace_context_is_forwarded(
    issuer: Issuer, upstream: RecordingUpstream
) -> None:
    async with GatewayHarness.open(ROUTES, upstream.url, issuer.verifier()) as harness:
        await harness.request("/items/1", CALLER, "Tracestate: a=b")
    assert upstream.last.values("traceparent") == [CALLER.partition(": ")[2]]
    assert upstream.last.values("tracestate") == ["a=b"]


async def test_a_failing_exporter_does_not_affect_requests(issuer: Issuer, upstream: RecordingUpstream) -> None:
    class Failing(SpanExporter):
        def export(self, spans: object) -> SpanExportResult:  # noqa: ARG002 - they are lost
            raise OSError("the collector is gone")

    async with GatewayHarness.open(ROUTES, upstream.url, issuer.verifier(), Tracing(Failing())) as harness:
        assert (await harness.request("/items/1")).status == 200
