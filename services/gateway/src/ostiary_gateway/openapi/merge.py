"""OpenAPI documents of services, and what routes let through of them: one document of all.

Documents come from others. One that is not in order is left out as a whole.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

import structlog

from ostiary_gateway.routing.config import Requirements, Route
from ostiary_gateway.routing.paths import AmbiguousPath
from ostiary_gateway.routing.table import RouteTable

_log = structlog.stdlib.get_logger("docs")

#: How deep values may stand in others: schemas of people have tens of levels.
MAX_DEPTH = 100

_PARAMETER = re.compile(r"\{[^{}/]+\}")
_REFERENCE = re.compile(r"#/components/([^/]+)/([^/]+)((?:/.*)?)\Z", re.DOTALL)
_METHODS = ("get", "head", "post", "put", "patch", "delete", "options")

# What stands for a parameter: nothing that a route names.
_EXAMPLE = "any-value-at-all"

#: The kind of components that say how a caller proves who it is.
SCHEMES = "securitySchemes"

# How the gateway itself asks for a token. The name is none that a component can have, until it is in the document.
_BEARER = {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}
_OURS = ""

#: A component: its kind, and its name.
Component = tuple[str, str]

#: What a document says of an operation; of those that are yielded here, `parameters` and `security` are in order.
Operation = dict[str, Any]

#: One way to be let in: security schemes by name, with scopes.
Security = dict[str, list[str]]


class BadDocument(Exception):
    """A document that is not in the form of OpenAPI where that matters here."""


def operations(document: Mapping[str, Any]) -> Iterator[tuple[str, str, Operation]]:
    """Yield path, method and description of what a document offers. Raises BadDocument."""
    for path, item in _mapping(document.get("paths", {}), "paths").items():
        shared = _list(_mapping(item, path).get("parameters", []), f"parameters of {path}")
        for method in _METHODS:
            if method in item:
                where = f"{method.upper()} {path}"
                operation = _mapping(item[method], where)
                own = _list(operation.get("parameters", []), f"parameters of {where}")
                security = _security(operation.get("security", document.get("security", [])), where)
                yield path, method, {**operation, "parameters": [*shared, *own], "security": security}


def components(document: Mapping[str, Any]) -> dict[Component, Any]:
    """Return what a document's operations refer to. Raises BadDocument."""
    kinds = _mapping(document.get("components") or {}, "components")
    return {(kind, name): each for kind in kinds for name, each in _mapping(kinds[kind], kind).items()}


def exposures(table: RouteTable, upstream: str, path: str, method: str) -> Iterator[tuple[Route, str]]:
    """Yield the routes by which an operation of an upstream can be reached, with the path that it then has."""
    for route in table.routes:
        if upstream in route.upstreams and method.upper() in route.match.methods:
            public = _unwritten(route.match.path, route.rewrite or route.match.path, path)
            if public is not None and _decides(table, route, public, method.upper()):
                yield route, public


def merge(
    table: RouteTable, documents: Mapping[str, Mapping[str, Any]], version: str, missing: Collection[str] = ()
) -> dict[str, Any]:
    """Return one document of those of several upstreams; `missing` are those that have said nothing."""
    merged = _Merged()
    left_out = set(missing)
    for name, document in documents.items():
        try:
            merged.add(table, name, document)
        except BadDocument as error:
            _log.warning("what a service says that it offers is left out", upstream=name, error=str(error))
            left_out.add(name)
    info = {"title": "API", "version": version}
    if left_out:
        info["description"] = f"What is missing here, as it is not known at the moment: {', '.join(sorted(left_out))}."
    return {
        "openapi": "3.1.0",
        "info": info,
        "paths": dict(sorted(merged.paths.items())),
        "components": merged.components,
    }


