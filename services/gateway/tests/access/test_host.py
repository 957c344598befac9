"""The host of a request: whether the gateway serves it, and what the service gets."""

from pathlib import Path

import pytest
from harness import GatewayHarness, RecordingUpstream, parse_responses
from route_files import open_gateway, trust_proxies

from ostiary.testing import Issuer
from ostiary_chassis.settings import ConfigError
from ostiary_gateway.config import GatewayConfig
from ostiary_gateway.routing.loader import parse_file

ROUTES = """\
hosts_internal: [gateway, my_gateway]
upstreams:
  up: {url: "${UPSTREAM}"}
  own: {url: "${UPSTREAM}", host: upstream}
  named: {url: "${UPSTREAM}", host: "shop.internal:8000"}
routes:
  - {name: any, match: {path: "/any/{rest...}", methods: [GET]}, upstream: up, access: public}
  - {name: own, match: {path: /own, methods: [GET]}, upstream: own, access: public}
  - {name: named, match: {path: /named, methods: [GET]}, upstream: named, access: public}
  - {name: api, match: {path: /api, methods: [GET], hosts: [api.example, "*.shop.example"]}, upstream: up,
     access: public}
"""


async def ask(harness: GatewayHarness, target: str, host: str, *lines: str, peer: str | None = None) -> tuple[int, str]:
    """Return status and code of the response."""
    socket = await harness.connect(peer)
    socket.send("\r\n".join([f"GET {target} HTTP/1.1", f"Host: {host}", "Connection: close", *lines, "", ""]).encode())
    (response,) = parse_responses(await socket.wait_closed())
    return response.status, "" if response.status == 200 else response.code


@pytest.mark.parametrize(
    ("host", "sent"),
    [
        ("gw", "gw"),
        ("GW.:80", "gw"),
        ("gw:8080", "gw:8080"),
        ("Api.Example:443", "api.example:443"),
        ("eu.shop.example", "eu.shop.example"),
        ("gateway:8080", "gateway:8080"),
        ("my_gateway", "my_gateway"),
        ("localhost:1234", "localhost:1234"),
        ("[0:0::1]:80", "[::1]"),
    ],
)
async def test_the_service_gets_the_clients_host_as_it_was_matched(
    harness: GatewayHarness, upstream: RecordingUpstream, host: str, sent: str
) -> None:
    assert await ask(harness, "/any/x", host) == (200, "")
    assert (upstream.last.values("host"), upstream.last.values("x-forwarded-host")) == ([sent], [sent])


async def test_a_service_may_get_its_own_host_or_a_name(harness: GatewayHarness, upstream: RecordingUpstream) -> None:
    for target, host in (("/own", "localhost"), ("/named", "shop.internal:8000")):
        assert await ask(harness, target, "gw") == (200, "")
        assert (upstream.last.values("host"), upstream.last.values("x-forwarded-host")) == ([host], ["gw"])


@pytest.mark.parametrize("host", ["evil.example", "10.0.0.7:8080", "gw.evil.example", "other", "shop.example"])
async def test_a_host_that_nobody_configured_reaches_no_service(
    harness: GatewayHarness, upstream: RecordingUpstream, host: str
) -> None:
    for target in ("/any/x", "/nothing", "/api", f"http://{host}/any/x"):
        assert await ask(harness, target, host) == (421, "unknown_host")
    assert upstream.requests == []
    # Probes know no name.
    for target in ("/livez", "/readyz", "/metrics"):
        assert await ask(harness, target, host) == (200, "")
    server = f"OPTIONS * HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
    assert (await harness.send_raw(server.encode())).startswith(b"HTTP/1.1 204 ")


async def test_the_answer_to_an_unknown_host_tells_what_to_configure(harness: GatewayHarness) -> None:
    data = await harness.send_raw(b"GET /any/x HTTP/1.1\r\nHost: other\r\nConnection: close\r\n\r\n")
    (response,) = parse_responses(data)
    for setting in (b"OSTIARY_ISSUER", b"match.hosts", b"hosts_internal"):
        assert setting in response.body
    assert b"shop.example" not in response.body, "what is configured is nobody's business"


async def test_a_url_without_a_path_has_the_empty_one(harness: GatewayHarness) -> None:
    assert await ask(harness, "http://gw", "gw") == (404, "not_found")
    assert await ask(harness, "http://gw?a", "gw") == (404, "not_found")
    response = await harness.send_raw(b"OPTIONS http://gw HTTP/1.1\r\nHost: gw\r\nConnection: close\r\n\r\n")
    assert response.startswith(b"HTTP/1.1 204 ")


