"""Attempts that are taken back, because it was not the user's fault that they failed.

An attempt is counted before it is made. If the database then fails, the count stays, and cannot be corrected until the
database is back. So this process remembers what to take back: before the next attempt with the same counters, and in
the background for attempts at other replicas.
"""

from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from datetime import datetime

from ostiary_auth.domain.errors import AuthError
from ostiary_auth.domain.ports import Store, Transaction

#: Counters to correct; beyond that, those that have waited longest stay as they are. Each is of somebody who knew the
#: password, or of an attempt that was never judged.
MAX_COUNTERS = 10_000


class Refunds:
    """What this process has to take back: attempts by the key of their counter."""

    def __init__(self) -> None:
        self._due: Counter[bytes] = Counter()

    @contextmanager
    def unless_judged(self, keys: Collection[bytes]) -> Iterator[None]:
        """Take an attempt back if the block fails for any other reason than the user's."""
        try:
            yield
        except AuthError:
            raise
        except Exception:
            self._due.update(iter(keys))
            for oldest in list(self._due)[: max(0, len(self._due) - MAX_COUNTERS)]:
                del self._due[oldest]
            raise

    async def pay(self, transaction: Transaction, keys: Collection[bytes], now: datetime) -> None:
        """Correct those of the counters from which something is to be taken back."""
        if not any(key in self._due for key in keys):
            return
        # Also those from which nothing is: the attempt locks all, and then two could deadlock.
        counters = await transaction.throttles.lock(sorted(keys), now)
        # No other attempt takes the same back.
        due = Counter({key: self._due.pop(key) for key in keys if key in self._due})
        transaction.on_rollback(lambda: self._due.update(due))
        if due:
            await transaction.throttles.put({key: counters[key].uncounted(now, due[key]) for key in due})

    async def pay_all(self, store: Store, now: datetime) -> None:
        """Correct all counters."""
        for key in list(self._due):
            async with store.write() as transaction:
                await self.pay(transaction, [key], now)
