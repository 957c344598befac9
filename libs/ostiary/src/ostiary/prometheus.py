"""The observer for Prometheus. Labels are bounded: outcomes, and the configured issuers."""

import threading
import time
from bisect import bisect_left
from collections import Counter as Counts
from collections.abc import Iterator, Sequence
from itertools import accumulate

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, Metric
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

#: Seconds, from a cached token to a new one on a slow machine.
_VERIFICATION_BUCKETS = (2e-6, 5e-6, 1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 1e-3, 1e-2)
_FETCH_BUCKETS = (0.005, 0.025, 0.1, 0.5, 1.0, 5.0)


class Timings:
    """A histogram of durations in seconds. Not thread-safe: the client library's locks would cost more."""

    __slots__ = ("_bounds", "_counts", "_seconds")

    def __init__(self, bounds: Sequence[float]) -> None:
        """`bounds` are upper bounds of buckets in seconds, in ascending order."""
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(bounds) + 1)
        self._seconds = 0.0

    def note(self, seconds: float) -> None:
        self._counts[bisect_left(self._bounds, seconds)] += 1
        self._seconds += seconds

    def add_to(self, family: HistogramMetricFamily, labels: Sequence[str]) -> None:
        """Add the histogram to a metric family."""
        bounds = [*map(floatToGoString, self._bounds), "+Inf"]
        family.add_metric(labels, list(zip(bounds, accumulate(self._counts), strict=True)), self._seconds)


class _Verifications(Collector):
    """Counts and times verifications. Thread-safe."""

    def __init__(self) -> None:
        self._outcomes: Counts[str] = Counts()
        self._timings = Timings(_VERIFICATION_BUCKETS)
        self._lock = threading.Lock()

    def note(self, outcome: str, seconds: float) -> None:
        with self._lock:
            self._outcomes[outcome] += 1
            self._timings.note(seconds)

    def collect(self) -> Iterator[Metric]:
        outcomes = CounterMetricFamily(
            "ostiary_verifications", "Verifications of tokens, by outcome.", labels=["outcome"]
        )
        seconds = HistogramMetricFamily(
            "ostiary_verification_duration_seconds", "Duration of a verification.", labels=[]
        )
        with self._lock:
            for outcome, count in self._outcomes.items():
                outcomes.add_metric([outcome], count)
            self._timings.add_to(seconds, [])
        yield from (outcomes, seconds)


class PrometheusObserver:
    """Counts and times what a verifier does. An Observer."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        verifications = _Verifications()
        registry.register(verifications)
        # A verification takes microseconds and is on the request path.
        self._note_verification = verifications.note
        self._fetches = Counter(
            "ostiary_key_fetches_total", "Fetches of the key set, by outcome.", ["issuer", "outcome"], registry=registry
        )
        self._fetch_seconds = Histogram(
            "ostiary_key_fetch_duration_seconds",
            "Duration of a fetch of the key set.",
            buckets=_FETCH_BUCKETS,
            registry=registry,
        )
        self._fetched_at = Gauge(
            "ostiary_key_fetch_last_success_timestamp_seconds",
            "Unix time of the last successful fetch of the key set.",
            ["issuer"],
            registry=registry,
        )

        self._polls = Counter(
            "ostiary_feed_polls_total",
            "Polls of the revocation feed, by outcome.",
            ["issuer", "outcome"],
            registry=registry,
        )
        self._position = Gauge(
            "ostiary_revocation_log_position", "Number of the last revocation applied.", ["issuer"], registry=registry
        )
        self._polled_at = Gauge(
            "ostiary_feed_poll_last_success_timestamp_seconds",
            "Unix time of the last successful poll of the revocation feed.",
            ["issuer"],
            registry=registry,
        )

    def verified(self, outcome: str, seconds: float) -> None:
        self._note_verification(outcome, seconds)

    def fetched(self, issuer: str, outcome: str, seconds: float) -> None:
        self._fetches.labels(issuer, outcome).inc()
        self._fetch_seconds.observe(seconds)
        if outcome != "failed":
            self._fetched_at.labels(issuer).set(time.time())

    def followed(self, issuer: str, outcome: str, _seconds: float, number: int | None) -> None:
        self._polls.labels(issuer, outcome).inc()
        if number is not None:
            self._position.labels(issuer).set(number)
            self._polled_at.labels(issuer).set(time.time())
