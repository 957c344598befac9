"""The format of the revocation feed, in which an issuer tells its verifiers which tokens it has revoked.

The issuer keeps a log of revocations, numbered in the order in which they took effect. A verifier
polls for those after the last one that it has applied:

    GET /feed?epoch=9f3c...&after=17&wait=10000&nonce=q8Xb...&verifier=orders-5f1c&keys=0nX2...&lease=30000
        &receipt=9f3c....17....

(times in ms)
and gets a JWS of type `ostiary-feed+jwt`, at once if there are new revocations, else after `wait`, or a little earlier.
A page, if there is one, follows after a line feed. The members of the JWS are:

    iss, iat   the issuer, and when it signed (seconds since the epoch); `exp` of a revocation counts from there
    epoch      the name of this log; a log that starts anew has another name
    first      the number after `after`
    head       the number of the last revocation that this answer covers
    more       whether there are more after `head`; the verifier then polls again at once
    digest     the chain's value at `head`: SHA-256 over its value before and the revocation, see `chain`
    reset      whether revocations between `first` and `head` are missing, because all that they match has expired:
               `events` is then the full set, and the chain cannot be verified
    events     the revocations: `n` number, `kind`, `id` of the target, `exp` when all that it can match has expired
    keys       the version of the key set that the issuer publishes: `KeySet.version`
    page       null, or how to read the page that follows: `start`, from which its numbers count; `base`, the chain's
               value before `first`, or "" if that revocation is no longer known; `sha256`, the page's digest
    nonces     those of the polls that this answers
    receipt    proof that the log came as far as `head`

A verifier that is far behind, such as one that has just started, gets a page instead of events, with `reset`: up to
PAGE_NUMBERS revocations of 24 bytes each, in order, big-endian:

    2 bytes    the number less `start`
    1 byte     the kind: 1 session, 2 token, 3 key, 4 subject, 5 client, 6 all
    5 bytes    `exp`
    16 bytes   the name of the target: the first half of the SHA-256 of KIND:ID

The chain cannot be computed from that. Instead, `base` has to be what the verifier has got to.

A verifier accepts an answer that lists the nonce of its poll: it was made after the poll was sent, and no earlier one
can be replayed. Which verifier asked is not signed, so polls that wait at the same time share a signature.

To a verifier that has followed another log, the issuer tells all of the new one (`first` is 1). The verifier goes on
with that if `head` is above all that it has followed, and forgets nothing.

With `receipt`, a verifier shows the last one that it was given. So the issuer notices that its log has lost entries, as
when a backup of its database was restored, and begins a new one.

A poll is an acknowledgement: `after` tells what the verifier has applied, `keys` which keys it has, and
`lease` for how long at most it accepts tokens without an answer from the issuer.
"""

import hashlib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from operator import ge
from struct import Struct
from typing import Any

from ostiary import _base64url, _jws
from ostiary._compact import NAME_BYTES, SPLIT_NAME, Name, name
from ostiary._keyset import KeySet, version_of
from ostiary._token import MAX_NUMERIC_DATE, NO_POSITION
from ostiary.errors import OstiaryError

__all__ = [
    "EVERYTHING",
    "GENESIS",
    "MAX_BYTES",
    "MAX_EVENTS",
    "MAX_NONCES",
    "MAX_NONCE_LENGTH",
    "MAX_NUMBER",
    "MAX_RECEIPT_LENGTH",
    "MEDIA_TYPE",
    "MIN_NONCE_LENGTH",
    "NO_POSITION",
    "PAGE_NUMBERS",
    "ROW_BYTES",
    "SCOPE",
    "TYPE",
    "Answer",
    "FeedFault",
    "Kind",
    "Page",
    "Position",
    "Revocation",
    "chain",
    "page_rows",
    "read",
    "version_of",
]

#: The type in the JWS header (RFC 8725 section 3.11: no token can be taken for a feed, and no feed for a token).
TYPE = "ostiary-feed+jwt"

