"""RFC 9110 section 7.6.1, and fields that upstreams trust, which clients must not set."""

import pytest
from harness import GatewayHarness, RecordingUpstream

from ostiary_gateway.http1.headers import is_host, to_client, to_upstream, trailers_to_client, trailers_to_upstream

ROUTES = """\
upstreams:
  up: {url: "${UPSTREAM}"}
routes:
  - {name: any, match: {path: /any, methods: [GET]}, upstream: up, access: public}
"""

GATEWAYS_OWN = {"x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-request-id"}


def forwarded(*fields: tuple[bytes, bytes], options: frozenset[bytes] = frozenset()) -> bytes:
    return to_upstream([(b"host", b"api.example"), *fields], options)


def lines(*fields: tuple[bytes, bytes]) -> bytes:
    return b"".join(b"%b: %b\r\n" % field for field in fields)


ORDINARY = """
authorization cookie origin referer user-agent from date via prefer dpop priority dnt save-data
accept accept-language accept-encoding accept-datetime cache-control pragma range if-range if-match if-none-match
content-type content-encoding content-language digest signature signature-input idempotency-key last-event-id
sec-fetch-user sec-fetch-mode sec-websocket-key sec-ch-ua-mobile upgrade-insecure-requests
traceparent tracestate baggage b3 x-b3-traceid x-amzn-trace-id x-cloud-trace-context x-datadog-trace-id
x-requested-with x-csrf-token x-xsrf-token x-api-key x-goog-api-key x-api-version x-correlation-id x-client-version
x-user-agent x-amz-user-agent x-amz-date x-amz-content-sha256 x-github-event x-hub-signature-256 x-gitlab-token
x-slack-signature x-session-id x-app-version x-device-id x-timezone x-upload-content-type x-stainless-lang
x-version x-beta x-cart x-custom x-checksum x-description x-recipe x-organic x-ship-to x-vault-token
depth destination overwrite
"""


@pytest.mark.parametrize("name", [name.encode() for name in ORDINARY.split()])
def test_ordinary_fields_are_forwarded(name: bytes) -> None:
    assert forwarded((name, b"v")) == lines((name, b"v"))


def test_repeated_fields_stay_separate_and_in_order() -> None:
    several = [(b"x-b", b"1"), (b"accept", b"a"), (b"x-b", b"2"), (b"accept", b"b")]
    assert forwarded(*several) == lines(*several)


TRUSTED_BY_UPSTREAMS = [
    *(b"x-user-id", b"x_user_id", b"x-user", b"x-user_id", b"x-auth-user", b"x-authenticated-user", b"x-roles"),
    *(b"x-forwarded-for", b"x-forwarded-user", b"forwarded", b"x-real-ip", b"remote-user", b"x-remote-user"),
    *(b"x-client-id", b"x-subject", b"x-scopes", b"x-scope", b"x-groups", b"x-email", b"x-original-url"),
    *(b"x-rewrite-url", b"x-ostiary-position", b"ostiary-position", b"ostiary_position", b"x_forwarded_for"),
    *(b"x-request-id", b"client-cert", b"x-forwarded-proto", b"x-forwarded-host"),
    *(b"x-username", b"x-userid", b"userid", b"remoteuser", b"x-authenticateduser", b"x-auth0-user", b"x-webauth-user"),
    *(b"x-ms-client-principal", b"x-amzn-oidc-data", b"x-consumer-id", b"x-jwt-claims", b"x-claims", b"x-tenant-id"),
    *(b"cf-connecting-ip", b"true-client-ip", b"x-cluster-client-ip", b"ssl-client-verify", b"x-ssl-client-cn"),
    *(b"x-http-method-override", b"x-method-override", b"x-host", b"x-script-name", b"x-accel-redirect", b"proxy"),
    *(b"transfer_encoding", b"content_length", b"authorization_", b"x.forwarded.for", b"x~a"),
    # Identities, with any prefix.
    *(b"x-current-user", b"x-login", b"x-login-user", b"x-effective-user", b"x-proxy-user", b"x-api-user"),
    *(b"x-sso-user", b"x-vouch-user", b"x-grafana-user", b"x-pomerium-claim-email", b"x-goog-iap-jwt-assertion"),
    *(b"x-saml-email", b"x-appengine-user-email", b"x-endpoint-api-userinfo", b"x-preferred-username", b"x-my-uid"),
    *(b"x-authenticated-userid", b"shib-identity", b"eppn", b"x-org-id", b"x-customer-id", b"x-member-id"),
    *(b"x-on-behalf-of", b"x-run-as", b"act-as", b"x-act-as", b"x-impersonate", b"impersonate-user", b"x-caller-id"),
    # Permissions.
    *(b"x-oauth-scopes", b"x-id-token", b"x-token-claims", b"x-is-admin", b"x-privilege", b"x-security-roles"),
    *(b"x-hasura-role", b"x-internal", b"x-is-internal", b"x-my-permissions", b"x-ad-groups"),
    # Addresses and protocols.
    *(b"x-originating-ip", b"x-realip", b"x-azure-clientip", b"x-remote-ip", b"x-ip", b"client-ip", b"clientip"),
    *(b"x-scheme", b"x-url-scheme", b"front-end-https", b"x-arr-ssl", b"x-arr-clientcert", b"x-tls-client-cert"),
    *(b"x-cert-subject", b"x-client-dn"),
]


