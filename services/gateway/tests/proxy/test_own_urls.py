"""URLs of the service in its responses."""

import pytest
from harness import GatewayHarness, RecordingUpstream
from route_files import open_gateway, trust_proxies

from ostiary.testing import Issuer
from ostiary_gateway.access.request import RequestContext
from ostiary_gateway.config import GatewayConfig
from ostiary_gateway.http1.parser import parse_request
from ostiary_gateway.proxy.own_urls import public_url
from ostiary_gateway.routing.config import RoutesFile
from ostiary_gateway.routing.table import RouteTable
from ostiary_gateway.upstream.cluster import Cluster

ROUTES = """\
upstreams:
  up: {url: "${UPSTREAM}"}
  own: {url: "${UPSTREAM}", host: upstream}
  named: {url: "${UPSTREAM}", host: "shop.internal:8000"}
routes:
  - {name: plain, match: {path: "/plain/{rest...}", methods: [GET]}, upstream: up, access: public}
  - {name: own, match: {path: "/own/{rest...}", methods: [GET]}, upstream: own, access: public}
  - {name: named, match: {path: "/named/{rest...}", methods: [GET]}, upstream: named, access: public}
  - {name: api, match: {path: "/api/{rest...}", methods: [GET]}, upstream: up, access: public, rewrite: "/{rest...}"}
  - {name: items, match: {path: /list/items, methods: [GET]}, upstream: up, access: public, rewrite: /items}
  - {name: item, match: {path: "/list/items/{id}", methods: [GET]}, upstream: up, access: public,
     rewrite: "/items/{id}"}
  - {name: next, match: {path: "/v2/{rest...}", methods: [GET]}, upstream: up, access: public,
     rewrite: "/next/{rest...}"}
  - {name: tenant, match: {path: "/of/{tenant}/{rest...}", methods: [GET]}, upstream: up, access: public,
     rewrite: "/{rest...}"}
"""


async def location(harness: GatewayHarness, upstream: RecordingUpstream, target: str, url: str, *lines: str) -> str:
    """Return the `Location` that a client gets for that of the service."""
    return await field(harness, upstream, target, "Location", url, *lines)


async def field(
    harness: GatewayHarness, upstream: RecordingUpstream, target: str, name: str, value: str, *lines: str
) -> str:
    upstream.response = f"HTTP/1.1 307 X\r\n{name}: {value}\r\nContent-Length: 0\r\n\r\n".encode("latin-1")
    response = await harness.request(target, *lines, peer="10.0.0.1")
    assert response.status == 307
    (found,) = response.values(name.lower())
    return found


@pytest.mark.parametrize(
    ("target", "url", "public"),
    [
        # The address that the service has been told as its own.
        ("/own/x", "http://localhost/own/y?a=b#c", "http://gw/own/y?a=b#c"),
        ("/own/x", "HTTP://LocalHost:80/own/y", "http://gw/own/y"),
        ("/own/x", "http://localhost", "http://gw"),
        ("/own/x", "//localhost/own/y", "//gw/own/y"),
        # One that asks for https gets it.
        ("/own/x", "https://localhost/own/y", "https://gw/own/y"),
        ("/named/x", "http://shop.internal:8000/named/y", "http://gw/named/y"),
        ("/plain/x", "https://gw/plain/y", "https://gw/plain/y"),
        # Other hosts, and what is no URL of a host.
        ("/own/x", "http://localhost:8080/own/y", "http://localhost:8080/own/y"),
        ("/own/x", "http://localhost.evil.example/", "http://localhost.evil.example/"),
        ("/own/x", "http://localhost@evil.example/", "http://localhost@evil.example/"),
        ("/own/x", "http://user@localhost/", "http://user@localhost/"),
        ("/own/x", "ftp://localhost/", "ftp://localhost/"),
        ("/own/x", "http:/localhost/", "http:/localhost/"),
        ("/own/x", "http:\\\\localhost\\", "http:\\\\localhost\\"),
        ("/own/x", "http://localhost\\@evil.example/", "http://localhost\\@evil.example/"),
        ("/own/x", "/own/y", "/own/y"),
        ("/own/x", "y", "y"),
        ("/own/x", "?page=2", "?page=2"),
        ("/own/x", "", ""),
        ("/own/x", "mailto:a@localhost", "mailto:a@localhost"),
        ("/own/x", "myapp://localhost/callback", "myapp://localhost/callback"),
        ("/plain/x", "http://localhost/", "http://localhost/"),
        ("/plain/x", "http://shop.internal:8000/", "http://shop.internal:8000/"),
        ("/named/x", "http://shop.internal/", "http://shop.internal/"),
    ],
)
async def test_own_addresses_become_the_gateways(
    harness: GatewayHarness, upstream: RecordingUpstream, target: str, url: str, public: str
) -> None:
    assert await location(harness, upstream, target, url) == public


