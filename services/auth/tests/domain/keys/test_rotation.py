"""Signing keys from their making to their end: published before they sign, and until their last token has died."""

import asyncio
import base64
import hashlib
import json
import random
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from sqlalchemy import select

from ostiary import KeySet
from ostiary_auth.config import AuthConfig
from ostiary_auth.domain.audit.model import Event
from ostiary_auth.domain.context import OPERATOR, Context
from ostiary_auth.domain.errors import KeyNotFound, KeyNotReady
from ostiary_auth.domain.keys.key_ring import KeyRing
from ostiary_auth.domain.keys.model import KeyState, StoredKey
from ostiary_auth.domain.keys.rotation import KeyPolicy, SigningKeys
from ostiary_auth.domain.keys.vault import KEK_BYTES, UnsealError, Vault
from ostiary_auth.domain.revocation.log import EXPIRY_MARGIN, KEYS_HELD
from ostiary_auth.kek_file import open_vault
from ostiary_auth.services import Services, ServiceSecrets
from ostiary_auth.startup import prepare
from ostiary_auth.storage.audit.tables import audit_log
from ostiary_auth.storage.keys.tables import signing_keys
from ostiary_auth.storage.revocation.tables import revocations
from ostiary_auth.storage.store import AuthStore
from ostiary_chassis.settings import ConfigError

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SECOND = timedelta(seconds=1)
# Small keys are made in a tenth of the time; what they live through is the same.
POLICY = KeyPolicy(
    bits=1024,
    period=timedelta(days=30),
    published_for=timedelta(minutes=10),
    token_lifetime=timedelta(minutes=15),
)
PERIOD_OVER = NOW + POLICY.period


class Replicas:
    """Signing keys as one replica or several have them."""

    def __init__(self, services: Services) -> None:
        self.services = services
        self.store = services.store
        self.vault = open_vault(services.config)

    def one(self, vault: Vault | None = None) -> SigningKeys:
        return SigningKeys(
            self.store, self.services.audit, self.services.revocations, POLICY, lambda: vault or self.vault
        )

    async def stored(self) -> list[StoredKey]:
        return await self.one().stored()

    async def kids(self, state: KeyState) -> list[str]:
        return [key.kid for key in await self.stored() if key.state is state]

    async def kid(self, state: KeyState) -> str:
        (kid,) = await self.kids(state)
        return kid

    async def states(self) -> list[KeyState]:
        return sorted(key.state for key in await self.stored())

    async def published(self) -> set[str]:
        return kids_in((await self.one().load()).document)

    async def revoked(self) -> list[tuple[str, str, timedelta]]:
        async with self.store.database.read() as connection:
            rows = await connection.execute(select(revocations).order_by(revocations.c.number))
            return [(row.kind, row.target, row.expires_at - row.at) for row in rows]

    async def events(self, kid: str) -> list[str]:
        async with self.store.database.read() as connection:
            rows = await connection.execute(select(audit_log).order_by(audit_log.c.number))
            return [row.event for row in rows if row.facts.get("kid") == kid]


@pytest.fixture
async def empty(services: Services) -> Replicas:
    async with services.database.write() as connection:
        await connection.execute(signing_keys.delete())
    return Replicas(services)


@pytest.fixture
async def replicas(services: Services) -> Replicas:
    """Two keys, as at a first start at NOW."""
    async with services.database.write() as connection:
        await connection.execute(signing_keys.update().values(since=NOW, created_at=NOW))
    return Replicas(services)


def kids_in(document: bytes) -> set[str]:
    return {key["kid"] for key in json.loads(document)["keys"]}


def public_key(document: bytes, kid: str) -> rsa.RSAPublicKey:
    (key,) = (key for key in json.loads(document)["keys"] if key["kid"] == kid)
    n, e = (int.from_bytes(base64.urlsafe_b64decode(key[name] + "==")) for name in ("n", "e"))
    return rsa.RSAPublicNumbers(e, n).public_key()


