"""Attempt counters in the store; `attempts` has the rules."""

from datetime import datetime, timedelta

from ostiary_auth.domain.accounts.attempts import SOURCE, Keys
from ostiary_auth.domain.errors import TooManyAttempts
from ostiary_auth.domain.ports import Transaction


async def count_attempt(transaction: Transaction, keys: Keys, now: datetime) -> None:
    """Count an attempt before it is made. Raises TooManyAttempts, and then does not count it."""
    counters = await transaction.throttles.lock(sorted(keys), now)
    longest = max(counters[key].wait(keys[key], now) for key in keys)
    if longest > timedelta(0):
        raise TooManyAttempts(longest)
    await transaction.throttles.put({key: counters[key].counted(keys[key], now) for key in keys})


async def forgive(transaction: Transaction, keys: Keys, now: datetime) -> None:
    """Remove an attempt that turned out to be correct.

    The counters of the account, and of this device or source on it, restart. That of a source loses one attempt only,
    or an attacker could reset it by logging in to their own account.
    """
    counters = await transaction.throttles.lock(sorted(keys), now)
    await transaction.throttles.put({key: counters[key].uncounted(now) for key in keys if keys[key] is SOURCE})
    await transaction.throttles.forget([key for key in keys if keys[key] is not SOURCE])
