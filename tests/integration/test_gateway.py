"""A real gateway between real sockets: big bodies, clients that leave, upstreams that die, certificates, its end."""

import os
import re
import signal
import socket
import ssl
import struct
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from certificates import Authority
from clusters import free_ports, wait_until
from gateways import PATIENCE, GatewayProcess, head, open_files, read_all, read_until
from harness import GatewayHarness
from upstreams import BEGINNING, OK, ProcessUpstream, RawUpstream

from ostiary.testing import Issuer

MIB = 1024 * 1024

#: More than any machine's buffers, and by how much memory may grow on its account.
BIG = 2048 * MIB
GROWTH = 20 * MIB

#: Clients that leave; of those, every so many-th in a flood.
LEAVING = 20_000
FLOODED = 10

#: What the sockets on the way hold, at most, when nobody reads.
BUFFERS = 64 * MIB

#: An answer that is more than a small window takes, and one of which a part is missing.
LARGE_BODY = b"x" * MIB
LARGE = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (MIB, LARGE_BODY)
BROKEN = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npart\r\n"

ROUTES = """\
upstreams:
  up: {{url: "{url}"}}
routes:
  - name: all
    match: {{path: "/r/{{rest...}}", methods: [GET, POST]}}
    upstream: up
    access: public
    limits: {{body_bytes: 10000000000}}
  - name: quick
    match: {{path: /quick, methods: [POST]}}
    upstream: up
    access: public
    timeouts: {{total: 1}}
  - {{name: socket, match: {{path: /socket, methods: [GET]}}, upstream: up, access: public, websocket: true}}
"""

#: The end of an interim response, as the gateway passes it on.
HINT = b" 103 Early Hints\r\nvia: 1.1 ostiary\r\n\r\n"


class Pattern:
    """Bytes without an end, each piece of which can be told from those that do not belong in its place."""

    #: Prime, so that no buffer's size is a multiple.
    _PERIOD = 1_000_003

    def __init__(self) -> None:
        self._bytes = os.urandom(self._PERIOD) * 2

    def piece(self, offset: int, size: int) -> bytes:
        """Return the bytes at a place; at most a million."""
        start = offset % self._PERIOD
        return self._bytes[start : start + size]


PATTERN = Pattern()


