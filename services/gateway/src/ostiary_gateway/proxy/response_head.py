"""The head of the response that a client gets from an upstream."""

from ostiary_gateway.access.forwarded import via
from ostiary_gateway.access.request import RequestContext
from ostiary_gateway.http1 import headers
from ostiary_gateway.http1.body import ContentLengthBody
from ostiary_gateway.http1.fields import Fields
from ostiary_gateway.http1.parser import Response
from ostiary_gateway.http1.serializer import status_line
from ostiary_gateway.proxy.cookie_fields import lines_to_add, may_set_cookie, with_cookie_rules


def interim_head(context: RequestContext, response: Response) -> bytes:
    """Serialise an interim response (RFC 9110 section 15.2)."""
    return b"%b%b\r\n" % (status_line(response.status), _passed(response, context.cookie_rules))


def upgrade_head(context: RequestContext, response: Response) -> bytes:
    """Serialise the response that opens a WebSocket (RFC 6455 section 4.2.2)."""
    return b"%b%bx-request-id: %b\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n" % (
        status_line(response.status),
        _passed(response, context.cookie_rules),
        context.request_id,
    )


def final_head(
    context: RequestContext, response: Response, date: bytes, *, is_chunked: bool, keep_alive: bool, is_http11: bool
) -> bytes:
    """Serialise the head of a final response, with framing of its own (RFC 9112 section 6)."""
    cors, cookie_rules = context.cors, context.cookie_rules
    if cors is None:
        passed = _passed(response, cookie_rules)
    else:
        passed = _serialized(response, cors.merged(response.fields), cookie_rules) + cors.lines
    if context.renewed_cookie and may_set_cookie(response):
        passed += b"set-cookie: %b\r\n" % context.renewed_cookie
    length = b""
    if is_chunked:
        length = b"transfer-encoding: chunked\r\n"
    elif isinstance(response.body, ContentLengthBody):
        announced = response.by_name.get(b"content-length")
        if announced is not None and response.may_have_length:
            length = b"content-length: %d\r\n" % int(announced)
    if context.rate_limit:
        # Beside those of the upstream: the fields are lists.
        passed += b"ratelimit-policy: %b\r\nratelimit: %b\r\n" % (context.rate_limit_policy, context.rate_limit)
    if b"date" not in response.by_name:
        # RFC 9110 section 6.6.1.
        passed += b"date: %b\r\n" % date
    connection = b""
    if not keep_alive:
        connection = b"connection: close\r\n"
    elif not is_http11:
        connection = b"connection: keep-alive\r\n"
    return b"%b%bx-request-id: %b\r\n%b%b\r\n" % (
        status_line(response.status),
        passed,
        context.request_id,
        length,
        connection,
    )


def _passed(response: Response, cookie_rules: int) -> bytes:
    """Serialise the service's fields, once for each response and what it says about cookies: heads repeat."""
    known = response.forwarded_lines
    if known is None:
        known = response.forwarded_lines = {}
    lines = known.get(cookie_rules)
    if lines is None:
        added = lines_to_add(response, cookie_rules)
        if added is None:
            lines = _serialized(response, response.fields, cookie_rules)
        else:
            lines = _serialized(response, response.fields, 0) + added
        known[cookie_rules] = lines
    return lines


def _serialized(response: Response, fields: Fields, cookie_rules: int) -> bytes:
    if cookie_rules:
        fields = with_cookie_rules(response, fields, cookie_rules)
    return headers.to_client(fields, response.connection_options) + via(is_http11=response.is_http11)
