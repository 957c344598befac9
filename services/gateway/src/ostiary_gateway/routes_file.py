"""The routes file: YAML, validated as a whole, with the line at fault in every error.

    upstreams:
      profile: {url: "${OSTIARY_PROFILE_URL:-http://127.0.0.1:8082}"}
    routes:
      - name: read-profile
        match: {path: "/profiles/{id}", methods: [GET]}
        upstream: profile
        access: {scopes: [profile:read]}

A route says who may use it (`access`: public, authenticated, or the scopes and roles it takes); there
is no default for that. Members that are not known are errors.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from types import EllipsisType
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from ostiary_chassis.middleware import OPERATIONS
from ostiary_chassis.settings import BaseUrl, ConfigError
from ostiary_gateway.paths import PathTemplate, parse_template

#: Bytes of a request body, where a route does not say: enough for JSON, not for floods.
DEFAULT_BODY_BYTES = 1024 * 1024

#: Bytes that a route may allow: a TiB is no limit but a mistake.
MAX_BODY_BYTES = 2**40

#: Seconds, where a route does not say: to connect, and between two pieces of an answer.
DEFAULT_CONNECT_SECONDS = 2.0
DEFAULT_READ_SECONDS = 30.0

#: Where an error is: names and indexes down from the top.
Location = tuple[str | int, ...]

#: The kinds of values that a file holds; a date, say, is none of them.
_TAGS = {f"tag:yaml.org,2002:{kind}" for kind in ("map", "seq", "str", "int", "float", "bool", "null")}

_VARIABLE = re.compile(r"\$\{([A-Z][A-Z0-9_]*)(?::-([^}]*))?\}")

Method = Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,63}$")]
Permission = Annotated[str, Field(pattern=r"^[\x21\x23-\x5b\x5d-\x7e]+$")]  # RFC 6749 section 3.3, scope-token


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Upstream(_Part):
    """A service behind the gateway."""

    url: BaseUrl


class Match(_Part):
    """Which requests a route is for."""

    path: Annotated[str, AfterValidator(lambda text: parse_template(text) and text)]
    methods: Annotated[frozenset[Method], Field(min_length=1)]

    @property
    def template(self) -> PathTemplate:
        """The path, ready for matching."""
        return parse_template(self.path)


class Requirements(_Part):
    """What the caller's token must carry: all of these."""

    scopes: frozenset[Permission] = frozenset()
    roles: frozenset[Permission] = frozenset()

    @model_validator(mode="after")
    def _not_empty(self) -> Self:
        if not self.scopes and not self.roles:
            raise ValueError("name scopes or roles, or say 'authenticated'")
        return self


class Limits(_Part):
    """What a request may cost."""

    body_bytes: Annotated[int, Field(strict=True, ge=0, le=MAX_BODY_BYTES)] = DEFAULT_BODY_BYTES


class Timeouts(_Part):
    """Seconds to wait for the upstream."""

    connect: Annotated[float, Field(strict=True, ge=0.01, le=60)] = DEFAULT_CONNECT_SECONDS
    read: Annotated[float, Field(strict=True, ge=0.01, le=3600)] = DEFAULT_READ_SECONDS


class Route(_Part):
    """Which requests go where, and who may send them."""

    name: Name
    match: Match
    upstream: str
    access: Literal["public", "authenticated"] | Requirements
    #: Seconds by which revocations may be out of date: `default` is the gateway's own, `none` any.
    max_staleness: Annotated[float, Field(strict=True, ge=0.2, le=3600)] | Literal["default", "none"] = "default"
    limits: Limits = Limits()
    timeouts: Timeouts = Timeouts()

    @model_validator(mode="after")
    def _staleness_of_a_token(self) -> Self:
        if self.access == "public" and self.max_staleness != "default":
            raise ValueError("'max_staleness' is about tokens, and a public route takes none")
        return self

    @property
    def bound(self) -> float | EllipsisType | None:
        """The same, as verifiers take it."""
        if isinstance(self.max_staleness, str):
            return ... if self.max_staleness == "default" else None
        return self.max_staleness


class RoutesFile(_Part):
    """The whole file."""

    upstreams: Annotated[dict[Name, Upstream], Field(min_length=1)]
    routes: tuple[Route, ...]


