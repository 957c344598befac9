"""Running clusters to drive over HTTP: as local processes, and as containers. Nothing here imports a service."""

import os
import random
import secrets
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import cache
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import docker
import httpx
import pytest
from docker.models.containers import Container

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
COMPOSE_FILE = ROOT / "deploy" / "compose.yaml"
SERVICES = ("auth", "profile", "gateway")

#: Seconds for a cluster or a service to become ready, and for a process to end.
READY_SECONDS = 60.0
STOP_SECONDS = 15.0

#: Seconds for a command of the engine: the first one builds the images.
RUN_SECONDS = 600

#: For clients that never use it: loading the system's certificates takes each of them 20 ms of a core, and more than
#: once in each round of a test that waits.
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

#: Ports below the range that the kernel gives to outgoing connections, so that none is taken away.
PORTS = range(20000, 32000)


class Cluster(Protocol):
    """What the contract's tests need of a cluster."""

    url: str

    def auth_command(self, *arguments: str, stdin: str = "") -> str:
        """Run `ostiary-auth` on the cluster's database, and return what it prints."""

    def stop(self, service: str) -> None:
        """Stop a service, as an operator does."""

    def start(self, service: str) -> None:
        """Start a stopped service and wait until it answers."""


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on. Each process of a parallel run has ports of its own to choose from."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    own = PORTS[worker :: int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))]
    found: list[int] = []
    for port in random.sample(own, len(own)):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        found.append(port)
        if len(found) == count:
            return found
    raise RuntimeError("no free ports")


def wait_until(condition: Callable[[], bool], what: str, seconds: float = READY_SECONDS) -> None:
    """Wait until a condition holds. Raises AssertionError if it never does."""
    started_at = time.monotonic()
    while not condition():
        if time.monotonic() - started_at > seconds:
            raise AssertionError(f"not within {seconds:.0f} s: {what}")
        time.sleep(0.02)


def is_ready(url: str) -> bool:
    """Return whether a service says that it is ready, at its address for operations."""
    return _is_ok(f"{url}/readyz")


def is_alive(url: str) -> bool:
    """Return whether the service at an address answers at all."""
    return _is_ok(f"{url}/livez")


def is_running(pid: int) -> bool:
    """Return whether a process runs; one that has ended and is still listed does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or ") Z " not in stat.read_text()


def client_of(url: str) -> httpx.Client:
    return httpx.Client(base_url=url, timeout=READY_SECONDS, trust_env=False, verify=NO_TLS)


def run(
    *command: str | Path, env: Mapping[str, str] | None = None, stdin: str = "", cwd: Path = ROOT
) -> subprocess.CompletedProcess[str]:
    """Run a command of ours to its end, without settings of ours unless they are given."""
    return subprocess.run(  # noqa: S603 - our own command
        command,
        env=clean_environment() if env is None else env,
        cwd=cwd,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=RUN_SECONDS,
        check=False,
    )


def clean_environment(**settings: str) -> dict[str, str]:
    """Return this process's environment without settings of ours, and with the given ones."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("OSTIARY_")}
    return {**inherited, **settings}


