"""Log lines go on their way whatever their reader does, and nobody waits for it."""

import json
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ostiary_chassis import log_output
from ostiary_chassis.log_output import MAX_BYTES, MAX_RECORDS, LogOutput

LINE = f"{'x' * 99}\n"

#: Seconds after which what has not happened will not.
PATIENCE = 20.0

#: Seconds between two looks at what changes without another byte.
LOOK_SECONDS = 0.01


class Pipe:
    """A pipe whose reader reads when it is told to."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()

    def read(self, is_enough: Callable[[str], bool]) -> str:
        """Read what comes until it is enough, which may also come true without another byte."""
        text, until = "", time.monotonic() + PATIENCE
        while not is_enough(text):
            assert time.monotonic() < until, text[-500:]
            ready, _, _ = select.select((self.reader,), (), (), LOOK_SECONDS)
            if ready:
                text += os.read(self.reader, 65536).decode()
        return text

    def fill(self) -> None:
        """Leave no room in it."""
        os.set_blocking(self.writer, False)
        try:
            while True:
                os.write(self.writer, b"." * 4095 + b"\n")
        except BlockingIOError:
            os.set_blocking(self.writer, True)

    def close_reader(self) -> None:
        self.reader = _closed(self.reader)

    def close_writer(self) -> None:
        self.writer = _closed(self.writer)


def _closed(descriptor: int) -> int:
    if descriptor >= 0:
        os.close(descriptor)
    return -1


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    # The reader first: a thread that still writes is told, and does not write to the next test's pipe.
    pipe.close_reader()
    pipe.close_writer()


def test_lines_keep_their_order_through_thread_and_end(pipe: Pipe) -> None:
    output = LogOutput(pipe.writer)
    output.write("before\n")
    output.start()
    for number in range(100):
        output.write(f"{number}\n")
    output.close()
    output.write("after\n")
    expected = ["before", *map(str, range(100)), "after"]
    assert pipe.read(lambda text: text.endswith("after\n")).splitlines() == expected


def test_a_stalled_reader_holds_up_nobody_and_costs_the_lines_beyond_the_limit(pipe: Pipe) -> None:
    output = LogOutput(pipe.writer)
    output.start()
    pipe.fill()
    started_at = time.monotonic()
    for _ in range(2 * MAX_RECORDS):
        output.write(LINE)
    assert time.monotonic() - started_at < PATIENCE / 4
    assert output.dropped == MAX_RECORDS
    # The reader goes on: what is queued comes, and a line that says what does not.
    text = pipe.read(lambda text: "records dropped" in text or text.count(LINE) == MAX_RECORDS)
    assert text.count(LINE) <= MAX_RECORDS
    pipe.read(lambda _: output._queued_records == 0)
    output.write("again\n")
    assert pipe.read(lambda text: "again\n" in text)
    output.close()


def test_the_queue_is_bounded_in_bytes_too(pipe: Pipe) -> None:
    output = LogOutput(pipe.writer)
    output.start()
    pipe.fill()
    for _ in range(12):
        output.write("y" * (MAX_BYTES // 10) + "\n")
    assert 2 <= output.dropped <= 3
    output.write(f"{'z' * MAX_BYTES}\n")
    assert 3 <= output.dropped <= 4
    # Its thread has to end before another pipe gets the same descriptor.
    pipe.close_reader()
    output.close()


def test_an_end_does_not_wait_for_a_stalled_reader(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_output, "CLOSE_SECONDS", 0.05)
    output = LogOutput(pipe.writer)
    output.start()
    pipe.fill()
    output.write(LINE)
    started_at = time.monotonic()
    output.close()
    output.write("late\n")
    assert time.monotonic() - started_at < PATIENCE / 4
    assert output.dropped == 1


def test_without_a_thread_only_the_first_line_waits_for_a_stalled_reader(
    pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_output, "DIRECT_SECONDS", 0.01)
    output = LogOutput(pipe.writer)
    pipe.fill()
    for _ in range(5):
        output.write(LINE)
    assert output.dropped == 5
    pipe.read(lambda text: len(text) >= 65536)
    output.write("again\n")
    assert pipe.read(lambda text: text.endswith("again\n")) == "again\n"


@pytest.mark.parametrize("is_threaded", [True, False])
def test_lines_that_cannot_be_written_are_counted(is_threaded: bool) -> None:
    with Path("/dev/full").open("wb") as full:
        output = LogOutput(full.fileno())
        if is_threaded:
            output.start()
        output.write(LINE * 50, 50)
        output.write("a traceback\n  of three\n  lines\n")
        output.close()
    assert output.dropped == 51


def test_a_closed_reader_is_no_error(pipe: Pipe) -> None:
    output = LogOutput(pipe.writer)
    output.start()
    pipe.close_reader()
    output.write(LINE)
    output.close()
    assert output.dropped == 1


def test_without_a_descriptor_all_lines_are_counted() -> None:
    output = LogOutput(None)
    output.write(LINE * 3, 3)
    output.start()
    output.write(LINE)
    output.close()
    assert output.dropped == 4


def test_lost_lines_are_reported_when_lines_get_through_again(pipe: Pipe) -> None:
    script = """
