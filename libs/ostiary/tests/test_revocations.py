"""Revocations in memory: exactly what was applied, and its age."""

import math
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from timing import Clock

from ostiary import Revocations, VerifiedToken, errors
from ostiary._compact import NameSet, NumbersByName
from ostiary._revocations import MIN_RETENTION, RETENTION_MARGIN, Names
from ostiary.feed import (
    EVERYTHING,
    GENESIS,
    NO_POSITION,
    Answer,
    FeedFault,
    Kind,
    Page,
    Position,
    Revocation,
    chain,
    page_rows,
)

#: What the issuer's clock says, which is not what ours says.
ISSUED_AT = 1_700_000_000

#: Seconds that a revocation matters, by the issuer.
#: Longer than anything is kept anyway.
LIFE = 7200


@dataclass
class Log:
    """An issuer's log, and its answers to polls."""

    epoch: str = "e1"
    listed: list[Revocation] = field(default_factory=list)
    digests: list[bytes] = field(default_factory=lambda: [GENESIS])

    def add(self, kind: Kind, target: str = EVERYTHING, life: int = LIFE) -> Revocation:
        revocation = Revocation(len(self.listed) + 1, kind, target, ISSUED_AT + life)
        self.listed.append(revocation)
        self.digests.append(chain(self.digests[-1], revocation))
        return revocation

    def answer(self, after: int = 0, until: int | None = None, **changes: Any) -> Answer:  # a dataclass's own fields
        head = len(self.listed) if until is None else until
        answer = Answer(
            issuer="https://issuer.example",
            issued_at=ISSUED_AT,
            epoch=self.epoch,
            first=after + 1,
            head=head,
            more=head < len(self.listed),
            digest=self.digests[head],
            reset=False,
            revocations=tuple(self.listed[after:head]),
            keys="k",
        )
        return replace(answer, **changes)


def token(**changes: Any) -> VerifiedToken:  # a dataclass's own fields
    values: dict[str, Any] = {
        "issuer": "https://issuer.example",
        "subject": "u1",
        "audience": frozenset({"ostiary"}),
        "client_id": "c1",
        "token_id": "t1",
        "key_id": "k1",
        "session_id": "s1",
        "issued_at": ISSUED_AT,
        "not_before": ISSUED_AT,
        "expires_at": ISSUED_AT + LIFE,
        "auth_time": None,
        "scopes": frozenset(),
        "roles": frozenset(),
        "log_position": 0,
        "claims": {},
    }
    return VerifiedToken(**{**values, **changes})


#: Shares nothing with the token above.
OTHER = token(subject="u2", client_id="c2", token_id="t2", key_id="k2", session_id="s2")

ONE_OF_EACH = [
    (Kind.SESSION, "s1"),
    (Kind.TOKEN, "t1"),
    (Kind.KEY, "k1"),
    (Kind.SUBJECT, "u1"),
    (Kind.CLIENT, "c1"),
    (Kind.ALL, EVERYTHING),
]


CUTOFFS = (Kind.SUBJECT, Kind.CLIENT, Kind.ALL)

#: What makes a token the target of a revocation.
TARGETS: dict[Kind, Callable[[str], dict[str, str]]] = {
    Kind.SESSION: lambda target: {"session_id": target},
    Kind.TOKEN: lambda target: {"token_id": target},
    Kind.KEY: lambda target: {"key_id": target},
    Kind.SUBJECT: lambda target: {"subject": target},
    Kind.CLIENT: lambda target: {"client_id": target},
    Kind.ALL: lambda _: {},
}


def is_revoked(revocations: Revocations, asked: VerifiedToken) -> bool:
    try:
        revocations.check(asked, lambda: Names(asked))
    except errors.Revoked:
        return True
    return False


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def revocations(clock: Clock) -> Revocations:
    return Revocations(clock)


@pytest.fixture
def log() -> Log:
    return Log()


def revoke(revocations: Revocations, log: Log, kind: Kind, target: str = EVERYTHING, life: int = LIFE) -> None:
    """Revoke a target, and apply that at once."""
    log.add(kind, target, life)
    revocations.apply(log.answer(len(log.listed) - 1), revocations.now())


