import signal
import socket
import subprocess
import sys

import pytest

from ostiary_chassis import server
from ostiary_chassis.settings import ConfigError


@pytest.mark.enable_socket
def test_a_port_in_use_names_the_setting() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"OSTIARY_TEST_PORT: cannot listen on 127\.0\.0\.1 port {port}: "):
            server.bind("127.0.0.1", port, "test")


@pytest.mark.enable_socket
def test_an_address_that_is_not_ours_names_the_setting() -> None:
    with pytest.raises(ConfigError, match=r"OSTIARY_TEST_HOST: cannot listen on 192\.0\.2\.1"):
        server.bind("192.0.2.1", 8080, "test")


def test_a_config_error_is_one_line_and_code_two(capsys: pytest.CaptureFixture[str]) -> None:
    def command() -> None:
        raise ConfigError("X: is wrong")

    with pytest.raises(SystemExit) as caught:
        server.run("program", command)
    assert caught.value.code == 2
    assert capsys.readouterr().err == "program: X: is wrong\n"


def test_what_hangs_in_the_end_does_not_keep_the_process() -> None:
    script = """
import os, signal, threading
from contextlib import asynccontextmanager
from ostiary_chassis import server
from ostiary_chassis.app import new_app
from ostiary_chassis.drain import Drain
from ostiary_chassis.metrics import Metrics

server.CLEANUP_SECONDS = 1

@asynccontextmanager
async def lifespan(app):
    threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGTERM)).start()
    yield
    threading.Event().wait()

app = new_app(title="t", version="0", lifespan=lifespan, ready_checks={}, exception_handlers={}, metrics=Metrics())
server.serve(app, server.bind("127.0.0.1", 0, "test"), Drain(0, 0))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=60, check=False)  # noqa: S603 - ours
    assert done.returncode == -signal.SIGALRM, done.stderr


HANGUP = """
import os, signal
from contextlib import asynccontextmanager
from ostiary_chassis import logs, server
from ostiary_chassis.app import new_app
from ostiary_chassis.drain import Drain
from ostiary_chassis.metrics import Metrics

@asynccontextmanager
async def lifespan(app):
    hang_up()
    yield
    hang_up()

def hang_up():
    os.kill(os.getpid(), signal.SIGHUP)

{prepare}
logs.configure("text", "test")
app = new_app(title="t", version="0", lifespan=lifespan, ready_checks={{}}, exception_handlers={{}}, metrics=Metrics())
server.serve(app, server.bind("127.0.0.1", 0, "test"), Drain(0, 0){hooks})
hang_up()
"""


@pytest.mark.parametrize(
    ("prepare", "hooks", "said"),
    [
        ("", "", "nothing to reload"),
        ("signal.signal(signal.SIGHUP, signal.SIG_IGN)", "", "nothing to reload"),
        ("", ", server.Hooks(on_hangup=lambda: print('reloaded', flush=True))", "reloaded"),
    ],
    ids=["nothing to reload", "started by nohup", "something to reload"],
)
def test_sighup_ends_nothing(prepare: str, hooks: str, said: str) -> None:
    script = HANGUP.format(prepare=prepare, hooks=hooks)
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:  # noqa: S603 - ours
        assert process.stdout is not None
        assert any(said in line for line in process.stdout)
        process.terminate()
        assert process.wait(60) == 0
