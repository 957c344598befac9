"""`/oauth/*`: tokens (RFC 6749), revocation (RFC 7009) and introspection (RFC 7662).

Requests are forms. Refusals have the bodies of RFC 6749 section 5.2, not problem documents. Services ask for
tokens all the time, so these are plain Starlette routes: FastAPI's way to read a request costs a third of a signature.
"""

import base64
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote_plus

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ostiary_auth.domain.context import Context, client_actor
from ostiary_auth.domain.errors import InvalidClient, OAuthError
from ostiary_auth.domain.oauth.access_tokens import AccessToken
from ostiary_auth.domain.oauth.clients import Client, Credentials
from ostiary_auth.routes.dependencies import Requests
from ostiary_auth.routes.prefer_wait import wait_if_asked
from ostiary_auth.services import INTROSPECT_PATH, REVOKE_PATH, TOKEN_PATH, Services

#: RFC 7523 section 2.2.
JWT_BEARER_ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"

#: Parameters of a form; ours have eight at most.
MAX_PARAMETERS = 32

_FORM = "application/x-www-form-urlencoded"

#: Neither tokens nor refusals may be kept by a cache (RFC 6749 section 5.1).
_NO_STORE = {"Cache-Control": "no-store"}

Form = Mapping[str, str]


def oauth_routes(services: Services, requests: Requests) -> list[Route]:
    """Return the routes of `/oauth`; `oauth_schemas` documents them."""

    async def authenticated(request: Request) -> tuple[Form, Client, Context]:
        """Read the form and recognise the client. Raises OAuthError."""
        request.state.route = request.scope["path"]  # for logs and metrics, which know FastAPI's routes only
        form = await _read_form(request)
        context = requests.context(request)
        client = await services.clients.authenticate(_credentials(request, form), context)
        return form, client, Context(context.now, client_actor(client.id), context.source, context.user_agent)

    async def token(request: Request) -> Response:
        """Return an access token for a client itself, or continue a session."""
        form, client, context = await authenticated(request)
        scope = form.get("scope")
        scopes = frozenset(scope.split(" ")) if scope else None
        match form.get("grant_type"):
            case "client_credentials":
                access = await services.oauth.client_credentials(client, scopes, form.get("audience"), context)
                return _json(_token_body(access))
            case "refresh_token":
                presented = _required(form, "refresh_token")
                grant, access = await services.oauth.refresh(client, presented, scopes, context)
                session = {"refresh_token": grant.refresh_token, "session_id": str(grant.session.id)}
                return _json({**_token_body(access), **session})
            case None:
                raise OAuthError("invalid_request", "The parameter 'grant_type' is missing.")
            case _:
                raise OAuthError("unsupported_grant_type", "The grants are client_credentials and refresh_token.")

    async def revoke(request: Request) -> Response:
        """End a refresh token's session, or one access token. Unknown tokens are no error."""
        form, client, context = await authenticated(request)
        await services.oauth.revoke(client, _required(form, "token"), context)
        if not context.revocations:
            # Anybody may ask; nothing is told that has not come of it.
            return _json({})
        request.state.context = context
        return await wait_if_asked(services, request, _json({}))

    async def introspect(request: Request) -> Response:
        """Say whether an access token is good now, ended sessions and revocations considered."""
        form, client, context = await authenticated(request)
        presented = await services.oauth.introspect(client, _required(form, "token"), context)
        if presented is None:
            return _json({"active": False})
        return _json({"active": True, "token_type": "Bearer", **presented.claims})

    return [
        Route(TOKEN_PATH, token, methods=["POST"]),
        Route(REVOKE_PATH, revoke, methods=["POST"]),
        Route(INTROSPECT_PATH, introspect, methods=["POST"]),
    ]


async def _read_form(request: Request) -> Form:
    """Return the parameters of a form; those without a value count as not sent (RFC 6749 section 3.1).

    Raises OAuthError.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != _FORM:
        raise OAuthError("invalid_request", f"Send a form, with 'Content-Type: {_FORM}'.")
    try:
        pairs = _parse((await request.body()).decode("ascii"))
    except ValueError:
        raise OAuthError("invalid_request", "The body is not a form.") from None
    form = dict(pairs)
    if len(form) != len(pairs):
        raise OAuthError("invalid_request", "A parameter stands in the form twice.")
    if any("\0" in value for value in form.values()):
        raise OAuthError("invalid_request", "A parameter holds a NUL character.")
    return {name: value for name, value in form.items() if value}


def _parse(body: str) -> list[tuple[str, str]]:
    """Return the pairs of a form. Raises ValueError for what is none, or has too many."""
    parts = body.split("&", MAX_PARAMETERS) if body else []
    if len(parts) > MAX_PARAMETERS or not all("=" in part for part in parts):
        raise ValueError
    return [(_decode(name), _decode(value)) for name, _, value in (part.partition("=") for part in parts)]


def _decode(text: str) -> str:
    return unquote_plus(text, errors="strict") if "%" in text or "+" in text else text


def _credentials(request: Request, form: Form) -> Credentials:
    """Return how the client authenticates: in one way and no more (RFC 6749 section 2.3). Raises OAuthError."""
    assertion = form.get("client_assertion")
    if (assertion is not None) != ("client_assertion_type" in form):
        raise OAuthError("invalid_request", "'client_assertion' and 'client_assertion_type' go together.")
    if assertion is not None and form["client_assertion_type"] != JWT_BEARER_ASSERTION:
        raise OAuthError("invalid_request", f"'client_assertion_type' must be {JWT_BEARER_ASSERTION}.")
    fields = request.headers.getlist("authorization")
    ways = len(fields) + ("client_secret" in form) + (assertion is not None)
    if ways > 1:
        raise OAuthError("invalid_request", "The client authenticates in more than one way.")
    if not fields:
        return Credentials(form.get("client_id"), form.get("client_secret"), assertion)
    client_id, secret = _basic(fields[0])
    if form.get("client_id") not in {None, client_id}:
        raise OAuthError("invalid_request", "'client_id' is another client than the one that authenticates.")
    return Credentials(client_id, secret)


def _basic(field: str) -> tuple[str, str]:
    """Return a client's id and secret, which are form-encoded before they are joined (RFC 6749 section 2.3.1).

    Raises InvalidClient.
    """
    scheme, _, encoded = field.partition(" ")
    try:
        if scheme.lower() != "basic":
            raise InvalidClient("Clients authenticate with the scheme Basic, or in the form.")
        client_id, colon, secret = base64.b64decode(encoded.strip(), validate=True).decode("utf-8").partition(":")
    except ValueError:  # not base64, or not UTF-8 within
        raise InvalidClient("The Authorization field is not in the form of Basic.") from None
    if not colon or not client_id or not secret:
        raise InvalidClient("The Authorization field names no client or has no secret.")
    return unquote_plus(client_id), unquote_plus(secret)


def _required(form: Form, name: str) -> str:
    if name not in form:
        raise OAuthError("invalid_request", f"The parameter '{name}' is missing.")
    return form[name]


def _token_body(access: AccessToken) -> dict[str, Any]:
    return {
        "access_token": access.token,
        "token_type": "Bearer",
        "expires_in": access.expires_in,
        "scope": access.scope,
    }


def _json(body: Mapping[str, Any]) -> Response:
    return Response(json.dumps(body), headers=_NO_STORE, media_type="application/json")
