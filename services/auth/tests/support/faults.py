"""A database that fails."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import event
from sqlalchemy.exc import OperationalError

from ostiary_auth.services import Services


class DiskFull(OperationalError):
    """What the database says."""

    def __init__(self) -> None:
        super().__init__("", None, OSError("the disk is full"))


@contextmanager
def failing(services: Services, number: int) -> Iterator[None]:
    """Let the statement of this number fail, counted from 0; a commit is one, too."""
    left = number

    def count(*_: Any) -> None:
        nonlocal left
        left -= 1
        if left == -1:
            raise DiskFull

    engine = services.database._engine.sync_engine
    for name in ("before_cursor_execute", "commit"):
        event.listen(engine, name, count)
    yield
    for name in ("before_cursor_execute", "commit"):
        event.remove(engine, name, count)
