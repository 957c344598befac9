"""RFC 6455 section 5: frames."""

import itertools

from harness.websockets import frame
from hypothesis import given, settings
from hypothesis import strategies as st

from ostiary_gateway.http1.websocket import FrameTracker, close_frame


@st.composite
def any_frames(draw: st.DrawFn) -> bytes:
    size = draw(st.one_of(st.integers(0, 130), st.sampled_from([125, 126, 127, 65535, 65536, 70_000])))
    return frame(b"p" * size, mask=draw(st.sampled_from([b"", b"", b"abcd"])), opcode=draw(st.integers(0, 15)))


@settings(max_examples=50)
@given(st.lists(any_frames(), max_size=6), st.lists(st.integers(0, 300_000), max_size=12), st.integers(0, 200))
def test_boundaries_are_found_however_frames_are_cut(frames: list[bytes], cuts: list[int], missing: int) -> None:
    data = b"".join(frames)
    data = data[: max(0, len(data) - missing)]
    boundaries, end = [0], 0
    for each in frames:
        end += len(each)
        boundaries.append(end)
    positions = [0, *sorted({cut for cut in cuts if cut < len(data)} - {0}), len(data)]
    tracker = FrameTracker()
    for start, stop in itertools.pairwise(positions):
        assert tracker.advance(data[start:stop]) == stop - start
        assert tracker.at_boundary is (stop in boundaries)
    tracker, found = FrameTracker(), []
    for start, stop in itertools.pairwise(positions):
        position = start
        while position < stop:
            position += tracker.advance(data[position:stop], stop_at_boundary=True)
            found += [position] if tracker.at_boundary else []
    assert found == [end for end in boundaries[1:] if end <= len(data)]


@given(st.lists(any_frames(), max_size=3))
def test_boundaries_are_found_byte_by_byte(frames: list[bytes]) -> None:
    tracker, data = FrameTracker(), b"".join(each[:200] if len(each) <= 200 else frame(b"q" * 150) for each in frames)
    for index in range(len(data)):
        tracker.advance(data[index : index + 1])
    assert tracker.at_boundary


def test_a_close_frame_truncates_long_reasons() -> None:
    tracker = FrameTracker()
    for reason in ("", "revoked", "x" * 500, "ä" * 100):
        close = close_frame(4401, reason)
        assert close[0] == 0x88
        assert close[1] == len(close) - 2 <= 125
        assert tracker.advance(close) == len(close)
        assert tracker.at_boundary
