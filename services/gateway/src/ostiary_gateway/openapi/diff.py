"""Compares the access rules of routes with the security requirements in services' OpenAPI documents."""

from collections.abc import Mapping
from typing import Any

from ostiary.browser import resembles_ours
from ostiary_gateway.openapi.merge import (
    METHODS,
    SECURITY_SCHEMES,
    Component,
    InvalidDocument,
    Security,
    components,
    exposures,
    operations,
)
from ostiary_gateway.routing.config import Route
from ostiary_gateway.routing.requirements import Requirements
from ostiary_gateway.routing.table import RouteTable

#: Types of security schemes that use access tokens, as bearers or the cookies of a browser session do.
_TOKEN_SCHEMES = {"oauth2", "openIdConnect"}


def differences(table: RouteTable, documents: Mapping[str, dict[str, Any]]) -> list[str]:
    """Return a line for each difference between routes and documents, by upstream. Raises InvalidDocument."""
    found: list[str] = []
    described: set[tuple[str, str]] = set()
    for upstream, document in documents.items():
        try:
            schemes = components(document)
            for path, method, operation in operations(document):
                for route, public in exposures(table, upstream, path, method):
                    described.add((route.name, method.upper()))
                    required = _required_scopes(operation["security"], schemes)
                    found += [f"{method.upper()} {public} ({route.name}): {line}" for line in _compare(route, required)]
        except InvalidDocument as error:
            raise InvalidDocument(f"invalid OpenAPI document of {upstream}: {error}") from None
    for route in table.routes:
        if route.upstreams.keys() <= documents.keys():
            for method in sorted(route.match.methods):
                # Documents describe HEAD only where it differs from GET.
                is_implied = method == "HEAD" and "GET" in route.match.methods
                if method.lower() in METHODS and (route.name, method) not in described and not is_implied:
                    found.append(f"{method} {route.match.path} ({route.name}): not in the service's document")
    return found


def _required_scopes(security: list[Security], schemes: Mapping[Component, Any]) -> frozenset[str] | None:
    """Return the scopes that an operation requires; None if it requires no access token."""
    alternatives: list[frozenset[str]] = []
    for alternative in security:
        tokens = [scopes for name, scopes in alternative.items() if _uses_tokens(schemes.get((SECURITY_SCHEMES, name)))]
        if not tokens:
            return None
        alternatives.append(frozenset(scope for scopes in tokens for scope in scopes))
    # What all alternatives require.
    return frozenset.intersection(*alternatives) if alternatives else None


def _uses_tokens(scheme: object) -> bool:
    if not isinstance(scheme, dict):
        return False
    if scheme.get("type") == "apiKey" and scheme.get("in") == "cookie":
        return resembles_ours(str(scheme.get("name", "")).encode())
    return scheme.get("type") in _TOKEN_SCHEMES or (
        scheme.get("type") == "http" and str(scheme.get("scheme", "")).lower() == "bearer"
    )


def _compare(route: Route, required: frozenset[str] | None) -> list[str]:
    if route.is_public or route.is_optional:
        return [f"{route.access}, but the service requires an access token"] if required is not None else []
    if required is None:
        return ["requires an access token, but the service does not"]
    scopes = route.access.scopes if isinstance(route.access, Requirements) else frozenset()
    lines = []
    if required - scopes:
        lines.append(f"does not require scope {', '.join(sorted(required - scopes))}, but the service does")
    if scopes - required:
        lines.append(f"requires scope {', '.join(sorted(scopes - required))}, but the service does not")
    return lines
