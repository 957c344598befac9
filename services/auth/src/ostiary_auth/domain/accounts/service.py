"""Accounts: registration, login, password changes and administration."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import Generic, TypeVar
from uuid import UUID, uuid4

from ostiary.feed import Kind
from ostiary_auth.domain.accounts import password_policy
from ostiary_auth.domain.accounts.attempts import Keys, login_keys, reauthentication_keys, registration_keys
from ostiary_auth.domain.accounts.device_tokens import DeviceTokens
from ostiary_auth.domain.accounts.emails import accept_email, email_key, parse_email
from ostiary_auth.domain.accounts.erasure import Erasure
from ostiary_auth.domain.accounts.model import AccountRules, User, accept_name, accept_roles
from ostiary_auth.domain.accounts.password_hashing import PasswordHasher, Purpose
from ostiary_auth.domain.accounts.refunds import Refunds
from ostiary_auth.domain.accounts.throttle import count_attempt, forgive
from ostiary_auth.domain.audit.log import AuditLog
from ostiary_auth.domain.audit.model import SELF_SERVICE_ACTORS, AuditEntry, Event
from ostiary_auth.domain.context import Context, user_actor
from ostiary_auth.domain.errors import AuthError, InvalidCredentials, InvalidEmail, UserNotFound, WrongPassword
from ostiary_auth.domain.ports import Store, Transaction
from ostiary_auth.domain.revocation.log import RevocationLog
from ostiary_auth.domain.revocation.model import RevokedNumbers
from ostiary_auth.domain.sessions.model import BrowserGrant, Entitlement, Grant, Session
from ostiary_auth.domain.sessions.service import Sessions
from ostiary_auth.domain.sessions.session_secrets import SessionProof

AnyGrant = TypeVar("AnyGrant", bound=Entitlement)


@dataclass(frozen=True, slots=True)
class Login(Generic[AnyGrant]):
    """A successful login. `device_token` is for a device that was not known before."""

    grant: AnyGrant
    device_token: str | None


@dataclass(frozen=True, slots=True)
class PasswordChange:
    """A changed password: what it revoked, and the browser's new secret if it has proven its session."""

    revoked: RevokedNumbers
    grant: BrowserGrant | None


@dataclass(frozen=True, slots=True)
class Export:
    """Everything stored about a user, without secrets."""

    user: User
    sessions: list[Session]
    audit: list[AuditEntry]


