"""`/.well-known/*`: what a verifier or a client finds out by itself."""

import hashlib
from collections.abc import Callable

from fastapi import APIRouter, Request, Response

from ostiary_auth.domain.keys import KeyRing

#: Seconds that the JWKS may be cached. A new key is published at least this long before it signs.
JWKS_MAX_AGE = 300

#: Seconds that the metadata may be cached; they change with a new release.
METADATA_MAX_AGE = 3600


def discovery_routes(issuer: str, key_ring: Callable[[], KeyRing]) -> APIRouter:
    """Return the router for `/.well-known`."""
    router = APIRouter(prefix="/.well-known", tags=["discovery"])
    # RFC 8414 section 2: exactly what is there. No authorization endpoint, so no response types.
    metadata: dict[str, object] = {
        "issuer": issuer,
        "jwks_uri": f"{issuer}/.well-known/jwks.json",
        "response_types_supported": [],
        "grant_types_supported": [],
    }

    @router.get("/jwks.json")
    async def jwks(request: Request) -> Response:
        """Return the public keys (RFC 7517 section 5)."""
        document = key_ring().jwks()
        etag = f'"{hashlib.sha256(document).hexdigest()[:32]}"'
        headers = {"Cache-Control": f"public, max-age={JWKS_MAX_AGE}", "ETag": etag}
        if _matches(request.headers.get("if-none-match", ""), etag):
            return Response(status_code=304, headers=headers)
        return Response(document, headers=headers, media_type="application/json")

    # The second is where OpenID clients look for the same (RFC 8414 section 5).
    @router.get("/oauth-authorization-server")
    @router.get("/openid-configuration")
    async def authorization_server(response: Response) -> dict[str, object]:
        """Return the server's metadata (RFC 8414)."""
        response.headers["Cache-Control"] = f"public, max-age={METADATA_MAX_AGE}"
        return metadata

    return router


def _matches(if_none_match: str, etag: str) -> bool:
    """Compare weakly (RFC 9110 section 13.1.2)."""
    candidates = [candidate.strip().removeprefix("W/") for candidate in if_none_match.split(",")]
    return etag in candidates or candidates == ["*"]
