"""The data path: find the route, let in who may, pass the request on and the response back, as streams."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import TypeVar

import httpx
import structlog
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ostiary import VerifiedToken, Verifier
from ostiary.errors import OstiaryError
from ostiary.http import Problem, bearer_token, grace_of
from ostiary_chassis.middleware import limit_body
from ostiary_chassis.problems import NOT_FOUND, ProblemError, method_not_allowed
from ostiary_gateway import headers as fields
from ostiary_gateway import paths
from ostiary_gateway.paths import AmbiguousPath
from ostiary_gateway.routes_file import Requirements, Route, Upstream
from ostiary_gateway.routing import NoRoute, RouteTable, WrongMethod

T = TypeVar("T")

#: Watches a token as long as it is entered, and calls what it is given so many seconds after the token has ended.
StartWatch = Callable[[Callable[[OstiaryError], None], float], AbstractContextManager[object]]

_log = structlog.stdlib.get_logger("proxy")

#: Seconds for a client to send the next piece of its body, or to take the next piece of an answer.
CLIENT_SECONDS = 30.0

_AMBIGUOUS_PATH = Problem(400, "ambiguous_path", "The path is not in its canonical form; send it plainly.")
_INVALID_HOST = Problem(400, "invalid_host", "Send exactly one valid Host header field.")
_INVALID_REQUEST = Problem(400, "invalid_request", "The request is not valid HTTP.")
_UPGRADE_WITH_BODY = Problem(400, "upgrade_with_body", "A request that offers an upgrade cannot have a body here.")
_BODY_TIMEOUT = Problem(408, "body_timeout", "The request body did not arrive in time.", {"Connection": "close"})
_UPSTREAM_UNAVAILABLE = Problem(
    503,
    "upstream_unavailable",
    "The service behind this path cannot be reached at the moment; try again shortly.",
    {"Retry-After": "1"},
)
_UPSTREAM_FAILED = Problem(
    502, "upstream_failed", "The service behind this path broke off; the request may or may not have had effect."
)
_UPSTREAM_TIMEOUT = Problem(
    504, "upstream_timeout", "The service behind this path did not answer in time; the request may have had effect."
)


class _Ended(Exception):
    """An exchange that ended early, with nobody there to be told, or no way to tell."""


class CanonicalPaths:
    """ASGI middleware that lets through paths of one form only, those of the gateway's own endpoints too.

    The segments, cut once, are in the request's state for the proxy behind it.
    """

    def __init__(self, app: ASGIApp) -> None:
        """Wrap `app`."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request. Raises ProblemError."""
        if scope["type"] == "http":
            try:
                scope["state"]["segments"] = paths.split(scope["raw_path"])
            except AmbiguousPath:
                raise ProblemError(_AMBIGUOUS_PATH) from None
        await self._app(scope, receive, send)


class Proxy:
    """An ASGI application that hands requests on to the upstreams of its routes.

    It talks to httpx's transports and not to its client, which would follow cookies and redirects of
    its own; there is one for each upstream, so that a slow one takes no connections from the others.
    """

    def __init__(
        self,
        table: RouteTable,
        upstreams: Mapping[str, Upstream],
        verifier: Verifier,
        transports: Mapping[str, httpx.AsyncBaseTransport],
    ) -> None:
        """Make the proxy; somebody else opens and closes `verifier` and `transports`."""
        self._table = table
        self._upstreams = upstreams
        self._verifier = verifier
        self._transports = transports
        for route in table.routes:
            # Said now, it is kept to from the first request on.
            verifier.require_staleness(route.bound)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request. Raises ProblemError or OstiaryError for what is refused."""
        route = self._find_route(scope)
        scope["state"]["route"] = route.match.path
        token = self._authorise(route, scope)
        has_body = _has_body(scope)
        exchange = _Exchange(route, limit_body(scope, receive, route.limits.body_bytes), send, has_body=has_body)
        # As of now, with nothing awaited since the decision.
        position = self._verifier.position(token) if token is not None else None
        request = self._upstream_request(route, scope, exchange.body() if has_body else None, position)
        watch = self._watch(route, token)
        with suppress(_Ended):
            await exchange.run(self._transports[route.upstream], request, watch)

    def _find_route(self, scope: Scope) -> Route:
        try:
            return self._table.find(scope["method"], scope["state"]["segments"])
        except NoRoute:
            raise ProblemError(NOT_FOUND) from None
        except WrongMethod as error:
            raise ProblemError(method_not_allowed(", ".join(sorted(error.allowed)))) from None

    def _authorise(self, route: Route, scope: Scope) -> VerifiedToken | None:
        """Return the caller's token; None where none is needed. Raises OstiaryError."""
        if route.access == "public":
            return None
        raw_token = bearer_token(Headers(scope=scope).getlist("authorization"))
        token = self._verifier.verify(raw_token, max_staleness=route.bound)
        if isinstance(route.access, Requirements):
            token.require(scopes=route.access.scopes, roles=route.access.roles)
        return token

    def _watch(self, route: Route, token: VerifiedToken | None) -> StartWatch | None:
        """Return what watches a token while a response lasts."""
        if token is None:
            return None
        return lambda on_end, grace: self._verifier.watch(token, on_end, max_staleness=route.bound, grace=grace)

    def _upstream_request(
        self, route: Route, scope: Scope, body: AsyncIterator[bytes] | None, position: str | None
    ) -> httpx.Request:
        try:
            headers = fields.to_upstream(
                scope["headers"],
                client=scope["client"][0] if scope["client"] else "unknown",
                scheme=scope["scheme"],
                request_id=scope["state"]["request_id"],
                position=position,
            )
        except fields.InvalidHost:
            raise ProblemError(_INVALID_HOST) from None
        target = scope["raw_path"] + (b"?" + scope["query_string"] if scope["query_string"] else b"")
        timeouts = httpx.Timeout(route.timeouts.read, connect=route.timeouts.connect, pool=route.timeouts.connect)
        return httpx.Request(
            scope["method"],
            self._upstreams[route.upstream].url,
            headers=headers,
            content=body,
            # The target goes out as it came in: what was matched is what is sent.
            extensions={"target": target, "timeout": timeouts.as_dict()},
        )