class TestHits:
    @pytest.mark.parametrize(("kind", "target"), ONE_OF_EACH)
    def test_a_revocation_matches_its_target_only(
        self, revocations: Revocations, log: Log, kind: Kind, target: str
    ) -> None:
        assert not is_revoked(revocations, token())
        revoke(revocations, log, kind, target)
        assert is_revoked(revocations, token())
        assert is_revoked(revocations, OTHER) is (kind is Kind.ALL)
        assert len(revocations) == 1

    @pytest.mark.parametrize(("kind", "target"), ONE_OF_EACH[:-1])
    def test_an_id_of_another_kind_is_another_id(
        self, revocations: Revocations, log: Log, kind: Kind, target: str
    ) -> None:
        for other, _ in ONE_OF_EACH[:-1]:
            if other is not kind:
                revoke(revocations, log, other, target)
        assert not is_revoked(revocations, token())

    @pytest.mark.parametrize(("kind", "target"), [(Kind.SUBJECT, "u1"), (Kind.CLIENT, "c1"), (Kind.ALL, EVERYTHING)])
    def test_a_cutoff_is_exact(self, revocations: Revocations, log: Log, kind: Kind, target: str) -> None:
        """A token contains the log position at its issue: with the cutoff itself, it was issued after it."""
        for _ in range(4):
            log.add(Kind.SESSION, "another")
        log.add(kind, target)
        revocations.apply(log.answer(), 0.0)
        verdicts = {rev: is_revoked(revocations, token(log_position=rev)) for rev in (NO_POSITION, 0, 4, 5, 6, 2**61)}
        assert verdicts == {NO_POSITION: True, 0: True, 4: True, 5: False, 6: False, 2**61: False}

    @pytest.mark.parametrize(("kind", "target"), [(Kind.SESSION, "s1"), (Kind.TOKEN, "t1"), (Kind.KEY, "k1")])
    def test_sessions_tokens_and_keys_match_whenever_a_token_was_issued(
        self, revocations: Revocations, log: Log, kind: Kind, target: str
    ) -> None:
        revoke(revocations, log, kind, target)
        assert is_revoked(revocations, token(log_position=2**61))

    def test_a_later_cutoff_takes_the_place_of_an_earlier_one(self, revocations: Revocations, log: Log) -> None:
        revoke(revocations, log, Kind.SUBJECT, "u1")
        assert not is_revoked(revocations, token(log_position=1))
        revoke(revocations, log, Kind.SUBJECT, "u1")
        assert is_revoked(revocations, token(log_position=1))
        assert not is_revoked(revocations, token(log_position=2))

    def test_a_clients_own_token_has_no_session(self, revocations: Revocations, log: Log) -> None:
        for target in ("s1", "None", "-"):
            revoke(revocations, log, Kind.SESSION, target)
        own = token(session_id=None)
        assert not is_revoked(revocations, own)
        revoke(revocations, log, Kind.TOKEN, "t1")
        assert is_revoked(revocations, own)

    def test_revoked_keys_are_known_by_their_kid(self, revocations: Revocations, log: Log) -> None:
        revoke(revocations, log, Kind.KEY, "k1")
        revoke(revocations, log, Kind.SESSION, "k2")
        assert revocations.has_key("k1")
        assert not revocations.has_key("k2")


class TestAnswers:
    def test_there_are_no_revocations_before_the_first_answer(self, revocations: Revocations) -> None:
        assert revocations.position is None
        assert not revocations.complete
        assert revocations.age() == math.inf
        assert len(revocations) == 0
        assert not revocations.is_fresh(1e9)

    def test_an_empty_log_is_a_full_set(self, revocations: Revocations, log: Log, clock: Clock) -> None:
        revocations.apply(log.answer(), clock.now)
        assert revocations.complete
        assert revocations.position == Position("e1", 0)

    def test_each_goes_on_from_the_last(self, revocations: Revocations, log: Log) -> None:
        for number in range(1, 30):
            revoke(revocations, log, Kind.SESSION, f"s{number}")
            assert revocations.position == Position("e1", number)
            assert all(is_revoked(revocations, token(session_id=f"s{known}")) for known in range(1, number + 1))
        assert not is_revoked(revocations, token(session_id="s30"))

    def test_only_revocations_change_the_version(self, revocations: Revocations, log: Log) -> None:
        versions = [revocations.version]
        for _ in range(3):
            revoke(revocations, log, Kind.SESSION, "s")
            versions.append(revocations.version)
        assert len(set(versions)) == 4
        revocations.apply(log.answer(3), 5.0)
        assert revocations.version == versions[-1]

    def test_pages_are_taken_in_and_only_the_last_makes_it_fresh(
        self, revocations: Revocations, log: Log, clock: Clock
    ) -> None:
        for number in range(1, 7):
            log.add(Kind.SESSION, f"s{number}")
        for after, until_ in ((0, 2), (2, 4)):
            revocations.apply(log.answer(after, until_), clock.now)
            assert not revocations.complete
            assert revocations.age() == math.inf
            assert is_revoked(revocations, token(session_id=f"s{until_}"))
        revocations.apply(log.answer(4, 6), clock.now)
        assert revocations.complete
        assert revocations.age() == 0

    def test_a_page_leaves_a_set_as_old_as_it_was(self, revocations: Revocations, log: Log, clock: Clock) -> None:
        revocations.apply(log.answer(), clock.now)
        log.add(Kind.SESSION, "s1")
        log.add(Kind.SESSION, "s2")
        clock.now += 20
        revocations.apply(log.answer(0, 1), clock.now)
        assert revocations.age() == 20

    def test_a_reset_contains_all_live_revocations_after_the_position(self, revocations: Revocations, log: Log) -> None:
        for number in range(1, 10):
            log.add(Kind.SESSION, f"s{number}")
        kept = (log.listed[3], log.listed[7])
        revocations.apply(log.answer(reset=True, revocations=kept), 0.0)
        hit = {number for number in range(1, 10) if is_revoked(revocations, token(session_id=f"s{number}"))}
        assert hit == {4, 8}
        assert revocations.position == Position("e1", 9)
        revoke(revocations, log, Kind.SESSION, "s1")
        assert is_revoked(revocations, token())

    def test_a_reset_removes_no_revocation(self, revocations: Revocations, log: Log) -> None:
        for kind, target in ONE_OF_EACH[:-1]:
            revoke(revocations, log, kind, target)
        log.add(Kind.SESSION, "over")
        log.add(Kind.SESSION, "another")
        revocations.apply(log.answer(5, reset=True, revocations=(log.listed[6],)), 0.0)
        assert is_revoked(revocations, token())
        assert len(revocations) == 6

    def test_the_chain_goes_on_after_a_reset(self, revocations: Revocations, log: Log) -> None:
        for _ in range(3):
            log.add(Kind.SESSION, "over")
        revocations.apply(log.answer(reset=True, revocations=()), 0.0)
        log.add(Kind.SESSION, "s1")
        with pytest.raises(FeedFault, match="past"):
            revocations.apply(log.answer(3, digest=chain(GENESIS, log.listed[3])), 0.0)
        revocations.apply(log.answer(3), 0.0)
        assert is_revoked(revocations, token())


