"""`/admin/*`: users, clients, keys and the audit log, for callers with the scope `admin`."""

from typing import Annotated, TypeVar
from uuid import UUID

from fastapi import APIRouter, Depends, Path, Query
from starlette.routing import BaseRoute

from ostiary_auth.domain.context import Context
from ostiary_auth.domain.oauth.clients import Client
from ostiary_auth.routes.accounts.models import (
    AuditEntryResponse,
    AuditReportResponse,
    AuditResponse,
    ChangeClientRequest,
    ChangeUserRequest,
    ClientResponse,
    ClientsResponse,
    CreateClientRequest,
    CreateUserRequest,
    ExportResponse,
    KeyResponse,
    KeysResponse,
    NewClientResponse,
    SecretResponse,
    UserResponse,
    UsersResponse,
    VerifierResponse,
    VerifiersResponse,
)
from ostiary_auth.routes.dependencies import Requests
from ostiary_auth.routes.models import EndedResponse
from ostiary_auth.routes.prefer_wait import revoking_route
from ostiary_auth.services import Services
from ostiary_chassis.openapi import documented

T = TypeVar("T")

Limit = Annotated[int, Query(ge=1, le=200, description="Items on a page.")]
#: Printable ASCII: nothing else is an id or a kid, and a database may not take it.
PRINTABLE = r"^[\x21-\x7e]+$"
Name = Annotated[str, Path(max_length=128, pattern=PRINTABLE)]


def admin_routes(services: Services, requests: Requests) -> list[BaseRoute]:
    """Return the routes of `/admin`."""
    parts = (_user_routes, _client_routes, _key_routes, _revocation_routes, _audit_routes)
    return [route for part in parts for route in part(services, requests)]


def _user_routes(services: Services, requests: Requests) -> list[BaseRoute]:  # noqa: C901 - a list of routes
    router = APIRouter(prefix="/admin/users", tags=["admin"])
    revoking = APIRouter(prefix="/admin/users", tags=["admin"], route_class=revoking_route(services))
    admin = Annotated[Context, Depends(requests.admin)]
    accounts = services.accounts

    @router.get("")
    async def users(_admin: admin, after: UUID | None = None, limit: Limit = 50) -> UsersResponse:
        """List users in the order of their ids."""
        page, last = _page(await accounts.page(after, limit + 1), limit)
        return UsersResponse(users=[UserResponse.of(user) for user in page], next=last.id if last else None)

    @router.post("", status_code=201, responses=documented(409))
    async def create_user(context: admin, body: CreateUserRequest) -> UserResponse:
        """Open an account for somebody."""
        roles = tuple(body.roles)
        return UserResponse.of(await accounts.create(body.email, body.password, body.display_name, roles, context))

    @router.get("/{user_id}", responses=documented(404))
    async def user(_admin: admin, user_id: UUID) -> UserResponse:
        """Return a user."""
        return UserResponse.of(await accounts.get(user_id))

    @revoking.patch("/{user_id}", responses=documented(404))
    async def change_user(context: admin, user_id: UUID, body: ChangeUserRequest) -> UserResponse:
        """Disable or enable a user, or give them other roles. Disabling ends their sessions."""
        if body.roles is not None:
            await accounts.set_roles(user_id, tuple(body.roles), context)
        if body.disabled is True:
            await accounts.disable(user_id, context)
        elif body.disabled is False:
            await accounts.enable(user_id, context)
        return UserResponse.of(await accounts.get(user_id))

    @revoking.delete("/{user_id}", status_code=204, responses=documented(404))
    async def delete_user(context: admin, user_id: UUID) -> None:
        """Delete a user with all that is personal about them."""
        await accounts.delete(user_id, context)

    @revoking.delete("/{user_id}/sessions", responses=documented(404))
    async def end_sessions(context: admin, user_id: UUID) -> EndedResponse:
        """End all sessions of a user."""
        return EndedResponse(revoked=await accounts.end_sessions(user_id, context))

    @router.get("/{user_id}/export", responses=documented(404))
    async def export(context: admin, user_id: UUID) -> ExportResponse:
        """Return all that is stored about a user."""
        return ExportResponse.of(await accounts.export(user_id, context))

    return [*router.routes, *revoking.routes]


