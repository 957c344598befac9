"""What the domain requires of its storage: transactions, and in each of them the rows of one subject.

Rows returned by methods named `lock...` cannot be changed by other transactions until this one ends.
"""

from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime, timedelta
from typing import Protocol
from uuid import UUID

from ostiary.feed import Kind
from ostiary_auth.domain.accounts.attempts import Counter
from ostiary_auth.domain.accounts.model import User
from ostiary_auth.domain.audit.model import AuditEntry, AuditHead
from ostiary_auth.domain.clock import Reading
from ostiary_auth.domain.keys.model import StoredKey
from ostiary_auth.domain.oauth.model import Client
from ostiary_auth.domain.revocation.model import Entry, EntryColumns, LoggedRevocation, LogHead, RegisteredVerifier
from ostiary_auth.domain.sessions.model import Chain, EndReason, Entitlement, RefreshToken, Session, SessionEnd
from ostiary_auth.domain.sessions.session_secrets import SessionProof


class UserRows(Protocol):
    """Users."""

    async def add(self, user: User) -> None:
        """Insert a user. Raises EmailTaken."""

    async def get(self, user_id: UUID) -> User | None: ...

    async def lock(self, user_id: UUID) -> User | None: ...

    async def by_email_key(self, email_key: str) -> User | None: ...

    async def page(self, after: UUID | None, limit: int) -> list[User]:
        """Return users with ids over `after`, in order."""

    async def replace(self, user: User) -> None: ...

    async def mark_deleted(self, user_id: UUID, now: datetime) -> None:
        """Overwrite a locked user's data. No other method finds them any more, and their address is free."""

    async def deleted(self, limit: int) -> list[UUID]:
        """Return the ids of users who are marked as deleted."""

    async def remove_deleted(self, user_id: UUID) -> None:
        """Delete the row of a user who is marked as deleted, unless sessions of theirs are left."""


class SessionRows(Protocol):
    """Sessions and their refresh tokens."""

    async def add(self, session: Session, ends_at: datetime) -> None:
        """Add a session that ends then unless it is used."""

    async def all_of(self, user_id: UUID) -> list[Session]:
        """Return all stored sessions of a user."""

    async def not_ended(self, user_id: UUID, now: datetime) -> list[Session]:
        """Return a user's sessions that have neither been ended nor reached their absolute limit."""

    async def count_not_ended(self, user_id: UUID, now: datetime) -> int:
        """Return the number of those."""

    async def lock_not_ended(self, user_id: UUID, now: datetime) -> list[Session]: ...

    async def is_open(self, session_id: UUID, now: datetime) -> bool:
        """Return whether a session has neither been ended nor reached its absolute limit."""

    async def lock(self, session_ids: Collection[UUID]) -> list[Session]: ...

    async def end(self, ends: Collection[SessionEnd]) -> None:
        """Mark locked sessions as ended."""

    async def end_all(self, reason: EndReason, now: datetime) -> int:
        """End all sessions of all users that have not ended; return how many."""

    async def add_refresh_token(self, token: RefreshToken, ends_at: datetime) -> None:
        """Add the token of a session that ends then unless it is used."""

    async def lock_chain(self, token_hash: bytes) -> Chain | None:
        """Return the refresh token with this hash, with its session and user."""

    async def of_refresh_token(self, token_hash: bytes) -> Session | None:
        """Return the session of the refresh token with this hash."""

    async def successors(self, token: RefreshToken, limit: int) -> list[RefreshToken]:
        """Return up to `limit` tokens that followed one, in order."""

    async def get(self, session_id: UUID) -> Session | None: ...

    async def set_secret(self, session_id: UUID, secret_hash: bytes) -> None: ...

    async def lock_proven(self, proof: SessionProof) -> Session | None:
        """Return a browser's session that has this secret."""

    async def use(
        self, proofs: Collection[SessionProof], idle: timedelta, now: datetime
    ) -> dict[SessionProof, Entitlement]:
        """Update the last use of browsers' sessions and return what their next access tokens state.

        Of those only that have this secret, are alive for another second, and belong to an enabled user. What is
        returned is of one moment, at which none was changed that has changed since it was locked.
        """

    async def remove_some(self, user_id: UUID, limit: int) -> int:
        """Delete up to `limit` of a user's refresh tokens and sessions; return how many."""

    async def rotate(
        self, used: bytes, nonce: bytes, successor: RefreshToken, *, next_rotation_at: datetime, ends_at: datetime
    ) -> None:
        """Mark a token as used, insert its successor, and update the session, last used at the successor's time.

        The session now ends at `ends_at` unless it is used.
        """


