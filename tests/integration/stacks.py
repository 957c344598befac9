"""Clusters whose verifiers stand behind networks that misbehave, and how they are asked about a token."""

import math
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
from clusters import NO_TLS, ComposeCluster, LocalCluster, wait_until
from people import PASSWORD, People, User
from proxies import Proxy, Upstream

#: Seconds by which revocations may be out of date at the verifiers here, where a route does not say.
LEASE = 2.0

#: The same on strict routes.
STRICT = 1.0

#: Seconds that a busy machine may take on top.
SLACK = 1.5

#: Seconds within which something counts as done at once.
AT_ONCE = 1.0

#: Seconds within which all is well again after a fault, on a busy machine.
RECOVERED = 15.0

#: Routes to services that verify by themselves, and to one of the test's that does not: what it answers with, the
#: gateway alone has let in.
ROUTES = """\
upstreams:
  auth: {{url: "{auth}"}}
  profile: {{url: "{profile}"}}
  plain: {{url: "{plain}"}}
routes:
  - {{name: register, match: {{path: /auth/register, methods: [POST]}}, upstream: auth, access: public}}
  - {{name: login, match: {{path: /auth/login, methods: [POST]}}, upstream: auth, access: public}}
  - {{name: logout, match: {{path: /auth/logout, methods: [POST]}}, upstream: auth, access: authenticated}}
  - {{name: own, match: {{path: /profiles/me, methods: [GET]}}, upstream: profile, access: authenticated}}
  - {{name: open, match: {{path: "/open/{{rest...}}", methods: [GET]}}, upstream: plain, access: public}}
  - {{name: plain, match: {{path: "/plain/{{rest...}}", methods: [GET]}}, upstream: plain, access: authenticated}}
"""

STRICT_ROUTE = """\
  - name: strict
    match: {path: "/strict/{rest...}", methods: [GET]}
    upstream: plain
    access: authenticated
    max_staleness: 1.0
"""

GOOD, REVOKED, STALE = "good", "revoked", "revocation_stale"

#: What is said of a token by all who are asked.
GOOD_EVERYWHERE = dict.fromkeys(("gateway", "profile", "auth"), GOOD)
REVOKED_EVERYWHERE = dict.fromkeys(("gateway", "profile", "auth"), REVOKED)


def new_client(url: str) -> httpx.Client:
    """Return a client that uses each connection once, so that those who die and come back are no matter."""
    limits = httpx.Limits(max_keepalive_connections=0)
    return httpx.Client(base_url=url, timeout=60, trust_env=False, verify=NO_TLS, limits=limits)


def verdict(response: httpx.Response) -> str:
    """Return what was said of a request's token: that it is good, or the code of a well-formed refusal."""
    if response.is_success:
        return GOOD
    code = str(response.json()["code"])
    if response.status_code == 401:
        assert 'error="invalid_token"' in response.headers["WWW-Authenticate"]
    else:
        assert response.status_code == 503, response.text
        assert int(response.headers["Retry-After"]) > 0
    return code


def last_yes(ask: Callable[[], str]) -> float:
    """Ask until revocations are out of date there, and return when the last question was asked that got a yes.

    By the monotonic clock. However slow machine and client are, no later question than that was answered with yes.
    """
    yes_at = -math.inf

    def is_stale() -> bool:
        nonlocal yes_at
        asked_at, said = time.monotonic(), ask()
        assert said in {GOOD, STALE}
        if said == GOOD:
            yes_at = asked_at
        return said == STALE

    wait_until(is_stale, "it says that its revocations are out of date", 20)
    return yes_at


def log_out(client: httpx.Client, url: str, user: User, wait: int) -> dict[str, Any]:
    """Log out at a service, and return its answer; it comes when that is in force, or after so many seconds."""
    response = client.post(f"{url}/auth/logout", headers={**user.headers, "Prefer": f"wait={wait}"})
    assert response.status_code == 200, response.text
    assert response.headers["Preference-Applied"] == "wait"
    answer: dict[str, Any] = response.json()
    assert answer.keys() == {"revoked", "cursor", "acknowledged_by", "in_force_after_ms", "complete"}
    assert answer["revoked"] == 1
    return answer