class Accounts:
    """Registers, authenticates and manages users."""

    def __init__(
        self,
        store: Store,
        audit: AuditLog,
        revocations: RevocationLog,
        sessions: Sessions,
        *,
        hasher: PasswordHasher,
        devices: DeviceTokens,
        rules: AccountRules,
        check_token_size: Callable[[tuple[str, ...]], None] = lambda _roles: None,
    ) -> None:
        """`check_token_size` raises TokenTooLarge for roles with which a user could not log in with a browser."""
        self._store = store
        self._audit = audit
        self._revocations = revocations
        self._sessions = sessions
        self._hasher = hasher
        self._devices = devices
        self._rules = rules
        self._check_token_size = check_token_size
        self.refunds = Refunds()
        self.erasure = Erasure(store, sessions.clock)

    async def register(self, email: str, password: str, display_name: str | None, context: Context) -> User:
        """Register a user.

        Raises InvalidEmail, InvalidName, UnacceptablePassword, EmailTaken, TooManyAttempts or HashingOverloaded.
        """
        return await self._open(
            Event.USER_REGISTERED,
            email,
            password,
            display_name=display_name,
            roles=("user",),
            keys=registration_keys(context.source),
            context=context,
        )

    async def create(
        self, email: str, password: str, display_name: str | None, roles: tuple[str, ...], context: Context
    ) -> User:
        """Create an account on behalf of an administrator.

        Raises InvalidEmail, InvalidName, UnacceptablePassword, EmailTaken, UnknownRole, TokenTooLarge or
        HashingOverloaded.
        """
        return await self._open(
            Event.USER_CREATED,
            email,
            password,
            display_name=display_name,
            roles=self._accept_roles(roles),
            keys={},
            context=context,
        )

    async def log_in(
        self, email: str, password: str, device_token: str | None, client_id: str, context: Context
    ) -> Login[Grant]:
        """Authenticate a user and open a session. Raises InvalidCredentials, TooManyAttempts or HashingOverloaded."""

        async def open_session(transaction: Transaction, user: User) -> Grant:
            return await self._sessions.open(transaction, user, client_id, context)

        return await self._log_in(email, password, device_token, context, open_session)

    async def log_in_with_browser(
        self,
        email: str,
        password: str,
        device_token: str | None,
        client_id: str,
        context: Context,
        *,
        persistent: bool,
        replaced: SessionProof | None,
    ) -> Login[BrowserGrant]:
        """Authenticate a user and open a session in a browser, whose previous one ends.

        Raises InvalidCredentials, TooManyAttempts or HashingOverloaded.
        """

        async def open_session(transaction: Transaction, user: User) -> BrowserGrant:
            return await self._sessions.open_in_browser(
                transaction, user, client_id, context, persistent=persistent, replaced=replaced
            )

        return await self._log_in(email, password, device_token, context, open_session)

    async def _log_in(
        self,
        email: str,
        password: str,
        device_token: str | None,
        context: Context,
        open_session: Callable[[Transaction, User], Awaitable[AnyGrant]],
    ) -> Login[AnyGrant]:
        """Authenticate a user and open a session.

        An unknown address takes the same steps as a wrong password or a disabled account, so that neither the response
        nor its time reveals which accounts exist.
        """
        candidate = password_policy.normalise(password)
        async with self._hasher.turn(Purpose.LOGIN, context.source):
            key = _key_of_candidate(email)
            async with self._store.write() as transaction:
                user = await transaction.users.by_email_key(key)
                device_id = self._devices.recognise(device_token, user.id if user else None)
                keys = login_keys(key, context.source, device_id)
                await self._count_attempt(transaction, keys, context)
            with self.refunds.unless_judged(keys):
                matches = await self._hasher.verify(user.password_hash if user else None, candidate)
            if user is None or not matches or user.disabled_at is not None:
                await self._record_failure(Event.LOGIN_FAILED, user, context)
                raise InvalidCredentials
            with self.refunds.unless_judged(keys):
                rehashed = await self._rehash(user, candidate)
        async with self._admit(user, keys, context, InvalidCredentials) as (transaction, current):
            if rehashed is not None:
                await transaction.users.replace(replace(current, password_hash=rehashed))
            grant = await open_session(transaction, current)
            subject, facts = user_actor(user.id), {"session_id": str(grant.session.id)}
            await self._audit.record(transaction, context, Event.LOGIN_SUCCEEDED, subject=subject, facts=facts)
        return Login(grant, None if device_id else self._devices.issue(user.id))

    async def change_password(
        self,
        user_id: UUID,
        session_id: UUID,
        current_password: str,
        new_password: str,
        context: Context,
        *,
        proof: SessionProof | None = None,
    ) -> PasswordChange:
        """Change a user's password and end their other sessions. A browser's session goes on with a new secret.

        Raises WrongPassword (also for a disabled user), UnacceptablePassword, TooManyAttempts, UserNotFound or
        HashingOverloaded.
        """
        user = await self.get(user_id)
        new = self._accept_password(new_password, user.email, user.display_name)
        async with self._hasher.turn(Purpose.LOGIN, context.source):
            keys = reauthentication_keys(user_id)
            async with self._store.write() as transaction:
                await self._count_attempt(transaction, keys, context)
            with self.refunds.unless_judged(keys):
                matches = await self._hasher.verify(user.password_hash, password_policy.normalise(current_password))
            if not matches:
                await self._record_failure(Event.PASSWORD_CHECK_FAILED, user, context)
                raise WrongPassword
            with self.refunds.unless_judged(keys):
                hashed = await self._hasher.hash(new)
        async with self._admit(user, keys, context, WrongPassword) as (transaction, current):
            await transaction.users.replace(replace(current, password_hash=hashed))
            revoked, grant = await self._sessions.keep_one_of(transaction, current, session_id, proof, context)
            subject = user_actor(user_id)
            await self._audit.record(transaction, context, Event.USER_PASSWORD_CHANGED, subject=subject)
        return PasswordChange(revoked, grant)

    async def get(self, user_id: UUID) -> User:
        """Return a user. Raises UserNotFound."""
        async with self._store.read() as transaction:
            user = await transaction.users.get(user_id)
        if user is None:
            raise UserNotFound
        return user

    async def find(self, email: str) -> User:
        """Return the user with this address. Raises UserNotFound."""
        async with self._store.read() as transaction:
            user = await transaction.users.by_email_key(_key_of_candidate(email))
        if user is None:
            raise UserNotFound
        return user

    async def page(self, after: UUID | None, limit: int) -> list[User]:
        """Return users with ids over `after`, in order."""
        async with self._store.read() as transaction:
            return await transaction.users.page(after, limit)

    async def disable(self, user_id: UUID, context: Context) -> RevokedNumbers:
        """Disable a user and end their sessions. Raises UserNotFound."""
        async with self._change(user_id) as (transaction, user):
            revoked = await self._sessions.end_all_of(transaction, user_id, "user_disabled", context)
            if user.disabled_at is None:
                await transaction.users.replace(replace(user, disabled_at=context.now))
                await self._audit.record(transaction, context, Event.USER_DISABLED, subject=user_actor(user_id))
        return revoked

    async def enable(self, user_id: UUID, context: Context) -> None:
        """Enable a disabled user. Raises UserNotFound."""
        async with self._change(user_id) as (transaction, user):
            if user.disabled_at is not None:
                await transaction.users.replace(replace(user, disabled_at=None))
                await self._audit.record(transaction, context, Event.USER_ENABLED, subject=user_actor(user_id))

    async def set_roles(self, user_id: UUID, roles: tuple[str, ...], context: Context) -> RevokedNumbers:
        """Replace a user's roles and revoke their access tokens; sessions continue.

        Raises UserNotFound, UnknownRole or TokenTooLarge.
        """
        accepted = self._accept_roles(roles)
        async with self._change(user_id) as (transaction, user):
            if user.roles == accepted:
                return ()
            await transaction.users.replace(replace(user, roles=accepted))
            revoked = await self._revocations.revoke(transaction, context, Kind.SUBJECT, str(user_id))
            subject, facts = user_actor(user_id), {"roles": list(accepted)}
            await self._audit.record(transaction, context, Event.USER_ROLES_CHANGED, subject=subject, facts=facts)
        return revoked

    async def end_sessions(self, user_id: UUID, context: Context) -> RevokedNumbers:
        """End all sessions of a user. Raises UserNotFound."""
        async with self._change(user_id) as (transaction, _user):
            return await self._sessions.end_all_of(transaction, user_id, "ended_by_admin", context)

    async def delete(self, user_id: UUID, context: Context) -> RevokedNumbers:
        """Delete a user and their personal data, also that in the audit log. Raises UserNotFound.

        Nobody finds them from then on. What they leave is removed now if it is not much, and else in the background.
        """
        async with self._change(user_id) as (transaction, _user):
            revoked = await self._sessions.end_all_of(transaction, user_id, "user_deleted", context)
            await self._audit.record(transaction, context, Event.USER_DELETED, subject=user_actor(user_id))
            await transaction.users.mark_deleted(user_id, context.now)
        await self.erasure.begin(user_id)
        return revoked

    async def export(self, user_id: UUID, context: Context) -> Export:
        """Return everything stored about a user. Raises UserNotFound."""
        async with self._change(user_id) as (transaction, user):
            sessions = await transaction.sessions.all_of(user_id)
            about = await transaction.audit.entries_about(user_actor(user_id))
            # Personal data in entries by others is about those others.
            own = {user_actor(user_id), *SELF_SERVICE_ACTORS}
            audit = [entry if entry.actor in own else replace(entry, personal=None) for entry in about]
            await self._audit.record(transaction, context, Event.USER_EXPORTED, subject=user_actor(user_id))
        return Export(user, sessions, audit)

    async def _open(
        self,
        event: Event,
        email: str,
        password: str,
        *,
        display_name: str | None,
        roles: tuple[str, ...],
        keys: Keys,
        context: Context,
    ) -> User:
        """Create an account, after its attempt has been counted for these keys."""
        name = accept_name(display_name)
        address = accept_email(email, self._rules.special_domains)
        key = email_key(address)
        accepted = self._accept_password(password, address, display_name)
        async with self._hasher.turn(Purpose.REGISTRATION, context.source):
            if keys:
                async with self._store.write() as transaction:
                    await self._count_attempt(transaction, keys, context)
            with self.refunds.unless_judged(keys):
                hashed = await self._hasher.hash(accepted)
        user = User(
            id=uuid4(),
            email=address,
            email_key=key,
            display_name=name,
            password_hash=hashed,
            roles=roles,
            disabled_at=None,
            created_at=context.now,
        )
        with self.refunds.unless_judged(keys):
            async with self._store.queue() as transaction:
                await transaction.users.add(user)
                subject, facts = user_actor(user.id), {"roles": list(roles)}
                await self._audit.record(transaction, context, event, subject=subject, facts=facts)
        return user

    def _accept_roles(self, roles: tuple[str, ...]) -> tuple[str, ...]:
        accepted = accept_roles(roles)
        self._check_token_size(accepted)
        return accepted

    def _accept_password(self, password: str, email: str, display_name: str | None) -> str:
        about = (email, email.partition("@")[0], display_name or "")
        return password_policy.accept(password, minimum=self._rules.min_password_characters, about=about)

    async def _rehash(self, user: User, password: str) -> str | None:
        """Return a new hash if the stored one has outdated parameters."""
        return await self._hasher.hash(password) if self._hasher.needs_rehash(user.password_hash) else None

    async def _count_attempt(self, transaction: Transaction, keys: Keys, context: Context) -> None:
        await self.refunds.pay(transaction, keys, context.now)
        await count_attempt(transaction, keys, context.now)

    async def _record_failure(self, event: Event, user: User | None, context: Context) -> None:
        async with self._store.queue() as transaction:
            # A user who was deleted meanwhile must not reappear in the log.
            known = user is not None and await transaction.users.get(user.id) is not None
            subject = user_actor(user.id) if user and known else None
            await self._audit.record(transaction, context, event, subject=subject)

    @asynccontextmanager
    async def _admit(
        self, user: User, keys: Keys, context: Context, rejection: type[AuthError]
    ) -> AsyncIterator[tuple[Transaction, User]]:
        """Begin the transaction after a correct password. Raises `rejection` if the account has changed meanwhile."""
        with self.refunds.unless_judged(keys):
            async with self._store.queue() as transaction:
                current = await transaction.users.lock(user.id)
                if current is None or current.disabled_at is not None or current.password_hash != user.password_hash:
                    raise rejection
                await forgive(transaction, keys, context.now)
                yield transaction, current

    @asynccontextmanager
    async def _change(self, user_id: UUID) -> AsyncIterator[tuple[Transaction, User]]:
        async with self._store.queue() as transaction:
            user = await transaction.users.lock(user_id)
            if user is None:
                raise UserNotFound
            yield transaction, user


def _key_of_candidate(email: str) -> str:
    """Return the key of a claimed address; an invalid one has a key that no account has."""
    with suppress(InvalidEmail):
        return email_key(parse_email(email))
    return f"invalid:{email}"
