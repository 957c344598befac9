"""How much one of many transactions does: as much as keeps others waiting for a few milliseconds only.

SQLite has one writer at a time, so whoever logs in waits for the transaction that deletes. How long that takes for a
row depends on the machine, what else it does, and the number of indexes: it is measured.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from ostiary_auth.domain.clock import Clock

#: Seconds that the work of a transaction should take; its commit comes on top.
TARGET_SECONDS = 0.01

#: Rows at least: with fewer, a transaction costs more than what it does, above all where the database is far away.
FEWEST_ROWS = 30

#: By how much a transaction may be larger than the one before.
GROWTH = 2


class BatchSize:
    """The number of rows for the next transaction, at most `most`."""

    def __init__(self, most: int, clock: Clock) -> None:
        self._rows = self._most = most
        self._clock = clock

    @contextmanager
    def measured(self) -> Iterator[int]:
        """Give the number of rows, and measure how long they take. To be entered when the transaction has begun."""
        rows, started_at = self._rows, self._clock.monotonic()
        yield rows
        seconds = self._clock.monotonic() - started_at
        fitting = int(rows * TARGET_SECONDS / seconds) if seconds > 0 else self._most
        self._rows = min(self._most, GROWTH * rows, max(FEWEST_ROWS, fitting))
