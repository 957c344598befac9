"""Metrics of upstreams."""

from harness import GatewayHarness
from prometheus_client.parser import text_string_to_metric_families

ROUTES = """\
upstreams:
  up: {url: "${UPSTREAM}"}
  nobody: {url: "unix:/nonexistent"}
routes:
  - {name: item, match: {path: "/items/{id}", methods: [GET]}, upstream: up, access: public}
  - {name: nobody, match: {path: /nobody, methods: [GET]}, upstream: nobody, access: public}
"""


def upstream_metrics(text: str) -> dict[tuple[str, str, str], float]:
    """Return the values of metrics of upstreams, by name, upstream and the other label."""
    return {
        (sample.name, sample.labels.pop("upstream"), "".join(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.startswith("gateway_upstream_") and "_bucket" not in sample.name
    }


async def test_metrics_of_healthy_and_failing_upstreams(harness: GatewayHarness) -> None:
    for _ in range(2):
        await harness.client.get("/items/1")
    await harness.client.get("/nobody")
    found = upstream_metrics((await harness.client.get("/metrics")).text)
    assert found["gateway_upstream_first_byte_seconds_count", "up", ""] == 2
    assert found["gateway_upstream_connections", "up", "idle"] == 1
    assert found["gateway_upstream_connections", "up", "busy"] == 0
    assert found["gateway_upstream_failures_total", "nobody", "unreachable"] == 1
    assert found["gateway_upstream_endpoints_ejected", "nobody", ""] == 0
    assert found["gateway_upstream_circuit_closed", "nobody", ""] == 1


async def test_metrics_show_an_open_circuit_breaker(harness: GatewayHarness) -> None:
    for _ in range(20):
        await harness.client.get("/nobody")
    found = upstream_metrics((await harness.client.get("/metrics")).text)
    assert found["gateway_upstream_circuit_closed", "nobody", ""] == 0
    assert found["gateway_upstream_endpoints_ejected", "nobody", ""] == 1
    assert found["gateway_upstream_circuit_closed", "up", ""] == 1
