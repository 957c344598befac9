"""Clocks of machines, which may be wrong and be set."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from ostiary_auth.system_clock import SystemClock


@dataclass
class WrongClock(SystemClock):
    """A machine's clock that is fast, or slow."""

    fast: timedelta = timedelta(0)

    def now(self) -> datetime:
        return super().now() + self.fast


@dataclass
class HandClock:
    """A clock that is moved by hand: a date, and seconds that have passed."""

    date: datetime
    seconds: float = 0.0

    def now(self) -> datetime:
        return self.date

    def monotonic(self) -> float:
        return self.seconds

    def pass_(self, time: timedelta) -> None:
        self.date += time
        self.seconds += time.total_seconds()

    def set_forward(self, time: timedelta) -> None:
        self.date += time
