"""URLs in settings: what is wrong with one has a sentence of its own."""

import pytest
from pydantic import TypeAdapter, ValidationError

from ostiary_chassis.urls import BaseUrl, UrlKind

BASE: TypeAdapter[str] = TypeAdapter(BaseUrl)


@pytest.mark.parametrize(
    "url",
    [
        *("http://localhost:8080", "https://login.example.com", "http://my_service:8000", "http://_x.a-b.C:1"),
        *("http://127.0.0.1", "http://[::1]:8080", "https://[2001:db8::1]", "http://x:65535", "http://" + "a" * 63),
    ],
)
def test_an_address_is_a_scheme_and_a_host(url: str) -> None:
    assert BASE.validate_python(url) == url


@pytest.mark.parametrize(
    ("url", "fault"),
    [
        ("", "http:// is missing at the start"),
        ("localhost", "http:// is missing at the start"),
        ("localhost:8080", "http:// is missing at the start"),
        ("//host", "http:// is missing at the start"),
        ("http:/host", "http:// is missing at the start"),
        ("ftp://host", "this scheme is not supported"),
        ("HTTPS://host", "write the scheme in lower case"),
        ("http://", "the host is missing"),
        ("http://:80", "the host is missing"),
        ("http:///x", "remove the path"),
        ("http://host/", "remove the slash at the end"),
        ("http://host:80/api", "remove the path"),
        ("http://host?q", "remove the query"),
        ("http://host#x", "remove the fragment"),
        ("http://u:p@host", "remove user and password"),
        ("http://u@host/x", "remove user and password"),
        ("http://host:", "the port must be a number from 1 to 65535"),
        ("http://host:http", "the port must be a number from 1 to 65535"),
        ("http://host:0", "the port must be a number from 1 to 65535"),
        ("http://host:65536", "the port must be a number from 1 to 65535"),
        ("http://host:-1", "the port must be a number from 1 to 65535"),
        ("http://[::1]:x", "the port must be a number from 1 to 65535"),
        ("http://host:80:80", "write one colon and a port"),
        ("http://::1", "put the IPv6 address in brackets"),
        ("http://2001:db8::1", "put the IPv6 address in brackets"),
        ("http://[::1::2]", "what is in brackets is no IPv6 address"),
        ("http://[1.2.3.4]", "what is in brackets is no IPv6 address"),
        ("http://[]", "what is in brackets is no IPv6 address"),
        ("http://[fe80::1%eth0]", "remove the zone of the IPv6 address"),
        ("http://b\u00fccher.example", "write the host in ASCII, as clients send it (xn--...)"),
        ("http://host.:80", "remove the dot at the end of the host"),
        *((f"http://{host}", "a host has letters, digits") for host in ("a..b", "-a", "a-", "*.a", "a,b", "a" * 64)),
        ("http://a\\b", "a host has letters, digits"),
        ("http://ho st", "remove spaces and characters that cannot be seen"),
        (" http://host", "remove spaces and characters that cannot be seen"),
        ("http://host\n", "remove spaces and characters that cannot be seen"),
        ("http://host\u200b", "remove spaces and characters that cannot be seen"),
    ],
)
def test_each_fault_has_a_sentence_of_its_own(url: str, fault: str) -> None:
    with pytest.raises(ValidationError) as caught:
        BASE.validate_python(url)
    (error,) = caught.value.errors()
    shape = "Value error, must be http:// or https:// and a host without a path, such as http://localhost:8080; "
    assert error["msg"].startswith(shape + fault)


def test_other_kinds_have_other_schemes_and_parts() -> None:
    kind = UrlKind(("redis",), "a Redis", {"user", "path", "query"})
    assert kind.check("redis://u:p@redis:1/0?a=b") == "redis://u:p@redis:1/0?a=b"
    with pytest.raises(ValueError, match="must be a Redis; redis:// is missing at the start"):
        kind.check("redis:6379")