class TestFirstStart:
    async def test_one_key_signs_and_one_is_next(self, empty: Replicas) -> None:
        await empty.one().advance(Context(NOW))
        assert await empty.states() == [KeyState.NEXT, KeyState.SIGNING]
        assert {(key.since, key.created_at) for key in await empty.stored()} == {(NOW, NOW)}
        assert (await empty.one().load()).signing.kid == await empty.kid(KeyState.SIGNING)

    async def test_the_next_key_is_published_before_it_signs(self, replicas: Replicas) -> None:
        assert await replicas.published() == {key.kid for key in await replicas.stored()}

    async def test_of_many_starting_replicas_one_makes_the_keys(self, empty: Replicas) -> None:
        many = [empty.one() for _ in range(5)]
        await asyncio.gather(*(keys.advance(Context(NOW)) for keys in many))
        assert await empty.states() == [KeyState.NEXT, KeyState.SIGNING]
        assert len({(await keys.load()).document for keys in many}) == 1

    async def test_a_key_that_went_missing_is_made_again(self, replicas: Replicas) -> None:
        signing = await replicas.kid(KeyState.SIGNING)
        async with replicas.store.write() as transaction:
            await transaction.keys.remove(await replicas.kid(KeyState.NEXT))
        await replicas.one().advance(Context(NOW))
        assert await replicas.states() == [KeyState.NEXT, KeyState.SIGNING]
        assert await replicas.kid(KeyState.SIGNING) == signing

    async def test_nothing_changes_before_something_is_due(self, replicas: Replicas) -> None:
        before = await replicas.stored()
        await replicas.one().advance(Context(PERIOD_OVER - SECOND))
        assert await replicas.stored() == before


