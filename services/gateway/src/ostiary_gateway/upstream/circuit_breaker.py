"""A circuit breaker: stops requests to an upstream while most of them fail."""

import time

#: A breaker looks at this many seconds; it opens when of so many requests at least this share fails, for so long.
BREAKER_WINDOW = 10.0
BREAKER_REQUESTS = 20
BREAKER_SHARE = 0.5
BREAKER_OPEN_SECONDS = 2.0


class CircuitBreaker:
    """Opens when most requests fail, for a moment.

    What a caller may have brought about itself counts once for each caller, so that nobody can take a service away
    from the others by requests that it does not like.
    """

    def __init__(self) -> None:
        """Start closed."""
        self._window_ends_at = 0.0
        self._requests = self._failures = 0
        self._callers: set[str] = set()
        self._opened_until = 0.0
        #: Whether it was open, and nothing has succeeded since.
        self._is_on_trial = False
        #: Whether it opened because nobody could be connected to.
        self._is_unreachable = False

    @property
    def is_open(self) -> bool:
        """Whether requests are refused."""
        return self._opened_until > 0.0 and self._opened_until > time.monotonic()

    def succeeded(self) -> bool:
        """Note an answer; return whether it is the first one after the breaker was open."""
        self._requests += 1
        if not self._is_on_trial or self.is_open:
            # What comes while it is open was asked for before.
            return False
        self._is_on_trial = False
        self._begin_window(time.monotonic())
        return True

    def failed(self, client: str | None) -> bool:
        """Note that there was none; return whether the breaker opened with it."""
        now = time.monotonic()
        if now < self._opened_until:
            return False
        if now >= self._window_ends_at:
            self._begin_window(now)
        if client is not None:
            if client in self._callers:
                return False
            self._callers.add(client)
        self._requests += 1
        self._failures += 1
        is_clear = self._requests >= BREAKER_REQUESTS and self._failures >= self._requests * BREAKER_SHARE
        if not is_clear and not (self._is_on_trial and client is None):
            return False
        self._opened_until, self._is_on_trial = now + BREAKER_OPEN_SECONDS, True
        self._is_unreachable = client is None
        self._begin_window(self._opened_until)
        return True

    @property
    def waits_for_a_connection(self) -> bool:
        """Whether it would close if somebody could be connected to."""
        return self._is_unreachable and self.is_open

    def connected(self) -> None:
        """Close, as somebody can be connected to again."""
        self._opened_until = 0.0

    def _begin_window(self, now: float) -> None:
        self._window_ends_at, self._requests, self._failures = now + BREAKER_WINDOW, 0, 0
        self._callers.clear()
