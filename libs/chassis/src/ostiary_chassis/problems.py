"""Problem documents (RFC 9457) for all errors: they tell the client what to do, and leak nothing."""

from collections.abc import Callable, Coroutine, Mapping
from http import HTTPStatus
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.routing import Match
from starlette.types import Scope

from ostiary.fastapi import problem_response
from ostiary.http import Problem
from ostiary_chassis.media_types import is_json

#: The methods of RFC 9110 section 9 and RFC 5789 that HTTP APIs use, in alphabetical order.
METHODS = ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT")

#: Field errors in one response, which a hostile body must not make long.
MAX_FIELD_ERRORS = 20
MAX_FIELD_CHARACTERS = 100

NOT_FOUND = Problem(404, "not_found", "No resource at this path.")

UNSUPPORTED_MEDIA_TYPE = Problem(
    415, "unsupported_media_type", "Send JSON in UTF-8, with 'Content-Type: application/json'."
)


def malformed_json(detail: str = "The request body is not valid JSON.") -> Problem:
    """Return the problem for a body that is not JSON, or not unambiguously."""
    return Problem(400, "malformed_json", detail)


#: For exceptions of the framework; 400 is a body that it cannot parse.
_FRAMEWORK_PROBLEMS = {400: malformed_json(), 404: NOT_FOUND}


class ProblemError(HTTPException):
    """A problem as an exception. As an HTTPException, FastAPI lets it through everywhere."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.status, problem.detail, dict(problem.headers))
        self.problem = problem


def body_too_large(limit: int) -> Problem:
    """Return the problem for a body over `limit` bytes.

    The connection stays open, and uvicorn discards the rest: a client that sends everything before it
    reads gets this response rather than a reset connection.
    """
    return Problem(413, "body_too_large", f"The request body exceeds the limit of {limit} bytes.")


def method_not_allowed(allow: str) -> Problem:
    """Return the problem for a method that a path does not support; `allow` lists those that it does."""
    detail = f"Method not allowed; use one of: {allow}."
    return Problem(405, "method_not_allowed", detail, {"Allow": allow})


def methods_at(scope: Scope) -> list[str]:
    """Return all methods that a path supports, with HEAD and OPTIONS; none if there is no such path.

    The framework names those of one route only.
    """
    scopes = {method: {**scope, "method": method} for method in METHODS}
    routes = scope["app"].routes
    found = {name for name, each in scopes.items() if any(route.matches(each)[0] is Match.FULL for route in routes)}
    implied = ({"HEAD"} if "GET" in found else set()) | ({"OPTIONS"} if found else set())
    return sorted(found | implied)


INTERNAL_ERROR = Problem(500, "internal_error", "Internal error. Report the request id to the operator.")

ExceptionHandlers = Mapping[int | type[Exception], Callable[[Request, Any], Coroutine[Any, Any, Response]]]


async def _on_http_exception(request: Request, error: HTTPException) -> Response:
    if isinstance(error, ProblemError):
        return problem_response(error.problem)
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        return problem_response(method_not_allowed(", ".join(methods_at(request.scope))))
    return problem_response(_FRAMEWORK_PROBLEMS.get(error.status_code, INTERNAL_ERROR))


async def _on_validation_error(request: Request, error: RequestValidationError) -> Response:
    """Respond with 415 to other media types, and 422 to invalid fields."""
    items = error.errors()
    in_body = any(item["loc"][:1] == ("body",) for item in items)
    has_body = request.headers.get("content-length", "0") != "0" or "transfer-encoding" in request.headers
    if in_body and has_body and not is_json(request):
        return problem_response(UNSUPPORTED_MEDIA_TYPE)
    errors = [
        {
            "field": _field(item["loc"]),
            "message": _message(item["msg"]),
        }
        for item in items[:MAX_FIELD_ERRORS]
    ]
    return problem_response(
        Problem(422, "invalid_request", "The request is invalid; 'errors' lists the fields.", extra={"errors": errors})
    )


def _field(location: tuple[int | str, ...]) -> str:
    """Return the path of a field, shortened: the name of an unknown field is the client's choice."""
    return (".".join(str(part) for part in location[1:]) or str(location[0]))[:MAX_FIELD_CHARACTERS]


def _message(message: str) -> str:
    message = message.removeprefix("Value error, ")
    return f"{message[:1].lower()}{message[1:]}"


EXCEPTION_HANDLERS: ExceptionHandlers = {
    HTTPException: _on_http_exception,
    RequestValidationError: _on_validation_error,
}
