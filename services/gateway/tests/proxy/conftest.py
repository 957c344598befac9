import pytest
from harness import RecordingUpstream
from harness.websockets import UpstreamWebSocket


@pytest.fixture
def peer(upstream: RecordingUpstream) -> UpstreamWebSocket:
    """The upstream's side of a WebSocket, which opens at once."""
    peer = UpstreamWebSocket()
    peer.may_accept.set()
    upstream.response = peer
    return peer
