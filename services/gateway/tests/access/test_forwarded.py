"""What a service is told about the client: RFC 7239, and `Via` (RFC 9110 section 7.6.3)."""

import pytest
from harness import GatewayHarness, RecordingUpstream, parse_responses
from harness.websockets import HANDSHAKE, UpstreamWebSocket
from route_files import open_gateway, routes_file, trust_proxies

from ostiary.testing import Issuer
from ostiary_gateway.access.forwarded import forwarded_fields, stripped_prefix

ROUTE = "name: a, match: {path: /a, methods: [GET]}, upstream: up, access: public"


@pytest.mark.parametrize(
    ("client", "host", "element"),
    [
        ("192.0.2.1", b"shop.example", "for=192.0.2.1;host=shop.example;proto=https"),
        ("192.0.2.1", b"shop.example:8443", 'for=192.0.2.1;host="shop.example:8443";proto=https'),
        ("2001:db8::7", b"my_shop", 'for="[2001:db8::7]";host=my_shop;proto=https'),
        ("fe80::1%eth0", b"[::1]:8080", 'for="[fe80::1]";host="[::1]:8080";proto=https'),
        ("unknown", b"[::1]", 'for=unknown;host="[::1]";proto=https'),
    ],
)
def test_what_is_no_token_is_quoted(client: str, host: bytes, element: str) -> None:
    assert forwarded_fields(client, b"https", host, is_http11=True).decode() == (
        f"x-forwarded-for: {client}\r\nx-forwarded-proto: https\r\nx-forwarded-host: {host.decode()}\r\n"
        f"forwarded: {element}\r\nvia: 1.1 ostiary\r\n"
    )


@pytest.mark.parametrize(
    ("public", "upstream", "prefix"),
    [
        (b"/api/users/1", b"/users/1", b"/api"),
        (b"/a/b/c/", b"/c/", b"/a/b"),
        (b"/api/", b"/", b"/api"),
        (b"/api", b"/", b"/api"),
        (b"/users/1", b"/v2/users/1", b""),
        (b"/api/users/1", b"/v2/users/1", b""),
        (b"/myusers", b"/users", b""),
        (b"/", b"/", b""),
        (b"/x", b"/x", b""),
    ],
)
def test_a_prefix_is_what_a_rewrite_takes_from_the_start(public: bytes, upstream: bytes, prefix: bytes) -> None:
    assert stripped_prefix(public, upstream) == prefix


@pytest.mark.parametrize(
    ("rewrite", "sent", "prefix"),
    [
        ("/{rest...}", "/x/y", ["/api/v1"]),
        ("/v1/{rest...}", "/v1/x/y", ["/api"]),
        ("/v2/{rest...}", "/v2/x/y", []),
        ("/api/v1/{rest...}", "/api/v1/x/y", []),
    ],
)
async def test_the_service_learns_which_prefix_was_stripped(
    issuer: Issuer, upstream: RecordingUpstream, rewrite: str, sent: str, prefix: list[str]
) -> None:
    route = "name: a, match: {path: '/api/v1/{rest...}', methods: [GET]}, upstream: up, access: public"
    async with open_gateway(issuer, upstream, f"{route}, rewrite: '{rewrite}'") as it:
        assert (await it.request("/api/v1/x/y?q=1", "X-Forwarded-Prefix: /forged")).status == 200
        assert upstream.last.target == f"{sent}?q=1"
        assert upstream.last.values("x-forwarded-prefix") == prefix


async def test_a_prefix_is_no_host(issuer: Issuer, upstream: RecordingUpstream) -> None:
    route = "name: a, match: {path: '/{r...}', methods: [GET]}, upstream: up, access: public, rewrite: /x"
    async with open_gateway(issuer, upstream, f"{route}, allows_encoded: ['//']") as it:
        assert (await it.request("//evil.example/x")).status == 200
        assert upstream.last.values("x-forwarded-prefix") == []
        assert (await it.request("/y/x")).status == 200
        assert upstream.last.values("x-forwarded-prefix") == ["/y"]


async def test_what_proxies_said_is_replaced_even_if_they_are_trusted(
    issuer: Issuer, upstream: RecordingUpstream
) -> None:
    async with open_gateway(issuer, upstream, ROUTE) as it:
        trust_proxies(it, "10.0.0.0/8")
        fields = ("Forwarded: for=1.2.3.4;host=evil", "X-Forwarded-For: 1.2.3.4, 203.0.113.5, 10.0.0.2")
        for peer, client in (("10.0.0.1", "203.0.113.5"), ("192.0.2.1", "192.0.2.1")):
            assert (await it.request("/a", *fields, peer=peer)).status == 200
            assert upstream.last.values("x-forwarded-for") == [client]
            assert upstream.last.values("forwarded") == [f"for={client};host=gw;proto=http"]


async def test_via_lists_all_proxies_in_both_directions(issuer: Issuer, upstream: RecordingUpstream) -> None:
    async with open_gateway(issuer, upstream, ROUTE) as it:
        upstream.response = b"HTTP/1.1 200 OK\r\nVia: 1.1 inner\r\nContent-Length: 0\r\n\r\n"
        answer = await it.request("/a", "Via: 2 outer, 1.1 middle (x)")
        assert upstream.last.values("via") == ["2 outer, 1.1 middle (x)", "1.1 ostiary"]
        assert answer.values("via") == ["1.1 inner", "1.1 ostiary"]
        upstream.response = b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n"
        (answer,) = parse_responses(await it.send_raw(b"GET /a HTTP/1.0\r\nHost: gw\r\n\r\n"))
        assert (upstream.last.values("via"), answer.values("via")) == (["1.0 ostiary"], ["1.0 ostiary"])
        upstream.response = b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
        socket = await it.connect()
        socket.send(b"GET /a HTTP/1.1\r\nHost: gw\r\n\r\n")
        await socket.wait_for(b"via: 1.1 ostiary\r\n", times=2)
        assert (await it.request("/nothing")).values("via") == [], "of an answer of its own, it is no proxy"


async def test_websockets_are_for_pages_of_the_public_name(issuer: Issuer, upstream: RecordingUpstream) -> None:
    """Behind a proxy that changes Host, which is then an internal name or accompanied by the public one."""
    route = "name: a, match: {path: /a, methods: [GET]}, upstream: up, access: public, websocket: true"
    routes = "hosts_internal: [gateway]\n" + routes_file(route)
    service = upstream.response = UpstreamWebSocket()
    service.may_accept.set()
    async with GatewayHarness.open(routes, upstream.url, issuer.verifier()) as it:
        trust_proxies(it, "10.0.0.0/8")
        public = ("X-Forwarded-Host: app.localhost", "X-Forwarded-Proto: https")
        for host, lines, origin, status in (
            ("gateway:8080", (), "http://gw", 101),
            ("gateway:8080", (), "http://gateway:8080", 403),
            ("gateway:8080", (), "http://gw:8080", 403),
            ("gw", public, "http://app.localhost", 101),
            ("gw", public, "http://gw", 403),
            # The scheme is the issuer's, whatever a proxy says.
            ("gw", public, "https://app.localhost", 403),
        ):
            socket = await it.connect("10.0.0.1")
            fields = [f"Host: {host}", *HANDSHAKE, "Cookie: a=b", f"Origin: {origin}", *lines, "", ""]
            socket.send("\r\n".join(["GET /a HTTP/1.1", *fields]).encode())
            await socket.wait_for(b"\r\n\r\n")
            assert socket.received.startswith(b"HTTP/1.1 %d " % status), (host, origin)
