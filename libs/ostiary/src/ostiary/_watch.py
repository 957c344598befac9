"""Whether a token goes on to be good, for responses that outlast the request that was let in."""

import asyncio
from collections.abc import Callable
from typing import Self

from ostiary.errors import OstiaryError

#: Seconds between two looks at most: the loop's own clock stands still in suspend.
MAX_SLICE = 10.0

#: Seconds after a point in time at which its passing is looked for.
_AFTER = 0.01


class Watch:
    """Looks at a token again when something has come that may hit it, when it expires, and when news stay away.

    Use it as a context manager, on the event loop.
    """

    def __init__(
        self,
        check: Callable[[], float],
        subscribe: Callable[[Callable[[], None]], Callable[[], None]],
        on_end: Callable[[OstiaryError], None],
        grace: float,
    ) -> None:
        """Make the watch.

        `check` returns for how many seconds a token is good by itself, or raises; `subscribe` has what it is given
        called when there is news; `on_end` is called once, `grace` seconds after the end, with what is wrong with the
        token.
        """
        self._check = check
        self._subscribe = subscribe
        self._on_end = on_end
        self._grace = grace
        self._timer: asyncio.TimerHandle | None = None
        self._unsubscribe: Callable[[], None] | None = None

    def __enter__(self) -> Self:
        """Start; what has happened since the token was let in is seen at once."""
        self._unsubscribe = self._subscribe(self._look)
        self._look()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop."""
        if self._timer is not None:
            self._timer.cancel()
        if self._unsubscribe is not None:
            self._unsubscribe()
            self._unsubscribe = None

    def _look(self) -> None:
        if self._unsubscribe is None:
            # Left while somebody else was told.
            return
        if self._timer is not None:
            self._timer.cancel()
        loop = asyncio.get_running_loop()
        try:
            good_for = self._check()
        except OstiaryError as error:
            self.__exit__()
            if self._grace > 0:
                self._timer = loop.call_later(self._grace, self._on_end, error)
            else:
                self._on_end(error)
        else:
            self._timer = loop.call_later(min(good_for + _AFTER, MAX_SLICE), self._look)
