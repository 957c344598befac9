"""`make run`: the cluster and the examples as local processes, on SQLite.

Settings are environment variables (docs/reference/settings.md). All of them are validated before anything starts, so
that a mistake is reported once and not by several processes.

A process that ends before all have been ready ends everything: it cannot start, and says why. After that, one that ends
is started again, and the others go on.
"""

import multiprocessing
import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime
from functools import partial
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Annotated, Any

import httpx
from honcho.manager import SYSTEM_PRINTER_NAME, Manager
from honcho.printer import Message, Printer
from honcho.process import Process
from pydantic import Field

from ostiary_auth.config import AuthConfig
from ostiary_chassis.server import bind
from ostiary_chassis.settings import ConfigError, Port, Settings, reject_unknown, require_writable
from ostiary_gateway.config import GatewayConfig
from ostiary_gateway.routing.loader import load_file
from ostiary_profile.config import ProfileConfig

#: Seconds until the services must be ready; the first start generates keys and creates two databases.
START_SECONDS = 30.0

#: Seconds for gateway and profile to stop before the auth service is stopped.
FOLLOWER_STOP_SECONDS = 3.0

#: Seconds until a process that has died is started again, doubled for each time that it did not live for long enough.
FIRST_RESTART_SECONDS = 1.0
MOST_RESTART_SECONDS = 30.0
LONG_ENOUGH_SECONDS = 60.0

#: Signals that end everything, and the exit codes that stand for them.
ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
HANG_UP_CODE = 128 + signal.SIGHUP
STOP_CODES = frozenset(128 + number for number in ENDING_SIGNALS)

#: Settings read by `deploy/gateway.yaml` and the compose stack, not by a service.
OTHER_NAMES = frozenset(
    {"OSTIARY_PROFILE_URL", "OSTIARY_APP_URL", "OSTIARY_PAGES_URL", "OSTIARY_GATEWAY_BIND", "OSTIARY_SECRETS_DIR"}
)

SERVICES = ("auth", "profile", "gateway")
EXAMPLES = Path(__file__).resolve().parents[1] / "examples"

#: The folder and the application of each example, by the name of its process and its upstream.
APPLICATIONS = {"app": (EXAMPLES / "spa", "serve:create_app"), "pages": (EXAMPLES / "pages", "app:create_app")}

#: By how much the port of an example is higher than the gateway's, unless it is set.
PORT_OFFSETS = {"app": 3, "pages": 4}

#: Seconds that an example waits for requests and connections to end.
EXAMPLE_STOP_SECONDS = 1

#: Where the examples listen.
LOOPBACK = "127.0.0.1"

#: Wildcard addresses, to which no client can connect.
ANY_ADDRESS = frozenset({"0.0.0.0", "::"})  # noqa: S104 - compared, not bound


class ExamplesConfig(Settings):
    """The ports of the examples."""

    app_port: Annotated[Port, Field(alias="OSTIARY_APP_PORT")]
    pages_port: Annotated[Port, Field(alias="OSTIARY_PAGES_PORT")]

    @property
    def ports(self) -> dict[str, int]:
        return {"app": self.app_port, "pages": self.pages_port}


def main() -> int:
    """Run the cluster and return the exit code."""
    environ = dict(os.environ)
    try:
        configs = _configure(environ)
    except ConfigError as error:
        print(f"make run: {error}", file=sys.stderr)
        return 2
    printer = _Printer(sys.stdout, time_format="")
    manager = _Manager(printer)
    printer.on_closed = manager.terminate
    for name, command in _commands(configs[-1]).items():
        manager.add_process(name, f"exec {shlex.join(command)}", env=environ)
    threading.Thread(target=_announce, args=(*configs, manager.is_ready.set), daemon=True).start()
    manager.loop()
    # Ctrl-C, SIGTERM and closing the terminal are the normal ways to stop.
    return 0 if manager.returncode in STOP_CODES else int(manager.returncode or 1)


def _commands(examples: ExamplesConfig) -> dict[str, list[str]]:
    """Return the command of each process."""
    commands = {name: [str(Path(sys.executable).with_name(f"ostiary-{name}")), "serve"] for name in SERVICES}
    for name, (folder, application) in APPLICATIONS.items():
        options = ["--port", str(examples.ports[name]), "--log-level", "warning", "--ws-max-size", "1024"]
        options += ["--timeout-graceful-shutdown", str(EXAMPLE_STOP_SECONDS)]
        uvicorn = [sys.executable, "-m", "uvicorn", "--factory", "--app-dir", str(folder)]
        commands[name] = [*uvicorn, *options, application]
    return commands


_Configs = tuple[AuthConfig, ProfileConfig, GatewayConfig, ExamplesConfig]


