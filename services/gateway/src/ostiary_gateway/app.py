"""Builds a gateway process: the application for its own endpoints, and the protocol for all connections."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext, suppress
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI

from ostiary import Verifier
from ostiary.prometheus import PrometheusObserver
from ostiary_chassis.app import new_app
from ostiary_chassis.metrics import Metrics
from ostiary_chassis.proxies import TrustedProxies
from ostiary_chassis.workers import Worker, WorkerMetrics
from ostiary_gateway.access.request import RequestContext
from ostiary_gateway.config import GatewayConfig
from ostiary_gateway.observability.access_log import AccessLog
from ostiary_gateway.observability.metrics import SessionMetrics, UpstreamMetrics
from ostiary_gateway.openapi.endpoint import ApiDocument
from ostiary_gateway.proxy.asgi_bridge import AsgiBridge
from ostiary_gateway.proxy.connection_manager import ConnectionManager
from ostiary_gateway.proxy.downstream import ClientConnection
from ostiary_gateway.proxy.exchange import Exchange
from ostiary_gateway.routing.bypass_check import IndexedRoutes
from ostiary_gateway.routing.config import own_paths
from ostiary_gateway.routing.credentials import session_cookie
from ostiary_gateway.routing.source import RoutesSource
from ostiary_gateway.runtime import Runtime, Snapshot
from ostiary_gateway.sessions.gateway_secret import GatewaySecret
from ostiary_gateway.sessions.renewals import SessionRenewals

if TYPE_CHECKING:  # large imports, made only when they are used
    from ostiary_gateway.observability.tracing import Tracing
    from ostiary_gateway.ratelimit.redis import SharedRateLimits

#: Seconds for which a worker waits for keys and revocations before it accepts connections without them.
READY_SECONDS = 5.0

#: Seconds after which another thread, such as one that loads routes, lets the event loop go on. Python's default is
#: 5 ms, for which a request would wait several times.
SWITCH_SECONDS = 0.001


def _shared_rate_limits(config: GatewayConfig, runtime: Runtime) -> "SharedRateLimits":
    from ostiary_gateway.ratelimit.redis import SharedRateLimits  # noqa: PLC0415 - a large import

    url, password = config.rate_limit_store, config.rate_limit_store_password()
    return SharedRateLimits(url, password, lambda: runtime.current.admission.limiters)


def _otlp_tracing() -> "Tracing":
    from ostiary_gateway.observability.tracing import Tracing  # noqa: PLC0415 - a large import

    return Tracing()


class Gateway:
    """The parts of a gateway process."""

    def __init__(
        self,
        config: GatewayConfig,
        routes: IndexedRoutes,
        source: RoutesSource | None = None,
        *,
        verifier: Verifier | None = None,
        worker: Worker | None = None,
        tracing: "Tracing | None" = None,
    ) -> None:
        """With a `source`, routes are reloaded when it changes; a `worker` is one of several processes.

        `verifier` and `tracing` replace the configured ones in tests.
        """
        metrics = self._metrics = Metrics() if worker is None else WorkerMetrics(worker)
        self._verifier = verifier or Verifier(
            config.issuer_config(), max_staleness=config.max_staleness, observer=PrometheusObserver(metrics.registry)
        )
        proxies = TrustedProxies(config.trusted_proxies)
        has_docs = config.docs == "on"
        own = own_paths(has_docs=has_docs, operations=config.public_operations)
        renewals = SessionRenewals(self._verifier, GatewaySecret(config.gateway_secret_file))
        self.runtime = Runtime(routes, self._verifier, proxies, config.issuer, source, renewals=renewals, own_paths=own)
        metrics.registry.register(UpstreamMetrics(self.runtime))
        metrics.registry.register(SessionMetrics(renewals))
        self._tracing = tracing or (_otlp_tracing() if config.otlp_endpoint else None)
        begin_trace = self._tracing.begin if self._tracing is not None else None
        self._access_log = AccessLog(metrics.requests, config.log_format, begin_trace)
        self._manager = ConnectionManager(config.max_connections_per_address, proxies)
        self._manager.add_tick_handler(self.runtime.on_tick)
        self._manager.add_tick_handler(self._access_log.flush)
        self._shared_rate_limits = _shared_rate_limits(config, self.runtime) if config.rate_limit_store else None
        if self._shared_rate_limits is not None:
            self._manager.add_tick_handler(self._shared_rate_limits.on_tick)
        self.app = new_app(
            title="Ostiary gateway",
            version=version("ostiary-gateway"),
            lifespan=self._lifespan,
            ready_checks={"verifier": self._can_decide},
            metrics=metrics,
            exception_handlers={},
            has_document=False,
        )
        if has_docs:
            document = ApiDocument(self.runtime, version("ostiary-gateway"), session_cookie(config.issuer))
            self.app.include_router(document.routes())

    def protocol(self, *, server_state: Any, app_state: dict[str, Any], **_: Any) -> asyncio.Protocol:
        """Create the protocol of a new connection, for uvicorn."""
        own = AsgiBridge(self.app, server_state, app_state)
        return ClientConnection(self._manager, self.runtime, self._exchange, own, self._access_log)

    def drain(self) -> None:
        """Close connections after the next response."""
        self._manager.is_draining = True

    def stop(self) -> None:
        """Finish requests in progress, and accept no more."""
        self._manager.is_draining = self._manager.is_stopping = True

    def _exchange(self, client: ClientConnection, context: RequestContext, snapshot: Snapshot) -> Exchange:
        return Exchange(client, context, snapshot.table, self._verifier, snapshot.upstream_for(context))

    @asynccontextmanager
    async def _lifespan(self, _app: FastAPI) -> AsyncIterator[None]:
        sys.setswitchinterval(SWITCH_SECONDS)
        told = self._metrics.shared() if isinstance(self._metrics, WorkerMetrics) else nullcontext()
        async with self._verifier, told:
            if isinstance(self._metrics, WorkerMetrics):
                await self._wait_until_ready()
            self._manager.start()
            yield
            self._manager.stop()
            self._manager.cut_off()
            self.runtime.close()
            self._access_log.flush()
            if self._shared_rate_limits is not None:
                await self._shared_rate_limits.close()
            if self._tracing is not None:
                await self._tracing.close()

    async def _wait_until_ready(self) -> None:
        """Accept no connections before they can be served: other workers can, as a rule."""
        with suppress(TimeoutError):
            async with asyncio.timeout(READY_SECONDS):
                while not self._verifier.ready:  # noqa: ASYNC110 - the verifier has no event for that
                    await asyncio.sleep(0.01)

    async def _can_decide(self) -> str:
        return self._verifier.unready_reason