class LocalCluster:
    """The three services as processes on SQLite, each startable and killable alone."""

    def __init__(self, data_dir: Path, **settings: str) -> None:
        """Choose ports; nothing is started yet."""
        *others, admin_port = free_ports(4)
        ports = dict(zip(SERVICES, others, strict=True))
        self.data_dir = data_dir
        self.urls = {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}
        self.url = f"http://localhost:{ports['gateway']}"
        #: Where each service serves `/readyz` and `/metrics`.
        self.operations = self.urls | {"gateway": f"http://127.0.0.1:{admin_port}"}
        self.environ = clean_environment(
            OSTIARY_DATA_DIR=str(data_dir),
            OSTIARY_FEED_SECRET_FILE=str(data_dir / "feed-secret"),
            OSTIARY_GATEWAY_SECRET_FILE=str(data_dir / "gateway-secret"),
            OSTIARY_ISSUER=self.url,
            OSTIARY_AUTH_URL=self.urls["auth"],
            OSTIARY_PROFILE_URL=self.urls["profile"],
            OSTIARY_AUTH_TRUSTED_PROXIES="127.0.0.1",
            **{f"OSTIARY_{name.upper()}_PORT": str(port) for name, port in ports.items()},
            OSTIARY_GATEWAY_ADMIN_PORT=str(admin_port),
            # Nobody distributes requests here, so that there is nothing to wait for.
            **{f"OSTIARY_{name.upper()}_DRAIN_DELAY": "0" for name in SERVICES} | settings,
        )
        #: Descriptors for the output of services, instead of files.
        self.outputs: dict[str, int] = {}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, service: str, *, wait: bool = True) -> None:
        """Start a service; its output goes to a file beside its data."""
        self.data_dir.mkdir(parents=True, exist_ok=True)
        with (self.data_dir / f"{service}.log").open("ab") as log:
            self._processes[service] = subprocess.Popen(  # noqa: S603 - our own command
                [BIN / f"ostiary-{service}", "serve"],
                env=self.environ,
                cwd=ROOT,
                stdout=self.outputs.get(service, log),
                stderr=subprocess.STDOUT,
            )
        if wait:
            wait_until(lambda: self._has_ended(service) or is_ready(self.operations[service]), f"{service} is ready")
            assert not self._has_ended(service), self.log(service)

    def start_all(self) -> None:
        """Start all services, at once as a runner does."""
        for service in SERVICES:
            self.start(service, wait=False)
        for service in SERVICES:
            wait_until(lambda name=service: is_ready(self.operations[name]), f"{service} is ready")  # type: ignore[misc]  # a default binds the name

    def stop(self, service: str) -> None:
        """Send SIGTERM and wait for a clean end."""
        assert self.signal(service, signal.SIGTERM) == 0, self.log(service)

    def process(self, service: str) -> subprocess.Popen[bytes]:
        """Return the process of a service that was started."""
        return self._processes[service]

    def signal(self, service: str, number: signal.Signals) -> int:
        """Send a signal to a service, wait for its end and return its exit code."""
        process = self._processes.pop(service)
        process.send_signal(number)
        return process.wait(STOP_SECONDS)

    def auth_command(self, *arguments: str, stdin: str = "") -> str:
        """Run `ostiary-auth` on the cluster's database, and return what it prints."""
        code, output = self.try_auth_command(*arguments, stdin=stdin)
        assert code == 0, output
        return output

    def try_auth_command(self, *arguments: str, stdin: str = "") -> tuple[int, str]:
        """Run it, and return its exit code and what it prints; if that is not 0, what it says is wrong."""
        done = run(BIN / "ostiary-auth", *arguments, env=self.environ, stdin=stdin)
        return done.returncode, done.stdout if done.returncode == 0 else done.stderr

    def rotate_keys(self) -> bool:
        """Try to rotate the signing keys. Return False while a verifier may lack the next one."""
        code, output = self.try_auth_command("keys", "rotate")
        assert code == 0 or "published long enough" in output, output
        return code == 0

    def stop_all(self) -> None:
        """End whatever still runs, all at once."""
        processes = list(self._processes.values())
        self._processes.clear()
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(STOP_SECONDS)

    def log(self, service: str) -> str:
        """Return what a service has printed."""
        return (self.data_dir / f"{service}.log").read_text()

    def _has_ended(self, service: str) -> bool:
        return self._processes[service].poll() is not None


