"""How the services behind the gateway are doing, for Prometheus; the labels are the upstreams' names."""

from collections.abc import Iterator

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from ostiary_gateway.runtime import Runtime


class UpstreamMetrics(Collector):
    """Reads what the upstreams of the policy that counts have noted. A changed upstream starts at zero."""

    def __init__(self, runtime: Runtime) -> None:
        """Nothing is read yet."""
        self._runtime = runtime

    def collect(self) -> Iterator[Metric]:
        """Return it. A Collector."""
        names = ["upstream"]
        seconds = HistogramMetricFamily(
            "gateway_upstream_seconds", "Seconds from a request to the head of its response.", labels=names
        )
        failures = CounterMetricFamily(
            "gateway_upstream_failures", "Requests that were not answered, or in part.", labels=[*names, "reason"]
        )
        again = CounterMetricFamily("gateway_upstream_retries", "Requests that were sent once more.", labels=names)
        connections = GaugeMetricFamily("gateway_upstream_connections", "Connections.", labels=[*names, "state"])
        waiting = GaugeMetricFamily("gateway_upstream_waiting", "Requests that wait for a connection.", labels=names)
        left_out = GaugeMetricFamily(
            "gateway_upstream_addresses_left_out", "Addresses that get no requests for now.", labels=names
        )
        asked = GaugeMetricFamily(
            "gateway_upstream_is_asked", "0 while most requests fail and none is sent.", labels=names
        )
        for name, upstream in self._runtime.current.upstreams.items():
            upstream.response_seconds.add_to(seconds, [name])
            for failure, count in upstream.failures.items():
                failures.add_metric([name, failure.name.lower()], count)
            again.add_metric([name], upstream.retries)
            connections.add_metric([name, "idle"], sum(pool.idle for pool in upstream.pools))
            connections.add_metric([name, "busy"], sum(pool.busy for pool in upstream.pools))
            waiting.add_metric([name], sum(pool.waiting for pool in upstream.pools))
            left_out.add_metric([name], upstream.ejected_endpoints)
            asked.add_metric([name], upstream.is_circuit_closed)
        yield from (seconds, failures, again, connections, waiting, left_out, asked)
