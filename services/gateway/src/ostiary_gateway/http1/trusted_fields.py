"""Request fields in which proxies and servers tell a service who the client is, where it is, and what it asked for.

A service that is used to such a proxy believes them, so no client may send them through this gateway. The list is
closed: a name is on it because of the product that sets or reads it, and docs/reference/header-fields.md has the
sources. What is not here is passed on, whatever it is called: a guess would take fields away from ordinary clients.

Credentials that a service checks itself are not here (`X-Auth-Token`, `X-Api-Key`), nor are names that only select
among what the client's credentials allow (`X-Scope-OrgID`, `X-Tenant-ID`).
"""

from collections.abc import Iterable

#: By who sets or reads them. `Name-*` stands for `Name` and all names that go on after the hyphen.
TRUSTED_FIELDS: dict[str, tuple[str, ...]] = {
    # Who the client is.
    "oauth2-proxy": ("X-Auth-Request-*",),
    "Authelia": ("Remote-User-*", "Remote-Groups", "Remote-Name", "Remote-Email"),
    "authentik": ("X-Authentik-*",),
    "Traefik": ("X-Auth-User-*",),
    "Caddy Security": ("X-Token-Subject", "X-Token-User-*"),
    "Gatekeeper": (
        "X-Auth-Audience",
        "X-Auth-Email",
        "X-Auth-Groups",
        "X-Auth-Roles",
        "X-Auth-Subject",
        "X-Auth-Userid",
        "X-Auth-Username",
    ),
    "Vouch Proxy": ("X-Vouch-*",),
    "Pomerium": ("X-Pomerium-*",),
    "Teleport": ("Teleport-Jwt-Assertion",),
    "Tailscale Serve": ("Tailscale-*",),
    "Cloudflare Access": ("Cf-Access-Authenticated-User-*", "Cf-Access-Jwt-Assertion"),
    "Google Identity-Aware Proxy": ("X-Goog-Authenticated-User-*", "X-Goog-IAP-*"),
    "Google Cloud Endpoints and API Gateway": ("X-Endpoint-API-*", "X-Apigateway-Api-Userinfo"),
    "Google App Engine": ("X-Appengine-*",),
    "AWS Application Load Balancer": ("X-Amzn-Oidc-*", "X-Amzn-Mtls-*"),
    "AWS VPC Lattice": ("X-Amzn-Lattice-*",),
    "AWS Verified Access": ("X-Amzn-Ava-*",),
    "AWS Lambda Web Adapter": ("X-Amzn-Request-Context", "X-Amzn-Lambda-Context"),
    "Azure App Service": ("X-MS-Client-Principal-*", "X-MS-Token-*", "X-Client-Port", "X-AppService-Proto"),
    "Kong": ("X-Consumer-*", "X-Credential-*", "X-Anonymous-Consumer", "X-Authenticated-*"),
    "Apache APISIX": ("X-Userinfo", "X-ID-Token", "X-User-ID"),
    "Ory Oathkeeper": ("X-User",),
    "KrakenD": ("X-User", "X-Role"),
    "Istio": ("X-Jwt-Claim-*", "X-Jwt-Group"),
    "WSO2 API Manager": ("X-JWT-Assertion",),
    "OpenStack": (
        "X-Identity-Status",
        "X-User-ID",
        "X-User-Name",
        "X-User-Domain-*",
        "X-Roles",
        "X-Role",
        "X-Is-Admin-Project",
    ),
    "Kubernetes": ("X-Remote-*", "Impersonate-*"),
    "Kubeflow": ("Kubeflow-Userid", "Kubeflow-Groups"),
    "Linkerd": ("L5d-*",),
    "Grafana and Gitea": ("X-WebAuth-*", "X-Grafana-User"),
    "Open WebUI": ("X-User-Email", "X-User-Name", "X-OpenWebUI-User-*"),
    "OpenSearch": ("X-Proxy-User", "X-Proxy-Roles", "X-Proxy-Ext-*"),
    "Sonatype Nexus": ("X-Proxy-Remote-User",),
    "Apache CouchDB": ("X-Auth-CouchDB-*",),
    "Apache NiFi": ("X-ProxiedEntitiesChain", "X-ProxiedEntityGroups"),
    "Django": ("Remote-User-*", "Authuser"),
    "Alfresco": ("X-Alfresco-Remote-User",),
    "Posit": (
        *("RStudio-Connect-Credentials", "Posit-Connect-User-Session-Token", "Shiny-Server-Credentials"),
        "X-RStudio-Username",
    ),
    "Snowflake": ("Sf-Context-*",),
    "Replit": ("X-Replit-User-*",),
    "Sandstorm": ("X-Sandstorm-*",),
    "mod_auth_openidc": ("OIDC-*",),
    "mod_auth_cas": ("CAS-*",),
    "LemonLDAP::NG": ("Auth-User", "Auth-Mail", "Auth-Groups"),
    "YunoHost": ("YNH-*", "Auth-User"),
    "Shibboleth": (
        "Shib-*",
        "Eppn",
        "Affiliation",
        "Unscoped-Affiliation",
        "Entitlement",
        "Persistent-ID",
        "Targeted-ID",
        "Subject-ID",
        "Pairwise-ID",
    ),
    "SiteMinder": ("SM-*",),
    "MuleSoft": ("X-AGW-*",),
    "Dapr": ("Dapr-Caller-*",),
    "IIS in front of ASP.NET Core and Node.js": ("MS-ASPNETCORE-*", "X-IIS-WindowsAuthToken", "X-Iisnode-*"),
    "Microsoft AD FS": ("X-MS-ADFS-*", "X-MS-Forwarded-Client-IP"),
    "Oracle Access Manager": ("OAM-*", "Osso-*"),
    "IBM Security Verify Access": ("IV-*",),
    "IBM WebSphere": (
        *("$WSAT", "$WSCC", "$WSCS", "$WSIS", "$WSPC", "$WSPR", "$WSRA", "$WSRH", "$WSRU", "$WSSC", "$WSSI", "$WSSN"),
        "$WSSP",
    ),
    "claims that gateways copy into fields": (
        *("X-Userid", "X-Username", "X-User-Role", "X-User-Roles", "X-User-Group", "X-User-Groups", "X-User-Scopes"),
        *("X-User-Permissions", "X-User-Claims", "X-User-Info", "X-Email", "X-Groups", "X-Scopes", "X-Claims"),
    ),
    # The client's certificate.
    "RFC 9440": ("Client-Cert", "Client-Cert-Chain"),
    "ingress-nginx and Keycloak": ("SSL-Client-*",),
    "HAProxy": ("X-SSL-*", "X-TLS-Client-*"),
    "Puppet": ("X-Client-Cert-*", "X-Client-Verify", "X-Client-DN", "X-Client-S-DN"),
    "Microsoft Application Request Routing": ("X-ARR-*",),
    "Jetty": ("Proxy-Auth-Cert", "Proxy-Ssl-ID", "X-Proxied-Https"),
    "GlassFish": ("Proxy-Auth-Cert", "Proxy-User-DN", "Proxy-Issuer-DN", "Proxy-Keysize", "Proxy-Cipher", "Proxy-IP"),
    # Where it comes from, and over what.
    "RFC 7239": ("Forwarded",),
    "proxies in general": (
        *("X-Forwarded-*", "Forwarded-For", "X-Real-IP", "X-Client-IP", "Client-IP", "X-Cluster-Client-IP"),
        "X-Originating-IP",
    ),
    "Cloudflare and Akamai": ("True-Client-IP", "CF-Connecting-*", "CF-Pseudo-IPv4", "CF-Visitor"),
    "Amazon CloudFront": ("CloudFront-Viewer-Address", "CloudFront-Forwarded-Proto"),
    "Azure Front Door": ("X-Azure-*",),
    "Fastly": ("Fastly-Client", "Fastly-Client-IP", "Fastly-SSL"),
    "Fly.io": ("Fly-Client-IP", "Fly-Forwarded-*"),
    "Netlify": ("X-Nf-Client-Connection-IP",),
    "Vercel": ("X-Vercel-Forwarded-For", "X-Vercel-Proxied-For", "X-Vercel-Oidc-Token"),
    "DigitalOcean App Platform": ("DO-Connecting-IP",),
    "Alibaba Cloud CDN": ("Ali-Cdn-Real-IP",),
    "Oracle WebLogic": ("WL-Proxy-*", "Proxy-Client-IP"),
    "Envoy": ("X-Envoy-*",),
    "ingress-nginx and Tornado": ("X-Scheme", "X-Original-Forwarded-For"),
    "servers that know HTTPS by a field": ("Front-End-Https", "X-Url-Scheme", "X-Forwarded-Protocol"),
    # What it asked for.
    "IIS, Symfony and Zend": ("X-Original-URL", "X-Rewrite-URL"),
    "nginx, as auth_request": ("X-Original-URI", "X-Original-Method"),
    "ASP.NET Core": ("X-Original-For", "X-Original-Host", "X-Original-Proto", "X-Original-Prefix"),
    "frameworks that take the method from a field": ("X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override"),
    "applications that take their host from a field": ("X-Host", "X-HTTP-Host-Override", "Forwarded-Host"),
    "WSGI": ("Script-Name", "X-Script-Name", "Path-Info"),
    "Rack::Sendfile": ("X-Accel-*", "X-Sendfile-Type"),
    "CGI": ("Proxy",),
}

