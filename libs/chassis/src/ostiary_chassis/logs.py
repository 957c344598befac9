"""Structured logs on standard output: JSON for machines, aligned text for people."""

import json
import logging
import sys
from contextlib import suppress
from typing import Literal, TextIO

import structlog

#: Frames of a traceback in a log line.
MAX_FRAMES = 30

#: Made once, as making one takes longer than using it. What JSON does not know is shown as Python does.
_JSON = json.JSONEncoder(default=repr)

LogFormat = Literal["json", "text"]


class _Lines:
    """Where structlog's loggers write: one line for each event."""

    def __init__(self, name: str, stream: TextIO) -> None:
        """Write to a stream, for the logger of this name."""
        self.name = name
        self._stream = stream

    def msg(self, line: str) -> None:
        """Write a line. One call, so that the lines of several threads do not mix.

        If it cannot be written, because a disk is full or nobody reads any more, what it is about goes on.
        """
        with suppress(OSError, ValueError):
            self._stream.write(f"{line}\n")
            self._stream.flush()

    debug = info = warning = error = critical = exception = msg


def configure(log_format: LogFormat, service: str, stream: TextIO | None = None) -> None:
    """Send all logs of the process, those of libraries too, through one formatter; by default to standard output."""
    shared: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
    ]
    renderer: list[structlog.types.Processor]
    if log_format == "json":
        renderer = [
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            # Without the values of variables: they are passwords and tokens, too.
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
    # Our own loggers write by themselves: on its way through the standard library a line costs three times as much.
    structlog.configure(
        processors=[*shared, *renderer],
        logger_factory=lambda name: _Lines(name, stream or sys.stdout),
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
    # What these say below a warning, our own logs say in one line.
    for chatty in ("alembic", "httpcore", "httpx", "uvicorn"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


def _to_json(event: object, **_: object) -> str:
    return _JSON.encode(event)


def _add_service(service: str) -> structlog.types.Processor:
    def add(_logger: object, _method: str, event: structlog.types.EventDict) -> structlog.types.EventDict:
        event["service"] = service
        return event

    return add
