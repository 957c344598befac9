"""Merges the OpenAPI documents of services into one, of the operations that routes expose.

The documents are foreign input. An invalid one is left out as a whole.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

import structlog

from ostiary_gateway.openapi.answers import COMPONENTS, answers_of
from ostiary_gateway.routing import paths
from ostiary_gateway.routing.config import Route
from ostiary_gateway.routing.paths import InvalidPath
from ostiary_gateway.routing.requirements import Requirements
from ostiary_gateway.routing.table import RouteTable

_log = structlog.stdlib.get_logger("docs")

#: Maximum nesting depth: schemas in practice have tens of levels.
MAX_DEPTH = 100

_PARAMETER = re.compile(r"\{[^{}/]+\}")
_REFERENCE = re.compile(r"#/components/([^/]+)/([^/]+)((?:/.*)?)\Z", re.DOTALL)
#: Methods of which documents describe operations.
METHODS = ("get", "head", "post", "put", "patch", "delete", "options")

# Value of parameters in example paths: no route has it as a literal.
_EXAMPLE = "any-value-at-all"

#: The kind of components that describe how clients authenticate.
SECURITY_SCHEMES = "securitySchemes"

# The gateway's own security schemes. Until they are renamed in the merged document, their names are ones that no
# component has.
_BEARER = {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}
_GATEWAY_BEARER, _GATEWAY_COOKIE = "", " "

#: Kind and name of a component.
Component = tuple[str, str]

#: An operation object. In those that `operations` yields, `parameters`, `security` and `responses` are validated.
Operation = dict[str, Any]

#: One alternative of an operation's security requirements: scopes by name of the security scheme.
Security = dict[str, list[str]]


class InvalidDocument(Exception):
    """A document that is not valid OpenAPI where that matters here."""


def operations(document: Mapping[str, Any]) -> Iterator[tuple[str, str, Operation]]:
    """Yield path, method and operation object of each operation. Raises InvalidDocument."""
    for path, item in _mapping(document.get("paths", {}), "paths").items():
        shared = _list(_mapping(item, path).get("parameters", []), f"parameters of {path}")
        for method in METHODS:
            if method in item:
                where = f"{method.upper()} {path}"
                operation = _mapping(item[method], where)
                own = _list(operation.get("parameters", []), f"parameters of {where}")
                security = _security(operation.get("security", document.get("security", [])), where)
                responses = _mapping(operation.get("responses", {}), f"responses of {where}")
                whole = {"parameters": [*shared, *own], "security": security, "responses": responses}
                yield path, method, {**operation, **whole}


def components(document: Mapping[str, Any]) -> dict[Component, Any]:
    """Return a document's components. Raises InvalidDocument."""
    kinds = _mapping(document.get("components") or {}, "components")
    return {(kind, name): each for kind in kinds for name, each in _mapping(kinds[kind], kind).items()}


def exposures(table: RouteTable, upstream: str, path: str, method: str) -> Iterator[tuple[Route, str]]:
    """Yield the routes that expose an operation of an upstream, and its public paths there."""
    for route in table.routes:
        if upstream in route.upstreams and method.upper() in route.match.methods:
            public = _public_path(route, path)
            if public is not None and _is_selected(table, route, public, method.upper()):
                yield route, public


def merge(
    table: RouteTable,
    documents: Mapping[str, Mapping[str, Any]],
    version: str,
    missing: Collection[str] = (),
    session_cookie: str = "",
) -> dict[str, Any]:
    """Merge documents by upstream into one; `missing` are upstreams without a document.

    `session_cookie` is the name of the cookie of browser sessions, if there are any.
    """
    merged = _MergedDocument(session_cookie if any(route.takes_cookies for route in table.routes) else "")
    left_out = set(missing)
    for name, document in documents.items():
        try:
            merged.add(table, name, document)
        except InvalidDocument as error:
            _log.warning("OpenAPI document rejected", upstream=name, error=str(error))
            left_out.add(name)
    info = {"title": "API", "version": version}
    if left_out:
        info["description"] = (
            f"Incomplete, as these services provide no valid OpenAPI document: {', '.join(sorted(left_out))}."
        )
    return {
        "openapi": "3.1.0",
        "info": info,
        "paths": dict(sorted(merged.paths.items())),
        "components": merged.components,
    }


