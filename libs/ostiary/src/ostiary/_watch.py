"""Watches whether a token stays valid, for responses that outlast the authorisation of their request."""

import asyncio
from collections.abc import Callable
from typing import Self

from ostiary.errors import OstiaryError

#: Seconds between two checks at most: the event loop's clock stops in suspend.
MAX_SLICE = 10.0

#: Seconds after a token's end before the next check.
_MARGIN = 0.01


class Watch:
    """Checks a token again when a revocation may affect it, when it expires, and when revocations become stale.

    Use it as a context manager, on the event loop.
    """

    def __init__(
        self,
        check: Callable[[], float],
        subscribe: Callable[[Callable[[], None]], Callable[[], None]],
        on_end: Callable[[OstiaryError], None],
        grace: float,
    ) -> None:
        """Watch from entering to leaving.

        `check` returns the seconds that the token stays valid, or raises. `subscribe` registers a listener for
        revocations, and returns a function that removes it. `on_end` is called once, with the error, `grace` seconds
        after the token's end.
        """
        self._check = check
        self._subscribe = subscribe
        self._on_end = on_end
        self._grace = grace
        self._timer: asyncio.TimerHandle | None = None
        self._unsubscribe: Callable[[], None] | None = None

    def __enter__(self) -> Self:
        """Start. A revocation since the token was verified takes effect at once."""
        self._unsubscribe = self._subscribe(self._recheck)
        self._recheck()
        return self

    def __exit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._unsubscribe is not None:
            self._unsubscribe()
            self._unsubscribe = None

    def _recheck(self) -> None:
        if self._unsubscribe is None:
            # Stopped while other listeners were called.
            return
        if self._timer is not None:
            self._timer.cancel()
        loop = asyncio.get_running_loop()
        try:
            valid_for = self._check()
        except OstiaryError as error:
            self.__exit__()
            if self._grace > 0:
                self._timer = loop.call_later(self._grace, self._on_end, error)
            else:
                self._on_end(error)
        else:
            self._timer = loop.call_later(min(valid_for + _MARGIN, MAX_SLICE), self._recheck)
