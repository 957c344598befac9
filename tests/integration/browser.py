"""Chromium without a window, through its DevTools protocol."""

import itertools
import json
import subprocess
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Self

from clusters import STOP_SECONDS, wait_until
from ordinary import program
from websockets.sync.client import ClientConnection, connect

#: Seconds for a page to load, and for a script in it.
PATIENCE = 30.0

_OPTIONS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-quic",
    "--no-proxy-server",
    "--remote-debugging-port=0",
]


class Browser:
    """One browser with one page."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._numbers = itertools.count(1)
        self._events: list[dict[str, Any]] = []
        self._process: subprocess.Popen[bytes] | None = None
        self._open = ExitStack()
        self._socket: ClientConnection | None = None
        self._session: str | None = None

    def __enter__(self) -> Self:
        command = [program("chromium"), *_OPTIONS, f"--user-data-dir={self._directory}", "about:blank"]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # noqa: S603 - a program of the machine
        address = self._directory / "DevToolsActivePort"
        wait_until(lambda: address.exists() and "\n" in address.read_text(), "the browser listens")
        port, path = address.read_text().split("\n")[:2]
        self._socket = self._open.enter_context(
            connect(f"ws://127.0.0.1:{port}{path}", proxy=None, max_size=None, open_timeout=PATIENCE)
        )
        pages = self.call("Target.getTargets")["targetInfos"]
        (page,) = [each["targetId"] for each in pages if each["type"] == "page"]
        self._session = self.call("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        self.call("Page.enable")
        return self

    def __exit__(self, *raised: object) -> None:
        if self._socket is not None:
            # It may be gone before it answers.
            with suppress(Exception):
                self._session = None
                self.call("Browser.close")
            self._open.close()
        if self._process is not None:
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol, and return its result."""
        assert self._socket is not None
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        self._socket.send(json.dumps(message))
        while (received := self._receive()).get("id") != number:
            pass
        assert "error" not in received, received
        result: dict[str, Any] = received["result"]
        return result

    def open(self, url: str) -> None:
        """Open a page, and wait until it has loaded."""
        self._events.clear()
        error = self.call("Page.navigate", url=url).get("errorText")
        assert error is None, error
        self.wait_for_load()

    def wait_for_load(self) -> None:
        """Wait until a page that is being opened has loaded."""
        while all(event["method"] != "Page.loadEventFired" for event in self._events):
            self._receive()

    def run(self, script: str) -> Any:
        """Return what a script returns, or the promise that it returns resolves to."""
        self._events.clear()
        result = self.call(
            "Runtime.evaluate", expression=f"(async () => {{ {script} }})()", awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in result, result["exceptionDetails"]["exception"]["description"]
        return result["result"].get("value")

    def submit(self, script: str) -> None:
        """Run a script that leaves the page, and wait until the next one has loaded."""
        self._events.clear()
        # After the answer to this call, so that it is not cut off.
        self.call("Runtime.evaluate", expression=f"setTimeout(() => {{ {script} }})")
        self.wait_for_load()

    def _receive(self) -> dict[str, Any]:
        assert self._socket is not None
        message: dict[str, Any] = json.loads(self._socket.recv(timeout=PATIENCE))
        if "method" in message:
            self._events.append(message)
        return message