def _configure(environ: dict[str, str]) -> _Configs:
    """Set defaults that depend on other settings, and validate everything. Raises ConfigError."""
    _check_names(environ)
    auth, profile, gateway = AuthConfig.load(environ), ProfileConfig.load(environ), GatewayConfig.load(environ)
    for name, offset in PORT_OFFSETS.items():
        environ.setdefault(f"OSTIARY_{name.upper()}_PORT", str(gateway.port + offset))
    examples = ExamplesConfig.load(environ)
    environ.setdefault("OSTIARY_ISSUER", f"http://localhost:{gateway.port}")
    environ.setdefault("OSTIARY_AUTH_URL", _address(auth.host, auth.port))
    environ.setdefault("OSTIARY_PROFILE_URL", _address(profile.host, profile.port))
    for name, port in examples.ports.items():
        environ.setdefault(f"OSTIARY_{name.upper()}_URL", _address(LOOPBACK, port))
    # The gateway runs on this machine, too, and forwards the client's address.
    environ.setdefault("OSTIARY_AUTH_TRUSTED_PROXIES", "127.0.0.1,::1")
    # The auth service creates them.
    environ.setdefault("OSTIARY_FEED_SECRET_FILE", str(auth.feed_secret_path))
    environ.setdefault("OSTIARY_GATEWAY_SECRET_FILE", str(auth.gateway_secret_path))
    for name in ("GATEWAY", "AUTH", "PROFILE"):
        # Nobody distributes requests to these processes, and whoever has pressed Ctrl-C waits.
        environ.setdefault(f"OSTIARY_{name}_DRAIN_DELAY", "0")
    environ["PYTHONUNBUFFERED"] = "1"
    for config, name in ((gateway, "gateway"), (auth, "auth"), (profile, "profile")):
        bind(config.host, config.port, name).close()
    bind(gateway.admin_host, gateway.own_admin_port, "gateway_admin").close()
    for name, port in examples.ports.items():
        bind(LOOPBACK, port, name).close()
    ports = [auth.port, profile.port, gateway.port, gateway.own_admin_port, *examples.ports.values()]
    if len(set(ports)) < len(ports):
        names = ("GATEWAY", "GATEWAY_ADMIN", "AUTH", "PROFILE", "APP")
        listed = ", ".join(f"OSTIARY_{name}_PORT" for name in names)
        raise ConfigError(f"{listed} and OSTIARY_PAGES_PORT must differ")
    require_writable(auth.data_dir, "OSTIARY_DATA_DIR")
    load_file(gateway.routes_file, environ)
    return AuthConfig.load(environ), ProfileConfig.load(environ), GatewayConfig.load(environ), examples


def _check_names(environ: Mapping[str, str]) -> None:
    """Reject unknown settings. Raises ConfigError."""
    known = AuthConfig.names() | ProfileConfig.names() | GatewayConfig.names() | ExamplesConfig.names() | OTHER_NAMES
    reject_unknown(environ, "OSTIARY_", known | {name for name in environ if name.startswith("OSTIARY_TEST_")})


def _announce(
    auth: AuthConfig,
    profile: ProfileConfig,
    gateway: GatewayConfig,
    examples: ExamplesConfig,
    on_ready: Callable[[], None],
) -> None:
    """Wait until all are ready and print where they listen."""
    addresses = {
        "gateway": _address(gateway.admin_host, gateway.own_admin_port),
        "auth": _address(auth.host, auth.port),
        "profile": _address(profile.host, profile.port),
        **{name: _address(LOOPBACK, port) for name, port in examples.ports.items()},
    }
    deadline = time.monotonic() + START_SECONDS
    waiting = set(addresses)
    with httpx.Client(trust_env=False, timeout=2) as client:
        while waiting and time.monotonic() < deadline:
            waiting = {name for name in waiting if not _is_ready(client, addresses[name])}
            time.sleep(0.05)
    if waiting:
        print(f"not ready after {START_SECONDS:.0f} s: {', '.join(sorted(waiting))}", flush=True)
        return
    on_ready()
    addresses["admin"], addresses["gateway"] = addresses["gateway"], gateway.issuer
    with suppress(OSError):
        print(_banner(addresses, auth.data_dir), flush=True)


def _address(host: str, port: int) -> str:
    """Return the URL at which a service is reachable that listens on this host."""
    host = "127.0.0.1" if host in ANY_ADDRESS else host
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class _Printer(Printer):  # type: ignore[misc]  # honcho ships no types
    """A printer that ends the cluster when its output is closed."""

    on_closed: Callable[[], None] | None = None

    def write(self, message: object) -> None:
        try:
            super().write(message)
        except OSError:  # a pipe that nobody reads, or a terminal that was closed
            on_closed, self.on_closed = self.on_closed, None
            if on_closed is not None:
                on_closed()


