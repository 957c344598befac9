"""Pure ASGI middleware, for any framework: nothing behind it is reached without a good token.

    app = BearerAuth(app, verifier, scopes=["orders:read"], public=["/livez"])

The verified token is at `scope["ostiary.token"]`. The verifier runs as long as the application. Streamed
responses and WebSockets end when their token is revoked or expires: a response breaks off, a WebSocket
is closed with code 4401.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from contextlib import ExitStack
from types import EllipsisType
from typing import Any

from ostiary._token import VerifiedToken
from ostiary._verifier import Verifier
from ostiary.errors import OstiaryError
from ostiary.feed import POSITION_HEADER
from ostiary.http import PROBLEM_JSON, bearer_token, grace_of, problem_for

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

#: Where the verified token is in the scope, and with which bound on the revocations' age it was let in.
TOKEN = "ostiary.token"  # noqa: S105 - the name of a key, not a secret
MAX_STALENESS = "ostiary.max_staleness"

#: The code that a WebSocket is closed with whose token does not do (4000 to 4999 are private, RFC 6455 section 7.4.2).
CLOSE_UNAUTHORIZED = 4401

_POSITION = POSITION_HEADER.lower().encode()


class EndWithToken:
    """Ends streamed responses and WebSockets when their token does.

    Whoever lets a request in puts its token into the scope: `BearerAuth` does, and `ostiary.fastapi.Auth`.
    """

    def __init__(self, app: App, verifier: Verifier) -> None:
        """Wrap `app`."""
        self._app = app
        self._verifier = verifier

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - this is a coroutine
        ended_by: OstiaryError | None = None
        is_closed = False

        def end(error: OstiaryError) -> None:
            nonlocal ended_by
            ended_by = error
            task.cancel()

        with ExitStack() as watching:
            is_watched = False
            grace = 0.0

            async def watched_send(message: Message) -> None:
                nonlocal is_watched, is_closed, grace
                if ended_by is not None:
                    # It has been cancelled and goes on all the same.
                    raise asyncio.CancelledError
                kind = message["type"]
                if kind == "http.response.start":
                    fields = (value for name, value in message.get("headers", ()) if name.lower() == b"content-type")
                    grace = grace_of(next(fields, b"").decode("latin-1"))
                lasts = kind == "websocket.accept" or (kind == "http.response.body" and message.get("more_body"))
                is_closed = is_closed or kind == "websocket.close"
                if lasts and not is_watched and TOKEN in scope:
                    is_watched = True
                    bound = scope.get(MAX_STALENESS, ...)
                    watching.enter_context(self._verifier.watch(scope[TOKEN], end, max_staleness=bound, grace=grace))
                await send(message)

            try:
                await self._app(scope, receive, watched_send)
                if ended_by is not None:
                    # What came just now is still to be delivered.
                    await asyncio.sleep(0)
            except asyncio.CancelledError:
                # Ours, unless somebody else wants an end, too: the server sees a response that was not finished, and
                # breaks the connection off.
                if ended_by is None or task.cancelling() > 1:
                    raise
            if ended_by is not None:
                task.uncancel()
        if ended_by is not None and scope["type"] == "websocket" and not is_closed:
            await send({"type": "websocket.close", "code": CLOSE_UNAUTHORIZED, "reason": ended_by.code})


class BearerAuth:
    """Lets requests and WebSockets through that carry a good token with all of these scopes and roles."""

    def __init__(
        self,
        app: App,
        verifier: Verifier,
        *,
        scopes: Collection[str] = (),
        roles: Collection[str] = (),
        public: Collection[str] = (),
        max_staleness: float | EllipsisType | None = ...,
    ) -> None:
        """Wrap `app`. `public` are exact paths that need no token; `max_staleness` is as for `Verifier.verify`."""
        self._app = app
        self._protected = EndWithToken(app, verifier)
        self._verifier = verifier
        self._scopes = frozenset(scopes)
        self._roles = frozenset(roles)
        self._public = frozenset(public)
        self._max_staleness = verifier.require_staleness(max_staleness)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] == "lifespan":
            async with self._verifier:
                await self._app(scope, receive, send)
        elif scope["type"] not in {"http", "websocket"} or scope["path"] in self._public:
            await self._app(scope, receive, send)
        else:
            try:
                scope[TOKEN] = await self._authenticate(scope)
            except OstiaryError as error:
                await _refuse(scope["type"], error, send)
            else:
                scope[MAX_STALENESS] = self._max_staleness
                await self._protected(scope, receive, send)

    async def _authenticate(self, scope: Scope) -> VerifiedToken:
        fields = [value.decode("latin-1") for name, value in scope["headers"] if name == b"authorization"]
        raw_token = bearer_token(fields)
        for name, value in scope["headers"]:
            if name == _POSITION:
                await self._verifier.reach(value.decode("latin-1"))
        token = self._verifier.verify(raw_token, max_staleness=self._max_staleness)
        token.require(scopes=self._scopes, roles=self._roles)
        return token


async def _refuse(kind: str, error: OstiaryError, send: Send) -> None:
    if kind == "websocket":
        await send({"type": "websocket.close", "code": CLOSE_UNAUTHORIZED, "reason": error.code})
        return
    problem = problem_for(error)
    body = problem.to_json()
    headers = {"Content-Type": PROBLEM_JSON, "Content-Length": str(len(body)), **problem.headers}
    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": problem.status, "headers": raw})
    await send({"type": "http.response.body", "body": body})
