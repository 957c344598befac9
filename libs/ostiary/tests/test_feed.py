"""The format of the feed: signed answers are parsed, and all else is rejected."""

import base64
import hashlib
import json
import string
import struct
import time
from collections.abc import Collection, Mapping
from dataclasses import replace
from hashlib import sha256
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ostiary import KeySet, Verifier, errors, feed
from ostiary.feed import GENESIS, Answer, FeedFault, Kind, Page, Revocation, chain
from ostiary.testing import Issuer

SIGNER = Issuer()
KEYS = KeySet.from_json(SIGNER.jwks())
#: Of the poll that is answered, among others.
NONCE = "q8XbT0kq2m4hQ0Zk7A1dYw"
HEADER: dict[str, object] = {"alg": "RS256", "typ": feed.TYPE, "kid": SIGNER.kid}

#: What no member of an event can be.
NOT_FITTING: list[object] = [None, True, 1.5, [], {}, ""]

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
numbers = st.integers(0, 2**62 - 1)
digests = st.binary(min_size=32, max_size=32)
targets = texts | texts.map(lambda text: text * 12)
revocations = st.builds(Revocation, numbers, st.sampled_from(Kind), targets, st.integers(0, 2**37))
nonces = st.lists(texts, max_size=feed.MAX_NONCES // 2 - 1)
epochs = st.text(string.ascii_letters + string.digits + "._-", min_size=1, max_size=20)


def log(count: int, *, after: int = 0, kind: Kind = Kind.SESSION) -> tuple[Revocation, ...]:
    return tuple(Revocation(after + n, kind, f"s{after + n}", 1_700_000_900 + n) for n in range(1, count + 1))


def answer_with(revocations: tuple[Revocation, ...] = (), **changes: Any) -> Answer:  # a dataclass's own fields
    values: dict[str, Any] = {
        "issuer": SIGNER.issuer,
        "issued_at": 1_700_000_000,
        "epoch": "e1",
        "first": 1,
        "head": len(revocations),
        "more": False,
        "digest": GENESIS,
        "reset": False,
        "revocations": revocations,
        "keys": KEYS.version,
        "nonces": ("A" * 22, NONCE),
        "receipt": "e1.9.digest.mac",
    }
    return Answer(**{**values, **changes})


def signed(
    answer: Answer | Mapping[str, object], signer: Issuer = SIGNER, header: Mapping[str, object] | None = None
) -> str:
    payload = answer.to_json() if isinstance(answer, Answer) else answer
    return signer.sign(json.dumps({**HEADER, **(header or {})}).encode(), json.dumps(payload).encode())


def changed(**members: object) -> dict[str, object]:
    """Return the payload of a valid answer, with changes; `Issuer.REMOVED` omits a member."""
    merged = {**answer_with(log(2)).to_json(), **members}
    return {name: value for name, value in merged.items() if value is not Issuer.REMOVED}


def event(**members: object) -> dict[str, object]:
    merged = {"n": 1, "kind": "session", "id": "s", "exp": 1_700_000_900, **members}
    return {name: value for name, value in merged.items() if value is not Issuer.REMOVED}


def token_claims() -> dict[str, object]:
    now = int(time.time())
    return {"aud": SIGNER.audience, "sub": "u1", "client_id": "c", "jti": "t", "iat": now, "exp": now + 900}


def read(token: str, issuer: str = SIGNER.issuer, refused_kids: Collection[str] = ()) -> Answer:
    return feed.read(token.encode(), issuer, KEYS, refused_kids.__contains__, NONCE)


class TestGoodAnswers:
    def test_what_a_signer_makes_is_read_as_it_was_meant(self) -> None:
        answer = answer_with(log(3), more=True)
        assert read(signed(answer)) == answer

    def test_the_members_are_those_of_the_protocol(self) -> None:
        payload = {
            "iss": SIGNER.issuer,
            "iat": 1_700_000_000,
            "epoch": "9f3c",
            "first": 18,
            "head": 18,
            "more": False,
            "digest": base64.urlsafe_b64encode(bytes(range(32))).decode().rstrip("="),
            "reset": False,
            "events": [{"n": 18, "kind": "subject", "id": "u1", "exp": 1_700_000_900}],
            "keys": "0nX2",
            "page": None,
            "nonces": [NONCE],
            "receipt": "e1.9.digest.mac",
        }
        assert read(signed(payload)) == Answer(
            issuer=SIGNER.issuer,
            issued_at=1_700_000_000,
            epoch="9f3c",
            first=18,
            head=18,
            more=False,
            digest=bytes(range(32)),
            reset=False,
            revocations=(Revocation(18, Kind.SUBJECT, "u1", 1_700_000_900),),
            keys="0nX2",
            nonces=(NONCE,),
            receipt="e1.9.digest.mac",
        )

    @given(st.data())
    def test_an_answer_survives_the_way(self, data: st.DataObject) -> None:
        first = data.draw(st.integers(1, 2**61))
        reset = data.draw(st.booleans())
        made, number = [], first - 1
        for kind in data.draw(st.lists(st.sampled_from(Kind), max_size=6)):
            number += data.draw(st.integers(1, 5 if reset else 1))
            target = feed.EVERYTHING if kind is Kind.ALL else data.draw(targets)
            made.append(Revocation(number, kind, target, data.draw(st.integers(0, 2**37))))
        answer = Answer(
            issuer=SIGNER.issuer,
            issued_at=data.draw(numbers),
            epoch=data.draw(epochs),
            first=first,
            head=number + data.draw(st.integers(0, 9)) if reset else number,
            more=bool(made) and data.draw(st.booleans()),
            digest=data.draw(digests),
            reset=reset,
            revocations=tuple(made),
            keys=data.draw(texts),
            receipt=data.draw(texts),
            nonces=(*data.draw(nonces), NONCE, *data.draw(nonces)),
        )
        assert read(signed(answer)) == answer

    def test_an_answer_without_revocations_is_valid(self) -> None:
        answer = answer_with(first=18, head=17)
        assert read(signed(answer)) == answer

    def test_a_log_that_became_shorter_is_no_mistake_of_form(self) -> None:
        """A verifier ahead of the log has to detect the fork."""
        answer = answer_with(first=18, head=3)
        assert read(signed(answer)) == answer

    def test_numbers_may_be_missing_with_a_reset(self) -> None:
        kept = (log(1, after=3)[0], log(1, after=7)[0])
        answer = answer_with(kept, head=9, reset=True)
        assert read(signed(answer)) == answer

    def test_a_reset_may_be_empty(self) -> None:
        answer = answer_with(head=9, reset=True)
        assert read(signed(answer)) == answer

    def test_the_type_may_be_written_as_a_media_type(self) -> None:
        assert read(signed(answer_with(), header={"typ": "application/ostiary-feed+jwt"})) == answer_with()

    def test_further_members_are_left_aside(self) -> None:
        assert read(signed(changed(extension=1))) == answer_with(log(2))

    def test_an_answer_with_the_most_revocations_is_within_the_size_limit(self) -> None:
        ids = tuple(Revocation(n, Kind.SESSION, "f" * 36, 1_700_000_900) for n in range(1, feed.MAX_EVENTS + 1))
        assert len(read(signed(answer_with(ids))).revocations) == feed.MAX_EVENTS


class TestWhoSaysSo:
    def test_another_issuers_feed_is_rejected(self) -> None:
        with pytest.raises(FeedFault, match="another issuer"):
            read(signed(answer_with(issuer="https://other.example")))

    def test_an_issuer_is_named_exactly(self) -> None:
        for name in (f"{SIGNER.issuer}/", SIGNER.issuer.upper(), "", None, [SIGNER.issuer], Issuer.REMOVED):
            with pytest.raises(FeedFault):
                read(signed(changed(iss=name)))

    def test_a_signature_with_another_key_is_rejected(self, stranger: Issuer) -> None:
        with pytest.raises(FeedFault, match="bad_signature"):
            read(signed(answer_with(log(1)), stranger))

    def test_a_modified_answer_is_rejected(self) -> None:
        header, _, signature = signed(answer_with(log(2))).split(".")
        payload = base64.urlsafe_b64encode(json.dumps(answer_with(log(1)).to_json()).encode()).decode().rstrip("=")
        with pytest.raises(FeedFault, match="bad_signature"):
            read(f"{header}.{payload}.{signature}")

    def test_an_unknown_key_has_its_own_error(self) -> None:
        """The keys have to be fetched then, but nothing is wrong."""
        with pytest.raises(errors.UnknownKey):
            read(signed(answer_with(), header={"kid": "other"}))

    def test_a_revoked_key_signs_no_feed(self) -> None:
        token = signed(answer_with())
        assert read(token, refused_kids={"another"}) == answer_with()
        with pytest.raises(FeedFault, match="revoked key"):
            read(token, refused_kids={SIGNER.kid})

    @pytest.mark.parametrize(
        "header",
        [
            {"typ": "at+jwt"},
            {"typ": "application/at+jwt"},
            {"typ": "JWT"},
            {"typ": "jwt"},
            {"typ": "logout+jwt"},
            {"typ": "ostiary-feed"},
            {"typ": f"{feed.TYPE} "},
            {"typ": ""},
            {"typ": None},
            {"typ": [feed.TYPE]},
            {"alg": "none"},
            {"alg": "HS256"},
            {"alg": "RS512"},
            {"kid": None},
            {"kid": ""},
            {"crit": ["exp"]},
            {"b64": False},
        ],
    )
    def test_another_header_is_rejected(self, header: dict[str, object]) -> None:
        with pytest.raises(FeedFault, match="not a signed feed"):
            read(signed(answer_with(), header=header))

    def test_a_header_without_a_type_is_rejected(self) -> None:
        header = json.dumps({"alg": "RS256", "kid": SIGNER.kid}).encode()
        with pytest.raises(FeedFault, match="wrong_type"):
            read(SIGNER.sign(header, json.dumps(answer_with().to_json()).encode()))


class TestTokensAndFeeds:
    """RFC 8725 section 3.11: one type of signed document is never accepted as another."""

    def test_an_access_token_is_no_feed(self) -> None:
        with pytest.raises(FeedFault, match="wrong_type"):
            read(SIGNER.token())

    def test_an_access_token_with_the_claims_of_a_feed_is_rejected(self) -> None:
        with pytest.raises(FeedFault, match="wrong_type"):
            read(SIGNER.token(claims=answer_with(log(2)).to_json()))

    @pytest.mark.parametrize("typ", [feed.TYPE, f"application/{feed.TYPE}"])
    def test_a_feed_is_no_access_token(self, typ: str) -> None:
        for payload in (answer_with().to_json(), {**answer_with().to_json(), **token_claims()}):
            with pytest.raises(errors.WrongType):
                Verifier(SIGNER.config()).verify(signed(payload, header={"typ": typ}))

    def test_the_same_claims_are_a_valid_token_with_a_tokens_type(self) -> None:
        """So it is the type that is rejected above."""
        payload = {**answer_with().to_json(), **token_claims()}
        assert Verifier(SIGNER.config()).verify(signed(payload, header={"typ": "at+jwt"})).subject == "u1"


class TestNonces:
    def test_an_answer_is_for_those_who_asked(self) -> None:
        for others in ((), ("A" * 22,), (NONCE[:-1],), (f"{NONCE}x",), (NONCE.lower(),), (NONCE[::-1],)):
            with pytest.raises(FeedFault, match="answer to other polls"):
                read(signed(answer_with(nonces=others)))

    def test_it_is_for_many_at_once_and_for_a_bounded_number(self) -> None:
        others = tuple(f"{number:022}" for number in range(feed.MAX_NONCES))
        assert read(signed(answer_with(nonces=(*others[1:], NONCE)))).nonces[-1] == NONCE
        with pytest.raises(FeedFault, match="bounded length"):
            read(signed(answer_with(nonces=(*others, NONCE))))

    @pytest.mark.parametrize("nonce", [*NOT_FITTING, 1, "n" * (feed.MAX_NONCE_LENGTH + 1)])
    def test_each_is_a_short_string(self, nonce: object) -> None:
        with pytest.raises(FeedFault, match="malformed"):
            read(signed(changed(nonces=[NONCE, nonce])))


MEMBERS = ["iat", "epoch", "first", "head", "more", "digest", "reset", "events", "keys", "page", "nonces", "receipt"]


class TestForm:
    @pytest.mark.parametrize(
        "name",
        [
            "iss",
            "iat",
            "epoch",
            "first",
            "head",
            "more",
            "digest",
            "reset",
            "events",
            "keys",
            "nonces",
            "receipt",
        ],
    )
    @pytest.mark.parametrize("value", [Issuer.REMOVED, None, 1.0, -1, {}, [None], "\u00e9" * 300])
    def test_a_member_of_the_wrong_type_is_rejected(self, name: str, value: object) -> None:
        with pytest.raises(FeedFault):
            read(signed(changed(**{name: value})))

    @pytest.mark.parametrize(
        "changes",
        [
            {"iat": True},
            {"iat": "1700000000"},
            {"iat": 2**62},
            {"epoch": ""},
            {"epoch": "e" * 65},
            {"epoch": 1},
            {"first": 0},
            {"first": True},
            {"first": "1"},
            {"first": 2**62},
            {"head": True},
            {"head": 2**62, "reset": True},
            {"head": 10**30, "reset": True},
            {"more": 0},
            {"more": "false"},
            {"reset": 1},
            {"reset": "true"},
            {"digest": ""},
            {"digest": "A" * 44},
            {"digest": "A" * 42 + "B"},
            {"digest": "A" * 42 + "="},
            {"digest": "A" * 42 + "+"},
            {"digest": [65] * 43},
            {"keys": ""},
            {"keys": "k" * 65},
            {"keys": 1},
            {"events": "[]"},
            {"events": {"n": 1}},
        ],
    )
    def test_a_value_out_of_range_is_rejected(self, changes: dict[str, object]) -> None:
        with pytest.raises(FeedFault, match="malformed feed"):
            read(signed(changed(**changes)))

    @pytest.mark.parametrize("is_reset", [False, True])
    def test_more_without_events_is_rejected(self, is_reset: bool) -> None:
        """A verifier would poll again at once, for ever."""
        nothing = answer_with(first=18, head=17, reset=is_reset)
        assert read(signed(nothing)).revocations == ()
        with pytest.raises(FeedFault, match="malformed feed"):
            read(signed(replace(nothing, more=True)))

    @pytest.mark.parametrize(
        "bad",
        [
            None,
            1,
            "session",
            [],
            {},
            *[event(**{name: Issuer.REMOVED}) for name in ("n", "kind", "id", "exp")],
            *[event(**{name: value}) for name in ("n", "kind", "id", "exp") for value in NOT_FITTING],
            event(n=0),
            event(n="1"),
            event(kind="sessions"),
            event(kind="SESSION"),
            event(id="i" * 257),
            event(exp=-1),
            event(exp="1700000900"),
            event(exp=253_402_300_800),
            event(kind="all"),
        ],
    )
    def test_a_malformed_event_is_rejected(self, bad: object) -> None:
        assert read(signed(changed(events=[event()], head=1))).revocations[0].target == "s"
        with pytest.raises(FeedFault, match="malformed feed"):
            read(signed(changed(events=[bad], head=1)))

    @pytest.mark.parametrize("kind", Kind)
    def test_all_kinds_are_known(self, kind: Kind) -> None:
        assert (
            read(signed(changed(events=[event(kind=kind.value, id=feed.EVERYTHING)], head=1))).revocations[0].kind
            is kind
        )

    def test_too_many_events_are_rejected(self) -> None:
        events = [event(n=n) for n in range(1, feed.MAX_EVENTS + 2)]
        assert len(read(signed(changed(events=events[:-1], head=len(events) - 1))).revocations) == feed.MAX_EVENTS
        with pytest.raises(FeedFault, match="events"):
            read(signed(changed(events=events, head=len(events))))

    @pytest.mark.parametrize("reset", [False, True])
    @pytest.mark.parametrize("order", [(2, 1), (1, 1), (1, 3, 2), (2, 2)])
    def test_events_out_of_order_are_rejected(self, order: tuple[int, ...], reset: bool) -> None:
        events = [event(n=n) for n in order]
        with pytest.raises(FeedFault, match="out of order"):
            read(signed(changed(events=events, head=len(order), reset=reset)))

    @pytest.mark.parametrize("reset", [False, True])
    @pytest.mark.parametrize(("first", "head", "number"), [(5, 5, 4), (5, 5, 6), (5, 4, 5), (5, 2, 5)])
    def test_events_out_of_range_are_rejected(self, first: int, head: int, number: int, reset: bool) -> None:
        with pytest.raises(FeedFault, match="out of order"):
            read(signed(changed(events=[event(n=number)], first=first, head=head, reset=reset)))

    @pytest.mark.parametrize(("order", "head"), [((), 1), ((1, 2), 3), ((1, 3), 3), ((2, 3), 3)])
    def test_missing_events_need_a_reset(self, order: tuple[int, ...], head: int) -> None:
        events = [event(n=n) for n in order]
        assert read(signed(changed(events=events, head=head, reset=True))).head == head
        with pytest.raises(FeedFault, match="missing"):
            read(signed(changed(events=events, head=head)))

    def test_an_oversized_answer_is_rejected_before_parsing(self) -> None:
        good = signed(changed(filler="x" * 380_000))
        assert len(good) < feed.MAX_ANSWER_LENGTH
        assert read(good).head == 2
        with pytest.raises(FeedFault, match="too_large"):
            read(signed(changed(filler="x" * 400_000)))
        with pytest.raises(FeedFault, match="too_large"):
            read("." * (feed.MAX_ANSWER_LENGTH + 1))

    @pytest.mark.parametrize(
        "payload", [b"", b"{}", b"[]", b"null", b"{", b'{"iss":1,"iss":1}', b"\xff", b"[" * 20_000]
    )
    def test_an_invalid_payload_is_rejected(self, payload: bytes) -> None:
        with pytest.raises(FeedFault):
            read(SIGNER.sign(json.dumps(HEADER).encode(), payload))

    @given(st.text(max_size=100) | st.binary(max_size=100).map(lambda raw: raw.decode("latin-1")))
    def test_arbitrary_input_is_rejected_with_the_right_error(self, text: str) -> None:
        with pytest.raises(FeedFault):
            read(text)

    @given(
        st.dictionaries(
            st.sampled_from(
                [
                    "iat",
                    "epoch",
                    "first",
                    "head",
                    "more",
                    "digest",
                    "reset",
                    "events",
                    "keys",
                    "page",
                    "nonces",
                    "receipt",
                ]
            ),
            st.recursive(
                st.none() | st.booleans() | st.integers(-3, 2**70) | st.floats(allow_nan=False) | st.text(max_size=5),
                lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
                max_leaves=6,
            ),
            max_size=3,
        )
    )
    def test_signed_arbitrary_claims_are_rejected_or_have_the_right_types(self, members: dict[str, object]) -> None:
        try:
            answer = read(SIGNER.sign(json.dumps(HEADER).encode(), json.dumps(changed(**members)).encode()))
        except FeedFault:
            return
        assert (type(answer.first), type(answer.head), type(answer.issued_at)) == (int, int, int)
        assert (type(answer.more), type(answer.reset), type(answer.digest)) == (bool, bool, bytes)
        assert (type(answer.epoch), type(answer.keys)) == (str, str)


#: A page of all kinds, with a gap, that starts at number 32.
PAGE_ENTRIES = [
    (number, kind, f"t{number}", 1_700_000_000 + number)
    for number, kind in zip((33, 34, 35, 37, 38, 39), Kind, strict=True)
]
NUMBERS, KINDS, TARGETS, EXPIRIES = zip(*PAGE_ENTRIES, strict=True)
ROWS = feed.page_rows([number - 32 for number in NUMBERS], [kind.value for kind in KINDS], TARGETS, EXPIRIES)
HEAD_BITS = struct.Struct(">HB5s16s")


def paged(rows: bytes = ROWS, *, base: bytes | None = None, **changes: Any) -> bytes:  # a dataclass's own fields
    """Return a response with a page, signed as it is."""
    values: dict[str, Any] = {"first": 33, "head": 39, "reset": True, "page": Page(32, base, rows), **changes}
    return signed(answer_with(**values)).encode() + b"\n" + rows


def read_body(body: bytes) -> Answer:
    return feed.read(body, SIGNER.issuer, KEYS, set[str]().__contains__, NONCE)


def sessions_of(page: Page) -> tuple[list[bytes], int | None]:
    """Return the names of a page's sessions, and the latest `exp`."""
    names, latest = page.sessions() or ([], None)
    return [index.to_bytes(2, "big") + rest for index, rest in names], latest


def row(offset: int = 1, kind: int = 1, exp: int = 1_700_000_900) -> bytes:
    return HEAD_BITS.pack(offset, kind, exp.to_bytes(5, "big"), bytes(16))


class TestPages:
    def test_a_page_is_read_as_it_was_meant(self) -> None:
        answer = read_body(paged(base=bytes(range(32))))
        assert answer.page == Page(32, bytes(range(32)), ROWS)
        assert len(answer.page) == len(PAGE_ENTRIES)
        names = [sha256(f"{kind}:{target}".encode()).digest()[:16] for _, kind, target, _ in PAGE_ENTRIES]
        assert answer.page.names() == names
        assert sessions_of(answer.page) == (names[:1], PAGE_ENTRIES[0][3])
        others = [(number, kind, exp) for number, kind, _, exp in PAGE_ENTRIES[1:]]
        assert answer.page.others() == [(*other, name) for other, name in zip(others, names[1:], strict=True)]

    def test_the_form_is_that_of_the_protocol(self) -> None:
        assert feed.page_rows([258], ["key"], ["k1"], [1_700_000_900]) == (
            b"\x01\x02\x03" + (1_700_000_900).to_bytes(5, "big") + sha256(b"key:k1").digest()[:16]
        )
        assert answer_with(page=Page(0, None, b"x")).to_json()["page"] == {
            "start": 0,
            "base": "",
            "sha256": base64.urlsafe_b64encode(sha256(b"x").digest()).decode().rstrip("="),
        }

    def test_the_largest_page_is_read(self) -> None:
        rows = b"".join(row(offset) for offset in range(feed.PAGE_NUMBERS))
        body = paged(rows, first=32, head=32 + feed.PAGE_NUMBERS - 1)
        assert len(body) <= feed.MAX_BYTES
        assert len(read_body(body).page or ()) == feed.PAGE_NUMBERS

    @pytest.mark.parametrize(
        "rows", [b"", ROWS[:-1], ROWS + b"x", ROWS[:-24], ROWS[24:], ROWS[:-1] + b"x", ROWS + ROWS]
    )
    def test_another_page_than_the_signed_one_is_rejected(self, rows: bytes) -> None:
        body = paged()
        with pytest.raises(FeedFault, match="another page was signed"):
            read_body(body[: -len(ROWS)] + rows)

    def test_a_page_without_a_signature_is_rejected(self) -> None:
        with pytest.raises(FeedFault, match="not signed"):
            read_body(signed(answer_with(head=39, reset=True)).encode() + b"\n" + ROWS)

    @pytest.mark.parametrize(
        ("rows", "fault"),
        [
            (b"", "bounded number"),
            (row()[:-1], "bounded number"),
            (row() + b"x", "bounded number"),
            (b"".join(map(row, range(1, feed.PAGE_NUMBERS + 2))), "bounded number"),
            (row(2) + row(1), "out of order"),
            (row(1) + row(1), "out of order"),
            (row(0), "out of order"),
            (row(8), "out of order"),
            (row(kind=0), "unknown kind"),
            (row(kind=7), "unknown kind"),
            (row(1) + row(2, kind=255), "unknown kind"),
            (row(exp=253_402_300_800), "exp"),
            (row(1) + row(2, exp=2**40 - 1), "exp"),
        ],
    )
    def test_a_malformed_page_is_rejected(self, rows: bytes, fault: str) -> None:
        with pytest.raises(FeedFault, match=fault):
            read_body(paged(rows))

    def test_a_page_is_all_there_is(self) -> None:
        for changes in ({"reset": False}, {"revocations": log(1, after=33)}):
            with pytest.raises(FeedFault, match="all there is"):
                read_body(paged(**changes))

    @pytest.mark.parametrize("name", ["start", "base", "sha256"])
    @pytest.mark.parametrize("value", [Issuer.REMOVED, None, -1, 1.5, True, [], "A", "A" * 44, "\u00e9" * 43])
    def test_a_member_of_the_wrong_type_is_rejected(self, name: str, value: object) -> None:
        described = {**Page(32, None, ROWS).to_json(), name: value}
        described = {key: each for key, each in described.items() if each is not Issuer.REMOVED}
        payload = {**answer_with(first=33, head=39, reset=True).to_json(), "page": described}
        with pytest.raises(FeedFault, match="malformed"):
            read_body(signed(payload).encode() + b"\n" + ROWS)

    @given(st.binary(max_size=200) | st.lists(st.binary(min_size=24, max_size=24), max_size=5).map(b"".join))
    def test_arbitrary_rows_are_rejected_or_in_order(self, rows: bytes) -> None:
        try:
            page = read_body(paged(rows)).page
        except FeedFault:
            return
        assert page is not None
        assert len(page) == len(page.names()) == len(sessions_of(page)[0]) + len(page.others())
        numbers = [number for number, _, _, _ in page.others()]
        assert numbers == sorted(set(numbers))


class TestChain:
    def test_its_value_is_the_digest_of_the_one_before_and_the_revocation(self) -> None:
        revocation = Revocation(7, Kind.SUBJECT, "u1", 1_700_000_900)
        expected = hashlib.sha256(GENESIS + b"7\nsubject\nu1\n1700000900").digest()
        assert chain(GENESIS, revocation) == expected
        assert bytes(32) == GENESIS

    @given(revocations, revocations, digests, digests)
    def test_it_depends_on_all_that_was(self, one: Revocation, other: Revocation, before: bytes, past: bytes) -> None:
        if "\n" not in one.target + other.target:
            assert (chain(before, one) == chain(before, other)) is (one == other)
        assert (chain(before, one) == chain(past, one)) is (before == past)

    @pytest.mark.parametrize(
        "other",
        [
            Revocation(2, Kind.SESSION, "s", 10),
            Revocation(1, Kind.TOKEN, "s", 10),
            Revocation(1, Kind.SESSION, "t", 10),
            Revocation(1, Kind.SESSION, "s", 11),
        ],
    )
    def test_logs_that_differ_never_meet_again(self, other: Revocation) -> None:
        one, other_digest = chain(GENESIS, Revocation(1, Kind.SESSION, "s", 10)), chain(GENESIS, other)
        for revocation in log(5, after=2):
            assert one != other_digest
            one, other_digest = chain(one, revocation), chain(other_digest, revocation)
        assert one != other_digest
