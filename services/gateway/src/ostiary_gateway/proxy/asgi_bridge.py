"""The gateway's own endpoints: an ASGI application, called with requests that have been parsed already."""

import asyncio
from dataclasses import dataclass
from typing import Any

from starlette.types import ASGIApp, Message

from ostiary_chassis.problems import INTERNAL_ERROR, ProblemError
from ostiary_gateway.access.request import RequestContext
from ostiary_gateway.http1.fields import Fields
from ostiary_gateway.proxy.problems import LOCAL_TIMEOUT

#: Seconds for the application to respond.
CALL_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class AsgiBridge:
    """The application, and the state that uvicorn keeps for it."""

    app: ASGIApp
    server_state: Any
    app_state: dict[str, Any]

    async def answer(self, context: RequestContext, peer: str) -> tuple[int, Fields, bytes]:
        """Return status, header fields and content. The application gets no request body. Raises ProblemError."""
        request = context.request
        status, fields, content = 500, list[tuple[bytes, bytes]](), b""

        async def receive() -> Message:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Message) -> None:
            nonlocal status, fields, content
            if message["type"] == "http.response.start":
                status, fields = message["status"], list(message.get("headers", ()))
            else:
                # Usually one piece, which need not be copied.
                content = content + message["body"] if content else message.get("body", b"")

        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            # The content's length is known only with the content, which is not sent.
            "method": "GET" if request.method == "HEAD" else request.method,
            "scheme": context.scheme.decode(),
            "path": context.path.decode("ascii"),
            "raw_path": context.path,
            "query_string": context.target.partition(b"?")[2],
            "root_path": "",
            "headers": request.fields,
            "client": (peer, 0),
            "server": None,
            "state": dict(self.app_state),
        }
        try:
            async with asyncio.timeout(CALL_SECONDS):
                await self.app(scope, receive, send)
        except TimeoutError:
            raise ProblemError(LOCAL_TIMEOUT) from None
        except Exception:  # noqa: BLE001 - the application has logged it
            raise ProblemError(INTERNAL_ERROR) from None
        # The connection is not the application's.
        return status, [field for field in fields if field[0] not in {b"connection", b"content-length"}], content
