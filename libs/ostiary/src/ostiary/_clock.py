"""The clocks that measure ages, and by which tokens begin and expire."""

import time


def suspend_aware_clock() -> float:
    """Return the seconds of a clock that neither steps nor stops in suspend."""
    return time.clock_gettime(_CLOCK)


def date_clock() -> float:
    """Return the seconds since the epoch by this machine's date."""
    return time.time()


_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
