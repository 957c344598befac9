"""What the refresher of keys and the feed client share."""

import asyncio

import httpx
import pytest
from timing import Clock

from ostiary._polling import WARN_AFTER, Backoff, Poller, PollFailed, read_body


@pytest.fixture
def clock() -> Clock:
    return Clock()


class TestBackoff:
    def test_delays_double_up_to_the_longest_and_restart_after_a_success(self, clock: Clock) -> None:
        backoff = Backoff(clock)
        for _ in range(2):
            for delay in (0.1, 0.2, 0.4, 0.5, 0.5):
                assert delay / 2 <= backoff.fail(clock(), (0.1, 0.5)) <= delay
            backoff.reset()

    def test_delays_are_spread(self, clock: Clock) -> None:
        backoff = Backoff(clock)
        assert len({backoff.fail(clock(), (1.0, 1.0)) for _ in range(10)}) == 10

    def test_a_long_outage_does_not_overflow(self, clock: Clock) -> None:
        backoff = Backoff(clock)
        assert all(backoff.fail(clock(), (1.0, 60.0)) <= 60 for _ in range(2000))

    def test_one_warning_is_due_once_an_outage_has_lasted(self, clock: Clock) -> None:
        backoff = Backoff(clock)
        backoff.fail(clock.now, (1.0, 1.0))
        assert not backoff.is_warning_due()
        clock.now += WARN_AFTER
        backoff.fail(clock.now, (1.0, 1.0))
        assert backoff.is_warning_due()
        backoff.logged = "reason"
        assert not backoff.is_warning_due()
        backoff.reset()
        backoff.fail(clock.now, (1.0, 1.0))
        assert not backoff.is_warning_due()


class TestReadBody:
    @pytest.mark.parametrize("chunks", [[b""], [b"x" * 10], [b"x" * 5, b"x" * 5]])
    async def test_a_body_up_to_the_limit_is_read(self, chunks: list[bytes]) -> None:
        async def content() -> object:
            for chunk in chunks:
                yield chunk

        assert await read_body(httpx.Response(200, content=content()), 10) == b"".join(chunks)  # type: ignore[arg-type]  # httpx takes it

    async def test_a_larger_body_is_rejected_before_its_end(self) -> None:
        seen = 0

        async def content() -> object:
            nonlocal seen
            while True:
                seen += 1
                yield b"x" * 4

        with pytest.raises(PollFailed, match="over 10 bytes"):
            await read_body(httpx.Response(200, content=content()), 10)  # type: ignore[arg-type]  # as above
        assert seen == 3

    async def test_a_compressed_body_is_rejected(self) -> None:
        response = httpx.Response(200, stream=httpx.ByteStream(b""), headers={"Content-Encoding": "gzip"})
        with pytest.raises(PollFailed, match="Content-Encoding"):
            await read_body(response, 10)


class Counting(Poller):
    """Counts its polls; the first `parts` of them bring a part of the first full answer each."""

    def __init__(self, parts: int = 1) -> None:
        super().__init__("counting", "http://127.0.0.1/", transport=None)
        self.parts = parts
        self.polls = 0
        self.stops = 0

    async def _poll(self, client: httpx.AsyncClient) -> float:
        assert not client.is_closed
        self.polls += 1
        return 0.0

    def _is_catching_up(self) -> bool:
        return self.polls < self.parts

    async def _stop(self, client: httpx.AsyncClient) -> None:
        assert not client.is_closed
        self.stops += 1


class TestPoller:
    async def test_entering_waits_for_the_first_full_answer_and_leaving_ends_the_task(self) -> None:
        poller = Counting(parts=3)
        async with poller:
            assert poller.polls == 3
            assert poller.stops == 0
        polls = poller.polls
        await asyncio.sleep(0)
        assert (poller.polls, poller.stops) == (polls, 1)

    async def test_a_poller_that_was_never_entered_can_be_left(self) -> None:
        await Counting().__aexit__()