class _Merged:
    """What was taken from documents."""

    def __init__(self) -> None:
        self.paths: dict[str, dict[str, Operation]] = {}
        self.components: dict[str, dict[str, Any]] = {SCHEMES: {"bearer": _BEARER}}
        self._operation_ids: set[str] = set()

    def add(self, table: RouteTable, upstream: str, document: Mapping[str, Any]) -> None:
        """Take what routes let through, and what that refers to. Raises BadDocument, and then takes nothing."""
        own = components(document)
        exposed: dict[tuple[str, str], Operation] = {}
        for path, method, operation in operations(document):
            for route, public in exposures(table, upstream, path, method):
                security = _asked_for(route, operation["security"], own)
                known = exposed.setdefault((public, method), {**operation, "security": []})
                known["security"] += [each for each in security if each not in known["security"]]
        reached = _reachable(exposed.values(), own)
        names = self._names(upstream, reached)
        taken = {each: _renamed(member, names) for each, member in reached.items()}
        described = {
            place: {**_renamed(operation, names), "security": _renamed_schemes(operation["security"], names)}
            for place, operation in exposed.items()
        }
        # From here on, nothing can go wrong.
        for (kind, name), member in taken.items():
            self.components.setdefault(kind, {})[names.get((kind, name), name)] = member
        for (public, method), operation in described.items():
            if method not in self.paths.setdefault(public, {}):
                self.paths[public][method] = self._identified(operation, upstream)

    def _names(self, upstream: str, reached: Mapping[Component, Any]) -> dict[Component, str]:
        """Return new names for components whose names others have, and so for what refers to them."""
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

    def _identified(self, operation: Operation, upstream: str) -> Operation:
        """Return an operation with a name that no other one has, if it has one."""
        name = operation.get("operationId")
        if not isinstance(name, str):
            return operation
        unique, number = name, 1
        while unique in self._operation_ids:
            unique = f"{upstream}.{name}" if number == 1 else f"{upstream}.{name}.{number}"
            number += 1
        self._operation_ids.add(unique)
        return {**operation, "operationId": unique}


def _asked_for(route: Route, security: list[Security], own: Mapping[Component, Any]) -> list[Security]:
    """Return what a caller needs: what the route asks for, or on a public one what the service itself does."""
    if route.is_public:
        # Nothing, if it asks for nothing: there may be another route for which something is needed.
        return [each for each in security if all((SCHEMES, name) in own for name in each)] or [{}]
    scopes = sorted(route.access.scopes) if isinstance(route.access, Requirements) else []
    return [{_OURS: scopes}]


def _decides(table: RouteTable, route: Route, public: str, method: str) -> bool:
    """Return whether a route is the one for its path, and no more specific one is."""
    example = _PARAMETER.sub(_EXAMPLE, public).encode("latin-1", "replace")
    for host in route.match.hosts or {""}:
        try:
            candidates = table.candidates(host.replace("*", "x").encode(), example)
        except AmbiguousPath:
            return False
        if any(each is route for each in candidates.get(method, ())):
            return True
    return False


def _unwritten(public: str, rewrite: str, path: str) -> str | None:
    """Return the public form of an upstream's path that a rewrite leads to, if it leads there."""
    values: dict[str, str] = {}
    wanted, given = rewrite[1:].split("/"), path[1:].split("/")
    for position, part in enumerate(wanted):
        if part.endswith("...}"):
            values[part] = "/".join(given[position:])
            given = given[: position + 1]
            if not values[part]:
                return None
        elif position >= len(given) or not (part == given[position] or part.startswith("{")):
            return None
        else:
            values[part] = given[position]
    if len(wanted) != len(given):
        return None
    return "/" + "/".join(values.get(part, part) for part in public[1:].split("/"))


def _reachable(exposed: Iterable[Operation], own: Mapping[Component, Any]) -> dict[Component, Any]:
    """Return the components that operations refer to, and those that these do."""
    schemes = {(SCHEMES, name) for operation in exposed for each in operation["security"] for name in each}
    found = {each: own[each] for each in schemes if each in own}
    waiting: list[Any] = [*exposed]
    while waiting:
        for each in _references(waiting.pop()):
            if each in own and each not in found:
                found[each] = own[each]
                waiting.append(own[each])
    return found


def _references(value: Any, depth: int = 0) -> Iterator[Component]:
    if depth > MAX_DEPTH:
        raise BadDocument(f"values stand in others, more than {MAX_DEPTH} deep")
    if isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _references(each, depth + 1)
    elif isinstance(value, str) and (match := _REFERENCE.match(value)):
        yield match[1], match[2]


def _renamed(value: Any, names: Mapping[Component, str]) -> Any:
    """Return a value with new names in its references, in `$ref` and wherever else a text is one."""
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
    known = {**names, (SCHEMES, _OURS): "bearer"}
    return [{known.get((SCHEMES, name), name): scopes for name, scopes in each.items()} for each in security]


def _mapping(value: object, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadDocument(f"{what}: no mapping")
    return value


def _list(value: object, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise BadDocument(f"{what}: no list")
    return value


def _security(value: object, where: str) -> list[Security]:
    what = f"security of {where}"
    for alternative in _list(value, what):
        for scopes in _mapping(alternative, what).values():
            if not all(isinstance(scope, str) for scope in _list(scopes, what)):
                raise BadDocument(f"{what}: a scope that is no text")
    return _list(value, what)
