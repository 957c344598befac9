"""The access log, request metrics, and the ends of traces. Lines are formatted by hand, as there is one per request."""

import hashlib
import json
import logging
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Protocol

import structlog

from ostiary_chassis import logs
from ostiary_chassis.logs import LogFormat
from ostiary_chassis.metrics import RequestMetrics
from ostiary_chassis.problems import METHODS
from ostiary_gateway.access.request import RequestContext, Trace
from ostiary_gateway.http1.bounded_cache import BoundedCache
from ostiary_gateway.http1.parser import Request

#: Buffered lines at which they are handed over; they are at each tick in any case.
MAX_LINES = 512

#: Subjects whose pseudonyms are cached.
_PSEUDONYM_CACHE_SIZE = 4096

_log = structlog.stdlib.get_logger("access")

#: Method, route, status and decision.
Outcome = tuple[str, str, int, str]


class Output(Protocol):
    """Where lines go."""

    def write(self, lines: str, records: int) -> None:
        """Take whole lines, and do not wait until they are written."""


class AccessLog:
    """Records requests: a line of the access log, metrics, and the end of the trace."""

    def __init__(
        self,
        requests: RequestMetrics,
        log_format: LogFormat,
        begin_trace: Callable[[Request], Trace] | None = None,
        output: Output | None = None,
    ) -> None:
        """Without `begin_trace`, there are no traces. `output` replaces that of the process's logs in tests."""
        self._begin_trace = begin_trace
        self._requests = requests
        self._is_debugging = _log.is_enabled_for(logging.DEBUG)
        self._is_json = log_format == "json"
        self._output: Output = output or logs.output()
        self._lines: list[str] = []
        self._pseudonym = lru_cache(_PSEUDONYM_CACHE_SIZE)(pseudonym)
        #: The part of a line that requests with the same outcome share.
        self._common: BoundedCache[Outcome, str] = BoundedCache(_as_json if self._is_json else _as_text)
        self._second, self._time = 0, ""

    def begin(self, context: RequestContext) -> None:
        if self._begin_trace is not None:
            context.trace = self._begin_trace(context.request)

    def add_lost_fields(self, context: RequestContext) -> None:
        """Record which header fields of an admitted request its service does not get, for debugging."""
        route, rules = context.route, context.rules
        if not self._is_debugging or route is None or rules is None:
            return
        if lost := rules.filter.lost(context.request.fields):
            request_id = context.request_id.decode()
            _log.debug("header fields dropped", route=route.name, names=sorted(lost), request_id=request_id)

    def add(
        self,
        context: RequestContext,
        status: int,
        decision: str,
        seconds: float,
        upstream_seconds: float,
    ) -> None:
        """Record a request. `decision` is `allowed`, or why it was not: the problem's code, as a rule."""
        method, token = context.request.method, context.token
        if method not in METHODS and (context.route is None or method not in context.route.match.methods):
            # The client's choice, of which there is no end.
            method = "other"
        route = context.route.match.path if context.route is not None else "unmatched"
        self._requests.record(method, route, status, seconds)
        subject = self._pseudonym(token.subject) if token is not None else ""
        common = self._common[method, route, status, decision]
        ms, upstream_ms = _ms(seconds), _ms(upstream_seconds)
        # No value needs escaping in JSON: they are numbers, or of a few safe characters.
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
        """Hand the buffered lines over."""
        if self._lines:
            lines, self._lines = self._lines, []
            self._output.write("".join(lines), len(lines))

    def _now(self) -> str:
        now = time.time()
        second = int(now)
        if second != self._second:
            self._second, self._time = second, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        return f"{self._time}.{str(1000 + int((now - second) * 1000))[1:]}Z"


def _as_json(outcome: Outcome) -> str:
    method, route, status, decision = outcome
    return (
        '"service":"gateway","logger":"access","level":"info","event":"request",'
        f'"method":"{method}","route":{json.dumps(route)},"status":{status},"decision":"{decision}"'
    )


def _as_text(outcome: Outcome) -> str:
    method, route, status, decision = outcome
    return f"method={method} route={route} status={status} decision={decision}"


def _ms(seconds: float) -> str:
    """Format milliseconds with one decimal. By hand, as formatting of floats is slow."""
    tenths = int(seconds * 10_000 + 0.5)
    return f"{tenths // 10}.{tenths % 10}"


def pseudonym(subject: str) -> str:
    """Return a stable pseudonym for a subject, which is not logged itself."""
    return hashlib.sha256(subject.encode()).hexdigest()[:16]
