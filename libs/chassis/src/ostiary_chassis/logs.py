"""Structured logs on standard output: JSON for machines, aligned text for people."""

import json
import logging
import sys
from contextlib import suppress
from typing import Literal, TextIO

import structlog

#: Frames of a traceback in a log line.
MAX_FRAMES = 30

#: Created once, as creating one takes longer than using it. Values of other types are logged by their repr.
_JSON = json.JSONEncoder(default=repr)

LogFormat = Literal["json", "text"]


class _LineLogger:
    """Writes one line for each event of a structlog logger."""

    def __init__(self, name: str, stream: TextIO) -> None:
        self.name = name
        self._stream = stream

    def msg(self, line: str) -> None:
        """Write a line, in a single call so that the lines of several threads do not mix.

        If that fails, because a disk is full or a pipe is closed, the service continues.
        """
        with suppress(OSError, ValueError):
            self._stream.write(f"{line}\n")
            self._stream.flush()

    debug = info = warning = error = critical = exception = msg


def configure(log_format: LogFormat, service: str, stream: TextIO | None = None) -> None:
    """Format all logs of the process alike, including those of libraries; by default to standard output."""
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
        logger_factory=lambda name: _LineLogger(name, stream or sys.stdout),
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(stream or sys.stdout)
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


def _to_json(event: object, **_: object) -> str:
    return _JSON.encode(event)


def _add_service(service: str) -> structlog.types.Processor:
    def add(_logger: object, _method: str, event: structlog.types.EventDict) -> structlog.types.EventDict:
        event["service"] = service
        return event

    return add