@pytest.mark.parametrize(
    ("target", "url", "public"),
    [
        # A prefix was stripped.
        ("/api/items", "/items/", "/api/items/"),
        ("/api/items", "http://gw/items/?a=b", "http://gw/api/items/?a=b"),
        ("/api/items", "//gw/items/", "//gw/api/items/"),
        ("/api/items", "/login?next=/items/#top", "/api/login?next=/items/#top"),
        ("/api/items", "http://gw", "http://gw/api/"),
        ("/list/items", "/items/7", "/list/items/7"),
        ("/of/acme/items", "/items/7", "/of/acme/items/7"),
        # The service knows the prefix.
        ("/api/items", "/api/items/", "/api/items/"),
        ("/api/items", "http://gw/api", "http://gw/api"),
        ("/list/items", "/list/items/7", "/list/items/7"),
        # A prefix was replaced, or added.
        ("/v2/items", "/next/items/?a=b", "/v2/items/?a=b"),
        ("/v2/items", "/v2/items/", "/v2/items/"),
        ("/v2/items", "/login", "/login"),
        # No route would take it.
        ("/list/items", "/login", "/login"),
        ("/api/items", "/../x", "/../x"),
        # Not rewritten, or of somebody else.
        ("/plain/items", "/items/", "/items/"),
        ("/api/items", "items/", "items/"),
        ("/api/items", "//evil.example/items/", "//evil.example/items/"),
        ("/api/items", "https://evil.example/items/", "https://evil.example/items/"),
    ],
)
async def test_a_rewritten_path_is_undone(
    harness: GatewayHarness, upstream: RecordingUpstream, target: str, url: str, public: str
) -> None:
    assert await location(harness, upstream, target, url) == public


@pytest.mark.parametrize(
    ("url", "public"),
    [
        ("/app/x/items/", "/x/items/"),
        ("/app/?a=b", "/?a=b"),
        ("/app", "/app"),
        # These would be URLs of another host.
        ("/app//evil.example/", "/app//evil.example/"),
        ("/app/\\evil.example/", "/app/\\evil.example/"),
        ("/app/\t/evil.example/", "/app/\t/evil.example/"),
    ],
)
async def test_an_undone_rewrite_leads_to_no_other_host(
    issuer: Issuer, upstream: RecordingUpstream, url: str, public: str
) -> None:
    routes = [
        "name: a, match: {path: '/{rest...}', methods: [GET]}, upstream: up, access: public, rewrite: '/app/{rest...}'",
        "name: b, match: {path: /, methods: [GET]}, upstream: up, access: public, rewrite: /app/",
    ]
    async with open_gateway(issuer, upstream, *routes) as harness:
        for target in ("/x/y", "/"):
            assert await location(harness, upstream, target, url) == public


@pytest.mark.parametrize(
    ("name", "value", "public"),
    [
        ("Content-Location", "http://localhost/own/y", "http://gw/own/y"),
        ("Refresh", "5; url=http://localhost/own/y", "5; url=http://gw/own/y"),
        ("Refresh", "0;URL='http://localhost/own/y'", "0;URL='http://gw/own/y'"),
        ("Refresh", '1.5, "http://localhost/own/y" ', '1.5, "http://gw/own/y"'),
        ("Refresh", "5; http://localhost/own/y", "5; http://gw/own/y"),
        ("Refresh", "5", "5"),
        ("Refresh", "5; url=/own/y", "5; url=/own/y"),
        ("Refresh", "soon; url=http://localhost/", "soon; url=http://localhost/"),
        # These are no redirects; services know better, and other proxies leave them alone, too.
        ("Link", "<http://localhost/own/y>; rel=next", "<http://localhost/own/y>; rel=next"),
        ("Set-Cookie", "a=b; Path=/own; Domain=localhost", "a=b; Path=/own; Domain=localhost"),
        ("X-Location", "http://localhost/own/y", "http://localhost/own/y"),
    ],
)
async def test_redirects_are_in_three_fields(
    harness: GatewayHarness, upstream: RecordingUpstream, name: str, value: str, public: str
) -> None:
    assert await field(harness, upstream, "/own/x", name, value) == public


