"""Request and response bodies about OAuth clients."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from ostiary_auth.domain.oauth.model import GrantType
from ostiary_auth.routes.models import View
from ostiary_chassis.bodies import RequestBody

ClientId = Annotated[str, Field(max_length=64, examples=["reports"])]
Scope = Annotated[str, Field(max_length=128, examples=["orders:read"])]
Audience = Annotated[str, Field(max_length=256, examples=["ostiary"])]


class CreateClientRequest(RequestBody):
    """A new client. With `jwks` it authenticates by private_key_jwt, otherwise by a generated secret."""

    id: ClientId
    name: Annotated[str, Field(min_length=1, max_length=100, examples=["Nightly reports"])]
    grants: Annotated[
        list[GrantType], Field(min_length=1, max_length=2, default_factory=lambda: ["client_credentials"])
    ]
    scopes: Annotated[list[Scope], Field(max_length=64, default_factory=list)]
    audiences: Annotated[list[Audience], Field(max_length=16)] | None = None
    jwks: dict[str, Any] | None = None


class ChangeClientRequest(RequestBody):
    """Whether the client is disabled."""

    disabled: bool


class ClientResponse(View):
    """A client."""

    id: ClientId
    name: str
    grants: list[str]
    scopes: list[str]
    audiences: list[str]
    authentication: Literal["client_secret", "private_key_jwt"]
    disabled_at: datetime | None
    created_at: datetime | None


class ClientsResponse(BaseModel):
    """A page of clients; get the next one with `after` = `next`."""

    clients: list[ClientResponse]
    next: ClientId | None


class NewClientResponse(BaseModel):
    """A client and its secret, which is not shown again."""

    client: ClientResponse
    secret: str | None


class SecretResponse(BaseModel):
    """A new secret, which is not shown again. The previous one stays valid for a day."""

    secret: str
