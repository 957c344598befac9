"""OpenTelemetry tracing: a server span for each request, whose context goes to the upstream (W3C Trace Context).

A span has the data of the access log's line; attributes follow the semantic conventions for HTTP.
"""

import asyncio
import threading
from contextlib import suppress
from importlib.metadata import version

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import SpanKind, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from ostiary_gateway.http1.fields import Fields
from ostiary_gateway.http1.parser import Request

#: Seconds to export the last spans at shutdown.
FLUSH_SECONDS = 2.0

_FIRST_SERVER_ERROR = 500

_PROPAGATOR = TraceContextTextMapPropagator()


class Trace:
    """The span of one request."""

    def __init__(self, tracing: "Tracing", request: Request) -> None:
        """Start the span, as a child of the client's span if the request has a trace context."""
        incoming = {
            name: request.by_name[name.encode()].decode("latin-1")
            for name in _PROPAGATOR.fields
            if name.encode() in request.by_name
        }
        parent = _PROPAGATOR.extract(incoming, Context())
        self._span = tracing.tracer.start_span(request.method, parent, SpanKind.SERVER)
        outgoing: dict[str, str] = {}
        _PROPAGATOR.inject(outgoing, set_span_in_context(self._span, parent))
        #: The trace context for the upstream.
        self.fields: Fields = [(name.encode(), value.encode("latin-1")) for name, value in outgoing.items()]

    def end(self, attributes: dict[str, str | int | float]) -> None:
        self._span.update_name(f"{attributes['http.request.method']} {attributes['http.route']}")
        self._span.set_attributes(attributes)
        if int(attributes["http.response.status_code"]) >= _FIRST_SERVER_ERROR:
            self._span.set_status(StatusCode.ERROR)
        self._span.end()


class Tracing:
    """Exports spans to a collector, as configured by the environment (`OTEL_...`)."""

    def __init__(self, exporter: SpanExporter | None = None) -> None:
        """Export by OTLP over HTTP, unless `exporter` replaces that in tests."""
        resource = Resource({SERVICE_NAME: "ostiary-gateway"}).merge(Resource.create())
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter or OTLPSpanExporter()))
        self.tracer = self._provider.get_tracer("ostiary-gateway", version("ostiary-gateway"))

    def begin(self, request: Request) -> Trace:
        return Trace(self, request)

    async def close(self) -> None:
        """Export the remaining spans, for FLUSH_SECONDS at most."""
        loop, done = asyncio.get_running_loop(), asyncio.Event()

        def flush() -> None:
            self._provider.force_flush()
            with suppress(RuntimeError):  # the loop was closed after the timeout
                loop.call_soon_threadsafe(done.set)

        # The exporter has no timeout of its own, and a daemon thread does not keep the process from ending.
        threading.Thread(target=flush, daemon=True).start()
        with suppress(TimeoutError):
            async with asyncio.timeout(FLUSH_SECONDS):
                await done.wait()
