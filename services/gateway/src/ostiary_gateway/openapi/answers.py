"""Which answers the gateway itself gives, by kind of route: services do not know of them, and clients get them."""

from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Final

from ostiary_gateway.routing.config import Route

_METHODS_WITHOUT_BODY = frozenset({"get", "head", "options"})


def _always(_route: Route, _method: str) -> bool:
    return True


def _takes_credentials(route: Route, _method: str) -> bool:
    return not route.is_public


def _is_limited(route: Route, _method: str) -> bool:
    return bool(route.rate_limits)


def _takes_body(_route: Route, method: str) -> bool:
    return method not in _METHODS_WITHOUT_BODY


#: Status, what it means, and which operations may get it: those of a route, by method in lower case.
ANSWERS: Final[tuple[tuple[int, str, Callable[[Route, str], bool]], ...]] = (
    (400, "The request is not valid HTTP, or its path, host or a field has more than one meaning.", _always),
    (401, "The access token or the session is missing, or does not count any more.", _takes_credentials),
    (403, "The access token lacks what this needs, or a page of another site made the request.", _takes_credentials),
    (404, "No route matches the request with this path.", _always),
    (408, "The request did not arrive in time.", _always),
    (413, "The body exceeds the route's limit.", _takes_body),
    (414, "The path or the request line is too long.", _always),
    (421, "The host is not one of this gateway's.", _always),
    (429, "A rate limit was exceeded; see `Retry-After`.", _is_limited),
    (431, "The header fields exceed the route's limit.", _always),
    (501, "The body's transfer coding is not supported.", _always),
    (502, "The service did not complete its response; the request may have had an effect.", _always),
    (503, "The service cannot be reached, or the gateway cannot decide now; see `Retry-After`.", _always),
    (504, "The service did not respond in time; the request may have had an effect.", _always),
    (505, "The version of HTTP is not supported.", _always),
)

_PROBLEM: Final = {
    "type": "object",
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "code": {"type": "string"},
        "detail": {"type": "string"},
    },
    "required": ["type", "title", "status", "code", "detail"],
}

#: Response objects by their names among the components: problem documents (RFC 9457).
COMPONENTS: Final[dict[str, dict[str, Any]]] = {
    f"gateway.{status}": {
        "description": f"{HTTPStatus(status).phrase}. {meaning}",
        "content": {"application/problem+json": {"schema": _PROBLEM}},
    }
    for status, meaning, _ in ANSWERS
}


def answers_of(route: Route, method: str) -> dict[str, dict[str, str]]:
    """Return references to the gateway's answers to a method, in lower case, of a route."""
    return {
        str(status): {"$ref": f"#/components/responses/gateway.{status}"}
        for status, _, may_get in ANSWERS
        if may_get(route, method)
    }
