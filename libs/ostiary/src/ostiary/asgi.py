"""Pure ASGI middleware, for any framework: nothing behind it is reached without a good token.

    app = BearerAuth(app, verifier, scopes=["orders:read"], public=["/livez"])

The verified token is at `scope["ostiary.token"]`. The verifier runs as long as the application.
"""

from collections.abc import Awaitable, Callable, Collection, MutableMapping
from typing import Any

from ostiary._token import VerifiedToken
from ostiary._verifier import Verifier
from ostiary.errors import OstiaryError
from ostiary.http import PROBLEM_JSON, bearer_token, problem_for

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

#: Where the verified token is in the scope.
TOKEN = "ostiary.token"  # noqa: S105 - the name of a key, not a secret

#: The code that a WebSocket is closed with whose token does not do (4000 to 4999 are private, RFC 6455 section 7.4.2).
CLOSE_UNAUTHORIZED = 4401


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
    ) -> None:
        """Wrap `app`. `public` are exact paths that need no token."""
        self._app = app
        self._verifier = verifier
        self._scopes = frozenset(scopes)
        self._roles = frozenset(roles)
        self._public = frozenset(public)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] == "lifespan":
            async with self._verifier:
                await self._app(scope, receive, send)
        elif scope["type"] not in {"http", "websocket"} or scope["path"] in self._public:
            await self._app(scope, receive, send)
        else:
            try:
                scope[TOKEN] = self._authenticate(scope)
            except OstiaryError as error:
                await _refuse(scope["type"], error, send)
            else:
                await self._app(scope, receive, send)

    def _authenticate(self, scope: Scope) -> VerifiedToken:
        fields = [value.decode("latin-1") for name, value in scope["headers"] if name == b"authorization"]
        token = self._verifier.verify(bearer_token(fields))
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
