"""The revocation log as it is told: whole, in order, chained, and whatever was committed before the question."""

import asyncio
import random
from collections import deque
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import cast
from uuid import uuid4

import pytest
from sqlalchemy import delete, func, insert, select, update
from users import log_in

from ostiary import KeySet, Revocations
from ostiary.feed import (
    EVERYTHING,
    GENESIS,
    MAX_EVENTS,
    MAX_NONCES,
    PAGE_NUMBERS,
    ROW_BYTES,
    Answer,
    FeedFault,
    Kind,
    Position,
    Revocation,
    chain,
    read,
)
from ostiary_auth.config import MAX_ACCESS_TOKEN_TTL, AuthConfig
from ostiary_auth.domain.audit.model import Event
from ostiary_auth.domain.context import OPERATOR, SYSTEM, Context
from ostiary_auth.domain.errors import LogReplaced
from ostiary_auth.domain.keys.key_ring import SigningKey
from ostiary_auth.domain.ports import Store, Transaction
from ostiary_auth.domain.revocation import feed as feed_module
from ostiary_auth.domain.revocation.feed import TAIL, RevocationFeed
from ostiary_auth.domain.revocation.log import EXPIRY_MARGIN, LOST_NUMBERS, NUMBERS_PER_SECOND
from ostiary_auth.domain.revocation.model import Entry, LoggedRevocation, LogHead, ReplacedLog, RevokedNumbers
from ostiary_auth.domain.revocation.receipts import Receipts
from ostiary_auth.services import Services, ServiceSecrets
from ostiary_auth.storage.revocation.tables import revocation_head, revocations
from ostiary_chassis.sql.database import POOL_SIZE

SOON = 60.0
NONCE = "q8XbT0kq2m4hQ0Zk7A1dYw"
LONG_AGO = timedelta(days=1)


class Follower:
    """A verifier that follows the log of one replica."""

    def __init__(self, services: Services, feed: RevocationFeed | None = None) -> None:
        self.services = services
        self.feed = feed or services.feed
        self.revocations = Revocations()

    @property
    def number(self) -> int:
        return self.revocations.position.number if self.revocations.position else 0

    async def ask(self) -> Answer:
        """Ask once, and apply the answer."""
        await self.feed.refresh()
        asked_at = self.revocations.now()
        position = self.revocations.position
        followed = position.number if position and position.epoch == self.feed.epoch else 0
        text = await self.feed.signed_answer(followed, NONCE)
        keys = KeySet.from_json(self.services.local_keys.ring().document)
        answer = read(text, self.services.config.issuer, keys, self.revocations.has_key, NONCE)
        self.revocations.apply(answer, asked_at)
        return answer

    async def catch_up(self) -> list[Answer]:
        answers = [await self.ask()]
        while answers[-1].more:
            answers.append(await self.ask())
        return answers


async def revoke(services: Services, *targets: str, age: timedelta = timedelta(0)) -> None:
    """Revoke sessions, some time ago, one after the other."""
    for target in targets:
        async with services.store.write() as transaction:
            context = Context(datetime.now(UTC) - age)
            await services.revocations.revoke(transaction, context, Kind.SESSION, target)


async def restart(services: Services, now: datetime) -> RevokedNumbers:
    async with services.store.write() as transaction:
        return await services.revocations.restart(transaction, Context(now))


async def digest_at(services: Services, number: int) -> bytes:
    async with services.store.read() as transaction:
        (entry,) = await transaction.revocations.entries(number - 1, number, 1)
    return entry.digest


def new_replica(services: Services) -> RevocationFeed:
    receipts = services.feed._receipts
    return RevocationFeed(services.store, services.config.issuer, services.local_keys.ring, receipts, services.clock)


async def revoke_many(services: Services, number: int, kind: Kind = Kind.SESSION) -> None:
    """Revoke thousands, as the log would."""
    async with services.store.write() as transaction:
        head = await transaction.revocations.lock_head()
        expires_at = datetime.now(UTC).replace(microsecond=0) + timedelta(minutes=16)
        digest, rows = head.digest, []
        for each in range(head.number + 1, head.number + number + 1):
            target = str(uuid4()) if kind is Kind.SESSION else f"{each:x<64}"
            digest = chain(digest, Revocation(each, kind, target, int(expires_at.timestamp())))
            rows.append(LoggedRevocation(each, kind, target, expires_at, expires_at, digest))
        values = [{name: getattr(row, name) for name in revocations.c.keys()} for row in rows]  # noqa: SIM118 - no mapping
        await transaction._connection.execute(insert(revocations), values)
        await transaction._connection.execute(update(revocation_head).values(number=rows[-1].number, digest=digest))


def numbers_of(answer: Answer) -> list[int]:
    """Return the numbers of the revocations in an answer."""
    if answer.page is None:
        return [revocation.number for revocation in answer.revocations]
    rows = answer.page.rows
    return [answer.page.start + int.from_bytes(rows[at : at + 2]) for at in range(0, len(rows), ROW_BYTES)]


async def prune(services: Services) -> None:
    async with services.store.write() as transaction:
        await transaction.prune(datetime.now(UTC), idle=timedelta(days=14), limit=100_000)


