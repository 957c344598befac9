"""The routes file of a gateway that runs, and of one that starts; workers are in test_workers.py."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from clusters import wait_until
from gateways import GatewayProcess
from upstreams import RawUpstream

ROUTES = """\
upstreams:
  up: {{url: "http://127.0.0.1:{port}"}}
routes:
  - {{name: {name}, match: {{path: /{name}, methods: [GET]}}, upstream: up, access: public}}
"""


def status(gateway: GatewayProcess, path: str) -> bytes:
    return gateway.ask(path).split(b" ", 2)[1]


def test_sighup_makes_it_read_the_file(tmp_path: Path, upstream: RawUpstream) -> None:
    with GatewayProcess(tmp_path, ROUTES.format(port=upstream.port, name="old")) as gateway:
        for number in range(1, 4):
            gateway.process.send_signal(signal.SIGHUP)
            wait_until(lambda number=number: gateway.log.count("routes reloaded") >= number, "it has read the file")  # type: ignore[misc]  # a default
        assert gateway.process.poll() is None
        assert (status(gateway, "/old"), status(gateway, "/new")) == (b"200", b"404")


IMPORTING = """\
import os, signal, sys

class Finder:
    def find_spec(self, name, path, target=None):
        if name == "ostiary_gateway.commands":
            os.kill(os.getpid(), signal.SIGHUP)

sys.meta_path.insert(0, Finder())
sys.argv = ["ostiary-gateway", "--help"]

from ostiary_gateway.cli import main

main()
"""


def test_sighup_does_not_end_a_gateway_that_is_being_imported() -> None:
    done = subprocess.run(  # noqa: S603 - our own code
        [sys.executable, "-c", IMPORTING], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, done.stderr


def test_what_comes_while_it_starts_is_not_lost(tmp_path: Path, upstream: RawUpstream) -> None:
    """Neither does a SIGHUP end it, nor is a change of the file missed, after that was read."""
    # It is read after the routes file, and waits for somebody who writes.
    password = tmp_path / "password"
    os.mkfifo(password)
    settings = {"OSTIARY_GATEWAY_RATE_LIMIT_STORE_PASSWORD_FILE": str(password)}
    gateway = GatewayProcess(tmp_path, ROUTES.format(port=upstream.port, name="old"), **settings)
    with gateway.starting(), password.open("w") as writer:
        gateway.change(ROUTES.format(port=upstream.port, name="new"))
        gateway.process.send_signal(signal.SIGHUP)
        writer.write("secret\n")
        writer.close()
        wait_until(lambda: gateway.process.poll() is not None or gateway.listens(), "it listens")
        assert gateway.process.poll() is None
        wait_until(lambda: status(gateway, "/new") == b"200", "the change is seen")
        assert status(gateway, "/old") == b"404"
