"""Gateways for a few routes, given as YAML flow mappings, whose upstream `up` is the recording one."""

from contextlib import AbstractAsyncContextManager
from ipaddress import ip_network
from pathlib import Path

import pytest
from harness import GatewayHarness, RecordingUpstream

from ostiary.testing import Issuer
from ostiary_chassis.proxies import TrustedProxies
from ostiary_chassis.settings import ConfigError
from ostiary_gateway.routing.loader import load_file


def routes_file(*routes: str, upstreams: str = "") -> str:
    lines = "".join(f"  - {{{route}}}\n" for route in routes)
    return f'upstreams:\n  up: {{url: "${{UPSTREAM}}"}}\n{upstreams}routes:\n{lines}'


def open_gateway(
    issuer: Issuer, upstream: RecordingUpstream, *routes: str, upstreams: str = ""
) -> AbstractAsyncContextManager[GatewayHarness]:
    return GatewayHarness.open(routes_file(*routes, upstreams=upstreams), upstream.url, issuer.verifier())


def errors_of(tmp_path: Path, *routes: str) -> str:
    """Return the errors of a file; its routes begin in line 4."""
    path = tmp_path / "gateway.yaml"
    path.write_text(routes_file(*routes))
    with pytest.raises(ConfigError) as caught:
        load_file(path, {"UPSTREAM": "http://up:9000"})
    return str(caught.value)


def bearer(token: str) -> str:
    return f"Authorization: Bearer {token}"


def trust_proxies(harness: GatewayHarness, *networks: str) -> None:
    """Trust proxies, from the next request on."""
    harness.gateway.runtime.current.admission._proxies = TrustedProxies([ip_network(each) for each in networks])
