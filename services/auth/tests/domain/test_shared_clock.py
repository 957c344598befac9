"""The database's time, carried on by a monotonic clock; and what has come by it whatever errs."""

from datetime import UTC, datetime, timedelta

import pytest
from clocks import HandClock
from hypothesis import given
from hypothesis import strategies as st

from ostiary_auth.domain.clock import TRUSTED_AT_START, SettledTime, SharedClock

START = datetime(2026, 1, 1, tzinfo=UTC)
SECOND = timedelta(seconds=1)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
PERIOD = timedelta(minutes=62)
#: Dates are stored in microseconds, and computed with floating point numbers.
ALMOST = timedelta(microseconds=10)


class Machine:
    """A machine whose clock may be wrong, and its way to a database whose clock is what counts."""

    def __init__(self, fast: timedelta = timedelta(0)) -> None:
        self.own = HandClock(START + fast)
        self.fast = timedelta(0)
        self.clock = SharedClock(self.own)

    @property
    def true(self) -> datetime:
        return START + timedelta(seconds=self.own.seconds)

    def ask(self, there: timedelta, back: timedelta) -> None:
        asked_at = self.own.monotonic()
        self.own.pass_(there)
        shown = self.true + self.fast
        self.own.pass_(back)
        self.clock.follow(shown, asked_at, self.own.monotonic())

    @property
    def error(self) -> timedelta:
        return abs(self.clock.now() - self.true - self.fast)


delays = st.timedeltas(timedelta(0), timedelta(seconds=9))


class TestSharedClock:
    @given(st.timedeltas(-2 * DAY, 2 * DAY), st.lists(st.tuples(delays, delays), min_size=1, max_size=9))
    def test_it_errs_by_what_the_quickest_answer_took_at_most(
        self, fast: timedelta, ways: list[tuple[timedelta, timedelta]]
    ) -> None:
        machine = Machine(fast)
        for there, back in ways:
            machine.ask(there, back)
        assert machine.error <= min(there + back for there, back in ways) + ALMOST

    def test_before_it_has_asked_it_is_the_machines(self) -> None:
        assert Machine(DAY).clock.now() == START + DAY

    @pytest.mark.parametrize("step", [-DAY, -2 * SECOND, 55 * SECOND, DAY])
    def test_setting_the_clock_of_the_machine_changes_nothing(self, step: timedelta) -> None:
        machine = Machine()
        machine.ask(ALMOST, ALMOST)
        machine.own.set_forward(step)
        machine.own.pass_(SECOND)
        assert machine.error <= 3 * ALMOST
        machine.ask(ALMOST, ALMOST)
        assert machine.error <= 3 * ALMOST

    @pytest.mark.parametrize("step", [-DAY, -2 * SECOND, 55 * SECOND, DAY])
    def test_it_follows_when_the_clock_of_the_database_is_set(self, step: timedelta) -> None:
        machine = Machine()
        machine.ask(ALMOST, ALMOST)
        machine.fast = step
        machine.ask(ALMOST, 5 * SECOND)
        assert machine.error <= 5 * SECOND + 3 * ALMOST
        machine.ask(ALMOST, ALMOST)
        assert machine.error <= 3 * ALMOST


class TestSettledTime:
    @pytest.fixture
    def clock(self) -> HandClock:
        return HandClock(START)

    def test_a_process_that_has_just_started_trusts_the_clock_to_a_day(self, clock: HandClock) -> None:
        settled = SettledTime(clock, PERIOD)
        assert abs(settled.now() - (START - TRUSTED_AT_START)) <= ALMOST
        clock.pass_(PERIOD)
        assert abs(settled.now() - (START + PERIOD - TRUSTED_AT_START)) <= ALMOST
        clock.pass_(SECOND)
        assert abs(settled.now() - (START + PERIOD + SECOND)) <= ALMOST

    @pytest.mark.parametrize("step", [2 * SECOND, 55 * SECOND, DAY])
    def test_a_clock_that_is_ahead_for_less_than_the_period_changes_nothing(
        self, clock: HandClock, step: timedelta
    ) -> None:
        settled = self.running(clock)
        right = clock.now()
        clock.set_forward(step)
        clock.pass_(HOUR)
        assert abs(settled.now() - (right + HOUR)) <= ALMOST
        clock.pass_(PERIOD - HOUR + SECOND)
        assert abs(settled.now() - clock.now()) <= ALMOST
        clock.set_forward(-step)
        assert abs(settled.now() - clock.now()) <= ALMOST

    def test_a_clock_that_is_put_back_counts_at_once(self, clock: HandClock) -> None:
        settled = self.running(clock)
        clock.set_forward(-DAY)
        assert abs(settled.now() - clock.now()) <= ALMOST

    @given(st.data())
    def test_what_ends_a_period_later_is_kept_for_a_period(self, data: st.DataObject) -> None:
        """However the clock is set meanwhile."""
        clock = HandClock(START)
        settled = SettledTime(clock, PERIOD)
        passed = timedelta(0)
        steps = st.tuples(st.timedeltas(timedelta(0), HOUR), st.timedeltas(-2 * DAY, 2 * DAY))
        for time, step in data.draw(st.lists(steps, max_size=4)):
            clock.pass_(time)
            clock.set_forward(step)
            settled.observe()
        ends_at = clock.now() + PERIOD
        for time, step in data.draw(st.lists(steps, max_size=6)):
            settled.observe()
            clock.pass_(time)
            passed += time
            assert settled.now() <= ends_at + ALMOST or passed > PERIOD - ALMOST
            clock.set_forward(step)

    def running(self, clock: HandClock) -> SettledTime:
        """Return one that has seen the clock for so long that it trusts it."""
        settled = SettledTime(clock, PERIOD)
        clock.pass_(PERIOD + SECOND)
        settled.observe()
        clock.pass_(SECOND)
        settled.observe()
        return settled
