"""FastAPI dependencies: the context of a request, and its authenticated caller."""

from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from typing import Annotated
from uuid import UUID

from fastapi import Depends
from starlette.requests import Request

from ostiary import VerifiedToken
from ostiary.errors import InsufficientScope, Revoked
from ostiary.fastapi import Auth
from ostiary_auth.domain.clock import Clock
from ostiary_auth.domain.context import ANONYMOUS, Context, client_actor, user_actor
from ostiary_auth.domain.errors import NotAUser
from ostiary_auth.domain.ports import Store
from ostiary_chassis.proxies import TrustedProxies

ADMIN_SCOPE = "admin"

#: Characters of a User-Agent that are stored.
MAX_USER_AGENT_CHARACTERS = 256


@dataclass(frozen=True, slots=True)
class UserRequest:
    """A request of a logged-in user."""

    user_id: UUID
    session_id: UUID
    context: Context


class Callers:
    """Checks callers against the store, where a token that is still valid is not enough."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def require_user(self, call: UserRequest, scope: str | None = None) -> None:
        """Check that the user is enabled, their session is open, and they still have `scope`.

        Raises Revoked or InsufficientScope.
        """
        async with self._store.read() as transaction:
            user = await transaction.users.get(call.user_id)
            is_open = await transaction.sessions.is_open(call.session_id, call.context.now)
        if user is None or user.disabled_at is not None or not is_open:
            raise Revoked
        _require(scope, user.scopes)

    async def require_client(self, client_id: str, scope: str) -> None:
        """Check that the client is enabled and still has `scope`. Raises Revoked or InsufficientScope."""
        async with self._store.read() as transaction:
            client = await transaction.clients.get(client_id)
        if client is None or client.disabled_at is not None:
            raise Revoked
        _require(scope, client.scopes)


def _require(scope: str | None, scopes: Collection[str]) -> None:
    if scope is not None and scope not in scopes:
        raise InsufficientScope(frozenset({scope}))


class Dependencies:
    """Provides dependencies. `X-Forwarded-For` is accepted from `proxies` only."""

    def __init__(self, auth: Auth, store: Store, proxies: TrustedProxies, clock: Clock) -> None:
        self.auth = auth
        self.callers = Callers(store)
        self._proxies = proxies
        self._clock = clock

    def context(self, request: Request, token: VerifiedToken | None = None) -> Context:
        """Return the context of a request."""
        user_agent = request.headers.get("user-agent")
        peer = request.client.host if request.client else ""
        source = self._proxies.source(peer, request.headers.getlist("x-forwarded-for"))
        shortened = user_agent[:MAX_USER_AGENT_CHARACTERS] if user_agent else None
        return Context(self._clock.now(), _actor(token), source, shortened, request.state.request_id)

    @property
    def user(self) -> Callable[..., Awaitable[UserRequest]]:
        """A dependency for the calling user. Raises NotAUser for a client's token."""
        verified = Annotated[VerifiedToken, Depends(self.auth.require())]

        async def user(request: Request, token: verified) -> UserRequest:
            return self._user_request(request, token)

        return user

    @property
    def live_user(self) -> Callable[..., Awaitable[UserRequest]]:
        """The same, for operations that require an open session. Raises Revoked if it has ended."""
        called = Annotated[UserRequest, Depends(self.user)]

        async def live_user(call: called) -> UserRequest:
            await self.callers.require_user(call)
            return call

        return live_user

    @property
    def admin(self) -> Callable[..., Awaitable[Context]]:
        """A dependency for the context of a caller who has the scope `admin`, and still has it in the store.

        A token tells what was allowed when it was issued. That would let an administrator who has been disabled enable
        themselves again. Raises Revoked or InsufficientScope.
        """
        verified = Annotated[VerifiedToken, Depends(self.auth.require(scopes=[ADMIN_SCOPE]))]

        async def admin(request: Request, token: verified) -> Context:
            if token.session_id is None:
                await self.callers.require_client(token.client_id, ADMIN_SCOPE)
                return self.context(request, token)
            call = self._user_request(request, token)
            await self.callers.require_user(call, ADMIN_SCOPE)
            return call.context

        return admin

    def _user_request(self, request: Request, token: VerifiedToken) -> UserRequest:
        if token.session_id is None:
            raise NotAUser
        return UserRequest(UUID(token.subject), UUID(token.session_id), self.context(request, token))


def _actor(token: VerifiedToken | None) -> str:
    if token is None:
        return ANONYMOUS
    return client_actor(token.subject) if token.session_id is None else user_actor(UUID(token.subject))
