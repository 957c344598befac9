"""From the bytes of a routes file to its validated form, with line and place of each mistake."""

import re
from collections.abc import Callable, Mapping
from itertools import product
from pathlib import Path

from pydantic import (
    ValidationError,
)

from ostiary_chassis.settings import ConfigError
from ostiary_gateway.routing import types, yaml
from ostiary_gateway.routing.config import OWN_PATHS, RoutesFile, _Part
from ostiary_gateway.routing.yaml import BadYaml, Location

#: What names the file, as a rule.
SETTING = "OSTIARY_GATEWAY_ROUTES"
_VARIABLE = re.compile(r"\$\{([A-Z][A-Z0-9_]*)(?::-([^}]*))?\}")

#: What may be sent again (RFC 9110 section 9.2.2).
_IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})


class Mistake(Exception):
    """Something wrong at a place in the file."""

    def __init__(self, location: Location, message: str) -> None:
        """Make the error."""
        super().__init__(message)
        self.location = location


def load_file(
    path: Path,
    environ: Mapping[str, str],
    check: Callable[[RoutesFile], None] = lambda _file: None,
    setting: str = SETTING,
) -> RoutesFile:
    """Read and validate a routes file, which `setting` names. Raises ConfigError with one line per mistake."""
    return parse_file(path, read_file(path, setting), environ, check)


def read_file(path: Path, setting: str = SETTING) -> bytes:
    """Return what is in a routes file. Raises ConfigError."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{setting}: cannot read {path}: {error.strerror}") from None


def parse_file(
    path: Path,
    content: bytes,
    environ: Mapping[str, str],
    check: Callable[[RoutesFile], None] = lambda _file: None,
) -> RoutesFile:
    """Validate what is in a routes file. Raises ConfigError with one line per mistake.

    `check` looks at the whole of it, and may raise a Mistake.
    """
    try:
        document, lines = yaml.read(content)
    except BadYaml as error:
        raise ConfigError(f"{path}:{error.line}: {_place(error.location)}: {error}") from None
    try:
        file = RoutesFile.model_validate(_expand(document, environ))
        _check_references(file)
        check(file)
    except ValidationError as error:
        mistakes = [_message(path, lines, _location(item["loc"], lines), types.words(item)) for item in error.errors()]
        raise ConfigError("\n".join(dict.fromkeys(mistakes))) from None
    except Mistake as error:
        raise ConfigError(_message(path, lines, error.location, str(error))) from None
    return file


#: All member names that a file can have.
_NAMES = {name for part in _Part.__subclasses__() for name in part.model_fields}


def _expand(document: object, environ: Mapping[str, str]) -> object:
    """Put environment variables into the addresses of upstreams, and nowhere else."""
    upstreams = document.get("upstreams") if isinstance(document, dict) else None
    for name, upstream in upstreams.items() if isinstance(upstreams, dict) else ():
        if not isinstance(upstream, dict):
            continue
        if isinstance(upstream.get("url"), str):
            upstream["url"] = _expand_text(upstream["url"], environ, ("upstreams", name, "url"))
        if isinstance(upstream.get("urls"), list):
            upstream["urls"] = [
                _expand_text(url, environ, ("upstreams", name, "urls", number)) if isinstance(url, str) else url
                for number, url in enumerate(upstream["urls"])
            ]
    return document


def _expand_text(text: str, environ: Mapping[str, str], location: Location) -> str:
    def replacement(match: re.Match[str]) -> str:
        value = environ.get(match[1]) or match[2]
        if value is None:
            raise Mistake(location, f"the environment variable {match[1]} is not set")
        return value

    return _VARIABLE.sub(replacement, text)


def _check_references(file: RoutesFile) -> None:
    """See that names are there and mean one thing. Raises Mistake."""
    if not file.routes:
        raise Mistake(("routes",), "there is no route")
    names: set[str] = set()
    seen: dict[tuple[object, ...], str] = {}
    for index, route in enumerate(file.routes):
        for name in route.upstreams:
            if name not in file.upstreams:
                raise Mistake(("routes", index, "upstream"), f"there is no upstream '{name}'")
        if route.name in names:
            raise Mistake(("routes", index, "name"), f"there are two routes '{route.name}'")
        names.add(route.name)
        if route.retries is not None and not route.match.methods & _IDEMPOTENT:
            raise Mistake(("routes", index, "retries"), "none of the route's methods may be sent again")
        if route.match.path in OWN_PATHS:
            raise Mistake(("routes", index, "match", "path"), "the gateway answers this path itself")
        match = route.match
        headers = frozenset((name.lower(), value) for name, value in match.headers.items())
        for method, host in product(match.methods, match.hosts or {""}):
            other = seen.setdefault((match.template.shape, method, host, headers), route.name)
            if other != route.name:
                raise Mistake(("routes", index, "match"), f"matches the same {method} requests as route '{other}'")


def _location(loc: tuple[int | str, ...], lines: Mapping[Location, int]) -> Location:
    """Return pydantic's location without what is not in the file: it adds the names of union members."""
    location: Location = ()
    for part in loc[:-1]:
        if (*location, part) in lines:
            location = (*location, part)
    last = loc[-1:]  # kept when it is missing in the file, as that may be the mistake
    return (*location, *last) if (*location, *last) in lines or not last or last[0] in _NAMES else location


def _message(path: Path, lines: Mapping[Location, int], location: Location, message: str) -> str:
    line = lines.get(location) or lines.get(location[:-1]) or 1
    return f"{path}:{line}: {_place(location)}: {message}"


def _place(location: Location) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).lstrip(".") or "file"
