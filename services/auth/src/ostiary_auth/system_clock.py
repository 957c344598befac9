"""The clocks of the operating system."""

import time
from datetime import UTC, datetime

#: It counts on while the machine is suspended, where the system has such a clock.
_MONOTONIC = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class SystemClock:
    """Implements the domain's `Clock`."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.clock_gettime(_MONOTONIC)
