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

_log = structlog.stdlib.get_logger("workers")

#: Seconds until a worker that has ended by itself is started again.
RESTART_SECONDS = 1.0

#: Seconds for another worker to say what it has counted.
METRICS_SECONDS = 2.0

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
            writer.write(generate_latest(self.registry))
            writer.close()

        path = self._worker.socket_of(self._worker.number)
        # Of the one that had this number before.
        path.unlink(missing_ok=True)
        async with await asyncio.start_unix_server(tell, path):
            yield

    async def read(self) -> bytes:
        """Return what all workers have counted, with the label `worker`; those that do not answer are left out."""
        numbers = range(self._worker.count)
        return generate_latest(_Told(await asyncio.gather(*map(self._ask, numbers))))

    async def _ask(self, number: int) -> str:
        if number == self._worker.number:
            return generate_latest(self.registry).decode()
        try:
            async with asyncio.timeout(METRICS_SECONDS):
                reader, writer = await asyncio.open_unix_connection(self._worker.socket_of(number))
                try:
                    return (await reader.read()).decode()
                finally:
                    writer.close()
        except (OSError, TimeoutError):
            return ""


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
    threads and event loops.
    """
    with tempfile.TemporaryDirectory(prefix="ostiary-") as folder:
        _Supervisor(count, lambda number: work(Worker(number, count, Path(folder)))).run()


class _Supervisor:
    def __init__(self, count: int, work: Callable[[int], None]) -> None:
        self._count = count
        self._work = work
        #: The workers' numbers, by process.
        self._numbers: dict[int, int] = {}
        self._is_ending = False
        # It is closed with this process: whoever reads from it sees that.
        self._life = os.pipe()

    def run(self) -> None:
        for each in _PASSED_ON:
            signal.signal(each, self._pass_on)
        for number in range(self._count):
            self._start(number)
        while self._numbers:
            process, status = os.wait()
            number = self._numbers.pop(process)
            if not self._is_ending:
                _log.error("worker has ended by itself", worker=number, status=os.waitstatus_to_exitcode(status))
                time.sleep(RESTART_SECONDS)
                self._start(number)

    def _pass_on(self, number: int, _frame: object) -> None:
        self._is_ending = self._is_ending or number != signal.SIGHUP
        for process in self._numbers:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGTERM if self._is_ending else signal.SIGHUP)

    def _start(self, number: int) -> None:
        # A signal that came between these lines would miss the new process.
        signal.pthread_sigmask(signal.SIG_BLOCK, _PASSED_ON)
        if not self._is_ending:
            sys.stdout.flush()
            process = os.fork()
            if process == 0:
                self._be(number)
            self._numbers[process] = number
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _PASSED_ON)

    def _be(self, number: int) -> NoReturn:
        """Be a worker."""
        code = 1
        try:
            for each in _PASSED_ON:
                signal.signal(each, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _PASSED_ON)
            os.close(self._life[1])
            threading.Thread(target=self._end_with_parent, daemon=True).start()
            self._work(number)
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
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
