"""Parses and validates a routes file. Every error names the line and the place."""

import re
from collections.abc import Callable, Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from ostiary_chassis.settings import ConfigError
from ostiary_gateway.http1.methods import IDEMPOTENT
from ostiary_gateway.routing import yaml
from ostiary_gateway.routing.completion import InvalidRoutes, RouteMemory
from ostiary_gateway.routing.config import OWN_PATHS, Conditions, RoutesFile
from ostiary_gateway.routing.credentials import faults
from ostiary_gateway.routing.templates import parse_template
from ostiary_gateway.routing.types import Section, error_message
from ostiary_gateway.routing.yaml import InvalidYaml, Location

T = TypeVar("T")

#: The setting that names the file, for errors.
SETTING = "OSTIARY_GATEWAY_ROUTES"

_VARIABLE = re.compile(r"\$\{([A-Z][A-Z0-9_]*)(?::-([^}]*))?\}")


# In any spelling.
_OWN_SHAPES = {parse_template(path).shape for path in OWN_PATHS}


def _sections(section: type[Section]) -> Iterator[type[Section]]:
    for each in section.__subclasses__():
        yield each
        yield from _sections(each)


_FIELD_NAMES = {name for section in _sections(Section) for name in section.model_fields}


def load_file(path: Path, environ: Mapping[str, str]) -> RoutesFile:
    """Read, parse and validate a routes file. Raises ConfigError with one line per error."""
    return parse_file(path, read_file(path), environ, lambda file: file)


def read_file(path: Path, setting: str = SETTING) -> bytes:
    """Read a routes file. Raises ConfigError, which names the `setting`."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{setting}: cannot read {path}: {error.strerror}") from None


def parse_file(
    path: Path,
    content: bytes,
    environ: Mapping[str, str],
    make: Callable[[RoutesFile], T],
    memory: RouteMemory | None = None,
) -> T:
    """Parse and validate a routes file's content. Raises ConfigError with one line per error.

    `make` returns what is made of the file, and may raise InvalidRoutes. Nothing is remembered of an invalid file.
    """
    try:
        document = yaml.read(content)
    except InvalidYaml as error:
        raise ConfigError(f"{path}:{error.line}: {_place(error.location)}: {error}") from None
    try:
        file, remember = (memory or RouteMemory()).complete(_expand(document, environ))
        _check_references(file)
        _check_credentials(file)
        made = make(file)
    except ValidationError as error:
        lines = yaml.read_lines(content)
        messages = [
            _message(path, lines, _location(item["loc"], lines), error_message(item)) for item in error.errors()
        ]
        raise ConfigError("\n".join(dict.fromkeys(messages))) from None
    except InvalidRoutes as error:
        raise ConfigError(_message(path, yaml.read_lines(content), error.location, str(error))) from None
    remember()
    return made


def _expand(document: object, environ: Mapping[str, str]) -> object:
    """Expand environment variables in the addresses of upstreams, and nowhere else."""
    upstreams = document.get("upstreams") if isinstance(document, dict) else None
    for name, upstream in upstreams.items() if isinstance(upstreams, dict) else ():
        if not isinstance(upstream, dict):
            continue
        if isinstance(upstream.get("url"), str):
            upstream["url"] = _expand_text(upstream["url"], environ, ("upstreams", name, "url"))
        if isinstance(upstream.get("urls"), str):
            upstream["urls"] = _expand_text(upstream["urls"], environ, ("upstreams", name, "urls"))
        elif isinstance(upstream.get("urls"), list):
            upstream["urls"] = [
                _expand_text(url, environ, ("upstreams", name, "urls", index)) if isinstance(url, str) else url
                for index, url in enumerate(upstream["urls"])
            ]
    return document


def _expand_text(text: str, environ: Mapping[str, str], location: Location) -> str:
    def replacement(match: re.Match[str]) -> str:
        value = environ.get(match[1]) or match[2]
        if value is None:
            raise InvalidRoutes(location, f"environment variable {match[1]} is not set")
        return value

    return _VARIABLE.sub(replacement, text)


def _check_references(file: RoutesFile) -> None:
    """Check what concerns several sections: upstreams exist, names and matches are unique. Raises InvalidRoutes."""
    if not file.routes:
        raise InvalidRoutes(("routes",), "at least one route is required")
    names: set[str] = set()
    seen: dict[tuple[str, Conditions], str] = {}
    for index, route in enumerate(file.routes):
        for name in route.upstreams:
            if name not in file.upstreams:
                raise InvalidRoutes(("routes", index, "upstream"), f"unknown upstream '{name}'")
        if route.name in names:
            raise InvalidRoutes(("routes", index, "name"), f"duplicate route name '{route.name}'")
        names.add(route.name)
        if route.retries is not None and not route.match.methods & IDEMPOTENT:
            raise InvalidRoutes(("routes", index, "retries"), "none of the route's methods is idempotent")
        if route.match.template.shape in _OWN_SHAPES:
            raise InvalidRoutes(("routes", index, "match", "path"), "reserved: the gateway serves this path itself")
        for method, conditions in product(sorted(route.match.methods), route.match.conditions):
            other = seen.setdefault((method, conditions), route.name)
            if other != route.name:
                raise InvalidRoutes(
                    ("routes", index, "match"), f"matches the same {method} requests as route '{other}'"
                )


def _check_credentials(file: RoutesFile) -> None:
    """Check the section `browser` and what depends on it. Raises InvalidRoutes."""
    for location, fault in faults(file):
        raise InvalidRoutes(location, fault)


def _location(loc: tuple[int | str, ...], lines: Mapping[Location, int]) -> Location:
    """Drop the parts of pydantic's location that are not in the file, such as the tags of union members."""
    location: Location = ()
    for part in loc[:-1]:
        if (*location, part) in lines:
            location = (*location, part)
    last = loc[-1:]  # a missing field is not in the file either, but belongs into the location
    return (*location, *last) if (*location, *last) in lines or not last or last[0] in _FIELD_NAMES else location


def _message(path: Path, lines: Mapping[Location, int], location: Location, message: str) -> str:
    line = lines.get(location) or lines.get(location[:-1]) or 1
    return f"{path}:{line}: {_place(location)}: {message}"


def _place(location: Location) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).lstrip(".") or "file"
