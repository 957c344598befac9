"""The observer for Prometheus. Its labels have few values: outcomes, and the issuers that were configured."""

import time
from functools import cache

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

#: Seconds; from a remembered token to a slow machine's first sight of one.
_VERIFICATION_BUCKETS = (2e-6, 5e-6, 1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 1e-3, 1e-2)
_FETCH_BUCKETS = (0.005, 0.025, 0.1, 0.5, 1.0, 5.0)


class PrometheusObserver:
    """Counts and times a verifier's work. An Observer."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        """Make the metrics in `registry`."""
        self._verifications = Counter(
            "ostiary_verifications_total", "Tokens looked at, by outcome.", ["outcome"], registry=registry
        )
        # Looking a child up takes longer than using it. There are some tens of outcomes.
        self._verifications_of = cache(self._verifications.labels)
        self._verification_seconds = Histogram(
            "ostiary_verification_seconds", "Seconds per token.", buckets=_VERIFICATION_BUCKETS, registry=registry
        )
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
        self._verifications_of(outcome).inc()
        self._verification_seconds.observe(seconds)

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