class _MergedDocument:
    def __init__(self, session_cookie: str) -> None:
        self.paths: dict[str, dict[str, Operation]] = {}
        self._has_cookie = session_cookie != ""
        schemes = {"bearer": _BEARER, **({"cookie": _cookie(session_cookie)} if self._has_cookie else {})}
        #: With the gateway's own answers, which no service's component may replace.
        self.components: dict[str, dict[str, Any]] = {SECURITY_SCHEMES: schemes, "responses": dict(COMPONENTS)}
        self._operation_ids: set[str] = set()

    def add(self, table: RouteTable, upstream: str, document: Mapping[str, Any]) -> None:
        """Add exposed operations and the components they refer to, or else nothing and raise InvalidDocument."""
        own = components(document)
        exposed: dict[tuple[str, str], Operation] = {}
        answers: dict[tuple[str, str], dict[str, Any]] = {}
        for path, method, operation in operations(document):
            for route, public in exposures(table, upstream, path, method):
                security = _required_security(route, operation["security"], own, has_cookie=self._has_cookie)
                known = exposed.setdefault((public, method), {**operation, "security": []})
                known["security"] += [each for each in security if each not in known["security"]]
                answers.setdefault((public, method), {}).update(answers_of(route, method))
        reached = _reachable(exposed.values(), own)
        names = self._names(upstream, reached)
        taken = {each: _renamed(member, names) for each, member in reached.items()}
        described = {
            place: {
                **_renamed(operation, names),
                "security": _renamed_schemes(operation["security"], names),
                # What the service says of its own answers goes first.
                "responses": {**answers[place], **_renamed(operation["responses"], names)},
            }
            for place, operation in exposed.items()
        }
        # Nothing fails from here on.
        for (kind, name), member in taken.items():
            self.components.setdefault(kind, {})[names.get((kind, name), name)] = member
        for (public, method), operation in described.items():
            if method not in self.paths.setdefault(public, {}):
                self.paths[public][method] = self._with_unique_id(operation, upstream)

    def _names(self, upstream: str, reached: Mapping[Component, Any]) -> dict[Component, str]:
        """Return new names for components whose names are taken, and in turn for components that refer to these."""
        names: dict[Component, str] = {}
        is_settled = False
        while not is_settled:
            is_settled = True
            for (kind, name), member in reached.items():
                known = self.components.get(kind, {}).get(name)
                if (kind, name) not in names and known is not None and known != _renamed(member, names):
                    names[kind, name] = f"{upstream}.{name}"
                    is_settled = False
        return names

    def _with_unique_id(self, operation: Operation, upstream: str) -> Operation:
        """Make the operation's id unique, if it has one."""
        name = operation.get("operationId")
        if not isinstance(name, str):
            return operation
        unique, number = name, 1
        while unique in self._operation_ids:
            unique = f"{upstream}.{name}" if number == 1 else f"{upstream}.{name}.{number}"
            number += 1
        self._operation_ids.add(unique)
        return {**operation, "operationId": unique}


def _required_security(
    route: Route, security: list[Security], own: Mapping[Component, Any], *, has_cookie: bool
) -> list[Security]:
    """Return the route's security requirements; for a public route, those of the service itself."""
    if route.is_public:
        # An empty alternative if there are none: another route to the same path may add its own.
        return [each for each in security if all((SECURITY_SCHEMES, name) in own for name in each)] or [{}]
    scopes = sorted(route.access.scopes) if isinstance(route.access, Requirements) else []
    alternatives: list[Security] = [{_GATEWAY_BEARER: scopes}] if route.takes_bearers else []
    if route.takes_cookies and has_cookie:
        alternatives.append({_GATEWAY_COOKIE: scopes})
    return [*alternatives, {}] if route.is_optional else alternatives


