"""The time that all replicas agree on; the domain itself reads no clock.

What replicas decide together, from a refresh token's grace to the pruning of an expired row, they decide by the
database's clock: each carries it on with its own monotonic one (`SharedClock`). A wrong clock of a replica's machine
changes nothing. What a clock that is ahead for a while must not delete is deleted by the `SettledTime`.
"""

from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Protocol

#: By how much the clocks of two machines may differ where their times are compared. FAPI 2.0 Security Profile section
#: 5.3.2.1 requires to accept 10 s for clients, and forbids more than 60 s.
CLOCK_MARGIN = timedelta(seconds=30)

#: How far the latest time that the database's clock has shown may be ahead of the one that is stored.
STORED_EVERY = timedelta(seconds=10)

#: What a process trusts the database's clock to when it has just started, and cannot know how it has gone so far.
TRUSTED_AT_START = timedelta(days=1)


class Clock(Protocol):
    """Two clocks: one for points in time, one for durations."""

    def now(self) -> datetime:
        """Return the current time in UTC."""

    def monotonic(self) -> float:
        """Return seconds from an arbitrary start; they never go back, and count on while the machine is suspended."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What the database's clock shows, and the latest time that it is known to have shown."""

    now: datetime
    latest: datetime


class SharedClock:
    """The database's time, carried on by this machine's monotonic clock from one reading to the next. A Clock.

    Before the first reading, it is the date of this machine.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._offset = self._clock.now().timestamp() - self._clock.monotonic()
        #: Whether it has followed the database's clock at all.
        self.is_following = False

    def now(self) -> datetime:
        return datetime.fromtimestamp(self._clock.monotonic() + self._offset, UTC)

    def monotonic(self) -> float:
        return self._clock.monotonic()

    def follow(self, shown: datetime, asked_at: float, answered_at: float) -> None:
        """Follow the database's clock, which has shown this time at some moment between two of the monotonic clock.

        Nothing changes unless that contradicts what was known, so slow answers do no harm: replicas differ by no more
        than their quickest ones took.
        """
        least, most = shown.timestamp() - answered_at, shown.timestamp() - asked_at
        self._offset = min(max(self._offset, least), most)
        self.is_following = True


class SettledTime:
    """The time that has come whatever errs: a clock that is ahead for less than `period` does not change it.

    It is the earliest that the clock has shown during that period, carried on to the present. So what was stored with
    an end that is `period` or more away is kept for `period` by the monotonic clock, and until its end by the other.
    """

    def __init__(self, clock: Clock, period: timedelta) -> None:
        self._clock = clock
        self._period = period.total_seconds()
        #: How far the clock was ahead of the monotonic one, and when last, the oldest first.
        self._seen = deque([(self._clock.monotonic(), self._ahead() - TRUSTED_AT_START.total_seconds())])

    def observe(self) -> None:
        """Look at the clock, which has to be done after each change of it."""
        now, ahead = self._clock.monotonic(), self._ahead()
        # Of what is not earlier than this, nothing is needed any more.
        while self._seen and self._seen[-1][1] >= ahead:
            self._seen.pop()
        self._seen.append((now, ahead))
        while self._seen[0][0] < now - self._period:
            self._seen.popleft()

    def now(self) -> datetime:
        self.observe()
        return datetime.fromtimestamp(self._clock.monotonic() + self._seen[0][1], UTC)

    def _ahead(self) -> float:
        return self._clock.now().timestamp() - self._clock.monotonic()
