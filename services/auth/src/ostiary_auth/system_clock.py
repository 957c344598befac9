"""The clocks of the operating system."""

import time
from datetime import UTC, datetime


class SystemClock:
    """Implements the domain's `Clock`."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()
