"""When the next key may sign, depending on the keys that verifiers hold."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import update

from ostiary.feed import version_of
from ostiary_auth.domain.context import Context
from ostiary_auth.domain.errors import KeyNotReady
from ostiary_auth.domain.keys.model import KeyState
from ostiary_auth.domain.keys.rotation import KeyPolicy, SigningKeys
from ostiary_auth.domain.revocation.model import LOCAL_KEYS, RegisteredVerifier
from ostiary_auth.kek_file import open_vault
from ostiary_auth.services import Services
from ostiary_auth.storage.keys.tables import signing_keys

MINUTE = 60_000
NOW = datetime(2026, 1, 1, tzinfo=UTC)
SECOND = timedelta(seconds=1)
# Small keys are made in a tenth of the time.
POLICY = KeyPolicy(1024, timedelta(days=30), timedelta(minutes=10), timedelta(minutes=15))


class Keys:
    """Signing keys of which the next one was published just now, and verifiers that hold these or those."""

    def __init__(self, services: Services) -> None:
        self.services = services
        vault = open_vault(services.config)
        self.signing_keys = SigningKeys(services.store, services.audit, services.revocations, POLICY, lambda: vault)

    async def kid(self, state: KeyState) -> str:
        (kid,) = [key.kid for key in await self.signing_keys.stored() if key.state is state]
        return kid

    async def published(self) -> str:
        return version_of(key.kid for key in await self.signing_keys.stored())

    async def holds(self, verifier: str, keys: str, live_for: timedelta = 3600 * SECOND) -> None:
        async with self.services.store.write() as transaction:
            await transaction.verifiers.put([RegisteredVerifier(verifier, "auth-1", 0, keys, MINUTE, NOW + live_for)])

    async def may_rotate(self, age: timedelta = timedelta(0)) -> bool:
        """Try to rotate, so long after the next key was published."""
        following = await self.kid(KeyState.NEXT)
        try:
            await self.signing_keys.rotate(Context(NOW + age))
        except KeyNotReady:
            assert await self.kid(KeyState.NEXT) == following
            return False
        assert await self.kid(KeyState.SIGNING) == following
        return True


class TestRotation:
    @pytest.fixture
    async def keys(self, services: Services) -> Keys:
        async with services.database.write() as connection:
            await connection.execute(update(signing_keys).values(since=NOW, created_at=NOW))
        return Keys(services)

    async def test_a_new_key_signs_at_once_if_all_hold_it(self, keys: Keys) -> None:
        published = await keys.published()
        for verifier in ("orders", "profile", "gateway"):
            await keys.holds(verifier, published)
        assert await keys.may_rotate()

    async def test_one_that_holds_other_keys_is_waited_for(self, keys: Keys) -> None:
        await keys.holds("orders", await keys.published())
        await keys.holds("profile", version_of([await keys.kid(KeyState.SIGNING)]))
        assert not await keys.may_rotate()
        await keys.holds("profile", await keys.published())
        assert await keys.may_rotate()

    async def test_one_that_lives_no_more_is_not(self, keys: Keys) -> None:
        await keys.holds("orders", await keys.published())
        await keys.holds("profile", "other-keys", live_for=30 * SECOND)
        assert not await keys.may_rotate(29 * SECOND)
        assert await keys.may_rotate(30 * SECOND)

    async def test_when_no_cache_can_lack_it_it_signs_whoever_holds_what(self, keys: Keys) -> None:
        await keys.holds("orders", "other-keys")
        assert not await keys.may_rotate(POLICY.published_for - SECOND)
        assert await keys.may_rotate(POLICY.published_for)

    async def test_where_nobody_says_what_they_hold_it_takes_that_long(self, keys: Keys) -> None:
        with pytest.raises(KeyNotReady) as refused:
            await keys.signing_keys.rotate(Context(NOW))
        assert refused.value.retry_after == POLICY.published_for.total_seconds()
        assert not await keys.may_rotate(POLICY.published_for - SECOND)
        assert await keys.may_rotate(POLICY.published_for)

    async def test_the_services_own_replicas_say_nothing_about_others(self, keys: Keys) -> None:
        await keys.holds("auth-1", LOCAL_KEYS)
        assert not await keys.may_rotate()
        await keys.holds("orders", await keys.published())
        assert await keys.may_rotate()

    async def test_what_they_held_before_a_rotation_does_not_do_for_the_next(self, keys: Keys) -> None:
        await keys.holds("orders", await keys.published())
        assert await keys.may_rotate()
        assert not await keys.may_rotate()
        await keys.holds("orders", await keys.published())
        assert await keys.may_rotate()

    async def test_a_key_whose_period_is_over_gives_way_as_soon_as_all_hold_the_next(self, keys: Keys) -> None:
        period_over = Context(NOW + POLICY.period)
        following = await keys.kid(KeyState.NEXT)
        async with keys.services.database.write() as connection:
            new = update(signing_keys).where(signing_keys.c.kid == following)
            await connection.execute(new.values(since=period_over.now - SECOND))
        await keys.signing_keys.advance(period_over)
        assert await keys.kid(KeyState.NEXT) == following
        await keys.holds("orders", await keys.published(), live_for=POLICY.period + 3600 * SECOND)
        await keys.signing_keys.advance(period_over)
        assert await keys.kid(KeyState.SIGNING) == following

    async def test_what_verifiers_say_over_the_feed_counts(self, keys: Keys) -> None:
        verifiers = keys.services.verifiers
        async with keys.services.database.write() as connection:
            await connection.execute(update(signing_keys).values(since=datetime.now(UTC)))
        context = Context(datetime.now(UTC))
        await verifiers.on_poll("orders", 0, "other-keys", MINUTE)
        with pytest.raises(KeyNotReady):
            await keys.signing_keys.rotate(context)
        await verifiers.on_poll("orders", 0, keys.services.local_keys.ring().version, MINUTE)
        await keys.signing_keys.rotate(context)
