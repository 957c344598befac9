"""What the domain requires of its storage: transactions, and in each of them the rows of one subject.

Rows returned by methods named `lock...` cannot be changed by other transactions until this one ends.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime, timedelta
from typing import Protocol
from uuid import UUID

from ostiary.feed import Kind
from ostiary_auth.domain.accounts.attempts import Counter
from ostiary_auth.domain.accounts.model import User
from ostiary_auth.domain.audit.model import AuditEntry
from ostiary_auth.domain.keys.model import StoredKey
from ostiary_auth.domain.oauth.model import Client
from ostiary_auth.domain.revocation.model import LoggedRevocation, LogHead, RegisteredVerifier
from ostiary_auth.domain.sessions.model import Chain, EndReason, RefreshToken, Session


class UserRows(Protocol):
    """Users."""

    async def add(self, user: User) -> None:
        """Add a user. Raises EmailTaken."""

    async def get(self, user_id: UUID) -> User | None:
        """Return a user."""

    async def lock(self, user_id: UUID) -> User | None:
        """Return a user, and let nobody else change them until the end."""

    async def by_email_key(self, email_key: str) -> User | None:
        """Return the user with this key."""

    async def page(self, after: UUID | None, limit: int) -> list[User]:
        """Return users in the order of their ids."""

    async def replace(self, user: User) -> None:
        """Store a user anew."""

    async def delete(self, user_id: UUID) -> None:
        """Delete a user with their sessions."""


class SessionRows(Protocol):
    """Sessions and their refresh tokens."""

    async def add(self, session: Session) -> None:
        """Add a session."""

    async def all_of(self, user_id: UUID) -> list[Session]:
        """Return all sessions of a user that are still stored."""

    async def not_ended(self, user_id: UUID, now: datetime) -> list[Session]:
        """Return the sessions of a user that have neither been ended nor reached their absolute limit."""

    async def count_not_ended(self, user_id: UUID, now: datetime) -> int:
        """Return how many those are."""

    async def lock_not_ended(self, user_id: UUID, now: datetime) -> list[Session]:
        """Return the sessions that have not ended, and let nobody else change them until the end."""

    async def is_open(self, session_id: UUID, now: datetime) -> bool:
        """Return whether a session has neither been ended nor reached its absolute limit."""

    async def end(self, session_id: UUID, reason: EndReason, now: datetime) -> None:
        """Mark a session as ended."""

    async def add_refresh_token(self, token: RefreshToken) -> None:
        """Add a refresh token."""

    async def lock_chain(self, token_hash: bytes) -> Chain | None:
        """Return the refresh token with this hash and what belongs to it, whose session nobody else may touch."""

    async def rotate(self, used: bytes, nonce: bytes, successor: RefreshToken) -> None:
        """Mark a token as used, add its successor, and note the session's use; all at the successor's creation time."""


class KeyRows(Protocol):
    """Signing keys, and other secrets of the service itself; all sealed."""

    async def all(self) -> list[StoredKey]:
        """Return all keys, the newest first."""

    async def add(self, key: StoredKey) -> None:
        """Add a key."""

    async def replace(self, key: StoredKey) -> None:
        """Store a key anew."""

    async def remove(self, kid: str) -> None:
        """Delete a key."""

    async def secrets(self) -> dict[str, bytes]:
        """Return all sealed secrets by their names."""

    async def put_secret(self, name: str, sealed: bytes) -> None:
        """Store a sealed secret, in place of one with the same name."""


class ClientRows(Protocol):
    """OAuth clients."""

    async def add(self, client: Client) -> None:
        """Add a client. Raises ClientTaken."""

    async def get(self, client_id: str) -> Client | None:
        """Return a client."""

    async def lock(self, client_id: str) -> Client | None:
        """Return a client, and let nobody else change it until the end."""

    async def page(self, after: str | None, limit: int) -> list[Client]:
        """Return clients in the order of their ids."""

    async def replace(self, client: Client) -> None:
        """Store a client anew."""

    async def delete(self, client_id: str) -> None:
        """Delete a client."""

    async def use_assertion(self, assertion_hash: bytes, expires_at: datetime) -> bool:
        """Note the use of an assertion; return False if it has been used before."""


class AuditRows(Protocol):
    """The audit log. Appends of all replicas serialise, together with those to the revocation log."""

    async def last_entry(self) -> AuditEntry | None:
        """Return the last entry, and keep others from appending until the end of the transaction."""

    async def add_entry(self, entry: AuditEntry, mac: bytes) -> None:
        """Append an entry with this MAC."""

    async def entries(self, after: int, limit: int, subject: str | None = None) -> list[AuditEntry]:
        """Return entries with numbers over `after`, in order."""

    async def entries_about(self, actor: str) -> list[AuditEntry]:
        """Return all entries with this subject or actor, in order."""

    async def erase_personal(self, actor: str) -> None:
        """Erase the personal data in entries by this actor, and in those about them by `SELF_SERVICE_ACTORS`."""


class RevocationRows(Protocol):
    """The revocation log. Appends of all replicas serialise, together with those to the audit log."""

    async def head(self) -> LogHead: ...

    async def lock_head(self) -> LogHead:
        """Return the head, and keep others from appending until the end of the transaction."""

    async def add(self, logged: LoggedRevocation) -> None:
        """Append an entry, after `lock_head`; replicas are notified when it is committed."""

    async def restart(self, epoch: str, number: int) -> None:
        """Rename the log and continue after `number`, after `lock_head`."""

    async def after(self, number: int, head: int, limit: int) -> list[LoggedRevocation]:
        """Return stored entries with numbers over `number` and up to `head`, in order."""

    async def of(self, targets: Mapping[Kind, str]) -> list[LoggedRevocation]:
        """Return the entries about these targets."""


class EventReceiverRows(Protocol):
    """Receivers of security events."""

    async def acknowledged(self, client_id: str) -> int:
        """Return the number of the last revocation that a receiver has acknowledged; 0 if it has none."""

    async def acknowledge(self, client_id: str, number: int) -> None:
        """Store that a receiver has acknowledged all revocations up to `number`."""


class VerifierRows(Protocol):
    """Verifiers that follow the revocation log, over all replicas."""

    async def put(self, changed: Collection[RegisteredVerifier]) -> None:
        """Store verifiers, new or known."""

    async def live(self, now: datetime) -> list[RegisteredVerifier]:
        """Return the verifiers that may be accepting tokens."""

    async def remove(self, verifier_id: str) -> None:
        """Forget a verifier that has ended."""


class ThrottleRows(Protocol):
    """Counters of attempts."""

    async def lock(self, keys: Sequence[bytes], now: datetime) -> dict[bytes, Counter]:
        """Return the counters with these keys, which are in order, and let nobody else touch them until the end.

        One that was not there is there afterwards, with nothing counted.
        """

    async def put(self, counters: Mapping[bytes, Counter]) -> None:
        """Store counters that have been locked."""

    async def forget(self, keys: Sequence[bytes]) -> None:
        """Delete counters."""


class Transaction(Protocol):
    """One transaction; what it did counts when it ends, all of it or nothing."""

    @property
    def users(self) -> UserRows:
        """Users."""

    @property
    def sessions(self) -> SessionRows:
        """Sessions and refresh tokens."""

    @property
    def keys(self) -> KeyRows:
        """Signing keys and secrets."""

    @property
    def clients(self) -> ClientRows:
        """OAuth clients."""

    @property
    def audit(self) -> AuditRows: ...

    @property
    def revocations(self) -> RevocationRows: ...

    @property
    def event_receivers(self) -> EventReceiverRows: ...

    @property
    def throttles(self) -> ThrottleRows:
        """Counters of attempts."""

    @property
    def verifiers(self) -> VerifierRows:
        """Verifiers that follow the revocation log."""

    def on_commit(self, work: Callable[[], None]) -> None:
        """Do something when the transaction has been committed, and not if it is rolled back."""

    async def lock(self, name: str) -> None:
        """Let only one transaction past here, over all replicas, until it ends."""

    async def prune(self, now: datetime, *, idle: timedelta, limit: int) -> int:
        """Delete up to `limit` rows of each kind that nothing depends on any more; return how many."""


class Store(Protocol):
    """Where transactions come from."""

    def read(self) -> AbstractAsyncContextManager[Transaction]:
        """Begin a transaction that only reads."""

    def write(self) -> AbstractAsyncContextManager[Transaction]:
        """Begin a transaction that writes; an exception rolls it back."""
