"""The file beside a SQLite database that says how far its revocation log has come.

It holds the last receipt. If an older copy of the database is put in its place while nothing runs, nobody else would
remember what it lacks.
"""

import os
import secrets
from contextlib import suppress
from pathlib import Path

import structlog

_log = structlog.stdlib.get_logger("revocations")

#: Characters of a receipt that are read at most; a file of something else may be large.
MAX_CHARACTERS = 1024


def path_of(database: Path) -> Path:
    return database.with_name(f"{database.name}-receipt")


def load(path: Path) -> str:
    """Return the stored receipt; "" if there is none."""
    try:
        with path.open(encoding="ascii", errors="replace") as file:
            return file.read(MAX_CHARACTERS).strip()
    except FileNotFoundError:
        return ""
    except OSError as error:
        _log.warning("receipt not read", path=str(path), error=error.strerror)
        return ""


def store(path: Path, receipt: str) -> None:
    """Store a receipt atomically. A failure is only logged, as nothing but memory is lost."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(f"{receipt}\n")
        draft.replace(path)
    except OSError as error:
        _log.warning("receipt not stored", path=str(path), error=error.strerror)
        with suppress(OSError):
            draft.unlink()
