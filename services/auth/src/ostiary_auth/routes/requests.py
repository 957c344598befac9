"""What a request says about its circumstances: who, and from where."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Annotated
from uuid import UUID

from fastapi import Depends
from starlette.requests import Request

from ostiary import VerifiedToken
from ostiary.fastapi import Auth
from ostiary_auth.domain.context import ANONYMOUS, Context, client_actor, user_actor
from ostiary_auth.domain.errors import NotAUser

ADMIN_SCOPE = "admin"


@dataclass(frozen=True, slots=True)
class UserCall:
    """A call by a logged-in user."""

    user_id: UUID
    session_id: UUID
    context: Context


class Requests:
    """Reads requests, and offers who makes them as FastAPI dependencies."""

    def __init__(self, auth: Auth, trusted_proxies: Sequence[IPv4Network | IPv6Network]) -> None:
        """Verify tokens with `auth`; believe these proxies' `X-Forwarded-For`."""
        self.auth = auth
        self._trusted_proxies = trusted_proxies
        # The same callers call again and again.
        self._source = lru_cache(maxsize=4096)(self._find_source)

    def context(self, request: Request, token: VerifiedToken | None = None) -> Context:
        """Return the circumstances of a request."""
        user_agent = request.headers.get("user-agent")
        peer = request.client.host if request.client else ""
        source = self._source(peer, ",".join(request.headers.getlist("x-forwarded-for")))
        return Context(datetime.now(UTC), _actor(token), source, user_agent)

    @property
    def user(self) -> Callable[..., Awaitable[UserCall]]:
        """A dependency that yields the user who calls. Raises NotAUser for a client's token."""
        verified = Annotated[VerifiedToken, Depends(self.auth.require())]

        async def user(request: Request, token: verified) -> UserCall:
            if token.session_id is None:
                raise NotAUser
            return UserCall(UUID(token.subject), UUID(token.session_id), self.context(request, token))

        return user

    @property
    def admin(self) -> Callable[..., Awaitable[Context]]:
        """A dependency that yields the circumstances of a call by somebody with the scope `admin`."""
        verified = Annotated[VerifiedToken, Depends(self.auth.require(scopes=[ADMIN_SCOPE]))]

        async def admin(request: Request, token: verified) -> Context:
            return self.context(request, token)

        return admin

    def _find_source(self, peer: str, forwarded: str) -> str | None:
        """Return the address that a request came from: the first one that is not a proxy's we trust."""
        address, before = _address(peer), forwarded.split(",")
        while address is not None and before and self._is_trusted(address):
            previous = _address(before.pop().strip())
            if previous is None:
                break
            address = previous
        return str(address) if address else None

    def _is_trusted(self, address: IPv4Address | IPv6Address) -> bool:
        return any(address in network for network in self._trusted_proxies)


def _address(text: str) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address(text)
    except ValueError:
        return None
    if isinstance(address, IPv4Address):
        return address
    # Without its zone, which is this machine's own business and as long as one likes.
    return address.ipv4_mapped or IPv6Address(address.packed)


def _actor(token: VerifiedToken | None) -> str:
    if token is None:
        return ANONYMOUS
    return client_actor(token.subject) if token.session_id is None else user_actor(UUID(token.subject))
