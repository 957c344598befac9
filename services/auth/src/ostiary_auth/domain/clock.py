"""What the domain needs to know of the time; it reads no clock itself."""

from datetime import datetime
from typing import Protocol


class Clock(Protocol):
    """Two clocks: one for points in time, one for durations."""

    def now(self) -> datetime:
        """Return the current time in UTC."""

    def monotonic(self) -> float:
        """Return seconds from an arbitrary start; they never go back."""
