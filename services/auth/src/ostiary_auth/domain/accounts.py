"""Accounts: who somebody is and what they may do."""

import unicodedata
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID, uuid4

import structlog
from email_validator import EmailNotValidError, validate_email

from ostiary_auth.domain.errors import HashingOverloaded, InvalidCredentials, InvalidEmail, UnacceptablePassword
from ostiary_auth.domain.passwords import PasswordHasher
from ostiary_auth.domain.store import Store

_log = structlog.stdlib.get_logger("accounts")

#: Characters of an address with its case and compatible characters folded; some become eighteen.
MAX_EMAIL_KEY_CHARACTERS = 640

#: Characters of a password (NIST SP 800-63B-4 section 3.1.1.2: at least 8, and at least 64 allowed).
MIN_PASSWORD_CHARACTERS = 8
MAX_PASSWORD_CHARACTERS = 256

#: Scopes that come with a role. Who has no account role has no scopes.
SCOPES_OF_ROLE = {
    "user": ("profile:read", "profile:write"),
    "admin": ("profile:read:any",),
}


@dataclass(frozen=True, slots=True)
class User:
    """An account. `email_key` is what makes two spellings of one address the same account."""

    id: UUID
    email: str
    email_key: str
    display_name: str | None
    password_hash: str
    roles: tuple[str, ...]
    disabled_at: datetime | None
    created_at: datetime

    @property
    def scopes(self) -> tuple[str, ...]:
        """Return the scopes of the user's roles, sorted."""
        return tuple(sorted({scope for role in self.roles for scope in SCOPES_OF_ROLE.get(role, ())}))


class Accounts:
    """Registers people and recognises them."""

    def __init__(self, store: Store, hasher: PasswordHasher) -> None:
        """Keep accounts in `store`."""
        self._store = store
        self._hasher = hasher

    async def register(self, email: str, password: str, display_name: str | None, now: datetime) -> User:
        """Open an account.

        Raises InvalidEmail, UnacceptablePassword, EmailTaken or HashingOverloaded.
        """
        address = _parse_email(email)
        key = _email_key(address)
        hashed = await self._hasher.hash(_accept_password(password))
        user = User(
            id=uuid4(),
            email=address,
            email_key=key,
            display_name=display_name,
            password_hash=hashed,
            roles=("user",),
            disabled_at=None,
            created_at=now,
        )
        async with self._store.write() as transaction:
            await transaction.add_user(user)
        _log.info("user registered", user_id=str(user.id))
        return user

    async def authenticate(self, email: str, password: str) -> User:
        """Return the user with this address and password.

        An unknown address costs the same work as a wrong password, so that timing does not tell
        who has an account. Raises InvalidCredentials or HashingOverloaded.
        """
        user = await self._find(email)
        candidate = _normalise_password(password)
        matches = await self._hasher.verify(user.password_hash if user else None, candidate)
        if user is None or not matches or user.disabled_at is not None:
            _log.info("login refused", user_id=str(user.id) if user else None)
            raise InvalidCredentials
        if self._hasher.needs_rehash(user.password_hash):
            await self._rehash(user, candidate)
        return user

    async def _rehash(self, user: User, password: str) -> None:
        """Hash a password anew with today's parameters; if that cannot be done now, at the next login."""
        with suppress(HashingOverloaded):
            hashed = await self._hasher.hash(password)
            async with self._store.write() as transaction:
                await transaction.replace_password_hash(user.id, user.password_hash, hashed)

    async def _find(self, email: str) -> User | None:
        try:
            key = _email_key(_parse_email(email))
        except InvalidEmail:
            return None
        async with self._store.read() as transaction:
            return await transaction.user_by_email_key(key)


def _parse_email(email: str) -> str:
    try:
        return validate_email(email, check_deliverability=False, allow_smtputf8=True).normalized
    except EmailNotValidError:
        raise InvalidEmail from None


def _email_key(address: str) -> str:
    """Fold case and compatible characters: mailboxes that differ only there belong to one person in practice.

    Raises InvalidEmail for an address that folds into none.
    """
    key = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", address).casefold())
    if len(key) > MAX_EMAIL_KEY_CHARACTERS or key.count("@") != 1:
        raise InvalidEmail
    return key


def _normalise_password(password: str) -> str:
    """Bring different encodings of the same characters together (NIST SP 800-63B-4 section 3.1.1.2: NFKC)."""
    return unicodedata.normalize("NFKC", password)


def _accept_password(password: str) -> str:
    """Return the password, normalised. Length is the only rule; every kind of character is welcome."""
    normalised = _normalise_password(password)
    if len(normalised) < MIN_PASSWORD_CHARACTERS:
        raise UnacceptablePassword(f"The password must have at least {MIN_PASSWORD_CHARACTERS} characters.")
    if len(normalised) > MAX_PASSWORD_CHARACTERS:
        raise UnacceptablePassword(f"The password must have at most {MAX_PASSWORD_CHARACTERS} characters.")
    return normalised
