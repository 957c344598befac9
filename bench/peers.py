"""The proxies that the gateway is compared with, each on one core: configuration and start."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from common import HOST, Process, free_ports, listens

#: Required of tokens by the gateway and HAProxy.
ISSUER, AUDIENCE, SCOPE = "http://localhost:8080", "ostiary", "orders:read"

#: One worker on one core, with keep-alive on both sides.
NGINX = """\
daemon off; worker_processes 1; pid {folder}/nginx-{port}.pid; error_log stderr error;
events {{ worker_connections 4096; }}
http {{
  access_log off; keepalive_requests 1000000000; client_body_temp_path {folder}/b; proxy_temp_path {folder}/p;
  fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  {upstream}
  server {{
    listen {host}:{port} backlog=4096 reuseport;
    location / {{ {location} }}
  }}
}}
"""
ANSWER = """default_type application/json; return 200 '{"id":7,"items":[{"sku":"a-1","count":2}],"total":19.9}';"""
UPSTREAM = "upstream orders {{ server {host}:{port}; keepalive 256; keepalive_requests 1000000000; }}"
FORWARD = 'proxy_pass http://orders; proxy_http_version 1.1; proxy_set_header Connection "";'

#: Bodies are streamed in buffers as large as the gateway's. With its default buffers, nginx uses four to six times
#: as much CPU.
STREAM = (
    "proxy_buffering off; proxy_buffer_size 256k; proxy_buffers 4 256k; proxy_busy_buffers_size 256k; "
    "proxy_request_buffering off; client_body_buffer_size 256k; client_max_body_size 0; "
)

HAPROXY = """\
global
  nbthread 1
  maxconn 8000
  log stdout format raw local0
defaults
  mode http
  log global
  option httplog
  timeout connect 2s
  timeout client 75s
  timeout server 30s
frontend front
  bind {host}:{port}
  http-request set-var(txn.alg) http_auth_bearer,jwt_header_query('$.alg')
  http-request set-var(txn.iss) http_auth_bearer,jwt_payload_query('$.iss')
  http-request set-var(txn.aud) http_auth_bearer,jwt_payload_query('$.aud')
  http-request set-var(txn.exp) http_auth_bearer,jwt_payload_query('$.exp','int')
  http-request set-var(txn.scope) http_auth_bearer,jwt_payload_query('$.scope')
  http-request set-var(txn.now) date()
  http-request deny deny_status 401 unless {{ var(txn.alg) -m str RS256 }}
  http-request deny deny_status 401 unless {{ var(txn.iss) -m str {issuer} }}
  http-request deny deny_status 401 unless {{ var(txn.aud) -m str {audience} }}
  http-request deny deny_status 401 if {{ var(txn.exp),sub(txn.now) -m int lt 0 }}
  http-request deny deny_status 401 unless {{ http_auth_bearer,jwt_verify(txn.alg,"{key}") -m int 1 }}
  http-request deny deny_status 403 unless {{ var(txn.scope) -m sub {scope} }}
  http-request del-header X-User-Id
  http-request set-header X-Forwarded-For %[src]
  unique-id-format %[uuid()]
  unique-id-header X-Request-ID
  default_backend orders
backend orders
  http-reuse always
  server orders {host}:{upstream}
"""

#: By default, Caddy keeps 32 idle connections to the upstream and opens others for each request.
CADDY = """\
{{
  admin off
  auto_https off
}}
http://{host}:{port} {{
  bind {host}
  reverse_proxy {host}:{upstream} {{
    transport http {{
      keepalive_idle_conns_per_host 256
    }}
  }}
}}
"""


class Peer(Process):
    """Another proxy, on a port of its own."""

    def __init__(self, command: Sequence[str], folder: Path, port: int, **settings: str) -> None:
        """Prepare a proxy; `command` makes it listen on `port`."""
        self.port = port
        name, *arguments = command
        log = folder / f"{name}-{port}.log"
        super().__init__([shutil.which(name) or name, *arguments], log, lambda: listens(port), **settings)


def nginx(folder: Path, location: str, upstream: str = "") -> Peer:
    """Return nginx with one location for all paths."""
    (port,) = free_ports(1)
    path = folder / f"nginx-{port}.conf"
    path.write_text(NGINX.format(folder=folder, host=HOST, port=port, location=location, upstream=upstream))
    return Peer(["nginx", "-c", str(path)], folder, port)


def nginx_proxy(folder: Path, upstream: int, options: str = "") -> Peer:
    return nginx(folder, options + FORWARD, UPSTREAM.format(host=HOST, port=upstream))


def haproxy(folder: Path, upstream: int) -> Peer:
    """Return HAProxy with the gateway's checks; the issuer's key is in `key.pem`."""
    (port,) = free_ports(1)
    path = folder / "haproxy.cfg"
    values = {"issuer": ISSUER, "audience": AUDIENCE, "scope": SCOPE, "key": folder / "key.pem"}
    path.write_text(HAPROXY.format(host=HOST, port=port, upstream=upstream, **values))
    return Peer(["haproxy", "-f", str(path)], folder, port)


def caddy(folder: Path, upstream: int) -> Peer:
    (port,) = free_ports(1)
    path = folder / "Caddyfile"
    path.write_text(CADDY.format(host=HOST, port=port, upstream=upstream))
    command = ["caddy", "run", "--config", str(path), "--adapter", "caddyfile"]
    return Peer(command, folder, port, GOMAXPROCS="1", HOME=str(folder))


#: In the order in which they take turns.
PROXIES: dict[str, Callable[[Path, int], Peer]] = {"haproxy": haproxy, "nginx": nginx_proxy, "caddy": caddy}


@contextmanager
def running_proxies(folder: Path, upstream: int) -> Iterator[dict[str, Peer]]:
    """Run all proxies that are installed."""
    with ExitStack() as stack:
        running: dict[str, Peer] = {}
        for name, prepare in PROXIES.items():
            if shutil.which(name) is None:
                print(f"{name} is not installed: skipped")
                continue
            running[name] = prepare(folder, upstream)
            stack.enter_context(running[name].running())
        yield running
