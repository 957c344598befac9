"""What the data plane answers when a request cannot be read or passed on."""

from ostiary.http import Problem
from ostiary_gateway.http1.errors import BadMessage, LineTooLong, NoRoom, TooLarge, UnknownCoding, UnknownVersion
from ostiary_gateway.http1.fields import MAX_FIELDS
from ostiary_gateway.http1.parser import DEFAULT_HEAD_BYTES
from ostiary_gateway.upstream.connection import Failure

HEAD_TOO_LARGE = Problem(
    431,
    "head_too_large",
    f"Request line and header fields are limited to {DEFAULT_HEAD_BYTES} bytes in all, unless the route allows more,"
    f" and the fields to {MAX_FIELDS}.",
)
_LINE_TOO_LONG = Problem(
    414, "target_too_long", f"The request line is limited to {DEFAULT_HEAD_BYTES} bytes, unless the route allows more."
)
_NO_ROOM = Problem(
    503, "too_many_large_heads", "Too many requests with large header fields; try again shortly.", {"Retry-After": "1"}
)
_UNKNOWN_VERSION = Problem(505, "unknown_version", "Send HTTP/1.1.")
_UNKNOWN_CODING = Problem(501, "unknown_coding", "Send the body with a Content-Length, or chunked.")

TOO_MANY_CONNECTIONS = Problem(
    503, "too_many_connections", "Too many open connections from this address; close some.", {"Retry-After": "1"}
)
HEAD_TIMEOUT = Problem(408, "head_timeout", "The request head did not arrive in time.")
BODY_TIMEOUT = Problem(408, "body_timeout", "The request body did not arrive in time.")
LOCAL_TIMEOUT = Problem(
    503, "own_answer_timeout", "The gateway did not respond in time; try again.", {"Retry-After": "1"}
)
TOKEN_ENDED = Problem(401, "token_ended", "The access token has expired or was revoked; log in again.")

_UNAVAILABLE = Problem(
    503,
    "upstream_unavailable",
    "The service behind this path cannot be reached; try again shortly.",
    {"Retry-After": "1"},
)
_FAILED = Problem(
    502,
    "upstream_failed",
    "The service behind this path did not complete its response; the request may have taken effect.",
)
_TIMEOUT = Problem(
    504, "upstream_timeout", "The service behind this path did not respond in time; the request may have taken effect."
)
_OF_FAILURES = {
    Failure.UNREACHABLE: _UNAVAILABLE,
    Failure.OVERLOADED: _UNAVAILABLE,
    Failure.SLOW: _TIMEOUT,
}


def problem_of_message(error: BadMessage) -> Problem:
    """Return the response to a request that cannot be parsed."""
    match error:
        case LineTooLong():
            return _LINE_TOO_LONG
        case NoRoom():
            return _NO_ROOM
        case TooLarge():
            return HEAD_TOO_LARGE
        case UnknownVersion():
            return _UNKNOWN_VERSION
        case UnknownCoding():
            return _UNKNOWN_CODING
        case _:
            return Problem(400, "invalid_request", f"The request is not valid HTTP/1.1: {error}.")


def problem_of_failure(failure: Failure) -> Problem:
    """Return the response to a request that the upstream did not answer."""
    return _OF_FAILURES.get(failure, _FAILED)