#: The media type of a response: a JWS, and possibly a page.
MEDIA_TYPE = "application/ostiary-feed"

#: The scope that a client needs to read the feed.
SCOPE = "feed:read"

#: Revocations in one answer at most, and its characters at most: some 100 for each, doubled.
MAX_EVENTS = 2000
MAX_ANSWER_LENGTH = 512 * 1024

#: Numbers in a page: pages end at multiples of it. To apply one takes some 10 ms.
PAGE_NUMBERS = 2**13

#: Bytes of a revocation in a page.
ROW_BYTES = 8 + NAME_BYTES

#: Bytes of a response at most.
MAX_BYTES = MAX_ANSWER_LENGTH + 1 + PAGE_NUMBERS * ROW_BYTES

#: Polls that one answer answers at most: a verifier reads the nonces of all.
MAX_NONCES = 100

#: Characters of a nonce (base64url): 96 random bits at least, so that nobody can have asked with it before.
MIN_NONCE_LENGTH = 16
MAX_NONCE_LENGTH = 64

#: Characters of an id: UUIDs, kids, client ids.
MAX_ID_LENGTH = 256
MAX_EPOCH_LENGTH = 64

#: Characters of a receipt.
MAX_RECEIPT_LENGTH = 256

#: Numbers are below this, so that they fit everywhere.
MAX_NUMBER = 2**62

#: The chain's value before the first revocation.
GENESIS = bytes(32)

#: The target of a revocation of kind `all`.
EVERYTHING = "*"


class Kind(StrEnum):
    """What a revocation matches.

    For a session, a token or a key: all tokens. For a subject, a client or all: those that were issued before. A
    token's claim `rev` is the number of the last revocation before it was issued.
    """

    SESSION = "session"
    TOKEN = "token"  # noqa: S105 - a kind
    KEY = "key"
    SUBJECT = "subject"
    CLIENT = "client"
    ALL = "all"


class FeedFault(Exception):
    """An answer that must not be applied: not from the issuer, not to this poll, or from another log than before."""


@dataclass(frozen=True, slots=True)
class Position:
    """A position in a log."""

    epoch: str
    number: int


@dataclass(frozen=True, slots=True)
class Revocation:
    """One revocation. `expires_at` is in seconds since the epoch."""

    number: int
    kind: Kind
    target: str
    expires_at: int

    @property
    def name(self) -> Name:
        """The name of the target."""
        return name(self.kind, self.target)

    def to_json(self) -> dict[str, object]:
        """Return the form for `events`."""
        return {"n": self.number, "kind": self.kind, "id": self.target, "exp": self.expires_at}


#: In a page: 16 bits of a number, 8 of a kind and 40 of `exp`; and a name.
_ROW = Struct(f">Q{NAME_BYTES}s")
_CODE_AT, _EXP_BITS, _OFFSET_BITS = 2, 40, 48
_EXP_MASK = (1 << _EXP_BITS) - 1

#: Of many rows, only what is needed: to make an object of everything takes several times as long.
_OFFSETS = Struct(f">H{ROW_BYTES - 2}x")
_EXPIRIES = Struct(f">3xBI{NAME_BYTES}x")
_NAMES = Struct(f">8x{SPLIT_NAME.removeprefix('>')}")

_CODES = {Kind.SESSION: 1, Kind.TOKEN: 2, Kind.KEY: 3, Kind.SUBJECT: 4, Kind.CLIENT: 5, Kind.ALL: 6}
_KINDS = {code: kind for kind, code in _CODES.items()}
_SESSION = _CODES[Kind.SESSION]
#: By a kind's value: its bits in a row, and what precedes the id in a name.
_HEADS = {kind.value: (code << _EXP_BITS, f"{kind}:") for kind, code in _CODES.items()}


