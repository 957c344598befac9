from datetime import UTC, datetime, timedelta

from ostiary_auth.domain.context import Context

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def test_a_long_wait_counts_and_a_short_one_does_not() -> None:
    context = Context(NOW)
    assert context.after(12.5).now == NOW + timedelta(seconds=12)
    assert context.after(0.9) is context
