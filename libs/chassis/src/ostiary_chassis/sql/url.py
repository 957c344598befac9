"""URLs of databases, as operators write them and as SQLAlchemy needs them."""

from pathlib import Path
from typing import Annotated

import sqlalchemy.exc
from pydantic import AfterValidator
from sqlalchemy import URL, make_url

_DRIVERS = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg"}


def _check_url(url: str) -> str:
    fault = _fault(url)
    if fault:
        raise ValueError(f"must be sqlite:///path/of/file or postgresql://user@host/database; {fault}")
    return url


def _fault(url: str) -> str:
    """Return what is wrong with a database's URL, and nothing of it; "" if nothing is."""
    try:
        parsed = make_url(url)
    except (sqlalchemy.exc.ArgumentError, ValueError):
        return "this is no URL, or its port is no number"
    if parsed.get_backend_name() not in _DRIVERS:
        return "this database is not supported"
    if parsed.database in {None, ""}:
        return "the name of the file or database is missing"
    if parsed.database == ":memory:":
        return "a database in memory would be another one for each connection"
    # asyncpg has other names for options, and fails on those it does not know.
    return "remove the options after '?'" if parsed.query else ""


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