def _client_routes(services: Services, requests: Requests) -> list[BaseRoute]:
    router = APIRouter(prefix="/admin/clients", tags=["admin"])
    revoking = APIRouter(prefix="/admin/clients", tags=["admin"], route_class=revoking_route(services))
    admin = Annotated[Context, Depends(requests.admin)]
    registry = services.clients

    @router.get("")
    async def clients(
        _admin: admin, after: Annotated[str | None, Query(max_length=64, pattern=PRINTABLE)] = None, limit: Limit = 50
    ) -> ClientsResponse:
        """List clients in the order of their ids."""
        page, last = _page(await registry.page(after, limit + 1), limit)
        return ClientsResponse(clients=[ClientResponse.of(each) for each in page], next=last.id if last else None)

    @router.post("", status_code=201, responses=documented(409))
    async def create_client(context: admin, body: CreateClientRequest) -> NewClientResponse:
        """Register a client. Its secret is in this answer and nowhere else."""
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
    async def change_client(context: admin, client_id: Name, body: ChangeClientRequest) -> ClientResponse:
        """Disable a client, which revokes its tokens, or enable it."""
        await (registry.disable if body.disabled else registry.enable)(client_id, context)
        return ClientResponse.of(await registry.get(client_id))

    @router.post("/{client_id}/secret", responses=documented(404))
    async def rotate_secret(context: admin, client_id: Name) -> SecretResponse:
        """Give a client a new secret; the one before it is good for a day."""
        return SecretResponse(secret=await registry.rotate_secret(client_id, context))

    @revoking.delete("/{client_id}", status_code=204, responses=documented(404))
    async def delete_client(context: admin, client_id: Name) -> None:
        """Delete a client, and revoke its tokens."""
        await registry.delete(client_id, context)

    return [*router.routes, *revoking.routes]


def _key_routes(services: Services, requests: Requests) -> list[BaseRoute]:
    router = APIRouter(prefix="/admin/keys", tags=["admin"])
    revoking = APIRouter(prefix="/admin/keys", tags=["admin"], route_class=revoking_route(services))
    admin = Annotated[Context, Depends(requests.admin)]

    @router.get("")
    async def keys(_admin: admin) -> KeysResponse:
        """List the signing keys."""
        return await listed()

    @router.post("/rotate", responses=documented(409))
    async def rotate(context: admin) -> KeysResponse:
        """Let the next key sign from now on."""
        await services.keys.rotate(context)
        return await listed()

    @revoking.post("/{kid}/revoke", responses=documented(404))
    async def revoke(context: admin, kid: Name) -> KeysResponse:
        """Remove a key at once, and end all that it signed."""
        await services.keys.revoke(context, kid)
        return await listed()

    async def listed() -> KeysResponse:
        return KeysResponse(keys=[KeyResponse.of(key) for key in await services.keys.stored()])

    return [*router.routes, *revoking.routes]


def _revocation_routes(services: Services, requests: Requests) -> list[BaseRoute]:
    router = APIRouter(prefix="/admin", tags=["admin"])
    revoking = APIRouter(prefix="/admin", tags=["admin"], route_class=revoking_route(services))
    admin = Annotated[Context, Depends(requests.admin)]

    @router.get("/verifiers")
    async def verifiers(context: admin) -> VerifiersResponse:
        """List the verifiers that may be accepting tokens."""
        async with services.store.read() as transaction:
            live = await transaction.verifiers.live(context.now)
        return VerifiersResponse(verifiers=[VerifierResponse.of(verifier) for verifier in live])

    @revoking.post("/tokens/revoke", status_code=204)
    async def revoke_all(context: admin) -> None:
        """Revoke every access token that there is. Sessions go on: whoever has one refreshes."""
        await services.journal.revoke_all(services.store, context)

    return [*router.routes, *revoking.routes]


def _audit_routes(services: Services, requests: Requests) -> list[BaseRoute]:
    router = APIRouter(prefix="/admin/audit", tags=["admin"])
    admin = Annotated[Context, Depends(requests.admin)]

    @router.get("")
    async def audit(
        _admin: admin,
        after: Annotated[int, Query(ge=0, le=2**62)] = 0,
        limit: Limit = 50,
        subject: Annotated[str | None, Query(max_length=80, pattern=PRINTABLE)] = None,
    ) -> AuditResponse:
        """List the audit log, the oldest entry first."""
        async with services.store.read() as transaction:
            page, last = _page(await transaction.journal.entries(after, limit + 1, subject), limit)
        return AuditResponse(
            entries=[AuditEntryResponse.of(entry) for entry in page], next=last.number if last else None
        )

    @router.get("/verify")
    async def verify(_admin: admin) -> AuditReportResponse:
        """Check the whole audit log against its chain of MACs."""
        return AuditReportResponse.of(await services.journal.verify(services.store))

    return router.routes


def _page(found: list[T], limit: int) -> tuple[list[T], T | None]:
    """Return a page of what was found with one more than its limit, and its last item if others follow."""
    page = found[:limit]
    return page, page[-1] if len(found) > limit else None
