"""A service's metrics."""

from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from ostiary.prometheus import Timings
from ostiary_chassis import logs
from ostiary_chassis.descriptors import DescriptorMetrics
from ostiary_chassis.problems import METHODS
from ostiary_chassis.threads import in_thread

#: Seconds, from a cached response to the longest timeout.
REQUEST_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


def method_label(method: str) -> str:
    """Return the name of a method in logs and metrics, where clients must not add any that they invent."""
    return method if method in METHODS else "other"


class RequestMetrics(Collector):
    """Counts and times requests. The label `route` is the path template, never the path, so it is bounded."""

    def __init__(self, registry: CollectorRegistry) -> None:
        #: By method, route and status. The timings are shared by all statuses of a method and route.
        self._counts: dict[tuple[str, str, int], _Count] = {}
        self._seconds: dict[tuple[str, str], Timings] = {}
        registry.register(self)

    def record(self, method: str, route: str, status: int, seconds: float) -> None:
        count = self._counts.get((method, route, status))
        if count is None:
            count = self._add_count(method, route, status)
        count.number += 1
        count.timings.note(seconds)

    def collect(self) -> Iterator[Metric]:
        requests = CounterMetricFamily("http_requests", "Responses to requests.", labels=["method", "route", "status"])
        for (method, route, status), count in self._counts.items():
            requests.add_metric([method, route, str(status)], count.number)
        yield requests
        durations = HistogramMetricFamily(
            "http_request_duration_seconds", "Time until the response was sent.", labels=["method", "route"]
        )
        for labels, timings in self._seconds.items():
            timings.add_to(durations, labels)
        yield durations

    def _add_count(self, method: str, route: str, status: int) -> "_Count":
        method = method_label(method)
        timings = self._seconds.setdefault((method, route), Timings(REQUEST_BUCKETS))
        return self._counts.setdefault((method, route, status), _Count(timings))


class _LogMetrics(Collector):
    """Counts the records that the process's log has lost."""

    def collect(self) -> Iterator[Metric]:
        yield CounterMetricFamily(
            "ostiary_log_records_dropped",
            "Log records dropped because their reader stalled or they could not be written.",
            value=logs.output().dropped,
        )


class _Count:
    __slots__ = ("number", "timings")

    def __init__(self, timings: Timings) -> None:
        self.number = 0
        self.timings = timings


class Collected(Collector):
    """Metrics as they were when they were collected."""

    def __init__(self, metrics: list[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics


class Metrics:
    """All metrics of a service: its requests, and what other collectors add to `registry`."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = RequestMetrics(self.registry)
        self.registry.register(_LogMetrics())
        self.registry.register(DescriptorMetrics())

    async def read(self) -> bytes:
        """Return all metrics in the Prometheus text format."""
        # Collected here, where they change, and formatted in a thread: thousands of series take time.
        return await in_thread(generate_latest, Collected(list(self.registry.collect())))
