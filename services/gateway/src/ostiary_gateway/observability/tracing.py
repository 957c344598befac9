"""Traces for OpenTelemetry: a span for each request, from which the services behind the gateway go on (W3C).

What a span says is what the access log says; attributes have the names of the semantic conventions for HTTP.
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

#: Seconds for the last spans to get to the collector when the gateway ends.
FLUSH_SECONDS = 2.0

_FIRST_SERVER_ERROR = 500

_PROPAGATOR = TraceContextTextMapPropagator()


class Trace:
    """The span of one request."""

    def __init__(self, tracing: "Tracing", request: Request) -> None:
        """Begin a span, below that of the caller if it names one."""
        given = {
            name: request.by_name[name.encode()].decode("latin-1")
            for name in _PROPAGATOR.fields
            if name.encode() in request.by_name
        }
        parent = _PROPAGATOR.extract(given, Context())
        self._span = tracing.tracer.start_span(request.method, parent, SpanKind.SERVER)
        passed: dict[str, str] = {}
        _PROPAGATOR.inject(passed, set_span_in_context(self._span, parent))
        #: What tells the service behind the gateway of the span.
        self.fields: Fields = [(name.encode(), value.encode("latin-1")) for name, value in passed.items()]

    def end(self, attributes: dict[str, str | int | float]) -> None:
        """End it."""
        self._span.update_name(f"{attributes['http.request.method']} {attributes['http.route']}")
        self._span.set_attributes(attributes)
        if int(attributes["http.response.status_code"]) >= _FIRST_SERVER_ERROR:
            self._span.set_status(StatusCode.ERROR)
        self._span.end()


class Tracing:
    """Sends spans to a collector. Where that is, and what is sent, the environment says (`OTEL_...`)."""

    def __init__(self, exporter: SpanExporter | None = None) -> None:
        """Start; `exporter` replaces the one for OTLP over HTTP in tests."""
        resource = Resource({SERVICE_NAME: "ostiary-gateway"}).merge(Resource.create())
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter or OTLPSpanExporter()))
        self.tracer = self._provider.get_tracer("ostiary-gateway", version("ostiary-gateway"))

    def begin(self, request: Request) -> Trace:
        """Return the span of a request."""
        return Trace(self, request)

    async def close(self) -> None:
        """Send what has not been sent, if that is possible in time."""
        loop, done = asyncio.get_running_loop(), asyncio.Event()

        def flush() -> None:
            self._provider.force_flush()
            with suppress(RuntimeError):  # nobody waits any more
                loop.call_soon_threadsafe(done.set)

        # The exporter keeps to no time, and nobody waits for a thread of this kind when the process ends.
        threading.Thread(target=flush, daemon=True).start()
        with suppress(TimeoutError):
            async with asyncio.timeout(FLUSH_SECONDS):
                await done.wait()
