"""Ordinary services as processes behind one gateway, each exposed in the ordinary way: under a name of its own.

`NAME.localhost` is the service's name for clients. Services are in `services/`; none is changed for the gateway beyond
the line that `docs/how-to/ordinary-services.md` names.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Self

import httpx
import pytest
from clusters import READY_SECONDS, ROOT, STOP_SECONDS, clean_environment, free_ports, wait_until
from gateways import GatewayProcess
from upstreams import listens

SERVICES = Path(__file__).parent / "services"
NODE_MODULES = ROOT / "build" / "node" / "node_modules"

#: An address of this machine from which the gateway takes X-Forwarded-* as from a TLS proxy.
PROXY = "127.0.0.2"

#: What a client got: status and text.
Got = tuple[int, str]

#: The file that the web server has, named as people name files.
FILE = "a file [1] ü & 'more'.txt"
FILE_CONTENT = "0123456789" * 1000

_NGINX = """\
daemon off;
master_process off;
pid {directory}/nginx.pid;
error_log {directory}/error.log;
events {{}}
http {{
  access_log off;
  client_body_temp_path {directory}/body;
  proxy_temp_path {directory}/proxy;
  fastcgi_temp_path {directory}/fastcgi;
  uwsgi_temp_path {directory}/uwsgi;
  scgi_temp_path {directory}/scgi;
{http}}}
"""

NGINX = """\
  include /etc/nginx/mime.types;
  gzip on;
  gzip_types text/plain;
  gzip_proxied any;
  server {{
    listen 127.0.0.1:{port};
    root {files};
    set_real_ip_from 127.0.0.1;
    real_ip_header X-Forwarded-For;
    location / {{ autoindex on; }}
    location = /where {{ return 200 "$remote_addr $http_host"; }}
    location /dav/ {{
      dav_methods PUT DELETE MKCOL COPY MOVE;
      create_full_put_path on;
    }}
  }}
"""

_UPSTREAM = """\
  {name}: {{url: "http://127.0.0.1:{port}"}}
"""

#: Every service has a name of its own; aiohttp's is for clients that connect to names which a resolver knows.
_ROUTE = """\
  - name: {name}
    match: {{path: "/{{rest...}}", methods: [{methods}]{hosts}}}
    upstream: {name}
    access: public
    limits: {{body_bytes: 67108864}}
    timeouts: {{idle: 1}}
    websocket: true
"""

#: Some are under a path of one name, which they do not see.
_MOUNTED = """\
  - name: {name}-mounted
    match: {{path: "/{name}/{{rest...}}", methods: [{methods}], hosts: [shop.localhost]}}
    rewrite: "/{{rest...}}"
    upstream: {name}
    access: public
"""

#: For ids with characters that have two meanings.
_ENCODED = """\
  - name: encoded
    match: {{path: "/echo/encoded/{{rest...}}", methods: [GET]}}
    upstream: aiohttp
    access: public
    allows_encoded: ["/", "#", "%", ";"]
