"""A gateway in front of two endpoints of one upstream."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from harness import (
    GatewayHarness,
    RecordingUpstream,
    short_directory,
)
from ostiary.testing import Issuer


@asynccontextmanager
async def gateway_with_two_endpoints(
    issuer: Issuer, upstream: RecordingUpstream, more: str = "", route: str = ""
) -> AsyncIterator[tuple[GatewayHarness, RecordingUpstream]]:
    """Run a gateway whose upstream has two endpoints. Yield it and the second endpoint."""
    with short_directory() as directory:
        async with RecordingUpstream(directory / "up") as other:
            routes = f"""\
upstreams:
  up: {{urls: ["{upstream.url}", "{other.url}"]{more}}}
routes:
  - {{name: any, match: {{path: "/any/{{rest...}}", methods: [GET]}}, upstream: up, access: public{route}}}
"""
            async with GatewayHarness.open(routes, "", issuer.verifier()) as harness:
                yield harness, other