def _cookie(name: str) -> dict[str, str]:
    described = "The session of a browser, which a login sets. Pages of other sites cannot use it."
    return {"type": "apiKey", "in": "cookie", "name": name, "description": described}


def _is_selected(table: RouteTable, route: Route, public: str, method: str) -> bool:
    """Return whether requests for a path take this route, and no more specific one."""
    example = _PARAMETER.sub(_EXAMPLE, public).encode("latin-1", "replace")
    for host in route.match.hosts or {""}:
        try:
            candidates = table.candidates(host.replace("*", "x").encode(), example)
        except InvalidPath:
            return False
        if any(each is route for each in candidates.get(method, ())):
            return True
    return False


def _public_path(route: Route, path: str) -> str | None:
    """Return the public path for an upstream's path; None if the route does not lead there."""
    parts = _PARAMETER.split(path)
    try:
        literals = [paths.normalise_text(each.encode()) for each in parts]
    except InvalidPath:
        return None
    names = [*_PARAMETER.findall(path), ""]
    given = "".join(literal + name for literal, name in zip(literals, names, strict=True))
    values = route.upstream_template.values(tuple(given[1:].split("/")))
    if values is None:
        return None
    return route.match.template.filled(lambda name: values.get(name, f"{{{name}}}"))


def _reachable(exposed: Iterable[Operation], own: Mapping[Component, Any]) -> dict[Component, Any]:
    """Return the components that operations refer to, directly or through others."""
    schemes = {(SECURITY_SCHEMES, name) for operation in exposed for each in operation["security"] for name in each}
    found = {each: own[each] for each in schemes if each in own}
    pending: list[Any] = [*exposed]
    while pending:
        for each in _references(pending.pop()):
            if each in own and each not in found:
                found[each] = own[each]
                pending.append(own[each])
    return found


def _references(value: Any, depth: int = 0) -> Iterator[Component]:
    if depth > MAX_DEPTH:
        raise InvalidDocument(f"nested more than {MAX_DEPTH} levels deep")
    if isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _references(each, depth + 1)
    elif isinstance(value, str) and (match := _REFERENCE.match(value)):
        yield match[1], match[2]


def _renamed(value: Any, names: Mapping[Component, str]) -> Any:
    """Rename components in references, in `$ref` and wherever else a string is one."""
    if not names:
        return value
    if isinstance(value, dict):
        return {key: _renamed(each, names) for key, each in value.items()}
    if isinstance(value, list):
        return [_renamed(each, names) for each in value]
    if isinstance(value, str) and (match := _REFERENCE.match(value)):
        kind, name, rest = match.groups()
        return f"#/components/{kind}/{names.get((kind, name), name)}{rest}"
    return value


def _renamed_schemes(security: list[Security], names: Mapping[Component, str]) -> list[Security]:
    if security == [{}]:
        return []
    known = {
        **names,
        (SECURITY_SCHEMES, _GATEWAY_BEARER): "bearer",
        (SECURITY_SCHEMES, _GATEWAY_COOKIE): "cookie",
    }
    return [{known.get((SECURITY_SCHEMES, name), name): scopes for name, scopes in each.items()} for each in security]


def _mapping(value: object, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidDocument(f"{what} is not a mapping")
    return value


def _list(value: object, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise InvalidDocument(f"{what} is not a list")
    return value


def _security(value: object, where: str) -> list[Security]:
    what = f"security of {where}"
    for alternative in _list(value, what):
        for scopes in _mapping(alternative, what).values():
            if not all(isinstance(scope, str) for scope in _list(scopes, what)):
                raise InvalidDocument(f"{what} has a scope that is not a string")
    return _list(value, what)