class ComposeCluster:
    """The compose stack, under a name, a port and secrets of its own."""

    def __init__(self, directory: Path) -> None:
        """Choose a name and a port; nothing is started yet."""
        (port,) = free_ports(1)
        self.url = f"http://localhost:{port}"
        self.project = f"ostiary-test-{secrets.token_hex(4)}"
        self.secrets_dir = directory / "secrets"
        self.engine = docker.from_env()
        self.environ = clean_environment(
            OSTIARY_GATEWAY_PORT=str(port),
            OSTIARY_SECRETS_DIR=str(self.secrets_dir),
            COMPOSE_PROJECT_NAME=self.project,
            DOCKER_BUILDKIT="1",
        )

    def up(self) -> None:
        """Build the images and start all containers."""
        _build_images()
        _run([sys.executable, str(ROOT / "deploy" / "make_secrets.py"), str(self.secrets_dir)], self.environ)
        try:
            self._compose("up", "--detach", "--wait")
        except AssertionError as error:
            states, logs = self._compose("ps", "--all"), self._compose("logs", "--no-color", "--tail", "50")
            raise AssertionError(f"{logs}\n{states}\n{error}") from None

    def down(self) -> None:
        """Remove all containers, networks and volumes."""
        self._compose("down", "--volumes", "--timeout", "5")
        self.engine.close()

    def container(self, service: str) -> Container:
        """Return a service's container."""
        labels = [f"com.docker.compose.project={self.project}", f"com.docker.compose.service={service}"]
        (container,) = self.engine.containers.list(all=True, filters={"label": labels})
        return container

    def stop(self, service: str) -> None:
        """Stop a container."""
        self.container(service).stop(timeout=10)

    def start(self, service: str) -> None:
        """Start a stopped container and wait for its health check."""
        self.container(service).start()

        def is_healthy() -> bool:
            state: Mapping[str, Mapping[str, str]] = self.container(service).attrs["State"]
            return state["Health"]["Status"] == "healthy"

        wait_until(is_healthy, f"{service} is healthy")

    def execute(self, service: str, *command: str) -> tuple[int, str]:
        """Run a command in a service's container and return its exit code and output."""
        code, output = self.container(service).exec_run(list(command))
        assert code is not None
        assert isinstance(output, bytes)
        return code, output.decode()

    def auth_command(self, *arguments: str, stdin: str = "") -> str:
        """Run `ostiary-auth` in its container, and return what it prints."""
        command = ["docker", "exec", "--interactive", self.container("auth").id or "", "ostiary-auth", *arguments]
        return _run(command, self.environ, stdin)

    def containers(self) -> list[Container]:
        """Return all containers of the stack."""
        label = f"com.docker.compose.project={self.project}"
        return list(self.engine.containers.list(all=True, filters={"label": label}))

    def scale(self, service: str, count: int) -> list[Container]:
        """Run so many containers of a service, and return them once they are healthy."""
        self._compose("up", "--detach", "--wait", "--no-recreate", "--scale", f"{service}={count}", service)
        return [each for each in self.containers() if each.labels["com.docker.compose.service"] == service]

    def _compose(self, *arguments: str) -> str:
        command = ["docker", "compose", "--project-name", self.project, "--file", str(COMPOSE_FILE)]
        return _run([*command, *arguments], self.environ)


def engine_answers() -> bool:
    """Return whether a Docker engine and compose v2 are there."""
    try:
        _run(["docker", "info"], os.environ)
        _run(["docker", "compose", "version"], os.environ)
    except (OSError, AssertionError):
        return False
    return True


def need_engine() -> None:
    """Skip the test without a Docker engine and compose v2, or fail it if CI=true."""
    if engine_answers():
        return
    if os.environ.get("CI") == "true":
        pytest.fail("no Docker engine with compose v2 answers, and CI=true makes that a failure")
    pytest.skip("no Docker engine with compose v2 answers")


def _is_ok(url: str) -> bool:
    parts = urlsplit(url)
    connection = HTTPConnection(parts.netloc, timeout=2)
    try:
        connection.request("GET", parts.path)
        return connection.getresponse().status == httpx.codes.OK
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


@cache
def _build_images() -> None:
    """Bring the images up to date, once for all stacks of a process."""
    with tempfile.TemporaryDirectory() as secrets_dir:
        environ = clean_environment(OSTIARY_SECRETS_DIR=secrets_dir, DOCKER_BUILDKIT="1")
        _run(["docker", "compose", "--file", str(COMPOSE_FILE), "build", "--quiet"], environ)


def _run(command: list[str], environ: Mapping[str, str], stdin: str = "") -> str:
    done = run(*command, env=environ, stdin=stdin)
    assert done.returncode == 0, f"{command}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
    return done.stdout
