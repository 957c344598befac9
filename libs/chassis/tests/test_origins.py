"""Origins: which ones a rule allows, and how the routes file spells them."""

import re

import pytest

from ostiary_chassis.origins import SCHEMA_PATTERN, OriginMatcher, check_origin, names_somebody

VALID = [
    "https://app.example.com",
    "https://app.example.com:8443",
    "http://localhost:5173",
    "http://localhost:*",
    "http://127.0.0.1:3000",
    "http://[::1]:3000",
    "http://[::1]",
    "http://my_app:3000",
    "http://tauri.localhost",
    "https://*.example.com",
    "https://*.example.com:8443",
    "http://*.localhost:*",
    "https://xn--bcher-kva.example",
    "capacitor://localhost",
    "ionic://localhost",
    "tauri://localhost",
    "app://obsidian.md",
    "app://.",
    "chrome-extension://cjpalhdlnbpafiamejdnhcphjbkeiagm",
    "moz-extension://3c078156-979c-498b-8990-85f7987dd929",
    "moz-extension://*",
    "vscode-webview://*",
    "vscode-webview://0bq4m5hvq9t0cl2l2aqnr0c8gkm6s4ndl5t3",
    "file://",
    "null",
    "*",
]


@pytest.mark.parametrize("origin", VALID)
def test_valid_origins(origin: str) -> None:
    assert check_origin(origin) == origin
    assert re.search(SCHEMA_PATTERN, origin)


@pytest.mark.parametrize(
    ("origin", "message"),
    [
        ("", "must be an origin with its scheme"),
        ("shop.example", "must be an origin with its scheme"),
        ("localhost:3000", "must be an origin with its scheme"),
        ("//shop.example", "must be an origin with its scheme"),
        ("*.shop.example", "must be an origin with its scheme"),
        ("https://shop.example/", "must be without a trailing slash: https://shop.example"),
        ("https://Shop.example/", "must be without a trailing slash: https://shop.example"),
        ("https://shop.example/cart", "must be without a path: https://shop.example"),
        ("https://shop.example?a", "must be without a path: https://shop.example"),
        ("https://me@shop.example", "must be without a user name"),
        ("https://Shop.example", "must be in lower case: https://shop.example"),
        ("HTTPS://shop.example", "must be in lower case: https://shop.example"),
        ("https://bücher.example", "must have the host in ASCII: https://xn--bcher-kva.example"),
        ("https://*.straße.example", "must have the host in ASCII: https://*.xn--strae-oqa.example"),
        ("https://\u2028.example", "must have the host in ASCII"),
        ("https://shop.example:443", "must be without the scheme's own port, as browsers send it: https://shop.exam"),
        ("http://localhost:80", "must be without the scheme's own port"),
        ("https://shop.example:0", "must have a port from 1 to 65535"),
        ("https://shop.example:65536", "must have a port from 1 to 65535"),
        ("https://shop.example:", "must have a port from 1 to 65535"),
        ("https://*", "must have a host name or an address"),
        ("https://*example.com", "must have a host name or an address"),
        ("https://a.*.example.com", "must have a host name or an address"),
        ("https://shop.*", "must have a host name or an address"),
        ("https://shop..example", "must have a host name or an address"),
        ("https://shop.example.", "must have a host name or an address"),
        ("https://[::0:1]", "must have a host name or an address"),
        ("https://", "must have a host name or an address"),
        ("capacitor://", "must have a host after 'capacitor://', or '*' for any"),
        ("wss://shop.example", "must have the page's scheme, not that of its WebSocket: https://shop.example"),
        ("https://shop.example\n", "must "),
        ("https://shop.example https://b.example", "must "),
    ],
)
def test_an_error_says_how_to_spell_an_origin(origin: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        check_origin(origin)


@pytest.mark.parametrize(
    ("pattern", "origin"),
    [
        ("https://*.example.com", "https://a.example.com"),
        ("https://*.example.com", "https://a.b-c.example.com"),
        ("https://*.example.com:8443", "https://a.example.com:8443"),
        ("http://localhost:*", "http://localhost"),
        ("http://localhost:*", "http://localhost:5173"),
        ("http://*.localhost:*", "http://a.localhost:5173"),
        ("moz-extension://*", "moz-extension://3c078156-979c-498b-8990-85f7987dd929"),
        ("https://shop.example", "https://shop.example"),
        ("null", "null"),
        ("file://", "file://"),
    ],
)
def test_an_origin_matches(pattern: str, origin: str) -> None:
    assert OriginMatcher([check_origin(pattern), "https://other.example"]).matches(origin)


@pytest.mark.parametrize(
    ("pattern", "origin"),
    [
        ("https://*.example.com", "https://example.com"),
        ("https://*.example.com", "https://evilexample.com"),
        ("https://*.example.com", "https://.example.com"),
        ("https://*.example.com", "https://a..example.com"),
        ("https://*.example.com", "http://a.example.com"),
        ("https://*.example.com", "https://a.example.com:8443"),
        ("https://*.example.com", "https://a.example.com.evil.example"),
        ("https://*.example.com", "https://a.examplexcom"),
        ("https://*.example.com", "https://evil.example/.example.com"),
        ("https://*.example.com", "https://evil.example?.example.com"),
        ("https://*.example.com", "https://me@a.example.com"),
        ("https://*.example.com", "https://a.example.com\n"),
        ("https://*.example.com:8443", "https://a.example.com"),
        ("http://localhost:*", "http://localhost.evil.example"),
        ("http://localhost:*", "http://localhost:"),
        ("http://localhost:*", "http://localhost:80@evil.example"),
        ("http://localhost:*", "https://localhost:80"),
        ("moz-extension://*", "moz-extension://"),
        ("moz-extension://*", "chrome-extension://a"),
        ("moz-extension://*", "moz-extension://a, https://evil.example"),
        ("https://shop.example", "https://shop.example:8443"),
        ("*", "https://evil.example"),
        ("null", ""),
    ],
)
def test_an_origin_does_not_match(pattern: str, origin: str) -> None:
    assert not OriginMatcher([check_origin(pattern)]).matches(origin)


def test_pages_of_anybody_have_some_origins() -> None:
    assert [each for each in VALID if not names_somebody(each)] == [
        "moz-extension://*",
        "vscode-webview://*",
        "file://",
        "null",
        "*",
    ]
