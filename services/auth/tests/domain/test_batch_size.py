from datetime import UTC, datetime, timedelta

from clocks import HandClock

from ostiary_auth.domain.batch_size import FEWEST_ROWS, TARGET_SECONDS, BatchSize


class Machine:
    """Works at a certain speed."""

    def __init__(self, most: int) -> None:
        self.clock = HandClock(datetime(2026, 1, 1, tzinfo=UTC))
        self.size = BatchSize(most, self.clock)

    def work(self, rows_per_second: float) -> int:
        """Return how many rows were worked on."""
        with self.size.measured() as rows:
            self.clock.pass_(timedelta(seconds=rows / rows_per_second))
        return rows


def test_on_a_quick_machine_as_many_rows_as_allowed() -> None:
    machine = Machine(150)
    assert [machine.work(rows_per_second=1e6) for _ in range(3)] == [150, 150, 150]


def test_on_a_slower_one_as_many_as_take_the_time() -> None:
    machine = Machine(150)
    assert machine.work(rows_per_second=5000) == 150
    rows = machine.work(rows_per_second=5000)
    assert FEWEST_ROWS < rows < 150
    assert abs(rows / 5000 - TARGET_SECONDS) < TARGET_SECONDS / 10


def test_never_so_few_that_the_transactions_cost_more_than_the_rows() -> None:
    machine = Machine(150)
    machine.work(rows_per_second=10)
    assert machine.work(rows_per_second=10) == FEWEST_ROWS


def test_more_again_when_the_machine_has_time_again() -> None:
    machine = Machine(150)
    machine.work(rows_per_second=10)
    assert [machine.work(rows_per_second=1e6) for _ in range(4)] == [30, 60, 120, 150]


def test_what_takes_no_time_at_all_is_no_reason_to_change() -> None:
    machine = Machine(2)
    with machine.size.measured() as rows:
        assert rows == 2
    assert machine.work(rows_per_second=1) == 2
    assert machine.work(rows_per_second=1) == 2
