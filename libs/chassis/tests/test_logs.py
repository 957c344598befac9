"""Errors are logged without the secrets in their variables."""

import json
import logging
import subprocess
import sys
import textwrap

import pytest

SCRIPT = textwrap.dedent(
    """
    import asyncio, sys
    import httpx
    from contextlib import asynccontextmanager
    from ostiary_chassis.metrics import Metrics
    from sqlalchemy import text
    from ostiary_chassis import logs
    from ostiary_chassis.app import new_app
    from ostiary_chassis.bodies import RequestBody
    from ostiary_chassis.sql import Database, DatabaseAddress

    logs.configure(sys.argv[1], "test")
    database = Database(DatabaseAddress.of("test", "sqlite:///" + sys.argv[2]))

    class Body(RequestBody):
        password: str

    @asynccontextmanager
    async def lifespan(app):
        yield

    app = new_app(title="t", version="0", lifespan=lifespan, ready_checks={}, exception_handlers={},
                  metrics=Metrics())

    @app.post("/fail")
    async def fail(body: Body) -> None:
        local = body.password
        raise RuntimeError("boom")

    @app.post("/sql")
    async def sql(body: Body) -> None:
        async with database.write() as connection:
            await connection.execute(text("INSERT INTO nowhere VALUES (:secret)"), {"secret": body.password})

    async def main():
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://t") as client:
            for path in ("/fail", "/sql"):
                response = await client.post(path, json={"password": "hunter2hunter2"})
                assert response.status_code == 500, response.text
            nested = b'{"password": ' + b"[" * 800 + b"]" * 800 + b"}"
            response = await client.post("/fail", content=nested, headers={"Content-Type": "application/json"})
            assert response.status_code == 422, response.text
        await database.close()

    asyncio.run(main())
    """
)


@pytest.mark.parametrize("log_format", ["json", "text"])
def test_a_traceback_holds_no_values(log_format: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("logs") / "test.db"
    done = subprocess.run(  # noqa: S603 - our own script
        [sys.executable, "-c", SCRIPT, log_format, str(path)], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "boom" in done.stdout
    assert "nowhere" in done.stdout
    assert "hunter2" not in done.stdout + done.stderr
    assert len(done.stdout) < 200_000
    if log_format == "json":
        assert all(json.loads(line)["service"] == "test" for line in done.stdout.splitlines())


def test_logging_is_left_alone_by_importing() -> None:
    assert logging.getLogger().level == logging.WARNING


def test_a_line_that_cannot_be_written_is_dropped() -> None:
    script = """
import os, structlog
from ostiary_chassis import logs
logs.configure("json", "test", stream=open("/dev/full", "w"))
structlog.stdlib.get_logger("t").info("lost")
os._exit(0)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)  # noqa: S603 - ours
    assert (done.returncode, done.stderr) == (0, "")


def test_uncaught_errors_are_logged_before_the_process_ends() -> None:
    script = """
import logging, threading, warnings
from ostiary_chassis import logs
logs.configure("json", "test")
class Thing:
    def __del__(self):
        raise KeyError("finalizer")
with logs.in_background():
    thread = threading.Thread(target=lambda: [][0])
    thread.start()
    thread.join()
    Thing()
    warnings.warn("old")
    logging.getLogger("library").warning("%d", "no number")
    raise RuntimeError("boom")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)  # noqa: S603 - ours
    assert (done.returncode, done.stderr) == (1, "")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["event"] for line in lines if line["logger"] == "process"] == [
        "uncaught error",
        "uncaught error",
        "log record is invalid",
        "uncaught error",
    ]
    assert [name for name in ("IndexError", "KeyError", "TypeError", "RuntimeError") if name in done.stdout] == [
        "IndexError",
        "KeyError",
        "TypeError",
        "RuntimeError",
    ]
    assert "UserWarning: old" in done.stdout
