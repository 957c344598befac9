"""The clock that ages are measured on."""

import time


def suspend_aware_clock() -> float:
    """Return seconds on a clock that neither steps nor stops while the machine sleeps."""
    return time.clock_gettime(_CLOCK)


_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
