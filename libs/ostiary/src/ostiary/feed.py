"""The revocation feed: what an issuer tells its verifiers about tokens that do not count any more.

The issuer keeps a log. Each revocation has a number, in the order in which they came into force. A
verifier asks what came after the last one that it has applied:

    GET /feed?epoch=9f3c...&after=17&wait=10000&verifier=orders-5f1c&keys=0nX2...&lease=30000    (times in ms)

and gets a JWS of type `ostiary-feed+jwt`, at once if there is news, else when `wait` is over:

    iss, iat   who says so, and when it was signed (seconds since the epoch)
    epoch      the name of this log; a log that was begun anew has another
    first      the number after the one that was asked about
    head       the number up to which this answer goes
    more       whether there is more after `head`; ask again at once
    digest     the chain's value at `head`: SHA-256 over its value before and the revocation, see `chain`
    reset      whether numbers are missing between `first` and `head`, because nothing alive was hit by them any more:
               what is listed is then all that there is, and the chain cannot be followed
    events     the revocations: `n` number, `kind`, `id` of what is hit, `exp` when all that it can hit has expired
    keys       which keys the issuer publishes now: `KeySet.version`

Asking is acknowledging: `after` says what the verifier has applied, `keys` which keys it holds, and
`lease` how long at most it accepts tokens without hearing from the issuer.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from typing import Any

from ostiary import _base64url, _jws
from ostiary._keyset import KeySet, version_of
from ostiary._token import MAX_NUMERIC_DATE, NO_POSITION
from ostiary.errors import OstiaryError

__all__ = [
    "EVERYTHING",
    "GENESIS",
    "MAX_EVENTS",
    "MAX_NUMBER",
    "MEDIA_TYPE",
    "NO_POSITION",
    "POSITION_HEADER",
    "SCOPE",
    "TYPE",
    "Answer",
    "FeedFault",
    "Kind",
    "Position",
    "Revocation",
    "chain",
    "read",
    "version_of",
]

#: The type in the JWS header (RFC 8725 section 3.11: no token can be taken for a feed, and no feed for a token).
TYPE = "ostiary-feed+jwt"

#: The media type of an answer.
MEDIA_TYPE = f"application/{TYPE}"

#: The scope that a client needs to read the feed.
SCOPE = "feed:read"

#: Revocations in one answer at most, and characters of one: some 100 for each, and as much again to spare.
MAX_EVENTS = 2000
MAX_ANSWER_LENGTH = 512 * 1024

#: Characters of an id: UUIDs, kids, client ids.
MAX_ID_LENGTH = 256
MAX_EPOCH_LENGTH = 64

#: Numbers are below this, so that they fit everywhere.
MAX_NUMBER = 2**62

#: The chain's value before the first revocation.
GENESIS = bytes(32)

#: What an `all` revocation is about.
EVERYTHING = "*"

#: Header field in which a gateway tells the services behind it which revocations it has considered.
POSITION_HEADER = "Ostiary-Position"


class Kind(StrEnum):
    """What a revocation hits.

    A session or a token whenever it was issued, and all that a key ever signed; of a subject's, a client's or all
    tokens those that were issued before. A token says in its claim `rev` after which number it was issued.
    """

    SESSION = "session"
    TOKEN = "token"  # noqa: S105 - a kind
    KEY = "key"
    SUBJECT = "subject"
    CLIENT = "client"
    ALL = "all"


class FeedFault(Exception):
    """An answer that must not be applied: not the issuer's, not to this question, or of another log than before."""


@dataclass(frozen=True, slots=True)
class Position:
    """How far somebody has come in a log."""

    epoch: str
    number: int

    def __str__(self) -> str:
        """Return the form for header fields."""
        return f"{self.epoch}:{self.number}"

    @classmethod
    def parse(cls, text: str) -> "Position | None":
        """Read that form; None if it is something else."""
        epoch, _, number = text.rpartition(":")
        if not 0 < len(epoch) <= MAX_EPOCH_LENGTH or not (number.isascii() and number.isdecimal() and len(number) < 20):  # noqa: PLR2004 - digits of MAX_NUMBER
            return None
        return cls(epoch, int(number))


