"""Prometheus metrics of the upstreams and of browser sessions."""

from collections.abc import Iterator

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from ostiary_gateway.runtime import Runtime
from ostiary_gateway.sessions.renewals import SessionRenewals


class UpstreamMetrics(Collector):
    """Collects from the current upstreams; one whose configuration has changed starts again at zero."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def collect(self) -> Iterator[Metric]:
        labels = ["upstream"]
        first_byte = HistogramMetricFamily(
            "gateway_upstream_first_byte_seconds",
            "Time from sending a request to receiving the head of its response.",
            labels=labels,
        )
        failures = CounterMetricFamily(
            "gateway_upstream_failures", "Requests without a complete response, by reason.", labels=[*labels, "reason"]
        )
        retries = CounterMetricFamily("gateway_upstream_retries", "Retries of requests.", labels=labels)
        connections = GaugeMetricFamily(
            "gateway_upstream_connections", "Open connections, by state.", labels=[*labels, "state"]
        )
        queued = GaugeMetricFamily(
            "gateway_upstream_queued_requests", "Requests that wait for a connection.", labels=labels
        )
        ejected = GaugeMetricFamily(
            "gateway_upstream_endpoints_ejected", "Endpoints that are ejected from load balancing.", labels=labels
        )
        circuit = GaugeMetricFamily(
            "gateway_upstream_circuit_closed",
            "1 if the circuit breaker lets requests through, 0 if it is open.",
            labels=labels,
        )
        for name, upstream in self._runtime.current.upstreams.items():
            upstream.response_seconds.add_to(first_byte, [name])
            for failure, count in upstream.failures.items():
                failures.add_metric([name, failure.name.lower()], count)
            retries.add_metric([name], upstream.retries)
            connections.add_metric([name, "idle"], sum(pool.idle for pool in upstream.pools))
            connections.add_metric([name, "busy"], sum(pool.busy for pool in upstream.pools))
            queued.add_metric([name], sum(pool.waiting for pool in upstream.pools))
            ejected.add_metric([name], upstream.ejected_endpoints)
            circuit.add_metric([name], upstream.is_circuit_closed)
        yield from (first_byte, failures, retries, connections, queued, ejected, circuit)


class SessionMetrics(Collector):
    """Collects from the renewals of browser sessions."""

    def __init__(self, renewals: SessionRenewals) -> None:
        self._renewals = renewals

    def collect(self) -> Iterator[Metric]:
        renewals = self._renewals
        outcomes = CounterMetricFamily(
            "gateway_session_renewals", "Renewals of browser sessions' access tokens, by outcome.", labels=["outcome"]
        )
        for outcome, count in renewals.outcomes.items():
            outcomes.add_metric([outcome], count)
        seconds = HistogramMetricFamily(
            "gateway_session_renewal_seconds", "Time from needing a renewal to its end.", labels=[]
        )
        renewals.seconds.add_to(seconds, [])
        yield from (outcomes, seconds)
        yield GaugeMetricFamily(
            "gateway_session_waiting_requests", "Requests that wait for a renewal.", value=renewals.waiting
        )
        yield GaugeMetricFamily(
            "gateway_session_queued_renewals", "Renewals that wait for their turn.", value=renewals.queued
        )
        yield GaugeMetricFamily(
            "gateway_session_remembered_tokens", "Renewed access tokens in memory.", value=renewals.remembered
        )
