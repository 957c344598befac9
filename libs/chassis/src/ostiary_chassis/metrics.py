"""What a service counts, and how it is read."""

from bisect import bisect_left
from collections.abc import Iterator
from itertools import accumulate

from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from ostiary_chassis.problems import METHODS

#: Seconds; from a remembered answer to the longest time-out.
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class RequestMetrics(Collector):
    """Counts and times requests.

    The label `route` is the path template, never the path: its values are bounded.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        """Start at zero, in `registry`."""
        self._counts: dict[tuple[str, str, int], int] = {}
        #: Of each method and route, how many requests took no longer than each bound, and the seconds of all.
        self._seconds: dict[tuple[str, str], tuple[list[int], list[float]]] = {}
        registry.register(self)

    def record(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request. On the event loop, where nothing comes between: the client library's own locks cost more."""
        if method not in METHODS:
            method = "other"
        counted, timed = (method, route, status), (method, route)
        self._counts[counted] = self._counts.get(counted, 0) + 1
        try:
            buckets, total = self._seconds[timed]
        except KeyError:
            buckets, total = self._seconds[timed] = [0] * (len(_BUCKETS) + 1), [0.0]
        buckets[bisect_left(_BUCKETS, seconds)] += 1
        total[0] += seconds

    def collect(self) -> Iterator[Metric]:
        """Return what was counted. A Collector."""
        requests = CounterMetricFamily("http_requests", "Requests served.", labels=["method", "route", "status"])
        for (method, route, status), count in self._counts.items():
            requests.add_metric([method, route, str(status)], count)
        yield requests
        durations = HistogramMetricFamily(
            "http_request_duration_seconds", "Seconds until the response was sent.", labels=["method", "route"]
        )
        bounds = [*map(floatToGoString, _BUCKETS), "+Inf"]
        for labels, (buckets, total) in self._seconds.items():
            durations.add_metric(list(labels), list(zip(bounds, accumulate(buckets), strict=True)), total[0])
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