def _has_body(scope: Scope) -> bool:
    """Return whether a request has a body. Raises ProblemError for one that would be lost."""
    names = {name for name, _ in scope["headers"]}
    has_body = not names.isdisjoint({b"content-length", b"transfer-encoding"})
    if has_body and b"upgrade" in names:
        # The server in front stops parsing at the offer.
        raise ProblemError(_UPGRADE_WITH_BODY)
    return has_body


class _Exchange:
    """One request to an upstream and its response, given up when the client leaves or stops taking part."""

    def __init__(self, route: Route, receive: Receive, send: Send, *, has_body: bool) -> None:
        self._route = route
        self._receive = receive
        self._send = send
        self._deadline = asyncio.timeout(None)
        self._sent = asyncio.Event()
        self._passing: asyncio.Task[None] | None = None
        if not has_body:
            self._sent.set()

    async def body(self) -> AsyncIterator[bytes]:
        """Yield the request body piece by piece. Raises _Ended or ProblemError."""
        more = True
        while more:
            message = await _in_time(self._receive(), ProblemError(_BODY_TIMEOUT))
            if message["type"] == "http.disconnect":
                raise _Ended
            if message.get("body"):
                yield message["body"]
            more = message.get("more_body", False)
        self._sent.set()
        self._expect_answer()

    async def run(self, transport: httpx.AsyncBaseTransport, request: httpx.Request, watch: StartWatch | None) -> None:
        """Send the request and pass the response on, as long as the caller's token is good.

        Raises ProblemError, or _Ended if there is nobody to tell, or a response has to be broken off.
        """
        tasks = passing, leaving = (
            asyncio.create_task(self._pass_on(transport, request, watch)),
            asyncio.create_task(self._client_leaves()),
        )
        self._passing = passing
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(passing, leaving, return_exceptions=True)
        if passing.cancelled():
            raise _Ended
        passing.result()

    async def _pass_on(
        self, transport: httpx.AsyncBaseTransport, request: httpx.Request, watch: StartWatch | None
    ) -> None:
        response = await self._answer(transport, request)
        try:
            headers = fields.to_client(response.status_code, response.headers.raw)
            await self._pass({"type": "http.response.start", "status": response.status_code, "headers": headers})
            grace = grace_of(response.headers.get("content-type", ""))
            with watch(self._break_off, grace) if watch else nullcontext():
                async for chunk in response.aiter_raw():
                    await self._pass({"type": "http.response.body", "body": chunk, "more_body": True})
            await self._pass({"type": "http.response.body", "body": b""})
        except fields.InvalidResponse as error:
            raise ProblemError(self._problem(error)) from None
        except httpx.HTTPError as error:
            # Half of it is out; only a connection that ends short tells the client so.
            self._problem(error)
            raise _Ended from None
        finally:
            await response.aclose()

    def _break_off(self, error: OstiaryError) -> None:
        """End the response: its caller's token is not good any more."""
        _log.info("response broken off", route=self._route.name, reason=error.code)
        if self._passing is not None:
            self._passing.cancel()

    async def _answer(self, transport: httpx.AsyncBaseTransport, request: httpx.Request) -> httpx.Response:
        """Send the request and return the response, its body unread. Raises ProblemError or _Ended."""
        try:
            async with self._deadline:
                if self._sent.is_set():
                    self._expect_answer()
                return await transport.handle_async_request(request)
        except (ProblemError, _Ended):
            raise
        except Exception as error:
            raise ProblemError(self._problem(error)) from error

    def _expect_answer(self) -> None:
        """From now on, it is the upstream's turn."""
        self._deadline.reschedule(asyncio.get_running_loop().time() + self._route.timeouts.read)

    async def _client_leaves(self) -> None:
        """Return when the client has left. While it sends its body, that is noticed where the body is read."""
        await self._sent.wait()
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def _pass(self, message: Message) -> None:
        await _in_time(self._send(message), _Ended())

    def _problem(self, error: Exception) -> Problem:
        kind = type(error).__name__
        _log.warning("upstream failed", upstream=self._route.upstream, route=self._route.name, error=kind)
        match error:
            case httpx.ConnectError() | httpx.ConnectTimeout() | httpx.PoolTimeout():
                return _UPSTREAM_UNAVAILABLE
            case httpx.TimeoutException() | TimeoutError():
                return _UPSTREAM_TIMEOUT
            case httpx.LocalProtocolError():
                return _INVALID_REQUEST
            case _:
                return _UPSTREAM_FAILED


async def _in_time(step: Awaitable[T], error: Exception) -> T:
    """Wait for the client to do its part. Raises `error` if it does not."""
    try:
        async with asyncio.timeout(CLIENT_SECONDS):
            return await step
    except TimeoutError:
        raise error from None
