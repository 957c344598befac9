"""The examples as a site of its own: nginx with TLS, the gateway, the services, and an upstream that records.

    https://app.shop.example     the site
    https://other.shop.example   a sibling of it: the same site to browsers, but another origin
    https://hostile.example      another site

A browser finds them with `BROWSER_OPTIONS`.
"""

import socket
import subprocess
import sys
from pathlib import Path
from typing import Self

import yaml
from certificates import Authority
from clusters import ROOT, STOP_SECONDS, LocalCluster, free_ports, is_ready, wait_until
from ordinary import nginx
from proxies import Message, Server
from upstreams import listens

SITE = "app.shop.example"
SIBLING = "other.shop.example"
HOSTILE = "hostile.example"

BROWSER_OPTIONS = ["--no-sandbox", "--host-resolver-rules=MAP *.example 127.0.0.1", "--no-proxy-server"]

#: The folder and the application of each example.
EXAMPLES = {"app": ("spa", "serve:create_app"), "pages": ("pages", "app:create_app")}

#: Routes to an upstream that does not look at its requests, for tests of what reaches it.
RECORDED = """\
- name: recorded
  match: {path: "/recorded/{rest...}", methods: [GET, HEAD, POST, PUT, PATCH, DELETE]}
  upstream: recorder
  access: authenticated
  websocket: true
- name: recorded-optional
  match: {path: "/optional/{rest...}", methods: [GET, HEAD, POST, PUT, PATCH, DELETE]}
  upstream: recorder
  access: optional
  websocket: true
"""

NGINX = """\
  ssl_certificate {certificate};
  ssl_certificate_key {certificate};
  map $http_upgrade $connection_upgrade {{ default upgrade; "" ""; }}
  server {{
    listen 127.0.0.1:{port} ssl;
    server_name {site};
    location / {{
      proxy_pass http://127.0.0.1:{gateway};
      proxy_http_version 1.1;
      proxy_set_header Host $http_host;
      proxy_set_header X-Forwarded-Host $http_host;
      proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
      proxy_set_header X-Forwarded-Proto $scheme;
      proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Connection $connection_upgrade;
      proxy_buffering off;
      proxy_read_timeout 120s;
    }}
  }}
  server {{
    listen 127.0.0.1:{port} ssl;
    server_name {sibling} {hostile};
    default_type text/html;
    location / {{ return 200 "<!doctype html><link rel=icon href='data:,'><title>Other</title><p>Other"; }}
  }}
"""


class Recorder(Server):
    """An upstream that keeps what it gets, and answers everything."""

    def __init__(self) -> None:
        super().__init__()
        self.received: list[Message] = []

    def serve(self, request: Message, connection: socket.socket) -> bool:
        self.received.append(request)
        answer = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 4\r\n\r\nfine"
        connection.sendall(answer)
        return True

    def named(self, name: str) -> list[Message]:
        """Return the requests whose path ends so."""
        return [each for each in self.received if each.path.rpartition("/")[2] == name]


class Site:
    """The examples and all that they stand on, as processes. With TLS, under `SITE`; without, at localhost."""

    def __init__(self, directory: Path, *, tls: bool = True, **settings: str) -> None:
        self._directory = directory
        self.recorder = Recorder()
        self._ports = dict(zip((*EXAMPLES, "nginx"), free_ports(len(EXAMPLES) + 1), strict=True))
        routes = yaml.safe_load((ROOT / "deploy" / "gateway.yaml").read_text())
        routes["upstreams"]["recorder"] = {"url": self.recorder.url}
        routes["routes"] += yaml.safe_load(RECORDED)
        file = directory / "gateway.yaml"
        file.write_text(yaml.safe_dump(routes))
        self.cluster = LocalCluster(directory / "data", OSTIARY_GATEWAY_ROUTES=str(file), **settings)
        self._tls = tls
        self.url = f"https://{SITE}:{self._ports['nginx']}" if tls else self.cluster.url
        for name in EXAMPLES:
            self.cluster.environ[f"OSTIARY_{name.upper()}_URL"] = self.address(name)
        self.cluster.environ |= {"OSTIARY_ISSUER": self.url, "OSTIARY_GATEWAY_TRUSTED_PROXIES": "127.0.0.1"}
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        self.cluster.start_all()
        for name, (folder, application) in EXAMPLES.items():
            options = ["--factory", "--app-dir", str(ROOT / "examples" / folder), "--port", str(self._ports[name])]
            self._start(name, [sys.executable, "-m", "uvicorn", *options, application])
        for name in EXAMPLES:
            wait_until(lambda name=name: is_ready(self.address(name)), f"{name} is ready")  # type: ignore[misc]  # a default binds the name
        if self._tls:
            self._start("nginx", self._nginx())
            wait_until(lambda: listens(self._ports["nginx"]), "nginx listens")
        return self

    def __exit__(self, *raised: object) -> None:
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.wait(STOP_SECONDS)
        self.cluster.stop_all()
        self.recorder.close()

    def origin(self, host: str) -> str:
        """Return the origin of another of the names."""
        return self.url.replace(SITE, host)

    def address(self, name: str) -> str:
        """Return where an example listens."""
        return f"http://127.0.0.1:{self._ports[name]}"

    def _start(self, name: str, command: list[str]) -> None:
        with (self._directory / f"{name}.log").open("wb") as log:
            self._processes.append(
                subprocess.Popen(command, cwd=ROOT, env=self.cluster.environ, stdout=log, stderr=subprocess.STDOUT)  # noqa: S603 - our own command
            )

    def _nginx(self) -> list[str]:
        certificate = Authority(self._directory).file_of(SITE, SIBLING, HOSTILE)
        gateway = self.cluster.urls["gateway"].rpartition(":")[2]
        names = {"site": SITE, "sibling": SIBLING, "hostile": HOSTILE, "certificate": certificate}
        return nginx(self._directory, NGINX.format(port=self._ports["nginx"], gateway=gateway, **names))
