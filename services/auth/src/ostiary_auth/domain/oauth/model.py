"""OAuth clients: programs that get tokens for themselves or inspect the tokens of others (RFC 6749 section 2).

A client authenticates with a secret that we generated, or with an assertion signed by a key whose public half it has
registered (RFC 7523 section 2.2). Users log in through the built-in client `first-party`. That client is public: it
cannot authenticate, and may only refresh and end its own sessions.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from ostiary.feed import MAX_NUMBER

#: `client_id` (RFC 9068 section 2.2) of users who log in at `/auth/login`.
FIRST_PARTY_CLIENT_ID = "first-party"

#: The scope that a gateway needs for exchanging sessions of browsers.
EXCHANGE_SCOPE = "sessions:exchange"

#: Grants of registered clients. (Refresh tokens are issued at logins, which only the first-party client has so far.)
GrantType = Literal["client_credentials", "refresh_token"]


@dataclass(frozen=True, slots=True)
class Client:
    """A client. It has the hash of a secret, or public keys, or it is public."""

    id: str
    name: str
    grants: tuple[str, ...]
    scopes: tuple[str, ...]
    #: Allowed audiences of its tokens; the first one is the default.
    audiences: tuple[str, ...]
    secret_hash: bytes | None = field(default=None, repr=False)
    old_secret_hash: bytes | None = field(default=None, repr=False)
    old_secret_until: datetime | None = None
    jwks: Mapping[str, Any] | None = None
    disabled_at: datetime | None = None
    created_at: datetime | None = None
    #: The number of the last revocation when the client was read; not stored.
    as_of: int = field(default=0, compare=False)

    @property
    def authentication(self) -> Literal["client_secret", "private_key_jwt"]:
        """How a client that is not public authenticates."""
        return "private_key_jwt" if self.secret_hash is None else "client_secret"

    @property
    def is_public(self) -> bool:
        """Whether it cannot authenticate (RFC 6749 section 2.1)."""
        return self.secret_hash is None and self.jwks is None


#: The client of users' browsers and mobile apps.
FIRST_PARTY = Client(
    id=FIRST_PARTY_CLIENT_ID,
    name="First-party login",
    grants=("refresh_token",),
    scopes=(),
    audiences=(),
    # It never changes, so it is never revoked.
    as_of=MAX_NUMBER,
)


@dataclass(frozen=True, slots=True, repr=False)
class Credentials:
    """The client credentials of a request."""

    client_id: str | None = None
    secret: str | None = None
    assertion: str | None = None
