"""The compact set: equal to a Python set, in a fraction of its memory, and readable while it grows."""

import random
import sys
import threading
import tracemalloc
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ostiary import _compact
from ostiary._compact import CompactSet, Name, name

#: Halves that meet: in one table or the next one, in one slot or the next ones, around the end of a table.
_firsts = st.sampled_from([0, 1, 255, 256, 257, 2**64 - 1])
_seconds = st.sampled_from([1, 2, 6, 7, 8, 9, 15, 16, 17, 2**63, 2**64 - 1])
colliding_names = st.tuples(_firsts, _seconds)
any_names = st.tuples(st.integers(0, 2**64 - 1), st.integers(1, 2**64 - 1))


def random_names(count: int, seed: int) -> list[Name]:
    chance = random.Random(seed)  # noqa: S311 - made-up names
    return [(chance.getrandbits(64), chance.getrandbits(64) or 1) for _ in range(count)]


@pytest.fixture
def hasty_threads() -> Iterator[None]:
    """Switch threads often."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(usual)


@given(st.lists(colliding_names | any_names, max_size=80), st.lists(colliding_names | any_names, max_size=20))
def test_it_holds_what_a_python_set_holds(added: list[Name], looked_for: list[Name]) -> None:
    ours, theirs = CompactSet(), set[Name]()
    for each in added:
        ours.add(each)
        theirs.add(each)
        assert each in ours
        assert len(ours) == len(theirs)
    for each in (*added, *looked_for):
        assert (each in ours) is (each in theirs)


@settings(max_examples=25)
@given(st.lists(st.integers(1, 40), max_size=120))
def test_a_full_table_grows_without_loss(seconds: list[int]) -> None:
    """All names are in one table, which grows several times."""
    ours, theirs = CompactSet(), set[Name]()
    for second in seconds:
        ours.add((512, second))
        theirs.add((512, second))
    assert {(512, second) for second in range(1, 60) if (512, second) in ours} == theirs
    assert len(ours) == len(theirs)


def test_both_halves_of_a_name_count() -> None:
    ours = CompactSet()
    ours.add((256, 9))
    assert (256, 9) in ours
    assert (256, 10) not in ours
    assert (512, 9) not in ours


def test_an_empty_set_contains_nothing() -> None:
    ours = CompactSet()
    assert len(ours) == 0
    assert all(each not in ours for each in random_names(1000, seed=1))


def test_many_names_are_found_and_others_are_not() -> None:
    names, others = random_names(50_000, seed=2), random_names(50_000, seed=3)
    ours = CompactSet()
    for each in names:
        ours.add(each)
    assert len(ours) == 50_000
    assert all(each in ours for each in names)
    assert not any(each in ours for each in others)


def test_fifty_thousand_names_take_little_memory_even_while_it_grows() -> None:
    names = random_names(50_000, seed=4)
    tracemalloc.start()
    try:
        ours = CompactSet()
        for each in names:
            ours.add(each)
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # 64 MiB for a million, in proportion.
    assert held < 50_000 * 64 * 2**20 / 1_000_000
    assert peak < 50_000 * 64 * 2**20 / 1_000_000


@pytest.mark.usefixtures("hasty_threads")
def test_a_reader_finds_all_earlier_names_while_another_thread_adds() -> None:
    names = random_names(20_000, seed=5)
    ours, added = CompactSet(), 0
    lost: list[int] = []

    def look() -> None:
        chance = random.Random(6)  # noqa: S311 - any names
        while added < len(names):
            until = added
            looked_for = chance.choices(range(until), k=20) if until else []
            lost.extend(index for index in looked_for if names[index] not in ours)

    readers = [threading.Thread(target=look) for _ in range(3)]
    for reader in readers:
        reader.start()
    for each in names:
        ours.add(each)
        added += 1
    for reader in readers:
        reader.join()
    assert lost == []


@given(st.text(st.characters(exclude_categories=["Cs"])), st.text(st.characters(exclude_categories=["Cs"])))
def test_names_are_the_same_for_the_same_things_only(one: str, other: str) -> None:
    assert name("session", one) == name("session", one)
    assert name("session", one) != name("token", one)
    assert (name("session", one) == name("session", other)) is (one == other)


def test_a_name_has_two_64_bit_halves_and_is_not_an_empty_slot() -> None:
    for number in range(1000):
        first, second = name("token", str(number))
        assert 0 <= first < 2**64
        assert 0 < second < 2**64


def test_a_digest_equal_to_an_empty_slot_is_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_compact, "_HALVES", lambda _: (5, 0))
    ours = CompactSet()
    assert name("token", "a") not in ours
    ours.add(name("token", "a"))
    assert name("token", "a") in ours


def test_collisions_cannot_be_predicted(monkeypatch: pytest.MonkeyPatch) -> None:
    here = name("token", "a")
    monkeypatch.setattr(_compact, "_KEY", bytes(16))
    assert name("token", "a") != here
