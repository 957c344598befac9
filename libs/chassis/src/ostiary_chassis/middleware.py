"""Pure ASGI middleware of every service."""

import os
import re
import time
from collections.abc import Sequence
from http import HTTPStatus

import structlog
from fastapi.routing import iter_route_contexts
from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ostiary.fastapi import problem_response
from ostiary_chassis.metrics import RequestMetrics, method_label
from ostiary_chassis.problems import INTERNAL_ERROR, ProblemError, body_too_large, methods_at

_log = structlog.stdlib.get_logger("access")

# It is written to logs and header fields.
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}\Z")

#: Paths of health checks and scrapes. They are not logged, where they would hide other requests.
LIVENESS_PATH, READINESS_PATH, METRICS_PATH = "/livez", "/readyz", "/metrics"
OPERATIONS = frozenset({LIVENESS_PATH, READINESS_PATH, METRICS_PATH})

#: Statuses from here on are failures (RFC 9110 section 15).
_FIRST_FAILURE = 400


class RequestContext:
    """Assigns a request id, counts and logs the request, and turns an uncaught exception into a 500."""

    def __init__(self, app: ASGIApp, requests: RequestMetrics) -> None:
        self._app = app
        self._requests = requests
        self._templates: _Templates | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started_at = time.perf_counter()
        request_id = _request_id(scope)
        scope.setdefault("state", {})["request_id"] = request_id
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                # An upstream's request id would be a second one.
                others = [field for field in message.get("headers", ()) if field[0] != b"x-request-id"]
                message["headers"] = [*others, (b"x-request-id", request_id.encode())]
                if scope["app"].state.is_draining:
                    # The next request goes to another replica. The server closes the connection for this field.
                    message["headers"].append((b"connection", b"close"))
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                await self._app(scope, receive, send_with_id)
            except ProblemError as error:
                if status:
                    raise
                await problem_response(error.problem)(scope, receive, send_with_id)
            except Exception:
                _log.exception("unhandled error")
                if status:
                    # Part of the response is sent: only a closed connection tells the client that it is incomplete.
                    raise
                await problem_response(INTERNAL_ERROR)(scope, receive, send_with_id)
            finally:
                self._record(scope, status, time.perf_counter() - started_at)

    def _record(self, scope: Scope, status: int, seconds: float) -> None:
        # Now, as the application has all of its routes.
        self._templates = self._templates or _Templates(scope["app"].routes)
        route, method = self._templates.of(scope), method_label(scope["method"])
        self._requests.record(method, route, status, seconds)
        # Frequent requests are marked as routine; only their failures are logged.
        is_routine = scope["path"] in OPERATIONS or (scope["state"].get("routine") and status < _FIRST_FAILURE)
        if not is_routine:
            _log.info("request", method=method, route=route, status=status, ms=round(seconds * 1000, 1))


class _Templates:
    """The path templates of an application's routes, which name requests in logs and metrics.

    They are found by path and method. What the framework leaves in the scope differs by kind of route, lacks the
    prefixes of included routers, and is missing when a request is rejected before it is routed.
    """

    def __init__(self, routes: Sequence[BaseRoute]) -> None:
        contexts = iter_route_contexts(routes)
        self._routes = [(each.path_regex, each.methods, each.path_format or "") for each in contexts]

    def of(self, scope: Scope) -> str:
        """Return the template of the route for a request, or of one at its path with other methods; or "unmatched"."""
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        found = ((methods, template) for pattern, methods, template in self._routes if pattern.match(scope["path"]))
        at_path = ""
        for methods, template in found:
            if methods is None or method in methods:
                return template
            at_path = at_path or template
        return at_path or "unmatched"


def is_request_id(given: bytes) -> bool:
    """Return whether a client's request id is accepted."""
    return _REQUEST_ID.match(given) is not None


def _request_id(scope: Scope) -> str:
    given = _first(scope, b"x-request-id")
    return given.decode() if is_request_id(given) else os.urandom(16).hex()


def _first(scope: Scope, name: bytes, default: bytes = b"") -> bytes:
    """Return the value of the first field with this name."""
    return next((value for field, value in scope["headers"] if field == name), default)


class ImpliedMethods:
    """Answers HEAD as GET without content (RFC 9110 section 9.3.2), and OPTIONS with `Allow` (section 9.3.7)."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        method = scope.get("method")
        if method == "HEAD":
            # A copy: the server looks up the method to know that no content follows.
            await self._app({**scope, "method": "GET"}, receive, _without_content(send))
        elif method == "OPTIONS" and (methods := methods_at(scope)):
            await Response(status_code=HTTPStatus.NO_CONTENT, headers={"Allow": ", ".join(methods)})(
                scope, receive, send
            )
        else:
            await self._app(scope, receive, send)


def _without_content(send: Send) -> Send:
    async def send_head(message: Message) -> None:
        if message["type"] == "http.response.body":
            message = {**message, "body": b""}
        await send(message)

    return send_head


class BodyLimit:
    """Rejects request bodies over a limit: at once by their Content-Length, else when they exceed it."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        """`limit` is in bytes."""
        self._app = app
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        await self._app(scope, limit_body(scope, receive, self._limit), send)


def limit_body(scope: Scope, receive: Receive, limit: int) -> Receive:
    """Return `receive` with a limit in bytes on the body. It or this call raises ProblemError for a longer body."""
    announced = _first(scope, b"content-length", b"0")
    if announced.isdigit() and int(announced[:20]) > limit:
        raise ProblemError(body_too_large(limit))
    received = 0

    async def limited() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > limit:
            raise ProblemError(body_too_large(limit))
        return message

    return limited