class Sending:
    """Sends the pattern through a socket, and counts."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.sent = 0

    def __call__(self, connection: socket.socket) -> None:
        while self.sent < self.size:
            self.sent += connection.send(PATTERN.piece(self.sent, min(MIB // 2, self.size - self.sent)))

    def settled(self) -> int:
        """Return how much was sent when it does not go on."""
        seen, since = -1, 0.0

        def has_stopped() -> bool:
            nonlocal seen, since
            if self.sent != seen:
                seen, since = self.sent, time.monotonic()
            return bool(seen) and time.monotonic() - since > 0.3

        wait_until(has_stopped, "it is held up", PATIENCE)
        return seen


def take(connection: socket.socket, size: int, beginning: bytes = b"") -> None:
    """Read so many bytes of the pattern, and see that they are those."""
    offset, piece = 0, beginning
    while True:
        assert piece == PATTERN.piece(offset, len(piece)), f"other bytes at {offset}"
        offset += len(piece)
        if offset >= size:
            break
        piece = connection.recv(MIB // 2)
        assert piece, f"the end came after {offset}"
    assert offset == size


@pytest.fixture(scope="module")
def gateway(upstream: RawUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    with GatewayProcess(tmp_path_factory.mktemp("gateway"), ROUTES.format(url=url_of(upstream))) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def tls_servers(authority: Authority) -> Iterator[dict[str, RawUpstream]]:
    contexts = {
        "good": authority.context("localhost", "127.0.0.1"),
        "other-name": authority.context("elsewhere.test"),
        "expired": authority.context("localhost", age=timedelta(days=2)),
        "self-signed": authority.context("localhost", is_signed=False),
    }
    servers = {name: RawUpstream(tls=context) for name, context in contexts.items()}
    yield servers
    for server in servers.values():
        server.close()


@pytest.fixture(scope="module")
def tls_gateway(
    authority: Authority, tls_servers: dict[str, RawUpstream], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[GatewayProcess]:
    urls = {name: f"https://localhost:{server.port}" for name, server in tls_servers.items()}
    urls["by-address"] = f"https://127.0.0.1:{tls_servers['good'].port}"
    routes = [
        f'- {{name: {name}, match: {{path: "/{name}/{{rest...}}", methods: [GET, POST]}}, upstream: {name},'
        " access: public, limits: {body_bytes: 10000000000}}"
        for name in urls
    ]
    upstreams = [f'{name}: {{url: "{url}"}}' for name, url in urls.items()]
    file = "\n  ".join(["upstreams:", *upstreams]) + "\n" + "\n  ".join(["routes:", *routes]) + "\n"
    directory = tmp_path_factory.mktemp("gateway")
    with GatewayProcess(directory, file, SSL_CERT_FILE=str(authority.file)) as gateway:
        yield gateway


@pytest.fixture
def process_upstream() -> Iterator[ProcessUpstream]:
    upstream = ProcessUpstream().start()
    yield upstream
    upstream.kill()


def url_of(upstream: RawUpstream | ProcessUpstream) -> str:
    return f"http://127.0.0.1:{upstream.port}"


def body_of(answer: bytes, status: int = 200) -> bytes:
    """Return what an answer with this status says."""
    assert answer.startswith(f"HTTP/1.1 {status} ".encode()), answer
    return answer.partition(b"\r\n\r\n")[2]


class TestMemory:
    @pytest.mark.parametrize("size", [BIG // 8, pytest.param(BIG, marks=pytest.mark.slow)])
    def test_a_big_upload_takes_none(self, gateway: GatewayProcess, upstream: RawUpstream, size: int) -> None:
        upload(gateway, upstream, "/r/upload", size)

    @pytest.mark.parametrize("size", [BIG // 8, pytest.param(BIG, marks=pytest.mark.slow)])
    def test_a_big_download_to_a_slow_reader_takes_none(
        self, gateway: GatewayProcess, upstream: RawUpstream, size: int
    ) -> None:
        download(gateway, upstream, "/r/download", size)

    @pytest.mark.parametrize("leaving", [LEAVING // 10, pytest.param(LEAVING, marks=pytest.mark.slow)])
    def test_clients_that_leave_within_an_answer_leave_nothing(
        self, process_upstream: ProcessUpstream, tmp_path: Path, leaving: int
    ) -> None:
        with GatewayProcess(tmp_path, ROUTES.format(url=url_of(process_upstream))) as gateway:

            def come_and_leave(count: int) -> None:
                for number in range(count):
                    leave(gateway, "/r/flood" if number % FLOODED == 0 else "/r/part")

            def come_and_leave_often(count: int) -> None:
                with ThreadPoolExecutor(8) as pool:
                    list(pool.map(come_and_leave, [count // 8] * 8))

            sides = (gateway.process.pid, process_upstream.pid)
            files = [open_files(pid) for pid in sides]
            come_and_leave_often(LEAVING // 10)
            before = gateway.rss()
            come_and_leave_often(leaving)
            wait_until(
                lambda: all(open_files(pid) <= count for pid, count in zip(sides, files, strict=True)),
                "all connections are closed, on both sides",
            )
            assert gateway.rss() - before < GROWTH // 5
            # Nobody is taken to have connections open any more, of which there may be a thousand.
            body_of(gateway.ask("/r/good"))


def upload(gateway: GatewayProcess, upstream: RawUpstream, path: str, size: int) -> None:
    """Send a big body to an upstream that does not read it, then does, and see what that takes of memory."""
    goes_on, taken = threading.Event(), threading.Event()

    def take_body(connection: socket.socket) -> None:
        goes_on.wait(PATIENCE)
        take(connection, size, upstream.last("upload").partition(b"\r\n\r\n")[2])
        taken.set()
        connection.sendall(OK)

    upstream.answers["upload"] = take_body
    before, sending = gateway.rss(), Sending(size)
    with gateway.connect() as connection, ThreadPoolExecutor(1) as pool:
        connection.sendall(head(path, "POST", b"Content-Length: %d\r\nConnection: close\r\n" % size))
        sender = pool.submit(sending, connection)
        held_at = sending.settled()
        goes_on.set()
        sender.result()
        assert body_of(read_all(connection)) == b"ok"
    assert taken.is_set()
    assert held_at < BUFFERS
    assert gateway.peak() - before < GROWTH


def download(gateway: GatewayProcess, upstream: RawUpstream, path: str, size: int) -> None:
    """Ask for a big answer and do not read it, then do, and see what that takes of the gateway's memory."""
    sending = Sending(size)

    def send(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        sending(connection)

    upstream.answers["download"] = send
    before = gateway.rss()
    with gateway.connect() as connection:
        connection.sendall(head(path))
        assert sending.settled() < BUFFERS
        beginning = b""
        while b"\r\n\r\n" not in beginning:
            beginning += connection.recv(65536)
        take(connection, size, body_of(beginning))
    assert gateway.peak() - before < GROWTH


def leave(gateway: GatewayProcess, path: str) -> None:
    """Ask for a long answer, and reset the connection when the first of it is there."""
    with gateway.connect() as connection:
        connection.sendall(head(path))
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


class TestEnd:
    """SIGTERM. A container's runtime waits for ten seconds, and then kills."""

    @pytest.mark.parametrize("workers", ["1", "2"])
    def test_what_has_come_is_answered_and_nothing_more_is_taken(
        self, upstream: RawUpstream, tmp_path: Path, workers: str
    ) -> None:
        has_come, released = threading.Event(), threading.Event()

        def answer_late(connection: socket.socket) -> None:
            has_come.set()
            released.wait(PATIENCE)
            connection.sendall(OK)

        def take_body(connection: socket.socket) -> None:
            size = len(upstream.last("body").partition(b"\r\n\r\n")[2])
            while size < 8:
                size += len(connection.recv(8))
            connection.sendall(OK)

        upstream.answers |= {"late": answer_late, "body": take_body}
        with ExitStack() as stack:
            routes = ROUTES.format(url=url_of(upstream))
            gateway = stack.enter_context(GatewayProcess(tmp_path, routes, OSTIARY_GATEWAY_WORKERS=workers))
            idle, waiting, sending = [stack.enter_context(gateway.connect()) for _ in range(3)]
            idle.sendall(head("/r/good"))
            read_until(idle, b"ok")
            waiting.sendall(head("/r/late"))
            sending.sendall(head("/r/body", "POST", b"Expect: 100-continue\r\nContent-Length: 8\r\n"))
            read_until(sending, b" 100 Continue\r\n\r\n")
            sending.sendall(b"half")
            assert has_come.wait(PATIENCE)
            gateway.process.send_signal(signal.SIGTERM)
            assert read_all(idle) == b""
            wait_until(lambda: not gateway.listens(), "it takes no more connections")
            sending.sendall(b"half")
            released.set()
            assert [body_of(read_all(each)) for each in (waiting, sending)] == [b"ok", b"ok"]
            assert gateway.process.wait(PATIENCE) == 0
            assert "Traceback" not in gateway.log

    def test_who_would_never_end_is_not_waited_for_long(self, upstream: RawUpstream, tmp_path: Path) -> None:
        def answer(beginning: bytes) -> Callable[[socket.socket], None]:
            def begin(connection: socket.socket) -> None:
                connection.sendall(beginning)
                connection.recv(1)

            return begin

        opened = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
        streaming = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nbegun\r\n"
        upstream.answers |= {"socket": answer(opened), "stream": answer(streaming)}
        with (
            GatewayProcess(tmp_path, ROUTES.format(url=url_of(upstream)), OSTIARY_GATEWAY_DRAIN_TIMEOUT="1") as gateway,
            gateway.connect() as talking,
            gateway.connect() as listening,
        ):
            talking.sendall(head("/socket", fields=b"Upgrade: websocket\r\nConnection: Upgrade\r\n"))
            assert read_until(talking, b"\r\n\r\n").startswith(b"HTTP/1.1 101 ")
            listening.sendall(head("/r/stream"))
            read_until(listening, b"begun\r\n")
            gateway.process.send_signal(signal.SIGTERM)
            assert gateway.process.wait(PATIENCE) == 0
            # Not `0\r\n\r\n`: that would say that it was all there. WebSockets are told.
            assert (read_all(talking), read_all(listening)) == (b"\x88\x0c\x03\xe9going away", b"")
            assert "Traceback" not in gateway.log
            # What was cut off, and what ended as it does, is in the log.
            assert re.search(r"route=/r/\S+ status=200 decision=gateway_shutdown ", gateway.log)
            assert re.search(r"route=/socket status=101 decision=allowed ", gateway.log)

    def test_the_last_answer_reaches_who_has_asked_further(self, upstream: RawUpstream, tmp_path: Path) -> None:
        has_come, released = threading.Event(), threading.Event()

        def answer_late(connection: socket.socket) -> None:
            has_come.set()
            released.wait(PATIENCE)
            connection.sendall(LARGE)

        upstream.answers["late"] = answer_late
        with GatewayProcess(tmp_path, ROUTES.format(url=url_of(upstream))) as gateway, gateway.connect() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
            connection.sendall(head("/r/late"))
            assert has_come.wait(PATIENCE)
            send_what_fits(connection, head("/r/good") * 20_000)
            gateway.process.send_signal(signal.SIGTERM)
            wait_until(lambda: not gateway.listens(), "it takes no more connections")
            released.set()
            assert body_of(read_to_the_end(connection)) == LARGE_BODY
            assert gateway.process.wait(PATIENCE) == 0


def test_a_last_answer_reaches_who_has_asked_further(gateway: GatewayProcess, upstream: RawUpstream) -> None:
    upstream.answer("large", LARGE)
    with gateway.connect() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        send_what_fits(connection, head("/r/large", fields=b"Connection: close\r\n") + head("/r/good") * 5000)
        assert body_of(read_to_the_end(connection)) == LARGE_BODY


@pytest.mark.parametrize("ends", [False, True])
def test_who_speaks_http_1_0_can_tell_a_part_from_all_of_it(
    gateway: GatewayProcess, upstream: RawUpstream, ends: bool
) -> None:
    def answer(connection: socket.socket) -> None:
        connection.sendall(BROKEN + (b"0\r\n\r\n" if ends else b""))
        connection.close()

    upstream.answers["part"] = answer
    with gateway.connect() as connection:
        connection.sendall(b"GET /r/part HTTP/1.0\r\nHost: localhost\r\n\r\n")
        if ends:
            assert body_of(read_to_the_end(connection)) == b"part"
        else:
            with pytest.raises(ConnectionResetError):
                read_to_the_end(connection)


def send_what_fits(connection: socket.socket, data: bytes) -> None:
    """Send what the other side takes of it, or the systems in between."""
    connection.settimeout(0.5)
    with suppress(TimeoutError):
        connection.sendall(data)
    connection.settimeout(PATIENCE)


def read_to_the_end(connection: socket.socket) -> bytes:
    """Return all that comes until the other side has closed as one does. Raises ConnectionResetError."""
    received = b""
    while chunk := connection.recv(65536):
        received += chunk
    return received


class TestTls:
    """Upstreams whose certificates are verified; nobody else hears anything."""

    @pytest.mark.parametrize("name", ["good", "by-address"])
    def test_who_is_who_they_say_gets_requests(
        self, tls_gateway: GatewayProcess, tls_servers: dict[str, RawUpstream], name: str
    ) -> None:
        def takes_one_connection_for_two_requests() -> bool:
            before = tls_servers["good"].connections
            for _ in range(2):
                assert body_of(tls_gateway.ask(f"/{name}/x", fields=b"X-A: 1\r\n")) == b"ok"
            return tls_servers["good"].connections <= before + 1

        # Not at first, if the addresses of the name get known in between.
        wait_until(takes_one_connection_for_two_requests, "connections are used again", PATIENCE)
        assert b"x-a: 1\r\n" in tls_servers["good"].received[-1].lower()

    @pytest.mark.parametrize("name", ["other-name", "expired", "self-signed"])
    def test_who_is_not_hears_nothing(
        self, tls_gateway: GatewayProcess, tls_servers: dict[str, RawUpstream], name: str
    ) -> None:
        fields = b"Authorization: Bearer secret\r\nContent-Length: 4\r\n"
        assert b'"upstream_unavailable"' in body_of(tls_gateway.ask(f"/{name}/x", "POST", fields, b"body"), 503)
        server = tls_servers[name]
        wait_until(lambda: server.refusals == 1, "the server was told", PATIENCE)
        assert (server.connections, server.received) == (1, [])

    @pytest.mark.parametrize(("name", "end"), [("whole", b"0\r\n\r\n"), ("cut", b"")])
    def test_an_answer_that_ends_with_its_connection_is_whole_if_the_server_says_so(
        self, tls_gateway: GatewayProcess, tls_servers: dict[str, RawUpstream], name: str, end: bytes
    ) -> None:
        def answer(connection: socket.socket) -> None:
            connection.sendall(b"HTTP/1.1 200 OK\r\n\r\nanswer")
            assert isinstance(connection, ssl.SSLSocket)
            if end:
                connection.unwrap()
            else:
                # Anybody on the way can do that.
                connection.shutdown(socket.SHUT_WR)
                connection.recv(1)
            raise ConnectionError

        tls_servers["good"].answers[name] = answer
        assert body_of(tls_gateway.ask(f"/good/{name}")) == b"6\r\nanswer\r\n" + end

    def test_a_big_upload_takes_no_memory(
        self, tls_gateway: GatewayProcess, tls_servers: dict[str, RawUpstream]
    ) -> None:
        upload(tls_gateway, tls_servers["good"], "/good/upload", BIG // 8)

    def test_a_big_download_to_a_slow_reader_takes_no_memory(
        self, tls_gateway: GatewayProcess, tls_servers: dict[str, RawUpstream]
    ) -> None:
        download(tls_gateway, tls_servers["good"], "/good/download", BIG // 8)


class TestAddresses:
    def test_an_upstream_may_have_an_ipv6_address(self, tmp_path: Path) -> None:
        upstream = RawUpstream(ipv6_loopback())
        url = f'http://[::1]:{upstream.port}", host: "upstream'
        with GatewayProcess(tmp_path, ROUTES.format(url=url)) as gateway:
            assert body_of(gateway.ask("/r/good")) == b"ok"
        upstream.close()
        assert f"\r\nhost: [::1]:{upstream.port}\r\n" in upstream.received[-1].decode().lower()

    def test_the_gateway_may_have_an_ipv6_address(self, upstream: RawUpstream, tmp_path: Path) -> None:
        with GatewayProcess(tmp_path, ROUTES.format(url=url_of(upstream)), host=ipv6_loopback()) as gateway:
            assert body_of(gateway.ask("/r/six", fields=b"X-Forwarded-For: 192.0.2.1\r\n")) == b"ok"
        assert re.findall(rb"x-forwarded-for: *(.*?)\r\n", upstream.last("six").lower()) == [b"::1"]

    def test_a_name_may_have_an_address_where_nobody_listens(self, tmp_path: Path) -> None:
        families = [found[0] for found in socket.getaddrinfo("localhost", 1, type=socket.SOCK_STREAM)]
        if len(families) < 2:
            pytest.skip("localhost has one address on this machine")
        upstream = RawUpstream("::1" if families[-1] == socket.AF_INET6 else "127.0.0.1")
        with GatewayProcess(tmp_path, ROUTES.format(url=f"http://localhost:{upstream.port}")) as gateway:
            assert body_of(gateway.ask("/r/good")) == b"ok"
        upstream.close()


class TestNames:
    """In one process, as nobody can be made to believe in a name's address from outside."""

    @pytest.fixture
    def upstreams(self) -> Iterator[tuple[RawUpstream, RawUpstream]]:
        """Two upstreams, at different addresses and the same port."""
        if not is_address("127.0.0.2"):
            pytest.skip("127.0.0.2 is no address of this machine")
        (port,) = free_ports(1)
        one, two = (RawUpstream(address, port) for address in ("127.0.0.1", "127.0.0.2"))
        for number, upstream in enumerate((one, two), 1):
            upstream.answer("who", b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n%d" % number)
        yield one, two
        one.close()
        two.close()

    @pytest.fixture
    async def addresses(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """Return the addresses of `service.test`, which may be changed."""
        addresses: list[str] = []

        def found(host: str, port: int, **_: Any) -> list[Any]:
            assert host == "service.test"
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

        monkeypatch.setattr(socket, "getaddrinfo", found)
        return addresses

    @pytest.fixture
    async def harness(
        self, upstreams: tuple[RawUpstream, RawUpstream], monkeypatch: pytest.MonkeyPatch
    ) -> AsyncIterator[GatewayHarness]:
        """Return a gateway that looks a name up for its connections alone, and not in between at any time."""
        monkeypatch.setattr("ostiary_gateway.upstream.replicas.Replicas.on_tick", lambda *_: None)
        verifier = Issuer("http://localhost:8080").verifier()
        url = f"http://service.test:{upstreams[0].port}"
        async with GatewayHarness.open(ROUTES.format(url=url), url, verifier) as harness:
            yield harness

    async def test_a_name_that_has_come_to_mean_another_address_is_followed(
        self, harness: GatewayHarness, addresses: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        addresses[:] = ["127.0.0.1"]
        assert (await harness.request("/r/who")).body == b"1"
        addresses[:] = ["127.0.0.2"]
        # What is open stays in use, and no longer than it may.
        assert (await harness.request("/r/who")).body == b"1"
        monkeypatch.setattr("ostiary_gateway.upstream.pool.MAX_AGE_SECONDS", 0.0)
        assert (await harness.request("/r/who")).body == b"2"

    async def test_a_name_is_asked_for_again_when_its_upstream_has_gone(
        self, harness: GatewayHarness, upstreams: tuple[RawUpstream, RawUpstream], addresses: list[str]
    ) -> None:
        gone = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 1\r\n\r\n1"
        upstreams[0].answer("who", gone)
        addresses[:] = ["127.0.0.1"]
        assert (await harness.request("/r/who")).body == b"1"
        addresses[:] = ["127.0.0.2"]
        assert (await harness.request("/r/who")).body == b"2"

    async def test_an_address_that_refuses_is_not_a_names_last(
        self, harness: GatewayHarness, upstreams: tuple[RawUpstream, RawUpstream], addresses: list[str]
    ) -> None:
        upstreams[0].close()
        addresses[:] = ["127.0.0.1", "127.0.0.2"]
        assert (await harness.request("/r/who")).body == b"2"

    async def test_a_name_without_an_address_is_unavailable(
        self, harness: GatewayHarness, addresses: list[str]
    ) -> None:
        answer = await harness.request("/r/who")
        assert (answer.status, answer.code) == (503, "upstream_unavailable")
        addresses[:] = ["127.0.0.1"]
        assert (await harness.request("/r/who")).body == b"1"


def ipv6_loopback() -> str:
    """Return the address, if there is one."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no ::1")
    return "::1"


class TestDeaths:
    """An upstream that is killed, with requests in all states."""

    @pytest.fixture
    def gateway(self, process_upstream: ProcessUpstream, tmp_path: Path) -> Iterator[GatewayProcess]:
        with GatewayProcess(tmp_path, ROUTES.format(url=url_of(process_upstream))) as gateway:
            yield gateway

    def test_what_was_begun_is_broken_off_and_what_was_asked_has_failed(
        self, gateway: GatewayProcess, process_upstream: ProcessUpstream
    ) -> None:
        with ExitStack() as stack:
            begun, asked, sending = [[stack.enter_context(gateway.connect()) for _ in range(5)] for _ in range(3)]
            for connection in begun:
                connection.sendall(head("/r/part"))
                read_until(connection, BEGINNING)
            for connection in asked:
                connection.sendall(head("/r/never", fields=b"Connection: close\r\n"))
                read_until(connection, HINT)
            for connection in sending:
                connection.sendall(head("/r/never", "POST", b"Expect: 100-continue\r\nContent-Length: 8\r\n"))
                read_until(connection, HINT)
                connection.sendall(b"half")
            process_upstream.kill()
            assert [read_all(connection) for connection in begun] == [b""] * len(begun)
            for connection in (*asked, *sending):
                assert b'"upstream_failed"' in body_of(read_all(connection), 502)

    def test_a_big_body_that_was_held_up_is_let_go(
        self, gateway: GatewayProcess, process_upstream: ProcessUpstream
    ) -> None:
        sending = Sending(BIG)

        def send(connection: socket.socket) -> None:
            with suppress(ConnectionError):
                sending(connection)

        with gateway.connect() as connection, ThreadPoolExecutor(1) as pool:
            connection.sendall(head("/r/never", "POST", b"Content-Length: %d\r\n" % BIG))
            read_until(connection, HINT)
            process_upstream.signal(signal.SIGSTOP)
            sender = pool.submit(send, connection)
            sending.settled()
            process_upstream.kill()
            assert b'"upstream_failed"' in body_of(read_all(connection), 502)
            # What is left of the body is read and dropped, so that the client gets to see the response.
            sender.result(PATIENCE)

    def test_requests_are_answered_as_soon_as_it_is_back(
        self, gateway: GatewayProcess, process_upstream: ProcessUpstream
    ) -> None:
        # With a connection that is kept, and one that is in use.
        assert body_of(gateway.ask("/r/pid")) == b"%d" % process_upstream.pid
        with gateway.connect() as begun:
            begun.sendall(head("/r/part"))
            read_until(begun, BEGINNING)
            process_upstream.kill()
            assert read_all(begun) == b""
        for _ in range(5):
            answer = gateway.ask("/r/pid")
            assert b"\r\nretry-after: 1\r\n" in answer
            assert b'"upstream_unavailable"' in body_of(answer, 503)
        process_upstream.start()
        assert body_of(gateway.ask("/r/pid")) == b"%d" % process_upstream.pid


class TestSlowness:
    def test_bytes_may_come_one_by_one(self, gateway: GatewayProcess, upstream: RawUpstream) -> None:
        def take_body(connection: socket.socket) -> None:
            body = upstream.last("slow").partition(b"\r\n\r\n")[2]
            while len(body) < 8:
                body += connection.recv(8)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n" + body)

        upstream.answers["slow"] = take_body
        with gateway.connect() as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for byte in head("/r/slow", "POST", b"Content-Length: 8\r\nConnection: close\r\n") + b"bit\0bits":
                connection.send(bytes([byte]))
            assert body_of(read_all(connection)) == b"bit\0bits"

    def test_many_who_are_slow_are_nobody_elses_matter(self, gateway: GatewayProcess, upstream: RawUpstream) -> None:
        def take_body(connection: socket.socket) -> None:
            connection.recv(1)
            connection.sendall(OK)

        upstream.answers["wait"] = take_body
        with ExitStack() as stack:
            slow = [stack.enter_context(gateway.connect()) for _ in range(500)]
            heads, bodies = slow[:400], slow[400:]
            for connection in heads:
                connection.sendall(head("/r/good", fields=b"Connection: close\r\n")[:-2])
            for connection in bodies:
                connection.sendall(head("/r/wait", "POST", b"Content-Length: 1\r\nConnection: close\r\n"))
            started_at = time.monotonic()
            assert body_of(gateway.ask("/r/good")) == b"ok"
            # Well before the slow requests are given up.
            assert time.monotonic() - started_at < 5
            for connection in heads:
                connection.sendall(b"\r\n")
            for connection in bodies:
                connection.sendall(b"x")
            assert {body_of(read_all(connection)) for connection in slow} == {b"ok"}

    def test_a_body_that_drips_has_to_end_in_all_of_its_time(
        self, gateway: GatewayProcess, upstream: RawUpstream
    ) -> None:
        left = threading.Event()

        def take_body(connection: socket.socket) -> None:
            while connection.recv(65536):
                pass
            left.set()

        upstream.answers["quick"] = take_body
        started_at = time.monotonic()
        with gateway.connect() as connection:
            connection.sendall(head("/quick", "POST", b"Content-Length: 1000000\r\n"))
            connection.settimeout(0.02)
            answer = b""
            while not answer:
                assert time.monotonic() - started_at < PATIENCE
                connection.sendall(b"x")
                with suppress(TimeoutError):
                    answer = connection.recv(65536)
            connection.settimeout(PATIENCE)
            answer += read_all(connection)
        assert b'"body_timeout"' in body_of(answer, 408)
        assert left.wait(PATIENCE)


def test_an_address_has_so_many_connections_and_no_more(upstream: RawUpstream, tmp_path: Path) -> None:
    limit = 5
    settings = {"OSTIARY_GATEWAY_MAX_CONNECTIONS_PER_ADDRESS": str(limit)}
    with GatewayProcess(tmp_path, ROUTES.format(url=url_of(upstream)), **settings) as gateway, ExitStack() as stack:
        mine = [stack.enter_context(gateway.connect()) for _ in range(limit)]
        for connection in mine:
            connection.sendall(head("/r/good"))
            read_until(connection, b"ok")
        for _ in range(3):
            answer = gateway.ask("/r/good")
            assert b"\r\nretry-after: 1\r\n" in answer
            assert b'"too_many_connections"' in body_of(answer, 503)
        # Those who are in can go on.
        mine[0].sendall(head("/r/good"))
        read_until(mine[0], b"ok")
        if is_address("127.0.0.2"):
            assert body_of(gateway.ask("/r/good", source="127.0.0.2")) == b"ok"
        mine[0].close()
        wait_until(lambda: gateway.ask("/r/good").startswith(b"HTTP/1.1 200 "), "there is room for another one")


def is_address(address: str) -> bool:
    """Return whether this machine has it."""
    with socket.socket() as probe, suppress(OSError):
        probe.bind((address, 0))
        return True
    return False
