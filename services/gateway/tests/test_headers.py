"""RFC 9110 section 7.6.1, and: nobody outside says who they are in a header field."""

import pytest

from ostiary_gateway.headers import InvalidHost, InvalidResponse, RawHeaders, host, to_client, to_upstream


def forwarded(*headers: tuple[bytes, bytes]) -> dict[bytes, bytes]:
    sent = to_upstream([(b"host", b"api.example"), *headers], client="192.0.2.7", scheme="http", request_id="r1")
    assert len(dict(sent)) == len(sent)
    return dict(sent)


GATEWAYS_OWN = {
    b"x-forwarded-for": b"192.0.2.7",
    b"x-forwarded-proto": b"http",
    b"x-forwarded-host": b"api.example",
    b"x-request-id": b"r1",
}


@pytest.mark.parametrize(
    "name",
    [b"authorization", b"accept", b"content-type", b"user-agent", b"if-match", b"x-custom", b"cookie", b"origin"],
)
def test_a_callers_own_fields_pass(name: bytes) -> None:
    assert forwarded((name, b"v")) == {name: b"v", **GATEWAYS_OWN}


@pytest.mark.parametrize(
    "name",
    [
        *(b"x-user-id", b"x_user_id", b"x-user", b"x-user_id", b"x-auth-user", b"x-authenticated-user", b"x-roles"),
        *(b"x-forwarded-for", b"x-forwarded-user", b"forwarded", b"x-real-ip", b"remote-user", b"x-remote-user"),
        *(b"x-client-id", b"x-subject", b"x-scopes", b"x-scope", b"x-groups", b"x-email", b"x-original-url"),
        *(
            b"x-rewrite-url",
            b"x-ostiary-position",
            b"ostiary-position",
            b"Ostiary_Position".lower(),
            b"x_forwarded_for",
            b"x-request-id",
            b"client-cert",
        ),
        *(
            b"x-username",
            b"x-userid",
            b"userid",
            b"remoteuser",
            b"x-authenticateduser",
            b"x-auth0-user",
            b"x-webauth-user",
        ),
        *(
            b"x-ms-client-principal",
            b"x-amzn-oidc-data",
            b"x-consumer-id",
            b"x-jwt-claims",
            b"x-claims",
            b"x-tenant-id",
        ),
        *(b"cf-connecting-ip", b"true-client-ip", b"x-cluster-client-ip", b"ssl-client-verify", b"x-ssl-client-cn"),
        *(b"x-http-method-override", b"x-method-override", b"x-host", b"x-script-name", b"x-accel-redirect", b"proxy"),
        *(b"transfer_encoding", b"content_length", b"authorization_", b"x.forwarded.for", b"x~a"),
    ],
)
def test_who_somebody_is_does_not_come_from_outside(name: bytes) -> None:
    assert forwarded((name, b"admin")) == GATEWAYS_OWN


@pytest.mark.parametrize(
    "name",
    [
        b"connection",
        b"keep-alive",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"proxy-authorization",
        b"expect",
    ],
)
def test_what_is_between_neighbours_stays_there(name: bytes) -> None:
    assert forwarded((name, b"v")) == GATEWAYS_OWN


def test_what_connection_names_is_dropped() -> None:
    assert forwarded((b"connection", b"close, X-Custom"), (b"x-custom", b"v"), (b"accept", b"*/*")) == {
        b"accept": b"*/*",
        **GATEWAYS_OWN,
    }


@pytest.mark.parametrize("name", [b"authorization", b"cookie", b"content-type", b"if-match", b"range"])
def test_connection_cannot_drop_what_was_decided_on(name: bytes) -> None:
    assert forwarded((b"connection", b"close, " + name.title()), (name, b"v")) == {name: b"v", **GATEWAYS_OWN}


def test_white_space_around_a_value_is_none_of_it() -> None:
    assert forwarded((b"accept", b" */* \t")) == {b"accept": b"*/*", **GATEWAYS_OWN}


def test_connection_cannot_drop_what_the_gateway_says() -> None:
    assert forwarded((b"connection", b"x-forwarded-for, x-request-id")) == GATEWAYS_OWN


@pytest.mark.parametrize("value", [b"api.example", b"api.example:8080", b"[::1]:8080", b"127.0.0.1"])
def test_one_host_is_a_host(value: bytes) -> None:
    assert host([(b"host", value)]) == value


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [(b"host", b"a"), (b"host", b"b")],
        [(b"host", b"")],
        [(b"host", b"a b")],
        [(b"host", b"a/b")],
        [(b"host", b"u@a")],
        [(b"host", b"a,b")],
        [(b"host", b"a\r\nx: y")],
    ],
)
def test_anything_else_is_none(headers: RawHeaders) -> None:
    with pytest.raises(InvalidHost):
        host(headers)


def test_a_response_passes_without_what_is_the_gateways_own() -> None:
    headers = [
        (b"Content-Type", b"text/plain"),
        (b"Set-Cookie", b"a=1"),
        (b"Set-Cookie", b"b=2"),
        (b"Server", b"secret/1.0"),
        (b"Date", b"yesterday"),
        (b"Connection", b"close, x-internal"),
        (b"X-Internal", b"v"),
    ]
    assert to_client(200, headers) == [
        (b"content-type", b"text/plain"),
        (b"set-cookie", b"a=1"),
        (b"set-cookie", b"b=2"),
    ]


@pytest.mark.parametrize("status", [204, 304])
def test_a_response_without_a_body_has_no_length(status: int) -> None:
    assert to_client(status, [(b"Content-Length", b"5"), (b"ETag", b'"1"')]) == [(b"etag", b'"1"')]


def test_chunks_say_the_length_if_there_are_both() -> None:
    assert to_client(200, [(b"Content-Length", b"5"), (b"Transfer-Encoding", b"chunked")]) == []


@pytest.mark.parametrize("value", [b"a\x00", b"a\rb", b"a\nset-cookie: evil=1", b"\x1b[31m", b"\x7f"])
def test_a_control_character_is_not_passed_on(value: bytes) -> None:
    with pytest.raises(InvalidResponse):
        to_client(200, [(b"x", value)])


@pytest.mark.parametrize("status", [100, 199, 600, 999])
def test_a_status_that_is_none_is_not_passed_on(status: int) -> None:
    with pytest.raises(InvalidResponse):
        to_client(status, [])
