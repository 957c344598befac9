"""Which attempts count together, and how long the waits are."""

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from throttling import ELSEWHERE, HOME, SECOND
from users import EMAIL

from ostiary_auth.domain.accounts.attempts import (
    ACCOUNT,
    DEVICE,
    FIRST_WAIT,
    FORGOTTEN_AFTER,
    REAUTHENTICATION,
    SOURCE,
    SOURCE_AND_ACCOUNT,
    Allowance,
    Counter,
    login_keys,
    reauthentication_keys,
)
from ostiary_auth.domain.clock import CLOCK_MARGIN
from ostiary_auth.domain.errors import TooManyAttempts

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ALLOWANCES = (DEVICE, SOURCE_AND_ACCOUNT, SOURCE, ACCOUNT, REAUTHENTICATION)


class TestAllowance:
    @given(st.sampled_from(ALLOWANCES), st.integers(0, 10**12))
    @example(ACCOUNT, 10**100)
    def test_the_wait_never_shrinks_and_has_a_bound(self, allowance: Allowance, attempts: int) -> None:
        wait = allowance.wait(attempts)
        assert timedelta(0) <= wait <= allowance.longest_wait
        assert wait <= allowance.wait(attempts + 1)
        assert (wait == timedelta(0)) is (attempts <= allowance.free)

    @given(st.integers(0, 200), st.timedeltas(timedelta(seconds=1), timedelta(days=365)), st.integers(0, 300))
    def test_so_does_that_of_any_allowance(self, free: int, longest: timedelta, attempts: int) -> None:
        allowance = Allowance(free, longest)
        assert allowance.wait(attempts) <= allowance.wait(attempts + 1) <= longest
        assert allowance.wait(free + 1) == SECOND

    def test_the_wait_doubles(self) -> None:
        waits = [SOURCE_AND_ACCOUNT.wait(attempts).total_seconds() for attempts in range(4, 17)]
        assert waits == [0, 0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]

    @pytest.mark.parametrize("allowance", ALLOWANCES)
    def test_no_wait_outlasts_the_memory_of_it(self, allowance: Allowance) -> None:
        assert allowance.longest_wait < FORGOTTEN_AFTER

    def test_an_account_bears_a_hundred_guesses_of_strangers(self) -> None:
        """NIST SP 800-63B-4 section 3.2.2."""
        assert ACCOUNT.free <= 100

    @pytest.mark.parametrize(
        ("wait", "seconds"), [(timedelta(microseconds=1), 1), (SECOND, 1), (1.001 * SECOND, 2), (300 * SECOND, 300)]
    )
    def test_retry_after_is_in_whole_seconds_and_enough(self, wait: timedelta, seconds: int) -> None:
        error = TooManyAttempts(wait)
        assert error.retry_after == seconds
        assert f"{seconds} s" in error.detail


class TestKeys:
    def test_what_is_stored_names_nobody(self) -> None:
        for keys in (login_keys(EMAIL, HOME, None), login_keys(EMAIL, HOME, "device"), reauthentication_keys(uuid4())):
            for key in keys:
                assert len(key) == 32
                assert EMAIL.encode() not in key

    def test_a_known_device_counts_for_itself_alone(self) -> None:
        assert list(login_keys(EMAIL, HOME, "device").values()) == [DEVICE]
        assert login_keys(EMAIL, HOME, "device").keys() == login_keys(EMAIL, ELSEWHERE, "device").keys()

    def test_a_stranger_counts_for_the_source_the_account_and_both(self) -> None:
        here, there = login_keys(EMAIL, HOME, None), login_keys(EMAIL, ELSEWHERE, None)
        other = login_keys("eve@example.com", HOME, None)
        assert [here[key] for key in here.keys() & there.keys()] == [ACCOUNT]
        assert [here[key] for key in here.keys() & other.keys()] == [SOURCE]
        assert not there.keys() & other.keys()


class TestCounter:
    """Replicas' clocks differ, so an attempt may come to a counter whose last attempt was counted later."""

    @pytest.mark.parametrize("allowance", ALLOWANCES)
    def test_free_attempts_never_wait_though_the_clock_is_behind(self, allowance: Allowance) -> None:
        counter = Counter(0, NOW, NOW)
        for _ in range(allowance.free):
            counter = counter.counted(allowance, NOW + SECOND)
            assert counter.wait(allowance, NOW) <= timedelta(0)
        assert counter.attempts == allowance.free
        assert counter.counted(allowance, NOW).wait(allowance, NOW) == FIRST_WAIT

    @pytest.mark.parametrize("allowance", ALLOWANCES)
    @pytest.mark.parametrize("step", [SECOND, CLOCK_MARGIN])
    def test_a_clock_that_is_behind_a_little_gives_no_attempt_away(self, allowance: Allowance, step: timedelta) -> None:
        counter = Counter(allowance.free + 20, NOW, NOW + SECOND).counted(allowance, NOW)
        assert counter.wait(allowance, NOW - step) == allowance.longest_wait

    @pytest.mark.parametrize("allowance", ALLOWANCES)
    def test_nobody_waits_for_a_clock_that_was_put_back(self, allowance: Allowance) -> None:
        counter = Counter(allowance.free + 20, NOW, NOW + SECOND).counted(allowance, NOW)
        earlier = NOW - timedelta(days=1)
        assert counter.wait(allowance, earlier) <= timedelta(0)
        again = counter.counted(allowance, earlier)
        assert (again.attempts, again.wait(allowance, earlier)) == (counter.attempts + 1, allowance.longest_wait)
