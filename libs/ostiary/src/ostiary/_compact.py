"""Compact collections of names: a set of a million takes 20 MiB, and a lookup takes a fraction of a microsecond.

Python's set takes six times as much. Names are digests, so they spread evenly over buckets, each of which is one string
of all its names that `in` searches. A string is replaced, never written to: whoever looks up while another thread adds
sees it either with the new name or without. A name cannot be found at the seam of two others, except by a coincidence
that is nearly as improbable as two equal digests.
"""

from collections.abc import Iterable
from hashlib import sha256
from struct import Struct

#: A digest of what is revoked. To find two ids with one name takes 2**64 digests, and ids are not a client's to choose.
Name = bytes

NAME_BYTES = 16

#: Buckets of a collection, by the first two bytes of a name: 15 names in each of a million.
_BUCKETS = 2**16

#: A name as the number of its bucket and what a set stores in there: two bytes of a million names less are 3 MB.
SPLIT_NAME = ">H14s"
_SPLIT = Struct(SPLIT_NAME)

_NUMBER_BYTES = 8


def name(kind: str, target: str) -> Name:
    """Return the name of a revocation's target."""
    return sha256(f"{kind}:{target}".encode()).digest()[:NAME_BYTES]


class NameSet:
    """A set that only grows. One thread adds; any thread may look up."""

    def __init__(self) -> None:
        self._buckets = [b""] * _BUCKETS
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __contains__(self, wanted: Name) -> bool:
        return wanted[2:] in self._buckets[wanted[0] << 8 | wanted[1]]

    def add(self, new: Name) -> None:
        self.update(_SPLIT.iter_unpack(new))

    def update(self, names: Iterable[tuple[int, bytes]]) -> None:
        """Add names, each given as SPLIT_NAME."""
        buckets = self._buckets
        for index, rest in names:
            bucket = buckets[index]
            if rest not in bucket:
                buckets[index] = bucket + rest
                self._count += 1


class NumbersByName:
    """The number that was last put for each name. One thread puts; any thread may look up."""

    def __init__(self) -> None:
        self._buckets = [b""] * _BUCKETS
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def get(self, wanted: Name) -> int:
        """Return the number for a name, or -1."""
        bucket = self._buckets[wanted[0] << 8 | wanted[1]]
        at = bucket.find(wanted)
        if at < 0:
            return -1
        return int.from_bytes(bucket[at + NAME_BYTES : at + NAME_BYTES + _NUMBER_BYTES], "big")

    def put(self, key: Name, number: int) -> None:
        index = key[0] << 8 | key[1]
        bucket, record = self._buckets[index], key + number.to_bytes(_NUMBER_BYTES, "big")
        at = bucket.find(key)
        if at < 0:
            self._buckets[index] = bucket + record
            self._count += 1
        else:
            self._buckets[index] = bucket[:at] + record + bucket[at + len(record) :]
