"""Where a process's log lines go. Whoever reads them may stall, be gone, or have no space left: nobody waits for that.

    DIRECT -- start() --> THREADED -- close() --> DIRECT

THREADED: lines are queued, within limits, and a thread writes them. That is the state of a process that serves.
DIRECT: lines are written at once, or dropped if the descriptor takes none within DIRECT_SECONDS. That is the state of
commands, and of a process that forks: it has no threads.
"""

import os
import select
import threading
import time
from queue import SimpleQueue

import structlog

_log = structlog.stdlib.get_logger("logs")

#: Records and bytes in the queue: what a busy process logs while its reader pauses for half a second.
MAX_RECORDS = 4096
MAX_BYTES = 1024 * 1024

#: Seconds to wait without a thread until a line can be written; the next ones do not wait for the same reader again.
DIRECT_SECONDS = 0.5

#: Seconds at the end of a process to write what is queued.
CLOSE_SECONDS = 1.0

#: Seconds between two reports of dropped records.
REPORT_SECONDS = 1.0


class LogOutput:
    """A file descriptor for lines; without one, all are dropped. Lines keep their order. May be used by all threads."""

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor
        #: How many records were dropped.
        self.dropped = 0
        self._reported, self._report_due = 0, 0.0
        # Reentrant, as a signal handler or a finalizer may log.
        self._lock = threading.RLock()
        self._queue: SimpleQueue[tuple[bytes, int] | None] = SimpleQueue()
        self._queued_records = self._queued_bytes = 0
        self._thread: threading.Thread | None = None
        #: Whether the last line was written in part, and whether the reader has let one wait in vain.
        self._is_torn = self._is_stalled = False

    def start(self) -> None:
        """Write in a thread from now on. The process must not fork any more."""
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Write what is queued, for CLOSE_SECONDS at most."""
        with self._lock:
            thread, self._thread = self._thread, None
            if thread is None:
                return
            self._queue.put(None)
        thread.join(CLOSE_SECONDS)
        if thread.is_alive():
            # Nothing may come between the parts of what it writes.
            self._descriptor = None

    def write(self, lines: str, records: int = 1) -> None:
        """Write records, each of one or more whole lines. They are dropped together if the queue is full."""
        data = lines.encode("utf-8", "backslashreplace")
        with self._lock:
            if self._thread is None:
                self._write(data, records, directly=True)
            elif self._queued_records + records > MAX_RECORDS or self._queued_bytes + len(data) > MAX_BYTES:
                self.dropped += records
            else:
                self._queued_records += records
                self._queued_bytes += len(data)
                self._queue.put((data, records))

    def _run(self) -> None:
        while (entry := self._queue.get()) is not None:
            data, records = entry
            self._write(data, records, directly=False)
            with self._lock:
                self._queued_records -= records
                self._queued_bytes -= len(data)
            if self.dropped > self._reported and not self._is_torn and time.monotonic() >= self._report_due:
                self._report_due = time.monotonic() + REPORT_SECONDS
                dropped, self._reported = self.dropped - self._reported, self.dropped
                _log.warning("log records dropped", records=dropped)

    def _write(self, data: bytes, records: int, *, directly: bool) -> None:
        if self._is_torn:
            data = b"\n" + data
        start, descriptor = 0, self._descriptor
        while descriptor is not None and start < len(data):
            end = _end_of_chunk(data, start)
            try:
                if directly:
                    self._await_reader(descriptor)
                    end = min(end, start + select.PIPE_BUF)
                start += os.write(descriptor, data[start:end])
            except BlockingIOError:
                # Another process has made the descriptor non-blocking.
                select.select((), (descriptor,), ())
            except OSError:
                break
        if start:
            self._is_torn = not data.startswith(b"\n", start - 1)
        if start < len(data):
            with self._lock:
                self.dropped += min(records, data.count(b"\n", start))

    def _await_reader(self, descriptor: int) -> None:
        """Wait until a write of PIPE_BUF bytes does not block. Raises TimeoutError."""
        poll = select.poll()
        poll.register(descriptor, select.POLLOUT)
        self._is_stalled = not poll.poll(0.0 if self._is_stalled else DIRECT_SECONDS * 1000)
        if self._is_stalled:
            raise TimeoutError


def _end_of_chunk(data: bytes, start: int) -> int:
    """Return the end of what is written at once: whole lines, of PIPE_BUF bytes if possible.

    Writes of up to that size are atomic, and other workers may write to the same pipe.
    """
    limit = start + select.PIPE_BUF
    if len(data) <= limit:
        return len(data)
    return data.rfind(b"\n", start, limit) + 1 or data.find(b"\n", limit) + 1 or len(data)
