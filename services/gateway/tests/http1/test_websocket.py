"""RFC 6455 section 5: frames."""

import itertools

from harness.frames import frame
from hypothesis import given, settings
from hypothesis import strategies as st

from ostiary_gateway.http1.websocket import FrameTracker, close_frame


@st.composite
def heads_and_sizes(draw: st.DrawFn) -> bytes:
    size = draw(st.one_of(st.integers(0, 130), st.sampled_from([125, 126, 127, 65535, 65536, 70_000])))
    return frame(b"p" * size, mask=draw(st.sampled_from([b"", b"", b"abcd"])), opcode=draw(st.integers(0, 15)))


@settings(max_examples=50)
@given(st.lists(heads_and_sizes(), max_size=6), st.lists(st.integers(0, 300_000), max_size=12), st.integers(0, 200))
def test_frames_end_in_the_same_places_however_they_are_cut(
    frames: list[bytes], cuts: list[int], left_out: int
) -> None:
    data = b"".join(frames)
    data = data[: max(0, len(data) - left_out)]
    ends, at = [0], 0
    for each in frames:
        at += len(each)
        ends.append(at)
    places = [0, *sorted({cut for cut in cuts if cut < len(data)} - {0}), len(data)]
    it = FrameTracker()
    for start, stop in itertools.pairwise(places):
        assert it.advance(data[start:stop]) == stop - start
        assert it.at_boundary is (stop in ends)
    it, found = FrameTracker(), []
    for start, stop in itertools.pairwise(places):
        position = start
        while position < stop:
            position += it.advance(data[position:stop], stop_at_boundary=True)
            found += [position] if it.at_boundary else []
    assert found == [end for end in ends[1:] if end <= len(data)]


@given(st.lists(heads_and_sizes(), max_size=3))
def test_frames_that_come_byte_by_byte_end_there_too(frames: list[bytes]) -> None:
    it, data = FrameTracker(), b"".join(each[:200] if len(each) <= 200 else frame(b"q" * 150) for each in frames)
    for index in range(len(data)):
        it.advance(data[index : index + 1])
    assert it.at_boundary


def test_a_close_frame_is_short_enough_for_any_reason() -> None:
    it = FrameTracker()
    for reason in ("", "revoked", "x" * 500, "ä" * 100):
        end = close_frame(4401, reason)
        assert end[0] == 0x88
        assert end[1] == len(end) - 2 <= 125
        assert it.advance(end) == len(end)
