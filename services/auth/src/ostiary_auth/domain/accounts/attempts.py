"""Throttles against guessing: attempts are counted before they are made, and cost a growing wait.

An attempt from a device that the account's owner has logged in with before (see `devices`) is counted for
that device alone. Every other attempt is counted for its source on this account, for its source, and for the
account. So whoever guesses, from one address or from many, makes the wait grow for strangers and never
for the owner on a device of theirs (NIST SP 800-63B-4 section 3.2.2 asks for both). An account that does not
exist is counted like one that does.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from ipaddress import IPv6Network, ip_address

#: Wait after the first attempt over the free ones; it doubles with each.
FIRST_WAIT = timedelta(seconds=1)


#: Attempts are forgotten when the last one is this long ago.
FORGOTTEN_AFTER = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Allowance:
    """Attempts that are free, and the longest wait after that."""

    free: int
    longest_wait: timedelta

    def wait(self, attempts: int) -> timedelta:
        """Return the wait after so many attempts."""
        over = attempts - self.free
        if over <= 0:
            return timedelta(0)
        # Above 2^20 s every wait is the longest one; the exponent stays small whatever the count.
        doublings = min(over - 1, 20)
        return min(FIRST_WAIT * (1 << doublings), self.longest_wait)


#: Attempts of one device, whose owner mistypes, or whose thief guesses.
DEVICE = Allowance(free=10, longest_wait=timedelta(minutes=5))

#: Attempts of one source on one account.
SOURCE_AND_ACCOUNT = Allowance(free=5, longest_wait=timedelta(minutes=5))

#: Attempts of one source on whatever account. Many people may share one.
SOURCE = Allowance(free=100, longest_wait=timedelta(minutes=1))

#: Attempts of all strangers on one account (NIST SP 800-63B-4 section 3.2.2: no more than 100).
ACCOUNT = Allowance(free=100, longest_wait=timedelta(minutes=5))

#: Checks of the current password by somebody who is logged in.
REAUTHENTICATION = Allowance(free=5, longest_wait=timedelta(minutes=5))


@dataclass(frozen=True, slots=True)
class Counter:
    """What is stored of a throttle's key."""

    attempts: int
    blocked_until: datetime
    #: When it is forgotten.
    expires_at: datetime

    def wait(self, allowance: Allowance, now: datetime) -> timedelta:
        """Return how long to wait for the next attempt."""
        # While attempts are free nobody waits: not even for one of the same moment, whose clock was ahead.
        return self.blocked_until - now if self.attempts > allowance.free else timedelta(0)

    def counted(self, allowance: Allowance, now: datetime) -> "Counter":
        """Return the counter after one more attempt."""
        attempts = self.attempts + 1 if now < self.expires_at else 1
        return Counter(attempts, now + allowance.wait(attempts), now + FORGOTTEN_AFTER)

    def uncounted(self, now: datetime) -> "Counter":
        """Return the counter as if the last attempt had not been: when it was let through, no wait was left."""
        return replace(self, attempts=max(0, self.attempts - 1), blocked_until=now)


Keys = Mapping[bytes, Allowance]


def login_keys(email_key: str, source: str | None, device_id: str | None) -> Keys:
    """Return what a login attempt counts for. `device_id` is that of a device the account knows."""
    if device_id is not None:
        return {_key("device", device_id): DEVICE}
    network = _network(source)
    return {
        _key("source-on-account", network, email_key): SOURCE_AND_ACCOUNT,
        _key("source", network): SOURCE,
        _key("account", email_key): ACCOUNT,
    }


def reauthentication_keys(user_id: object) -> Keys:
    """Return what the check of a logged-in user's password counts for."""
    return {_key("reauthentication", str(user_id)): REAUTHENTICATION}


def _network(source: str | None) -> str:
    """Return what one customer of a network provider has: an IPv4 address, or 64 bits of IPv6 ones (RFC 6177)."""
    if source is None:
        return ""
    address = ip_address(source)
    return str(IPv6Network((address, 64), strict=False)) if address.version == 6 else source  # noqa: PLR2004 - IPv6


def _key(kind: str, *parts: str) -> bytes:
    """Hash a key, so that the table holds neither addresses nor names in the clear."""
    return hashlib.sha256("\0".join((kind, *parts)).encode()).digest()
