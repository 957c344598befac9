"""URLs of databases, as operators write them and as SQLAlchemy needs them."""

from pathlib import Path
from typing import Annotated

import sqlalchemy.exc
from pydantic import AfterValidator
from sqlalchemy import URL, make_url

_DRIVERS = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg"}


def _check_url(url: str) -> str:
    try:
        parsed = make_url(url)
        supported = parsed.get_backend_name() in _DRIVERS and parsed.database not in {None, "", ":memory:"}
        # asyncpg has other names for options, and fails on those it does not know.
        supported = supported and not parsed.query
    except sqlalchemy.exc.ArgumentError:
        supported = False
    if not supported:
        raise ValueError("must be sqlite:///path/of/file or postgresql://user@host/database")
    return url


#: The setting that names a database. Give the field `repr=False`: the URL may hold a password.
DatabaseUrl = Annotated[str, AfterValidator(_check_url)]


def engine_url(url: DatabaseUrl, password: str | None = None) -> URL:
    """Return a database's URL with our driver for it. A separate `password` is added, but not for SQLite."""
    parsed = make_url(url)
    if password is not None and parsed.get_backend_name() != "sqlite":
        parsed = parsed.set(password=password)
    return parsed.set(drivername=_DRIVERS[parsed.get_backend_name()])


def sqlite_url(path: Path) -> URL:
    """Return the URL of a SQLite file, whatever characters its path contains."""
    return URL.create(_DRIVERS["sqlite"], database=str(path))
