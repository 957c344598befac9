"""RFC 9110 section 7.6.1, and fields that upstreams trust, which clients must not set."""

import time
from pathlib import Path

import pytest
from harness import GatewayHarness, RecordingUpstream
from harness.messages import request
from route_files import errors_of, open_gateway

from ostiary.testing import Issuer
from ostiary_gateway.http1.fields import Fields
from ostiary_gateway.http1.headers import request_filter, to_client, trailers_to_client

ROUTES = """\
upstreams:
  up: {url: "${UPSTREAM}"}
routes:
  - {name: any, match: {path: /any, methods: [GET]}, upstream: up, access: public}
"""

GATEWAYS_OWN = {"x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "forwarded", "via", "x-request-id"}


def forwarded(*fields: tuple[bytes, bytes], options: frozenset[bytes] = frozenset()) -> bytes:
    return request_filter().serialize([(b"host", b"api.example"), *fields], options)


def trailers_to_upstream(trailers: Fields, routing_headers: frozenset[bytes] = frozenset()) -> bytes:
    return request_filter(routing_headers=routing_headers).trailers(trailers)


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
subscription-key ocp-apim-subscription-key x-smoke-test submission-id x-authored-by x-scope-orgid x-auth-token
x-tenant-id x-registry-auth api_key api-key x_api_key access_token x-subject-token x-auth-key x-storage-user
x-access-token x-user-token x-client-id client-id x-client-secret x-hasura-admin-secret x-hasura-role x-trino-user
x-clickhouse-user x-sentry-auth x-emby-authorization x-plex-token x-org-id x-organization-id openai-organization
x-customer-id x-account-id x-member-id x-admin-key x-login x-mailer x-memberof x-authority x-authorized-by
x-serverless-authorization cf-ray cf-ipcountry cf-access-client-id cf-access-client-secret x-goog-user-project
x-goog-api-client x-amz-security-token x-amzn-trace-id x-ms-version x-ms-date x-ms-client-request-id x-vercel-id
x-shopify-access-token stripe-account stripe-signature anthropic-version anthropic-beta x-github-delivery x-sub-account
method x-methodology x-hostname x-ip-version x-remoteness x-scheme-id x-original-filename submit subject
x-role-arn x-groupware x-emailed x-users x-user-language x-user-timezone x-sslmode authorization-token tlsh
content_id content_type_id if_match sec_token cache_control
x-internal-id x-tls-version remote-control x-certificate-id x.version x~a thanos-tenant x-cluster-name x-cas
"""


@pytest.mark.parametrize("name", [name.encode() for name in ORDINARY.split()])
def test_ordinary_fields_are_forwarded(name: bytes) -> None:
    assert forwarded((name, b"v")) == lines((name, b"v"))


@pytest.mark.parametrize("name", [b"-" * 30_000, b"x_" * 15_000, b"x-forwarded-" * 2500])
def test_a_long_name_takes_no_longer_than_its_bytes(name: bytes) -> None:
    before = time.process_time()
    forwarded((name, b"1"))
    assert time.process_time() - before < 0.02


def test_repeated_fields_stay_separate_and_in_order() -> None:
    several = [(b"x-b", b"1"), (b"accept", b"a"), (b"x-b", b"2"), (b"accept", b"b")]
    assert forwarded(*several) == lines(*several)


TRUSTED_BY_UPSTREAMS = [
    # What the gateway sets.
    *(
        b"x-forwarded-for",
        b"x-forwarded-host",
        b"x-forwarded-proto",
        b"x-forwarded-prefix",
        b"forwarded",
        b"x-request-id",
    ),
    *(
        b"x_forwarded_for",
        b"x.forwarded.for",
        b"x_request-id",
    ),
    # Identities.
    *(b"x-forwarded-user", b"x-forwarded-email", b"x-forwarded-groups", b"x-forwarded-access-token", b"x-forwarded"),
    *(
        b"x-auth-request-user",
        b"x-auth-request-email",
        b"remote-user",
        b"remote_user",
        b"remote-groups",
        b"remote-email",
    ),
    *(b"x-remote-user", b"x-remote-group", b"x-remote-extra-scopes", b"x-remote-uid", b"impersonate-user"),
    *(b"x-authentik-username", b"x-authentik-meta-app", b"x-auth-user", b"x-auth-user-id", b"x-token-user-email"),
    *(
        b"x-goog-iap-jwt-assertion",
        b"x-goog-authenticated-user-email",
        b"x-endpoint-api-userinfo",
        b"x-appengine-user-id",
    ),
    *(b"x-amzn-oidc-data", b"x-amzn-oidc-identity", b"x-amzn-mtls-clientcert-leaf", b"x-amzn-lattice-identity"),
    *(b"x-ms-client-principal", b"x-ms-client-principal-name", b"x_ms_client_principal_id", b"x-ms-token-aad-id-token"),
    *(
        b"cf-access-jwt-assertion",
        b"cf-access-authenticated-user-email",
        b"tailscale-user-login",
        b"teleport-jwt-assertion",
    ),
    *(b"x-pomerium-claim-email", b"x-pomerium-jwt-assertion", b"x-vouch-user", b"x-vouch-idp-claims-groups"),
    *(b"x-consumer-username", b"x-consumer-id", b"x-credential-identifier", b"x-anonymous-consumer", b"x-userinfo"),
    *(b"x-authenticated-userid", b"x-authenticated-scope", b"x-webauth-user", b"x-webauth-role", b"x-grafana-user"),
    *(
        b"x-user",
        b"x-user-id",
        b"x_user_id",
        b"x-user_id",
        b"x.user.id",
        b"x-user-name",
        b"x-user-email",
        b"x-user-roles",
    ),
    *(b"x-username", b"x-userid", b"x-roles", b"x-groups", b"x-email", b"x-id-token", b"x-identity-status"),
    *(b"x-jwt-claim-sub", b"x-jwt-assertion", b"x-proxy-user", b"x-proxy-roles", b"x-proxy-ext-tenant", b"authuser"),
    *(b"x-auth-couchdb-username", b"x-proxiedentitieschain", b"kubeflow-userid", b"l5d-client-id", b"oidc_claim_sub"),
    *(b"oidc-claim-email", b"cas-user", b"auth-user", b"shib-identity-provider", b"eppn", b"sm_user", b"sm-user"),
    *(
        b"oam-remote-user",
        b"osso-user-dn",
        b"iv-user",
        b"iv_groups",
        b"$wsru",
        b"$wscc",
        b"ynh_user",
        b"x-openwebui-user-role",
    ),
    *(b"remote_user_email", b"x-alfresco-remote-user", b"rstudio-connect-credentials", b"sf-context-current-user"),
    *(b"x-replit-user-id", b"x-sandstorm-user-id", b"x-agw-userid", b"dapr-caller-app-id"),
    *(b"ms-aspnetcore-winauthtoken", b"x-iisnode-auth_user", b"x-ms-adfs-proxy-client-ip"),
    # Certificates.
    *(b"client-cert", b"client-cert-chain", b"x-forwarded-client-cert", b"x-client-cert", b"ssl-client-verify"),
    *(b"ssl_client_s_dn", b"x-ssl-client-cn", b"x-ssl-cert", b"x-ssl", b"x-tls-client-cert", b"x-client-dn"),
    *(b"x-arr-clientcert", b"x-arr-ssl", b"proxy-auth-cert", b"proxy-user-dn"),
    # Addresses and protocols.
    *(
        b"x-real-ip",
        b"x_real_ip",
        b"x-client-ip",
        b"client-ip",
        b"x-cluster-client-ip",
        b"true-client-ip",
        b"forwarded-for",
    ),
    *(b"cf-connecting-ip", b"cf-connecting-ipv6", b"fastly-client-ip", b"fly-client-ip", b"x-azure-clientip"),
    *(b"x-envoy-external-address", b"x-envoy-internal", b"wl-proxy-client-ip", b"proxy-client-ip", b"x-originating-ip"),
    *(b"x-scheme", b"x-url-scheme", b"front-end-https", b"x-forwarded-ssl", b"x-forwarded-port", b"x-remote-addr"),
    # Paths, hosts and methods.
    *(
        b"x-original-url",
        b"x_original_url",
        b"x-rewrite-url",
        b"x-original-uri",
        b"x-original-method",
        b"x-original-host",
    ),
    *(b"x-http-method-override", b"x-http-method", b"x-method-override", b"x-host", b"x-forwarded-server"),
    *(b"script-name", b"script_name", b"x-script-name", b"path_info", b"x-accel-mapping", b"x-sendfile-type", b"proxy"),
    # Spellings that a service may take for fields that the gateway reads.
    *(b"transfer_encoding", b"content_length", b"content_type", b"proxy_authorization", b"keep_alive"),
    *(b"sec_fetch_site", b"sec.websocket.key"),
]


@pytest.mark.parametrize("name", TRUSTED_BY_UPSTREAMS)
def test_fields_that_upstreams_trust_are_dropped(name: bytes) -> None:
    assert forwarded((name, b"admin")) == b""
    assert trailers_to_upstream([(name, b"admin")]) == b""


@pytest.mark.parametrize("name", [b"x_version", b"x.version", b"x_Version".lower()])
def test_another_spelling_of_a_routing_header_is_dropped(name: bytes) -> None:
    """A service would read it as the field by which the route was chosen."""
    chosen_by_version = request_filter(routing_headers=frozenset({b"x-version"}))
    assert chosen_by_version.serialize([(b"x-version", b"1"), (name, b"2")], ()) == lines((b"x-version", b"1"))
    assert chosen_by_version.trailers([(name, b"2"), (b"x-checksum", b"1")]) == lines((b"x-checksum", b"1"))


@pytest.mark.parametrize(
    ("dropped", "passed", "kept"),
    [
        (["X-A"], [], [b"x-a-c", b"x-b"]),
        (["x_a-*"], [], [b"x-b"]),
        (["X-B"], [], [b"x-a", b"x_a", b"x-a-c"]),
        ([], ["X-User-Id"], [b"x-a", b"x_a", b"x-a-c", b"x-b", b"x-user-id", b"x_user_id"]),
        ([], ["X-User-*"], [b"x-a", b"x_a", b"x-a-c", b"x-b", b"x-user-id", b"x_user_id", b"x-user"]),
        (["X-*"], ["X-User-Id"], []),
        ([], ["X-Forwarded-*"], [b"x-a", b"x_a", b"x-a-c", b"x-b", b"x-forwarded-port"]),
    ],
)
def test_a_route_may_drop_fields_and_pass_trusted_ones(
    dropped: list[str], passed: list[str], kept: list[bytes]
) -> None:
    names = [
        b"x-a",
        b"x_a",
        b"x-a-c",
        b"x-b",
        b"x-user-id",
        b"x_user_id",
        b"x-user",
        b"x-forwarded-port",
        b"x-forwarded-for",
    ]
    route = request_filter(frozenset(dropped), frozenset(passed))
    assert route.serialize([(name, b"v") for name in names], ()) == lines(*((name, b"v") for name in kept))


def test_filters_are_applied_to_the_same_head_in_turn() -> None:
    head = request(b"X-A: 1", first=b"GET / HTTP/1.1")
    for _ in range(2):
        assert request_filter().request(head, head.fields) == b"x-a: 1\r\n"
        assert request_filter(frozenset({"X-A"})).request(head, head.fields) == b""


@pytest.mark.parametrize(
    "name",
    [
        "X-Forwarded-For",
        "x_forwarded_proto",
        "Host",
        "Content-Length",
        "Connection",
        "TE",
        "Forwarded",
    ],
)
@pytest.mark.parametrize("option", ["pass_headers", "drop_headers"])
def test_a_route_has_no_say_in_the_gateways_own_fields(tmp_path: Path, option: str, name: str) -> None:
    route = f"name: a, match: {{path: /a, methods: [GET]}}, upstream: up, access: public, {option}: [{name}]"
    assert f"{option}" in (errors := errors_of(tmp_path, route))
    assert "the gateway itself sets or removes this header" in errors


@pytest.mark.parametrize("name", ["X User", "X:", "*", "X*", "", "X-*-Y"])
def test_a_name_that_is_none_is_rejected(tmp_path: Path, name: str) -> None:
    route = f"name: a, match: {{path: /a, methods: [GET]}}, upstream: up, access: public, pass_headers: ['{name}']"
    assert "must be a header name" in errors_of(tmp_path, route)


async def test_routes_decide_about_fields_for_themselves(issuer: Issuer, upstream: RecordingUpstream) -> None:
    options = "pass_headers: [X-User-Id], drop_headers: [X-Debug-*]"
    routes = [
        f"name: a, match: {{path: /a, methods: [GET, POST]}}, upstream: up, access: public, {options}",
        "name: b, match: {path: /b, methods: [GET]}, upstream: up, access: public",
    ]
    fields = ("X-User-Id: 1", "X-Debug-Level: 2", "X-Debug: 3", "api_key: 4", "X-Forwarded-User: 5")
    async with open_gateway(issuer, upstream, *routes) as it:
        for _ in range(2):
            assert (await it.request("/a", *fields)).status == 200
            assert {name for name, _ in upstream.last.fields} - GATEWAYS_OWN == {"host", "x-user-id", "api_key"}
            assert (await it.request("/b", *fields)).status == 200
            passed = {"host", "x-debug-level", "x-debug", "api_key"}
            assert {name for name, _ in upstream.last.fields} - GATEWAYS_OWN == passed
        body = b"1\r\na\r\n0\r\nX-Debug: 1\r\nX-User-Id: 2\r\nX-Sum: 3\r\n\r\n"
        assert (await it.request("/a", "Transfer-Encoding: chunked", method="POST", body=body)).status == 200
        assert upstream.last.trailers == [("x-user-id", "2"), ("x-sum", "3")]


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
    assert trailers_to_upstream(trailers, frozenset({b"x-version"})) == lines((b"x-checksum", b"1"))


def test_digests_and_ordinary_fields_may_be_trailers() -> None:
    trailers = [(b"content-digest", b"v"), (b"repr-digest", b"v"), (b"acceptance-id", b"v"), (b"server-timing", b"v")]
    assert trailers_to_upstream(trailers) == trailers_to_client(trailers) == lines(*trailers)


@pytest.mark.parametrize(
    "name",
    [
        *(
            b"set-cookie",
            b"access-control-allow-origin",
            b"access-control-allow-credentials",
            b"location",
            b"ratelimit",
            b"vary",
        ),
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
        ("forwarded", "for=unknown;host=gw;proto=http"),
        ("host", "gw"),
        ("via", "1.1 ostiary"),
        ("x-forwarded-for", "unknown"),
        ("x-forwarded-host", "gw"),
        ("x-forwarded-proto", "http"),
        ("x-request-id", "r1"),
    ]


async def test_forged_identity_fields_do_not_reach_the_upstream(
    harness: GatewayHarness, upstream: RecordingUpstream
) -> None:
    forged = [f"{name.decode()}: admin" for name in TRUSTED_BY_UPSTREAMS if name != b"x-request-id"]
    for first in range(0, len(forged), 100):
        assert (await harness.request("/any", *forged[first : first + 100])).status == 200
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
