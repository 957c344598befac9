"""The head of the request that the gateway sends to an upstream."""

from ostiary_gateway.access.request import RequestContext
from ostiary_gateway.http1.body import ContentLengthBody
from ostiary_gateway.http1.fields import Fields
from ostiary_gateway.http1.headers import RequestFilter
from ostiary_gateway.http1.serializer import lines

# W3C Trace Context, section 3.
_TRACE_CONTEXT = frozenset({b"traceparent", b"tracestate"})


def request_head(context: RequestContext, sent: RequestFilter, host: bytes) -> bytes:
    """Serialise the head of an admitted request: those of the client's fields that are sent, and the gateway's own."""
    request = context.request
    body = request.body
    if body is None or context.is_websocket:
        length = b""
    elif isinstance(body, ContentLengthBody):
        # What is left of the body may be less when the request is sent again.
        length = b"content-length: %d\r\n" % int(request.by_name[b"content-length"])
    else:
        length = b"transfer-encoding: chunked\r\n"
    fields = request.fields if context.forwarding is None else context.forwarding.fields
    if context.trace is None and context.destination is None:
        passed = sent.request(request, fields)
    else:
        passed = sent.serialize(_changed(fields, context, host), request.connection_options)
        if context.trace is not None:
            passed += lines(context.trace.fields)
    return (b"%b %b HTTP/1.1\r\nhost: %b\r\n%b%bx-request-id: %b\r\n%b%b%b\r\n") % (
        request.method.encode(),
        context.rewritten or context.target,
        host,
        passed,
        context.forwarded,
        context.request_id,
        b"x-forwarded-prefix: %b\r\n" % context.prefix if context.prefix else b"",
        b"connection: upgrade\r\nupgrade: websocket\r\n" if context.is_websocket else b"",
        length,
    )


def _changed(fields: Fields, context: RequestContext, host: bytes) -> Fields:
    """Return fields for the service, of which the gateway sets some anew."""
    if context.trace is not None:
        fields = [field for field in fields if field[0] not in _TRACE_CONTEXT]
    if context.destination is not None:
        value = context.destination.value(host)
        fields = [(name, value if name == b"destination" else given) for name, given in fields]
    return fields