@pytest.mark.parametrize("name", TRUSTED_BY_UPSTREAMS)
def test_fields_that_upstreams_trust_are_dropped(name: bytes) -> None:
    assert forwarded((name, b"admin")) == b""
    assert trailers_to_upstream([(name, b"admin")]) == b""


@pytest.mark.parametrize(
    "name",
    [
        *(b"connection", b"keep-alive", b"te", b"trailer", b"transfer-encoding", b"upgrade", b"proxy-authorization"),
        *(b"proxy-connection", b"expect", b"content-length"),
    ],
)
def test_hop_by_hop_fields_are_dropped(name: bytes) -> None:
    assert forwarded((name, b"v")) == b""
    assert trailers_to_upstream([(name, b"v")]) == b""


def test_fields_nominated_by_connection_are_dropped() -> None:
    fields = [(b"connection", b"close, X-Custom"), (b"x-custom", b"v"), (b"accept", b"*/*")]
    assert forwarded(*fields, options=frozenset({b"close", b"x-custom"})) == lines((b"accept", b"*/*"))


@pytest.mark.parametrize(
    "name", [b"authorization", b"cookie", b"content-type", b"if-match", b"range", b"origin", b"sec-fetch-site"]
)
def test_connection_cannot_drop_fields_that_admission_uses(name: bytes) -> None:
    assert forwarded((name, b"v"), options=frozenset({b"close", name})) == lines((name, b"v"))


@pytest.mark.parametrize("value", [b"api.example", b"api.example:8080", b"[::1]:8080", b"127.0.0.1"])
def test_valid_hosts_are_accepted(value: bytes) -> None:
    assert is_host(value)


@pytest.mark.parametrize("value", [b"", b"a b", b"a/b", b"u@a", b"a,b", b"a\r\nx: y", b"a\n"])
def test_invalid_hosts_are_rejected(value: bytes) -> None:
    assert not is_host(value)


def test_response_fields_that_the_gateway_sets_are_dropped() -> None:
    fields = [
        (b"content-type", b"text/plain"),
        (b"set-cookie", b"a=1"),
        (b"set-cookie", b"b=2"),
        (b"server", b"secret/1.0"),
        (b"connection", b"close, x-internal"),
        (b"x-internal", b"v"),
        (b"x-request-id", b"another"),
        (b"content-length", b"5"),
        (b"transfer-encoding", b"chunked"),
    ]
    assert to_client(fields, frozenset({b"close", b"x-internal"})) == lines(
        (b"content-type", b"text/plain"),
        (b"set-cookie", b"a=1"),
        (b"set-cookie", b"b=2"),
    )


@pytest.mark.parametrize(
    "name", [b"authorization", b"content-type", b"content-length", b"if-match", b"range", b"transfer-encoding", b"host"]
)
def test_fields_that_admission_uses_are_dropped_from_trailers(name: bytes) -> None:
    assert trailers_to_upstream([(name, b"v"), (b"x-checksum", b"1")]) == lines((b"x-checksum", b"1"))


@pytest.mark.parametrize("name", [b"origin", b"sec-fetch-site", b"referer", b"dpop", b"accept", b"x-version"])
def test_fields_that_routing_or_services_use_are_dropped_from_request_trailers(name: bytes) -> None:
    trailers = [(name, b"v"), (b"x-checksum", b"1")]
    assert trailers_to_upstream(trailers, {b"x-version"}) == lines((b"x-checksum", b"1"))


@pytest.mark.parametrize(
    "name",
    [
        *(b"set-cookie", b"access-control-allow-origin", b"access-control-allow-credentials", b"location", b"vary"),
        *(b"content-security-policy", b"strict-transport-security", b"clear-site-data", b"www-authenticate", b"age"),
        *(b"cross-origin-opener-policy", b"x-frame-options", b"cache-control", b"expires", b"refresh", b"date"),
    ],
)
def test_fields_that_clients_act_on_are_dropped_from_response_trailers(name: bytes) -> None:
    trailers = [(name, b"v"), (b"etag", b"1"), (b"server-timing", b"t"), (b"grpc-status", b"0")]
    assert trailers_to_client(trailers) == lines(*trailers[1:])


def test_response_trailers_that_the_gateway_sets_are_dropped() -> None:
    trailers = [(b"x-checksum", b"1"), (b"server", b"s"), (b"content-length", b"5")]
    assert trailers_to_client(trailers) == lines((b"x-checksum", b"1"))