class TestRotation:
    async def test_a_key_that_has_signed_for_its_period_gives_way_to_the_next(self, replicas: Replicas) -> None:
        signing, following = await replicas.kid(KeyState.SIGNING), await replicas.kid(KeyState.NEXT)
        await replicas.one().advance(Context(PERIOD_OVER))
        assert await replicas.kid(KeyState.SIGNING) == following
        assert await replicas.kid(KeyState.RETIRED) == signing
        assert await replicas.kid(KeyState.NEXT) not in {signing, following}
        assert len(await replicas.published()) == 3

    async def test_several_replicas_rotate_once(self, replicas: Replicas) -> None:
        following = await replicas.kid(KeyState.NEXT)
        await asyncio.gather(*(replicas.one().advance(Context(PERIOD_OVER)) for _ in range(3)))
        assert await replicas.states() == [KeyState.NEXT, KeyState.RETIRED, KeyState.SIGNING]
        assert await replicas.kid(KeyState.SIGNING) == following

    async def test_a_next_key_that_is_too_new_does_not_sign_though_the_period_is_over(self, replicas: Replicas) -> None:
        signing = await replicas.kid(KeyState.SIGNING)
        made_at = PERIOD_OVER - SECOND
        await replicas.one().revoke(Context(made_at), await replicas.kid(KeyState.NEXT))
        following = await replicas.kid(KeyState.NEXT)
        await replicas.one().advance(Context(made_at + POLICY.published_for - SECOND))
        assert await replicas.kid(KeyState.SIGNING) == signing
        await replicas.one().advance(Context(made_at + POLICY.published_for))
        assert await replicas.kid(KeyState.SIGNING) == following

    async def test_a_retired_key_stays_until_its_last_token_has_died(self, replicas: Replicas) -> None:
        retired = await replicas.kid(KeyState.SIGNING)
        await replicas.one().advance(Context(PERIOD_OVER))
        last_token_dies = PERIOD_OVER + POLICY.token_lifetime + EXPIRY_MARGIN
        await replicas.one().advance(Context(last_token_dies - SECOND))
        assert retired in await replicas.published()
        await replicas.one().advance(Context(last_token_dies))
        assert await replicas.states() == [KeyState.NEXT, KeyState.SIGNING]
        assert retired not in await replicas.published()
        assert await replicas.events(retired) == [Event.KEY_MADE, Event.KEY_RETIRED, Event.KEY_GONE]

    async def test_an_operator_rotates_when_every_verifier_has_the_next_key(self, replicas: Replicas) -> None:
        signing, following = await replicas.kid(KeyState.SIGNING), await replicas.kid(KeyState.NEXT)
        await replicas.one().rotate(Context(NOW + POLICY.published_for, OPERATOR))
        assert await replicas.kid(KeyState.SIGNING) == following
        assert await replicas.kid(KeyState.RETIRED) == signing
        assert await replicas.events(following) == [Event.KEY_MADE, Event.KEY_SIGNS]

    @pytest.mark.parametrize(
        ("age", "retry_after"),
        [(timedelta(0), 600), (timedelta(seconds=1, milliseconds=500), 599), (timedelta(seconds=599.999), 1)],
    )
    async def test_a_rotation_before_that_is_refused_with_the_time_to_wait(
        self, replicas: Replicas, age: timedelta, retry_after: int
    ) -> None:
        before = await replicas.stored()
        with pytest.raises(KeyNotReady) as refused:
            await replicas.one().rotate(Context(NOW + age))
        assert refused.value.retry_after == retry_after
        assert await replicas.stored() == before

    async def test_after_the_clock_was_put_back_nobody_is_told_to_wait_for_that(self, replicas: Replicas) -> None:
        earlier = NOW - timedelta(days=1)
        with pytest.raises(KeyNotReady) as refused:
            await replicas.one().rotate(Context(earlier))
        assert refused.value.retry_after == POLICY.published_for.total_seconds()
        # How long a key is in its state is counted from now on.
        await replicas.one().advance(Context(earlier))
        assert {key.since for key in await replicas.stored()} == {earlier}
        await replicas.one().rotate(Context(earlier + POLICY.published_for))

    async def test_a_rotation_without_a_next_key_is_refused(self, replicas: Replicas) -> None:
        async with replicas.store.write() as transaction:
            await transaction.keys.remove(await replicas.kid(KeyState.NEXT))
        with pytest.raises(KeyNotReady) as refused:
            await replicas.one().rotate(Context(PERIOD_OVER))
        assert refused.value.retry_after == POLICY.published_for.total_seconds()
        assert await replicas.states() == [KeyState.SIGNING]

    async def test_of_several_rotations_at_once_one_happens(self, replicas: Replicas) -> None:
        following = await replicas.kid(KeyState.NEXT)
        context = Context(NOW + POLICY.published_for)
        outcomes = await asyncio.gather(*(replicas.one().rotate(context) for _ in range(3)), return_exceptions=True)
        assert sorted(type(outcome).__name__ for outcome in outcomes) == ["KeyNotReady"] * 2 + ["NoneType"]
        assert await replicas.states() == [KeyState.NEXT, KeyState.RETIRED, KeyState.SIGNING]
        assert await replicas.kid(KeyState.SIGNING) == following

    async def test_a_rotation_by_hand_begins_a_new_period(self, replicas: Replicas) -> None:
        rotated_at = NOW + timedelta(days=1)
        await replicas.one().rotate(Context(rotated_at))
        signing = await replicas.kid(KeyState.SIGNING)
        await replicas.one().advance(Context(PERIOD_OVER))
        assert await replicas.kid(KeyState.SIGNING) == signing
        await replicas.one().advance(Context(rotated_at + POLICY.period))
        assert await replicas.kid(KeyState.RETIRED) == signing