@pytest.mark.parametrize(
    ("proto", "target", "url", "public"),
    [
        # A service that does not know of the TLS before the gateway.
        ("https", "/plain/x", "http://gw/plain/y", "https://gw/plain/y"),
        ("https", "/own/x", "http://localhost/own/y", "https://gw/own/y"),
        ("https", "/api/x", "http://gw/y", "https://gw/api/y"),
        # A service that does, and wants its clients to use it.
        ("http", "/plain/x", "https://gw/plain/y", "https://gw/plain/y"),
        ("http", "/plain/x", "http://gw/plain/y", "http://gw/plain/y"),
    ],
)
async def test_redirects_do_not_lead_away_from_https(
    harness: GatewayHarness, upstream: RecordingUpstream, proto: str, target: str, url: str, public: str
) -> None:
    trust_proxies(harness, "10.0.0.0/8")
    assert await location(harness, upstream, target, url, f"X-Forwarded-Proto: {proto}") == public


async def test_redirects_lead_to_the_host_that_the_client_asked_for(
    issuer: Issuer, upstream: RecordingUpstream
) -> None:
    config = GatewayConfig(issuer="http://gw.example:8080")
    routes = "hosts_internal: [gw]\n" + ROUTES
    async with GatewayHarness.open(routes, upstream.url, issuer.verifier(), config=config) as harness:
        trust_proxies(harness, "10.0.0.0/8")
        inner = "http://localhost/own/y"
        assert await location(harness, upstream, "/own/x", inner) == "http://gw/own/y"
        public = "X-Forwarded-Host: GW.example:8080"
        assert await location(harness, upstream, "/own/x", inner, public) == "http://gw.example:8080/own/y"


async def test_other_fields_and_repeated_responses_are_kept(
    harness: GatewayHarness, upstream: RecordingUpstream
) -> None:
    upstream.response = (
        b"HTTP/1.1 302 Found\r\nX-A: 1\r\nLocation: http://gw/y\r\nX-B: 2\r\nServer: s\r\nContent-Length: 2\r\n\r\nok"
    )
    for target, public in (("/api/x", "http://gw/api/y"), ("/plain/x", "http://gw/y"), ("/api/x", "http://gw/api/y")):
        response = await harness.request(target)
        assert response.body == b"ok"
        names = ("x-a", "location", "x-b", "server")
        assert [response.values(name) for name in names] == [["1"], [public], ["2"], []]


def hosts_of(**upstream: object) -> set[bytes]:
    file = RoutesFile.model_validate({"upstreams": {"up": upstream}, "routes": []})
    return set(Cluster("up", file.upstreams["up"], None, b"gw").hosts)


def test_a_service_may_know_itself_by_each_of_its_addresses_or_by_what_it_is_told() -> None:
    assert hosts_of(urls=["http://a:80", "https://B:8443", "http://[0::1]:1"]) == {b"a", b"b:8443", b"[::1]:1"}
    assert hosts_of(url="http://a:1", host="shop:443") == {b"a:1", b"shop", b"shop:443"}
    assert hosts_of(url="unix:/a") == set()
    assert hosts_of(url="unix:/a", host="upstream") == {b"localhost"}


@pytest.mark.parametrize(
    ("host", "url", "public"),
    [
        (b"gw", b"http://gw:8000/x/", b"http://gw/x/"),
        (b"gw:8080", b"http://GW:8000/x/", b"http://gw:8080/x/"),
        (b"gw:8080", b"http://gw/x/", b"http://gw:8080/x/"),
        (b"gw:8080", b"http://gw:9000/x/", b"http://gw:9000/x/"),
        (b"gw:8080", b"http://other:8000/x/", b"http://other:8000/x/"),
        (b"gw:8080", b"https://gw/x/", b"https://gw/x/"),
    ],
)
def test_the_clients_name_with_the_services_port_is_the_service(host: bytes, url: bytes, public: bytes) -> None:
    file = RoutesFile.model_validate({"upstreams": {"up": {"urls": ["http://a", "http://b:8000"]}}, "routes": []})
    context = RequestContext(parse_request(b"GET / HTTP/1.1\r\n\r\n"), "", b"http", b"")
    context.host = host
    assert public_url(url, context, Cluster("up", file.upstreams["up"], None, b"gw"), RouteTable(())) == public


@pytest.mark.parametrize("path", ["//evil.example/", "/\\evil.example/", "///evil.example/"])
async def test_undoing_a_rewrite_leads_to_no_other_host(issuer: Issuer, upstream: RecordingUpstream, path: str) -> None:
    routes = (
        "name: a, match: {path: '/{r...}', methods: [GET]}, upstream: up, access: public, rewrite: '/app/{r...}',"
        """ allows_encoded: ['//', '\\']"""
    )
    async with open_gateway(issuer, upstream, routes) as it:
        assert await location(it, upstream, path, f"/app{path}") == f"//gw{path}"
