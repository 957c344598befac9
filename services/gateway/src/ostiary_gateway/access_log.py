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
from ostiary_gateway.gate import Arrival, Trace
from ostiary_gateway.http1 import Request

#: Lines that are written together at most; they are written at each tick in any case.
MAX_LINES = 512

#: Subjects whose pseudonyms are kept at hand.
_SUBJECTS = 4096

# All that is filled in is of a few characters that mean nothing to JSON, or is a number.
_JSON = (
    '{"method":"%s","route":%s,"status":%d,"decision":"%s","ms":%.1f,"upstream_ms":%.1f,"client":"%s","subject":"%s",'
    '"request_id":"%s","event":"request","level":"info","logger":"access","timestamp":"%s.%03dZ","service":"gateway"}\n'
)
_TEXT = (
    "%s [info     ] request [access] method=%s route=%s status=%d decision=%s ms=%.1f upstream_ms=%.1f client=%s"
    " subject=%s request_id=%s\n"
)


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
        self._line: Callable[..., str] = self._json if log_format == "json" else self._text
        self._stream = stream
        self._lines: list[str] = []
        self._pseudonym = lru_cache(_SUBJECTS)(pseudonym)
        self._quoted = lru_cache(_SUBJECTS)(json.dumps)
        self._second, self._time = 0, ""

    def begin(self, arrival: Arrival) -> None:
        """Begin to follow a request."""
        if self._begin_trace is not None:
            arrival.trace = self._begin_trace(arrival.request)

    def add(
        self,
        arrival: Arrival,
        status: int,
        decision: str,
        seconds: float,
        upstream_seconds: float,
    ) -> None:
        """Count and log a request. `decision` is `allowed`, or the code of the problem that it was answered with."""
        method, token = arrival.request.method, arrival.token
        if method not in METHODS:
            method = "other"
        route = arrival.route.match.path if arrival.route is not None else "unmatched"
        self._requests.record(method, route, status, seconds)
        subject = self._pseudonym(token.subject) if token is not None else ""
        ms, upstream_ms = seconds * 1000, upstream_seconds * 1000
        self._lines.append(
            self._line(
                method, route, status, decision, ms, upstream_ms, arrival.client, subject, arrival.request_id.decode()
            )
        )
        if len(self._lines) >= MAX_LINES:
            self.flush()
        if arrival.trace is not None:
            arrival.trace.end(
                {
                    "http.request.method": method,
                    "http.route": route,
                    "http.response.status_code": status,
                    "client.address": arrival.client,
                    "ostiary.decision": decision,
                    "ostiary.request_id": arrival.request_id.decode(),
                    "ostiary.subject": subject,
                    "ostiary.upstream_ms": upstream_ms,
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

    def _json(self, method: str, route: str, status: int, *values: object) -> str:
        now = time.time()
        second = int(now)
        if second != self._second:
            self._second, self._time = second, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        return _JSON % (method, self._quoted(route), status, *values, self._time, int((now - second) * 1000))

    @staticmethod
    def _text(*values: object) -> str:
        return _TEXT % (time.strftime("%H:%M:%S"), *values)


def pseudonym(subject: str) -> str:
    """Return what stands for a subject in the log: the same each time, and nobody's name."""
    return hashlib.sha256(subject.encode()).hexdigest()[:16]