class TestRevocation:
    @pytest.fixture
    async def three(self, replicas: Replicas) -> Replicas:
        await replicas.one().advance(Context(PERIOD_OVER))
        return replicas

    @pytest.mark.parametrize("state", list(KeyState))
    async def test_a_revoked_key_is_gone_at_once_with_all_it_signed(self, three: Replicas, state: KeyState) -> None:
        kid = await three.kid(state)
        await three.one().revoke(Context(PERIOD_OVER), kid)
        assert kid not in await three.published()
        assert await three.revoked() == [("key", kid, KEYS_HELD + EXPIRY_MARGIN)]
        assert (await three.events(kid))[-1] == Event.KEY_REVOKED
        assert len(await three.kids(KeyState.SIGNING)) == len(await three.kids(KeyState.NEXT)) == 1

    async def test_when_the_signing_key_is_revoked_the_next_one_signs(self, three: Replicas) -> None:
        signing, following = await three.kid(KeyState.SIGNING), await three.kid(KeyState.NEXT)
        retired = await three.kid(KeyState.RETIRED)
        await three.one().revoke(Context(PERIOD_OVER), signing)
        assert await three.kid(KeyState.SIGNING) == following
        assert await three.kid(KeyState.NEXT) not in {signing, following, retired}
        assert await three.kid(KeyState.RETIRED) == retired

    @pytest.mark.parametrize("state", [KeyState.NEXT, KeyState.RETIRED])
    async def test_when_another_key_is_revoked_the_same_one_signs(self, three: Replicas, state: KeyState) -> None:
        signing = await three.kid(KeyState.SIGNING)
        await three.one().revoke(Context(PERIOD_OVER), await three.kid(state))
        assert await three.kid(KeyState.SIGNING) == signing

    async def test_with_the_only_key_revoked_a_new_one_signs(self, replicas: Replicas) -> None:
        signing = await replicas.kid(KeyState.SIGNING)
        async with replicas.store.write() as transaction:
            await transaction.keys.remove(await replicas.kid(KeyState.NEXT))
        await replicas.one().revoke(Context(NOW), signing)
        assert await replicas.states() == [KeyState.NEXT, KeyState.SIGNING]
        assert await replicas.kid(KeyState.SIGNING) != signing

    @pytest.mark.parametrize("kid", ["unknown", "", "' OR 1=1 --"])
    async def test_an_unknown_key_cannot_be_revoked(self, replicas: Replicas, kid: str) -> None:
        before = await replicas.stored()
        with pytest.raises(KeyNotFound):
            await replicas.one().revoke(Context(NOW), kid)
        assert await replicas.stored() == before
        assert await replicas.revoked() == []

    async def test_a_key_is_revoked_once(self, replicas: Replicas) -> None:
        kid = await replicas.kid(KeyState.SIGNING)
        revocation = (replicas.one().revoke(Context(NOW), kid) for _ in range(3))
        outcomes = await asyncio.gather(*revocation, return_exceptions=True)
        assert sorted(type(outcome).__name__ for outcome in outcomes) == ["KeyNotFound"] * 2 + ["tuple"]
        assert [target for _, target, _ in await replicas.revoked()] == [kid]
        assert await replicas.states() == [KeyState.NEXT, KeyState.SIGNING]