class _Restarted(Process):  # type: ignore[misc]  # honcho ships no types
    """A process that is started again when it ends, once all have been ready and until all are to end."""

    def __init__(self, *args: Any, is_ready: Event, is_ending: Event, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._is_ready = is_ready
        self._is_ending = is_ending

    def run(self, events: Any = None, ignore_signals: bool = False) -> None:  # noqa: ARG002 - honcho's
        self._events = events
        for number in ENDING_SIGNALS:
            # They are for the manager. Whoever ignored them would have the service do so, too.
            signal.signal(number, lambda *_: None)
        seconds, returncode, is_over = FIRST_RESTART_SECONDS, 0, False
        while not is_over:
            started_at = time.monotonic()
            returncode = self._run_once()
            is_over = self._is_ending.is_set() or not self._is_ready.is_set()
            if not is_over:
                if time.monotonic() - started_at >= LONG_ENOUGH_SECONDS:
                    seconds = FIRST_RESTART_SECONDS
                self._say(f"{self.name} {_ended(returncode)}; starting it again in {seconds:.0f} s, the others go on")
                is_over = self._is_ending.wait(seconds)
                seconds = min(2 * seconds, MOST_RESTART_SECONDS)
        self._send_message({"returncode": returncode}, type="stop")

    def _run_once(self) -> int:
        child = self._child_ctor(self.cmd, env=self.env, cwd=self.cwd)
        self._send_message({"pid": child.pid}, type="start")
        for line in iter(child.stdout.readline, b""):
            self._send_message(line)
        child.stdout.close()
        return int(child.wait())

    def _say(self, line: str) -> None:
        message = Message(type="line", data=f"{line}\n", time=datetime.now(), name=SYSTEM_PRINTER_NAME, colour=None)  # noqa: DTZ005 - as honcho
        self._events.put(message)


def _ended(returncode: int) -> str:
    """Say how a process has ended."""
    return f"was killed ({signal.Signals(-returncode).name})" if returncode < 0 else f"has ended (code {returncode})"


class _Manager(Manager):  # type: ignore[misc]  # honcho ships no types
    """Ends the auth service last, so that verifiers can sign off from its feed.

    Otherwise the auth service must assume for half a minute that they may still accept tokens.
    """

    def __init__(self, printer: Printer) -> None:
        super().__init__(printer)
        #: Set when all have been ready once, and when all are to end.
        self.is_ready, self._end_of_all = multiprocessing.Event(), multiprocessing.Event()
        self._process_ctor = partial(_Restarted, is_ready=self.is_ready, is_ending=self._end_of_all)
        self._is_ending = False

    def loop(self) -> None:
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as `nohup` has it
            signal.signal(signal.SIGHUP, self._hang_up)
        super().loop()

    def _hang_up(self, *_: object) -> None:
        """End because the terminal was closed. Nothing can be printed there any more."""
        self.returncode = HANG_UP_CODE
        self.terminate()

    def terminate(self) -> None:
        if not self._is_ending:
            self._is_ending = True
            threading.Thread(target=self._end, daemon=True).start()

    def _end(self) -> None:
        self._end_of_all.set()
        followers = [each for name, each in self._processes.items() if name != "auth" and "pid" in each]
        for each in followers:
            with suppress(ProcessLookupError):
                os.kill(each["pid"], signal.SIGTERM)
        deadline = time.monotonic() + FOLLOWER_STOP_SECONDS
        while time.monotonic() < deadline and not all("returncode" in each for each in followers):
            time.sleep(0.02)
        super().terminate()


def _is_ready(client: httpx.Client, address: str) -> bool:
    try:
        return client.get(f"{address}/readyz").status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False


def _banner(addresses: Mapping[str, str], data_dir: Path) -> str:
    gateway = addresses["gateway"]
    json_header = "-H 'Content-Type: application/json'"
    account = '{"email": "ada@example.com", "password": "correct horse battery staple"}'
    return f"""
Ostiary is ready.

  gateway  {gateway}   (the public address, for clients)
  admin    {addresses["admin"]}   (the gateway's /readyz and /metrics)
  auth     {addresses["auth"]}
  profile  {addresses["profile"]}
  app      {addresses["app"]}   (the example of a single-page application)
  pages    {addresses["pages"]}   (the example of server-rendered pages)
  data     {data_dir.resolve()}

Open {gateway} in a browser, and {gateway}/pages for pages without JavaScript.
Or try it in another terminal:

  curl {gateway}/auth/register {json_header} -d '{account}'
  curl {gateway}/auth/login {json_header} -d '{account}'
  curl {gateway}/profiles/me -H 'Authorization: Bearer <access_token>'

Or run the whole story: make demo. Stop with Ctrl-C.
"""


if __name__ == "__main__":
    sys.exit(main())
