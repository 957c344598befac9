"""The access log, captured."""

import json

from prometheus_client import CollectorRegistry

from harness.gateway import GatewayHarness
from ostiary_chassis.logs import LogFormat
from ostiary_chassis.metrics import RequestMetrics
from ostiary_gateway.observability.access_log import AccessLog


class CapturedOutput:
    """Keeps lines in memory."""

    def __init__(self) -> None:
        self.text = ""

    def write(self, lines: str, records: int) -> None:
        assert lines.count("\n") == records
        self.text += lines


class CapturedAccessLog:
    """The access log of connections opened from now on."""

    def __init__(self, harness: GatewayHarness, kind: LogFormat = "json") -> None:
        self.output = CapturedOutput()
        self._log = AccessLog(RequestMetrics(CollectorRegistry()), kind, output=self.output)
        harness.gateway._access_log = self._log

    @property
    def text(self) -> str:
        self._log.flush()
        return self.output.text

    @property
    def lines(self) -> list[dict[str, object]]:
        assert self.text.endswith("\n") or not self.text
        return [json.loads(line) for line in self.text.splitlines()]
