"""Entries of the revocation log, and the verifiers that follow it."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import NamedTuple

from ostiary.feed import Kind, Revocation

#: `RegisteredVerifier.keys` of the auth service's own verifiers, which always hold the current keys.
LOCAL_KEYS = ""

#: The numbers of the revocations that an operation has appended to the log, in order.
RevokedNumbers = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class LogHead:
    """The end of the revocation log: the log's name, the number of its last entry, and the chain's digest there."""

    epoch: str
    number: int
    digest: bytes


@dataclass(frozen=True, slots=True)
class ReplacedLog:
    """A stored log, by its name, that lacks entries which it once had, up to this number at least."""

    epoch: str
    number: int


@dataclass(frozen=True, slots=True)
class LoggedRevocation:
    """An entry of the revocation log. It is relevant until `expires_at`; `digest` is the chain's digest after it."""

    number: int
    kind: Kind
    target: str
    at: datetime
    expires_at: datetime
    digest: bytes

    @property
    def revocation(self) -> Revocation:
        """The entry as verifiers get it."""
        return published(self.number, self.kind, self.target, self.expires_at)


class Entry(NamedTuple):
    """An entry of the log as far as it is published, with the chain's digest. `expires_at` is in seconds."""

    number: int
    kind: Kind
    target: str
    expires_at: int
    digest: bytes

    @property
    def revocation(self) -> Revocation:
        """The entry as verifiers get it."""
        return Revocation(self.number, self.kind, self.target, self.expires_at)


@dataclass(frozen=True, slots=True)
class EntryColumns:
    """Consecutive entries by column, as there may be a million: an object of each takes several times as long.

    `base` is the chain's digest at the entry before, or None if that is not stored; `digest` is that at the last one.
    """

    numbers: Sequence[int]
    kinds: Sequence[str]
    targets: Sequence[str]
    expiries: Sequence[int]
    base: bytes | None
    digest: bytes

    def others(self) -> list[tuple[Kind, str]]:
        """Return kind and target of what is no revocation of a session."""
        pairs, session = zip(self.kinds, self.targets, strict=True), Kind.SESSION.value
        return [(Kind(kind), target) for kind, target in pairs if kind != session]


@dataclass(frozen=True, slots=True)
class RegisteredVerifier:
    """What a replica has stored of a verifier that polls it: the last revocation that it has applied, and its keys.

    `id` is CLIENT_ID:NAME, so no client can speak for the verifiers of another one; a replica's own has its id alone.
    It may be accepting tokens until `live_until`.
    """

    id: str
    replica: str
    acknowledged: int
    keys: str
    lease_ms: int
    live_until: datetime


@dataclass(frozen=True, slots=True)
class InForce:
    """How many verifiers have acknowledged a revocation, and whether it is in force with all of them.

    `after_ms` is how long that took.
    """

    acknowledged_by: int
    complete: bool
    after_ms: float | None


def each_once(rows: Iterable[RegisteredVerifier]) -> list[RegisteredVerifier]:
    """Return each verifier once: by the row that lives longest, with the most that it has acknowledged anywhere."""
    found: dict[str, RegisteredVerifier] = {}
    for row in sorted(rows, key=lambda row: (row.id, row.live_until)):
        known = found.get(row.id, row)
        found[row.id] = replace(row, acknowledged=max(row.acknowledged, known.acknowledged))
    return list(found.values())


def published(number: int, kind: Kind, target: str, expires_at: datetime) -> Revocation:
    """Return a revocation in the form of the feed."""
    return Revocation(number, kind, target, expiry_of(expires_at))


def expiry_of(expires_at: datetime) -> int:
    """Return an expiry as it is published, in whole seconds. Without a time zone, it is in UTC, as SQLite has none."""
    return math.ceil((expires_at if expires_at.tzinfo else expires_at.replace(tzinfo=UTC)).timestamp())