async def test_the_authority_of_a_target_is_that_of_its_host(
    harness: GatewayHarness, upstream: RecordingUpstream
) -> None:
    for authority, host in (
        ("GW", "gw"),
        ("gw:80", "gw"),
        ("gw", "gw:80"),
        ("gw.:8080", "gw:8080"),
        ("[::1]", "[0::1]"),
    ):
        assert await ask(harness, f"http://{authority}/any/x", host) == (200, "")
    for authority, host in (("gw:443", "gw"), ("api.example", "gw"), ("gw", "api.example"), ("", "gw"), ("x@gw", "gw")):
        assert await ask(harness, f"http://{authority}/any/x", host) == (400, "invalid_target")
    assert len(upstream.requests) == 5


@pytest.mark.parametrize("peer", ["10.0.0.1", "192.0.2.1"])
async def test_a_trusted_proxy_tells_the_public_host(
    harness: GatewayHarness, upstream: RecordingUpstream, peer: str
) -> None:
    trust_proxies(harness, "10.0.0.0/8")
    is_trusted = peer == "10.0.0.1"
    fields = ["X-Forwarded-Host: x.example, API.example:443", "X-Forwarded-Proto: https"]
    # The proxy's own idea of the gateway's name does not matter.
    for host in ("gw", "10.0.0.7:8080"):
        known = is_trusted or host == "gw"
        assert await ask(harness, "/any/x", host, *fields, peer=peer) == ((200, "") if known else (421, "unknown_host"))
    assert upstream.last.values("x-forwarded-host") == upstream.last.values("host")
    assert upstream.last.values("host") == (["api.example"] if is_trusted else ["gw"])
    # It chooses the route, and is no less checked than `Host`.
    assert await ask(harness, "/api", "gw", *fields, peer=peer) == ((200, "") if is_trusted else (404, "not_found"))
    for forwarded, answer in (("evil.example", (421, "unknown_host")), ("a b", (400, "invalid_host"))):
        refused = await ask(harness, "/any/x", "gw", f"X-Forwarded-Host: {forwarded}", peer=peer)
        assert refused == (answer if is_trusted else (200, ""))
    assert await ask(harness, "/any/x", "a b", *fields, peer=peer) == (400, "invalid_host")


@pytest.mark.parametrize(
    ("host", "line", "scheme", "sent"),
    [
        ("gw", "", "https", "gw"),
        ("gw:443", "", "https", "gw"),
        ("localhost:80", "", "http", "localhost"),
        ("gateway", "", "http", "gateway"),
        ("gw:80", "X-Forwarded-Proto: http", "http", "gw"),
        ("gw:80", "X-Forwarded-Proto: https", "https", "gw:80"),
        ("gateway", "X-Forwarded-Proto: https", "https", "gateway"),
        ("gw", "X-Forwarded-Proto: wss", "https", "gw"),
        ("gw", "X-Forwarded-Proto: ws", "http", "gw"),
    ],
)
async def test_the_service_learns_the_scheme_that_clients_use(
    issuer: Issuer, upstream: RecordingUpstream, host: str, line: str, scheme: str, sent: str
) -> None:
    config = GatewayConfig(issuer="https://gw")
    async with GatewayHarness.open(ROUTES, upstream.url, issuer.verifier(), config=config) as harness:
        trust_proxies(harness, "10.0.0.0/8")
        assert await ask(harness, "/any/x", host, *filter(None, [line]), peer="10.0.0.1") == (200, "")
        assert upstream.last.values("x-forwarded-proto") == [scheme]
        assert upstream.last.values("host") == [sent]


async def test_hosts_of_new_routes_hold_for_connections_that_are_open(
    issuer: Issuer, upstream: RecordingUpstream
) -> None:
    async with open_gateway(
        issuer, upstream, "name: a, match: {path: /a, methods: [GET], hosts: [a.example]}, upstream: up, access: public"
    ) as harness:
        socket = await harness.connect()
        request = b"GET /a HTTP/1.1\r\nHost: a.example\r\n\r\n"
        socket.send(request)
        await socket.wait_for(b"HTTP/1.1 200 ")
        runtime = harness.gateway.runtime
        async with open_gateway(
            issuer, upstream, "name: a, match: {path: /a, methods: [GET]}, upstream: up, access: public"
        ) as other:
            before, runtime.current = runtime.current, other.gateway.runtime.current
            socket.send(request)
            await socket.wait_for(b"HTTP/1.1 421 ")
            runtime.current = before
            socket.send(request)
            await socket.wait_for(b"HTTP/1.1 200 ", times=2)


def test_an_internal_host_is_no_address() -> None:
    routes = ROUTES.replace("my_gateway", '"http://gateway:8080"').encode()
    with pytest.raises(ConfigError, match=r"r\.yaml:1: hosts_internal\[1\]: must be a host name in lower case"):
        parse_file(Path("r.yaml"), routes, {"UPSTREAM": "unix:/a"}, lambda file: file)
