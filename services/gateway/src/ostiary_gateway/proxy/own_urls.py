"""URLs of the service in its responses, which become those of the gateway.

A service that does not know its public address redirects to its own, `http://10.0.0.7:8000/items/`, or to its own path,
`/items/`, where a rewrite has stripped `/api` from that of the request. Other addresses are not touched.
"""

import re
from dataclasses import replace

from ostiary_chassis.urls import DEFAULT_PORTS
from ostiary_gateway.access.request import RequestContext
from ostiary_gateway.http1.parser import Response
from ostiary_gateway.routing.hosts import InvalidHost, authority, parse_authority
from ostiary_gateway.routing.table import RouteTable
from ostiary_gateway.upstream.cluster import Cluster

# An absolute URL, or one without scheme (RFC 3986 section 4.2).
_URL = re.compile(rb"(?:([A-Za-z][A-Za-z0-9+.-]*):)?//([^/?#]*)(.*)\Z", re.DOTALL)
_PATH_END = re.compile(rb"[?#]|\Z")

# `5; url=/next`, as HTML specifies it for <meta>; browsers read the field in the same way.
_REFRESH = re.compile(rb"(\s*[0-9.]+\s*[;,]\s*(?:url\s*=\s*)?[\"']?)([^\"']*)(.*)\Z", re.IGNORECASE | re.DOTALL)


def has_url(response: Response) -> bool:
    """Whether a response has one of the fields in which services name themselves. Few have."""
    by_name = response.by_name
    return b"location" in by_name or b"content-location" in by_name or b"refresh" in by_name


def with_public_urls(response: Response, context: RequestContext, cluster: Cluster, table: RouteTable) -> Response:
    """Return the response with the gateway's URLs instead of the service's. `table` has the gateway's routes."""

    def translate(name: bytes, value: bytes) -> bytes:
        if name in {b"location", b"content-location"}:
            return public_url(value, context, cluster, table)
        refresh = _REFRESH.match(value) if name == b"refresh" else None
        if refresh is None:
            return value
        return refresh[1] + public_url(refresh[2], context, cluster, table) + refresh[3]

    fields = [(name, translate(name, value)) for name, value in response.fields]
    return response if fields == response.fields else replace(response, fields=fields, forwarded_lines=None)


def public_url(url: bytes, context: RequestContext, cluster: Cluster, table: RouteTable) -> bytes:
    """Return what the client calls a URL of the service; one of somebody else stays as it is."""
    match = _URL.match(url)
    if match is None:
        path = _public_path(url, context, table) if url.startswith(b"/") else url
        # With two slashes at its start, or what browsers take for them, it would be on another host.
        return b"//" + context.host + path if path != url and path.startswith((b"//", b"/\\")) else path
    scheme = match[1].lower() if match[1] is not None else b"http"
    if scheme not in {b"http", b"https"}:
        return url
    try:
        name, port = parse_authority(match[2])
    except InvalidHost:
        return url
    host = authority(name, port, scheme.decode())
    is_own = host in cluster.hosts or (
        # Some know the name that the client asked for, and add their own port to it (nginx's `port_in_redirect`).
        (port or DEFAULT_PORTS[scheme.decode()]) in cluster.ports and name == parse_authority(context.host)[0]
    )
    if not is_own and host != context.host:
        return url
    origin = b"//" + context.host
    if match[1] is not None:
        # A service that asks for https gets it, unless that is only how the gateway itself talks to it.
        is_https = context.scheme == b"https" or (scheme == b"https" and not (is_own and cluster.is_tls))
        origin = (b"https:" if is_https else b"http:") + origin
    return origin + _public_path(match[3], context, table)


def _public_path(target: bytes, context: RequestContext, table: RouteTable) -> bytes:
    """Undo the rewrite of a path, which may have a query and a fragment."""
    if not context.rewritten or context.route is None:
        return target
    end = _PATH_END.search(target)
    assert end is not None  # noqa: S101 - the end of the text matches
    path, rest = target[: end.start()] or b"/", target[end.start() :]
    prefix = context.prefix
    if prefix:
        if path == prefix or path.startswith(prefix + b"/"):
            # The service knows it (X-Forwarded-Prefix).
            return target
        public = prefix + path
    else:
        before, after = context.route.rewritten_starts
        if not path.startswith(after):
            return target
        public = before + path.removeprefix(after)
    # What is no path of ours is perhaps meant as it is.
    return public + rest if table.takes(context.host, public) else target