def load(path: Path, environ: Mapping[str, str]) -> RoutesFile:
    """Read and validate a routes file. Raises ConfigError with one line per mistake."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise ConfigError(f"OSTIARY_GATEWAY_ROUTES: cannot read {path}: {reason}") from None
    lines: dict[Location, int] = {}
    try:
        document = _with_lines(text, lines)
        file = RoutesFile.model_validate(_expand(document, environ))
        _check_references(file)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(f"{path}:{line}: {error.problem}") from None
    except ValidationError as error:
        mistakes = [_message(path, lines, _location(item["loc"], lines), item["msg"]) for item in error.errors()]
        raise ConfigError("\n".join(dict.fromkeys(mistakes))) from None
    except _Mistake as error:
        raise ConfigError(_message(path, lines, error.location, str(error))) from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not YAML that can be read: {type(error).__name__}") from None
    return file


#: All member names that a file can have.
_NAMES = {name for part in _Part.__subclasses__() for name in part.model_fields}


class _Mistake(Exception):
    def __init__(self, location: Location, message: str) -> None:
        super().__init__(message)
        self.location = location


def _with_lines(text: str, lines: dict[Location, int]) -> object:
    """Parse YAML, noting the line on which each value stands. Repeated members and aliases are errors."""
    if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text, yaml.SafeLoader)):
        raise yaml.MarkedYAMLError(problem="aliases are not supported here")
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        return None if node is None else _value(loader, node, (), lines)
    finally:
        loader.dispose()


def _value(loader: yaml.SafeLoader, node: yaml.Node, location: Location, lines: dict[Location, int]) -> Any:
    lines[location] = node.start_mark.line + 1
    if node.tag not in _TAGS:
        raise yaml.MarkedYAMLError(problem=f"a value of this kind ({node.tag})", problem_mark=node.start_mark)
    if isinstance(node, yaml.MappingNode):
        members: dict[str, object] = {}
        for key_node, value_node in node.value:
            key = str(key_node.value)
            if key in members:
                raise yaml.MarkedYAMLError(problem=f"'{key}' stands here twice", problem_mark=key_node.start_mark)
            members[key] = _value(loader, value_node, (*location, key), lines)
            lines[*location, key] = key_node.start_mark.line + 1
        return members
    if isinstance(node, yaml.SequenceNode):
        return [_value(loader, item, (*location, index), lines) for index, item in enumerate(node.value)]
    return loader.construct_object(node)


def _expand(document: object, environ: Mapping[str, str]) -> object:
    """Put environment variables into the addresses of upstreams, and nowhere else."""
    upstreams = document.get("upstreams") if isinstance(document, dict) else None
    for name, upstream in upstreams.items() if isinstance(upstreams, dict) else ():
        if isinstance(upstream, dict) and isinstance(upstream.get("url"), str):
            upstream["url"] = _expand_text(upstream["url"], environ, ("upstreams", name, "url"))
    return document


def _expand_text(text: str, environ: Mapping[str, str], location: Location) -> str:
    def replacement(match: re.Match[str]) -> str:
        value = environ.get(match[1]) or match[2]
        if value is None:
            raise _Mistake(location, f"the environment variable {match[1]} is not set")
        return value

    return _VARIABLE.sub(replacement, text)


def _check_references(file: RoutesFile) -> None:
    """See that names are there and mean one thing. Raises _Mistake."""
    if not file.routes:
        raise _Mistake(("routes",), "there is no route")
    names: set[str] = set()
    seen: dict[tuple[object, str], str] = {}
    for index, route in enumerate(file.routes):
        if route.upstream not in file.upstreams:
            raise _Mistake(("routes", index, "upstream"), f"there is no upstream '{route.upstream}'")
        if route.name in names:
            raise _Mistake(("routes", index, "name"), f"there are two routes '{route.name}'")
        names.add(route.name)
        if route.match.path in OPERATIONS:
            raise _Mistake(("routes", index, "match", "path"), "the gateway answers this path itself")
        for method in route.match.methods:
            other = seen.setdefault((route.match.template.shape, method), route.name)
            if other != route.name:
                raise _Mistake(("routes", index, "match"), f"matches the same {method} requests as route '{other}'")


def _location(loc: tuple[int | str, ...], lines: Mapping[Location, int]) -> Location:
    """Return pydantic's location without what is not in the file: it adds the names of union members."""
    location: Location = ()
    for part in loc[:-1]:
        if (*location, part) in lines:
            location = (*location, part)
    last = loc[-1:]  # kept when it is missing in the file, as that may be the mistake
    return (*location, *last) if (*location, *last) in lines or not last or last[0] in _NAMES else location


def _message(path: Path, lines: Mapping[Location, int], location: Location, message: str) -> str:
    where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).lstrip(".")
    line = lines.get(location) or lines.get(location[:-1]) or 1
    if "instance of" in message:
        message = "must be a mapping"
    return f"{path}:{line}: {where or 'file'}: {message.removeprefix('Value error, ')}"