class KeyRows(Protocol):
    """Signing keys and other secrets of the service, all sealed."""

    async def all(self) -> list[StoredKey]:
        """Return all keys, the newest first."""

    async def add(self, key: StoredKey) -> None: ...

    async def replace(self, key: StoredKey) -> None: ...

    async def remove(self, kid: str) -> None: ...

    async def secrets(self) -> dict[str, bytes]:
        """Return all sealed secrets by name."""

    async def put_secret(self, name: str, sealed: bytes) -> None:
        """Insert or replace a sealed secret."""


class ClientRows(Protocol):
    """OAuth clients."""

    async def add(self, client: Client) -> None:
        """Insert a client. Raises ClientTaken."""

    async def get(self, client_id: str) -> Client | None: ...

    async def lock(self, client_id: str) -> Client | None: ...

    async def page(self, after: str | None, limit: int) -> list[Client]:
        """Return clients with ids over `after`, in order."""

    async def replace(self, client: Client) -> None: ...

    async def delete(self, client_id: str) -> None: ...

    async def use_assertion(self, assertion_hash: bytes, expires_at: datetime) -> bool:
        """Store that an assertion was used; return False if it was stored already."""


class AuditRows(Protocol):
    """The audit log. Appends of all replicas serialise, together with those to the revocation log."""

    async def lock_head(self) -> AuditHead:
        """Return the head, and keep others from appending until the end of the transaction."""

    def add(self, entry: AuditEntry) -> None:
        """Append an entry at the commit, after `lock_head`."""

    async def entries(self, after: int, limit: int, subject: str | None = None) -> list[AuditEntry]:
        """Return entries with numbers over `after`, in order."""

    async def last_before(self, at: datetime, limit: int) -> AuditEntry | None:
        """Return the last entry before the first one of this time or later, with a number below `limit`."""

    async def checkpoints(self, event: str) -> list[AuditEntry]:
        """Return all entries that say how far the log was trimmed, or verified, in order."""

    async def remove_through(self, number: int, limit: int) -> int:
        """Delete up to `limit` of the entries up to a number, in order; return how many."""

    async def entries_about(self, actor: str) -> list[AuditEntry]:
        """Return all entries with this subject or actor, in order."""

    async def with_personal(self, actor: str, limit: int) -> list[int]:
        """Return numbers of entries with personal data by this actor, or about them by `SELF_SERVICE_ACTORS`."""

    async def erase_personal(self, numbers: Sequence[int]) -> None:
        """Erase the personal data in entries."""


class RevocationRows(Protocol):
    """The revocation log. Appends of all replicas serialise, together with those to the audit log."""

    async def head(self) -> LogHead: ...

    async def lock_head(self) -> LogHead:
        """Return the head, and keep others from appending until the end of the transaction."""

    def add(self, logged: LoggedRevocation) -> None:
        """Append an entry at the commit, after `lock_head`; replicas are notified then."""

    async def restart(self, epoch: str, number: int) -> list[LoggedRevocation]:
        """Rename the log, continue after `number`, and remove all entries, after `lock_head`. Return those of keys."""

    async def after(self, number: int, head: int, limit: int) -> list[LoggedRevocation]:
        """Return stored entries with numbers over `number` and up to `head`, in order."""

    async def entries(self, number: int, head: int, limit: int) -> list[Entry]:
        """Return the same, as far as it is published."""

    def columns(self, number: int, head: int, span: int) -> AsyncGenerator[EntryColumns, None]:
        """Yield the same, in parts that do not reach over a multiple of `span`. Each is read while one is used."""

    async def of(self, targets: Mapping[Kind, str]) -> list[LoggedRevocation]:
        """Return the entries about these targets, given by kind."""


