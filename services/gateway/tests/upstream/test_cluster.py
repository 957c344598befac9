"""Load balancing among the endpoints of an upstream."""

import ssl

from harness import (
    RecordingUpstream,
    respond_and_close,
)
from harness.endpoints import gateway_with_two_endpoints

from ostiary.testing import Issuer
from ostiary_gateway.routing.config import Upstream as UpstreamConfig
from ostiary_gateway.upstream.cluster import Cluster
from ostiary_gateway.upstream.endpoint import FAILURES_IN_A_ROW

_NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def test_a_retry_goes_to_another_endpoint() -> None:
    it = Cluster("up", UpstreamConfig(urls=["unix:/a", "unix:/b", "unix:/c"]), _NO_TLS, b"gw")
    first, second, third = it.pools
    for pool in it.pools:
        assert pool not in {it.choose([pool]) for _ in range(50)}
    assert {it.choose([first, third]) for _ in range(50)} == {second}
    assert {it.choose(it.pools) for _ in range(50)} == set(it.pools)
    alone = Cluster("up", UpstreamConfig(url="unix:/a"), _NO_TLS, b"gw")
    assert alone.choose(alone.pools) is alone.pools[0]


async def test_while_one_endpoint_fails_the_other_serves_every_request(
    issuer: Issuer, upstream: RecordingUpstream
) -> None:
    async with gateway_with_two_endpoints(issuer, upstream, route=", retries: {attempts: 1}") as (harness, other):
        upstream.response, other.response = respond_and_close(), OK
        for number in range(30):
            assert (await harness.request("/any/x", peer=f"192.0.2.{number}")).status == 200
        # Then it is ejected.
        assert len(upstream.requests) == FAILURES_IN_A_ROW
        assert harness.upstream().ejected_endpoints == 1
        assert len(other.requests) == 30
