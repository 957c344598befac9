"""`/oauth/*`: tokens (RFC 6749), revocation (RFC 7009) and introspection (RFC 7662).

Requests are forms. Errors have the bodies of RFC 6749 section 5.2, not problem documents. Services request tokens
frequently, so these are plain Starlette routes: FastAPI's request parsing costs a third of a signature.
"""

import json
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ostiary_auth.domain.context import Context, client_actor
from ostiary_auth.domain.errors import OAuthError
from ostiary_auth.domain.oauth.access_tokens import AccessToken
from ostiary_auth.domain.oauth.model import Client
from ostiary_auth.paths import INTROSPECT_PATH, REVOKE_PATH, TOKEN_PATH
from ostiary_auth.routes.dependencies import Dependencies
from ostiary_auth.routes.oauth.client_authentication import credentials_of
from ostiary_auth.routes.oauth.forms import PARAMETERS, Form, read_form, required
from ostiary_auth.routes.prefer_wait import apply_prefer_wait, note_revoked
from ostiary_auth.services import Services

#: Caches must not store responses (RFC 6749 section 5.1).
_NO_STORE = {"Cache-Control": "no-store"}


def oauth_routes(services: Services, dependencies: Dependencies) -> list[Route]:
    """Return the routes of `/oauth`; `openapi` documents them."""

    async def authenticated(request: Request) -> tuple[Form, Client, Context]:
        """Parse the form and authenticate the client. Raises OAuthError."""
        form = await read_form(request, PARAMETERS)
        context = dependencies.context(request)
        client = await services.clients.authenticate(credentials_of(request, form), context)
        return form, client, context.by(client_actor(client.id))

    async def token(request: Request) -> Response:
        """Issue an access token to a client, or refresh a session."""
        form, client, context = await authenticated(request)
        scope = form.get("scope")
        scopes = frozenset(scope.split(" ")) if scope else None
        match form.get("grant_type"):
            case "client_credentials":
                access = await services.oauth.client_credentials(client, scopes, form.get("audience"), context)
                return _json(_token_body(access))
            case "refresh_token":
                presented = required(form, "refresh_token")
                grant, access = await services.oauth.refresh(client, presented, scopes, context)
                session = {"refresh_token": grant.refresh_token, "session_id": str(grant.session.id)}
                return _json({**_token_body(access), **session})
            case None:
                raise OAuthError("invalid_request", "Missing parameter 'grant_type'.")
            case _:
                raise OAuthError(
                    "unsupported_grant_type", "Unsupported grant type; use client_credentials or refresh_token."
                )

    async def revoke(request: Request) -> Response:
        """End a refresh token's session, or revoke an access token. Unknown tokens are not an error."""
        form, client, context = await authenticated(request)
        revoked = note_revoked(request, await services.oauth.revoke(client, required(form, "token"), context))
        if not revoked:
            # Public clients may call this: a response must not tell about revocations that are not their own.
            return _json({})
        return await apply_prefer_wait(services, request, _json({}))

    async def introspect(request: Request) -> Response:
        """Tell whether an access token is active."""
        form, client, context = await authenticated(request)
        presented = await services.oauth.introspect(client, required(form, "token"), context)
        if presented is None:
            return _json({"active": False})
        return _json({"active": True, "token_type": "Bearer", **presented.claims})

    return [
        Route(TOKEN_PATH, token, methods=["POST"]),
        Route(REVOKE_PATH, revoke, methods=["POST"]),
        Route(INTROSPECT_PATH, introspect, methods=["POST"]),
    ]


def _token_body(access: AccessToken) -> dict[str, Any]:
    return {
        "access_token": access.token,
        "token_type": "Bearer",
        "expires_in": access.expires_in,
        "scope": access.scope,
    }


def _json(body: Mapping[str, Any]) -> Response:
    return Response(json.dumps(body), headers=_NO_STORE, media_type="application/json")
