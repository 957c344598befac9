"""Structured logs on standard output: JSON for machines, aligned text for people."""

import json
import logging
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, TextIO

import structlog

from ostiary_chassis.log_output import LogOutput

_log = structlog.stdlib.get_logger("process")

#: Frames of a traceback in a log line.
MAX_FRAMES = 30

#: Created once, as creating one takes longer than using it. Values of other types are logged by their repr.
_JSON = json.JSONEncoder(default=repr)

LogFormat = Literal["json", "text"]
LogLevel = Literal["info", "debug"]


class _LineLogger:
    """Writes a record for each event of a structlog logger."""

    def __init__(self, name: str, output: LogOutput) -> None:
        self.name = name
        self._output = output

    def msg(self, line: str) -> None:
        self._output.write(f"{line}\n")

    debug = info = warning = error = critical = exception = msg


class _Handler(logging.Handler):
    """Writes the records of the standard library's loggers."""

    def __init__(self, output: LogOutput) -> None:
        super().__init__()
        self._output = output

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._output.write(f"{self.format(record)}\n")
        except Exception:  # noqa: BLE001 - a library's arguments that do not fit its message
            _log.exception("log record is invalid", source=record.name)


#: The output of the process, for all of its logs.
_output = LogOutput(None)


def output() -> LogOutput:
    """Return the output of the process's logs; before `configure`, it drops everything."""
    return _output


def configure(log_format: LogFormat, service: str, stream: TextIO | None = None, log_level: LogLevel = "info") -> None:
    """Format all logs of the process alike, including those of libraries; by default to standard output.

    `log_level` is that of our own logs.
    """
    global _output  # noqa: PLW0603 - a process has one, as it has one configuration of its loggers
    _output = written = LogOutput(_descriptor(stream or sys.__stdout__))
    shared: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
    ]
    renderer: list[structlog.types.Processor]
    if log_format == "json":
        renderer = [
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            # Without the values of variables, which may be passwords or tokens.
            structlog.processors.ExceptionRenderer(
                structlog.tracebacks.ExceptionDictTransformer(show_locals=False, max_frames=MAX_FRAMES)
            ),
            _add_service(service),
            structlog.processors.JSONRenderer(serializer=_to_json),
        ]
    else:
        renderer = [
            structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False),
            structlog.dev.ConsoleRenderer(
                colors=False, pad_event_to=0, exception_formatter=structlog.dev.plain_traceback
            ),
        ]
    # Our loggers bypass the standard library, which makes a line three times as expensive.
    structlog.configure(
        processors=[*shared, *renderer],
        logger_factory=lambda name: _LineLogger(name, written),
        wrapper_class=structlog.make_filtering_bound_logger(log_level),
        cache_logger_on_first_use=True,
    )
    handler = _Handler(written)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder()],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderer],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.INFO)
    # Our own logs cover what these log below a warning.
    for chatty in ("alembic", "httpcore", "httpx", "uvicorn"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    logging.captureWarnings(True)


@contextmanager
def in_background() -> Iterator[None]:
    """Write logs in a thread meanwhile, so that the event loop never waits for their reader.

    What Python writes to standard error otherwise becomes a log record.
    """
    _log_uncaught_errors()
    _output.start()
    try:
        yield
    finally:
        _output.close()


def _descriptor(stream: TextIO | None) -> int | None:
    """Return the descriptor of a stream; None if it was closed when the process started: it is another file's then."""
    return None if stream is None else stream.fileno()


def _log_uncaught_errors() -> None:
    def on_error(kind: type[BaseException], error: BaseException | None, trace: Any) -> None:
        if not issubclass(kind, KeyboardInterrupt | SystemExit):
            _log.exception("uncaught error", exc_info=(kind, error, trace))

    sys.excepthook = on_error
    threading.excepthook = lambda given: on_error(given.exc_type, given.exc_value, given.exc_traceback)
    sys.unraisablehook = lambda given: on_error(given.exc_type, given.exc_value, given.exc_traceback)


def _to_json(event: object, **_: object) -> str:
    return _JSON.encode(event)


def _add_service(service: str) -> structlog.types.Processor:
    def add(_logger: object, _method: str, event: structlog.types.EventDict) -> structlog.types.EventDict:
        event["service"] = service
        return event

    return add
