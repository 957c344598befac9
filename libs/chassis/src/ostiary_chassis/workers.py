"""Several processes that serve one address independently; the kernel distributes connections (SO_REUSEPORT)."""

import asyncio
import os
import signal
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import structlog
from prometheus_client import Metric, generate_latest

from ostiary_chassis.metrics import Collected, Metrics
from ostiary_chassis.server import END_AT_ONCE
from ostiary_chassis.settings import ConfigError
from ostiary_chassis.threads import in_thread

_log = structlog.stdlib.get_logger("workers")

#: Seconds before a worker that has exited is restarted.
RESTART_SECONDS = 1.0

#: Consecutive failures of workers to start after which all of them end: the cause is permanent.
MAX_FAILED_STARTS = 5

#: Seconds to read the metrics of another worker.
METRICS_SECONDS = 2.0

#: The last line of a worker's metrics: without it, they are incomplete.
_END = "# EOF\n"

#: What separates metrics; two lines of a metric come before its samples.
_HELP = "\n# HELP "

_FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@dataclass(frozen=True, slots=True)
class Worker:
    """One of the processes. Their sockets are in `folder`."""

    number: int
    count: int
    folder: Path

    def socket_of(self, number: int) -> Path:
        """Return the path of the socket that serves a worker's metrics."""
        return self.folder / str(number)

    @property
    def fault(self) -> Path:
        """The file for the reason why the worker cannot start."""
        return self.folder / f"{self.number}.fault"


class WorkerMetrics(Metrics):
    """The metrics of a worker. Reading them includes those of the other workers."""

    def __init__(self, worker: Worker) -> None:
        super().__init__()
        self._worker = worker

    @asynccontextmanager
    async def shared(self) -> AsyncIterator[None]:
        """Serve this worker's metrics to the others."""
        sending: set[asyncio.Task[None]] = set()

        def serve(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.create_task(self._send_own(writer))
            sending.add(task)
            task.add_done_callback(sending.discard)

        path = self._worker.socket_of(self._worker.number)
        # A previous worker with this number may have left its socket.
        path.unlink(missing_ok=True)
        async with await asyncio.start_unix_server(serve, path):
            yield

    async def read(self) -> bytes:
        """Return the metrics of all workers, with the label `worker`. Those that do not respond are omitted."""
        texts = await asyncio.gather(*map(self._read_from, range(self._worker.count)))
        return await in_thread(_merge, texts)

    async def _read_from(self, number: int) -> str:
        if number == self._worker.number:
            return await self._read_own()
        try:
            async with asyncio.timeout(METRICS_SECONDS):
                reader, writer = await asyncio.open_unix_connection(self._worker.socket_of(number))
                try:
                    text = (await reader.read()).decode(errors="replace")
                finally:
                    writer.close()
        except (OSError, TimeoutError):
            return ""
        # The worker may have exited while writing.
        return text.removesuffix(_END) if text.endswith(_END) else ""

    async def _send_own(self, writer: asyncio.StreamWriter) -> None:
        writer.write(f"{await self._read_own()}{_END}".encode())
        writer.close()

    async def _read_own(self) -> str:
        return await in_thread(_format, list(self.registry.collect()), str(self._worker.number))


def _format(metrics: list[Metric], worker: str) -> str:
    """Return metrics as text, with the label `worker`."""
    for metric in metrics:
        for sample in metric.samples:
            sample.labels["worker"] = worker
    return generate_latest(Collected(metrics)).decode()


def _merge(texts: Sequence[str]) -> bytes:
    """Return the metrics of several workers. The lines of a metric must be together: its type, then its samples."""
    samples: dict[tuple[str, str], list[str]] = {}
    for text in texts:
        for metric in f"\n{text.strip()}".split(_HELP)[1:]:
            documentation, kind, *lines = metric.split("\n", 2)
            samples.setdefault((documentation, kind), []).extend(lines)
    merged = ("\n".join([f"{_HELP}{documentation}", kind, *lines]) for (documentation, kind), lines in samples.items())
    return f"{''.join(merged).strip()}\n".encode()


def run(count: int, work: Callable[[Worker], None]) -> None:
    """Run `work` in `count` processes until SIGTERM or SIGINT; one that exits is restarted.

    SIGHUP is forwarded to them, and so is the signal to end; a second one ends them at once. They end with this
    process, however it ends. Call it before threads and event loops exist. Raises ConfigError, after all workers have
    ended, when workers repeatedly do so at their start.
    """
    with tempfile.TemporaryDirectory(prefix="ostiary-") as folder:
        _Supervisor(count, Path(folder), work).run()


class _Supervisor:
    def __init__(self, count: int, folder: Path, work: Callable[[Worker], None]) -> None:
        self._workers = [Worker(number, count, folder) for number in range(count)]
        self._work = work
        #: The reasons of consecutive failures to start.
        self._faults: list[str] = []
        #: The running workers, by process id.
        self._running: dict[int, Worker] = {}
        self._is_ending = False
        # The kernel closes it with this process, which the workers notice.
        self._life = os.pipe()

    def run(self) -> None:
        for each in _FORWARDED:
            signal.signal(each, self._forward)
        for worker in self._workers:
            self._start(worker)
        while self._running:
            process, status = os.wait()
            worker = self._running.pop(process)
            if not self._is_ending:
                self._on_end(worker, os.waitstatus_to_exitcode(status))
        if len(self._faults) == MAX_FAILED_STARTS:
            raise ConfigError(self._faults[-1])

    def _on_end(self, worker: Worker, code: int) -> None:
        """Restart a worker that has exited, unless workers repeatedly fail to start."""
        if worker.fault.exists():
            self._faults.append(worker.fault.read_text())
            worker.fault.unlink()
            _log.error("worker cannot start", worker=worker.number, error=self._faults[-1])
        else:
            self._faults.clear()
            _log.error("worker exited", worker=worker.number, status=code)
        if len(self._faults) == MAX_FAILED_STARTS:
            self._forward(signal.SIGINT, None)
            return
        time.sleep(RESTART_SECONDS)
        self._start(worker)

    def _forward(self, number: int, _frame: object) -> None:
        if number != signal.SIGHUP:
            number, self._is_ending = END_AT_ONCE if self._is_ending else number, True
        for process in self._running:
            with suppress(ProcessLookupError):
                os.kill(process, number)

    def _start(self, worker: Worker) -> None:
        # A signal between these lines would miss the new process.
        signal.pthread_sigmask(signal.SIG_BLOCK, _FORWARDED)
        if not self._is_ending:
            process = os.fork()
            if process == 0:
                self._run_worker(worker)
            self._running[process] = worker
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _FORWARDED)

    def _run_worker(self, worker: Worker) -> NoReturn:
        code = 1
        try:
            for each in _FORWARDED:
                # SIGHUP must not end a worker without a handler for it.
                signal.signal(each, signal.SIG_IGN if each == signal.SIGHUP else signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _FORWARDED)
            os.close(self._life[1])
            threading.Thread(target=self._end_with_parent, daemon=True).start()
            self._work(worker)
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        except ConfigError as error:
            worker.fault.write_text(str(error))
        except BaseException:  # noqa: BLE001 - the process exits here, without the parent's cleanup
            _log.exception("uncaught error")
        finally:
            os._exit(code)

    def _end_with_parent(self) -> None:
        os.read(self._life[0], 1)
        # Without delay: whoever starts the service again needs the address.
        os.kill(os.getpid(), signal.SIGINT)
