"""The clock that measures ages."""

import time


def suspend_aware_clock() -> float:
    """Return the seconds of a clock that neither steps nor stops in suspend."""
    return time.clock_gettime(_CLOCK)


_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