class TestPages:
    """A page has the effect of the revocations in it."""

    @staticmethod
    def page_of(log: Log, after: int = 0, until: int | None = None, base: bytes | None = None) -> Answer:
        answer = log.answer(after, until, reset=True)
        found = [(each.number, each.kind.value, each.target, each.expires_at) for each in answer.revocations]
        return replace(answer, revocations=(), page=Page(0, base, page_rows(*zip(*found, strict=True))))

    @pytest.mark.parametrize(("kind", "target"), ONE_OF_EACH)
    def test_a_page_revokes(self, revocations: Revocations, log: Log, kind: Kind, target: str) -> None:
        log.add(Kind.SESSION, "another")
        log.add(kind, target)
        called: list[None] = []
        revocations.watch(token(), lambda: called.append(None))
        version = revocations.version
        revocations.apply(self.page_of(log), 0.0)
        assert is_revoked(revocations, token())
        assert is_revoked(revocations, token(log_position=2)) is (kind not in CUTOFFS)
        assert (len(revocations), revocations.version, len(called)) == (2, version + 1, 1)
        assert revocations.position == Position("e1", 2)

    @settings(max_examples=30)
    @given(
        st.lists(
            st.tuples(st.sampled_from(ONE_OF_EACH), st.integers(0, 2), st.integers(0, 9000)), min_size=1, max_size=9
        ),
        st.floats(0, 20_000),
    )
    def test_it_is_as_good_as_its_revocations(
        self, made: list[tuple[tuple[Kind, str], int, int]], later: float
    ) -> None:
        clock, log = Clock(0.0), Log()
        told, paged = Revocations(clock), Revocations(clock)
        for (kind, target), which, life in made:
            log.add(kind, target if kind is Kind.ALL else f"{target}{which}", life)
        told.apply(log.answer(), 0.0)
        paged.apply(self.page_of(log), 0.0)
        clock.now = later
        for known in (told, paged):
            known.apply(log.answer(len(log.listed)), later)
        for revocation in log.listed:
            hit = TARGETS[revocation.kind](revocation.target)
            for position in range(len(log.listed) + 1):
                asked = token(**hit, log_position=position)
                assert is_revoked(paged, asked) or not is_revoked(told, asked)
        if later < MIN_RETENTION:
            assert len(told) == len(paged)

    def test_pages_and_revocations_follow_each_other(self, revocations: Revocations, log: Log) -> None:
        for number in range(1, 10):
            log.add(Kind.SESSION, f"s{number}")
        complete = []
        for answer in (
            log.answer(0, 2),
            self.page_of(log, 2, 5, log.digests[2]),
            self.page_of(log, 5, 7),
            log.answer(7, 9),
        ):
            revocations.apply(answer, 0.0)
            complete.append(revocations.complete)
        assert complete == [False, False, False, True]
        assert all(revocations.has_session(f"s{number}") for number in range(1, 10))

    @pytest.mark.parametrize("base", [bytes(32), GENESIS[1:] + b"x", b""])
    def test_a_page_after_another_past_is_rejected(self, revocations: Revocations, log: Log, base: bytes) -> None:
        for number in range(1, 5):
            log.add(Kind.SESSION, f"s{number}")
        revocations.apply(log.answer(0, 2), 0.0)
        with pytest.raises(FeedFault, match="past"):
            revocations.apply(self.page_of(log, 2, base=base), 0.0)
        assert (revocations.position, len(revocations)) == (Position("e1", 2), 2)
        revocations.apply(self.page_of(log, 2, base=log.digests[2]), 0.0)
        assert len(revocations) == 4

    def test_a_new_log_may_begin_with_a_page(self, revocations: Revocations, log: Log) -> None:
        log.add(Kind.SESSION, "s1")
        revocations.apply(log.answer(), 0.0)
        new = Log(epoch="e2")
        for number in range(2, 5):
            new.add(Kind.SESSION, f"s{number}")
        revocations.apply(self.page_of(new), 0.0)
        assert len(revocations) == 4
        assert revocations.position == Position("e2", 3)