@dataclass(frozen=True, slots=True)
class Page:
    """Revocations in compact form; see the module. `base` is None where the revocation before is not known any more."""

    start: int
    base: bytes | None
    rows: bytes

    def __len__(self) -> int:
        return len(self.rows) // ROW_BYTES

    @property
    def codes(self) -> bytes:
        """The codes of the kinds."""
        return self.rows[_CODE_AT::ROW_BYTES]

    def names(self) -> list[Name]:
        """Return the names of all targets."""
        return [target for _, target in _ROW.iter_unpack(self.rows)]

    def sessions(self) -> tuple[Iterable[tuple[int, bytes]], int] | None:
        """Return the names of revoked sessions, which are nearly all there is, as SPLIT_NAME, and their latest `exp`.

        None if there are none.
        """
        count, rows = self.codes.count(_SESSION), self.rows
        if count < len(self):
            rows = b"".join(
                rows[at : at + ROW_BYTES] for at in range(0, len(rows), ROW_BYTES) if rows[at + _CODE_AT] == _SESSION
            )
        return (_NAMES.iter_unpack(rows), _latest(rows)) if count else None

    def others(self) -> list[tuple[int, Kind, int, Name]]:
        """Return the number, the kind, `exp` and the target's name of what is no revocation of a session."""
        if self.codes.count(_SESSION) == len(self):
            return []
        return [
            (self.start + (head >> _OFFSET_BITS), _KINDS[head >> _EXP_BITS & 0xFF], head & _EXP_MASK, target)
            for head, target in _ROW.iter_unpack(self.rows)
            if head >> _EXP_BITS & 0xFF != _SESSION
        ]

    def to_json(self) -> dict[str, object]:
        """Return the member of the JWS payload."""
        return {
            "start": self.start,
            "base": "" if self.base is None else _base64url.encode(self.base).decode(),
            "sha256": _base64url.encode(hashlib.sha256(self.rows).digest()).decode(),
        }


def page_rows(offsets: Iterable[int], kinds: Iterable[str], targets: Iterable[str], expiries: Iterable[int]) -> bytes:
    """Return revocations, given by column, as rows of a page. Each number is the page's start plus an offset."""
    return b"".join(
        [
            # As in `name`; the struct takes the first half of the digest.
            _ROW.pack(offset << _OFFSET_BITS | code | expires_at, hashlib.sha256((prefix + target).encode()).digest())
            for offset, (code, prefix), target, expires_at in zip(
                offsets, map(_HEADS.__getitem__, kinds), targets, expiries, strict=True
            )
        ]
    )


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer of the feed; see the module for its members."""

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
    page: Page | None = None
    #: None where an issuer applies its own log, and no receipt.
    nonces: tuple[str, ...] = ()
    receipt: str = ""

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
            "page": None if self.page is None else self.page.to_json(),
            "nonces": list(self.nonces),
            "receipt": self.receipt,
        }


def chain(digest: bytes, revocation: Revocation) -> bytes:
    """Return the chain's value after a revocation, given the one before. Logs that differ once differ for ever."""
    content = f"{revocation.number}\n{revocation.kind}\n{revocation.target}\n{revocation.expires_at}"
    return hashlib.sha256(digest + content.encode()).digest()


def read(body: bytes, issuer: str, keys: KeySet, is_revoked: Callable[[str], bool], nonce: str) -> Answer:
    """Return a signed answer of `issuer` to the poll with this nonce, given the body of the response.

    Raises UnknownKey if it is signed with an unknown key, and FeedFault if it is invalid or its key was revoked.
    """
    token, _, rows = body.partition(b"\n")
    try:
        jws = _jws.parse(token.decode("ascii", "replace"), types=_TYPES, max_length=MAX_ANSWER_LENGTH)
        if is_revoked(jws.kid):
            raise FeedFault("signed with a revoked key")
        keys.verify(jws.kid, jws.signing_input, jws.signature)
    except OstiaryError as error:
        if error.code == "unknown_key":
            raise
        raise FeedFault(f"not a signed feed: {error.code}") from error
    if jws.claims.get("iss") != issuer:
        raise FeedFault("signed by another issuer")
    try:
        answer = _answer(jws.claims, rows)
    except (ValueError, KeyError, TypeError) as error:
        raise FeedFault(f"malformed feed: {error}") from error
    if nonce not in answer.nonces:
        raise FeedFault("answer to other polls")
    return answer


