"""Serving: a bound socket, uvicorn with explicit options, and one clear line when it cannot start."""

import asyncio
import errno
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import NoReturn

import structlog
import uvicorn
from starlette.applications import Starlette
from uvicorn.server import ServerState

from ostiary_chassis import descriptors, logs
from ostiary_chassis._protocol import BoundedProtocol
from ostiary_chassis.descriptors import shortage
from ostiary_chassis.drain import Drain
from ostiary_chassis.listener import BACKLOG, Listener
from ostiary_chassis.settings import ConfigError

_log = structlog.stdlib.get_logger("server")

#: Seconds to close resources in the end.
CLEANUP_SECONDS = 10

#: Seconds for which a service that is to stop goes on for others that need it.
NEEDED_SECONDS = 2.0

#: Seconds between two looks at whether all requests are complete.
POLL_SECONDS = 0.05

#: What a supervisor sends to its workers instead of a second SIGTERM or SIGINT.
END_AT_ONCE = signal.SIGUSR1

#: Seconds an idle connection stays open. Clients and proxies time out after 60 s or less, so they close first,
#: and no request is sent on a closing connection.
KEEP_ALIVE_SECONDS = 75

#: Ticks of uvicorn's server in a second.
TICKS_PER_SECOND = 10


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


@dataclass(frozen=True, slots=True)
class Hooks:
    """What a service does when DRAINING and STOPPING begin, and after SIGHUP."""

    on_drain: Callable[[], None] = lambda: None
    on_stop: Callable[[], None] = lambda: None
    on_hangup: Callable[[], None] = lambda: _log.info("nothing to reload")


class _Server(uvicorn.Server):
    """A server that ends in steps.

    SERVING -- SIGTERM --> DRAINING -- delay, and not needed --> STOPPING -- all complete, or timeout --> ENDING
       +------------------------- SIGINT --------------------------^

    In DRAINING, the service is not ready, but serves. It goes on for a little while `app.state.is_needed()`: services
    that may be ending at the same time still need it. In STOPPING, it listens no more. In ENDING, what is not complete
    is cut off, and resources are closed. A second signal leads to ENDING at once.

    SIGHUP ends nothing: a service that can reload something does, and others say that they can't.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        app: Starlette,
        drain: Drain,
        hooks: Hooks,
        admin: socket.socket | None,
        *,
        is_worker: bool,
    ) -> None:
        super().__init__(config)
        self._admin = admin
        # Of its own, as nobody waits for its connections.
        self._admin_state = ServerState()
        self._app = app
        self._drain = drain
        self._is_worker = is_worker
        self._hooks = hooks
        self._has_hung_up = False
        self._listeners: list[Listener] = []
        #: When STOPPING begins, in seconds on the monotonic clock; None before a signal.
        self._stop_at: float | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the application and listen. The admin port answers until the end."""
        await super().startup([])
        self._listeners = [Listener(each, self._public_protocol) for each in sockets or ()]
        if self._admin is not None:
            self._admin_listener = Listener(self._admin, self._admin_protocol, uses_reserve=True)
            await self._admin_listener.start()
        for listener in self._listeners:
            await listener.start()

    def _public_protocol(self) -> asyncio.Protocol:
        protocol: Callable[..., asyncio.Protocol] = self.config.http_protocol_class
        return protocol(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)

    def _admin_protocol(self) -> asyncio.Protocol:
        return BoundedProtocol(self.config, self._admin_state, self.lifespan.state)

    def handle_hangup(self, _number: int, _frame: FrameType | None) -> None:
        """Take SIGHUP; the next tick acts on it."""
        self._has_hung_up = True

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - the base's signature
        """Take a signal; the next tick acts on it."""
        if self._stop_at is None:
            delay = self._drain.delay if sig == signal.SIGTERM and self.started else 0.0
            self._stop_at = time.monotonic() + delay
        elif sig == END_AT_ONCE or not self._is_worker:
            self._stop_at, self.force_exit = -NEEDED_SECONDS, True

    async def on_tick(self, counter: int) -> bool:
        """Return whether STOPPING begins."""
        await super().on_tick(counter)
        self._admin_state.default_headers = self.server_state.default_headers
        if self._has_hung_up:
            self._has_hung_up = False
            self._hooks.on_hangup()
        for listener in self._listeners:
            await listener.on_tick()
        if counter % TICKS_PER_SECOND == 0:
            shortage.check()
        if self._stop_at is None:
            return False
        if not self._app.state.is_draining:
            _log.info("draining", seconds=max(0.0, round(self._stop_at - time.monotonic(), 1)))
            self._app.state.is_draining = True
            self._hooks.on_drain()
        now = time.monotonic()
        return now >= self._stop_at + (NEEDED_SECONDS if self._app.state.is_needed() else 0.0)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:  # noqa: ARG002 - the base's signature
        _log.info("stopping", seconds=0.0 if self.force_exit else self._drain.timeout)
        self._hooks.on_stop()
        for listener in self._listeners:
            listener.close()
        for connection in tuple(self.server_state.connections):
            connection.shutdown()
        if not await self._are_done():
            _log.warning("cut off", connections=len(self.server_state.connections))
        # Whatever hangs from here on, the system ends the process.
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(CLEANUP_SECONDS)
        for task in tuple(self.server_state.tasks):
            task.cancel()
        await self.lifespan.shutdown()

    async def _are_done(self) -> bool:
        """Wait until all requests are complete; return False if that takes too long."""
        until = time.monotonic() + self._drain.timeout
        while self.server_state.connections or self.server_state.tasks:
            if self.force_exit or time.monotonic() >= until:
                return False
            await asyncio.sleep(POLL_SECONDS)
        return True


def serve(
    app: Starlette,
    listener: socket.socket,
    drain: Drain,
    hooks: Hooks = Hooks(),
    *,
    admin: socket.socket | None = None,
    protocol: Callable[..., asyncio.Protocol] = BoundedProtocol,
    is_worker: bool = False,
) -> None:
    """Serve `app` until a signal; `_Server` shows how it ends.

    `admin` is a socket on which the same application is served until the end, with this package's protocol. `protocol`
    creates that of other connections, with the arguments of uvicorn's. To a worker, a repeated SIGTERM or SIGINT means
    nothing: terminals and service managers send them to all processes, and its supervisor does, too.
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
    )
    server = _Server(config, app, drain, hooks, admin, is_worker=is_worker)
    signal.signal(signal.SIGHUP, server.handle_hangup)
    # For signals before and after those that the server handles.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _exit_cleanly)
    if is_worker:
        signal.signal(END_AT_ONCE, server.handle_exit)
    host, port = listener.getsockname()[:2]
    descriptors.raise_limit()
    with logs.in_background():
        _log.info("starting", host=host, port=port, descriptors=descriptors.limit())
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
