"""Responses for the domain's errors."""

import asyncio
import json
from collections.abc import Mapping

from fastapi import Request, Response

from ostiary.fastapi import problem_response
from ostiary.http import Problem
from ostiary_auth.domain import errors
from ostiary_chassis.problems import ExceptionHandlers

#: A 401 must name the authentication scheme (RFC 9110 section 15.5.2).
_CHALLENGE = {"WWW-Authenticate": 'Bearer realm="ostiary"'}
BASIC_CHALLENGE = {"WWW-Authenticate": 'Basic realm="ostiary", charset="UTF-8"'}

#: Delay in seconds of rejections because of overload or throttling.
REJECTION_SECONDS = 0.1

_STATUSES: Mapping[type[errors.AuthError], int] = {
    errors.InvalidEmail: 422,
    errors.InvalidName: 422,
    errors.UnacceptablePassword: 422,
    errors.UnknownRole: 422,
    errors.TokenTooLarge: 422,
    errors.InvalidClientSettings: 422,
    errors.EmailTaken: 409,
    errors.ClientTaken: 409,
    errors.KeyNotReady: 409,
    errors.SessionEnded: 410,
    errors.InvalidCredentials: 401,
    errors.InvalidRefreshToken: 401,
    errors.WrongPassword: 403,
    errors.NotAUser: 403,
    errors.UserNotFound: 404,
    errors.SessionNotFound: 404,
    errors.ClientNotFound: 404,
    errors.KeyNotFound: 404,
    errors.TooManyAttempts: 429,
    errors.TooManyExchanges: 429,
    errors.HashingOverloaded: 503,
    errors.TooManyVerifiers: 503,
    errors.LogReplaced: 503,
}


async def on_auth_error(_request: Request, error: errors.AuthError) -> Response:
    if isinstance(error, errors.HashingOverloaded | errors.TooManyAttempts):
        # Slows down clients that send one request after another, at no cost.
        await asyncio.sleep(REJECTION_SECONDS)
    status = _STATUSES[type(error)]
    headers = _CHALLENGE if status == 401 else {}  # noqa: PLR2004 - HTTP
    if isinstance(error, errors.TooManyAttempts | errors.TooManyExchanges | errors.KeyNotReady):
        headers = {"Retry-After": str(error.retry_after)}
    elif isinstance(error, errors.HashingOverloaded | errors.TooManyVerifiers | errors.LogReplaced):
        headers = {"Retry-After": "1"}
    return problem_response(Problem(status, error.code, error.detail, headers))


async def _on_oauth_error(_request: Request, error: errors.OAuthError) -> Response:
    """Respond as RFC 6749 section 5.2 requires."""
    body = json.dumps({"error": error.error, "error_description": error.description})
    headers = {"Cache-Control": "no-store"}
    if isinstance(error, errors.InvalidClient):
        return Response(body, 401, {**headers, **BASIC_CHALLENGE}, "application/json")
    return Response(body, 400, headers, "application/json")


EXCEPTION_HANDLERS: ExceptionHandlers = {errors.AuthError: on_auth_error, errors.OAuthError: _on_oauth_error}
