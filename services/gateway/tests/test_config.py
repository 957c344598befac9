"""Settings: what is wrong with one is said in a line, and secrets are not."""

import pytest

from ostiary_chassis.settings import ConfigError
from ostiary_gateway.config import GatewayConfig


@pytest.mark.parametrize("url", ["", "redis://redis", "rediss://redis.example:6380/1", "redis://[::1]:6379"])
def test_a_store_is_named_by_its_address(url: str) -> None:
    assert GatewayConfig.load({"OSTIARY_GATEWAY_RATE_LIMIT_STORE": url}).rate_limit_store == url


@pytest.mark.parametrize(
    "url",
    [
        "redis:6379",
        "http://redis:6379",
        "redis://",
        "redis://user:letmein@redis:6379",
        "redis://:letmein@redis",
        "redis://redis:letmein",
        "redis://redis:0",
        "redis://redis:65536",
        "redis://redis/letmein",
        "redis://redis:6379/0?password=letmein",
        "redis://redis:6379#letmein",
        "redis://[::1:6379",
    ],
)
def test_what_is_no_address_of_a_store_is_named_and_not_shown(url: str) -> None:
    with pytest.raises(ConfigError, match="OSTIARY_GATEWAY_RATE_LIMIT_STORE: ") as caught:
        GatewayConfig.load({"OSTIARY_GATEWAY_RATE_LIMIT_STORE": url})
    assert "letmein" not in str(caught.value)


def test_an_address_of_a_collector_is_not_shown_either() -> None:
    with pytest.raises(ConfigError, match="OTEL_EXPORTER_OTLP_ENDPOINT: ") as caught:
        GatewayConfig.load({"OTEL_EXPORTER_OTLP_ENDPOINT": "user:letmein@collector"})
    assert "letmein" not in str(caught.value)
