"""Serving: a bound socket, uvicorn with explicit options, and one clear line when it cannot start."""

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

from ostiary_chassis import logs
from ostiary_chassis._protocol import BoundedProtocol
from ostiary_chassis.settings import ConfigError

_log = structlog.stdlib.get_logger("server")

#: Seconds for open requests to complete after SIGTERM; container runtimes kill after ten.
GRACE_SECONDS = 8

#: Seconds an idle connection stays open. Clients and proxies time out after 60 s or less, so they close first,
#: and no request is sent on a closing connection.
KEEP_ALIVE_SECONDS = 75

#: Connections waiting to be accepted.
BACKLOG = 2048


def bind(host: str, port: int, service: str, *, is_shared: bool = False) -> socket.socket:
    """Return a socket bound to host and port, exclusively or shared with other processes.

    Raises ConfigError, which names the setting of `service`.
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
    """A server that calls back when it begins to shut down, so that long polls can be answered."""

    on_stop: Callable[[], None]

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.on_stop()
        await super().shutdown(sockets)


def serve(
    app: ASGIApp,
    listener: socket.socket,
    on_stop: Callable[[], None] = lambda: None,
    protocol: Callable[..., asyncio.Protocol] = BoundedProtocol,
) -> None:
    """Serve `app` until SIGTERM or SIGINT; then call `on_stop`, and let open requests complete.

    `protocol` creates the protocol of a connection, with the arguments of uvicorn's.
    """
    config = uvicorn.Config(
        app,
        loop="uvloop" if sys.platform != "win32" else "asyncio",
        http=protocol,  # type: ignore[arg-type]  # uvicorn only calls it
        ws="none",
        lifespan="on",
        interface="asgi3",
        # The peer's address is the connection's; any client can write header fields.
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
    # uvicorn raises the signal that stopped it again at its end; a clean stop exits with 0.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _exit_cleanly)
    host, port = listener.getsockname()[:2]
    with logs.in_background():
        _log.info("starting", host=host, port=port)
        server.run(sockets=[listener])
    if not server.started:
        sys.exit(1)


def _exit_cleanly(_number: int, _frame: object) -> NoReturn:
    sys.exit(0)


def run(program: str, command: Callable[[], None]) -> NoReturn:
    """Run a command; a ConfigError ends it with one line on standard error and exit code 2."""
    try:
        command()
    except ConfigError as error:
        print(f"{program}: {error}", file=sys.stderr)  # noqa: T201 - the output of a command
        sys.exit(2)
    sys.exit(0)
