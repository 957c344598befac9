"""Making, rotating and revoking the signing keys; `model` has their states."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from cryptography.hazmat.primitives.asymmetric import rsa

from ostiary.feed import Kind, version_of
from ostiary_auth.domain.audit.log import AuditLog
from ostiary_auth.domain.audit.model import Event
from ostiary_auth.domain.clock import CLOCK_MARGIN
from ostiary_auth.domain.context import Context
from ostiary_auth.domain.errors import KeyNotFound, KeyNotReady
from ostiary_auth.domain.keys.key_ring import KeyRing, seal, states_of
from ostiary_auth.domain.keys.model import KeyState, StoredKey
from ostiary_auth.domain.keys.vault import Vault
from ostiary_auth.domain.ports import Store, Transaction
from ostiary_auth.domain.revocation.log import EXPIRY_MARGIN, RevocationLog
from ostiary_auth.domain.revocation.model import LOCAL_KEYS, RevokedNumbers

PUBLIC_EXPONENT = 65537

#: The name of the lock that lets one replica at a time change keys.
_LOCK = "signing-keys"


@dataclass(frozen=True, slots=True)
class KeyPolicy:
    """When keys are rotated.

    A key signs for `period`. It starts when every verifier that follows the feed holds it, or when it has been
    published for `published_for`: then no cache lacks it.
    """

    bits: int
    period: timedelta
    published_for: timedelta
    #: The longest life of a token that a key signs.
    token_lifetime: timedelta

    @property
    def retired_for(self) -> timedelta:
        """How long a key stays published after it has signed its last token."""
        return self.token_lifetime + EXPIRY_MARGIN

    def may_sign_from(self, following: StoredKey) -> datetime:
        """Return when the next key may sign, whichever verifiers hold it."""
        return following.since + self.published_for

    def signing_ends(self, stored: list[StoredKey], now: datetime) -> bool:
        """Return whether the signing key's period is over and a next key exists."""
        signing = _in_state(stored, KeyState.SIGNING)
        return (
            signing is not None and _in_state(stored, KeyState.NEXT) is not None and now >= signing.since + self.period
        )