class Stack(LocalCluster):
    """A cluster of processes. Gateway and profile follow the auth service through a proxy each."""

    def __init__(
        self, directory: Path, lease: float = LEASE, strict_route: str = STRICT_ROUTE, **settings: str
    ) -> None:
        routes = directory / "gateway.yaml"
        super().__init__(
            directory / "data", OSTIARY_GATEWAY_ROUTES=str(routes), OSTIARY_MAX_STALENESS=str(lease), **settings
        )
        self.upstream = Upstream()
        self.proxies = {name: Proxy(self.urls["auth"]) for name in ("gateway", "profile")}
        directory.mkdir(parents=True, exist_ok=True)
        addresses = {"auth": self.urls["auth"], "profile": self.urls["profile"], "plain": self.upstream.url}
        routes.write_text(ROUTES.format(**addresses) + strict_route)
        self.client = new_client(self.urls["gateway"])
        self.people = People(self.client)

    def start(self, service: str, *, wait: bool = True) -> None:
        self.environ["OSTIARY_AUTH_URL"] = self.proxies[service].url if service in self.proxies else self.urls["auth"]
        super().start(service, wait=wait)

    def pause(self, service: str) -> None:
        """Let a service not run any more, as a machine that sleeps."""
        self._processes[service].send_signal(signal.SIGSTOP)

    def resume(self, service: str) -> None:
        """Let it go on."""
        self._processes[service].send_signal(signal.SIGCONT)

    def ask(self, service: str, user: User) -> str:
        """Return what a service says of a user's token, asked at its own port."""
        path = {"gateway": "/plain/x", "profile": "/profiles/me", "auth": "/auth/me"}[service]
        return verdict(self.client.get(f"{self.urls[service]}{path}", headers=user.headers))

    def ask_strictly(self, service: str, user: User) -> str:
        """Return what a service says of it where revocations may be a second old."""
        method, path = {"gateway": ("GET", "/strict/x"), "profile": ("DELETE", "/profiles/me")}[service]
        return verdict(self.client.request(method, f"{self.urls[service]}{path}", headers=user.headers))

    def ask_all(self, user: User) -> dict[str, str]:
        return {service: self.ask(service, user) for service in GOOD_EVERYWHERE}

    def all_accept_strictly(self, user: User) -> bool:
        return {self.ask_strictly(service, user) for service in self.proxies} == {GOOD}

    def log_out(self, user: User, wait: int, service: str = "auth") -> dict[str, Any]:
        return log_out(self.client, self.urls[service], user, wait)

    def log_out_unwaited(self, user: User) -> None:
        """Log out at the auth service, and do not wait for anything."""
        response = self.client.post(f"{self.urls['auth']}/auth/logout", headers=user.headers)
        assert response.json() == {"revoked": 1}

    def log_in(self, user: User) -> User:
        """Return the user with new tokens."""
        response = self.client.post("/auth/login", json={"email": user.email, "password": PASSWORD})
        assert response.status_code == 200, response.text
        return replace(user, tokens=response.json())

    def metric(self, service: str, name: str) -> float:
        """Return the sum of what a service counts under a name and labels; the name is a regular expression."""
        text = self.client.get(f"{self.operations[service]}/metrics").text
        return sum(float(value) for value in re.findall(rf"^{name} (\S+)$", text, re.MULTILINE))

    def close(self) -> None:
        """End everything."""
        for proxy in self.proxies.values():
            proxy.heal()
        self.upstream.release.set()
        self.stop_all()
        for server in (self.upstream, *self.proxies.values()):
            server.close()
        self.client.close()


