"""What the domain needs to know of the time; it reads no clock itself."""

from datetime import datetime, timedelta
from typing import Protocol

#: By how much the clocks of two machines may differ where their times are compared. FAPI 2.0 Security Profile section
#: 5.3.2.1 requires to accept 10 s for clients, and forbids more than 60 s.
CLOCK_MARGIN = timedelta(seconds=30)


class Clock(Protocol):
    """Two clocks: one for points in time, one for durations."""

    def now(self) -> datetime:
        """Return the current time in UTC."""

    def monotonic(self) -> float:
        """Return seconds from an arbitrary start; they never go back."""
