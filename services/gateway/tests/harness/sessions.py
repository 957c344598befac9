"""Browser sessions: an auth service that exchanges them for access tokens as the test tells it."""

import asyncio
import base64
import json
import time
import uuid
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from pathlib import Path

from harness.fields import decode
from harness.gateway import PUBLIC, GatewayHarness, short_directory
from harness.upstream import ReceivedRequest, RecordingUpstream
from ostiary.testing import Issuer
from ostiary_gateway.config import GatewayConfig
from ostiary_gateway.sessions.renewals import SessionRenewals

ISSUER = "https://gw"
SESSION, TOKEN = "__Host-ostiary-session", "__Host-ostiary-token"
SECRET = "the gateways' secret"


class BrowserSession:
    """A session, as its browser has it."""

    def __init__(self, issuer: Issuer, subject: str = "ada", session_id: str | None = None) -> None:
        self._issuer = issuer
        self.subject = subject
        self.id = session_id or str(uuid.uuid4())
        self.value = f"{self.id}.{base64.urlsafe_b64encode(uuid.uuid4().bytes * 2).decode().rstrip('=')}"
        self.roles: Collection[str] = ()

    def token(self, seconds: float = 900, life: float = 900, **claims: object) -> str:
        """Return an access token of which so many seconds are left."""
        expires_at = int(time.time() + seconds)
        dates = {"iat": expires_at - int(life), "nbf": expires_at - int(life), "exp": expires_at}
        return self._issuer.token(subject=self.subject, roles=self.roles, claims={"sid": self.id, **dates, **claims})

    def cookies(self, token: str | None = None, *more: str) -> str:
        """Return a `Cookie` line with the session's cookie, and that of the token if there is one."""
        pairs = [f"{SESSION}={self.value}", *([f"{TOKEN}={token}"] if token is not None else []), *more]
        return "Cookie: " + "; ".join(pairs)


class FakeAuthService(RecordingUpstream):
    """Exchanges sessions, and records and echoes other requests."""

    def __init__(self, path: Path, issuer: Issuer) -> None:
        super().__init__(path)
        self.issuer = issuer
        self.sessions: dict[str, BrowserSession] = {}
        #: What it was asked to exchange, and with which credential.
        self.exchanged: list[str] = []
        self.authorizations: list[str] = []
        self.secret = SECRET
        self.life = 900
        self.is_persistent = True
        #: Exchanges wait for this.
        self.goes_on = asyncio.Event()
        self.goes_on.set()
        #: In place of the next answers: bytes of a whole response.
        self.answers: list[bytes] = []
        self.response = self._answer

    def open_session(self, subject: str = "ada", session_id: str | None = None) -> BrowserSession:
        session = BrowserSession(self.issuer, subject, session_id)
        self.sessions[session.value] = session
        return session

    def end(self, session: BrowserSession) -> None:
        del self.sessions[session.value]

    @property
    def others(self) -> list[ReceivedRequest]:
        """Requests that are no exchanges."""
        return [each for each in self.requests if each.target != "/sessions/exchange"]

    async def _answer(self, request: ReceivedRequest, writer: asyncio.StreamWriter) -> None:
        if request.target != "/sessions/exchange":
            content = json.dumps({"target": request.target}).encode()
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(content), content))
            return
        await request.read_body()
        value = json.loads(request.body)["session"]
        self.exchanged.append(value)
        self.authorizations += request.values("authorization")
        await self.goes_on.wait()
        writer.write(self.answers.pop(0) if self.answers else self._exchange(value, request))

    def _exchange(self, value: str, request: ReceivedRequest) -> bytes:
        expected = "Basic " + base64.b64encode(f"ostiary-gateways:{self.secret}".encode()).decode()
        if request.values("authorization") != [expected]:
            return response(401, {"code": "invalid_client"})
        session = self.sessions.get(value)
        if session is None:
            return response(410, {"code": "session_ended"})
        return response(200, self.members(session))

    def members(self, session: BrowserSession, **changes: object) -> dict[str, object]:
        """Return the members of an answer with a token."""
        return {
            "access_token": session.token(self.life, self.life),
            "expires_in": self.life,
            "session_id": session.id,
            "expires_at": "2030-01-01T00:00:00Z",
            "persistent": self.is_persistent,
            **changes,
        }


def response(status: int, members: object, *lines: str) -> bytes:
    """Serialise a response with JSON."""
    content = json.dumps(members).encode()
    head = [f"HTTP/1.1 {status} ", "Content-Type: application/json", f"Content-Length: {len(content)}", *lines, "", ""]
    return "\r\n".join(head).encode() + content


class SessionsHarness:
    """A gateway with browser sessions, a service `up`, and the auth service."""

    def __init__(self, gateway: GatewayHarness, auth: FakeAuthService, upstream: RecordingUpstream) -> None:
        self.gateway = gateway
        self.auth = auth
        self.upstream = upstream
        self.request = gateway.request

    @property
    def renewals(self) -> SessionRenewals:
        return self.gateway.gateway.runtime.renewals


@asynccontextmanager
async def open_sessions(
    issuer: Issuer, upstream: RecordingUpstream, *routes: str, browser: str = "login_path: /login", more: str = ""
) -> AsyncIterator[SessionsHarness]:
    """Run a gateway with these routes, given as YAML flow mappings, and a section `browser`."""
    own = Issuer(ISSUER, private_key=issuer.private_key)
    with short_directory() as directory:
        (directory / "secret").write_text(f"{SECRET}\n")
        async with FakeAuthService(directory / "auth", own) as auth:
            lines = "".join(f"  - {{{route}}}\n" for route in routes)
            text = (
                f'upstreams:\n  up: {{url: "{upstream.url}"}}\n  auth: {{url: "{auth.url}"}}\n'
                f"browser: {{upstream: auth, {browser}}}\n{more}\nroutes:\n{lines}"
            )
            config = GatewayConfig(issuer=ISSUER, public_operations=PUBLIC, gateway_secret_file=directory / "secret")
            async with GatewayHarness.open(text, "", own.verifier(), config=config) as gateway:
                yield SessionsHarness(gateway, auth, upstream)


def lines_of(head: bytes) -> list[tuple[str, str]]:
    """Return the fields of a head."""
    pairs = [line.partition(b": ") for line in head.split(b"\r\n")[1:] if line]
    return decode((name, value) for name, _, value in pairs)