# Letters in lower case, digits, and '-' for all others.
_FOLDED = bytes(ord(chr(byte).lower()) if bytes([byte]).isalnum() else ord("-") for byte in range(256))


def fold(name: bytes) -> bytes:
    """Return the same name for all that a service may take for each other.

    CGI, WSGI, PHP and others turn '-' into '_', and some of them all that is neither a letter nor a digit.
    """
    return name.translate(_FOLDED)


class FieldNames:
    """Names of fields, each with what it is listed for. `Name-*` stands for `Name` and all that goes on after it."""

    def __init__(self, names: Iterable[tuple[str, str]]) -> None:
        self._exact: dict[bytes, str] = {}
        self._prefixes: dict[bytes, str] = {}
        for name, reason in names:
            folded = fold(name.removesuffix("-*").encode())
            self._exact.setdefault(folded, reason)
            if name.endswith("-*"):
                self._prefixes.setdefault(folded, reason)
        self._longest_prefix = max(map(len, self._prefixes), default=-1)

    def find(self, folded: bytes) -> str:
        """Return what a folded name is listed for, "" if it is not."""
        found = self._exact.get(folded)
        end = folded.find(b"-")
        # A name may have thousands of hyphens.
        while found is None and 0 <= end <= self._longest_prefix:
            found = self._prefixes.get(folded[:end])
            end = folded.find(b"-", end + 1)
        return found or ""


TRUSTED = FieldNames((name, source) for source, names in TRUSTED_FIELDS.items() for name in names)
