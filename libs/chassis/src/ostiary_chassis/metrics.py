"""What a service counts, and how it is read."""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from ostiary_chassis.problems import METHODS

#: Seconds; from a remembered answer to the longest time-out.
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_BOUNDS = [*map(floatToGoString, _BUCKETS), "+Inf"]


class Timings:
    """How many things took no longer than each of some bounds, and the seconds of all: a histogram.

    Only for the event loop, where nothing comes between: the client library's own locks cost more than the rest.
    """

    __slots__ = ("_counts", "_seconds")

    def __init__(self) -> None:
        """Start at zero."""
        self._counts = [0] * (len(_BUCKETS) + 1)
        self._seconds = 0.0

    def note(self, seconds: float) -> None:
        """Count one."""
        self._counts[bisect_left(_BUCKETS, seconds)] += 1
        self._seconds += seconds

    def add_to(self, family: HistogramMetricFamily, labels: Sequence[str]) -> None:
        """Say what was counted."""
        family.add_metric(labels, list(zip(_BOUNDS, accumulate(self._counts), strict=True)), self._seconds)


class RequestMetrics(Collector):
    """Counts and times requests.

    The label `route` is the path template, never the path: its values are bounded.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        """Start at zero, in `registry`."""
        self._counts: dict[tuple[str, str, int], int] = {}
        self._seconds: dict[tuple[str, str], Timings] = {}
        registry.register(self)

    def record(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request."""
        if method not in METHODS:
            method = "other"
        counted, timed = (method, route, status), (method, route)
        self._counts[counted] = self._counts.get(counted, 0) + 1
        timings = self._seconds.get(timed)
        if timings is None:
            timings = self._seconds[timed] = Timings()
        timings.note(seconds)

    def collect(self) -> Iterator[Metric]:
        """Return what was counted. A Collector."""
        requests = CounterMetricFamily("http_requests", "Requests served.", labels=["method", "route", "status"])
        for (method, route, status), count in self._counts.items():
            requests.add_metric([method, route, str(status)], count)
        yield requests
        durations = HistogramMetricFamily(
            "http_request_duration_seconds", "Seconds until the response was sent.", labels=["method", "route"]
        )
        for labels, timings in self._seconds.items():
            timings.add_to(durations, labels)
        yield durations


class Metrics:
    """All that a service counts: its requests, and what others count in `registry`."""

    def __init__(self) -> None:
        """Start at zero."""
        self.registry = CollectorRegistry()
        self.requests = RequestMetrics(self.registry)

    async def read(self) -> bytes:
        """Return all of it, in the text format of Prometheus."""
        return generate_latest(self.registry)
