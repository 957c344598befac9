"""Several processes that serve one address, each on its own; the kernel shares the connections out (SO_REUSEPORT)."""

import asyncio
import os
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import structlog
from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from ostiary_chassis.metrics import Metrics
from ostiary_chassis.settings import ConfigError

_log = structlog.stdlib.get_logger("workers")

#: Seconds until a worker that has ended by itself is started again.
RESTART_SECONDS = 1.0

#: As often in a row a worker says that it cannot start until all of them end: what is wrong does not mend itself.
MAX_FAILED_STARTS = 5

#: Seconds for another worker to say what it has counted.
METRICS_SECONDS = 2.0

#: The last line of what a worker tells: without it, that is not all.
_END = "# EOF\n"

_PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@dataclass(frozen=True, slots=True)
class Worker:
    """One of the processes. They find each other in `folder`."""

    number: int
    count: int
    folder: Path

    def socket_of(self, number: int) -> Path:
        """Return where a worker tells what it has counted."""
        return self.folder / str(number)

    @property
    def fault(self) -> Path:
        """Where it says why it cannot start."""
        return self.folder / f"{self.number}.fault"


class WorkerMetrics(Metrics):
    """What a worker counts; it is read together with what the others do."""

    def __init__(self, worker: Worker) -> None:
        """Start at zero."""
        super().__init__()
        self._worker = worker

    @asynccontextmanager
    async def told(self) -> AsyncIterator[None]:
        """Tell the others what was counted here."""

        def tell(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(generate_latest(self.registry) + _END.encode())
            writer.close()

        path = self._worker.socket_of(self._worker.number)
        # Of the one that had this number before.
        path.unlink(missing_ok=True)
        async with await asyncio.start_unix_server(tell, path):
            yield

    async def read(self) -> bytes:
        """Return what all workers have counted, with the label `worker`; those that do not tell all are left out."""
        numbers = range(self._worker.count)
        return generate_latest(_Told(await asyncio.gather(*map(self._ask, numbers))))

    async def _ask(self, number: int) -> str:
        if number == self._worker.number:
            return generate_latest(self.registry).decode()
        try:
            async with asyncio.timeout(METRICS_SECONDS):
                reader, writer = await asyncio.open_unix_connection(self._worker.socket_of(number))
                try:
                    text = (await reader.read()).decode(errors="replace")
                finally:
                    writer.close()
        except (OSError, TimeoutError):
            return ""
        # It may have ended in the middle of a line.
        return text if text.endswith(_END) else ""


class _Told(CollectorRegistry):
    """What workers have told, in the order of their numbers."""

    def __init__(self, texts: Sequence[str]) -> None:
        super().__init__()
        self._texts = texts

    def collect(self) -> Iterator[Metric]:
        families: dict[str, Metric] = {}
        for number, text in enumerate(self._texts):
            for told in text_string_to_metric_families(text):
                family = families.setdefault(told.name, Metric(told.name, told.documentation, told.type))
                for sample in told.samples:
                    family.add_sample(sample.name, {**sample.labels, "worker": str(number)}, sample.value)
        yield from families.values()


def run(count: int, work: Callable[[Worker], None]) -> None:
    """Do `work` in so many processes, until SIGTERM or SIGINT; one that ends by itself is started again.

    SIGHUP is passed on to them. They end when this process does, however it ends. To be called before there are
    threads and event loops. Raises ConfigError when workers say so again and again, and ends those that do not.
    """
    with tempfile.TemporaryDirectory(prefix="ostiary-") as folder:
        _Supervisor(count, Path(folder), work).run()


class _Supervisor:
    def __init__(self, count: int, folder: Path, work: Callable[[Worker], None]) -> None:
        self._workers = [Worker(number, count, folder) for number in range(count)]
        self._work = work
        #: Why workers could not start, those that have tried last.
        self._faults: list[str] = []
        #: The workers, by process.
        self._working: dict[int, Worker] = {}
        self._is_ending = False
        # It is closed with this process: whoever reads from it sees that.
        self._life = os.pipe()

    def run(self) -> None:
        for each in _PASSED_ON:
            signal.signal(each, self._pass_on)
        for worker in self._workers:
            self._start(worker)
        while self._working:
            process, status = os.wait()
            worker = self._working.pop(process)
            if not self._is_ending:
                self._on_end(worker, os.waitstatus_to_exitcode(status))
        if len(self._faults) == MAX_FAILED_STARTS:
            raise ConfigError(self._faults[-1])

    def _on_end(self, worker: Worker, code: int) -> None:
        """Start a worker again that has ended by itself, unless that is in vain."""
        if worker.fault.exists():
            self._faults.append(worker.fault.read_text())
            worker.fault.unlink()
            _log.error("worker cannot start", worker=worker.number, error=self._faults[-1])
        else:
            self._faults.clear()
            _log.error("worker has ended by itself", worker=worker.number, status=code)
        if len(self._faults) == MAX_FAILED_STARTS:
            self._pass_on(signal.SIGTERM, None)
            return
        time.sleep(RESTART_SECONDS)
        self._start(worker)

    def _pass_on(self, number: int, _frame: object) -> None:
        self._is_ending = self._is_ending or number != signal.SIGHUP
        for process in self._working:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGTERM if self._is_ending else signal.SIGHUP)

    def _start(self, worker: Worker) -> None:
        # A signal that came between these lines would miss the new process.
        signal.pthread_sigmask(signal.SIG_BLOCK, _PASSED_ON)
        if not self._is_ending:
            sys.stdout.flush()
            process = os.fork()
            if process == 0:
                self._be(worker)
            self._working[process] = worker
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _PASSED_ON)

    def _be(self, worker: Worker) -> NoReturn:
        """Be a worker."""
        code = 1
        try:
            for each in _PASSED_ON:
                # It must not end a worker that does not listen to it yet.
                signal.signal(each, signal.SIG_IGN if each == signal.SIGHUP else signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _PASSED_ON)
            os.close(self._life[1])
            threading.Thread(target=self._end_with_parent, daemon=True).start()
            self._work(worker)
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        except ConfigError as error:
            worker.fault.write_text(str(error))
        except BaseException:  # noqa: BLE001 - the process ends here, and with what belongs to its parent left alone
            traceback.print_exc()
        finally:
            with suppress(OSError, ValueError):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)

    def _end_with_parent(self) -> None:
        os.read(self._life[0], 1)
        os.kill(os.getpid(), signal.SIGTERM)