class EventReceiverRows(Protocol):
    """Receivers of security events."""

    async def acknowledged(self, client_id: str) -> int:
        """Return the number of the last revocation that a receiver has acknowledged; 0 if it has none."""

    async def acknowledge(self, client_id: str, number: int) -> None:
        """Store that a receiver has acknowledged all revocations up to `number`."""


class VerifierRows(Protocol):
    """Verifiers that follow the revocation feed: a row for each replica that one polls."""

    async def put(self, changed: Collection[RegisteredVerifier]) -> None:
        """Insert or update rows, of one replica."""

    async def update(self, changed: Collection[RegisteredVerifier]) -> None:
        """Update rows, of one replica. Missing ones are not inserted."""

    async def all(self) -> list[RegisteredVerifier]: ...

    async def live(self, now: datetime) -> list[RegisteredVerifier]:
        """Return the verifiers that may be accepting tokens; one that polls several replicas, once for each."""

    async def remove(self, verifier_ids: Collection[str], replica: str | None = None) -> None:
        """Delete the rows of verifiers, all or those of one replica."""


class TimeRows(Protocol):
    """The database's clock, and the latest time that it is known to have shown."""

    async def read(self) -> Reading: ...

    async def lock(self) -> Reading: ...

    async def advance(self, latest: datetime) -> None:
        """Store a later time; an earlier one changes nothing."""

    async def put_back(self, latest: datetime) -> None:
        """Store an earlier time, after `lock`."""


class ThrottleRows(Protocol):
    """Attempt counters."""

    async def lock(self, keys: Sequence[bytes], now: datetime) -> dict[bytes, Counter]:
        """Return the counters with these keys, which are sorted. Missing ones are inserted with no attempts."""

    async def put(self, counters: Mapping[bytes, Counter]) -> None:
        """Update locked counters."""

    async def forget(self, keys: Sequence[bytes]) -> None: ...


class Transaction(Protocol):
    """A transaction: everything in it is committed at its end, or nothing."""

    @property
    def users(self) -> UserRows: ...

    @property
    def sessions(self) -> SessionRows: ...

    @property
    def keys(self) -> KeyRows: ...

    @property
    def clients(self) -> ClientRows: ...

    @property
    def audit(self) -> AuditRows: ...

    @property
    def revocations(self) -> RevocationRows: ...

    @property
    def event_receivers(self) -> EventReceiverRows: ...

    @property
    def throttles(self) -> ThrottleRows: ...

    @property
    def verifiers(self) -> VerifierRows: ...

    @property
    def time(self) -> TimeRows: ...

    def on_commit(self, work: Callable[[], None]) -> None:
        """Call `work` after the commit, and not after a rollback."""

    def on_rollback(self, work: Callable[[], None]) -> None:
        """Call `work` if the transaction is not committed, or nobody knows whether it is."""

    async def lock(self, name: str) -> None:
        """Hold an exclusive lock over all replicas until the end of the transaction."""

    async def prune(self, now: datetime, *, idle: timedelta, limit: int) -> int:
        """Delete rows that are no longer needed. Return how many were looked at: up to `limit`, fewer if none is left.

        `idle` is how long a session may go unused.
        """


class Store(Protocol):
    """The source of transactions."""

    def read(self) -> AbstractAsyncContextManager[Transaction]:
        """Begin a read-only transaction."""

    def follow(self) -> AbstractAsyncContextManager[Transaction]:
        """Begin to read what is committed, without a transaction, on a connection that is kept for that."""

    def write(self) -> AbstractAsyncContextManager[Transaction]:
        """Begin a transaction that is committed at its end, or rolled back by an exception."""

    def queue(self) -> AbstractAsyncContextManager[Transaction]:
        """Begin such a transaction that appends to a log, for which it may have to wait.

        Only a few of this process do so at once, so that all others find a connection.
        """
