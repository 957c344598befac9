"""The OpenAPI document's part about `/oauth/*`, which FastAPI does not know."""

from collections.abc import Sequence
from typing import Any

from ostiary_auth.paths import INTROSPECT_PATH, REVOKE_PATH, TOKEN_PATH
from ostiary_auth.routes.prefer_wait import PARAMETER
from ostiary_chassis.media_types import FORM

_TOKEN = "eyJhbGciOiJSUzI1NiIsInR5cCI6ImF0K2p3dCIsImtpZCI6Ii4uLiJ9.eyJzdWIiOiIuLi4ifQ.c2ln"  # noqa: S105 - cut
_TEXT = {"type": "string"}
_SECONDS = {"type": "integer"}

_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {"error": _TEXT, "error_description": _TEXT},
    "example": {"error": "invalid_scope", "error_description": "A requested scope is not allowed for this client."},
}

_CLIENT = {
    "client_id": {**_TEXT, "description": "The client; omitted with Basic authentication."},
    "client_secret": {**_TEXT, "description": "With the method client_secret_post."},
    "client_assertion": {**_TEXT, "description": "With the method private_key_jwt (RFC 7523)."},
    "client_assertion_type": _TEXT,
}

_TOKEN_ANSWER = {
    "type": "object",
    "required": ["access_token", "token_type", "expires_in", "scope"],
    "properties": {
        "access_token": _TEXT,
        "token_type": {"const": "Bearer"},
        "expires_in": {"type": "integer", "description": "Seconds."},
        "scope": _TEXT,
        "refresh_token": {**_TEXT, "description": "With the grant refresh_token: the next one."},
        "session_id": {"type": "string", "format": "uuid"},
    },
    "example": {"access_token": _TOKEN, "token_type": "Bearer", "expires_in": 900, "scope": "orders:read"},
}

_INTROSPECTION_ANSWER = {
    "type": "object",
    "required": ["active"],
    "properties": {
        "active": {"type": "boolean"},
        **dict.fromkeys(("token_type", "sub", "client_id", "scope", "iss", "aud", "jti", "sid"), _TEXT),
        **dict.fromkeys(("exp", "iat", "nbf", "auth_time"), _SECONDS),
        "roles": {"type": "array", "items": _TEXT},
    },
    "example": {"active": True, "sub": "2c7b...", "client_id": "first-party", "scope": "profile:read"},
}


_REVOCATION_ANSWER = {
    "type": "object",
    "description": "Empty, or with `Prefer: wait`: how far the revocation is in force.",
    "properties": {
        "revoked": {"type": "integer"},
        "cursor": {"type": "integer"},
        "acknowledged_by": {"type": "integer"},
        "in_force_after_ms": {"type": ["number", "null"]},
        "complete": {"type": "boolean"},
    },
    "example": {},
}


def _operation(
    name: str,
    summary: str,
    properties: dict[str, Any],
    example: dict[str, str],
    answer: dict[str, Any],
    *,
    parameters: Sequence[dict[str, Any]] = (),
) -> dict[str, Any]:
    """Describe an operation; its first property is required."""
    required = [next(iter(properties))]
    form = {"type": "object", "required": required, "properties": {**properties, **_CLIENT}, "example": example}
    refusal = {"content": {"application/json": {"schema": _ERROR}}}
    operation = {
        "tags": ["oauth"],
        "summary": summary,
        "operationId": name,
        "parameters": list(parameters),
        "requestBody": {"required": True, "content": {FORM: {"schema": form}}},
        "security": [{"client_secret_basic": []}, {}],
        "responses": {
            "200": {"description": "Success.", "content": {"application/json": {"schema": answer}}},
            "400": {"description": "Invalid request (RFC 6749 section 5.2).", **refusal},
            "401": {"description": "Client authentication failed.", **refusal},
        },
    }
    return {"post": operation}


#: The paths, and the security scheme that they name, for an OpenAPI document.
PATHS = {
    TOKEN_PATH: _operation(
        "oauth_token",
        "Issue an access token to a client, or refresh a session (RFC 6749).",
        {
            "grant_type": {"enum": ["client_credentials", "refresh_token"]},
            "scope": {**_TEXT, "description": "Space-separated scopes; all allowed ones if omitted."},
            "audience": {**_TEXT, "description": "With client_credentials: one of the client's audiences."},
            "refresh_token": {**_TEXT, "description": "With the grant refresh_token."},
        },
        {"grant_type": "client_credentials", "scope": "orders:read", "client_id": "reports", "client_secret": "..."},
        _TOKEN_ANSWER,
    ),
    REVOKE_PATH: _operation(
        "oauth_revoke",
        "End a refresh token's session, or revoke an access token (RFC 7009). Unknown tokens are not an error.",
        {"token": _TEXT, "token_type_hint": _TEXT},
        {"token": "gq0x...", "client_id": "first-party"},
        _REVOCATION_ANSWER,
        parameters=[PARAMETER],
    ),
    INTROSPECT_PATH: _operation(
        "oauth_introspect",
        "Tell whether an access token is active, considering ended sessions and revocations (RFC 7662).",
        {"token": _TEXT, "token_type_hint": _TEXT},
        {"token": _TOKEN, "client_id": "reports", "client_secret": "..."},
        _INTROSPECTION_ANSWER,
    ),
}
SECURITY_SCHEMES = {"client_secret_basic": {"type": "http", "scheme": "basic"}}
