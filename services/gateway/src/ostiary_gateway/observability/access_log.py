"""The access log and the counts of requests. A line is put together by hand: it is written for each request."""

import hashlib
import json
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from select import PIPE_BUF
from typing import TextIO

from ostiary_chassis.logs import LogFormat
from ostiary_chassis.metrics import RequestMetrics
from ostiary_chassis.problems import METHODS
from ostiary_gateway.access.request import RequestContext, Trace
from ostiary_gateway.http1.bounded_cache import BoundedCache
from ostiary_gateway.http1.parser import Request

#: Lines that are written together at most; they are written at each tick in any case.
MAX_LINES = 512

#: Subjects whose pseudonyms are kept at hand.
_SUBJECTS = 4096

#: What requests have in common that end alike: method, route, status and decision.
Kind = tuple[str, str, int, str]


class AccessLog:
    """Counts requests, writes a line for each, and ends its trace."""

    def __init__(
        self,
        requests: RequestMetrics,
        log_format: LogFormat,
        begin_trace: Callable[[Request], Trace] | None = None,
        stream: TextIO | None = None,
    ) -> None:
        """Make the log; by default, it goes to standard output, and there are no traces."""
        self._begin_trace = begin_trace
        self._requests = requests
        self._is_json = log_format == "json"
        self._stream = stream
        self._lines: list[str] = []
        self._pseudonym = lru_cache(_SUBJECTS)(pseudonym)
        #: What lines about requests of one kind have in common.
        self._common: BoundedCache[Kind, str] = BoundedCache(_as_json if self._is_json else _as_text)
        self._second, self._time = 0, ""

    def begin(self, context: RequestContext) -> None:
        """Begin to follow a request."""
        if self._begin_trace is not None:
            context.trace = self._begin_trace(context.request)

    def add(
        self,
        context: RequestContext,
        status: int,
        decision: str,
        seconds: float,
        upstream_seconds: float,
    ) -> None:
        """Count and log a request. `decision` is `allowed`, or the code of the problem that it was answered with."""
        method, token = context.request.method, context.token
        if method not in METHODS:
            method = "other"
        route = context.route.match.path if context.route is not None else "unmatched"
        self._requests.record(method, route, status, seconds)
        subject = self._pseudonym(token.subject) if token is not None else ""
        common = self._common[method, route, status, decision]
        ms, upstream_ms = _ms(seconds), _ms(upstream_seconds)
        # All that is filled in is of a few characters that mean nothing to JSON, or is a number.
        if self._is_json:
            line = (
                f'{{"timestamp":"{self._now()}",{common},"ms":{ms},"upstream_ms":{upstream_ms},'
                f'"client":"{context.client}","subject":"{subject}","request_id":"{context.request_id.decode()}"}}\n'
            )
        else:
            line = (
                f"{time.strftime('%H:%M:%S')} [info     ] request [access] {common} ms={ms} upstream_ms={upstream_ms}"
                f" client={context.client} subject={subject} request_id={context.request_id.decode()}\n"
            )
        self._lines.append(line)
        if len(self._lines) >= MAX_LINES:
            self.flush()
        if context.trace is not None:
            context.trace.end(
                {
                    "http.request.method": method,
                    "http.route": route,
                    "http.response.status_code": status,
                    "client.address": context.client,
                    "ostiary.decision": decision,
                    "ostiary.request_id": context.request_id.decode(),
                    "ostiary.subject": subject,
                    "ostiary.upstream_ms": upstream_seconds * 1000,
                }
            )

    def flush(self, _now: float = 0.0) -> None:
        """Write what has come. If it cannot be written, requests go on."""
        if not self._lines:
            return
        lines, self._lines = self._lines, []
        stream = self._stream or sys.stdout
        with suppress(OSError, ValueError):
            # Of so many bytes at once, nothing comes in between: other workers may write to the same pipe.
            start = size = 0
            for position, line in enumerate(lines):
                size += len(line)
                if size > PIPE_BUF:
                    stream.write("".join(lines[start:position]))
                    stream.flush()
                    start, size = position, len(line)
            stream.write("".join(lines[start:]))
            stream.flush()

    def _now(self) -> str:
        now = time.time()
        second = int(now)
        if second != self._second:
            self._second, self._time = second, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        return f"{self._time}.{str(1000 + int((now - second) * 1000))[1:]}Z"


def _as_json(kind: Kind) -> str:
    method, route, status, decision = kind
    return (
        '"service":"gateway","logger":"access","level":"info","event":"request",'
        f'"method":"{method}","route":{json.dumps(route)},"status":{status},"decision":"{decision}"'
    )


def _as_text(kind: Kind) -> str:
    method, route, status, decision = kind
    return f"method={method} route={route} status={status} decision={decision}"


def _ms(seconds: float) -> str:
    """Return milliseconds with a tenth. By hand: numbers of floating point are slow to write."""
    tenths = int(seconds * 10_000 + 0.5)
    return f"{tenths // 10}.{tenths % 10}"


def pseudonym(subject: str) -> str:
    """Return what stands for a subject in the log: the same each time, and nobody's name."""
    return hashlib.sha256(subject.encode()).hexdigest()[:16]
