"""Which settings a client may be registered with."""

import re
from collections.abc import Mapping
from typing import Any, get_args
from uuid import UUID

import jwt

from ostiary_auth.domain.errors import InvalidClientSettings
from ostiary_auth.domain.oauth.model import Client, GrantType
from ostiary_chassis.names import is_name

MAX_NAME_CHARACTERS = 100
MAX_CLIENT_KEYS = 5
MIN_RSA_BITS = 2048

# Distinct from user ids, or a client's token would pass for a user's (RFC 9700 section 4.15).
CLIENT_ID = re.compile(r"[a-z][a-z0-9._-]{1,63}\Z")
# RFC 6749 section 3.3.
_SCOPE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]{1,128}\Z")
_AUDIENCE = re.compile(r"[\x21-\x7e]{1,256}\Z")


def check_settings(client: Client, reserved_ids: frozenset[str]) -> None:
    """Raise InvalidClientSettings unless the client can work and cannot pass for a user or another client."""
    if CLIENT_ID.match(client.id) is None or _is_uuid(client.id) or client.id in reserved_ids:
        raise InvalidClientSettings(
            "The id must have 2 to 64 characters of a-z, 0-9, '.', '_' and '-', and start with a letter; "
            "UUIDs and reserved ids are not allowed."
        )
    if not (1 <= len(client.name) <= MAX_NAME_CHARACTERS and is_name(client.name)):
        raise InvalidClientSettings(
            f"The name must have 1 to {MAX_NAME_CHARACTERS} characters, at least one of them visible, "
            "and no control characters, also not for the direction of text."
        )
    if not client.grants or not client.audiences:
        raise InvalidClientSettings("At least one grant and one audience are required.")
    if not set(client.grants) <= set(get_args(GrantType)):
        raise InvalidClientSettings(f"Unknown grant; use one of: {', '.join(get_args(GrantType))}.")
    if not all(map(_SCOPE.match, client.scopes)) or not all(map(_AUDIENCE.match, client.audiences)):
        raise InvalidClientSettings("A scope or audience is too long or has characters that are not allowed.")
    if client.jwks is not None:
        _check_jwks(client.jwks)


def _is_uuid(text: str) -> bool:
    try:
        UUID(text)
    except ValueError:
        return False
    return True


def _check_jwks(jwks: Mapping[str, Any]) -> None:
    keys = jwks.get("keys")
    if not isinstance(keys, list) or not 1 <= len(keys) <= MAX_CLIENT_KEYS:
        raise InvalidClientSettings(f"'jwks' must contain 1 to {MAX_CLIENT_KEYS} keys.")
    for key in keys:
        if not isinstance(key, dict) or any(member in key for member in ("d", "k", "p", "q")):
            raise InvalidClientSettings("'jwks' must contain public keys only.")
        try:
            public = jwt.PyJWK(key, algorithm="ES256" if key.get("kty") == "EC" else "RS256").key
        except (jwt.PyJWTError, ValueError, TypeError, KeyError):
            raise InvalidClientSettings("'jwks' contains an invalid key.") from None
        if key.get("kty") == "EC" and key.get("crv") != "P-256":
            raise InvalidClientSettings("Elliptic curve keys must use P-256.")
        if key.get("kty") == "RSA" and public.key_size < MIN_RSA_BITS:
            raise InvalidClientSettings(f"RSA keys must have at least {MIN_RSA_BITS} bits.")
