"""What a service counts, and how it is read."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from ostiary.prometheus import Timings
from ostiary_chassis.problems import METHODS

#: Seconds; from a remembered answer to the longest time-out.
REQUEST_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class RequestMetrics(Collector):
    """Counts and times requests.

    The label `route` is the path template, never the path: its values are bounded.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        """Start at zero, in `registry`."""
        #: By method, route and status: how many, and how long all of the same method and route took.
        self._counts: dict[tuple[str, str, int], _Count] = {}
        self._seconds: dict[tuple[str, str], Timings] = {}
        registry.register(self)

    def record(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request."""
        count = self._counts.get((method, route, status))
        if count is None:
            count = self._begin(method, route, status)
        count.number += 1
        count.timings.note(seconds)

    def collect(self) -> Iterator[Metric]:
        """Return what was counted. A Collector."""
        requests = CounterMetricFamily("http_requests", "Requests served.", labels=["method", "route", "status"])
        for (method, route, status), count in self._counts.items():
            requests.add_metric([method, route, str(status)], count.number)
        yield requests
        durations = HistogramMetricFamily(
            "http_request_duration_seconds", "Seconds until the response was sent.", labels=["method", "route"]
        )
        for labels, timings in self._seconds.items():
            timings.add_to(durations, labels)
        yield durations

    def _begin(self, method: str, route: str, status: int) -> "_Count":
        if method not in METHODS:
            method = "other"
        timings = self._seconds.setdefault((method, route), Timings(REQUEST_BUCKETS))
        return self._counts.setdefault((method, route, status), _Count(timings))


class _Count:
    __slots__ = ("number", "timings")

    def __init__(self, timings: Timings) -> None:
        self.number = 0
        self.timings = timings


class Metrics:
    """All that a service counts: its requests, and what others count in `registry`."""

    def __init__(self) -> None:
        """Start at zero."""
        self.registry = CollectorRegistry()
        self.requests = RequestMetrics(self.registry)

    async def read(self) -> bytes:
        """Return all of it, in the text format of Prometheus."""
        return generate_latest(self.registry)