class Stream:
    """A stream through the gateway, opened and then read until it ends; by default, of events."""

    def __init__(self, stack: Stack, user: User, path: str = "/plain/events") -> None:
        self.received = b""
        self.ended = threading.Event()
        #: In seconds since the epoch.
        self.ended_at = math.inf
        parts = urlsplit(stack.urls["gateway"])
        self._connection = socket.create_connection((parts.hostname or "", parts.port or 80), timeout=60)
        authorization = f"Authorization: {user.headers['Authorization']}"
        self._connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n{authorization}\r\n\r\n".encode())
        while b"data: hello" not in self.received:
            chunk = self._connection.recv(65536)
            assert chunk, self.received
            self.received += chunk
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def close(self) -> None:
        with suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        self._reader.join()
        self._connection.close()

    def _read(self) -> None:
        with suppress(OSError):
            while chunk := self._connection.recv(65536):
                self.received += chunk
        self.ended_at = time.time()
        self.ended.set()


class PlayedVerifier:
    """A verifier that asks the feed when the test wants it."""

    def __init__(self, stack: Stack) -> None:
        secret = (stack.data_dir / "feed-secret").read_text().strip()
        form = {"grant_type": "client_credentials", "client_id": "ostiary-verifiers", "client_secret": secret}
        granted = stack.client.post(f"{stack.urls['auth']}/oauth/token", data={**form, "scope": "feed:read"})
        self._headers = {"Authorization": f"Bearer {granted.json()['access_token']}"}
        self._client = stack.client
        self._url = f"{stack.urls['auth']}/feed"
        self._id = f"played-{os.urandom(4).hex()}"

    def ask(self, keys: str, lease: float) -> None:
        about = {"epoch": "", "after": "0", "wait": "0", "lease": str(int(lease * 1000))}
        question = {**about, "verifier": self._id, "keys": keys, "nonce": os.urandom(16).hex()}
        answer = self._client.get(self._url, params=question, headers=self._headers)
        assert answer.status_code == 200, answer.text

    def leave(self) -> None:
        left = self._client.delete(self._url, params={"verifier": self._id}, headers=self._headers)
        assert left.status_code == 204, left.text


class Containers(ComposeCluster):
    """The compose stack with short leases."""

    #: Asks for something from inside, and prints what comes back.
    ASK = """
import json, sys, urllib.error, urllib.request
method, url, token = sys.argv[1:]
try:
    urllib.request.urlopen(urllib.request.Request(url, None, {"Authorization": "Bearer " + token}, method=method))
    print("good")
except urllib.error.HTTPError as error:
    print(json.load(error)["code"])
"""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.environ["OSTIARY_MAX_STALENESS"] = str(LEASE)
        self.client = new_client(self.url)
        self.people = People(self.client)

    def ask(self, service: str, user: User) -> str:
        """Return what a service says of a user's token; asked at its own port, which only the gateway publishes."""
        if service == "gateway":
            return verdict(self.client.get("/auth/me", headers=user.headers))
        return self._ask_inside(service, "GET", user)

    def ask_strictly(self, user: User) -> str:
        """Return what the profile service says of it where revocations may be a second old."""
        return self._ask_inside("profile", "DELETE", user)

    def ask_all(self, user: User) -> dict[str, str]:
        return {service: self.ask(service, user) for service in GOOD_EVERYWHERE}

    def log_out(self, user: User, wait: int) -> dict[str, Any]:
        return log_out(self.client, self.url, user, wait)

    @contextmanager
    def cut_off(self, service: str) -> Iterator[None]:
        """Take a container off the network on which the services find each other, and put it back."""
        container, network = self.container(service), self.engine.networks.get(f"{self.project}_services")
        network.disconnect(container)
        try:
            yield
        finally:
            network.connect(container, aliases=[service])

    def down(self) -> None:
        self.client.close()
        super().down()

    def _ask_inside(self, service: str, method: str, user: User) -> str:
        url = {"profile": "http://127.0.0.1:8082/profiles/me", "auth": "http://127.0.0.1:8081/auth/me"}[service]
        code, output = self.execute(service, "python", "-c", self.ASK, method, url, user.tokens["access_token"])
        assert code == 0, output
        return output.strip()
