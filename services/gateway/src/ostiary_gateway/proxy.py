"""The data path: find the route, let in who may, pass the request on and the response back, as streams."""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import suppress

import httpx
import structlog
from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from ostiary import Verifier
from ostiary.http import Problem, bearer_token
from ostiary_chassis.middleware import limit_body
from ostiary_chassis.problems import NOT_FOUND, ProblemError, method_not_allowed
from ostiary_gateway import headers as fields
from ostiary_gateway.paths import AmbiguousPath
from ostiary_gateway.routes_file import Requirements, Route, Upstream
from ostiary_gateway.routing import NoRoute, RouteTable, WrongMethod

_log = structlog.stdlib.get_logger("proxy")

_AMBIGUOUS_PATH = Problem(400, "ambiguous_path", "The path is not in its canonical form; send it plainly.")
_INVALID_HOST = Problem(400, "invalid_host", "Send exactly one valid Host header field.")
_UPSTREAM_UNAVAILABLE = Problem(
    503,
    "upstream_unavailable",
    "The service behind this path cannot be reached at the moment; try again shortly.",
    {"Retry-After": "1"},
)
_UPSTREAM_FAILED = Problem(
    502,
    "upstream_failed",
    "The service behind this path broke off; the request may or may not have had effect.",
)
_UPSTREAM_TIMEOUT = Problem(
    504,
    "upstream_timeout",
    "The service behind this path did not answer in time; the request may have had effect.",
)


class _ClientGone(Exception):
    """The client closed its connection."""


class Proxy:
    """An ASGI application that hands requests on to the upstreams of its routes."""

    def __init__(
        self,
        table: RouteTable,
        upstreams: Mapping[str, Upstream],
        verifier: Verifier,
        client: httpx.AsyncClient,
    ) -> None:
        """Make the proxy; somebody else opens and closes `verifier` and `client`."""
        self._table = table
        self._upstreams = upstreams
        self._verifier = verifier
        self._client = client

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request. Raises ProblemError or OstiaryError for what is refused."""
        route = self._find_route(scope)
        scope["state"]["route"] = route.match.path
        self._authorise(route, scope)
        body = _stream(limit_body(scope, receive, route.limits.body_bytes))
        request = self._upstream_request(route, scope, body)
        try:
            response = await self._client.send(request, stream=True)
        except _ClientGone:
            return
        except httpx.HTTPError as error:
            raise ProblemError(_upstream_problem(route, error)) from error
        try:
            await _until_client_leaves(_send_response(response, send), receive)
        finally:
            await response.aclose()

    def _find_route(self, scope: Scope) -> Route:
        try:
            return self._table.find(scope["method"], scope["raw_path"])
        except AmbiguousPath:
            raise ProblemError(_AMBIGUOUS_PATH) from None
        except NoRoute:
            raise ProblemError(NOT_FOUND) from None
        except WrongMethod as error:
            raise ProblemError(method_not_allowed(", ".join(sorted(error.allowed)))) from None

    def _authorise(self, route: Route, scope: Scope) -> None:
        if route.access == "public":
            return
        token = self._verifier.verify(bearer_token(Headers(scope=scope).getlist("authorization")))
        if isinstance(route.access, Requirements):
            token.require(scopes=route.access.scopes, roles=route.access.roles)

    def _upstream_request(self, route: Route, scope: Scope, body: AsyncIterator[bytes]) -> httpx.Request:
        try:
            headers = fields.to_upstream(
                scope["headers"],
                client=scope["client"][0] if scope["client"] else "unknown",
                scheme=scope["scheme"],
                request_id=scope["state"]["request_id"],
            )
        except fields.InvalidHost:
            raise ProblemError(_INVALID_HOST) from None
        names = {name for name, _ in scope["headers"]}
        target = scope["raw_path"] + (b"?" + scope["query_string"] if scope["query_string"] else b"")
        timeouts = httpx.Timeout(route.timeouts.read, connect=route.timeouts.connect, pool=route.timeouts.connect)
        return httpx.Request(
            scope["method"],
            self._upstreams[route.upstream].url,
            headers=headers,
            content=body if names & {b"content-length", b"transfer-encoding"} else None,
            # The target goes out as it came in: what was matched is what is sent.
            extensions={"target": target, "timeout": timeouts.as_dict()},
        )


async def _stream(receive: Receive) -> AsyncIterator[bytes]:
    """Yield a request body piece by piece."""
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _ClientGone
        if message.get("body"):
            yield message["body"]
        more = message.get("more_body", False)


async def _send_response(response: httpx.Response, send: Send) -> None:
    headers = fields.to_client(response.headers.raw)
    await send({"type": "http.response.start", "status": response.status_code, "headers": headers})
    async for chunk in response.aiter_raw():
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def _until_client_leaves(sending: Coroutine[None, None, None], receive: Receive) -> None:
    """Send until done, or until nobody listens any more: a stream without an end would go on for ever."""

    async def departure() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    tasks = [asyncio.create_task(sending), asyncio.create_task(departure())]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            if not task.done():
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
    if tasks[0].done() and not tasks[0].cancelled():
        tasks[0].result()


def _upstream_problem(route: Route, error: httpx.HTTPError) -> Problem:
    _log.warning("upstream failed", upstream=route.upstream, route=route.name, error=type(error).__name__)
    match error:
        case httpx.ConnectError() | httpx.ConnectTimeout() | httpx.PoolTimeout():
            return _UPSTREAM_UNAVAILABLE
        case httpx.TimeoutException():
            return _UPSTREAM_TIMEOUT
        case _:
            return _UPSTREAM_FAILED
