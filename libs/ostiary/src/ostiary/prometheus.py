"""The observer for Prometheus. Its labels have few values: outcomes, and the issuers that were configured."""

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

#: Seconds; from a remembered token to a slow machine's first sight of one.
_VERIFICATION_BUCKETS = (2e-6, 5e-6, 1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 1e-3, 1e-2)
_FETCH_BUCKETS = (0.005, 0.025, 0.1, 0.5, 1.0, 5.0)


class Timings:
    """How many things took no longer than each of some bounds, and the seconds of all: a histogram.

    For one thread at a time: the client library's own locks cost more than the rest.
    """

    __slots__ = ("_bounds", "_counts", "_seconds")

    def __init__(self, bounds: Sequence[float]) -> None:
        """Start at zero. Bounds are in seconds, and in their order."""
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(bounds) + 1)
        self._seconds = 0.0

    def note(self, seconds: float) -> None:
        """Count one."""
        self._counts[bisect_left(self._bounds, seconds)] += 1
        self._seconds += seconds

    def add_to(self, family: HistogramMetricFamily, labels: Sequence[str]) -> None:
        """Say what was counted."""
        bounds = [*map(floatToGoString, self._bounds), "+Inf"]
        family.add_metric(labels, list(zip(bounds, accumulate(self._counts), strict=True)), self._seconds)


class _Verifications(Collector):
    """Counts and times verifications, from any thread."""

    def __init__(self) -> None:
        self._outcomes: Counts[str] = Counts()
        self._timings = Timings(_VERIFICATION_BUCKETS)
        self._lock = threading.Lock()

    def note(self, outcome: str, seconds: float) -> None:
        with self._lock:
            self._outcomes[outcome] += 1
            self._timings.note(seconds)

    def collect(self) -> Iterator[Metric]:
        outcomes = CounterMetricFamily("ostiary_verifications", "Tokens looked at, by outcome.", labels=["outcome"])
        seconds = HistogramMetricFamily("ostiary_verification_seconds", "Seconds per token.", labels=[])
        with self._lock:
            for outcome, count in self._outcomes.items():
                outcomes.add_metric([outcome], count)
            self._timings.add_to(seconds, [])
        yield from (outcomes, seconds)


class PrometheusObserver:
    """Counts and times a verifier's work. An Observer."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        """Make the metrics in `registry`."""
        verifications = _Verifications()
        registry.register(verifications)
        # A verification takes microseconds, and is on each request's path.
        self._note_verification = verifications.note
        self._fetches = Counter(
            "ostiary_key_fetches_total", "Fetches of keys, by outcome.", ["issuer", "outcome"], registry=registry
        )
        self._fetch_seconds = Histogram(
            "ostiary_key_fetch_seconds", "Seconds per fetch of keys.", buckets=_FETCH_BUCKETS, registry=registry
        )
        self._fetched_at = Gauge(
            "ostiary_keys_fetched_timestamp_seconds",
            "When the keys were last fetched, in seconds since the epoch.",
            ["issuer"],
            registry=registry,
        )

        self._questions = Counter(
            "ostiary_feed_questions_total",
            "Questions to the revocation feed, by outcome.",
            ["issuer", "outcome"],
            registry=registry,
        )
        self._applied = Gauge(
            "ostiary_revocations_applied", "The number of the last revocation applied.", ["issuer"], registry=registry
        )
        self._followed_at = Gauge(
            "ostiary_revocations_followed_timestamp_seconds",
            "When the revocation feed last answered, in seconds since the epoch.",
            ["issuer"],
            registry=registry,
        )

    def verified(self, outcome: str, seconds: float) -> None:
        """Count and time a verification."""
        self._note_verification(outcome, seconds)

    def fetched(self, issuer: str, outcome: str, seconds: float) -> None:
        """Count and time a fetch."""
        self._fetches.labels(issuer, outcome).inc()
        self._fetch_seconds.observe(seconds)
        if outcome != "failed":
            self._fetched_at.labels(issuer).set(time.time())

    def followed(self, issuer: str, outcome: str, _seconds: float, number: int | None) -> None:
        """Count a question to the feed."""
        self._questions.labels(issuer, outcome).inc()
        if number is not None:
            self._applied.labels(issuer).set(number)
            self._followed_at.labels(issuer).set(time.time())
