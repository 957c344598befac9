"""Counting attempts in the store. Which attempts count together, and how long the waits are: see `attempts`."""

from datetime import datetime, timedelta

from ostiary_auth.domain.accounts.attempts import SOURCE, Keys
from ostiary_auth.domain.errors import TooManyAttempts
from ostiary_auth.domain.ports import Transaction


async def count_attempt(transaction: Transaction, keys: Keys, now: datetime) -> None:
    """Count an attempt that is about to be made. Raises TooManyAttempts, and then counts nothing."""
    counters = await transaction.throttles.lock(sorted(keys), now)
    longest = max(counters[key].wait(keys[key], now) for key in keys)
    if longest > timedelta(0):
        raise TooManyAttempts(longest)
    await transaction.throttles.put({key: counters[key].counted(keys[key], now) for key in keys})


async def forgive(transaction: Transaction, keys: Keys, now: datetime) -> None:
    """Take back an attempt that turned out right.

    Counters of the account, and of this device or source on it, start anew; that of a source loses
    one only, or an attacker would clear it by logging in to an account of their own.
    """
    counters = await transaction.throttles.lock(sorted(keys), now)
    await transaction.throttles.put({key: counters[key].uncounted(now) for key in keys if keys[key] is SOURCE})
    await transaction.throttles.forget([key for key in keys if keys[key] is not SOURCE])
