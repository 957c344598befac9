"""Which errors mean that the database is unavailable, and what a client gets then."""

import sqlite3

import sqlalchemy.exc
import structlog
from fastapi import Request, Response

from ostiary.fastapi import problem_response
from ostiary.http import Problem
from ostiary_chassis.problems import ExceptionHandlers

_log = structlog.stdlib.get_logger("sql")

UNAVAILABLE_PROBLEM = Problem(
    503,
    "storage_unavailable",
    "The database is unavailable; retry shortly.",
    {"Retry-After": "1"},
)

STORAGE_ERRORS: tuple[type[Exception], ...] = (sqlalchemy.exc.SQLAlchemyError, OSError)

#: PostgreSQL's error codes, whole or by their class, that are not the statement's fault (its manual, appendix A):
#: connection, user or password, resources, operator intervention, system; read-only, serialisation, deadlock, not in
#: prerequisite state, lock not available.
_UNAVAILABLE_STATES = ("08", "28", "53", "57", "58", "25006", "40001", "40P01", "55000", "55P03")

#: Those of a lock that others have held for too long, and of a deadlock, which is the same for whoever can try again.
_BUSY_STATES = ("55P03", "40P01")

_DISK_FULL_STATE = "53100"


class CannotConnect(ConnectionError):
    """No connection to the database; the message says why."""


def is_unavailable(error: Exception) -> bool:
    """Return whether the database is unreachable, busy or full, as opposed to a faulty statement."""
    if isinstance(error, sqlalchemy.exc.DBAPIError):
        unreachable = (sqlalchemy.exc.OperationalError, sqlalchemy.exc.InterfaceError)
        # SQLite raises DatabaseError itself, not a subclass, for a corrupt file.
        corrupt = type(error) is sqlalchemy.exc.DatabaseError
        state = _sqlstate(error).startswith(_UNAVAILABLE_STATES)
        return error.connection_invalidated or isinstance(error, unreachable) or corrupt or state
    return isinstance(error, sqlalchemy.exc.TimeoutError | OSError)


def is_busy(error: Exception) -> bool:
    """Return whether others hold what is needed, so that trying again helps."""
    # The primary code is in the lowest byte.
    is_locked = getattr(getattr(error, "orig", None), "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY
    return is_locked or _sqlstate(error) in _BUSY_STATES


def is_disk_full(error: Exception) -> bool:
    """Return whether PostgreSQL has no space to make a table longer; what fits into its pages may still succeed."""
    return _sqlstate(error) == _DISK_FULL_STATE


def describe(error: BaseException) -> str:
    """Return an error as one line for operators, which says something even if the exception does not."""
    cause = getattr(error, "orig", None) or error
    # SQLAlchemy's exceptions for asyncpg repeat the class of the driver's.
    words = " ".join(str(getattr(cause, "orig", None) or cause).split())
    if words:
        return words
    return "no answer in time" if isinstance(cause, TimeoutError) else type(cause).__name__


def storage_handlers() -> ExceptionHandlers:
    """Return exception handlers that answer 503 while the database is unavailable."""
    return dict.fromkeys(STORAGE_ERRORS, _on_storage_error)


async def _on_storage_error(_request: Request, error: Exception) -> Response:
    if not is_unavailable(error):
        raise error
    _log.warning("storage unavailable", error=describe(error))
    return problem_response(UNAVAILABLE_PROBLEM)


def _sqlstate(error: Exception) -> str:
    return str(getattr(getattr(error, "orig", None), "sqlstate", None) or "")
