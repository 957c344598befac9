"""Where a database is: as operators write it, and as drivers need it."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NamedTuple, Self

import sqlalchemy.exc
from pydantic import AfterValidator
from sqlalchemy import URL, make_url

from ostiary_chassis.settings import read_secret

_DRIVERS = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg"}

#: The only option that a URL may have, as it says what always holds.
_WRITABLE_SERVER = {"target_session_attrs": "read-write"}

#: What is before an `@` is never taken for hosts: a password may have commas.
_SEVERAL_HOSTS = re.compile(r"(postgresql://(?:[^@]*@)?+)([^@/?]*,[^@/?]*)(.*)", re.DOTALL)


class Host(NamedTuple):
    """A PostgreSQL server; None stands for the driver's default."""

    name: str | None
    port: int | None


def _split(url: str) -> tuple[URL, tuple[Host, ...]]:
    """Parse a URL that may name several hosts, as PostgreSQL's own clients take it. Raises ValueError."""
    several = _SEVERAL_HOSTS.match(url)
    if several is None:
        parsed = make_url(url)
        return parsed, (Host(parsed.host, parsed.port),)
    begin, hosts, end = several.groups()
    each = [make_url(f"{begin}{host}{end}") for host in hosts.split(",")]
    if not all(parsed.host for parsed in each):
        raise ValueError("a host is missing")
    return each[0], tuple(Host(parsed.host, parsed.port) for parsed in each)


def _check_url(url: str) -> str:
    fault = _fault(url)
    if fault:
        raise ValueError(
            f"must be sqlite:///path/of/file or postgresql://user@host/database (or host,host/database); {fault}"
        )
    return url


def _fault(url: str) -> str:
    """Return what is wrong with a database's URL, and nothing of it; "" if nothing is."""
    try:
        parsed, _ = _split(url)
    except (sqlalchemy.exc.ArgumentError, ValueError):
        return "this is no URL, a host is missing, or a port is no number"
    if parsed.get_backend_name() not in _DRIVERS:
        return "this database is not supported"
    if parsed.database in {None, ""}:
        return "the name of the file or database is missing"
    if parsed.database == ":memory:":
        return "a database in memory would be another one for each connection"
    if parsed.query and (parsed.get_backend_name() == "sqlite" or dict(parsed.query) != _WRITABLE_SERVER):
        return "remove the options after '?'; only target_session_attrs=read-write may be there, and it always holds"
    return ""


#: The setting that names a database. Give the field `repr=False`: the URL may hold a password.
DatabaseUrl = Annotated[str, AfterValidator(_check_url)]


@dataclass(frozen=True, slots=True)
class DatabaseAddress:
    """A service's database.

    service:       the service's name, which is in the names of its settings and of the tables that the chassis needs.
    url:           SQLAlchemy's, with our driver; of several hosts, it has the first.
    hosts:         the PostgreSQL servers; whichever takes writes is used.
    password_file: the file with the password, which is read for each connection, as passwords are rotated.
    """

    service: str
    url: URL
    hosts: tuple[Host, ...] = ()
    password_file: Path | None = None

    @classmethod
    def of(cls, service: str, url: DatabaseUrl, password_file: Path | None = None) -> Self:
        """Return the address that settings give."""
        parsed, hosts = _split(url)
        backend = parsed.get_backend_name()
        # Options are for other clients; asyncpg has other names for them, and fails on those it does not know.
        engine_url = parsed.set(drivername=_DRIVERS[backend], query={})
        return cls(service, engine_url, *((), None) if backend == "sqlite" else (hosts, password_file))

    @classmethod
    def of_file(cls, service: str, path: Path) -> Self:
        """Return the address of a SQLite file, whatever characters its path contains."""
        return cls(service, URL.create(_DRIVERS["sqlite"], database=str(path)))

    @property
    def is_sqlite(self) -> bool:
        return self.url.get_backend_name() == "sqlite"

    @property
    def setting(self) -> str:
        """The setting that errors name."""
        return f"OSTIARY_{self.service.upper()}_DATABASE_URL"

    @property
    def path(self) -> Path:
        """The file of a SQLite database."""
        return Path(self.url.database or "")

    def password(self) -> str | None:
        """Read the password. Raises ConfigError."""
        if self.password_file is None:
            return self.url.password
        return read_secret(self.password_file, f"OSTIARY_{self.service.upper()}_DATABASE_PASSWORD_FILE")

    def __str__(self) -> str:
        """Return the URL as operators write it, without its password."""
        shown = repr(self.url.set(drivername=self.url.get_backend_name()))
        if len(self.hosts) < 2:  # noqa: PLR2004 - several
            return shown
        first, *others = (f"{host.name}:{host.port}" if host.port else f"{host.name}" for host in self.hosts)
        return shown.replace(f"{first}/", f"{','.join([first, *others])}/", 1)
