"""File descriptors: as many as the process may have, and what it does when there are none left.

Whoever fails for want of one notes that here. It is counted each time, and logged once in a while.
"""

import errno
import os
import resource
import time
from collections.abc import Callable, Iterator

import structlog
from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

_log = structlog.stdlib.get_logger("descriptors")

#: The process has too many open files, or the whole system has.
_NONE_LEFT = frozenset({errno.EMFILE, errno.ENFILE})

#: What descriptors are for: connections from clients, connections to others, and everything else.
ACCEPT, CONNECT, OPEN = "accept", "connect", "open"

#: Seconds between two log lines while there are none.
LOG_SECONDS = 10.0

#: Seconds without a failure after which there are enough again: several attempts of a listener and several checks.
QUIET_SECONDS = 3.0


class Shortage:
    """Whether the process lacks descriptors, and how often it did."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.counts = dict.fromkeys((ACCEPT, CONNECT, OPEN), 0)
        self._clock = clock
        self._noted_at: float | None = None
        self._logged_at = -LOG_SECONDS

    @property
    def is_present(self) -> bool:
        """Whether there were no descriptors at the last attempts."""
        return self._noted_at is not None

    def is_cause(self, error: BaseException, use: str) -> bool:
        """Return whether there was no descriptor for `use`, and note it then."""
        if not isinstance(error, OSError) or error.errno not in _NONE_LEFT:
            return False
        self.note(use)
        return True

    def note(self, use: str) -> None:
        """Count a failure for want of a descriptor."""
        self.counts[use] += 1
        now = self._noted_at = self._clock()
        if now - self._logged_at >= LOG_SECONDS:
            self._logged_at = now
            _log.warning("no file descriptors left", use=use, limit=limit(), failures=sum(self.counts.values()))

    def check(self) -> None:
        """Find out whether there is a descriptor left, also for code that does not note its failures."""
        try:
            os.close(os.open(os.devnull, os.O_RDONLY))
        except OSError as error:
            self.is_cause(error, OPEN)
        if self._noted_at is not None and self._clock() - self._noted_at >= QUIET_SECONDS:
            self._noted_at, self._logged_at = None, -LOG_SECONDS
            _log.info("file descriptors available again")


#: A process has one table of descriptors.
shortage = Shortage()


class DescriptorMetrics(Collector):
    """Counts how often the process lacked a descriptor."""

    def collect(self) -> Iterator[Metric]:
        failures = CounterMetricFamily(
            "ostiary_descriptors_exhausted", "Attempts that failed for want of a file descriptor.", labels=["use"]
        )
        for use, count in shortage.counts.items():
            failures.add_metric([use], count)
        yield failures


def limit() -> int:
    """Return how many descriptors the process may have."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def raise_limit() -> None:
    """Raise the limit as far as the process may.

    The default of shells and service managers, often 1024, is for programs that use select(2), which ours do not.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
