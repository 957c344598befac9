"""Compact collections: equal to Python's own, in a fraction of their memory, and readable while they grow."""

import sys
import threading
import tracemalloc
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ostiary._compact import NAME_BYTES, Name, NameSet, NumbersByName, name

#: Few enough to come again, and so many that some share a bucket.
names = st.integers(0, 40).map(lambda number: bytes([7, number % 3]) + name("session", str(number))[2:])


def some_names(kind: str, count: int) -> list[Name]:
    return [name(kind, str(number)) for number in range(count)]


@pytest.fixture
def hasty_threads() -> Iterator[None]:
    """Switch threads often."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(usual)


@settings(max_examples=50)
@given(st.lists(names, max_size=80), st.lists(names, max_size=20))
def test_a_set_holds_what_a_python_set_holds(added: list[Name], looked_for: list[Name]) -> None:
    ours, theirs = NameSet(), set[Name]()
    for each in added:
        ours.add(each)
        theirs.add(each)
        assert len(ours) == len(theirs)
    for each in (*added, *looked_for):
        assert (each in ours) is (each in theirs)


@settings(max_examples=50)
@given(st.lists(st.tuples(names, st.integers(1, 2**62 - 1)), max_size=80), st.lists(names, max_size=20))
def test_numbers_are_those_of_a_python_dictionary(put: list[tuple[Name, int]], looked_for: list[Name]) -> None:
    ours, theirs = NumbersByName(), dict[Name, int]()
    for key, number in put:
        ours.put(key, number)
        theirs[key] = number
        assert len(ours) == len(theirs)
    for key in (*theirs, *looked_for):
        assert ours.get(key) == theirs.get(key, -1)


def test_many_names_are_found_and_others_are_not() -> None:
    ours, numbers = NameSet(), NumbersByName()
    for number, each in enumerate(some_names("session", 50_000)):
        ours.add(each)
        numbers.put(each, number)
    assert len(ours) == len(numbers) == 50_000
    assert all(each in ours for each in some_names("session", 50_000))
    assert [numbers.get(each) for each in some_names("session", 50_000)] == list(range(50_000))
    assert not any(each in ours or numbers.get(each) >= 0 for each in some_names("token", 50_000))


def test_fifty_thousand_names_take_little_memory_even_while_it_grows() -> None:
    added = some_names("session", 50_000)
    tracemalloc.start()
    try:
        ours = NameSet()
        for each in added:
            ours.add(each)
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # Most of it are the empty buckets.
    assert held < 50_000 * NAME_BYTES + 2.5 * 2**20
    assert peak < 50_000 * NAME_BYTES + 2.5 * 2**20


@pytest.mark.usefixtures("hasty_threads")
def test_a_reader_finds_all_earlier_names_while_another_thread_adds() -> None:
    added_names = [bytes([1, 2]) + each[2:] for each in some_names("session", 4_000)]
    ours, numbers, added = NameSet(), NumbersByName(), 0
    lost: list[int] = []

    def look() -> None:
        while (until := added) < len(added_names):
            looked_for = [(index, added_names[index]) for index in range(0, until, 97)]
            lost.extend(index for index, each in looked_for if each not in ours or numbers.get(each) != index)

    readers = [threading.Thread(target=look) for _ in range(3)]
    for reader in readers:
        reader.start()
    for index, each in enumerate(added_names):
        ours.add(each)
        numbers.put(each, index)
        added += 1
    for reader in readers:
        reader.join()
    assert lost == []


@given(st.text(st.characters(exclude_categories=["Cs"])), st.text(st.characters(exclude_categories=["Cs"])))
def test_names_are_the_same_for_the_same_things_only(one: str, other: str) -> None:
    assert len(name("session", one)) == NAME_BYTES
    assert name("session", one) == name("session", one)
    assert name("session", one) != name("token", one)
    assert (name("session", one) == name("session", other)) is (one == other)
