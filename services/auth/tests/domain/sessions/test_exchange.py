"""The exchange of browsers' sessions, and how often each may be exchanged."""

from contextlib import suppress
from uuid import uuid4

import pytest

from ostiary_auth.domain.errors import SessionEnded, TooManyExchanges
from ostiary_auth.domain.sessions import exchange
from ostiary_auth.domain.sessions.exchange import FREE_EXCHANGES, ExchangeThrottle
from ostiary_auth.domain.sessions.session_secrets import (
    SessionProof,
    credential_of,
    hash_of,
    new_secret,
    parse,
)
from ostiary_auth.system_clock import SystemClock

SID = "6c1f6f4e-3f0e-4a55-9a3c-0d2a4a2b8f11"


class Clock(SystemClock):
    """A clock that stands still until it is set."""

    seconds = 1000.0

    def monotonic(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def throttle(clock: Clock) -> ExchangeThrottle:
    return ExchangeThrottle(clock)


def some_proof() -> SessionProof:
    return SessionProof(uuid4(), hash_of(new_secret()))


def admitted(throttle: ExchangeThrottle, proof: SessionProof) -> int:
    """Return how many exchanges are admitted at once."""
    count = 0
    with suppress(TooManyExchanges):
        while True:
            throttle.admit(proof)
            count += 1
    return count


class TestThrottle:
    def test_many_are_free_and_then_there_is_one_each_second(self, throttle: ExchangeThrottle, clock: Clock) -> None:
        proof = some_proof()
        assert admitted(throttle, proof) == FREE_EXCHANGES
        for seconds, count in ((0.5, 0), (0.5, 1), (3.0, 3), (10_000.0, FREE_EXCHANGES)):
            clock.seconds += seconds
            assert admitted(throttle, proof) == count

    def test_the_same_session_with_another_secret_is_counted_apart(self, throttle: ExchangeThrottle) -> None:
        proof = some_proof()
        guess = SessionProof(proof.session_id, hash_of(new_secret()))
        assert admitted(throttle, guess) == FREE_EXCHANGES
        assert admitted(throttle, proof) == FREE_EXCHANGES

    def test_memory_is_bounded(self, throttle: ExchangeThrottle, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(exchange, "MAX_COUNTED", 10)
        busy = some_proof()
        assert admitted(throttle, busy) == FREE_EXCHANGES
        for _ in range(100):
            throttle.admit(some_proof())
            with pytest.raises(TooManyExchanges) as refusal:
                throttle.admit(busy)
            assert refusal.value.retry_after == 1
        assert len(throttle._turns) == 10


class TestSecrets:
    def test_what_a_browser_presents_is_read_back(self) -> None:
        session_id, secret = uuid4(), new_secret()
        proof = parse(credential_of(session_id, secret))
        assert proof == SessionProof(session_id, hash_of(secret))
        # Neither the secret nor its hash is in a log by mistake.
        assert secret not in repr(proof)
        assert repr(proof.secret_hash) not in repr(proof)

    @pytest.mark.parametrize("presented", ["", ".", "x.y", SID, f"{SID}.{'a' * 42}", f"{SID}.{'a' * 44}"])
    def test_anything_else_is_a_session_that_has_ended(self, presented: str) -> None:
        with pytest.raises(SessionEnded):
            parse(presented)

    def test_no_two_are_alike(self) -> None:
        assert len({new_secret() for _ in range(1000)}) == 1000
