"""Ended sessions as security event tokens (RFC 8417), for receivers that poll (RFC 8936).

This is a standard view of the revocation log, for programs that do not use our verifier. An event is CAEP's `session-
revoked`. What a receiver has acknowledged is stored as a position in the log; everything after it is delivered again.
"""

import asyncio
from collections.abc import Callable, Collection
from dataclasses import dataclass

from ostiary.feed import Kind
from ostiary_auth.domain.clock import Clock
from ostiary_auth.domain.keys.key_ring import KeyRing
from ostiary_auth.domain.ports import Store, Transaction
from ostiary_auth.domain.revocation.feed import RevocationFeed
from ostiary_auth.domain.revocation.model import LoggedRevocation

#: The scope that a receiver needs.
EVENTS_SCOPE = "events:read"

#: The event (OpenID CAEP 1.0 section 3.1), and the type of its token (RFC 8417 section 2.3).
SESSION_REVOKED = "https://schemas.openid.net/secevent/caep/event-type/session-revoked"
TYPE = "secevent+jwt"

#: Maximum number of events in a response; each is signed for its receiver.
MAX_EVENTS = 100

#: Log entries that are read at a time to find ended sessions.
_PAGE = 500


@dataclass(frozen=True, slots=True)
class Delivery:
    """Signed events by id, and whether there are more (RFC 8936 section 2.3)."""

    events: dict[str, str]
    more: bool


class SecurityEvents:
    """Delivers security events. `ring` returns the current keys."""

    def __init__(
        self, store: Store, feed: RevocationFeed, ring: Callable[[], KeyRing], issuer: str, clock: Clock
    ) -> None:
        self._store = store
        self._feed = feed
        self._ring = ring
        self._issuer = issuer
        self._clock = clock

    async def acknowledge(self, receiver: str, ids: Collection[str]) -> None:
        """Store that a receiver has processed these events, up to the first gap in them."""
        numbers = {number for number in map(self._number, ids) if number is not None}
        if not numbers:
            return
        async with self._store.write() as transaction:
            reached = known = await transaction.event_receivers.acknowledged(receiver)
            for logged in await self._sessions_after(transaction, known, len(numbers)):
                if logged.number not in numbers:
                    break
                reached = logged.number
            if reached > known:
                await transaction.event_receivers.acknowledge(receiver, reached)

    async def deliver(self, receiver: str, limit: int, seconds: float) -> Delivery:
        """Return unacknowledged events; wait for the first one for at most `seconds`."""
        deadline = self._clock.monotonic() + seconds
        while True:
            await self._feed.refresh()
            seen = self._feed.number
            async with self._store.read() as transaction:
                known = await transaction.event_receivers.acknowledged(receiver)
                found = await self._sessions_after(transaction, known, limit + 1)
            left = deadline - self._clock.monotonic()
            if found or limit == 0 or left <= 0 or self._feed.is_closed:
                # In a thread: a hundred signatures would block other requests.
                events = await asyncio.to_thread(self._sign_all, found[:limit], receiver)
                return Delivery(events, more=len(found) > limit)
            await self._feed.wait_for_changes(seen, self._ring().version, left)

    async def _sessions_after(self, transaction: Transaction, number: int, limit: int) -> list[LoggedRevocation]:
        """Return the first ended sessions after a number."""
        found: list[LoggedRevocation] = []
        head = await transaction.revocations.head()
        while len(found) < limit:
            page = await transaction.revocations.after(number, head.number, _PAGE)
            found += [logged for logged in page if logged.kind is Kind.SESSION]
            if len(page) < _PAGE:
                break
            number = page[-1].number
        return found[:limit]

    def _sign_all(self, found: list[LoggedRevocation], receiver: str) -> dict[str, str]:
        return {self._id(logged): self._sign(logged, receiver) for logged in found}

    def _id(self, logged: LoggedRevocation) -> str:
        return f"{self._feed.epoch}.{logged.number}"

    def _number(self, event_id: str) -> int | None:
        epoch, _, number = event_id.rpartition(".")
        is_ours = epoch == self._feed.epoch and number.isascii() and number.isdecimal() and len(number) < 20  # noqa: PLR2004 - digits
        return int(number) if is_ours else None

    def _sign(self, logged: LoggedRevocation, receiver: str) -> str:
        claims = {
            "iss": self._issuer,
            "aud": receiver,
            "iat": int(self._clock.now().timestamp()),
            "jti": self._id(logged),
            # RFC 9493 section 3.2.4; the session's id is the claim `sid` of its access tokens.
            "sub_id": {"format": "opaque", "id": logged.target},
            "events": {SESSION_REVOKED: {"event_timestamp": int(logged.at.timestamp())}},
        }
        return self._ring().signing.sign(TYPE, claims)
