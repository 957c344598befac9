"""`/admin/clients`, for callers with the scope `admin`."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from starlette.routing import BaseRoute

from ostiary_auth.domain.context import Context
from ostiary_auth.domain.oauth.model import Client
from ostiary_auth.domain.revocation.model import RevokedNumbers
from ostiary_auth.routes.dependencies import Dependencies
from ostiary_auth.routes.oauth.models import (
    ChangeClientRequest,
    ClientResponse,
    ClientsResponse,
    CreateClientRequest,
    NewClientResponse,
    SecretResponse,
)
from ostiary_auth.routes.paging import Limit, page_of
from ostiary_auth.routes.parameters import PRINTABLE, Name
from ostiary_auth.routes.prefer_wait import note_revoked, prefer_wait_route
from ostiary_auth.services import Services
from ostiary_chassis.bodies import StrictRoute
from ostiary_chassis.openapi import documented


def client_admin_routes(services: Services, dependencies: Dependencies) -> list[BaseRoute]:
    router = APIRouter(prefix="/admin/clients", tags=["admin"], route_class=StrictRoute)
    revoking = APIRouter(prefix="/admin/clients", tags=["admin"], route_class=prefer_wait_route(services))
    admin = Annotated[Context, Depends(dependencies.admin)]
    registry = services.clients

    @router.get("")
    async def clients(
        _admin: admin, after: Annotated[str | None, Query(max_length=64, pattern=PRINTABLE)] = None, limit: Limit = 50
    ) -> ClientsResponse:
        """List clients, ordered by id."""
        page, last = page_of(await registry.page(after, limit + 1), limit)
        return ClientsResponse(clients=[ClientResponse.of(each) for each in page], next=last.id if last else None)

    @router.post("", status_code=201, responses=documented(409))
    async def create_client(context: admin, body: CreateClientRequest) -> NewClientResponse:
        """Register a client. Only this response contains its secret."""
        audiences = [services.config.audience] if body.audiences is None else body.audiences
        client = Client(
            id=body.id,
            name=body.name,
            grants=tuple(body.grants),
            scopes=tuple(body.scopes),
            audiences=tuple(audiences),
            jwks=body.jwks,
        )
        new, secret = await registry.create(client, context)
        return NewClientResponse(client=ClientResponse.of(new), secret=secret)

    @router.get("/{client_id}", responses=documented(404))
    async def client(_admin: admin, client_id: Name) -> ClientResponse:
        """Return a client."""
        return ClientResponse.of(await registry.get(client_id))

    @revoking.patch("/{client_id}", responses=documented(404))
    async def change_client(
        request: Request, context: admin, client_id: Name, body: ChangeClientRequest
    ) -> ClientResponse:
        """Disable a client and revoke its tokens, or enable it."""
        revoked: RevokedNumbers = ()
        if body.disabled:
            revoked = await registry.disable(client_id, context)
        else:
            await registry.enable(client_id, context)
        note_revoked(request, revoked)
        return ClientResponse.of(await registry.get(client_id))

    @router.post("/{client_id}/secret", responses=documented(404))
    async def rotate_secret(context: admin, client_id: Name) -> SecretResponse:
        """Create a new secret for a client; the previous one stays valid for a day."""
        return SecretResponse(secret=await registry.rotate_secret(client_id, context))

    @revoking.delete("/{client_id}", status_code=204, responses=documented(404))
    async def delete_client(request: Request, context: admin, client_id: Name) -> None:
        """Delete a client and revoke its tokens."""
        note_revoked(request, await registry.delete(client_id, context))

    return [*router.routes, *revoking.routes]