class TestRing:
    async def test_the_document_holds_public_members_only(self, services: Services) -> None:
        ring = services.local_keys.ring()
        for key in json.loads(ring.document)["keys"]:
            assert key.keys() == {"kty", "kid", "use", "alg", "n", "e"}
            assert (key["kty"], key["use"], key["alg"]) == ("RSA", "sig", "RS256")
        assert set(KeySet.from_json(ring.document).keys) == {key.kid for key in ring.published}

    async def test_a_kid_is_the_thumbprint_of_its_key(self, replicas: Replicas) -> None:
        for key in json.loads((await replicas.one().load()).document)["keys"]:
            canonical = f'{{"e":"{key["e"]}","kty":"RSA","n":"{key["n"]}"}}'
            digest = hashlib.sha256(canonical.encode()).digest()
            assert key["kid"] == base64.urlsafe_b64encode(digest).rstrip(b"=").decode()

    async def test_the_etag_changes_with_the_document(self, replicas: Replicas) -> None:
        before = await replicas.one().load()
        assert (await replicas.one().load()).etag == before.etag
        await replicas.one().advance(Context(PERIOD_OVER))
        after = await replicas.one().load()
        assert after.document != before.document
        assert after.etag != before.etag
        await replicas.one().advance(Context(PERIOD_OVER + POLICY.retired_for))
        assert (await replicas.one().load()).etag not in {before.etag, after.etag}

    async def test_a_ring_is_kept_until_the_keys_change(self, replicas: Replicas) -> None:
        known = await replicas.one().load()
        assert await replicas.one().load(known) is known
        await replicas.one().rotate(Context(NOW + POLICY.published_for))
        assert await replicas.one().load(known) is not known

    async def test_the_next_key_signing_makes_another_ring_of_the_same_keys(self, replicas: Replicas) -> None:
        known = await replicas.one().load()
        stored = {key.state: key for key in await replicas.stored()}
        swapped = {KeyState.SIGNING: stored[KeyState.NEXT].kid, KeyState.NEXT: stored[KeyState.SIGNING].kid}
        async with replicas.store.database.write() as connection:
            for state, kid in swapped.items():
                await connection.execute(signing_keys.update().where(signing_keys.c.kid == kid).values(state=state))
        ring = await replicas.one().load(known)
        assert ring.signing.kid == swapped[KeyState.SIGNING]
        assert ring.document == known.document

    async def test_keys_do_not_show_what_is_sealed(self, replicas: Replicas) -> None:
        for key in await replicas.stored():
            assert "sealed" not in repr(key)


@dataclass(frozen=True)
class Signed:
    """A token, as far as keys are concerned."""

    kid: str
    signature: bytes
    expires_at: datetime


class History:
    """What has been seen of the keys, and what must hold of it."""

    def __init__(self, ring: KeyRing, now: datetime) -> None:
        self.signing = ring.signing.kid
        self.published_since = dict.fromkeys(kids_in(ring.document), now)
        self.revoked: set[str] = set()
        self.tokens: list[Signed] = []

    def look(self, ring: KeyRing, now: datetime) -> None:
        for kid in kids_in(ring.document):
            self.published_since.setdefault(kid, now)
        if ring.signing.kid != self.signing and self.signing not in self.revoked:
            assert now - self.published_since[ring.signing.kid] >= POLICY.published_for
        self.signing = ring.signing.kid
        assert not self.revoked & kids_in(ring.document)
        signature = ring.signing.private_key.sign(b"token", PKCS1v15(), SHA256())
        self.tokens.append(Signed(self.signing, signature, now + POLICY.token_lifetime))
        for token in self.tokens:
            if token.kid not in self.revoked and now < token.expires_at:
                public_key(ring.document, token.kid).verify(token.signature, b"token", PKCS1v15(), SHA256())


