"""Find the cluster's other parts for the demo: a second gateway, the auth service and the example service."""

import json
import os
import secrets
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from race import race

_HERE = Path(__file__).parent
_COMPOSE = ["docker", "compose", "-f", str(_HERE.parent / "deploy" / "compose.yaml")]
_METADATA = "/.well-known/oauth-authorization-server"

#: Seconds for a command.
_COMMAND_SECONDS = 60.0


@dataclass(frozen=True)
class Stack:
    """The verifiers of a cluster by name, and the container from which they are reachable if they are not published."""

    verifiers: Mapping[str, str]
    logout: str
    container: str | None = None

    def race(self, token: str) -> dict[str, float]:
        """Log out, and return after how many milliseconds each verifier rejected the token."""
        query = {"token": token, "logout": self.logout, "verifiers": dict(self.verifiers)}
        if self.container is None:
            return race(token, self.logout, dict(self.verifiers))
        source = (_HERE / "race.py").read_text()
        command = ["docker", "exec", "--interactive", self.container, "python", "-c", source]
        timings: dict[str, float] = json.loads(_run(command, stdin=json.dumps(query)))
        return timings


@contextmanager
def find(url: str) -> Iterator[Stack]:
    """Find the stack behind a gateway, and add a second gateway for the duration of the context.

    If it is neither `make run` nor `make up` of this folder with these settings, only the gateway is known.
    """
    auth = f"http://127.0.0.1:{os.environ.get('OSTIARY_AUTH_PORT') or '8081'}"
    if _issuer_at(auth) == url:
        with _second_process(url, auth) as found:
            yield found
    elif (container := _gateway_container(url)) is not None:
        with _second_container(container) as found:
            yield found
    else:
        yield Stack({"gateway": f"{url}/profiles/me"}, f"{url}/auth/logout")


@contextmanager
def _second_process(url: str, auth: str) -> Iterator[Stack]:
    profile = f"http://127.0.0.1:{os.environ.get('OSTIARY_PROFILE_PORT') or '8082'}"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    secret = Path(os.environ.get("OSTIARY_DATA_DIR") or ".data") / "feed-secret"
    environ = {
        "OSTIARY_FEED_SECRET_FILE": str(secret),
        "OSTIARY_AUTH_URL": auth,
        "OSTIARY_PROFILE_URL": profile,
        **os.environ,
        "OSTIARY_ISSUER": url,
        "OSTIARY_GATEWAY_PORT": port,
        "OSTIARY_GATEWAY_ADMIN_PORT": "",
        "OSTIARY_GATEWAY_DRAIN_DELAY": "0",
    }
    command = [str(Path(sys.executable).with_name("ostiary-gateway")), "serve"]
    process = subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # noqa: S603 - our own command
    try:
        yield Stack(
            {
                "gateway": f"{url}/profiles/me",
                "second gateway": f"http://127.0.0.1:{port}/profiles/me",
                "profile": f"{profile}/profiles/me",
                "auth": f"{auth}/auth/me",
            },
            f"{url}/auth/logout",
        )
    finally:
        process.terminate()
        process.wait(_COMMAND_SECONDS)


@contextmanager
def _second_container(container: str) -> Iterator[Stack]:
    name = f"ostiary-demo-gateway-{secrets.token_hex(4)}"
    _run([*_COMPOSE, "run", "--detach", "--no-deps", "--name", name, "gateway"])
    try:
        yield Stack(
            {
                "gateway": "http://127.0.0.1:8080/profiles/me",
                "second gateway": f"http://{name}:8080/profiles/me",
                "profile": "http://profile:8082/profiles/me",
                "auth": "http://auth:8081/auth/me",
            },
            "http://127.0.0.1:8080/auth/logout",
            container,
        )
    finally:
        _run(["docker", "rm", "--force", name])


def _issuer_at(address: str) -> str | None:
    try:
        issuer = httpx.get(f"{address}{_METADATA}", timeout=2, trust_env=False).json()["issuer"]
    except (httpx.HTTPError, ValueError, KeyError):
        return None
    return str(issuer)


def _gateway_container(url: str) -> str | None:
    """Return the compose stack's gateway if it is published at this URL."""
    try:
        container = _run([*_COMPOSE, "ps", "--quiet", "gateway"]).strip()
        address = _run(["docker", "port", container, "8080"]).strip() if container else ""
    except (OSError, subprocess.SubprocessError):
        return None
    port = address.partition("\n")[0].rpartition(":")[2]
    return container if port and port == url.rpartition(":")[2] else None


def _run(command: list[str], stdin: str = "") -> str:
    done = subprocess.run(  # noqa: S603 - our own commands
        command, input=stdin, capture_output=True, text=True, timeout=_COMMAND_SECONDS, check=True
    )
    return done.stdout
