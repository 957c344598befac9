"""The application that each service extends: problem details, request context, health and metrics."""

import json
from asyncio import Lock
from collections.abc import Awaitable, Callable, Mapping

import structlog
from fastapi import APIRouter, FastAPI, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.types import Lifespan

from ostiary.fastapi import problem_response
from ostiary.http import Problem
from ostiary_chassis.descriptors import shortage
from ostiary_chassis.metrics import Metrics
from ostiary_chassis.middleware import (
    LIVENESS_PATH,
    METRICS_PATH,
    READINESS_PATH,
    BodyLimit,
    ImpliedMethods,
    RequestContext,
)
from ostiary_chassis.openapi import document_errors
from ostiary_chassis.problems import EXCEPTION_HANDLERS, ExceptionHandlers
from ostiary_chassis.threads import in_thread

_log = structlog.stdlib.get_logger("readiness")

#: A condition of readiness: returns why it does not hold, as a text for the log; "" if it holds.
ReadyCheck = Callable[[], Awaitable[str]]

#: Bytes of a request body, for services that accept small JSON documents.
MAX_BODY_BYTES = 64 * 1024


class Readiness:
    """The checks behind `/readyz`. What changes is logged, with the reasons, which are for operators only."""

    def __init__(self, checks: Mapping[str, ReadyCheck]) -> None:
        self._checks = checks
        self._failing: list[str] = []

    async def failing(self) -> list[str]:
        """Return the names of the checks that fail now."""
        outcomes = {name: await check() for name, check in self._checks.items()}
        reasons = {name: reason for name, reason in outcomes.items() if reason}
        before, self._failing = self._failing, list(reasons)
        if self._failing != before:
            if reasons:
                _log.warning("not ready", failing=list(reasons), reason="; ".join(reasons.values()))
            else:
                _log.info("ready again")
        return list(reasons)


def new_app(
    *,
    title: str,
    version: str,
    lifespan: Lifespan[FastAPI],
    ready_checks: Mapping[str, ReadyCheck],
    exception_handlers: ExceptionHandlers,
    metrics: Metrics,
    has_document: bool = True,
) -> FastAPI:
    """Return an application with `/livez`, `/readyz` and `/metrics`, and with `/openapi.json` if it `has_document`.

    `ready_checks` are named in `/readyz`.
    """
    app = FastAPI(
        title=title,
        version=version,
        lifespan=lifespan,
        # Ours is below, as the framework generates it on the event loop.
        openapi_url=None,
        # FastAPI's documentation pages load scripts from a content delivery network.
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        # Ours are below; looking up a provider costs each request as much as routing it.
        telemetry={"tracing": False, "metrics": False, "logs": False},
        exception_handlers={**EXCEPTION_HANDLERS, **exception_handlers},
    )
    #: Whether the service will end soon: it is not ready, but serves.
    app.state.is_draining = False
    app.state.is_needed = lambda: False
    # The last one added is the outermost.
    app.add_middleware(ImpliedMethods)
    app.add_middleware(BodyLimit, limit=MAX_BODY_BYTES)
    app.add_middleware(RequestContext, requests=metrics.requests)
    app.include_router(_operations(ready_checks, metrics))
    if has_document:
        app.include_router(_document(app))
        document_errors(app)
    return app


def _document(app: FastAPI) -> APIRouter:
    router, lock, content = APIRouter(include_in_schema=False), Lock(), b""

    @router.get("/openapi.json")
    async def document() -> Response:
        nonlocal content
        async with lock:
            content = content or await in_thread(lambda: json.dumps(app.openapi()).encode())
        return Response(content, media_type="application/json")

    return router


def _operations(ready_checks: Mapping[str, ReadyCheck], metrics: Metrics) -> APIRouter:
    router, readiness = APIRouter(include_in_schema=False), Readiness(ready_checks)

    @router.get(LIVENESS_PATH)
    async def livez() -> dict[str, str]:
        return {"status": "alive"}

    @router.get(READINESS_PATH)
    async def readyz(request: Request) -> Response:
        failing = await readiness.failing()
        if request.app.state.is_draining:
            failing.append("draining")
        if shortage.is_present:
            failing.append("descriptors")
        if failing:
            return problem_response(
                Problem(
                    503,
                    "not_ready",
                    "The service is not ready; 'failing' lists the failed checks.",
                    {"Retry-After": "1"},
                    {"failing": failing},
                )
            )
        return Response('{"status":"ready"}', media_type="application/json")

    @router.get(METRICS_PATH)
    async def read() -> Response:
        return Response(await metrics.read(), media_type=CONTENT_TYPE_LATEST)

    return router
