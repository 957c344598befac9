"""Responses of real servers that are not quite what the RFCs ask for, and pass all the same."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from clusters import NO_TLS, free_ports, wait_until
from gateways import GatewayProcess
from upstreams import RawUpstream, listens

ROUTES = """\
upstreams:
  up: {{url: "http://127.0.0.1:{port}"}}
routes:
  - {{name: any, match: {{path: "/{{rest...}}", methods: [GET, HEAD]}}, upstream: up, access: public}}
"""

WSGI = """
import sys
from wsgiref.simple_server import make_server

def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Type", "text/plain"), ("X-Odd", "\\xe4")])
    return [b"hello"]

make_server("127.0.0.1", int(sys.argv[1]), app).serve_forever()
"""

NODE = """
require("http").createServer((request, response) => {
  response.writeEarlyHints({link: "</style.css>; rel=preload; as=style"});
  response.writeHead(200, "Quite fine", ["Content-Type", "text/plain", "Content-Type", "text/plain",
    "Content-Length", "5", "Set-Cookie", "a=1", "Set-Cookie", "b=2"]);
  response.end("hello");
}).listen(Number(process.argv[1]), "127.0.0.1");
"""

NGINX = """
daemon off; pid {directory}/pid; error_log stderr crit; worker_processes 1;
events {{ worker_connections 64; }}
http {{
  access_log off; client_body_temp_path {directory}/b; proxy_temp_path {directory}/p; fastcgi_temp_path {directory}/f;
  uwsgi_temp_path {directory}/u; scgi_temp_path {directory}/s;
  server {{
    listen 127.0.0.1:{port};
    location / {{ default_type text/plain; add_header Content-Type text/plain; return 200 "hello"; }}
  }}
}}
"""


@contextmanager
def serving(directory: Path, name: str) -> Iterator[int]:
    (port,) = free_ports(1)
    (directory / "hello").write_text("hello")
    (directory / "nginx.conf").write_text(NGINX.format(directory=directory, port=port))
    commands = {
        "http.server": [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1", "-d", str(directory)],
        "wsgiref": [sys.executable, "-c", WSGI, str(port)],
        "node": ["node", "-e", NODE, str(port)],
        "nginx": ["nginx", "-p", str(directory), "-c", str(directory / "nginx.conf")],
    }
    command = commands[name]
    if shutil.which(command[0]) is None:
        pytest.skip(f"{name} is not installed")
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)  # noqa: S603 - from above
    try:
        wait_until(lambda: listens(port), "the server listens")
        yield port
    finally:
        process.terminate()
        process.wait()


@pytest.mark.parametrize("name", ["http.server", "wsgiref", "node", "nginx"])
def test_responses_of_ordinary_servers_pass(tmp_path: Path, name: str) -> None:
    with serving(tmp_path, name) as port, GatewayProcess(tmp_path, ROUTES.format(port=port)) as gateway:
        url = f"http://127.0.0.1:{gateway.port}/hello"
        with httpx.Client(trust_env=False, verify=NO_TLS) as client:
            for _ in range(3):
                response = client.get(url)
                assert (response.status_code, response.text) == (200, "hello")
                assert client.head(url).status_code == 200


ODD = {
    "folded": b"HTTP/1.1 200 OK\r\nX-Policy: a;\r\n b\r\nContent-Length: 5\r\n\r\nhello",
    "space": b"HTTP/1.1 200 OK\r\nX-Policy : a; b\r\nContent-Length: 5\r\n\r\nhello",
    "no name": b"HTTP/1.1 200 OK\r\nX Odd: 1\r\nwarning\r\nX-Policy: a; b\r\nContent-Length: 5\r\n\r\nhello",
    "lengths": b"HTTP/1.1 200\r\nX-Policy: a; b\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
    "no length": b"HTTP/1.0 200 OK\r\nX-Policy: a; b\r\n\r\nhello",
    "many": b"HTTP/1.1 200 OK\r\nX-Policy: a; b\r\nContent-Length: 5\r\n" + b"Link: <a>\r\n" * 500 + b"\r\nhello",
}


def test_odd_responses_pass(tmp_path: Path) -> None:
    upstream = RawUpstream()
    with GatewayProcess(tmp_path, ROUTES.format(port=upstream.port)) as gateway:
        for name, answer in ODD.items():

            def respond(connection: object, answer: bytes = answer) -> None:
                connection.sendall(answer)  # type: ignore[attr-defined]  # a socket
                raise OSError

            upstream.answers["odd"] = respond
            for _ in range(2):
                response = httpx.get(f"http://127.0.0.1:{gateway.port}/odd", trust_env=False, verify=NO_TLS)
                outcome = (response.status_code, response.text, response.headers["x-policy"])
                assert outcome == (200, "hello", "a; b"), name
    upstream.close()
