"""Settings: one frozen object per service, parsed once from the environment at the entry point.

A field's alias is the name of its setting, so that errors name what the operator has to change.
Secrets are never settings, but paths of files with secrets are.
"""

import difflib
import os
import tempfile
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Self

import structlog
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ostiary_chassis.urls import MAX_PORT

_log = structlog.stdlib.get_logger("settings")

Port = Annotated[int, Field(ge=1, le=MAX_PORT)]


class ConfigError(Exception):
    """An invalid setting. The message is one line and names the setting."""


class Settings(BaseModel):
    """The base of a service's config."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    @classmethod
    def names(cls) -> frozenset[str]:
        """Return the names of all settings."""
        return frozenset(_alias(cls, field) for field in cls.model_fields)

    @classmethod
    def load(cls, environ: Mapping[str, str]) -> Self:
        """Parse the settings in `environ`; an empty value counts as not set. Raises ConfigError."""
        given = {name: environ[name] for name in cls.names() if environ.get(name)}
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            raise ConfigError("; ".join(_describe(cls, item) for item in error.errors())) from None


def reject_unknown(environ: Mapping[str, str], prefix: str, known: Collection[str]) -> None:
    """Raise ConfigError for an unknown setting: it was meant to have an effect."""
    for name in sorted(environ):
        if name.startswith(prefix) and name not in known:
            similar = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {similar[0]}?" if similar else ""
            raise ConfigError(f"{name}: unknown setting{hint}")


def _alias(model: type[BaseModel], field: str) -> str:
    alias = model.model_fields[field].alias
    if alias is None:
        raise TypeError(f"{model.__name__}.{field} needs an alias, the name of its setting")
    return alias


def _describe(model: type[BaseModel], item: object) -> str:
    assert isinstance(item, dict)  # noqa: S101 - pydantic's ErrorDetails, for the type checker
    message = str(item["msg"]).removeprefix("Value error, ")
    if not item["loc"]:
        return message  # it concerns several settings, and names them
    name = str(item["loc"][0])
    secret = any(field.alias == name and not field.repr for field in model.model_fields.values())
    # Also in a setting that is no secret, somebody may have written a password, as in http://user:password@host.
    secret = secret or "@" in str(item["input"])
    got = "" if secret else f" (got {item['input']!r})"
    return f"{name}: {message[:1].lower()}{message[1:]}{got}"


def require_writable(directory: Path, setting: str) -> None:
    """Create `directory` (mode 0700) if it is missing, and check that it is writable. Raises ConfigError."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        raise ConfigError(f"{setting}: cannot write in {directory}: {error.strerror}") from None


def read_secret(path: Path, setting: str) -> str:
    """Return the secret in a file, without a trailing newline. Raises ConfigError."""
    try:
        secret = path.read_text(encoding="utf-8").rstrip("\r\n")
    except OSError as error:
        raise ConfigError(f"{setting}: cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{setting}: {path} is not UTF-8") from None
    if not secret:
        raise ConfigError(f"{setting}: {path} is empty")
    return secret


def create_secret(path: Path, secret: str) -> None:
    """Write a secret to a new file with mode 0600; an existing file stays as it is. Raises OSError."""
    if path.exists():
        return
    # Written to a draft and then linked: readers never see a partial file, and two processes that start
    # at the same time use the same secret.
    draft = path.with_name(f"{path.name}.{os.urandom(8).hex()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(f"{secret}\n")
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):
            os.link(draft, path)
            _log.info("secret created", path=str(path))
    finally:
        draft.unlink()


def environment() -> Mapping[str, str]:
    """Return the process's environment. Only entry points call this."""
    return os.environ
