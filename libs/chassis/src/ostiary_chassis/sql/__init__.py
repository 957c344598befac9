"""A SQL database behind a service: SQLite for one process, PostgreSQL for several replicas.

Transactions are short, and declare up front whether they write. On SQLite a writer takes the write lock when it begins
(`BEGIN IMMEDIATE`), so it never fails half-way because it has read first. On PostgreSQL the rows that a decision rests
on are locked with `SELECT ... FOR UPDATE`.
"""

from ostiary_chassis.sql.address import DatabaseAddress, DatabaseUrl
from ostiary_chassis.sql.database import Database, SqlStore, SqlTransaction
from ostiary_chassis.sql.errors import UNAVAILABLE_PROBLEM, is_unavailable, storage_handlers
from ostiary_chassis.sql.postgres import notification
from ostiary_chassis.sql.schema import Schema
from ostiary_chassis.sql.types import UtcDateTime

__all__ = [
    "UNAVAILABLE_PROBLEM",
    "Database",
    "DatabaseAddress",
    "DatabaseUrl",
    "Schema",
    "SqlStore",
    "SqlTransaction",
    "UtcDateTime",
    "is_unavailable",
    "notification",
    "storage_handlers",
]
