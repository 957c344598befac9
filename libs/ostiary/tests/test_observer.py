"""What an observer receives, and that it contains nothing from a token."""

import logging

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from ostiary import Verifier, errors
from ostiary.prometheus import PrometheusObserver
from ostiary.testing import Issuer


class Notes:
    def __init__(self) -> None:
        self.outcomes: list[str] = []

    def verified(self, outcome: str, seconds: float) -> None:
        assert 0 <= seconds < 10
        self.outcomes.append(outcome)

    def fetched(self, issuer: str, outcome: str, seconds: float) -> None:
        raise AssertionError(f"nothing is fetched here: {issuer} {outcome} {seconds}")

    def followed(self, issuer: str, outcome: str, seconds: float, number: int | None) -> None:
        raise AssertionError(f"nothing is followed here: {issuer} {outcome} {seconds} {number}")


def refused(verifier: Verifier, token: str) -> None:
    with pytest.raises(errors.TokenError):
        verifier.verify(token)


def test_every_verification_has_an_outcome(issuer: Issuer, stranger: Issuer) -> None:
    notes = Notes()
    verifier = Verifier(issuer.config(), observer=notes)
    token = issuer.token()
    verifier.verify(token)
    verifier.verify(token)
    refused(verifier, stranger.token())
    refused(verifier, "x")
    refused(verifier, issuer.token(header={"kid": "other"}))
    assert notes.outcomes == ["verified", "cached", "bad_signature", "malformed", "unknown_key"]


def test_prometheus_counts_outcomes_and_knows_no_tokens(issuer: Issuer) -> None:
    registry = CollectorRegistry()
    observer = PrometheusObserver(registry)
    verifier = Verifier(issuer.config(), observer=observer)
    verifier.verify(issuer.token(subject="somebody"))
    refused(verifier, issuer.token(header={"kid": "attackers-kid"}))
    observer.fetched(issuer.issuer, "changed", 0.1)
    text = generate_latest(registry).decode()
    assert 'ostiary_verifications_total{outcome="verified"} 1.0' in text
    assert 'ostiary_verifications_total{outcome="unknown_key"} 1.0' in text
    assert f'ostiary_key_fetches_total{{issuer="{issuer.issuer}",outcome="changed"}} 1.0' in text
    assert "somebody" not in text
    assert "attackers-kid" not in text


def test_nothing_from_a_token_is_logged(issuer: Issuer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    verifier = issuer.verifier()
    verifier.verify(issuer.token(subject="somebody"))
    refused(verifier, issuer.token(subject="somebody", header={"kid": "attackers-kid"}))
    assert "somebody" not in caplog.text
    assert "attackers-kid" not in caplog.text