def another_past() -> Log:
    forked = Log()
    for target in ("x", "y", "s1", "z"):
        forked.add(Kind.SESSION, target)
    return forked


def shorter_log() -> Log:
    return Log(listed=[], digests=[GENESIS])


class TestRefusals:
    @pytest.fixture
    def log(self) -> Log:
        log = Log()
        for kind, target in ((Kind.SESSION, "a"), (Kind.SUBJECT, "b"), (Kind.KEY, "c")):
            log.add(kind, target)
        return log

    @pytest.fixture
    def revocations(self, log: Log, clock: Clock) -> Revocations:
        revocations = Revocations(clock)
        revocations.apply(log.answer(), clock.now)
        return revocations

    def news(self, log: Log, **changes: Any) -> Answer:  # a dataclass's own fields
        """Return an answer with revocations of every kind, with changes."""
        for kind, target in ONE_OF_EACH:
            log.add(kind, target)
        return log.answer(3, **changes)

    def assert_unchanged(self, revocations: Revocations, clock: Clock, bad: Answer, fault: str) -> None:
        """Check that an answer is rejected, and changes nothing."""
        looked: list[None] = []
        end = revocations.watch(token(), lambda: looked.append(None))
        before = (revocations.position, revocations.version, revocations.fresh_at, len(revocations))
        digest = revocations._digest
        clock.now += 5
        with pytest.raises(FeedFault, match=fault):
            revocations.apply(bad, clock.now)
        assert (revocations.position, revocations.version, revocations.fresh_at, len(revocations)) == before
        assert revocations._digest == digest
        assert revocations.age() == 5
        assert not is_revoked(revocations, token())
        assert not is_revoked(revocations, OTHER)
        assert looked == []
        end()

    def goes_on(self, revocations: Revocations, log: Log, clock: Clock) -> None:
        """Check that the valid answer is applied after an invalid one."""
        revocations.apply(log.answer(3), clock.now)
        assert is_revoked(revocations, token())
        assert revocations.age() == 0

    def test_the_valid_answer_is_applied(self, revocations: Revocations, log: Log, clock: Clock) -> None:
        """So it is the change below that is rejected."""
        self.news(log)
        self.goes_on(revocations, log, clock)

    @pytest.mark.parametrize(
        ("changes", "fault"),
        [
            ({"epoch": "e2"}, "another log"),
            ({"epoch": "e2", "reset": True}, "another log"),
            ({"epoch": "e2", "first": 1, "head": 3, "reset": True}, "another log"),
            ({"epoch": "e2", "first": 1, "head": 2, "reset": True, "revocations": ()}, "another log"),
            ({"epoch": "e2", "first": 1}, "past"),
            ({"head": 2, "revocations": ()}, "shorter"),
            ({"head": 0, "reset": True, "revocations": ()}, "shorter"),
            ({"first": 5}, "another poll"),
            ({"first": 3}, "another poll"),
            ({"first": 1, "reset": True}, "another poll"),
            ({"digest": bytes(32)}, "past"),
            ({"digest": b""}, "past"),
        ],
    )
    def test_an_invalid_answer_changes_nothing(
        self, revocations: Revocations, log: Log, clock: Clock, changes: dict[str, object], fault: str
    ) -> None:
        self.assert_unchanged(revocations, clock, self.news(log, **changes), fault)
        self.goes_on(revocations, log, clock)

    def test_an_empty_answer_from_a_log_with_another_past_is_rejected(
        self, revocations: Revocations, log: Log, clock: Clock
    ) -> None:
        bad = log.answer(3, digest=another_past().digests[3])
        self.news(log)
        self.assert_unchanged(revocations, clock, bad, "past")

    def test_revocations_from_a_log_with_another_past_are_rejected(
        self, revocations: Revocations, log: Log, clock: Clock
    ) -> None:
        self.news(log)
        self.assert_unchanged(revocations, clock, another_past().answer(3), "past")

    @pytest.mark.parametrize(
        "change",
        [{"kind": Kind.TOKEN}, {"target": "other"}, {"expires_at": ISSUED_AT + LIFE + 1}, {"number": 5}],
    )
    def test_a_revocation_that_does_not_match_the_chain_is_rejected(
        self, revocations: Revocations, log: Log, clock: Clock, change: dict[str, Any]
    ) -> None:
        good = self.news(log)
        changed = (replace(good.revocations[0], **change), *good.revocations[1:])
        self.assert_unchanged(revocations, clock, replace(good, revocations=changed), "past")
        self.goes_on(revocations, log, clock)

    def test_a_restarted_log_with_the_same_epoch_is_rejected(
        self, revocations: Revocations, log: Log, clock: Clock
    ) -> None:
        self.news(log)
        self.assert_unchanged(revocations, clock, shorter_log().answer(0), "shorter")

    def test_the_first_answer_must_begin_at_the_beginning(self, log: Log) -> None:
        fresh = Revocations()
        with pytest.raises(FeedFault, match="another poll"):
            fresh.apply(log.answer(1), 0.0)
        assert (fresh.position, fresh.complete, len(fresh)) == (None, False, 0)

    def test_a_duplicate_answer_is_rejected(self, revocations: Revocations, log: Log, clock: Clock) -> None:
        answer = self.news(log)
        revocations.apply(answer, clock.now)
        clock.now += 5
        with pytest.raises(FeedFault, match="another poll"):
            revocations.apply(answer, clock.now)
        assert revocations.age() == 5
        assert revocations.position == Position("e1", 9)


