"""Which errors mean that the database is unavailable, and what a client gets then."""

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
#: connection, resources, operator intervention, system; read-only, serialisation, deadlock, not in prerequisite state,
#: lock not available.
_UNAVAILABLE_STATES = ("08", "53", "57", "58", "25006", "40001", "40P01", "55000", "55P03")

#: Those of a wrong password, user or database.
_MISCONFIGURED_STATES = ("28", "3D000")


def is_unavailable(error: Exception) -> bool:
    """Return whether the database is unreachable, busy or full, as opposed to a faulty statement."""
    if isinstance(error, sqlalchemy.exc.DBAPIError):
        unreachable = (sqlalchemy.exc.OperationalError, sqlalchemy.exc.InterfaceError)
        # SQLite raises DatabaseError itself, not a subclass, for a corrupt file.
        corrupt = type(error) is sqlalchemy.exc.DatabaseError
        state = _sqlstate(error).startswith(_UNAVAILABLE_STATES)
        return error.connection_invalidated or isinstance(error, unreachable) or corrupt or state
    return isinstance(error, sqlalchemy.exc.TimeoutError | OSError)


def is_misconfigured(error: Exception) -> bool:
    """Return whether the server rejected the user, the password or the database's name."""
    return _sqlstate(error).startswith(_MISCONFIGURED_STATES)


def storage_handlers() -> ExceptionHandlers:
    """Return exception handlers that answer 503 while the database is unavailable."""
    return dict.fromkeys(STORAGE_ERRORS, _on_storage_error)


async def _on_storage_error(_request: Request, error: Exception) -> Response:
    if not is_unavailable(error):
        raise error
    _log.warning("storage unavailable", error=str(getattr(error, "orig", None) or type(error).__name__))
    return problem_response(UNAVAILABLE_PROBLEM)


def _sqlstate(error: Exception) -> str:
    return str(getattr(getattr(error, "orig", None), "sqlstate", None) or "")
