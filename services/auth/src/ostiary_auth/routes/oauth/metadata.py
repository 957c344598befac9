"""`/.well-known/oauth-authorization-server`: metadata (RFC 8414)."""

from fastapi import APIRouter, Response
from starlette.routing import BaseRoute

from ostiary.feed import SCOPE as FEED_SCOPE
from ostiary_auth.domain.accounts.model import SCOPES_OF_ROLE
from ostiary_auth.domain.oauth.authorization_server import INTROSPECT_SCOPE
from ostiary_auth.domain.oauth.client_assertion import ASSERTION_ALGORITHMS
from ostiary_auth.domain.revocation.security_events import EVENTS_SCOPE
from ostiary_auth.paths import INTROSPECT_PATH, REVOKE_PATH, TOKEN_PATH
from ostiary_auth.services import Services
from ostiary_chassis.bodies import StrictRoute

#: Seconds that the metadata may be cached; it changes with releases only.
METADATA_MAX_AGE = 3600

_CONFIDENTIAL = ["client_secret_basic", "client_secret_post", "private_key_jwt"]


def metadata_routes(services: Services) -> list[BaseRoute]:
    router = APIRouter(prefix="/.well-known", tags=["discovery"], route_class=StrictRoute)
    metadata = _metadata(services.config.issuer)

    # The second path is for OpenID clients (RFC 8414 section 5).
    @router.get("/oauth-authorization-server")
    @router.get("/openid-configuration")
    async def authorization_server(response: Response) -> dict[str, object]:
        """Return the authorization server's metadata (RFC 8414)."""
        response.headers["Cache-Control"] = f"public, max-age={METADATA_MAX_AGE}"
        return metadata

    return router.routes


def _metadata(issuer: str) -> dict[str, object]:
    """Return the metadata (RFC 8414 section 2). There is no authorization endpoint, so no response type either."""
    scopes = {scope for scopes in SCOPES_OF_ROLE.values() for scope in scopes}
    algorithms = list(ASSERTION_ALGORITHMS)
    return {
        "issuer": issuer,
        "jwks_uri": f"{issuer}/.well-known/jwks.json",
        "response_types_supported": [],
        "grant_types_supported": ["client_credentials", "refresh_token"],
        "scopes_supported": sorted({*scopes, INTROSPECT_SCOPE, FEED_SCOPE, EVENTS_SCOPE}),
        "token_endpoint": f"{issuer}{TOKEN_PATH}",
        "token_endpoint_auth_methods_supported": [*_CONFIDENTIAL, "none"],
        "token_endpoint_auth_signing_alg_values_supported": algorithms,
        "revocation_endpoint": f"{issuer}{REVOKE_PATH}",
        "revocation_endpoint_auth_methods_supported": [*_CONFIDENTIAL, "none"],
        "revocation_endpoint_auth_signing_alg_values_supported": algorithms,
        "introspection_endpoint": f"{issuer}{INTROSPECT_PATH}",
        "introspection_endpoint_auth_methods_supported": _CONFIDENTIAL,
        "introspection_endpoint_auth_signing_alg_values_supported": algorithms,
    }
