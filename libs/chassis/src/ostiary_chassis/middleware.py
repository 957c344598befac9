"""Pure ASGI middleware that every service runs in."""

import os
import re
import time
from bisect import bisect_left
from collections.abc import Iterator
from itertools import accumulate

import structlog
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ostiary.fastapi import problem_response
from ostiary_chassis.problems import INTERNAL_ERROR, METHODS, ProblemError, body_too_large

_log = structlog.stdlib.get_logger("access")

# It goes into logs and header fields.
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}\Z")

#: The paths that every service answers itself. Called at each health check and scrape, they stay out
#: of the log, where they would only hide what matters.
OPERATIONS = frozenset({"/livez", "/readyz", "/metrics"})

#: Seconds; from a remembered answer to the longest time-out.
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


#: Statuses from here on are failures (RFC 9110 section 15).
_FIRST_FAILURE = 400


class RequestLog(Collector):
    """Counts and logs requests.

    The label `route` is the path template, never the path: its values are bounded.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        """Make the log; metrics go to `registry`."""
        self._counts: dict[tuple[str, str, int], int] = {}
        #: Of each method and route, how many requests took no longer than each bound, and the seconds of all.
        self._seconds: dict[tuple[str, str], tuple[list[int], list[float]]] = {}
        registry.register(self)

    def record(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request. On the event loop, where nothing comes between: the client library's own locks cost more."""
        if method not in METHODS:
            method = "other"
        counted, timed = (method, route, status), (method, route)
        self._counts[counted] = self._counts.get(counted, 0) + 1
        try:
            buckets, total = self._seconds[timed]
        except KeyError:
            buckets, total = self._seconds[timed] = [0] * (len(_BUCKETS) + 1), [0.0]
        buckets[bisect_left(_BUCKETS, seconds)] += 1
        total[0] += seconds

    def collect(self) -> Iterator[Metric]:
        """Return what was counted. A Collector."""
        requests = CounterMetricFamily("http_requests", "Requests served.", labels=["method", "route", "status"])
        for (method, route, status), count in self._counts.items():
            requests.add_metric([method, route, str(status)], count)
        yield requests
        durations = HistogramMetricFamily(
            "http_request_duration_seconds", "Seconds until the response was sent.", labels=["method", "route"]
        )
        bounds = [*map(floatToGoString, _BUCKETS), "+Inf"]
        for labels, (buckets, total) in self._seconds.items():
            durations.add_metric(list(labels), list(zip(bounds, accumulate(buckets), strict=True)), total[0])
        yield durations


class RequestContext:
    """Gives each request an id, counts and logs it, and turns what nobody caught into a 500."""

    def __init__(self, app: ASGIApp, requests: RequestLog) -> None:
        """Wrap `app`; what it serves goes to `requests`."""
        self._app = app
        self._requests = requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started_at = time.perf_counter()
        request_id = _request_id(scope)
        scope.setdefault("state", {})["request_id"] = request_id
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                # An upstream's own would be a second one.
                others = [field for field in message.get("headers", ()) if field[0] != b"x-request-id"]
                message["headers"] = [*others, (b"x-request-id", request_id.encode())]
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                await self._app(scope, receive, send_with_id)
            except ProblemError as error:
                if status:
                    raise
                await problem_response(error.problem)(scope, receive, send_with_id)
            except Exception:
                _log.exception("unhandled error")
                if status:
                    # Half a response is out: only a broken connection tells the client so.
                    raise
                await problem_response(INTERNAL_ERROR)(scope, receive, send_with_id)
            finally:
                self._record(scope, status, time.perf_counter() - started_at)

    def _record(self, scope: Scope, status: int, seconds: float) -> None:
        route, method = getattr(scope.get("route"), "path", "unmatched"), scope["method"]
        self._requests.record(method, route, status, seconds)
        # What is asked all the time says so in its state; its failures are worth a line.
        is_routine = scope["path"] in OPERATIONS or (scope["state"].get("routine") and status < _FIRST_FAILURE)
        if not is_routine:
            _log.info("request", method=method, route=route, status=status, ms=round(seconds * 1000, 1))


def is_request_id(given: bytes) -> bool:
    """Return whether a request id from outside is accepted."""
    return _REQUEST_ID.match(given) is not None


def _request_id(scope: Scope) -> str:
    given = _first(scope, b"x-request-id")
    return given.decode() if is_request_id(given) else os.urandom(16).hex()


def _first(scope: Scope, name: bytes, default: bytes = b"") -> bytes:
    """Return the first field of a name."""
    return next((value for field, value in scope["headers"] if field == name), default)


class BodyLimit:
    """Refuses request bodies over a limit: at once if their length is announced, else when they get there."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        """Wrap `app`; `limit` is in bytes."""
        self._app = app
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request. Raises ProblemError."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        await self._app(scope, limit_body(scope, receive, self._limit), send)


def limit_body(scope: Scope, receive: Receive, limit: int) -> Receive:
    """Return `receive` with a limit in bytes on the body. It, or this call, raises ProblemError for a longer one."""
    announced = _first(scope, b"content-length", b"0")
    if announced.isdigit() and int(announced[:20]) > limit:
        raise ProblemError(body_too_large(limit))
    received = 0

    async def limited() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > limit:
            raise ProblemError(body_too_large(limit))
        return message

    return limited
