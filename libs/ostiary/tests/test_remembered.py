"""Remembered tokens: bounded, re-checked on every hit, gone with their key."""

import threading

import pytest

from ostiary import KeySet, LocalKeys, Verifier, VerifierConfig, errors
from ostiary._remembered import AcceptedIssuer, Remembered, RememberedTokens, name_of
from ostiary.testing import Issuer

NOW = 1_700_000_000


def keys_of(*issuers: Issuer) -> KeySet:
    documents = ", ".join(issuer.jwks().decode()[len('{"keys": [') : -2] for issuer in issuers)
    return KeySet.from_json(f'{{"keys": [{documents}]}}'.encode())


@pytest.fixture
def source(issuer: Issuer) -> LocalKeys:
    return LocalKeys(keys_of(issuer))


@pytest.fixture
def verifier(issuer: Issuer, source: LocalKeys) -> Verifier:
    return Verifier(VerifierConfig(issuer=issuer.issuer, audience=issuer.audience, key_source=source, leeway=0))


def test_a_token_seen_again_is_the_same_value(verifier: Verifier, issuer: Issuer) -> None:
    token = issuer.token()
    assert verifier.verify(token) is verifier.verify(token)


def test_without_a_memory_it_is_verified_again(issuer: Issuer) -> None:
    verifier = Verifier(issuer.config(), remember=0)
    token = issuer.token()
    assert verifier.verify(token) == verifier.verify(token)
    assert verifier.verify(token) is not verifier.verify(token)


def test_a_remembered_token_dies_when_it_expires(verifier: Verifier, issuer: Issuer) -> None:
    token = issuer.token(claims={"iat": NOW - 10, "nbf": NOW - 10, "exp": NOW})
    assert verifier.verify(token, now=NOW - 1).expires_at == NOW
    for _ in range(2):
        with pytest.raises(errors.Expired):
            verifier.verify(token, now=NOW)


def test_a_clock_that_goes_back_is_noticed(verifier: Verifier, issuer: Issuer) -> None:
    token = issuer.token(claims={"iat": NOW, "nbf": NOW, "exp": NOW + 900})
    assert verifier.verify(token, now=NOW).issued_at == NOW
    with pytest.raises(errors.NotYetValid):
        verifier.verify(token, now=NOW - 1)


def test_a_remembered_token_dies_with_its_key(verifier: Verifier, source: LocalKeys, issuer: Issuer) -> None:
    token, other = issuer.token(), Issuer(kid="other")
    verifier.verify(token)
    source.replace(keys_of(issuer, other))
    assert verifier.verify(token).issuer == issuer.issuer
    source.replace(keys_of(other))
    for _ in range(2):
        with pytest.raises(errors.UnknownKey):
            verifier.verify(token)


def test_another_key_of_the_same_name_ends_it_too(verifier: Verifier, source: LocalKeys, issuer: Issuer) -> None:
    token = issuer.token()
    verifier.verify(token)
    source.replace(keys_of(Issuer(kid=issuer.kid)))
    with pytest.raises(errors.BadSignature):
        verifier.verify(token)


def test_keys_that_are_gone_decide_nothing(issuer: Issuer) -> None:
    class Failing(LocalKeys):
        failing = False

        def current(self) -> KeySet:
            if self.failing:
                raise errors.KeysUnavailable
            return super().current()

    source = Failing(keys_of(issuer))
    verifier = Verifier(VerifierConfig(issuer=issuer.issuer, audience=issuer.audience, key_source=source))
    token = issuer.token()
    verifier.verify(token)
    source.failing = True
    with pytest.raises(errors.KeysUnavailable):
        verifier.verify(token)


def test_a_bad_token_is_not_remembered(verifier: Verifier, issuer: Issuer) -> None:
    for _ in range(2):
        with pytest.raises(errors.WrongAudience):
            verifier.verify(issuer.token(claims={"aud": "other"}))
    assert verifier._remembered is not None
    assert len(verifier._remembered) == 0


class TestBounds:
    def entry(self, issuer: Issuer) -> Remembered:
        keys = keys_of(issuer)
        accepted = AcceptedIssuer(issuer.issuer, issuer.audience, 0, LocalKeys(keys), None)
        return Remembered(issuer.verifier().verify(issuer.token()), accepted, keys, None)

    def test_the_least_recently_used_go_first(self, issuer: Issuer) -> None:
        memory, entry = RememberedTokens(2), self.entry(issuer)
        names = [name_of(text) for text in ("a", "b", "c")]
        memory.put(names[0], entry)
        memory.put(names[1], entry)
        assert memory.get(names[0]) is entry
        memory.put(names[2], entry)
        assert [memory.get(name) is entry for name in names] == [True, False, True]
        assert len(memory) == 2

    def test_a_name_is_of_the_whole_token(self, issuer: Issuer) -> None:
        token = issuer.token()
        assert len({name_of(token), name_of(token[:-1]), name_of(token + "A"), name_of("\ud800"), name_of("")}) == 5

    def test_threads_do_not_harm_it(self, issuer: Issuer) -> None:
        memory, entry = RememberedTokens(50), self.entry(issuer)
        failures: list[BaseException] = []

        def work(seed: int) -> None:
            try:
                for step in range(3000):
                    name = name_of(str((seed * step) % 97))
                    if memory.get(name) is None:
                        memory.put(name, entry)
                    if step % 7 == 0:
                        memory.drop(name)
            except BaseException as error:  # noqa: BLE001 - reported below
                failures.append(error)

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(1, 9)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        assert len(memory) <= 50
