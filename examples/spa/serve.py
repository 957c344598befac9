"""The server of the single-page application: the page, and its live connection.

    uvicorn --factory --app-dir examples/spa serve:create_app --port 8083

Everything else that the page asks for, other services answer. The gateway turns the session's cookies into an access
token, which is verified here again.
"""

import asyncio
import gzip
import hashlib
import os
import re
import signal
from base64 import b64encode
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from fastapi import FastAPI, Request, Response, WebSocket
from starlette.routing import WebSocketRoute
from starlette.types import Receive, Scope, Send

from ostiary import Feed, VerifiedToken, Verifier, VerifierConfig
from ostiary.asgi import TOKEN, BearerAuth

PAGE = Path(__file__).with_name("index.html")

#: What tabs tell each other, and how much of it may wait for a slow one.
MESSAGES = frozenset({"profile"})
MAX_WAITING = 16


def create_app(environ: Mapping[str, str] = os.environ) -> FastAPI:
    """Return the application; its settings are those of all services (docs/reference/settings.md)."""
    verifier = Verifier(_verifier_config(environ, name="spa"))
    page, tabs = _Page(PAGE.read_bytes()), _Tabs()

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        # A terminal that closes ends nothing.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        async with verifier:
            yield

    app = FastAPI(
        lifespan=lifespan, docs_url=None, redoc_url=None, routes=[WebSocketRoute("/live", BearerAuth(tabs, verifier))]
    )

    @app.get("/", include_in_schema=False)
    async def index(request: Request) -> Response:
        return page.response(request)

    @app.get("/livez", include_in_schema=False)
    async def livez() -> None:
        """Say that the process lives."""

    @app.get("/readyz", include_in_schema=False)
    async def readyz(response: Response) -> None:
        response.status_code = 200 if verifier.ready else 503

    return app


class _Page:
    """The page, which is the same for everybody, with header fields that keep scripts of others out."""

    def __init__(self, content: bytes) -> None:
        self._contents = {"identity": content, "gzip": gzip.compress(content)}
        # Weak, as it names the page in each coding.
        self._etag = f'W/"{hashlib.sha256(content).hexdigest()[:16]}"'
        self._headers = {
            "Content-Security-Policy": _policy(content.decode()),
            "Cross-Origin-Opener-Policy": "same-origin",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Referrer-Policy": "same-origin",
            "X-Content-Type-Options": "nosniff",
            "Cache-Control": "no-cache",
            "Vary": "Accept-Encoding",
            "ETag": self._etag,
        }

    def response(self, request: Request) -> Response:
        if self._etag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=self._headers)
        coding = "gzip" if "gzip" in request.headers.get("accept-encoding", "") else "identity"
        headers = self._headers | ({"Content-Encoding": "gzip"} if coding == "gzip" else {})
        return Response(self._contents[coding], media_type="text/html; charset=utf-8", headers=headers)


def _policy(page: str) -> str:
    """Return a Content Security Policy that lets this page's own script and style in, and nothing else."""
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    (style,) = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    return "; ".join(
        [
            "default-src 'none'",
            f"script-src {_source(script)}",
            f"style-src {_source(style)}",
            "img-src data:",
            "connect-src 'self'",
            "form-action 'self'",
            "base-uri 'none'",
            "frame-ancestors 'none'",
            "require-trusted-types-for 'script'",
            "trusted-types 'none'",
        ]
    )


def _source(text: str) -> str:
    return f"'sha256-{b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


class _Tabs:
    """The live connections, by user: an ASGI application for WebSockets that have a verified token.

    They end with their token (`BearerAuth`). A tab hears `sessions` when one of its user's tabs comes or goes, and what
    other tabs tell.
    """

    def __init__(self) -> None:
        self._queues: defaultdict[str, set[asyncio.Queue[str]]] = defaultdict(set)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        token: VerifiedToken = scope[TOKEN]
        socket = WebSocket(scope, receive, send)
        await socket.accept()
        with self._open(token.subject) as queue:
            sending = asyncio.create_task(_send_all(socket, queue))
            try:
                async for text in socket.iter_text():
                    if text in MESSAGES:
                        self._tell(token.subject, text, but=queue)
            finally:
                sending.cancel()

    @contextmanager
    def _open(self, user: str) -> Iterator[asyncio.Queue[str]]:
        queue: asyncio.Queue[str] = asyncio.Queue(MAX_WAITING)
        self._queues[user].add(queue)
        self._tell(user, "sessions", but=queue)
        try:
            yield queue
        finally:
            self._queues[user].remove(queue)
            self._tell(user, "sessions", but=queue)
            if not self._queues[user]:
                del self._queues[user]

    def _tell(self, user: str, text: str, *, but: asyncio.Queue[str]) -> None:
        for queue in self._queues[user] - {but}:
            if not queue.full():
                queue.put_nowait(text)


async def _send_all(socket: WebSocket, queue: asyncio.Queue[str]) -> None:
    while True:
        await socket.send_text(await queue.get())


def _verifier_config(environ: Mapping[str, str], name: str) -> VerifierConfig:
    auth = (environ.get("OSTIARY_AUTH_URL") or "http://127.0.0.1:8081").split(",")
    secret = environ.get("OSTIARY_FEED_SECRET_FILE") or ".data/feed-secret"
    return VerifierConfig(
        issuer=environ.get("OSTIARY_ISSUER") or "http://localhost:8080",
        audience=environ.get("OSTIARY_AUDIENCE") or "ostiary",
        jwks_url=[f"{url.strip()}/.well-known/jwks.json" for url in auth],
        feed=Feed(
            url=[f"{url.strip()}/feed" for url in auth], client_id="ostiary-verifiers", secret_file=secret, name=name
        ),
    )