class SigningKeys:
    """Makes, rotates and revokes keys: one replica at a time; all others follow by `load`.

    `vault` is called for each operation, so that a new key-encryption key is used at once.
    """

    def __init__(
        self,
        store: Store,
        audit: AuditLog,
        revocations: RevocationLog,
        policy: KeyPolicy,
        vault: Callable[[], Vault],
    ) -> None:
        self._store = store
        self._audit = audit
        self._revocations = revocations
        self._policy = policy
        self._vault = vault

    async def load(self, known: KeyRing | None = None) -> KeyRing:
        """Return the stored keys: as `known`, if that is still up to date. Raises UnsealError."""
        stored = await self.stored()
        if known is not None and known.states == states_of(stored):
            return known
        return await asyncio.to_thread(lambda: KeyRing.open(stored, self._vault()))

    async def stored(self) -> list[StoredKey]:
        """Return all keys, the newest first."""
        async with self._store.follow() as transaction:
            return await transaction.keys.all()

    async def advance(self, context: Context) -> None:
        """Create missing keys, rotate if due, and delete expired keys."""
        stored = await self.stored()
        missing = {KeyState.SIGNING, KeyState.NEXT} - {key.state for key in stored}
        signing_ends = self._policy.signing_ends(stored, context.now)
        is_any_outdated = _expired(stored, self._policy, context.now) or _begun_later(stored, context.now)
        if not missing and not signing_ends and not is_any_outdated:
            return
        # Generated before the lock is taken, as that is slow; a replica that loses the race discards its own.
        spare = [await self._make() for _ in range(len(missing) + signing_ends)]
        async with self._store.queue() as transaction:
            await transaction.lock(_LOCK)
            stored = await transaction.keys.all()
            for key in _expired(stored, self._policy, context.now):
                await self._remove(transaction, context, key, Event.KEY_GONE)
            for key in _begun_later(stored, context.now):
                await transaction.keys.replace(replace(key, since=context.now))
            if self._policy.signing_ends(stored, context.now) and not await self._wait(transaction, stored, context):
                await self._promote(transaction, context, stored)
            await self._fill(transaction, context, spare)

    async def rotate(self, context: Context) -> None:
        """Start signing with the next key. Raises KeyNotReady if some verifiers may not hold it."""
        spare = [await self._make()]
        async with self._store.queue() as transaction:
            await transaction.lock(_LOCK)
            stored = await transaction.keys.all()
            wait = await self._wait(transaction, stored, context)
            if wait:
                raise KeyNotReady(wait)
            await self._promote(transaction, context, stored)
            await self._fill(transaction, context, spare)

    async def revoke(self, context: Context, kid: str) -> RevokedNumbers:
        """Delete a key and revoke every token it has signed. If it is the signing key, the next one replaces it.

        Raises KeyNotFound.
        """
        spare = [await self._make(), await self._make()]
        async with self._store.queue() as transaction:
            await transaction.lock(_LOCK)
            stored = await transaction.keys.all()
            key = next((key for key in stored if key.kid == kid), None)
            if key is None:
                raise KeyNotFound
            await self._remove(transaction, context, key, Event.KEY_REVOKED)
            revoked = await self._revocations.revoke(transaction, context, Kind.KEY, kid)
            following = _in_state(stored, KeyState.NEXT)
            if key.state is KeyState.SIGNING and following is not None:
                await self._enter(transaction, context, following, KeyState.SIGNING, Event.KEY_SIGNS)
            await self._fill(transaction, context, spare)
        return revoked

    async def lock(self, transaction: Transaction) -> None:
        """Keep others from changing keys until the transaction ends. They append to the logs only after this."""
        await transaction.lock(_LOCK)

    async def replace_all(
        self, transaction: Transaction, context: Context, replacements: list[rsa.RSAPrivateKey]
    ) -> None:
        """Delete all locked keys, revoke every token that they signed, and sign with new ones."""
        for key in await transaction.keys.all():
            await self._remove(transaction, context, key, Event.KEY_REVOKED)
            await self._revocations.revoke(transaction, context, Kind.KEY, key.kid)
        await self._fill(transaction, context, replacements)

    async def rewrap(self, context: Context) -> int:
        """Encrypt all keys and secrets under the first key-encryption key; return how many. Raises UnsealError."""
        vault = await self._read_vault()
        async with self._store.queue() as transaction:
            await transaction.lock(_LOCK)
            stored = await transaction.keys.all()
            for key in stored:
                sealed = vault.seal(vault.open(key.sealed_private_key, key.kid), key.kid)
                await transaction.keys.replace(replace(key, sealed_private_key=sealed))
            secrets = await transaction.keys.secrets()
            for name, sealed in secrets.items():
                await transaction.keys.put_secret(name, vault.seal(vault.open(sealed, name), name))
            count = len(stored) + len(secrets)
            await self._audit.record(transaction, context, Event.KEYS_REWRAPPED, facts={"count": count})
        return count

    async def _read_vault(self) -> Vault:
        # In a thread: it reads a file.
        return await asyncio.to_thread(self._vault)

    async def _make(self) -> rsa.RSAPrivateKey:
        return await _make(self._policy.bits)

    async def _wait(self, transaction: Transaction, stored: list[StoredKey], context: Context) -> timedelta:
        """Return how long until the next key may sign; zero if it may now."""
        following = _in_state(stored, KeyState.NEXT)
        if following is None:
            # The next `advance` creates it within seconds; then it has to be published for that long.
            return self._policy.published_for
        wait = self._policy.may_sign_from(following) - context.now
        if wait <= timedelta(0) or await _all_hold(transaction, version_of(key.kid for key in stored), context.now):
            return timedelta(0)
        return min(wait, self._policy.published_for)

    async def _promote(self, transaction: Transaction, context: Context, stored: list[StoredKey]) -> None:
        for before, after, event in (
            (KeyState.SIGNING, KeyState.RETIRED, Event.KEY_RETIRED),
            (KeyState.NEXT, KeyState.SIGNING, Event.KEY_SIGNS),
        ):
            key = _in_state(stored, before)
            if key is not None:
                await self._enter(transaction, context, key, after, event)

    async def _fill(self, transaction: Transaction, context: Context, spare: list[rsa.RSAPrivateKey]) -> None:
        """Add a signing and a next key where missing."""
        stored = await transaction.keys.all()
        for state in (KeyState.SIGNING, KeyState.NEXT):
            if _in_state(stored, state) is None and spare:
                # Sealed as late as here, because `rewrap` may have changed the key-encryption key meanwhile.
                key = seal(spare.pop(), await self._read_vault(), state, context.now)
                await transaction.keys.add(key)
                await self._audit.record(transaction, context, Event.KEY_MADE, facts={"kid": key.kid, "state": state})

    async def _enter(
        self, transaction: Transaction, context: Context, key: StoredKey, state: KeyState, event: Event
    ) -> None:
        await transaction.keys.replace(replace(key, state=state, since=context.now))
        await self._audit.record(transaction, context, event, facts={"kid": key.kid})

    async def _remove(self, transaction: Transaction, context: Context, key: StoredKey, event: Event) -> None:
        await transaction.keys.remove(key.kid)
        await self._audit.record(transaction, context, event, facts={"kid": key.kid})


async def make_replacements(bits: int) -> list[rsa.RSAPrivateKey]:
    """Make the keys for `SigningKeys.replace_all`: before a transaction begins, as that is slow."""
    return [await _make(bits) for _ in (KeyState.SIGNING, KeyState.NEXT)]


async def _make(bits: int) -> rsa.RSAPrivateKey:
    # In a thread: OpenSSL releases the interpreter lock meanwhile.
    return await asyncio.to_thread(rsa.generate_private_key, PUBLIC_EXPONENT, bits)


def _in_state(stored: list[StoredKey], state: KeyState) -> StoredKey | None:
    return next((key for key in stored if key.state is state), None)


async def _all_hold(transaction: Transaction, version: str, now: datetime) -> bool:
    """Return whether there are verifiers, and all that may be accepting tokens hold these keys."""
    held = [verifier.keys for verifier in await transaction.verifiers.live(now) if verifier.keys != LOCAL_KEYS]
    return bool(held) and all(each == version for each in held)


def _expired(stored: list[StoredKey], policy: KeyPolicy, now: datetime) -> list[StoredKey]:
    """Return the retired keys whose last token has expired."""
    return [key for key in stored if key.state is KeyState.RETIRED and now >= key.since + policy.retired_for]


def _begun_later(stored: list[StoredKey], now: datetime) -> list[StoredKey]:
    """Return the keys that are in their state since later than now, because the clock was put back.

    How long they are in it is unknown, so that begins anew.
    """
    return [key for key in stored if key.since > now + CLOCK_MARGIN]
