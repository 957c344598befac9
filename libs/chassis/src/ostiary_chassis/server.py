"""Serving: a bound socket, uvicorn with its options spelled out, and one clear line when it cannot start."""

import asyncio
import errno
import signal
import socket
import sys
from collections.abc import Callable
from typing import NoReturn

import structlog
import uvicorn
from starlette.types import ASGIApp

from ostiary_chassis._protocol import BoundedProtocol
from ostiary_chassis.settings import ConfigError

_log = structlog.stdlib.get_logger("server")

#: Seconds for open requests to end after SIGTERM; container runtimes kill after ten.
GRACE_SECONDS = 8

#: Seconds an idle connection stays open: longer than a client's or proxy's own idle time-out of
#: 60 s or less, so that it is the client who closes and no request meets a closing connection.
KEEP_ALIVE_SECONDS = 75

#: Connections waiting to be accepted.
BACKLOG = 2048


def bind(host: str, port: int, service: str, *, is_shared: bool = False) -> socket.socket:
    """Return a socket bound to host and port, alone or with other processes.

    Raises ConfigError, naming the setting of `service` at fault.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if is_shared:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        name = "PORT" if error.errno in {errno.EADDRINUSE, errno.EACCES} else "HOST"
        setting = f"OSTIARY_{service.upper()}_{name}"
        raise ConfigError(f"{setting}: cannot listen on {host} port {port}: {error.strerror}") from None
    return listener


class _Server(uvicorn.Server):
    """A server that says when it begins to end, so that those who wait for news can be answered."""

    on_stop: Callable[[], None]

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let open requests end."""
        self.on_stop()
        await super().shutdown(sockets)


def serve(
    app: ASGIApp,
    listener: socket.socket,
    on_stop: Callable[[], None] = lambda: None,
    protocol: Callable[..., asyncio.Protocol] = BoundedProtocol,
) -> None:
    """Serve `app` until SIGTERM or SIGINT; then call `on_stop`, and let open requests end.

    `protocol` makes a connection's protocol, with the arguments of uvicorn's own.
    """
    config = uvicorn.Config(
        app,
        loop="uvloop" if sys.platform != "win32" else "asyncio",
        http=protocol,  # type: ignore[arg-type]  # called, and nothing else
        ws="none",
        lifespan="on",
        interface="asgi3",
        # Who the peer is comes from the connection; header fields anybody can write.
        proxy_headers=False,
        server_header=False,
        access_log=False,
        log_config=None,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    server = _Server(config)
    server.on_stop = on_stop
    # uvicorn raises the signal that stopped it once more when it is done; a clean stop exits with 0.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _exit_cleanly)
    host, port = listener.getsockname()[:2]
    _log.info("starting", host=host, port=port)
    server.run(sockets=[listener])
    if not server.started:
        sys.exit(1)


def _exit_cleanly(_number: int, _frame: object) -> NoReturn:
    sys.exit(0)


def run(program: str, command: Callable[[], None]) -> NoReturn:
    """Run a command line; a ConfigError ends it with one line on standard error and exit code 2."""
    try:
        command()
    except ConfigError as error:
        print(f"{program}: {error}", file=sys.stderr)  # noqa: T201 - a command line's answer
        sys.exit(2)
    sys.exit(0)
