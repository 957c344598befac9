"""Password hashing: Argon2id, in a thread pool of its own, with a fair and bounded queue (`hashing_queue`).

A hash costs tens of milliseconds of a core and 19 MiB, by design. On the event loop it would block all other requests;
without a bound, a burst of logins would queue for minutes. The threads run at the lowest priority, so that other
requests stay fast meanwhile.
"""

import asyncio
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, suppress
from enum import Enum
from typing import TypeVar

import argon2
import structlog

from ostiary_auth.domain.accounts.attempts import network_of
from ostiary_auth.domain.accounts.hashing_queue import HashingQueue

_log = structlog.stdlib.get_logger("passwords")

T = TypeVar("T")

#: Argon2id parameters: OWASP Password Storage Cheat Sheet, "m=19456 (19 MiB), t=2, p=1".
MEMORY_KIB = 19 * 1024
ITERATIONS = 2
LANES = 1
SALT_BYTES = 16
HASH_BYTES = 32

#: The lowest priority of a thread (nice(2)).
NICENESS = 19

#: Callers per thread that have a turn at once: one is hashed while the database counts the attempts of others, and may
#: take a quarter of a second for that.
TURNS_PER_THREAD = 8

#: Callers per thread that wait for a turn: at 30 ms each, the last one waits for three seconds, which is the limit.
QUEUE_PER_THREAD = 100


class Purpose(Enum):
    """What a password is hashed for, with the share of the cores that it has beside others: the inverse of this cost.

    People who log in wait less than those who register, which happens once.
    """

    LOGIN = 1
    REGISTRATION = 4


#: The hash of discarded random bytes. Verified when there is no account, so that the response takes as long.
_DUMMY_HASH = "$argon2id$v=19$m=19456,t=2,p=1$Qdih/xkqpN4lvFnkR+JgdQ$4U1g21nFCwUhguu0ifp+bYuePr2N8AtY8els6o5gXz8"


class PasswordHasher:
    """Hashes and verifies passwords. More than one thread per usable core gains nothing."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._argon2 = argon2.PasswordHasher(
            time_cost=ITERATIONS,
            memory_cost=MEMORY_KIB,
            parallelism=LANES,
            hash_len=HASH_BYTES,
            salt_len=SALT_BYTES,
            type=argon2.Type.ID,
        )
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="argon2", initializer=_lower_priority)
        self._queue = HashingQueue(threads * TURNS_PER_THREAD, threads * QUEUE_PER_THREAD)

    def turn(self, purpose: Purpose, source: str | None) -> AbstractAsyncContextManager[None]:
        """Wait for a turn to `hash` and `verify`; each network has its share. Raises HashingOverloaded."""
        return self._queue.turn((purpose, network_of(source)), purpose.value)

    async def hash(self, password: str) -> str:
        """Return the hash in PHC format. Requires a turn."""
        return await self._run(lambda: self._argon2.hash(password))

    async def verify(self, hashed: str | None, password: str) -> bool:
        """Return whether the password matches. Without a hash, take as long and return False. Requires a turn."""
        matches = await self._run(lambda: self._matches(hashed or _DUMMY_HASH, password))
        return matches and hashed is not None

    def needs_rehash(self, hashed: str) -> bool:
        """Return whether the hash has other parameters than the current ones."""
        return self._argon2.check_needs_rehash(hashed)

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _matches(self, hashed: str, password: str) -> bool:
        try:
            return self._argon2.verify(hashed, password)
        except argon2.exceptions.VerifyMismatchError:
            return False
        except (argon2.exceptions.VerificationError, argon2.exceptions.InvalidHashError):
            _log.exception("stored password hash is invalid")
            return False

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)


def _lower_priority() -> None:
    """Give the calling thread the lowest priority. Only Linux has priorities per thread."""
    if sys.platform == "linux":
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
