"""Token buckets: limits hold, and buckets refill."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ostiary_gateway.ratelimit.token_bucket import RateLimiter
from ostiary_gateway.routing.policies import RateLimit


class StillClock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def limiter(requests: int, seconds: float) -> tuple[RateLimiter, StillClock]:
    clock = StillClock()
    return RateLimiter(RateLimit(by="address", requests=requests, seconds=seconds), clock), clock


_LIMITS = st.tuples(st.integers(1, 50), st.floats(0.1, 3600))


@given(_LIMITS, st.lists(st.tuples(st.sampled_from("ab"), st.floats(0, 100)), max_size=200))
@settings(deadline=None)
def test_no_more_tokens_are_taken_than_a_full_bucket_and_its_refill(
    limit: tuple[int, float], steps: list[tuple[str, float]]
) -> None:
    requests, seconds = limit
    it, clock = limiter(requests, seconds)
    started, taken = clock.now, {"a": 0, "b": 0}
    for key, pause in steps:
        clock.now += pause
        taken[key] += it.take(key).wait == 0
        assert taken[key] <= requests + (clock.now - started) * requests / seconds + 1e-6


@given(_LIMITS, st.floats(0, 1))
@settings(deadline=None)
def test_a_request_after_retry_after_is_let_through(limit: tuple[int, float], part: float) -> None:
    requests, seconds = limit
    it, clock = limiter(requests, seconds)
    assert [it.take("a").wait for _ in range(requests)] == [0] * requests
    clock.now += part * seconds / requests * 0.99
    wait = it.take("a").wait
    assert wait >= 1
    assert it.take("b").wait == 0
    # Asking in vain costs nothing.
    assert it.take("a").wait == wait
    clock.now += wait + 1e-6
    assert it.take("a").wait == 0


@given(_LIMITS, st.lists(st.floats(0, 100), max_size=50))
@settings(deadline=None)
def test_what_is_left_is_told(limit: tuple[int, float], pauses: list[float]) -> None:
    """As many requests as are told are let through at once, and one more after the told time."""
    requests, seconds = limit
    for pause in (*pauses, 0.0):
        it, clock = limiter(requests, seconds)
        it.take("a")
        clock.now += pause
        quota = it.take("a")
        told = [it.take("a") for _ in range(quota.remaining)]
        assert [each.wait for each in told] == [0] * quota.remaining
        assert [each.remaining for each in told] == list(range(quota.remaining))[::-1]
        refused = it.take("a")
        assert (refused.remaining, refused.wait) == (0, refused.seconds)
        assert quota.seconds - 1 <= refused.wait <= quota.seconds + 1
        clock.now += refused.seconds + 1e-6
        assert it.take("a").wait == 0


@given(_LIMITS)
def test_a_bucket_refills_to_its_size_and_no_further(limit: tuple[int, float]) -> None:
    requests, seconds = limit
    it, clock = limiter(requests, seconds)
    for _ in range(2):
        assert [it.take("a").wait for _ in range(requests)] == [0] * requests
        assert it.take("a").wait >= 1
        clock.now += 5 * seconds


@given(_LIMITS, st.lists(st.tuples(st.booleans(), st.floats(0, 10), st.booleans()), max_size=200))
@settings(deadline=None)
def test_synchronised_limiters_exceed_the_limit_only_by_what_is_not_drained(
    limit: tuple[int, float], steps: list[tuple[bool, float, bool]]
) -> None:
    requests, seconds = limit
    clock = StillClock()
    rate_limit = RateLimit(by="address", requests=requests, seconds=seconds)
    limiters = [RateLimiter(rate_limit, clock) for _ in range(2)]
    store = RateLimiter(rate_limit, clock)
    for each in limiters:
        each.drain()
    started, through, untold, most_untold = clock.now, 0, 0, 0
    for of_second, pause, settles in steps:
        clock.now += pause
        limiter = limiters[of_second]
        if limiter.take("a").wait == 0:
            through, untold = through + 1, untold + 1
        most_untold = max(most_untold, untold)
        allowed = requests + (clock.now - started) * requests / seconds
        assert through <= allowed + most_untold + 1e-6
        if settles:
            untold = 0
            for each in limiters:
                # What the store's script does.
                left, at = store._buckets.get("a", (float(requests), clock.now))
                full = min(float(requests), left + (clock.now - at) * requests / seconds)
                store._put("a", full - each.drain().get("a", 0), clock.now)
            for each in limiters:
                each.correct("a", store._buckets["a"][0])


def test_a_bucket_in_debt_has_nothing_left() -> None:
    it, _ = limiter(10, 100)
    it.drain()
    it.correct("a", -5.0)
    quota = it.take("a")
    assert (quota.remaining, quota.seconds, quota.wait) == (0, 60, 60)


def test_the_least_recently_used_bucket_is_evicted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ostiary_gateway.ratelimit.token_bucket.MAX_BUCKETS", 3)
    it, _ = limiter(1, 100)
    assert [it.take(key).wait for key in "abc"] == [0, 0, 0]
    assert it.take("a").wait > 0
    assert it.take("d").wait == 0
    # It was "b" that had been away for longest.
    assert it.take("a").wait > 0
    assert it.take("b").wait == 0
    assert len(it._buckets) == 3
