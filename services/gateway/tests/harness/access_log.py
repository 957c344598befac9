"""The access log, captured."""

import io
import json

from prometheus_client import CollectorRegistry

from harness.gateway import GatewayHarness
from ostiary_chassis.logs import LogFormat
from ostiary_chassis.metrics import RequestMetrics
from ostiary_gateway.observability.access_log import AccessLog


class CapturedAccessLog:
    """The access log of connections opened from now on."""

    def __init__(self, harness: GatewayHarness, kind: LogFormat = "json") -> None:
        self.stream = io.StringIO()
        self._log = AccessLog(RequestMetrics(CollectorRegistry()), kind, stream=self.stream)
        harness.gateway._access_log = self._log

    @property
    def text(self) -> str:
        self._log.flush()
        return self.stream.getvalue()

    @property
    def lines(self) -> list[dict[str, object]]:
        assert self.text.endswith("\n") or not self.text
        return [json.loads(line) for line in self.text.splitlines()]
