"""What the gateway's tests share: a gateway, an upstream and clients in one process, and ways to wait for them."""

from harness.access_log import CapturedAccessLog
from harness.client import ClientSocket, ReceivedResponse, parse_responses
from harness.gateway import GatewayHarness, short_directory
from harness.upstream import (
    PausedResponse,
    ReceivedRequest,
    RecordingUpstream,
    Responder,
    UpstreamSocket,
    respond_and_close,
    respond_and_stall,
)
from harness.waiting import PATIENCE, Clock, eventually, never, settled, until

__all__ = [
    "PATIENCE",
    "CapturedAccessLog",
    "ClientSocket",
    "Clock",
    "GatewayHarness",
    "PausedResponse",
    "ReceivedRequest",
    "ReceivedResponse",
    "RecordingUpstream",
    "Responder",
    "UpstreamSocket",
    "eventually",
    "never",
    "parse_responses",
    "respond_and_close",
    "respond_and_stall",
    "settled",
    "short_directory",
    "until",
]
