"""What the auth service's errors look like over HTTP."""

from collections.abc import Mapping

from fastapi import Request, Response

from ostiary.fastapi import problem_response
from ostiary.http import Problem
from ostiary_auth.domain.errors import (
    AuthError,
    EmailTaken,
    HashingOverloaded,
    InvalidCredentials,
    InvalidEmail,
    InvalidRefreshToken,
    UnacceptablePassword,
)

#: A 401 must say how one could authenticate (RFC 9110 section 15.5.2).
_CHALLENGE = {"WWW-Authenticate": 'Bearer realm="ostiary"'}

_RESPONSES: Mapping[type[AuthError], tuple[int, Mapping[str, str]]] = {
    InvalidEmail: (422, {}),
    UnacceptablePassword: (422, {}),
    EmailTaken: (409, {}),
    InvalidCredentials: (401, _CHALLENGE),
    InvalidRefreshToken: (401, _CHALLENGE),
    HashingOverloaded: (503, {"Retry-After": "1"}),
}


async def on_auth_error(_request: Request, error: AuthError) -> Response:
    """Answer with the problem document of a domain error."""
    status, headers = _RESPONSES[type(error)]
    return problem_response(Problem(status, error.code, error.detail, headers))