"""

MOUNTED = ("django-mounted", "fastapi-mounted", "flask")

_METHODS = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS, PROPFIND, MKCOL, COPY, MOVE"


class Ordinary:
    """A gateway in front of services, each of which is started when a test needs it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._commands = {
            "django": self._django,
            "flask": self._flask,
            "fastapi": self.uvicorn,
            "aiohttp": self._aiohttp,
            "nginx": self._nginx,
            "node": self._node,
            "express": self._express,
            "files": self._files,
            "django-mounted": self._django,
            "fastapi-mounted": self._uvicorn_mounted,
        }
        self.ports = dict(zip(self._commands, free_ports(len(self._commands)), strict=True))
        self._www = directory / "www"
        for folder in ("folder", "list", "dav"):
            (self._www / folder).mkdir(parents=True)
        (self._www / "folder" / "index.html").write_text("<p>index")
        (self._www / "list" / FILE).write_text(FILE_CONTENT)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        upstreams = [_UPSTREAM.format(name=name, port=port) for name, port in self.ports.items()]
        hosts = {name: f", hosts: [{name}.localhost]" for name in self.ports} | {"aiohttp": ""}
        routes = [_ROUTE.format(name=name, methods=_METHODS, hosts=hosts[name]) for name in self.ports]
        routes += [_MOUNTED.format(name=name, methods=_METHODS) for name in MOUNTED]
        routes.append(_ENCODED.format())
        settings = {"OSTIARY_GATEWAY_TRUSTED_PROXIES": PROXY}
        self.gateway = GatewayProcess(
            directory, "".join(["upstreams:\n", *upstreams, "routes:\n", *routes]), **settings
        )

    def __enter__(self) -> Self:
        self.gateway.__enter__()
        return self

    def __exit__(self, *raised: object) -> None:
        for process in self._processes.values():
            process.terminate()
        for process in self._processes.values():
            process.wait(STOP_SECONDS)
        self.gateway.__exit__(None, None, None)

    def start(self, name: str) -> None:
        """Start a service, if it does not run yet, and wait until it listens."""
        if name in self._processes:
            return
        with (self._directory / f"{name}.log").open("wb") as log:
            self._processes[name] = subprocess.Popen(  # noqa: S603 - our own command
                self._commands[name](str(self.ports[name])),
                cwd=SERVICES,
                env=clean_environment(
                    NODE_PATH=str(NODE_MODULES),
                    PYTHONDONTWRITEBYTECODE="1",
                    ORDINARY_ORIGIN=f"http://node.localhost:{self.gateway.port}",
                    ORDINARY_DATABASE=str(self._directory / f"{name}.sqlite"),
                    ORDINARY_PREFIX=f"/{name}" if name.endswith("-mounted") else "",
                ),
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        wait_until(lambda: self._listens(name), f"{name} listens")

    def url(self, name: str) -> str:
        """Return the public URL of a name; if it is that of a service, it is started."""
        if name in self._commands:
            self.start(name)
        return f"http://{name}.localhost:{self.gateway.port}"

    def client(self, name: str, proxy: bool = False, **options: Any) -> httpx.Client:
        """Return a client of a service, which is started; one that comes as a TLS proxy does, if that is asked for."""
        transport = LoopbackTransport(local_address=PROXY if proxy else None)
        return httpx.Client(base_url=self.url(name), transport=transport, timeout=READY_SECONDS, **options)

    def _listens(self, name: str) -> bool:
        process = self._processes[name]
        assert process.poll() is None, (self._directory / f"{name}.log").read_text()
        return listens(self.ports[name])

    def _django(self, port: str) -> list[str]:
        return self._gunicorn("django_service:application", port, "--threads", "4")

    def _flask(self, port: str) -> list[str]:
        # With its default, a worker that serves one connection and closes it after each response.
        return self._gunicorn("flask_service:app", port)

    @staticmethod
    def _gunicorn(application: str, port: str, *options: str) -> list[str]:
        address = ["--bind", f"127.0.0.1:{port}", "--no-control-socket"]
        return [sys.executable, "-m", "gunicorn", *address, *options, application]

    @staticmethod
    def uvicorn(port: str) -> list[str]:
        """Return the command for FastAPI."""
        options = ["--port", port, "--forwarded-allow-ips", "127.0.0.1"]
        return [sys.executable, "-m", "uvicorn", "fastapi_service:app", *options]

    def _uvicorn_mounted(self, port: str) -> list[str]:
        return [*self.uvicorn(port), "--root-path", "/fastapi-mounted"]

    def _files(self, port: str) -> list[str]:
        # Of HTTP/1.0: each response ends with its connection.
        return [sys.executable, "-m", "http.server", port, "--bind", "127.0.0.1", "--directory", str(self._www)]

    @staticmethod
    def _aiohttp(port: str) -> list[str]:
        return [sys.executable, "aiohttp_service.py", port]

    def _nginx(self, port: str) -> list[str]:
        return nginx(self._directory, NGINX.format(files=self._www, port=port))

    @staticmethod
    def _node(port: str) -> list[str]:
        node_modules()
        return [program("node"), "node_service.js", port]

    @staticmethod
    def _express(port: str) -> list[str]:
        node_modules()
        return [program("node"), "express_service.js", port]


class LoopbackTransport(httpx.HTTPTransport):
    """Connects to this machine whatever the name in a URL, as it would be if all names had addresses."""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        url = request.url.copy_with(host="127.0.0.1")
        sent = httpx.Request(request.method, url, headers=request.headers, stream=request.stream)
        return super().handle_request(sent)


def curl(*arguments: str, stdin: bytes = b"") -> Got:
    """Run curl, and return the last status and the text."""
    command = [program("curl"), "--silent", "--show-error", "--globoff", "--max-time", "20", "--noproxy", "*"]
    done = subprocess.run(  # noqa: S603 - a program of the machine
        [*command, "--write-out", "\n%{http_code}", *arguments], input=stdin, capture_output=True, check=False
    )
    text, _, status = done.stdout.decode().rpartition("\n")
    return int(status), text + done.stderr.decode()


def program(name: str) -> str:
    """Return the path of a program. Skip the test if it is not installed, or fail it if CI=true."""
    found = shutil.which(name)
    return found if found is not None else _missing(f"{name} is not installed")


def nginx(directory: Path, http: str) -> list[str]:
    """Return the command of nginx with these directives in its `http`; it keeps all of its files in the folder."""
    config = directory / "nginx.conf"
    config.write_text(_NGINX.format(directory=directory, http=http))
    return [program("nginx"), "-c", str(config), "-e", str(directory / "error.log")]


def node_modules() -> Path:
    """Return the folder with packages of Node.js. Skip the test without it, or fail it if CI=true."""
    return NODE_MODULES if NODE_MODULES.exists() else Path(_missing("make build/node/installed has installed nothing"))


def _missing(what: str) -> str:
    if os.environ.get("CI") == "true":
        pytest.fail(f"{what}, and CI=true makes that a failure")
    pytest.skip(what)
