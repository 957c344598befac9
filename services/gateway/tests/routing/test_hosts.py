"""Hosts: one spelling of each, and which of them are the gateway's."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from route_files import errors_of

from ostiary_chassis.settings import ConfigError
from ostiary_gateway.routing.config import Upstream
from ostiary_gateway.routing.hosts import InvalidHost, KnownHosts, UnknownHost, parse_authority
from ostiary_gateway.routing.loader import load_file

HOSTS = KnownHosts("https://login.example.com", ["api.example.com", "*.shop.example", "my_shop"], ["gateway", "*.svc"])


@pytest.mark.parametrize(
    ("value", "name", "port"),
    [
        (b"Example.COM", "example.com", None),
        (b"example.com.", "example.com", None),
        (b"example.com.:080", "example.com", 80),
        (b"my_service:8000", "my_service", 8000),
        (b"_x.a-b.c", "_x.a-b.c", None),
        (b"127.0.0.1:65535", "127.0.0.1", 65535),
        (b"[::1]:8080", "[::1]", 8080),
        (b"[2001:DB8:0:0::1]", "[2001:db8::1]", None),
        ("bücher.example".encode(), "xn--bcher-kva.example", None),
        ("BÜCHER.example:8080".encode(), "xn--bcher-kva.example", 8080),
        (b"XN--Bcher-KVA.example", "xn--bcher-kva.example", None),
        ("gw\u3002example".encode(), "gw.example", None),
        (b"a" * 63 + b".b", "a" * 63 + ".b", None),
    ],
)
def test_a_host_has_one_spelling(value: bytes, name: str, port: int | None) -> None:
    assert parse_authority(value) == (name, port)


@pytest.mark.parametrize(
    "value",
    [
        *(
            b"",
            b".",
            b"..",
            b"a..b",
            b".a",
            b"a b",
            b" a",
            b"a\t",
            b"a/b",
            b"a?b",
            b"a#b",
            b"u@a",
            b"u:p@a",
            b"a,b",
            b"a;b",
        ),
        *(b"a\r\nx: y", b"a\n", b"a\x00", b"a\\b", b"a%2eb", b"%61", b"a:", b"a:b", b"a:-1", b"a:0", b"a:65536"),
        *(
            b"a:123456",
            b"a:80:80",
            b"[::1",
            b"::1",
            b"[::1]x",
            b"[g::]",
            b"[::1%25eth0]",
            b"[v1.x]",
            b"[1.2.3.4]",
            b"*.a",
        ),
        *(
            b"a" * 64,
            b"a." * 127 + b"a",
            b"\xff",
            b"\xc3",
            "\u00e9\u0301\u200b/x".encode(),
            "a\u2215b".encode(),
            "my_b\u00fccher".encode(),
        ),
    ],
)
def test_what_is_no_host_is_refused(value: bytes) -> None:
    with pytest.raises(InvalidHost):
        parse_authority(value)


@given(st.binary(max_size=40) | st.text("aB.-_:[]1\u00fc\u3002", max_size=20).map(str.encode))
def test_a_normalised_host_stays_as_it_is(value: bytes) -> None:
    try:
        name, port = parse_authority(value)
    except InvalidHost:
        return
    assert name.isascii()
    assert parse_authority(name.encode() if port is None else f"{name}:{port}".encode()) == (name, port)


@pytest.mark.parametrize(
    ("value", "scheme", "host", "own_origin"),
    [
        # The issuer's and routes' hosts are public: clients use the issuer's scheme.
        (b"login.example.com", b"https", b"login.example.com", b"https://login.example.com"),
        (b"LOGIN.example.com.:443", b"https", b"login.example.com", b"https://login.example.com"),
        (b"login.example.com:8443", b"https", b"login.example.com:8443", b"https://login.example.com:8443"),
        (b"login.example.com:80", b"https", b"login.example.com:80", b"https://login.example.com:80"),
        (b"api.example.com", b"https", b"api.example.com", b"https://api.example.com"),
        (b"a.b.shop.example", b"https", b"a.b.shop.example", b"https://a.b.shop.example"),
        (b"my_shop", b"https", b"my_shop", b"https://my_shop"),
        # On loopback there is no TLS; an internal name stands for the issuer's.
        (b"localhost:8080", b"http", b"localhost:8080", b"https://localhost:8080"),
        (b"app.localhost", b"http", b"app.localhost", b"https://app.localhost"),
        (b"127.0.0.1:80", b"http", b"127.0.0.1", b"https://127.0.0.1:80"),
        (b"127.8.9.1", b"http", b"127.8.9.1", b"https://127.8.9.1"),
        (b"[::1]:8080", b"http", b"[::1]:8080", b"https://[::1]:8080"),
        (b"gateway:8080", b"http", b"gateway:8080", b"https://login.example.com"),
        (b"gateway.apps.svc", b"http", b"gateway.apps.svc", b"https://login.example.com"),
    ],
)
def test_configured_hosts_are_known_whatever_the_port(
    value: bytes, scheme: bytes, host: bytes, own_origin: bytes
) -> None:
    for _ in range(2):
        found = HOSTS.find(value)
        assert (found.scheme, found.authority(found.scheme), found.own_origin) == (scheme, host, own_origin)


@pytest.mark.parametrize(
    "value",
    [
        *(b"example.com", b"evil.example", b"xlogin.example.com", b"login.example.com.evil.example", b"shop.example"),
        *(b"xshop.example", b"svc", b"gateway.example.com", b"notlocalhost", b"localhost.evil.example", b"128.0.0.1"),
        *(
            b"0.0.0.0",
            b"10.0.0.1",
            b"127.0.0.1.evil.example",
            b"127.1",
            b"2130706433",
            b"0x7f.0.0.1",
            b"[::]",
            b"[::2]",
        ),
    ],
)
def test_other_hosts_are_unknown(value: bytes) -> None:
    with pytest.raises(UnknownHost):
        HOSTS.find(value)


def test_the_issuers_port_is_not_compared() -> None:
    hosts = KnownHosts("http://Gw.Example:8080", [], [])
    assert hosts.issuer_host == b"gw.example:8080"
    assert hosts.find(b"gw.example:9999").own_origin == b"http://gw.example:9999"


@pytest.mark.parametrize("host", ["api_v2.example", "my_service", "[2001:db8::1]", "10.0.0.1", "*.my_zone"])
def test_hosts_of_routes_may_be_those_of_container_networks(host: str) -> None:
    hosts = KnownHosts("http://gw", [host], [])
    name = host.replace("*", "x").encode()
    assert hosts.find(name).authority(b"http") == name


@pytest.mark.parametrize(
    ("host", "message"),
    [
        ("Example.com", "must be a host name in lower case, without port"),
        ("example.com:80", "must be a host name in lower case, without port"),
        ("bücher.example", "must be in ASCII: xn--bcher-kva.example"),
        ("a" * 64, "must be a host name"),
        ("[::1::2]", "must be an IPv6 address in brackets"),
    ],
)
def test_an_error_says_how_to_write_a_host(tmp_path: Path, host: str, message: str) -> None:
    match = f'{{path: /a, methods: [GET], hosts: ["{host}"]}}'
    errors = errors_of(tmp_path, f"name: a, match: {match}, upstream: up, access: public")
    assert f"gateway.yaml:4: routes[0].match.hosts[0]: {message}" in errors


@pytest.mark.parametrize("host", ["client", "upstream", "shop.example", "my_shop:8000", "[::1]:8000"])
def test_an_upstream_gets_the_clients_host_its_own_or_a_name(host: str) -> None:
    assert Upstream(url="http://a:1", host=host).host == host


@pytest.mark.parametrize("host", ["", "Shop.example", "a b", "u@a", "http://a", "a/b", "a:0", "a:99999", "*.a", "a\n"])
def test_an_upstreams_host_must_be_one(host: str) -> None:
    with pytest.raises(ValueError, match="host"):
        Upstream(url="http://a:1", host=host)


@pytest.mark.parametrize(
    ("url", "fault"),
    [
        ("http://orders:8000/api", "remove the path"),
        ("orders:8000", "http:// is missing at the start"),
        ("http://orders:80000", "the port must be a number from 1 to 65535"),
        ("http://u:letmein@orders", "remove user and password"),
        ("HTTP://orders", "write the scheme in lower case"),
    ],
)
def test_an_error_says_what_is_wrong_with_an_upstreams_url(tmp_path: Path, url: str, fault: str) -> None:
    file = tmp_path / "gateway.yaml"
    route = "{name: a_b, match: {path: /a, methods: [GET]}, upstream: my_service, access: public}"
    good = f'upstreams:\n  my_service: {{url: "http://my_service:8000"}}\nroutes: [{route}]\n'
    file.write_text(good)
    assert list(load_file(file, {}).upstreams) == ["my_service"]
    file.write_text(good.replace("http://my_service:8000", url))
    with pytest.raises(ConfigError, match=r"gateway\.yaml:2: upstreams\.my_service\.url: must be http://") as caught:
        load_file(file, {})
    assert str(caught.value).endswith(f"; {fault}")
    assert "letmein" not in str(caught.value)