@pytest.mark.parametrize("seed", range(2))
async def test_whatever_happens_one_key_signs_and_what_it_signed_verifies(replicas: Replicas, seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311 - no secret
    now = NOW
    history = History(await replicas.one().load(), now)
    for _ in range(20):
        now += chance.choice([SECOND, timedelta(minutes=5), timedelta(minutes=16), timedelta(days=8)])
        work = chance.choice(["advance", "advance", "rotate", "rotate", "revoke", "at once"])
        if work in {"advance", "at once"}:
            await asyncio.gather(*(replicas.one().advance(Context(now)) for _ in range(2 if work == "at once" else 1)))
        if work in {"rotate", "at once"}:
            outcomes = await asyncio.gather(replicas.one().rotate(Context(now)), return_exceptions=True)
            assert all(outcome is None or isinstance(outcome, KeyNotReady) for outcome in outcomes)
        if work == "revoke":
            kid = chance.choice(sorted(history.published_since.keys() & await replicas.published()))
            await replicas.one().revoke(Context(now), kid)
            history.revoked.add(kid)
        assert (await replicas.states()).count(KeyState.SIGNING) == 1
        history.look(await replicas.one().load(), now)
    assert len(history.published_since) > 4
    assert (await replicas.services.audit.verify(replicas.store)).broken_at is None


class TestAtRest:
    async def test_private_keys_are_stored_sealed(self, replicas: Replicas) -> None:
        ring = await replicas.one().load()
        blobs = [key.sealed_private_key for key in await replicas.stored()]
        for key in ring.published:
            numbers = key.private_key.private_numbers()
            plain = key.private_key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
            for blob in blobs:
                assert plain[:40] not in blob
                assert numbers.p.to_bytes(128, "big") not in blob
                assert b"PRIVATE" not in blob

    async def test_another_key_encryption_key_opens_nothing(self, replicas: Replicas) -> None:
        with pytest.raises(UnsealError):
            await replicas.one(Vault((bytes([1]) * KEK_BYTES,))).load()

    async def test_a_sealed_key_cannot_take_another_keys_name(self, replicas: Replicas) -> None:
        async with replicas.store.database.write() as connection:
            await connection.execute(
                signing_keys.update().where(signing_keys.c.state == KeyState.SIGNING).values(kid="other")
            )
        with pytest.raises(UnsealError):
            await replicas.one().load()

    async def test_two_sealed_keys_cannot_change_places(self, replicas: Replicas) -> None:
        first, second = await replicas.stored()
        async with replicas.store.database.write() as connection:
            for kid, sealed in ((first.kid, second.sealed_private_key), (second.kid, first.sealed_private_key)):
                changed = signing_keys.update().where(signing_keys.c.kid == kid)
                await connection.execute(changed.values(sealed_private_key=sealed))
        with pytest.raises(UnsealError):
            await replicas.one().load()

    async def test_after_a_rewrap_the_old_key_encryption_key_is_not_needed(
        self, config: AuthConfig, services: Services, own: ServiceSecrets
    ) -> None:
        document = services.local_keys.ring().document
        old = config.kek_path.read_bytes()
        new = base64.b64encode(bytes([1]) * KEK_BYTES) + b"\n"
        config.kek_path.write_bytes(new + old)
        assert await services.keys.rewrap(Context(NOW, OPERATOR)) == 4
        config.kek_path.write_bytes(new)
        assert await prepare(config) == own
        assert (await services.keys.load()).document == document
        config.kek_path.write_bytes(old)
        with pytest.raises(ConfigError, match="does not open"):
            await prepare(config)

    async def test_a_rewrap_without_the_old_key_encryption_key_changes_nothing(
        self, config: AuthConfig, services: Services, store: AuthStore
    ) -> None:
        before = await services.keys.stored()
        config.kek_path.write_bytes(base64.b64encode(bytes([1]) * KEK_BYTES))
        with pytest.raises(UnsealError):
            await services.keys.rewrap(Context(NOW, OPERATOR))
        assert await services.keys.stored() == before
        assert (await services.audit.verify(store)).broken_at is None


async def test_a_key_has_the_size_of_the_settings(services: Services, config: AuthConfig, own: ServiceSecrets) -> None:
    assert {key.private_key.key_size for key in services.local_keys.ring().published} == {2048}
    (following,) = (key for key in await services.keys.stored() if key.state is KeyState.NEXT)
    async with services.store.write() as transaction:
        await transaction.keys.remove(following.kid)
    large = Services(config.model_copy(update={"rsa_bits": 3072}), own)
    try:
        await large.keys.advance(Context(NOW))
        ring = await large.keys.load()
    finally:
        await large.close()
    assert ring.signing.private_key.key_size == 2048
    assert sorted(key.private_key.key_size for key in ring.published) == [2048, 3072]