class TestNewLog:
    """The issuer has begun a new log, whose numbers are above all before."""

    def begun(self, *targets: str, start: int = 1000, **changes: Any) -> Answer:
        revoked = [(Kind.ALL, EVERYTHING), *((Kind.SESSION, target) for target in targets)]
        revocations = tuple(
            Revocation(start + number, kind, target, ISSUED_AT + LIFE)
            for number, (kind, target) in enumerate(revoked, 1)
        )
        head = start + len(revocations)
        answer = Answer("https://issuer.example", ISSUED_AT, "e2", 1, head, False, bytes(32), True, revocations, "k")
        return replace(answer, **changes)

    def test_it_is_followed_from_its_beginning(self, revocations: Revocations, log: Log, clock: Clock) -> None:
        revoke(revocations, log, Kind.SESSION, "s1")
        clock.now += 5
        revocations.apply(self.begun("s3"), clock.now)
        assert revocations.position == Position("e2", 1002)
        assert revocations.age() == 0
        following = Revocation(1003, Kind.SESSION, "s4", ISSUED_AT + LIFE)
        more = self.begun(first=1003, head=1003, revocations=(following,), reset=False)
        revocations.apply(replace(more, digest=chain(bytes(32), following)), clock.now)
        assert is_revoked(revocations, token(session_id="s4", log_position=1002))

    def test_tokens_from_before_are_revoked_and_those_issued_since_are_good(
        self, revocations: Revocations, log: Log, clock: Clock
    ) -> None:
        revoke(revocations, log, Kind.SUBJECT, "u2")
        revocations.apply(self.begun(), clock.now)
        assert is_revoked(revocations, token(log_position=1000))
        assert not is_revoked(revocations, replace(OTHER, log_position=1001))

    def test_what_was_known_is_not_forgotten(self, revocations: Revocations, log: Log, clock: Clock) -> None:
        for kind, target in ((Kind.SESSION, "s1"), (Kind.TOKEN, "t3"), (Kind.KEY, "k3")):
            revoke(revocations, log, kind, target)
        revocations.apply(self.begun(), clock.now)
        later = replace(OTHER, log_position=2000)
        for hit in (replace(later, session_id="s1"), replace(later, token_id="t3"), replace(later, key_id="k3")):
            assert is_revoked(revocations, hit)
        assert not is_revoked(revocations, later)

    def test_it_may_come_in_parts_and_is_complete_with_the_last(
        self, revocations: Revocations, log: Log, clock: Clock
    ) -> None:
        revoke(revocations, log, Kind.SESSION, "s1")
        clock.now += 5
        revocations.apply(self.begun("s3", more=True), clock.now)
        assert revocations.age() == 5
        last = Revocation(1003, Kind.SESSION, "s4", ISSUED_AT + LIFE)
        answer = self.begun(first=1003, head=1003, revocations=(last,), reset=False, digest=chain(bytes(32), last))
        revocations.apply(answer, clock.now)
        assert revocations.age() == 0

    def test_streams_learn_of_it(self, revocations: Revocations, log: Log, clock: Clock) -> None:
        revoke(revocations, log, Kind.SESSION, "s1")
        looked: list[bool] = []
        revocations.watch(OTHER, lambda: looked.append(is_revoked(revocations, OTHER)))
        revocations.apply(self.begun(), clock.now)
        assert looked == [True]

    def test_the_log_before_is_not_followed_again(self, revocations: Revocations, log: Log, clock: Clock) -> None:
        revoke(revocations, log, Kind.SESSION, "s1")
        revocations.apply(self.begun(), clock.now)
        log.add(Kind.SESSION, "s5")
        for after in (0, 1):
            with pytest.raises(FeedFault, match="another log"):
                revocations.apply(log.answer(after), clock.now)
        assert revocations.position == Position("e2", 1001)


kinds = st.sampled_from(list(Kind))
targets = st.sampled_from(["a", "b"])


