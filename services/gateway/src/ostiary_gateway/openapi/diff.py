"""Whether the gateway asks for what the services behind it ask for, by their OpenAPI documents."""

from collections.abc import Mapping
from typing import Any

from ostiary_gateway.openapi.merge import SCHEMES, BadDocument, Component, Security, components, exposures, operations
from ostiary_gateway.routing.config import Requirements, Route
from ostiary_gateway.routing.table import RouteTable

#: Kinds of security schemes that access tokens are presented by.
_TOKEN_SCHEMES = {"oauth2", "openIdConnect"}


def disagreements(table: RouteTable, documents: Mapping[str, dict[str, Any]]) -> list[str]:
    """Return where routes and documents, by upstream, disagree, a line each. Raises BadDocument."""
    found: list[str] = []
    described: set[tuple[str, str]] = set()
    for upstream, document in documents.items():
        try:
            schemes = components(document)
            for path, method, operation in operations(document):
                for route, public in exposures(table, upstream, path, method):
                    described.add((route.name, method.upper()))
                    wanted = _scopes(operation["security"], schemes)
                    found += [f"{method.upper()} {public} ({route.name}): {line}" for line in _compare(route, wanted)]
        except BadDocument as error:
            raise BadDocument(f"what {upstream} says of itself is not in the form of OpenAPI: {error}") from None
    for route in table.routes:
        if route.upstreams.keys() <= documents.keys():
            for method in sorted(route.match.methods):
                if (route.name, method) not in described:
                    found.append(f"{method} {route.match.path} ({route.name}): the service does not describe it")
    return found


def _scopes(security: list[Security], schemes: Mapping[Component, Any]) -> frozenset[str] | None:
    """Return the scopes that an operation asks for; None if it goes without an access token."""
    needed: list[frozenset[str]] = []
    for alternative in security:
        tokens = [scopes for name, scopes in alternative.items() if _is_for_tokens(schemes.get((SCHEMES, name)))]
        if not tokens:
            return None
        needed.append(frozenset(scope for scopes in tokens for scope in scopes))
    # What all alternatives ask for.
    return frozenset.intersection(*needed) if needed else None


def _is_for_tokens(scheme: object) -> bool:
    if not isinstance(scheme, dict):
        return False
    return scheme.get("type") in _TOKEN_SCHEMES or (
        scheme.get("type") == "http" and str(scheme.get("scheme", "")).lower() == "bearer"
    )


def _compare(route: Route, wanted: frozenset[str] | None) -> list[str]:
    if route.access == "public":
        return ["public, but the service asks for an access token"] if wanted is not None else []
    if wanted is None:
        return ["asks for an access token, but the service does not"]
    scopes = route.access.scopes if isinstance(route.access, Requirements) else frozenset()
    lines = []
    if wanted - scopes:
        lines.append(f"does not ask for {', '.join(sorted(wanted - scopes))}, but the service does")
    if scopes - wanted:
        lines.append(f"asks for {', '.join(sorted(scopes - wanted))}, but the service does not")
    return lines
