"""Settings: errors are one line, and secrets are not shown."""

from pathlib import Path

import pytest

from ostiary_chassis.settings import ConfigError
from ostiary_gateway.config import GatewayConfig, check_ca_file


@pytest.mark.parametrize("url", ["", "redis://redis", "rediss://redis.example:6380/1", "redis://[::1]:6379"])
def test_the_store_is_a_redis_url(url: str) -> None:
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
def test_an_invalid_store_url_is_an_error_that_does_not_show_it(url: str) -> None:
    with pytest.raises(ConfigError, match="OSTIARY_GATEWAY_RATE_LIMIT_STORE: ") as caught:
        GatewayConfig.load({"OSTIARY_GATEWAY_RATE_LIMIT_STORE": url})
    assert "letmein" not in str(caught.value)


def test_the_collectors_url_is_not_shown_either() -> None:
    with pytest.raises(ConfigError, match="OTEL_EXPORTER_OTLP_ENDPOINT: ") as caught:
        GatewayConfig.load({"OTEL_EXPORTER_OTLP_ENDPOINT": "user:letmein@collector"})
    assert "letmein" not in str(caught.value)


def test_an_unknown_setting_is_rejected() -> None:
    with pytest.raises(ConfigError, match=r"OSTIARY_GATEWAY_PORRT: .*did you mean OSTIARY_GATEWAY_PORT\?"):
        GatewayConfig.load({"OSTIARY_GATEWAY_PORRT": "80"})
    # Others read these.
    GatewayConfig.load({"OSTIARY_GATEWAY_BIND": "127.0.0.1", "OSTIARY_AUTH_PORT": "1", "OSTIARY_MY_OWN": "1"})


@pytest.mark.parametrize("content", [None, b"", b"no certificates", b"\xff"])
def test_an_invalid_ca_file_is_an_error(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "authorities.pem"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError, match=r"SSL_CERT_FILE: cannot use .*authorities\.pem: "):
        check_ca_file({"SSL_CERT_FILE": str(file)})
    check_ca_file({"SSL_CERT_FILE": ""})