@given(st.lists(st.tuples(kinds, targets), max_size=10), st.data())
def test_answers_in_any_order_result_in_a_prefix_of_the_log(made: list[tuple[Kind, str]], data: st.DataObject) -> None:
    log = Log()
    for kind, target in made:
        log.add(kind, EVERYTHING if kind is Kind.ALL else target)
    revocations, known, fresh_at = Revocations(Clock()), None, -math.inf
    for _ in range(data.draw(st.integers(0, 12))):
        after = data.draw(st.integers(0, len(made)))
        until_ = data.draw(st.integers(after, len(made)))
        asked_at = float(data.draw(st.integers(0, 50)))
        fits = after == (known or 0)
        try:
            revocations.apply(log.answer(after, until_), asked_at)
        except FeedFault:
            assert not fits
        else:
            assert fits
            known = until_
            if until_ == len(made):
                fresh_at = max(fresh_at, asked_at)
        applied = log.listed[: known or 0]
        assert revocations.position == (None if known is None else Position("e1", known))
        assert revocations.fresh_at == fresh_at
        for name in ("a", "b"):
            for rev in range(-1, len(made) + 1):
                asked = token(
                    subject=name, client_id=name, token_id=name, key_id=name, session_id=name, log_position=rev
                )
                expected = any(
                    each.target in {name, EVERYTHING}
                    and (each.kind in {Kind.SESSION, Kind.TOKEN, Kind.KEY} or rev < each.number)
                    for each in applied
                )
                assert is_revoked(revocations, asked) is expected


class TestAge:
    def test_it_counts_from_when_the_poll_was_sent(self, revocations: Revocations, log: Log, clock: Clock) -> None:
        asked_at = clock.now
        clock.now += 7  # on the way
        revocations.apply(log.answer(), asked_at)
        assert revocations.age() == 7
        clock.now += 3
        assert revocations.age() == 10

    def test_it_never_gets_less_by_an_answer_that_was_late(
        self, revocations: Revocations, log: Log, clock: Clock
    ) -> None:
        clock.now = 50.0
        revocations.apply(log.answer(), 40.0)
        revocations.apply(log.answer(), 20.0)
        assert revocations.fresh_at == 40.0
        log.add(Kind.SESSION, "s1")
        revocations.apply(log.answer(), 30.0)
        assert revocations.fresh_at == 40.0
        assert is_revoked(revocations, token())

    def test_the_bound_itself_is_not_too_old(self, revocations: Revocations, log: Log, clock: Clock) -> None:
        revocations.apply(log.answer(), clock.now)
        clock.now += 30
        assert revocations.is_fresh(30)
        clock.now += 0.001
        assert not revocations.is_fresh(30)

    def test_what_the_issuer_counts_on_is_a_bound_too(self, revocations: Revocations, log: Log, clock: Clock) -> None:
        """The issuer counts on revocations being in force when the lease ends."""
        revocations.apply(log.answer(), clock.now, 30)
        clock.now += 30
        assert revocations.is_fresh(60)
        assert not revocations.is_fresh(20)
        clock.now += 0.001
        assert not revocations.is_fresh(60)

    def test_the_lease_of_the_last_complete_answer_counts(
        self, revocations: Revocations, log: Log, clock: Clock
    ) -> None:
        revocations.apply(log.answer(), clock.now, 30)
        log.add(Kind.SESSION, "s1")
        log.add(Kind.SESSION, "s2")
        revocations.apply(log.answer(0, 1), clock.now, 60)
        clock.now += 31
        assert not revocations.is_fresh(60)
        revocations.apply(log.answer(1), clock.now, 60)
        clock.now += 31
        assert revocations.is_fresh(60)

    def test_the_issuers_clock_does_not_matter(self, revocations: Revocations, log: Log, clock: Clock) -> None:
        for issued_at in (0, 2**40):
            revocations.apply(log.answer(issued_at=issued_at), clock.now)
            assert revocations.age() == 0