_TYPES = frozenset({TYPE, f"application/{TYPE}"})

_EPOCH = re.compile(r"[A-Za-z0-9._-]+\Z")


def _answer(claims: dict[str, Any], rows: bytes) -> Answer:
    first, head, events = _number(claims["first"], 1), _number(claims["head"]), claims["events"]
    nonces = claims["nonces"]
    if type(nonces) is not list or len(nonces) > MAX_NONCES:
        raise ValueError("nonces must be an array of bounded length")
    if type(events) is not list or len(events) > MAX_EVENTS:
        raise ValueError("events must be an array of bounded length")
    revocations = tuple(_revocation(event) for event in events)
    numbers = [first - 1, *(revocation.number for revocation in revocations)]
    # A `head` before `first` is well-formed: the log has become shorter.
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
        page=_page(claims["page"], rows, first, head),
        nonces=tuple(_text(nonce, MAX_NONCE_LENGTH) for nonce in nonces),
        receipt=_text(claims["receipt"], MAX_RECEIPT_LENGTH),
    )
    if len(answer.digest) != len(GENESIS) or _EPOCH.match(answer.epoch) is None:
        raise ValueError("digest or epoch is malformed")
    if answer.more and head < first:
        raise ValueError("more after no events")
    if answer.page is not None and (revocations or not answer.reset):
        raise ValueError("a page has to be all there is")
    if not answer.reset and len(revocations) != max(0, head - first + 1):
        raise ValueError("events are missing")
    return answer


def _page(member: dict[str, Any] | None, rows: bytes, first: int, head: int) -> Page | None:
    if member is None:
        if rows:
            raise ValueError("a page that is not signed")
        return None
    start, base = _number(member["start"]), member["base"]
    if _base64url.decode(_text(member["sha256"], 43).encode()) != hashlib.sha256(rows).digest():
        raise ValueError("another page was signed")
    if not 0 < len(rows) <= PAGE_NUMBERS * ROW_BYTES or len(rows) % ROW_BYTES:
        raise ValueError("a page must be rows of bounded number")
    page = Page(start, None if base == "" else _base64url.decode(_text(base, 43).encode()), rows)
    offsets = [offset for (offset,) in _OFFSETS.iter_unpack(rows)]
    if any(map(ge, offsets, offsets[1:])) or start + offsets[0] < first or start + offsets[-1] > head:
        raise ValueError("rows out of order")
    if not _KINDS.keys() >= set(page.codes):
        raise ValueError("unknown kind")
    if _latest(rows) > MAX_NUMERIC_DATE:
        raise ValueError("exp is out of range")
    if page.base is not None and len(page.base) != len(GENESIS):
        raise ValueError("base is malformed")
    return page


def _latest(rows: bytes) -> int:
    """Return the latest `exp`."""
    high, low = max(_EXPIRIES.iter_unpack(rows))
    return int(high << 32 | low)


def _revocation(event: dict[str, Any]) -> Revocation:
    expires_at = _number(event["exp"])
    if expires_at > MAX_NUMERIC_DATE:
        raise ValueError("exp is out of range")
    kind, target = Kind(event["kind"]), _text(event["id"], MAX_ID_LENGTH)
    if kind is Kind.ALL and target != EVERYTHING:
        raise ValueError("id of kind all must be *")
    return Revocation(_number(event["n"], 1), kind, target, expires_at)


def _number(value: object, least: int = 0) -> int:
    if type(value) is not int or not least <= value < MAX_NUMBER:
        raise ValueError("expected an integer in range")
    return value


def _text(value: object, longest: int) -> str:
    if type(value) is not str or not 0 < len(value) <= longest:
        raise ValueError("expected a string of bounded length")
    return value


def _flag(value: object) -> bool:
    if type(value) is not bool:
        raise ValueError("expected a boolean")
    return value
