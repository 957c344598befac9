"""Throttling of password guessing: each attempt is counted before it is made, and delays grow.

An attempt from a known device (see `device_tokens`) is counted for that device only. Any other attempt is counted for
its source on this account, for its source, and for the account. So an attacker, from one address or from many, makes
strangers wait, and never the owner on a known device (NIST SP 800-63B-4 section 3.2.2 asks for both). Attempts on
accounts that do not exist are counted in the same way.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from ipaddress import IPv6Network, ip_address

from ostiary_auth.domain.clock import CLOCK_MARGIN

#: Wait after the first attempt that is not free; it doubles with each further one.
FIRST_WAIT = timedelta(seconds=1)


#: No attempt costs more.
LONGEST_WAIT = timedelta(minutes=5)

#: Counters expire this long after the last attempt.
FORGOTTEN_AFTER = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Allowance:
    """How many attempts are free, and the longest wait after them."""

    free: int
    longest_wait: timedelta

    def wait(self, attempts: int) -> timedelta:
        over = attempts - self.free
        if over <= 0:
            return timedelta(0)
        # Beyond 2^20 s every wait is the longest one, so the exponent stays small.
        doublings = min(over - 1, 20)
        return min(FIRST_WAIT * (1 << doublings), self.longest_wait)


#: Attempts of one device: an owner who mistypes, or a thief who guesses.
DEVICE = Allowance(free=10, longest_wait=LONGEST_WAIT)

#: Attempts of one source on one account.
SOURCE_AND_ACCOUNT = Allowance(free=5, longest_wait=LONGEST_WAIT)

#: Attempts of one source on any account. Many users may share one.
SOURCE = Allowance(free=100, longest_wait=timedelta(minutes=1))

#: Attempts of all unknown devices on one account (NIST SP 800-63B-4 section 3.2.2: no more than 100).
ACCOUNT = Allowance(free=100, longest_wait=LONGEST_WAIT)

#: Registrations from one source: a lecture hall behind one address goes on, and a program is slowed down.
REGISTRATION = Allowance(free=200, longest_wait=timedelta(minutes=1))

#: Checks of a logged-in user's current password.
REAUTHENTICATION = Allowance(free=5, longest_wait=LONGEST_WAIT)


@dataclass(frozen=True, slots=True)
class Counter:
    """A stored attempt counter. `expires_at` is when it is forgotten."""

    attempts: int
    blocked_until: datetime
    expires_at: datetime

    def wait(self, allowance: Allowance, now: datetime) -> timedelta:
        """Return how long the next attempt has to wait, which is never longer than attempts can cost."""
        left = self.blocked_until - now
        # A free attempt never waits, not even for one that a replica whose clock is ahead has counted. If more is left
        # than any attempt costs, the clock was put back, and how long ago the last one was is unknown: then the next
        # one is admitted, counted, and followed by its wait.
        if self.attempts <= allowance.free or left > LONGEST_WAIT + CLOCK_MARGIN:
            return timedelta(0)
        return min(left, allowance.longest_wait)

    def counted(self, allowance: Allowance, now: datetime) -> "Counter":
        """Return the counter after another attempt."""
        attempts = self.attempts + 1 if now < self.expires_at else 1
        return Counter(attempts, now + allowance.wait(attempts), now + FORGOTTEN_AFTER)

    def uncounted(self, now: datetime, attempts: int = 1) -> "Counter":
        """Return the counter without attempts that were admitted, so that no wait was left before them."""
        return replace(self, attempts=max(0, self.attempts - attempts), blocked_until=now)


Keys = Mapping[bytes, Allowance]


def login_keys(email_key: str, source: str | None, device_id: str | None) -> Keys:
    """Return the counters of a login attempt. `device_id` is that of a known device of the account."""
    if device_id is not None:
        return {_key("device", device_id): DEVICE}
    network = network_of(source)
    return {
        _key("source-on-account", network, email_key): SOURCE_AND_ACCOUNT,
        _key("source", network): SOURCE,
        _key("account", email_key): ACCOUNT,
    }


def registration_keys(source: str | None) -> Keys:
    """Return the counter of registrations from a source."""
    return {_key("registration", network_of(source)): REGISTRATION}


def reauthentication_keys(user_id: object) -> Keys:
    """Return the counter of checks of a logged-in user's password."""
    return {_key("reauthentication", str(user_id)): REAUTHENTICATION}


def network_of(source: str | None) -> str:
    """Return what one customer of an access network has: an IPv4 address, or an IPv6 /64 (RFC 6177)."""
    if source is None:
        return ""
    address = ip_address(source)
    return str(IPv6Network((address, 64), strict=False)) if address.version == 6 else source  # noqa: PLR2004 - IPv6


def _key(kind: str, *parts: str) -> bytes:
    """Hash the parts, so that the table contains no addresses or names in plain text."""
    return hashlib.sha256("\0".join((kind, *parts)).encode()).digest()