class TestForgetting:
    def pass_time(self, revocations: Revocations, log: Log, clock: Clock, now: float) -> None:
        """Advance the clock, and apply an answer without revocations, which removes expired ones."""
        clock.now = now
        revocations.apply(log.answer(len(log.listed)), now)

    @pytest.mark.parametrize(("kind", "target"), ONE_OF_EACH)
    def test_a_revocation_is_kept_for_its_time_and_not_longer(
        self, revocations: Revocations, log: Log, clock: Clock, kind: Kind, target: str
    ) -> None:
        clock.now = 0.0
        revoke(revocations, log, kind, target)
        for now in (LIFE, LIFE + RETENTION_MARGIN - 0.001):
            self.pass_time(revocations, log, clock, now)
            assert is_revoked(revocations, token())
        self.pass_time(revocations, log, clock, LIFE + RETENTION_MARGIN)
        assert not is_revoked(revocations, token())
        assert len(revocations) == 0
        assert not revocations.has_key("k1")

    @pytest.mark.parametrize("skew", [-(10**9), -3600, 3600, 10**9])
    @pytest.mark.parametrize("kind", [Kind.SESSION, Kind.SUBJECT])
    def test_its_time_is_by_the_issuers_clock_alone(
        self, revocations: Revocations, log: Log, clock: Clock, kind: Kind, skew: int
    ) -> None:
        clock.now = 0.0
        revocation = replace(log.add(kind, "s1"), expires_at=ISSUED_AT + skew + LIFE)
        revoked = replace(revocation, target="u1") if kind is Kind.SUBJECT else revocation
        digest = chain(GENESIS, revoked)
        answer = log.answer(issued_at=ISSUED_AT + skew, revocations=(revoked,), digest=digest)
        revocations.apply(answer, 0.0)
        log.digests[1] = digest
        self.pass_time(revocations, log, clock, LIFE + RETENTION_MARGIN - 0.001)
        assert is_revoked(revocations, token())
        self.pass_time(revocations, log, clock, LIFE + RETENTION_MARGIN)
        assert not is_revoked(revocations, token())

    @pytest.mark.parametrize(("kind", "target"), ONE_OF_EACH)
    @pytest.mark.parametrize("life", [-(10**9), -100, 0, 900, 3600])
    def test_none_is_kept_for_less_than_the_longest_life_of_a_token(
        self, revocations: Revocations, log: Log, clock: Clock, kind: Kind, target: str, life: int
    ) -> None:
        """The clocks of an issuer's replicas differ, and expiry depends on its configuration."""
        clock.now = 0.0
        revoke(revocations, log, kind, target, life)
        self.pass_time(revocations, log, clock, MIN_RETENTION + RETENTION_MARGIN - 0.001)
        assert is_revoked(revocations, token())
        self.pass_time(revocations, log, clock, MIN_RETENTION + RETENTION_MARGIN)
        assert not is_revoked(revocations, token())

    def test_the_wall_clock_removes_nothing(
        self, revocations: Revocations, log: Log, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for kind, target in ONE_OF_EACH:
            revoke(revocations, log, kind, target)
        monkeypatch.setattr("time.time", lambda: 4e9)
        revocations.apply(log.answer(6), 0.0)
        assert len(revocations) == 6

    def test_an_outage_removes_nothing(self, revocations: Revocations, log: Log, clock: Clock) -> None:
        """Only answers remove expired revocations."""
        revoke(revocations, log, Kind.SESSION, "s1")
        clock.now += 1e6
        assert is_revoked(revocations, token())

    def test_a_generation_waits_for_the_last_of_its_own(self, revocations: Revocations, log: Log, clock: Clock) -> None:
        clock.now = 0.0
        revoke(revocations, log, Kind.SESSION, "s1")
        clock.now = 100.0
        revoke(revocations, log, Kind.SESSION, "s2", life=2 * LIFE)
        self.pass_time(revocations, log, clock, 100 + 2 * LIFE + RETENTION_MARGIN - 0.001)
        assert is_revoked(revocations, token(session_id="s2"))
        self.pass_time(revocations, log, clock, 100 + 2 * LIFE + RETENTION_MARGIN)
        assert len(revocations) == 0

    def test_a_rejected_answer_removes_nothing(self, revocations: Revocations, log: Log, clock: Clock) -> None:
        revoke(revocations, log, Kind.SESSION, "s1")
        clock.now += 1e6
        with pytest.raises(FeedFault):
            revocations.apply(log.answer(1, epoch="e2"), clock.now)
        assert is_revoked(revocations, token())

    def test_with_a_steady_flow_there_are_few_generations(
        self, revocations: Revocations, log: Log, clock: Clock
    ) -> None:
        clock.now, most = 0.0, 0
        for number in range(1, 1001):
            clock.now += 40
            revoke(revocations, log, Kind.SESSION, f"s{number}")
            most = max(most, len(revocations._sessions.live))
        assert most <= 4
        # Not more than twice what matters still.
        assert (LIFE + RETENTION_MARGIN) / 40 <= len(revocations) <= 2 * (LIFE + RETENTION_MARGIN) / 40

    @settings(max_examples=50)
    @given(
        st.lists(
            st.tuples(st.floats(0, 5000), st.sampled_from(ONE_OF_EACH[:-1]), st.integers(0, 3), st.integers(-10, 9000)),
            max_size=15,
        )
    )
    def test_what_is_live_is_what_a_list_of_all_says(
        self, made: list[tuple[float, tuple[Kind, str], int, int]]
    ) -> None:
        """But for what is kept a little longer, as all of a generation ends together."""
        clock, log = Clock(0.0), Log()
        revocations = Revocations(clock)
        simple: list[tuple[Revocation, float]] = []
        for pause, (kind, target), which, life in made:
            clock.now += pause
            revoke(revocations, log, kind, f"{target}{which}", life)
            simple.append((log.listed[-1], clock.now + max(MIN_RETENTION, life) + RETENTION_MARGIN))
            for revocation, end in simple:
                hit = TARGETS[revocation.kind](revocation.target)
                before = token(**hit, log_position=revocation.number - 1)
                assert is_revoked(revocations, before) or clock.now >= end
                after = token(**hit, log_position=len(log.listed))
                assert is_revoked(revocations, after) is (
                    revocation.kind not in CUTOFFS and is_revoked(revocations, before)
                )
                assert not is_revoked(revocations, token(**TARGETS[revocation.kind](f"{revocation.target}x")))
        clock.now += 1e5
        revocations.apply(log.answer(len(log.listed)), clock.now)
        assert len(revocations) == 0

    @pytest.mark.parametrize("kind", Kind)
    def test_an_answer_without_news_looks_at_nothing_that_is_live(
        self, revocations: Revocations, log: Log, monkeypatch: pytest.MonkeyPatch, kind: Kind
    ) -> None:
        """However many there are."""
        revoke(revocations, log, kind)
        for collection in (NameSet, NumbersByName):
            for method in ("__len__", "__init__"):
                monkeypatch.setattr(collection, method, None)
            monkeypatch.setattr(collection, "__getattribute__", None)
        revocations.apply(log.answer(1), 0.0)
        assert revocations.position == Position("e1", 1)


class TestWatch:
    @pytest.mark.parametrize(("kind", "target"), ONE_OF_EACH)
    def test_listeners_are_called_once_a_revocation_is_in_force(
        self, revocations: Revocations, log: Log, kind: Kind, target: str
    ) -> None:
        seen: list[bool] = []
        revocations.watch(token(), lambda: seen.append(is_revoked(revocations, token())))
        revoke(revocations, log, kind, target)
        assert seen == [True]

    def test_listeners_are_not_called_for_other_targets(self, revocations: Revocations, log: Log) -> None:
        seen: list[None] = []
        revocations.watch(token(), lambda: seen.append(None))
        for kind, _ in ONE_OF_EACH[:-1]:
            revoke(revocations, log, kind, "other")
        for other, target in ((Kind.TOKEN, "s1"), (Kind.SESSION, "t1"), (Kind.CLIENT, "u1"), (Kind.SUBJECT, "c1")):
            revoke(revocations, log, other, target)
        assert seen == []

    def test_all_listeners_are_called(self, revocations: Revocations, log: Log) -> None:
        seen: list[int] = []
        looks = [lambda each=each: seen.append(each) for each in range(3)]
        for look in looks:
            revocations.watch(token(), look)
        revoke(revocations, log, Kind.SESSION, "s1")
        assert sorted(seen) == [0, 1, 2]

    def test_a_removed_listener_is_not_called_and_leaves_nothing(self, revocations: Revocations, log: Log) -> None:
        seen: list[str] = []
        ends = [revocations.watch(asked, lambda: seen.append("told")) for asked in (token(), token(session_id=None))]
        remaining = revocations.watch(token(), lambda: seen.append("remaining"))
        for end in ends:
            end()
            end()
        revoke(revocations, log, Kind.SUBJECT, "u1")
        assert seen == ["remaining"]
        remaining()
        assert revocations._listeners == {}

    def test_a_listener_may_be_removed_while_it_is_called(self, revocations: Revocations, log: Log) -> None:
        told: list[int] = []

        def watch(number: int) -> None:
            def look() -> None:
                told.append(number)
                end()

            end = revocations.watch(token(), look)

        for number in range(3):
            watch(number)
        revoke(revocations, log, Kind.SESSION, "s1")
        assert sorted(told) == [0, 1, 2]
        assert revocations._listeners == {}

    def test_a_clients_own_token_is_watched_without_a_session(self, revocations: Revocations, log: Log) -> None:
        seen: list[None] = []
        revocations.watch(token(session_id=None), lambda: seen.append(None))
        revoke(revocations, log, Kind.SESSION, "s1")
        assert seen == []
        revoke(revocations, log, Kind.CLIENT, "c1")
        assert seen == [None]


@pytest.fixture
def hasty_threads() -> Iterator[None]:
    """Switch threads often."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(usual)


@pytest.mark.usefixtures("hasty_threads")
def test_other_threads_may_check_while_answers_are_applied(clock: Clock) -> None:
    """A revocation in force stays so, others never match, and nothing raises."""
    revocations, log, applied, is_done = Revocations(clock), Log(), 0, False
    failures: list[object] = []

    def look() -> None:
        try:
            while not is_done:
                known = applied
                for number in range(max(1, known - 40), known + 1):
                    asked = (
                        token(session_id=f"x{number}"),
                        token(token_id=f"x{number}", session_id=None),
                        token(subject=f"x{number}"),
                    )[number % 3]
                    found = is_revoked(revocations, asked)
                    # Its time may be over by now, if the other thread was quick.
                    if not found and 10 * (applied + 1 - number) < LIFE:
                        failures.append(f"lost {number} of {known}")
                if is_revoked(revocations, OTHER):
                    failures.append("hit")
                assert len(revocations) >= 0
        except BaseException as error:  # noqa: BLE001 - reported below
            failures.append(error)

    readers = [threading.Thread(target=look) for _ in range(3)]
    for reader in readers:
        reader.start()
    for number in range(1, 2001):
        clock.now += 10
        revoke(revocations, log, (Kind.SESSION, Kind.TOKEN, Kind.SUBJECT)[number % 3], f"x{number}")
        applied = number
    is_done = True
    for reader in readers:
        reader.join()
    assert failures == []
