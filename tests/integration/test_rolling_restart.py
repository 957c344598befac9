"""An upstream with two addresses, each a real server, that are away or restarted in turn while requests go on."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from clusters import NO_TLS, free_ports, wait_until
from gateways import GatewayProcess
from upstreams import listens

ROUTES = """\
upstreams:
  two: {{urls: ["http://127.0.0.1:{first}", "http://127.0.0.1:{second}"]}}
routes:
  - name: any
    match: {{path: "/any/{{rest...}}", methods: [GET, POST, PUT, DELETE]}}
    upstream: two
    access: public
"""

ASGI = """
import asyncio

async def asgi(scope, receive, send):
    assert scope["type"] == "http"
    size, more = 0, True
    while more:
        message = await receive()
        size, more = size + len(message.get("body", b"")), message.get("more_body", False)
    await asyncio.sleep(0.002)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": str(size).encode()})
"""

WSGI = """
def wsgi(environ, start_response):
    size = len(environ["wsgi.input"].read())
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(size).encode()]
"""

#: Answers each request that it has received. It serves its connections until the other side closes them: whoever closes
#: one that is idle may meet a request that is on its way.
ORDERLY = """
import asyncio, signal, socket, sys

async def serve(reader, writer):
    while not reader.at_eof():
        try:
            head = await reader.readuntil(b"\\r\\n\\r\\n")
        except asyncio.IncompleteReadError:
            return writer.close()
        length = [line for line in head.lower().split(b"\\r\\n") if line.startswith(b"content-length:")]
        size = len(await reader.readexactly(int(length[0].split(b":")[1]))) if length else 0
        last = b"connection: close\\r\\n" if ending.is_set() else b""
        content = b"%d" % size
        writer.write(b"HTTP/1.1 200 OK\\r\\ncontent-length: %d\\r\\n%b\\r\\n%b" % (len(content), last, content))
        if last:
            return writer.close()

async def serve_accepted(connection):
    await serve(*await asyncio.open_connection(sock=connection))

async def main():
    listener = socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=1024)
    backlog = listener.dup()
    server = await asyncio.start_server(serve, sock=listener, backlog=1024)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ending.set)
    await ending.wait()
    await asyncio.sleep(0.1)
    server.close()
    # The system resets connections that nobody has accepted: the event loop may be late, so accept the rest here.
    backlog.setblocking(False)
    accepted = []
    try:
        while True:
            accepted.append(backlog.accept()[0])
    except BlockingIOError:
        backlog.close()
    tasks = [asyncio.create_task(serve_accepted(connection)) for connection in accepted]
    await asyncio.Event().wait()

ending = asyncio.Event()
asyncio.run(main())
"""

SERVERS = {
    "uvicorn": ("-m", "uvicorn", "--lifespan", "off", "--log-level", "error", "served:asgi", "--port"),
    "gunicorn": ("-m", "gunicorn", "--threads", "8", "--log-level", "error", "served:wsgi", "-b"),
    "orderly": ("-c", ORDERLY),
}

#: What is sent: methods, and how much content with each. A POST that a server closes on unread cannot be sent again.
IDEMPOTENT = (("GET", 0), ("PUT", 2000), ("DELETE", 0))
ALL = (*IDEMPOTENT, ("POST", 0), ("POST", 2000), ("POST", 200_000))


class Server:
    """A server that is restarted as a process manager does it: by SIGTERM."""

    def __init__(self, directory: Path, name: str) -> None:
        (directory / "served.py").write_text(ASGI + WSGI)
        (self.port,) = free_ports(1)
        bind = f"127.0.0.1:{self.port}" if name == "gunicorn" else str(self.port)
        self._command = [sys.executable, *SERVERS[name], bind]
        self._directory = directory
        self._ends_by_itself = name != "orderly"
        self._process: subprocess.Popen[bytes] | None = None
        self._leaving: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        environment = {**os.environ, "PYTHONPATH": str(self._directory)}
        self._process = subprocess.Popen(self._command, env=environment)  # noqa: S603 - of this file
        wait_until(lambda: listens(self.port), "the server listens")

    def stop(self) -> None:
        """Stop listening, and wait for the end of a server that ends by itself."""
        if self._process is not None:
            self._process.terminate()
            if self._ends_by_itself:
                self._process.wait()
            else:
                wait_until(lambda: not listens(self.port), "the server does not listen any more")
                self._leaving.append(self._process)
            self._process = None

    def kill(self) -> None:
        """End it, whatever it does."""
        self.stop()
        for process in self._leaving:
            process.kill()
            process.wait()


@contextmanager
def load(port: int, requests: Sequence[tuple[str, int]] = ALL, clients: int = 8) -> Iterator[list[str]]:
    """Send requests until the end of the block. Yield what failed."""
    failures: list[str] = []
    is_over = threading.Event()
    sent = [0]

    def send() -> None:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30, trust_env=False, verify=NO_TLS) as client:
            while not is_over.is_set():
                for method, size in requests:
                    response = client.request(method, "/any/x", content=b"x" * size)
                    sent[0] += 1
                    if (response.status_code, response.text) != (200, str(size)):
                        failures.append(f"{method} {size}: {response.status_code} {response.text}")

    with ThreadPoolExecutor(clients) as pool:
        senders = [pool.submit(send) for _ in range(clients)]
        try:
            wait_until(lambda: sent[0] > clients, "requests are answered")
            yield failures
        finally:
            is_over.set()
        for sender in senders:
            sender.result()


@pytest.mark.parametrize("name", SERVERS)
def test_no_request_fails_while_servers_are_restarted_in_turn(tmp_path: Path, name: str) -> None:
    servers = [Server(tmp_path, name) for _ in range(2)]
    routes = ROUTES.format(first=servers[0].port, second=servers[1].port)
    try:
        for server in servers:
            server.start()
        requests = ALL if name == "orderly" else IDEMPOTENT
        with GatewayProcess(tmp_path, routes) as gateway, load(gateway.port, requests) as failures:
            for _ in range(2):
                for server in servers:
                    server.stop()
                    time.sleep(0.5)
                    server.start()
                    time.sleep(0.5)
        assert failures == []
    finally:
        for server in servers:
            server.kill()


def test_no_request_fails_while_one_address_is_away(tmp_path: Path) -> None:
    server = Server(tmp_path, "uvicorn")
    (dead,) = free_ports(1)
    server.start()
    try:
        with GatewayProcess(tmp_path, ROUTES.format(first=dead, second=server.port)) as gateway:
            with load(gateway.port) as failures:
                # Longer than the first ejection.
                time.sleep(6)
            assert failures == []
            # As long as it is away, nobody is sent there to try.
            assert gateway.log.count("endpoint ejected") >= 2
    finally:
        server.stop()
