"""What is live of the log, in memory, in the compact form for verifiers that are far behind (`ostiary.feed`).

A million entries take 24 MB, and to tell a verifier all of them is to copy that.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from ostiary.feed import PAGE_NUMBERS, ROW_BYTES, page_rows
from ostiary_auth.domain.revocation.model import Entry, EntryColumns

#: Of a row: where the offset of its number ends, and where the time of its end begins and ends.
_OFFSET_END, _EXP, _EXP_END = 2, 3, 8


@dataclass(frozen=True, slots=True)
class Part:
    """Rows of entries with numbers from `start`, a multiple of PAGE_NUMBERS. `number` and `digest` are of the last."""

    start: int
    rows: bytes
    number: int
    digest: bytes


@dataclass(slots=True)
class _StoredPage:
    """A part that grows."""

    start: int
    rows: bytearray
    number: int
    digest: bytes

    def __len__(self) -> int:
        return len(self.rows) // ROW_BYTES

    def index_after(self, number: int) -> int:
        return bisect_right(range(len(self)), number - self.start, key=self._offset)

    def expired(self, now: float) -> int:
        """Return how many of the first entries have expired."""
        count = 0
        while count < len(self) and self._expires_at(count) <= now:
            count += 1
        return count

    def _offset(self, index: int) -> int:
        at = index * ROW_BYTES
        return int.from_bytes(self.rows[at : at + _OFFSET_END], "big")

    def _expires_at(self, index: int) -> int:
        at = index * ROW_BYTES
        return int.from_bytes(self.rows[at + _EXP : at + _EXP_END], "big")


class Pages:
    """The pages of a log, in order. Entries are added at the end, and removed at the beginning."""

    def __init__(self) -> None:
        self._pages: list[_StoredPage] = []

    def __len__(self) -> int:
        return sum(map(len, self._pages))

    def add(self, part: Part) -> None:
        if not self._pages or self._pages[-1].start != part.start:
            self._pages.append(_StoredPage(part.start, bytearray(), part.number, part.digest))
        page = self._pages[-1]
        page.rows += part.rows
        page.number, page.digest = part.number, part.digest

    def clear(self) -> None:
        self._pages.clear()

    def after(self, number: int) -> Part | None:
        """Return the first entries with numbers over this one, as far as their page goes."""
        for page in self._pages:
            if page.number > number:
                rows = bytes(memoryview(page.rows)[page.index_after(number) * ROW_BYTES :])
                return Part(page.start, rows, page.number, page.digest)
        return None

    def digest_at(self, number: int) -> bytes | None:
        """Return the chain's digest at the end of a page."""
        return next((page.digest for page in self._pages if page.number == number), None)

    def remove_expired(self, now: float) -> None:
        """Remove what has expired at `now` (seconds since the epoch), up to the first entry that has not."""
        while self._pages:
            page = self._pages[0]
            expired = page.expired(now)
            if expired < len(page):
                del page.rows[: expired * ROW_BYTES]
                return
            del self._pages[0]


def parts_of(entries: Sequence[Entry]) -> Iterator[Part]:
    """Return entries by the pages that they belong to."""
    for _, found in groupby(entries, lambda entry: _start_of(entry.number)):
        numbers, kinds, targets, expiries, digests = zip(*found, strict=True)
        yield part_of(EntryColumns(numbers, [kind.value for kind in kinds], targets, expiries, None, digests[-1]))


def part_of(columns: EntryColumns) -> Part:
    """Return entries that belong to one page."""
    start, last = _start_of(columns.numbers[0]), columns.numbers[-1]
    offsets = [number - start for number in columns.numbers]
    return Part(start, page_rows(offsets, columns.kinds, columns.targets, columns.expiries), last, columns.digest)


def _start_of(number: int) -> int:
    return number - number % PAGE_NUMBERS