@pytest.fixture
async def other(config: AuthConfig, own: ServiceSecrets) -> AsyncIterator[Services]:
    """A second replica on the same database."""
    services = Services(config, own)
    services.local_keys.use(await services.keys.load())
    yield services
    await services.close()


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three revocations in an answer, and six in memory."""
    monkeypatch.setattr(feed_module, "MAX_EVENTS", 3)
    monkeypatch.setattr(feed_module, "TAIL", 6)


class TestChain:
    async def test_a_log_in_which_nothing_is_says_so(self, services: Services) -> None:
        answer = await Follower(services).ask()
        assert (answer.first, answer.head, answer.more, answer.reset) == (1, 0, False, False)
        assert (answer.revocations, answer.digest) == ((), GENESIS)
        assert answer.epoch
        assert answer.issuer == services.config.issuer
        assert answer.keys == KeySet.from_json(services.local_keys.ring().document).version

    async def test_revocations_are_numbered_in_the_order_of_their_commits(self, services: Services) -> None:
        await revoke(services, "first", "second")
        await services.revocations.revoke_all(services.store, Context(datetime.now(UTC)))
        answer = await Follower(services).ask()
        found = [(each.number, each.kind, each.target) for each in answer.revocations]
        assert found == [(1, Kind.SESSION, "first"), (2, Kind.SESSION, "second"), (3, Kind.ALL, EVERYTHING)]
        assert (answer.head, answer.reset) == (3, False)

    async def test_each_is_chained_to_the_one_before(self, services: Services) -> None:
        await revoke(services, "first", "second")
        digest = GENESIS
        for revocation in (await Follower(services).ask()).revocations:
            digest = chain(digest, revocation)
            async with services.store.read() as transaction:
                (logged,) = await transaction.revocations.after(revocation.number - 1, revocation.number, 1)
            assert (logged.digest, logged.revocation) == (digest, revocation)
        async with services.store.read() as transaction:
            assert (await transaction.revocations.head()).digest == digest

    async def test_it_says_how_long_each_matters(self, services: Services) -> None:
        before = datetime.now(UTC)
        await revoke(services, "session")
        (revocation,) = (await Follower(services).ask()).revocations
        lifetime = timedelta(seconds=MAX_ACCESS_TOKEN_TTL) + EXPIRY_MARGIN
        assert (before + lifetime).timestamp() <= revocation.expires_at
        assert revocation.expires_at <= (datetime.now(UTC) + lifetime).timestamp() + 1

    async def test_appends_at_once_on_two_replicas_make_one_chain(self, services: Services, other: Services) -> None:
        replicas = (services, other)
        await asyncio.gather(*(revoke(replicas[number % 2], str(number)) for number in range(20)))
        answer = await Follower(services).ask()
        assert [each.number for each in answer.revocations] == list(range(1, 21))
        assert {each.target for each in answer.revocations} == set(map(str, range(20)))
        assert (await Follower(other).ask()).digest == answer.digest


class TestPages:
    @pytest.mark.usefixtures("small_pages")
    @pytest.mark.parametrize("seed", range(3))
    async def test_a_verifier_accepts_the_whole_history_however_it_asks(self, services: Services, seed: int) -> None:
        chance = random.Random(seed)  # noqa: S311 - no secret
        feed = new_replica(services)
        followers, told_to, resets, targets = [Follower(services, feed)], [list[int]()], 0, 0
        for _ in range(30):
            work = chance.choice(["revoke", "revoke", "ask", "ask", "ask", "join", "prune"])
            if work == "revoke":
                names = [f"session {targets + each}" for each in range(chance.randrange(1, 6))]
                targets += len(names)
                await revoke(services, *names, age=chance.choice([timedelta(0), LONG_AGO]))
            elif work == "ask":
                number = chance.randrange(len(followers))
                answer = await followers[number].ask()
                told_to[number] += numbers_of(answer)
                resets += answer.reset
            elif work == "join":
                followers.append(Follower(services, feed))
                told_to.append([])
            else:
                await prune(services)
        assert targets
        async with services.store.read() as transaction:
            left = await transaction.revocations.after(0, targets, 1000)
        for follower, before in zip(followers, told_to, strict=True):
            rest = [number for answer in await follower.catch_up() for number in numbers_of(answer)]
            assert follower.number == targets
            numbers = [*before, *rest]
            assert numbers == sorted(set(numbers))
            # Whatever can still hit something has come to everybody.
            assert {logged.number for logged in left} <= set(numbers)
            assert len(follower.revocations) == len(numbers)

    async def test_more_than_fit_into_one_answer_come_in_several(
        self, services: Services, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(feed_module, "TAIL", 3 * MAX_EVENTS)
        services.feed._tail = deque(maxlen=3 * MAX_EVENTS)
        await revoke_many(services, 2 * MAX_EVENTS + 5)
        follower = Follower(services)
        answers, complete = [], []
        for _ in range(3):
            answers.append(await follower.ask())
            complete.append(follower.revocations.complete)
        assert [(each.first, each.head, each.more) for each in answers] == [
            (1, MAX_EVENTS, True),
            (MAX_EVENTS + 1, 2 * MAX_EVENTS, True),
            (2 * MAX_EVENTS + 1, 2 * MAX_EVENTS + 5, False),
        ]
        # Not before it has all there is does a verifier know anything for sure.
        assert complete == [False, False, True]
        assert not any(answer.reset for answer in answers)
        assert len(follower.revocations) == 2 * MAX_EVENTS + 5
        # The replica itself has learnt them in pages, too.
        assert len(services.feed.local.revocations) == 2 * MAX_EVENTS + 5
        assert len(services.feed._tail) == 2 * MAX_EVENTS + 5

    async def test_who_lacks_still_more_gets_pages(self, services: Services) -> None:
        await revoke_many(services, 2 * PAGE_NUMBERS + 5)
        follower = Follower(services)
        answers = await follower.catch_up()
        assert [(each.first, each.head, each.more, len(each.page or ())) for each in answers] == [
            (1, PAGE_NUMBERS - 1, True, PAGE_NUMBERS - 1),
            (PAGE_NUMBERS, 2 * PAGE_NUMBERS - 1, True, PAGE_NUMBERS),
            (2 * PAGE_NUMBERS, 2 * PAGE_NUMBERS + 5, False, 0),
        ]
        assert len(answers[-1].revocations) == 6
        for known in (follower.revocations, services.feed.local.revocations):
            assert len(known) == 2 * PAGE_NUMBERS + 5
        assert len(services.feed._tail) == TAIL
        # What it lacks of a page is all that it gets.
        late = Follower(services)
        late.revocations.apply(replace(answers[0], page=None, head=100, digest=await digest_at(services, 100)), 0.0)
        (answer, *_) = await late.catch_up()
        assert numbers_of(answer) == list(range(101, PAGE_NUMBERS))

    async def test_a_page_continues_what_was_followed(self, services: Services) -> None:
        await revoke(services, "1")
        follower = Follower(services)
        first = await follower.ask()
        await revoke_many(services, PAGE_NUMBERS)
        other = Follower(services)
        other.revocations.apply(replace(first, reset=True, digest=bytes(32)), 0.0)
        with pytest.raises(FeedFault, match="past has changed"):
            await other.ask()
        assert (await follower.ask()).page is not None

    async def test_a_replica_that_is_far_behind_notices_another_past(self, services: Services) -> None:
        await revoke(services, "1")
        feed = new_replica(services)
        await feed.refresh()
        await revoke_many(services, TAIL + 1)
        async with services.database.write() as connection:
            forged = update(revocations).where(revocations.c.number == 1).values(digest=bytes(32))
            await connection.execute(forged)
        with pytest.raises(LogReplaced):
            await feed.refresh()

    async def test_exactly_as_many_as_fit_are_all_there_is(self, services: Services) -> None:
        await revoke_many(services, MAX_EVENTS)
        answer = await Follower(services).ask()
        assert (answer.head, answer.more, answer.reset) == (MAX_EVENTS, False, False)

    async def test_the_largest_answer_that_there_can_be_is_one_that_verifiers_take(self, services: Services) -> None:
        async with services.database.write() as connection:
            await connection.execute(update(revocation_head).values(number=NUMBERS_PER_SECOND * 2**32))
        await revoke_many(services, MAX_EVENTS, Kind.CLIENT)
        answer = await Follower(services).ask()
        assert len(answer.revocations) == MAX_EVENTS
        assert {len(each.target) for each in answer.revocations} == {64}

    @pytest.mark.usefixtures("small_pages")
    async def test_the_last_entries_are_told_each(self, services: Services) -> None:
        await revoke(services, *map(str, range(9)))
        feed = new_replica(services)
        await feed.refresh()
        assert [entry.number for entry in feed._tail] == [4, 5, 6, 7, 8, 9]
        whole = await Follower(services, feed).catch_up()
        assert [(numbers_of(answer), answer.page is None) for answer in whole] == [([*range(1, 10)], False)]
        rest = Follower(services, feed)
        rest.revocations.apply(replace(whole[0], page=None, head=3, digest=await digest_at(services, 3)), 0.0)
        parts = [(numbers_of(answer), answer.page is None, answer.reset) for answer in await rest.catch_up()]
        assert parts == [([4, 5, 6], True, False), ([7, 8, 9], True, False)]

    @pytest.mark.usefixtures("small_pages")
    async def test_where_numbers_are_missing_nothing_is_left_out(self, services: Services) -> None:
        """Few entries are after a verifier, but over more numbers than are told each."""
        await revoke(services, "1", "2")
        await revoke(services, *map(str, range(3, 9)), age=LONG_AGO)
        await revoke(services, "9", "10")
        await prune(services)
        follower = Follower(services, new_replica(services))
        answers = await follower.catch_up()
        assert [number for answer in answers for number in numbers_of(answer)] == [1, 2, 9, 10]
        assert len(follower.revocations) == 4
        late = Follower(services, follower.feed)
        late.revocations.apply(replace(answers[0], page=None, head=1, digest=await digest_at(services, 1)), 0.0)
        assert [number for answer in await late.catch_up() for number in numbers_of(answer)] == [2, 9, 10]

    async def test_expiries_are_the_same_in_both_forms(self, services: Services) -> None:
        """Whole seconds, rounded up, whether the database or we convert them."""
        whole = datetime(2040, 1, 2, 3, 4, 5, tzinfo=UTC)
        times = [whole + timedelta(microseconds=each) for each in (0, 1, 499_999, 500_000, 999_999)]
        await revoke(services, *map(str, times))
        async with services.store.write() as transaction:
            for number, at in enumerate(times, 1):
                moved = update(revocations).where(revocations.c.number == number).values(expires_at=at)
                await transaction._connection.execute(moved)
        async with services.store.read() as transaction:
            entries = await transaction.revocations.entries(0, 5, 5)
            (columns,) = [part async for part in transaction.revocations.columns(0, 5, 8)]
        assert columns.expiries == [entry.expires_at for entry in entries]
        assert (columns.targets, columns.digest) == ([entry.target for entry in entries], entries[-1].digest)

    async def test_what_has_expired_is_told_to_nobody(self, services: Services) -> None:
        await revoke(services, "1", "2", age=LONG_AGO)
        await revoke(services, "3", "4")
        await services.feed.refresh()
        services.feed.remove_expired(datetime.now(UTC))
        answer = await Follower(services).ask()
        assert (numbers_of(answer), answer.head, answer.reset) == ([3, 4], 4, True)
        services.feed.remove_expired(datetime.now(UTC) + timedelta(days=1))
        answer = await Follower(services).ask()
        assert (numbers_of(answer), answer.head, answer.reset) == ([], 4, True)


class TestPruning:
    async def test_where_numbers_are_missing_the_answer_is_all_there_is(self, services: Services) -> None:
        await revoke(services, "1", "2", age=LONG_AGO)
        early = Follower(services)
        await early.ask()
        await revoke(services, "3", age=LONG_AGO)
        await revoke(services, "4", "5")
        await prune(services)
        late = Follower(services, new_replica(services))
        for follower in (early, late):
            answer = await follower.ask()
            assert [each.number for each in answer.revocations] == [4, 5]
            assert (answer.head, answer.reset, follower.number) == (5, True, 5)
        await revoke(services, "6")
        for follower in (early, late):
            answer = await follower.ask()
            assert ([each.number for each in answer.revocations], answer.reset) == ([6], False)

    async def test_a_replica_that_starts_later_says_the_same(self, services: Services, other: Services) -> None:
        await revoke(services, "1", "2", age=LONG_AGO)
        await revoke(services, "3", "4")
        await services.feed.refresh()
        await prune(services)
        from_the_first, from_the_second = Follower(services), Follower(other)
        assert (await from_the_second.ask()).reset
        await from_the_first.ask()
        await revoke(services, "5")
        # Whoever follows the one can go on with the other.
        from_the_first.feed, from_the_second.feed = other.feed, services.feed
        for follower in (from_the_first, from_the_second):
            answer = await follower.ask()
            assert ([each.number for each in answer.revocations], answer.reset) == ([5], False)

    async def test_when_nothing_matters_any_more_the_number_stays(self, services: Services) -> None:
        await revoke(services, "1", "2", age=LONG_AGO)
        await prune(services)
        follower = Follower(services)
        answer = await follower.ask()
        assert (answer.revocations, answer.head, answer.reset) == ((), 2, True)
        await revoke(services, "3")
        assert [each.number for each in (await follower.ask()).revocations] == [3]


class Signatures:
    """Counts signatures, and tells which answer each made."""

    def __init__(self, services: Services) -> None:
        self.services = services
        self.number = 0
        ring = services.local_keys.ring()
        services.local_keys.use(replace(ring, signing=cast("SigningKey", self)))
        self.kid, self._sign = ring.signing.kid, ring.signing.sign

    def sign(self, media_type: str, claims: Mapping[str, object]) -> str:
        self.number += 1
        return self._sign(media_type, claims)

    async def answers(self, after: int, nonces: Iterable[str]) -> dict[str, Answer]:
        """Have polls come at the same time, and return the answer that each accepts."""
        texts = await asyncio.gather(*(self.services.feed.signed_answer(after, nonce) for nonce in nonces))
        keys = KeySet.from_json(self.services.local_keys.ring().document)
        issuer = self.services.config.issuer
        return {
            nonce: read(text, issuer, keys, set[str]().__contains__, nonce)
            for nonce, text in zip(nonces, texts, strict=True)
        }


def nonces(number: int) -> list[str]:
    return [f"nonce-{each:016}" for each in range(number)]


class TestSigning:
    async def test_all_who_are_at_the_same_place_share_a_signature(self, services: Services) -> None:
        await revoke(services, "1")
        await services.feed.refresh()
        signatures = Signatures(services)
        at_0, at_1 = await asyncio.gather(signatures.answers(0, nonces(50)), signatures.answers(1, nonces(50)))
        assert signatures.number == 2
        assert {len(answer.revocations) for answer in at_0.values()} == {1}
        assert {len(answer.revocations) for answer in at_1.values()} == {0}

    @pytest.mark.parametrize(("polls", "signed"), [(MAX_NONCES, 1), (MAX_NONCES + 1, 2), (10 * MAX_NONCES, 10)])
    async def test_one_answers_a_bounded_number(self, services: Services, polls: int, signed: int) -> None:
        await services.feed.refresh()
        signatures = Signatures(services)
        assert len(await signatures.answers(0, nonces(polls))) == polls
        assert signatures.number == signed

    async def test_the_same_nonce_twice_is_answered_twice(self, services: Services) -> None:
        await services.feed.refresh()
        first, second = await asyncio.gather(*(services.feed.signed_answer(0, NONCE) for _ in range(2)))
        assert first == second

    async def test_no_answer_is_given_a_second_time(self, services: Services) -> None:
        await services.feed.refresh()
        first, second = [await services.feed.signed_answer(0, nonce) for nonce in nonces(2)]
        keys = KeySet.from_json(services.local_keys.ring().document)
        read(first, services.config.issuer, keys, set[str]().__contains__, nonces(1)[0])
        with pytest.raises(FeedFault, match="answer to other polls"):
            read(second, services.config.issuer, keys, set[str]().__contains__, nonces(1)[0])

    async def test_who_comes_while_an_answer_is_made_gets_one_of_their_own(
        self, services: Services, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The answer that is being made may be of an earlier state than theirs has to be."""
        monkeypatch.setattr(feed_module, "TAIL", 1)
        services.feed._tail = deque(maxlen=1)
        await revoke(services, "1", "2", "3")
        await services.feed.refresh()
        digest_at, reading, may_go_on = services.feed._digest_at, asyncio.Event(), asyncio.Event()

        async def slow(number: int, head: LogHead) -> bytes | None:
            reading.set()
            await may_go_on.wait()
            return await digest_at(number, head)

        monkeypatch.setattr(services.feed, "_digest_at", slow)
        signatures = Signatures(services)
        early = asyncio.create_task(signatures.answers(1, nonces(1)))
        await reading.wait()
        await revoke(services, "4")
        await services.feed.refresh()
        late = asyncio.create_task(signatures.answers(1, nonces(1)))
        await asyncio.sleep(0)
        may_go_on.set()
        (before,), (after,) = (await early).values(), (await late).values()
        assert (before.head, after.head) == (3, 4)

    async def test_one_who_gives_up_takes_the_answer_from_nobody(self, services: Services) -> None:
        await services.feed.refresh()
        signatures = Signatures(services)
        gives_up = asyncio.create_task(signatures.answers(0, nonces(1)))
        others = asyncio.create_task(signatures.answers(0, nonces(3)))
        await asyncio.sleep(0)
        gives_up.cancel()
        assert len(await others) == 3
        assert signatures.number == 1

    async def test_it_is_signed_with_the_key_of_the_moment(self, services: Services) -> None:
        await services.feed.refresh()
        ring = services.local_keys.ring()
        following = next(key for key in ring.published if key.kid != ring.signing.kid)
        services.local_keys.use(replace(ring, signing=following))
        after = await services.feed.signed_answer(0, NONCE)
        keys = KeySet.from_json(ring.document)
        with pytest.raises(FeedFault, match="revoked key"):
            read(after, services.config.issuer, keys, {following.kid}.__contains__, NONCE)
        read(after, services.config.issuer, keys, {ring.signing.kid}.__contains__, NONCE)

    async def test_waits_that_began_at_different_times_end_together(
        self, services: Services, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(feed_module, "GRID_SECONDS", 0.3)
        await services.feed.refresh()
        signatures, version = Signatures(services), services.local_keys.ring().version
        loop = asyncio.get_running_loop()

        async def poll(nonce: str) -> None:
            await services.feed.wait_for_changes(0, version, 0.5)
            await services.feed.signed_answer(0, nonce)

        # All of them within one step of the grid.
        await asyncio.sleep(0.32 - loop.time() % 0.3)
        polls = []
        for nonce in nonces(5):
            polls.append(asyncio.create_task(poll(nonce)))
            await asyncio.sleep(0.01)
        await asyncio.gather(*polls)
        assert signatures.number == 1


class TestNews:
    async def wait(self, services: Services, after: int = 0, keys: str | None = None) -> "asyncio.Task[None]":
        """Return somebody who waits for news."""
        version = services.local_keys.ring().version if keys is None else keys
        waiting = asyncio.create_task(services.feed.wait_for_changes(after, version, SOON))
        await asyncio.sleep(0)  # it is next in the queue, and goes as far as it can
        return waiting

    async def came(self, waiting: "asyncio.Task[None]") -> bool:
        """Return whether there was news before the time was up."""
        began_at = asyncio.get_running_loop().time()
        await waiting
        return asyncio.get_running_loop().time() - began_at < SOON / 2

    async def test_a_revocation_is_news(self, services: Services) -> None:
        await services.feed.refresh()
        waiting = await self.wait(services)
        assert not waiting.done()
        await revoke(services, "1")
        await services.feed.refresh()
        assert await self.came(waiting)

    async def test_other_keys_are_news(self, services: Services) -> None:
        await services.feed.refresh()
        waiting = await self.wait(services)
        assert not waiting.done()
        services.local_keys.use(replace(services.local_keys.ring(), version="others"))
        assert await self.came(waiting)

    async def test_the_same_keys_in_other_states_are_none(self, services: Services) -> None:
        await services.feed.refresh()
        waiting = await self.wait(services)
        services.local_keys.use(replace(services.local_keys.ring()))
        for _ in range(3):
            await asyncio.sleep(0)
        assert not waiting.done()
        services.feed.release_waiters()
        assert await self.came(waiting)

    async def test_the_end_of_the_service_is_news(self, services: Services) -> None:
        await services.feed.refresh()
        waiting = [await self.wait(services) for _ in range(3)]
        assert not any(each.done() for each in waiting)
        services.feed.release_waiters()
        assert all([await self.came(each) for each in waiting])
        assert await self.came(await self.wait(services))

    async def test_who_is_behind_or_ahead_or_has_other_keys_does_not_wait(self, services: Services) -> None:
        await revoke(services, "1")
        await services.feed.refresh()
        for after, keys in ((0, None), (2, None), (1, "others")):
            assert await self.came(await self.wait(services, after, keys))

    async def test_without_news_the_wait_ends_when_its_time_is_up(self, services: Services) -> None:
        await services.feed.refresh()
        began_at = asyncio.get_running_loop().time()
        await services.feed.wait_for_changes(0, services.local_keys.ring().version, 0.05)
        assert 0.05 <= asyncio.get_running_loop().time() - began_at < SOON

    @pytest.mark.usefixtures("small_pages")
    async def test_listeners_hear_of_each_revocation_of_more_than_a_session_once(self, services: Services) -> None:
        feed = new_replica(services)
        heard: list[tuple[Kind, str]] = []
        feed.subscribe(lambda kind, target: heard.append((kind, target)))
        await revoke_many(services, 9, Kind.CLIENT)
        await revoke(services, "10")
        await feed.refresh()
        await revoke_many(services, 1, Kind.KEY)
        await asyncio.gather(*(feed.refresh() for _ in range(5)))
        expected = [(Kind.CLIENT, number) for number in range(1, 10)] + [(Kind.KEY, 11)]
        assert heard == [(kind, f"{number:x<64}") for kind, number in expected]


class SlowRead:
    """A read of the log that waits for the test: before the store looks, or before it says what it has seen.

    It waits for the head, or for the entries.
    """

    def __init__(self, *, looks_late: bool = False, has_head: bool = False) -> None:
        self.looks_late = looks_late
        self.has_head = has_head
        self.waiting, self.may_go_on = asyncio.Event(), asyncio.Event()

    async def wait(self) -> None:
        self.waiting.set()
        await self.may_go_on.wait()


class Slow:
    """A store in which the first reads of the log are these."""

    def __init__(self, store: Store, *reads: SlowRead) -> None:
        self.read, self.write, self.queue = store.read, store.write, store.queue
        self._store = store
        self._reads = list(reads)

    @asynccontextmanager
    async def follow(self) -> AsyncIterator[Transaction]:
        read = self._reads.pop(0) if self._reads else None
        async with self._store.follow() as transaction:
            yield cast("Transaction", SlowRows(transaction, read)) if read is not None else transaction


class SlowRows:
    """The rows that a slow read sees."""

    def __init__(self, transaction: Transaction, read: SlowRead) -> None:
        self.revocations = self
        self._rows = transaction.revocations
        self._read = read

    async def entries(self, number: int, head: int, limit: int) -> list[Entry]:
        found = await self._rows.entries(number, head, limit)
        if self._read.has_head:
            await self._read.wait()
        return found

    async def head(self) -> LogHead:
        if self._read.has_head:
            return await self._rows.head()
        if self._read.looks_late:
            await self._read.wait()
            return await self._rows.head()
        head = await self._rows.head()
        await self._read.wait()
        return head


def slow_replica(services: Services, monkeypatch: pytest.MonkeyPatch, *reads: SlowRead) -> RevocationFeed:
    monkeypatch.setattr(feed_module, "READ_PATIENCE_SECONDS", 0.01)
    store, receipts = Slow(services.store, *reads), services.feed._receipts
    return RevocationFeed(store, services.config.issuer, services.local_keys.ring, receipts, services.clock)


class TestSlowDatabase:
    async def test_a_read_that_hangs_holds_up_no_later_one(
        self, services: Services, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        slow = SlowRead()
        feed = slow_replica(services, monkeypatch, slow)
        hanging = asyncio.create_task(feed.refresh())
        await slow.waiting.wait()
        await revoke(services, "1", "2")
        async with asyncio.timeout(SOON):
            await feed.refresh()
        assert (feed.number, hanging.done()) == (2, False)
        # What it found is over by now, and does not count as a log that has become shorter.
        slow.may_go_on.set()
        await hanging
        assert feed.number == 2
        await revoke(services, "3")
        await feed.refresh()
        assert feed.number == 3

    async def test_a_read_whose_entries_do_not_come_holds_up_no_later_one(
        self, services: Services, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        slow = SlowRead(has_head=True)
        feed = slow_replica(services, monkeypatch, slow)
        await revoke(services, "1")
        hanging = asyncio.create_task(feed.refresh())
        await slow.waiting.wait()
        async with asyncio.timeout(SOON):
            await feed.refresh()
        assert (feed.number, hanging.done()) == (1, False)
        slow.may_go_on.set()
        await hanging
        assert (feed.number, feed.replaced) == (1, None)

    async def test_of_two_reads_the_later_one_may_have_seen_less(
        self, services: Services, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        hanging, answered_late = SlowRead(looks_late=True), SlowRead()
        feed = slow_replica(services, monkeypatch, hanging, answered_late)
        reads = [asyncio.create_task(feed.refresh())]
        await hanging.waiting.wait()
        reads.append(asyncio.create_task(feed.refresh()))
        await answered_late.waiting.wait()
        await revoke(services, "1")
        for refreshing, slow in zip(reads, (hanging, answered_late), strict=True):
            slow.may_go_on.set()
            await refreshing
        assert (feed.number, feed.replaced) == (1, None)

    async def test_polls_do_not_wait_for_connections_that_others_hold(self, services: Services) -> None:
        await revoke(services, "1")
        async with AsyncExitStack() as stack, asyncio.timeout(SOON):
            for _ in range(POOL_SIZE):
                await stack.enter_async_context(services.store.read())
            await services.feed.refresh()
        assert services.feed.number == 1


class TestReplicas:
    async def test_what_was_committed_elsewhere_is_known_after_a_look(
        self, services: Services, other: Services
    ) -> None:
        await asyncio.gather(services.feed.refresh(), other.feed.refresh())
        for number in range(1, 4):
            await revoke(services, str(number))
            assert other.feed.number == number - 1
            await other.feed.refresh()
            assert (other.feed.number, other.feed.epoch) == (number, services.feed.epoch)
            position = other.feed.local.revocations.position
            assert position == Position(other.feed.epoch, number)
        assert len(other.feed.local.revocations) == 3

    async def test_nobody_misses_what_was_committed_before_the_look(self, services: Services, other: Services) -> None:
        replicas = (services, other)

        async def revoke_and_look(number: int) -> None:
            async with replicas[number % 2].store.write() as transaction:
                context = Context(datetime.now(UTC))
                (revoked,) = await services.revocations.revoke(transaction, context, Kind.SESSION, str(number))
            for replica in replicas:
                await replica.feed.refresh()
                assert replica.feed.number >= revoked

        await asyncio.gather(*(revoke_and_look(number) for number in range(20)))
        assert services.feed.number == other.feed.number == 20

    async def test_following_makes_what_the_replica_knows_fresh(self, services: Services) -> None:
        own = services.feed.local.revocations
        for _ in range(2):
            asked_at = own.now()
            await services.follow_feed()
            assert asked_at <= own.fresh_at <= own.now()

    async def test_a_look_for_others_does_not(self, services: Services) -> None:
        await revoke(services, "1")
        await services.feed.refresh()
        assert not services.feed.local.revocations.complete

    async def test_the_replica_is_known_as_a_verifier_before_it_is_fresh(self, services: Services) -> None:
        own = services.feed.local.revocations

        async def register() -> None:
            await revoke(services, "meanwhile")
            assert not own.complete

        await services.feed.refresh_local(register, 0.0)
        assert own.complete
        assert services.feed.number == 1

    async def test_a_read_for_a_poll_will_do_for_the_replica_for_as_long_as_that_is_said(
        self, services: Services
    ) -> None:
        own = services.feed.local.revocations
        await services.follow_feed()
        await services.feed.refresh()
        began = own.fresh_at
        await revoke(services, "meanwhile")
        await services.follow_feed(max_age=60.0)
        assert services.feed.number == 0
        assert began < own.fresh_at <= own.now()
        await services.follow_feed()
        assert services.feed.number == 1


class TestRestart:
    async def test_another_name_and_larger_numbers_and_nothing_issued_before_is_good(self, services: Services) -> None:
        await revoke(services, "1", "2")
        await services.feed.refresh()
        before = services.feed.head
        assert before is not None
        now = datetime.now(UTC)
        revoked = await restart(services, now)
        follower = Follower(services, new_replica(services))
        answer = await follower.ask()
        assert answer.epoch != before.epoch
        assert revoked == (answer.head,) == (int(now.timestamp()) * NUMBERS_PER_SECOND + 1,)
        # What the one entry covers is not told any more.
        assert [each.kind for each in answer.revocations] == [Kind.ALL]
        await revoke(services, "3")
        answer = await follower.ask()
        assert ([each.target for each in answer.revocations], answer.reset) == (["3"], False)

    async def test_a_new_log_is_above_all_numbers_by_whatever_clock(self, services: Services) -> None:
        first = await restart(services, datetime.now(UTC))
        second = await restart(services, datetime.now(UTC) - timedelta(days=400))
        assert second[0] > first[0] + LOST_NUMBERS

    async def test_one_backup_restored_twice_gives_no_number_twice(self, services: Services) -> None:
        now = datetime.now(UTC)
        async with services.store.read() as transaction:
            backup = await transaction.revocations.head()
        begun: list[int] = []
        for seconds in (0, 1):
            begun += await restart(services, now + timedelta(seconds=seconds))
            await revoke(services, "1")
            async with services.store.write() as transaction:
                await transaction.revocations.lock_head()
                await transaction.revocations.restart(backup.epoch, backup.number)
        assert begun[1] > begun[0] + 1

    async def test_each_restart_gives_another_name(self, services: Services) -> None:
        epochs = set()
        for _ in range(5):
            await restart(services, datetime.now(UTC))
            async with services.store.read() as transaction:
                epochs.add((await transaction.revocations.head()).epoch)
        assert len(epochs) == 5

    async def test_revoked_keys_stay_revoked(self, services: Services) -> None:
        async with services.store.write() as transaction:
            await services.revocations.revoke(transaction, Context(datetime.now(UTC)), Kind.KEY, "leaked")
        await restart(services, datetime.now(UTC))
        follower = Follower(services, new_replica(services))
        await follower.ask()
        assert follower.revocations.has_key("leaked")

    @pytest.mark.usefixtures("small_pages")
    async def test_keys_that_were_revoked_before_do_not_keep_verifiers_from_a_new_log_in_pages(
        self, services: Services
    ) -> None:
        async with services.store.write() as transaction:
            await services.revocations.revoke(transaction, Context(datetime.now(UTC)), Kind.KEY, "leaked")
        await revoke(services, *map(str, range(7)))
        follower = Follower(services)
        await follower.catch_up()
        await restart(services, datetime.now(UTC))
        await revoke(services, *map(str, range(10, 17)))
        assert (await follower.ask()).page is not None
        late = Follower(services, new_replica(services))
        for each in (follower, late):
            await each.catch_up()
            assert each.number == services.feed.number
            assert each.revocations.has_key("leaked")

    async def test_who_followed_the_log_before_goes_on_with_the_new_one(self, services: Services) -> None:
        await revoke(services, "1")
        follower = Follower(services)
        await follower.ask()
        (number,) = await restart(services, datetime.now(UTC))
        # So does a replica that runs.
        await follower.ask()
        assert follower.number == services.feed.number == number
        await revoke(services, "2")
        assert not (await follower.ask()).reset
        for known in (follower.revocations, services.feed.local.revocations):
            assert known.has_session("1")
            assert known.has_session("2")

    @pytest.mark.usefixtures("small_pages")
    async def test_a_new_log_is_followed_in_pages(self, services: Services) -> None:
        await revoke(services, *map(str, range(7)))
        follower = Follower(services)
        await follower.catch_up()
        await restart(services, datetime.now(UTC))
        await revoke(services, *map(str, range(10, 17)))
        answers = await follower.catch_up()
        assert [(answer.more, len(answer.page or ())) for answer in answers] == [(False, 8)]
        assert follower.number == services.feed.number
        await revoke(services, "20")
        assert not (await follower.ask()).reset

    async def test_the_log_before_is_not_followed_again(self, services: Services) -> None:
        await revoke(services, "1")
        await services.feed.refresh()
        old = services.feed.head
        assert old is not None
        await restart(services, datetime.now(UTC))
        await services.feed.refresh()
        async with services.database.write() as connection:
            await connection.execute(update(revocation_head).values(number=9, digest=old.digest, epoch=old.epoch))
        with pytest.raises(LogReplaced):
            await services.feed.refresh()

    async def test_all_can_be_revoked(self, services: Services) -> None:
        revoked = await services.revocations.revoke_all(services.store, Context(datetime.now(UTC), OPERATOR))
        (revocation,) = (await Follower(services).ask()).revocations
        assert (revocation.kind, revocation.target) == (Kind.ALL, EVERYTHING)
        assert revoked == (revocation.number,)
        async with services.store.read() as transaction:
            entries = await transaction.audit.entries(after=0, limit=1000)
        assert (entries[-1].event, entries[-1].actor) == (Event.ALL_REVOKED, OPERATOR)

    async def test_what_was_rolled_back_was_never_said(self, services: Services) -> None:
        async def fail() -> None:
            async with services.store.write() as transaction:
                await services.revocations.revoke(transaction, Context(datetime.now(UTC)), Kind.SESSION, "1")
                raise RuntimeError

        with pytest.raises(RuntimeError):
            await fail()
        assert not services.revoked.is_set()
        await services.feed.refresh()
        assert services.feed.number == 0
        await revoke(services, "2")
        assert services.revoked.is_set()
        assert [each.target for each in (await Follower(services).ask()).revocations] == ["2"]
        async with services.database.read() as connection:
            assert (await connection.execute(select(func.count()).select_from(revocations))).scalar_one() == 1


class TestLostPast:
    """The database was restored from a backup: the log ends before, or has gone on in another way."""

    @staticmethod
    async def head(services: Services) -> LogHead:
        async with services.store.read() as transaction:
            return await transaction.revocations.head()

    async def restore(self, services: Services, backup: LogHead) -> None:
        async with services.database.write() as connection:
            await connection.execute(delete(revocations).where(revocations.c.number > backup.number))
            given = {"number": backup.number, "digest": backup.digest, "epoch": backup.epoch}
            await connection.execute(update(revocation_head).values(**given))

    @pytest.mark.parametrize("since", [(), ("other 2",), ("other 2", "other 3"), ("other 2", "other 3", "4")])
    async def test_a_replica_that_runs_notices(self, services: Services, since: tuple[str, ...]) -> None:
        await revoke(services, "1")
        backup = await self.head(services)
        await revoke(services, "2", "3")
        await services.feed.refresh()
        await self.restore(services, backup)
        await revoke(services, *since)
        with pytest.raises(LogReplaced):
            await services.feed.refresh()
        assert services.feed.replaced == ReplacedLog(backup.epoch, 3)
        assert services.log_replaced.is_set()

    @pytest.mark.parametrize("since", [(), ("other 2",), ("other 2", "other 3"), ("other 2", "other 3", "4")])
    async def test_a_replica_that_has_just_started_notices_by_what_a_verifier_shows(
        self, services: Services, since: tuple[str, ...]
    ) -> None:
        await revoke(services, "1")
        backup = await self.head(services)
        await revoke(services, "2", "3")
        follower = Follower(services)
        await follower.ask()
        await self.restore(services, backup)
        await revoke(services, *since)
        replica = new_replica(services)
        await replica.refresh()
        with pytest.raises(LogReplaced):
            await replica.check_receipt(follower.revocations.receipt)
        assert replica.replaced == ReplacedLog(backup.epoch, 3)

    async def test_a_log_from_before_a_restart_is_noticed(self, services: Services) -> None:
        await revoke(services, "1")
        backup = await self.head(services)
        await restart(services, datetime.now(UTC))
        follower = Follower(services)
        await follower.ask()
        await self.restore(services, backup)
        replica = new_replica(services)
        await replica.refresh()
        with pytest.raises(LogReplaced):
            await replica.check_receipt(follower.revocations.receipt)

    async def test_whoever_is_behind_shows_nothing_wrong(self, services: Services) -> None:
        follower = Follower(services)
        for target in ("1", "2"):
            await follower.ask()
            await revoke(services, target)
            await services.feed.refresh()
            await services.feed.check_receipt(follower.revocations.receipt)
        await restart(services, datetime.now(UTC))
        await services.feed.refresh()
        await services.feed.check_receipt(follower.revocations.receipt)
        await services.feed.check_receipt("")
        assert services.feed.replaced is None

    async def test_a_receipt_of_somebody_else_proves_nothing(self, services: Services) -> None:
        await revoke(services, "1")
        await services.feed.refresh()
        assert services.feed.head is not None
        made = Receipts(b"another key").make(replace(services.feed.head, number=9))
        own = services.feed._receipts.make(services.feed.head)
        for receipt in (made, own.replace(".1.", ".9."), f"{own}x", own[1:], "a.b.c.d", "\u00e9", "..."):
            await services.feed.check_receipt(receipt)
        assert services.feed.replaced is None

    async def test_a_new_log_begins_above_all_that_was_known_and_everything_ends(
        self, services: Services, other: Services
    ) -> None:
        backup = await self.head(services)
        await services.feed.refresh()
        await restart(services, datetime.now(UTC) + timedelta(days=1))
        await revoke(services, "1")
        await services.feed.refresh()
        known = services.feed.number
        await self.restore(services, backup)
        grant, _ = await log_in(services)
        for replica in (services, other):
            # The other one has followed nothing, and would not notice by itself.
            replica.feed.replaced = ReplacedLog(backup.epoch, known)
            await replica.recover()
            await replica.feed.refresh()
        assert other.feed.head == services.feed.head
        assert services.feed.number > known
        assert services.feed.local.revocations.has_session("1")
        async with services.store.read() as transaction:
            entries = await transaction.audit.entries(after=0, limit=1000)
            assert not await transaction.sessions.is_open(grant.session.id, datetime.now(UTC))
        restarts = [entry for entry in entries if entry.event == Event.LOG_RESTARTED]
        assert [(entry.actor, entry.facts) for entry in restarts] == [(SYSTEM, {"ended_sessions": 1})]
