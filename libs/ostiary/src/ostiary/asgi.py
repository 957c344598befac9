"""Pure ASGI middleware, for any framework: it rejects requests without a valid token.

    app = BearerAuth(app, verifier, scopes=["orders:read"], public=["/livez"])

The verified token is at `scope["ostiary.token"]`. The verifier runs as long as the application. Streamed
responses and WebSockets end when their token is revoked or expires: a response is aborted, a WebSocket
is closed with code 4401.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from contextlib import ExitStack
from types import EllipsisType
from typing import Any

from ostiary._credentials import credential_of, keep_private
from ostiary._token import VerifiedToken
from ostiary._verifier import Verifier
from ostiary.browser import BrowserCookies
from ostiary.errors import OstiaryError
from ostiary.http import PROBLEM_JSON, RESPONSE_GRACE, grace_of, problem_for

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

#: The keys in the scope of the verified token, and of the staleness of revocations that it was accepted with.
TOKEN = "ostiary.token"  # noqa: S105 - the name of a key, not a secret
MAX_STALENESS = "ostiary.max_staleness"

#: Marks a request that was authenticated by cookies.
BY_COOKIE = "ostiary.by_cookie"

#: The close code of a WebSocket without a valid token (4000 to 4999 are private, RFC 6455 section 7.4.2).
CLOSE_UNAUTHORIZED = 4401

#: Marks a connection that already ends with its token.
_WATCHED = "ostiary.watched"


class EndWithToken:
    """Ends streamed responses and WebSockets when their token does.

    It takes the token from the scope, where `BearerAuth` and `ostiary.fastapi.Auth` put it. Responses to cookies are
    kept out of shared caches.
    """

    def __init__(self, app: App, verifier: Verifier) -> None:
        self._app = app
        self._verifier = verifier

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in {"http", "websocket"} or _WATCHED in scope:
            await self._app(scope, receive, send)
            return
        # Two layers would each take the other's cancellation for the server's.
        scope[_WATCHED] = True
        with ExitStack() as watching:
            connection = _Connection(scope, send, self._verifier, watching)
            await connection.serve(self._app, receive)
        if connection.ended_by is not None and scope["type"] == "websocket" and not connection.is_closed:
            await send({"type": "websocket.close", "code": CLOSE_UNAUTHORIZED, "reason": connection.ended_by.code})


class _Connection:
    """A connection that is cancelled when its token ends."""

    def __init__(self, scope: Scope, send: Send, verifier: Verifier, watching: ExitStack) -> None:
        """Serve in the current task. A watch is entered into `watching` when the response is streamed."""
        self._scope = scope
        self._send = send
        self._verifier = verifier
        self._watching = watching
        self._is_watched = False
        self._grace = RESPONSE_GRACE if scope["type"] == "http" else 0.0
        self._task = asyncio.current_task()
        self.ended_by: OstiaryError | None = None
        self.is_closed = False

    async def serve(self, app: App, receive: Receive) -> None:
        """Run the application until it or its token ends."""
        assert self._task is not None  # noqa: S101 - this is a coroutine
        try:
            await app(self._scope, receive, self.send)
            if self.ended_by is not None:
                # The cancellation is still to be delivered.
                await asyncio.sleep(0)
        except asyncio.CancelledError:
            # Our own, unless the server cancels, too. It sees an unfinished response, and closes the connection.
            if self.ended_by is None or self._task.cancelling() > 1:
                raise
        if self.ended_by is not None:
            self._task.uncancel()

    async def send(self, message: Message) -> None:
        """Forward a message. The token is watched from the first message on that others follow."""
        if self.ended_by is not None:
            # The application has caught its cancellation and goes on.
            await asyncio.sleep(0)
            raise asyncio.CancelledError
        kind = message["type"]
        if kind == "http.response.start":
            fields = (value for name, value in message.get("headers", ()) if name.lower() == b"content-type")
            self._grace = grace_of(next(fields, b"").decode("latin-1"))
            if BY_COOKIE in self._scope:
                message = {**message, "headers": keep_private(message.get("headers", ()))}
        more = kind == "http.response.body" and message.get("more_body")
        is_stream = kind == "http.response.start" and self._grace == 0
        if (more or is_stream or kind == "websocket.accept") and not self._is_watched and TOKEN in self._scope:
            self._watch()
            # The cancellation arrives here if the token has ended by now.
            await asyncio.sleep(0)
        if kind == "http.response.body" and not more:
            # Work after the response is not a stream.
            self._watching.close()
        self.is_closed = self.is_closed or kind == "websocket.close"
        await self._send(message)

    def _watch(self) -> None:
        self._is_watched = True
        bound = self._scope.get(MAX_STALENESS, ...)
        watch = self._verifier.watch(self._scope[TOKEN], self._end, max_staleness=bound, grace=self._grace)
        self._watching.enter_context(watch)

    def _end(self, error: OstiaryError) -> None:
        assert self._task is not None  # noqa: S101 - as above
        self.ended_by = error
        self._task.cancel()


class BearerAuth:
    """Requires a valid token with all of these scopes and roles for requests and WebSockets."""

    def __init__(
        self,
        app: App,
        verifier: Verifier,
        *,
        scopes: Collection[str] = (),
        roles: Collection[str] = (),
        public: Collection[str] = (),
        max_staleness: float | EllipsisType | None = ...,
        cookies: BrowserCookies | None = None,
    ) -> None:
        """`public` are exact paths that need no token; `max_staleness` is as for `Verifier.verify`.

        With `cookies`, requests may also be authenticated by the cookies of a browser's session.
        """
        self._app = app
        self._protected = EndWithToken(app, verifier)
        self._verifier = verifier
        self._scopes = frozenset(scopes)
        self._roles = frozenset(roles)
        self._public = frozenset(public)
        self._max_staleness = verifier.require_staleness(max_staleness)
        self._cookies = cookies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            async with self._verifier:
                await self._app(scope, receive, send)
        elif scope["type"] not in {"http", "websocket"} or scope["path"] in self._public:
            await self._app(scope, receive, send)
        else:
            try:
                scope[TOKEN] = self._authenticate(scope)
            except OstiaryError as error:
                await _reject(scope["type"], error, send)
            else:
                scope[MAX_STALENESS] = self._max_staleness
                await self._protected(scope, receive, send)

    def _authenticate(self, scope: Scope) -> VerifiedToken:
        is_websocket = scope["type"] == "websocket"
        credential = credential_of(
            scope.get("method", "GET"), scope["headers"], self._cookies, is_websocket=is_websocket
        )
        token = self._verifier.verify(credential.token, max_staleness=self._max_staleness)
        credential.check_session(token)
        if credential.is_cookie:
            scope[BY_COOKIE] = True
        token.require(scopes=self._scopes, roles=self._roles)
        return token


async def _reject(kind: str, error: OstiaryError, send: Send) -> None:
    if kind == "websocket":
        await send({"type": "websocket.close", "code": CLOSE_UNAUTHORIZED, "reason": error.code})
        return
    problem = problem_for(error)
    body = problem.to_json()
    headers = {"Content-Type": PROBLEM_JSON, "Content-Length": str(len(body)), **problem.headers}
    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": problem.status, "headers": raw})
    await send({"type": "http.response.body", "body": body})
