"""Settings: one frozen object per service, read once from the environment, at the entry point.

A field's alias is the name of its setting, so that an error names what the operator has to change.
Secrets never are settings; the path of the file that holds one is.
"""

import difflib
import os
import re
import tempfile
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Self

import structlog
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

_log = structlog.stdlib.get_logger("settings")

Port = Annotated[int, Field(ge=1, le=65535)]


class ConfigError(Exception):
    """A setting that cannot be used. The message is one line and names the setting."""


class Settings(BaseModel):
    """Base of a service's config."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    @classmethod
    def names(cls) -> frozenset[str]:
        """Return the names of all settings."""
        return frozenset(_alias(cls, field) for field in cls.model_fields)

    @classmethod
    def load(cls, environ: Mapping[str, str]) -> Self:
        """Read the settings from `environ`; an empty value counts as not set. Raises ConfigError."""
        given = {name: environ[name] for name in cls.names() if environ.get(name)}
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            raise ConfigError("; ".join(_describe(cls, item) for item in error.errors())) from None


def refuse_unknown(environ: Mapping[str, str], prefix: str, known: Collection[str]) -> None:
    """Refuse settings that nobody reads: they were meant to have an effect. Raises ConfigError."""
    for name in sorted(environ):
        if name.startswith(prefix) and name not in known:
            similar = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {similar[0]}?" if similar else ""
            raise ConfigError(f"{name}: there is no such setting{hint}")


def _alias(model: type[BaseModel], field: str) -> str:
    alias = model.model_fields[field].alias
    if alias is None:
        raise TypeError(f"{model.__name__}.{field} needs an alias: the name of its setting")
    return alias


def _describe(model: type[BaseModel], item: object) -> str:
    assert isinstance(item, dict)  # noqa: S101 - pydantic's ErrorDetails, for the type checker
    message = str(item["msg"]).removeprefix("Value error, ")
    if not item["loc"]:
        return message  # about several settings; it names them itself
    name = str(item["loc"][0])
    secret = any(field.alias == name and not field.repr for field in model.model_fields.values())
    got = "" if secret else f" (got {item['input']!r})"
    return f"{name}: {message[:1].lower()}{message[1:]}{got}"


_ADDRESS = re.compile(
    r"https?://(?:[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)*"
    r"|\[[0-9A-Fa-f:.]+\])(?::(?P<port>[0-9]{1,5}))?\Z"
)


def _base_url(value: object) -> object:
    """Let through an http or https URL of a host, without path, query or credentials."""
    if not isinstance(value, str):
        return value
    match = _ADDRESS.match(value)
    if match is None or not 1 <= int(match["port"] or 80) <= 65535:  # noqa: PLR2004 - ports
        raise ValueError("must be http:// or https://, a host and no path, as in http://localhost:8080")
    return value


#: The address of a service: scheme, host and port.
BaseUrl = Annotated[str, BeforeValidator(_base_url)]


def require_writable(directory: Path, setting: str) -> None:
    """Make `directory` (mode 0700) if it is not there and see that files can be written in it. Raises ConfigError."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        raise ConfigError(f"{setting}: cannot write in {directory}: {error.strerror}") from None


def read_secret(path: Path, setting: str) -> str:
    """Return the secret in a file, without the line end. Raises ConfigError."""
    try:
        secret = path.read_text(encoding="utf-8").rstrip("\r\n")
    except OSError as error:
        raise ConfigError(f"{setting}: cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{setting}: {path} is not text") from None
    if not secret:
        raise ConfigError(f"{setting}: {path} is empty")
    return secret


def create_secret(path: Path, secret: str) -> None:
    """Write a secret to a file of its own, with mode 0600, unless there is one. Raises OSError."""
    if path.exists():
        return
    # Written beside and then linked: whoever sees the file sees all of it, and two that start at once
    # end up with the same one.
    draft = path.with_name(f"{path.name}.{os.urandom(8).hex()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(f"{secret}\n")
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):
            os.link(draft, path)
            _log.info("secret made", path=str(path))
    finally:
        draft.unlink()


def environment() -> Mapping[str, str]:
    """Return the process's environment; entry points are the only callers."""
    return os.environ