import os, sys
from ostiary_chassis import logs
logs.configure("json", "test")
with logs.in_background():
    logs.output().write("x" * 2_000_000 + "\\n")
    logs.output().write("{}\\n")
    sys.stdin.readline()
"""
    with subprocess.Popen(  # noqa: S603 - our own script
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=pipe.writer
    ) as process:
        text = pipe.read(lambda text: "dropped" in text and text.endswith("\n"))
        process.communicate(b"\n", timeout=PATIENCE)
    first, second = map(json.loads, text.splitlines())
    assert first == {}
    assert (second["event"], second["records"], second["level"]) == ("log records dropped", 1, "warning")


def test_a_line_that_is_written_in_part_does_not_spoil_the_next_one(
    pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, calls = os.write, 0

    def write_some(descriptor: int, data: bytes) -> int:
        nonlocal calls
        calls += 1
        if calls == 1:
            return write(descriptor, data[:10])
        if calls == 2:
            raise OSError(28, "No space left on device")
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", write_some)
    output = LogOutput(pipe.writer)
    output.write(LINE)
    output.write("next\n")
    assert pipe.read(lambda text: text.endswith("next\n")) == f"{LINE[:10]}\nnext\n"
    assert output.dropped == 1


def test_a_descriptor_that_somebody_made_non_blocking_loses_nothing(pipe: Pipe) -> None:
    output = LogOutput(pipe.writer)
    output.start()
    os.set_blocking(pipe.writer, False)
    for _ in range(20):
        output.write(LINE * 100, 100)
    text = pipe.read(lambda text: text.count("\n") == 2000)
    assert (text, output.dropped) == (LINE * 2000, 0)
    output.close()


def test_processes_with_one_pipe_do_not_mix_their_lines(pipe: Pipe) -> None:
    script = """
import sys
from ostiary_chassis import logs
logs.configure("text", "test")
with logs.in_background():
    for _ in range(20):
        logs.output().write((sys.argv[1] * 149 + "\\n") * 200, 200)
"""
    processes = [
        subprocess.Popen([sys.executable, "-c", script, name], stdout=pipe.writer)  # noqa: S603 - our own script
        for name in "abc"
    ]
    pipe.close_writer()
    received: list[bytes] = []

    def read() -> None:
        while data := os.read(pipe.reader, 1000):
            received.append(data)

    reader = threading.Thread(target=read)
    reader.start()
    assert [process.wait(PATIENCE) for process in processes] == [0, 0, 0]
    reader.join(PATIENCE)
    lines = b"".join(received).decode().splitlines()
    assert len(lines) > 3 * 1000
    assert {line for line in lines if "records dropped" not in line} == {"a" * 149, "b" * 149, "c" * 149}


def test_a_signal_handler_may_log_while_a_line_is_taken(pipe: Pipe) -> None:
    output = LogOutput(pipe.writer)
    output.start()
    with output._lock:
        output.write("in the middle\n")
    output.close()
    assert pipe.read(bool) == "in the middle\n"
