"""The cache of verified tokens: bounded, checked again on every hit, evicted with their key."""

import threading
from dataclasses import replace

import pytest

from ostiary import KeySet, LocalKeys, Verifier, VerifierConfig, errors
from ostiary._cache import MAX_SPARED, AcceptedIssuer, CacheEntry, TokenCache, cache_key
from ostiary.feed import Kind
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


def test_a_cached_token_expires(verifier: Verifier, issuer: Issuer) -> None:
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


def test_a_cached_token_ends_with_its_key(verifier: Verifier, source: LocalKeys, issuer: Issuer) -> None:
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


def test_discarded_keys_raise(issuer: Issuer) -> None:
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


def test_an_invalid_token_is_not_cached(verifier: Verifier, issuer: Issuer) -> None:
    for _ in range(2):
        with pytest.raises(errors.WrongAudience):
            verifier.verify(issuer.token(claims={"aud": "other"}))
    assert verifier._cache is not None
    assert len(verifier._cache) == 0


class TestPresented:
    def test_it_outlives_its_cache_entry(self, issuer: Issuer) -> None:
        verifier = Verifier(issuer.config(), remember=1)
        presented = verifier.present(issuer.token())
        first = verifier.verify(presented)
        verifier.verify(issuer.token())
        assert verifier.verify(presented) is first

    def test_time_keys_and_revocations_are_checked_each_time(
        self, source: LocalKeys, verifier: Verifier, issuer: Issuer
    ) -> None:
        expiring = verifier.present(issuer.token(claims={"iat": NOW - 10, "nbf": NOW - 10, "exp": NOW}))
        assert verifier.verify(expiring, now=NOW - 1).expires_at == NOW
        for _ in range(2):
            with pytest.raises(errors.Expired):
                verifier.verify(expiring, now=NOW)
        presented = verifier.present(issuer.token())
        verifier.verify(presented)
        source.replace(keys_of(Issuer(kid="other")))
        for _ in range(2):
            with pytest.raises(errors.UnknownKey):
                verifier.verify(presented)
        source.replace(keys_of(issuer))
        assert verifier.verify(presented).issuer == issuer.issuer

    @pytest.mark.parametrize("kind", [Kind.SESSION, Kind.TOKEN])
    def test_a_revocation_ends_it(self, kind: Kind) -> None:
        issuer = Issuer()
        verifier = issuer.verifier()
        presented = verifier.present(issuer.token())
        token = verifier.verify(presented)
        target = token.session_id if kind is Kind.SESSION else token.token_id
        assert target is not None
        issuer.revoke(kind, "another")
        assert verifier.verify(presented) is token
        issuer.revoke(kind, target)
        for _ in range(2):
            with pytest.raises(errors.Revoked):
                verifier.verify(presented)

    def test_without_a_memory_it_is_verified_again(self, issuer: Issuer) -> None:
        verifier = Verifier(issuer.config(), remember=0)
        presented = verifier.present(issuer.token())
        assert verifier.verify(presented) is not verifier.verify(presented)

    def test_another_verifier_rejects_it(self, issuer: Issuer, verifier: Verifier) -> None:
        presented = verifier.present(issuer.token())
        verifier.verify(presented)
        with pytest.raises(ValueError, match="another verifier"):
            issuer.verifier().verify(presented)

    def test_an_oversized_one_is_rejected(self, verifier: Verifier) -> None:
        with pytest.raises(errors.TooLarge):
            verifier.verify(verifier.present("a" * 9000))


class TestBounds:
    def entry(self, issuer: Issuer) -> CacheEntry:
        keys = keys_of(issuer)
        accepted = AcceptedIssuer(issuer.issuer, issuer.audience, 0, LocalKeys(keys), None)
        return CacheEntry(issuer.verifier().verify(issuer.token()), accepted, keys)

    def test_the_least_recently_used_go_first(self, issuer: Issuer) -> None:
        memory, entry = TokenCache(2), self.entry(issuer)
        names = [cache_key(text) for text in ("a", "b", "c")]
        memory.put(names[0], entry)
        memory.put(names[1], entry)
        assert memory.get(names[0]) is entry
        memory.put(names[2], entry)
        assert [memory.get(name) is entry for name in names] == [True, False, True]
        assert len(memory) == 2

    def test_a_cache_of_one_holds_the_last(self, issuer: Issuer) -> None:
        memory, keys = TokenCache(1), [cache_key(text) for text in ("a", "b", "a")]
        for key in keys:
            memory.put(key, self.entry(issuer))
            assert memory.get(key) is not None
            assert len(memory) == 1

    def test_where_all_are_in_use_the_oldest_goes(self, issuer: Issuer) -> None:
        memory, one = TokenCache(100), self.entry(issuer)
        keys = [cache_key(str(number)) for number in range(101)]
        for key in keys[:100]:
            memory.put(key, replace(one))
            memory.get(key)
        memory.put(keys[100], replace(one))
        assert len(memory) == 100
        assert memory.get(keys[100]) is not None
        assert memory.get(keys[MAX_SPARED]) is None

    def test_what_is_used_stays_while_others_come_and_go(self, issuer: Issuer) -> None:
        memory, one = TokenCache(10), self.entry(issuer)
        used = [cache_key(f"used {number}") for number in range(5)]
        for key in used:
            memory.put(key, replace(one))
        for number in range(200):
            assert all(memory.get(key) is not None for key in used)
            memory.put(cache_key(str(number)), replace(one))
        assert len(memory) == 10

    def test_a_key_covers_the_whole_token(self, issuer: Issuer) -> None:
        token = issuer.token()
        assert (
            len({cache_key(token), cache_key(token[:-1]), cache_key(token + "A"), cache_key("\ud800"), cache_key("")})
            == 5
        )

    def test_threads_do_not_harm_it(self, issuer: Issuer) -> None:
        memory, entry = TokenCache(50), self.entry(issuer)
        failures: list[BaseException] = []

        def work(seed: int) -> None:
            try:
                for step in range(3000):
                    name = cache_key(str((seed * step) % 97))
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
