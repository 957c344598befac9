"""HTTP for any framework: from the request's header fields to a token, from an error to a response."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus

from ostiary.errors import (
    AccessError,
    CookieError,
    InsufficientScope,
    Malformed,
    MissingToken,
    OstiaryError,
    RepeatedCookie,
    TokenError,
    UndecidableError,
)

PROBLEM_JSON = "application/problem+json"

#: RFC 9110's reason phrases, where older Pythons have those of its predecessors.
_TITLES = {413: "Content Too Large", 422: "Unprocessable Content"}

#: Seconds that a response may go on after its token has ended: longer than most responses take.
RESPONSE_GRACE = 1.0

_BEARER = re.compile(rb"[ \t]*bearer(?:[ \t]|\Z)", re.IGNORECASE)

_REALM = 'Bearer realm="ostiary"'


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem document (RFC 9457), with the status and header fields of its response.

    `code` is a stable extension member for programs, `detail` is for people. `extra` are further
    extension members.
    """

    status: int
    code: str
    detail: str
    headers: Mapping[str, str] = field(default_factory=dict)
    extra: Mapping[str, object] = field(default_factory=dict)

    def to_json(self) -> bytes:
        """Return the document. Its type is `about:blank`, so its title is the status's (RFC 9457 section 4.2.1)."""
        members = {
            "type": "about:blank",
            "title": _TITLES.get(self.status, HTTPStatus(self.status).phrase),
            "status": self.status,
            "code": self.code,
            "detail": self.detail,
            **self.extra,
        }
        return json.dumps(members, ensure_ascii=False).encode()


def is_bearer(authorization: bytes) -> bool:
    """Return whether a value of `Authorization` has the scheme of bearer tokens (RFC 9110 section 11.1)."""
    return _BEARER.match(authorization) is not None


def bearer_token(authorization: Sequence[str]) -> str:
    """Return the token from the values of all `Authorization` header fields (RFC 6750 section 2.1).

    Raises MissingToken if there is none, Malformed if there are several.
    """
    if not authorization:
        raise MissingToken
    if len(authorization) > 1:
        raise Malformed("several Authorization header fields")
    scheme, _, token = authorization[0].strip(" \t").partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise MissingToken
    return token.lstrip(" ")


def grace_of(content_type: str) -> float:
    """Return the seconds that a response may go on after its token has ended.

    The response to a logout needs some: its token has just been revoked. An event stream gets none, as it never ends.
    """
    return 0.0 if content_type.partition(";")[0].strip().lower() == "text/event-stream" else RESPONSE_GRACE


def problem_for(error: OstiaryError) -> Problem:
    """Return the response to an error: for tokens, 401 and 403 with a challenge (RFC 6750 section 3)."""
    match error:
        case MissingToken():
            return _problem(401, error, {"WWW-Authenticate": _REALM})
        case TokenError():
            challenge = f'{_REALM}, error="invalid_token", error_description="{error.detail}"'
            return _problem(401, error, {"WWW-Authenticate": challenge})
        case InsufficientScope():
            scope = " ".join(sorted(error.required))
            challenge = f'{_REALM}, error="insufficient_scope", scope="{scope}"'
            return _problem(403, error, {"WWW-Authenticate": challenge})
        case AccessError():
            return _problem(403, error, {"WWW-Authenticate": f'{_REALM}, error="insufficient_scope"'})
        case CookieError():
            return _problem(400 if isinstance(error, RepeatedCookie) else 403, error, {})
        case UndecidableError():
            return _problem(503, error, {"Retry-After": str(error.retry_after)})
        case _:
            raise TypeError(f"no response for {type(error).__name__}")


def _problem(status: int, error: OstiaryError, headers: Mapping[str, str]) -> Problem:
    return Problem(status, error.code, error.detail, headers)
