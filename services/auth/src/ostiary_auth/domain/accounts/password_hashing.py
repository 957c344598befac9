"""Password hashing: Argon2id, in threads of its own, with a bounded queue.

One hash costs tens of milliseconds of a core and 19 MiB on purpose. On the event loop it would
stop everything else; without a bound, a storm of logins would queue for minutes. The threads
yield to all others, so that who is logged in does not feel the storm either.
"""

import asyncio
import os
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import TypeVar

import argon2
import structlog

from ostiary_auth.domain.errors import HashingOverloaded

_log = structlog.stdlib.get_logger("passwords")

T = TypeVar("T")

#: Argon2id parameters: OWASP Password Storage Cheat Sheet, "m=19456 (19 MiB), t=2, p=1".
MEMORY_KIB = 19 * 1024
ITERATIONS = 2
LANES = 1
SALT_BYTES = 16
HASH_BYTES = 32

#: The lowest priority that threads can have (nice(2)).
NICENESS = 19

#: Hashes that may wait per thread; at some 30 ms each the last one waits half a second, if the cores are ours alone.
QUEUE_PER_THREAD = 16


#: The hash of random bytes that nobody knows. Checked when there is no account, so that that takes as long.
_DUMMY_HASH = "$argon2id$v=19$m=19456,t=2,p=1$Qdih/xkqpN4lvFnkR+JgdQ$4U1g21nFCwUhguu0ifp+bYuePr2N8AtY8els6o5gXz8"


class PasswordHasher:
    """Hashes and checks passwords, a bounded number at a time."""

    def __init__(self, threads: int) -> None:
        """Make the pool; a thread per core that this process may use is as many as are of any good."""
        self._threads = threads
        self._argon2 = argon2.PasswordHasher(
            time_cost=ITERATIONS,
            memory_cost=MEMORY_KIB,
            parallelism=LANES,
            hash_len=HASH_BYTES,
            salt_len=SALT_BYTES,
            type=argon2.Type.ID,
        )
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="argon2", initializer=_yield_to_others)
        self._waiting = 0

    @contextmanager
    def slot(self) -> Iterator[None]:
        """Take a place among those who wait to `hash` or `verify`. Raises HashingOverloaded if there is none."""
        if self._waiting >= self._threads * QUEUE_PER_THREAD:
            raise HashingOverloaded
        self._waiting += 1
        try:
            yield
        finally:
            self._waiting -= 1

    async def hash(self, password: str) -> str:
        """Return the hash of a password, in PHC format. Call it in a slot."""
        return await self._run(lambda: self._argon2.hash(password))

    async def verify(self, hashed: str | None, password: str) -> bool:
        """Return whether the password fits; without a hash, do the same work for nothing. Call it in a slot."""
        matches = await self._run(lambda: self._matches(hashed or _DUMMY_HASH, password))
        return matches and hashed is not None

    def needs_rehash(self, hashed: str) -> bool:
        """Return whether a hash was made with other parameters than today's."""
        return self._argon2.check_needs_rehash(hashed)

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _matches(self, hashed: str, password: str) -> bool:
        try:
            return self._argon2.verify(hashed, password)
        except argon2.exceptions.VerifyMismatchError:
            return False
        except (argon2.exceptions.VerificationError, argon2.exceptions.InvalidHashError):
            _log.exception("a stored password hash cannot be read")
            return False

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)


def _yield_to_others() -> None:
    """Let the calling thread run when nobody else wants to. Linux has priorities by thread; others go without."""
    if sys.platform == "linux":
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