@dataclass(frozen=True, slots=True)
class Revocation:
    """One revocation. `expires_at` is in seconds since the epoch."""

    number: int
    kind: Kind
    target: str
    expires_at: int

    def to_json(self) -> dict[str, object]:
        """Return it as it stands in an answer."""
        return {"n": self.number, "kind": self.kind, "id": self.target, "exp": self.expires_at}


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer of the feed."""

    issuer: str
    issued_at: int
    epoch: str
    first: int
    head: int
    more: bool
    digest: bytes
    reset: bool
    revocations: tuple[Revocation, ...]
    keys: str

    def to_json(self) -> dict[str, object]:
        """Return the JWS payload."""
        return {
            "iss": self.issuer,
            "iat": self.issued_at,
            "epoch": self.epoch,
            "first": self.first,
            "head": self.head,
            "more": self.more,
            "digest": _base64url.encode(self.digest).decode(),
            "reset": self.reset,
            "events": [revocation.to_json() for revocation in self.revocations],
            "keys": self.keys,
        }


def chain(digest: bytes, revocation: Revocation) -> bytes:
    """Return the chain's value after a revocation, given the one before: two logs that differ never meet again."""
    content = f"{revocation.number}\n{revocation.kind}\n{revocation.target}\n{revocation.expires_at}"
    return hashlib.sha256(digest + content.encode()).digest()


def read(token: str, issuer: str, keys: KeySet, refused_kids: Mapping[str, object]) -> Answer:
    """Return a signed answer of `issuer`.

    Raises FeedFault if it is anything else, or signed with a key that was revoked, and UnknownKey for an unknown one.
    """
    try:
        jws = _jws.parse(token, types=_TYPES, max_length=MAX_ANSWER_LENGTH)
        if jws.kid in refused_kids:
            raise FeedFault("signed with a revoked key")
        keys.verify(jws.kid, jws.signing_input, jws.signature)
    except OstiaryError as error:
        if error.code == "unknown_key":
            raise
        raise FeedFault(f"not a signed feed: {error.code}") from error
    if jws.claims.get("iss") != issuer:
        raise FeedFault("another issuer's")
    try:
        return _answer(jws.claims)
    except (ValueError, KeyError, TypeError) as error:
        raise FeedFault(f"not in the form of a feed: {error}") from error


_TYPES = frozenset({TYPE, MEDIA_TYPE})

# It goes into header fields.
_EPOCH = re.compile(r"[A-Za-z0-9._-]+\Z")


def _answer(claims: dict[str, Any]) -> Answer:
    first, head, events = _number(claims["first"], 1), _number(claims["head"]), claims["events"]
    if type(events) is not list or len(events) > MAX_EVENTS:
        raise ValueError("events")
    revocations = tuple(_revocation(event) for event in events)
    numbers = [first - 1, *(revocation.number for revocation in revocations)]
    # A head before `first` is no mistake of form: the log has become shorter.
    if any(one >= other for one, other in pairwise(numbers)) or (revocations and numbers[-1] > head):
        raise ValueError("events out of order")
    answer = Answer(
        issuer=claims["iss"],
        issued_at=_number(claims["iat"]),
        epoch=_text(claims["epoch"], MAX_EPOCH_LENGTH),
        first=first,
        head=head,
        more=_flag(claims["more"]),
        digest=_base64url.decode(_text(claims["digest"], 43).encode()),
        reset=_flag(claims["reset"]),
        revocations=revocations,
        keys=_text(claims["keys"], 64),
    )
    if len(answer.digest) != len(GENESIS) or _EPOCH.match(answer.epoch) is None:
        raise ValueError("digest or epoch")
    if answer.more and head < first:
        raise ValueError("more, but nothing of it")
    if not answer.reset and len(revocations) != max(0, head - first + 1):
        raise ValueError("events are missing")
    return answer


def _revocation(event: dict[str, Any]) -> Revocation:
    expires_at = _number(event["exp"])
    if expires_at > MAX_NUMERIC_DATE:
        raise ValueError("exp")
    kind, target = Kind(event["kind"]), _text(event["id"], MAX_ID_LENGTH)
    if kind is Kind.ALL and target != EVERYTHING:
        raise ValueError("all, but not of everything")
    return Revocation(_number(event["n"], 1), kind, target, expires_at)


def _number(value: object, least: int = 0) -> int:
    if type(value) is not int or not least <= value < MAX_NUMBER:
        raise ValueError("not a number in range")
    return value


def _text(value: object, longest: int) -> str:
    if type(value) is not str or not 0 < len(value) <= longest:
        raise ValueError("not a text of fitting length")
    return value


def _flag(value: object) -> bool:
    if type(value) is not bool:
        raise ValueError("not true or false")
    return value