async def test_the_upstream_learns_the_clients_address_and_the_original_host(
    harness: GatewayHarness, upstream: RecordingUpstream
) -> None:
    response = await harness.request("/any", "X-Request-ID: r1", "Accept: */*")
    assert response.status == 200
    assert sorted(upstream.last.fields) == [
        ("accept", "*/*"),
        ("host", "localhost"),
        ("x-forwarded-for", "unknown"),
        ("x-forwarded-host", "gw"),
        ("x-forwarded-proto", "http"),
        ("x-request-id", "r1"),
    ]


async def test_forged_identity_fields_do_not_reach_the_upstream(
    harness: GatewayHarness, upstream: RecordingUpstream
) -> None:
    forged = [f"{name.decode()}: admin" for name in TRUSTED_BY_UPSTREAMS if name != b"x-request-id"]
    assert (await harness.request("/any", *forged)).status == 200
    names = [name for name, _ in upstream.last.fields]
    assert sorted(names) == sorted({"host", *GATEWAYS_OWN})
    assert "admin" not in [value for _, value in upstream.last.fields]


async def test_connection_cannot_drop_the_gateways_fields(harness: GatewayHarness, upstream: RecordingUpstream) -> None:
    for options in ("x-forwarded-for, x-request-id", "host", "X-Forwarded-Host,x-forwarded-proto"):
        assert (await harness.request("/any", f"Connection: {options}")).status == 200
        assert sorted(name for name, _ in upstream.last.fields) == sorted({"host", *GATEWAYS_OWN})


async def test_fields_about_the_clients_connection_are_dropped(
    harness: GatewayHarness, upstream: RecordingUpstream
) -> None:
    await harness.request(
        "/any", "Connection: X-Custom", "Connection: te, authorization", "X-Custom: v", "Authorization: a"
    )
    assert upstream.last.values("x-custom") == []
    assert upstream.last.values("connection") == []
    assert upstream.last.values("authorization") == ["a"]


async def test_whitespace_around_a_value_is_not_forwarded(harness: GatewayHarness, upstream: RecordingUpstream) -> None:
    await harness.request("/any", "Accept: \t */* \t")
    assert b"\r\naccept: */*\r\n" in upstream.last.head


@pytest.mark.parametrize("value", ["a b", "x" * 65, "\xe9", "", "a;b", "${x}"])
async def test_malformed_request_ids_are_replaced(
    harness: GatewayHarness, upstream: RecordingUpstream, value: str
) -> None:
    response = await harness.request("/any", f"X-Request-ID: {value}")
    (responses,) = upstream.last.values("x-request-id")
    assert response.values("x-request-id") == [responses]
    assert responses != value
    assert len(responses) == 32


@pytest.mark.parametrize(
    "hosts", [[], ["Host: a", "Host: b"], ["Host:"], ["Host: a b"], ["Host: a/b"], ["Host: u@a"], ["Host: a,b"]]
)
async def test_requests_without_exactly_one_valid_host_are_rejected(
    harness: GatewayHarness, upstream: RecordingUpstream, hosts: list[str]
) -> None:
    data = await harness.send_raw("\r\n".join(["GET /any HTTP/1.1", "Connection: close", *hosts, "", ""]).encode())
    assert data.startswith(b"HTTP/1.1 400 ")
    assert upstream.requests == []


@pytest.mark.parametrize("value", [b"a\x00", b"a\rb", b"a\nset-cookie: evil=1", b"\x1b[31m", b"\x7f"])
async def test_responses_with_control_characters_are_not_forwarded(
    harness: GatewayHarness, upstream: RecordingUpstream, value: bytes
) -> None:
    upstream.response = b"HTTP/1.1 200 OK\r\nX: %b\r\nContent-Length: 0\r\n\r\n" % value
    response = await harness.request("/any")
    if b"\nset-cookie" in value:
        # A lenient parser would take it for the end of the line.
        assert response.values("set-cookie") == []
    assert (response.status, response.code) == (502, "upstream_failed")


@pytest.mark.parametrize("status", [b"099", b"600", b"999", b"20", b"2000", b"abc"])
async def test_responses_with_an_invalid_status_are_not_forwarded(
    harness: GatewayHarness, upstream: RecordingUpstream, status: bytes
) -> None:
    upstream.response = b"HTTP/1.1 %b What\r\nContent-Length: 0\r\n\r\n" % status
    response = await harness.request("/any")
    assert (response.status, response.code) == (502, "upstream_failed")


async def test_chunked_overrides_the_length_of_a_response(harness: GatewayHarness, upstream: RecordingUpstream) -> None:
    upstream.response = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n"
    for _ in range(2):
        response = await harness.request("/any")
        assert (response.body, response.is_complete) == (b"a", True)
        assert response.values("content-length") == []
    assert len(upstream.connections) == 2, "such an upstream's connection is not used again"
