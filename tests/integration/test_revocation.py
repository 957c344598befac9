"""What must hold of revocations while networks, processes and databases break."""

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jwt
import pytest
from clusters import is_alive, is_ready, wait_until
from people import PASSWORD, User
from proxies import Message
from stacks import (
    AT_ONCE,
    GOOD,
    GOOD_EVERYWHERE,
    LEASE,
    RECOVERED,
    REVOKED,
    REVOKED_EVERYWHERE,
    SLACK,
    STALE,
    STRICT,
    PlayedVerifier,
    Stack,
    Stream,
    last_yes,
    verdict,
)

pytestmark = pytest.mark.serial


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with closing(Stack(tmp_path_factory.mktemp("stack"))) as stack:
        stack.start_all()
        yield stack


@pytest.fixture
def stack(running: Stack) -> Iterator[Stack]:
    """The cluster of all tests that leave it as it was."""
    yield running
    for proxy in running.proxies.values():
        proxy.heal()
    running.resume("profile")
    ada = running.people.new()
    wait_until(lambda: running.all_accept_strictly(ada), "all is well again")


@pytest.fixture
def own_stack(tmp_path: Path) -> Iterator[Stack]:
    """A cluster to break, not started yet. Its verifiers go on for 30 s without news."""
    with closing(Stack(tmp_path, lease=30)) as stack:
        yield stack


#: Seconds by which the feed is late at verifiers far away, and that they may go without news.
FAR = 5.0
FAR_LEASE = 30.0

#: Seconds by which it is late in a slow network, far within each bound.
LATE = 0.2

#: Seconds after its expiry for which a token is accepted still, as clocks differ.
LEEWAY = 5.0


@dataclass(frozen=True)
class FarAway:
    """A cluster whose verifiers get the feed late, since some time, and a stream that was opened there."""

    stack: Stack
    ada: User
    stream: Stream
    since: float


@pytest.fixture(scope="module")
def far(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FarAway]:
    """The first test starts it and the last one looks at it again, as leases take their time."""
    short_lived = {"OSTIARY_ACCESS_TOKEN_TTL": "10"}
    with closing(Stack(tmp_path_factory.mktemp("far"), lease=FAR_LEASE, strict_route="", **short_lived)) as stack:
        stack.start_all()
        ada = stack.people.new()
        for proxy in stack.proxies.values():
            proxy.only, proxy.delay = "/feed", FAR
        with closing(Stream(stack, ada)) as stream:
            yield FarAway(stack, ada, stream, time.time())


class TestSlowNetwork:
    def test_a_strict_route_takes_no_late_news_for_fresh(self, far: FarAway) -> None:
        ada = far.stack.people.new()
        late_since = time.monotonic()
        assert last_yes(lambda: far.stack.ask_strictly("profile", ada)) < late_since + STRICT
        far.stack.log_out_unwaited(ada)
        assert {far.stack.ask_strictly("profile", ada) for _ in range(20)} <= {STALE, REVOKED}

    def test_a_strict_route_of_the_gateway_takes_none_either(self, stack: Stack) -> None:
        ada, bob = stack.people.new(), stack.people.new()
        stack.proxies["gateway"].delay = FAR
        late_since = time.monotonic()
        assert last_yes(lambda: stack.ask_strictly("gateway", ada)) < late_since + STRICT
        stack.log_out_unwaited(ada)
        assert {stack.ask_strictly("gateway", user) for user in [ada, bob] * 10} <= {STALE, REVOKED}
        stack.proxies["gateway"].heal()
        wait_until(lambda: stack.ask_strictly("gateway", bob) == GOOD, "its news are fresh again", RECOVERED)
        assert stack.ask_all(ada) == REVOKED_EVERYWHERE

    def test_logouts_of_others_refuse_nobody_at_a_service_that_hears_of_them_late(self, stack: Stack) -> None:
        bob, others = stack.people.new(), [stack.people.new() for _ in range(8)]
        own = f"{stack.urls['gateway']}/profiles/me"
        stack.proxies["profile"].delay = LATE
        asked: Counter[int] = Counter()
        for other in others:
            stack.log_out_unwaited(other)
            wait_until(lambda other=other: stack.ask("gateway", other) == REVOKED, "the gateway knows", AT_ONCE)  # type: ignore[misc]  # a default binds the name
            asked.update(stack.client.get(own, headers=bob.headers).status_code for _ in range(10))
        stack.proxies["profile"].heal()
        assert asked == {200: 80}


class TestLogout:
    def test_what_is_said_to_be_in_force_is_refused_everywhere_at_once(self, stack: Stack) -> None:
        for service in ("gateway", "auth"):
            for _ in range(5):
                ada = stack.people.new()
                # The second time, they remember the token.
                assert [stack.ask_all(ada), stack.ask_all(ada)] == [GOOD_EVERYWHERE, GOOD_EVERYWHERE]
                answer = stack.log_out(ada, wait=30, service=service)
                assert stack.ask_all(ada) == REVOKED_EVERYWHERE
                assert answer["complete"]
                assert answer["acknowledged_by"] >= 3
                assert answer["in_force_after_ms"] < AT_ONCE * 1000

    def test_every_answer_to_a_logout_comes_whole(self, stack: Stack) -> None:
        users = [stack.people.new() for _ in range(20)]
        with ThreadPoolExecutor(5) as pool:
            answers = list(pool.map(lambda user: stack.log_out(user, 30, "gateway"), users))
        assert all(answer["complete"] for answer in answers)
        assert len({answer["cursor"] for answer in answers}) == 20


class TestPartition:
    @pytest.mark.parametrize("victim", ["gateway", "profile"])
    def test_who_is_cut_off_stops_accepting_and_the_others_refuse_at_once(self, stack: Stack, victim: str) -> None:
        ada, bob = stack.people.new(), stack.people.new()
        assert stack.ask_all(ada) == stack.ask_all(bob) == GOOD_EVERYWHERE
        stack.proxies[victim].cut()
        cut_at = time.monotonic()
        assert last_yes(lambda: stack.ask_strictly(victim, bob)) < cut_at + STRICT
        others = GOOD_EVERYWHERE.keys() - {victim}
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(stack.log_out, ada, wait=30)
            wait_until(lambda: {stack.ask(each, ada) for each in others} == {REVOKED}, "the others refuse", AT_ONCE)
            assert not waiting.done()
            answer = waiting.result()
            # From here on it is a promise.
            assert stack.ask(victim, ada) == stack.ask(victim, bob) == STALE
            # And it does not want to be asked.
            refusal = stack.client.get(f"{stack.operations[victim]}/readyz")
            assert (refusal.status_code, refusal.json()["failing"]) == (503, ["verifier"])
            assert all(is_ready(stack.operations[each]) for each in others)
        assert answer["complete"]
        # Its lease counts from its last question, which it sent before it was cut off.
        assert LEASE - STRICT < time.monotonic() - cut_at < LEASE + SLACK
        stack.proxies[victim].heal()
        wait_until(lambda: stack.ask_strictly(victim, bob) == GOOD, "it hears again", RECOVERED)
        assert is_ready(stack.operations[victim])
        assert stack.ask_all(ada) == REVOKED_EVERYWHERE
        assert stack.ask_all(bob) == GOOD_EVERYWHERE

    def test_a_stream_of_a_gateway_that_is_cut_off_ends_with_its_lease(self, stack: Stack) -> None:
        with closing(Stream(stack, stack.people.new())) as stream:
            stack.proxies["gateway"].cut()
            cut_at = time.time()
            assert stream.ended.wait(LEASE + SLACK)
            assert stream.ended_at - cut_at > LEASE - STRICT

    def test_a_service_that_lags_behind_the_gateway_serves_others_within_its_bound(self, stack: Stack) -> None:
        ada, bob = stack.people.new(), stack.people.new()
        own = f"{stack.urls['gateway']}/profiles/me"
        assert stack.client.get(own, headers=bob.headers).status_code == 200
        stack.proxies["profile"].cut()
        stack.log_out_unwaited(ada)
        wait_until(lambda: stack.ask("gateway", ada) == REVOKED, "the gateway knows", AT_ONCE)
        assert stack.client.get(own, headers=bob.headers).status_code == 200
        wait_until(
            lambda: verdict(stack.client.get(own, headers=bob.headers)) == STALE, "its bound is over", LEASE + SLACK
        )
        stack.proxies["profile"].heal()
        wait_until(lambda: stack.client.get(own, headers=bob.headers).status_code == 200, "it has caught up", RECOVERED)


def late_by_one() -> Callable[[str, Message], bytes]:
    """Give each question the answer to the one before."""
    kept: dict[str, Message] = {}

    def rewrite(name: str, answer: Message) -> bytes:
        before = kept.get(name, answer)
        kept[name] = answer
        return before.raw

    return rewrite


def twice() -> Callable[[str, Message], bytes]:
    """Give each answer twice."""
    return lambda _name, answer: answer.raw * 2


def again() -> Callable[[str, Message], bytes]:
    """Give the first answer again and again, as a cache does."""
    first: dict[str, Message] = {}
    return lambda name, answer: first.setdefault(name, answer).raw


def mixed_up() -> Callable[[str, Message], bytes]:
    """Give each verifier what the other one was answered last."""
    kept: dict[str, Message] = {}

    def rewrite(name: str, answer: Message) -> bytes:
        kept[name] = answer
        other = next((message for whose, message in kept.items() if whose != name), answer)
        return other.raw

    return rewrite


class TestAnswersOfOthers:
    @pytest.mark.parametrize("kind", [late_by_one, again, mixed_up])
    def test_they_are_not_applied(self, stack: Stack, kind: Callable[[], Callable[[str, Message], bytes]]) -> None:
        ada, bob = stack.people.new(), stack.people.new()
        refused = {name: self.refused(stack, name) for name in stack.proxies}
        self.rewrite(stack, kind())
        for name in stack.proxies:
            wait_until(lambda name=name: stack.ask_strictly(name, bob) == STALE, "nothing is taken for fresh")  # type: ignore[misc]  # a default binds the name
            assert self.refused(stack, name) > refused[name]
        stack.log_out_unwaited(ada)
        for name in stack.proxies:
            assert {stack.ask_strictly(name, user) for user in (ada, bob)} <= {STALE, REVOKED}
        self.heal(stack, bob)
        assert stack.ask_all(ada) == REVOKED_EVERYWHERE

    def test_one_that_comes_twice_does_no_harm(self, stack: Stack) -> None:
        self.rewrite(stack, twice())
        users = [stack.people.new() for _ in range(5)]
        for user in users:
            assert stack.log_out(user, wait=30)["complete"]
            assert {stack.ask(name, user) for name in stack.proxies} <= {STALE, REVOKED}
        self.heal(stack, stack.people.new())
        assert [stack.ask_all(user) for user in users] == [REVOKED_EVERYWHERE] * 5

    @staticmethod
    def rewrite(stack: Stack, rewrite: Callable[[str, Message], bytes]) -> None:
        for name, proxy in stack.proxies.items():
            proxy.only = "/feed"
            proxy.rewrite = lambda _request, answer, name=name: rewrite(name, answer)  # type: ignore[misc]  # a default binds the name

    @staticmethod
    def heal(stack: Stack, user: User) -> None:
        for proxy in stack.proxies.values():
            proxy.heal()
        wait_until(lambda: stack.all_accept_strictly(user), "both follow again", RECOVERED)

    @staticmethod
    def refused(stack: Stack, name: str) -> float:
        return stack.metric(name, r'ostiary_feed_polls_total\{.*outcome="rejected".*\}')


class TestSleep:
    @pytest.mark.parametrize("_round", range(3))
    def test_who_has_slept_accepts_nothing_that_was_revoked_meanwhile(self, stack: Stack, _round: int) -> None:
        ada, bob = stack.people.new(), stack.people.new()
        assert stack.ask("profile", ada) == stack.ask_strictly("profile", ada) == GOOD
        with ThreadPoolExecutor(8) as pool:
            stack.pause("profile")
            try:
                # They are there before it wakes up, and before any news.
                waiting = [pool.submit(ask, "profile", ada) for ask in [stack.ask, stack.ask_strictly] * 4]
                answer = stack.log_out(ada, wait=30)
            finally:
                stack.resume("profile")
            found = [
                stack.ask_strictly("profile", ada),
                stack.ask("profile", ada),
                *(each.result() for each in waiting),
            ]
        assert set(found) <= {STALE, REVOKED}
        assert answer["complete"]
        assert LEASE - STRICT < answer["in_force_after_ms"] / 1000 < LEASE + SLACK
        wait_until(lambda: stack.ask_strictly("profile", bob) == GOOD, "it is awake", RECOVERED)
        assert stack.ask_all(ada) == REVOKED_EVERYWHERE


class TestWhatLasts:
    # What is no stream of events is given a second to end by itself.
    @pytest.mark.parametrize(("path", "seconds"), [("/plain/events", 0.0), ("/plain/lines", 1.0)])
    def test_a_stream_ends_when_its_token_is_revoked_and_no_other_does(
        self, stack: Stack, path: str, seconds: float
    ) -> None:
        ada, bob = stack.people.new(), stack.people.new()
        with closing(Stream(stack, ada, path)) as stream, closing(Stream(stack, bob, path)) as other:
            assert not stream.ended.is_set()
            answer = stack.log_out(ada, wait=30, service="gateway")
            assert answer["complete"]
            assert stream.ended.wait(seconds + AT_ONCE)
            assert stack.ask("gateway", bob) == GOOD
            assert not other.ended.is_set()
            # Broken off: to who reads it, that is no end of the stream.
            assert not stream.received.endswith(b"0\r\n\r\n")

    def test_a_request_under_way_ends_well_and_the_next_one_is_refused(self, stack: Stack) -> None:
        ada = stack.people.new()
        stack.upstream.has_slow.clear()
        stack.upstream.release.clear()
        with ThreadPoolExecutor(1) as pool:
            url = f"{stack.urls['gateway']}/plain/slow"
            slow = pool.submit(stack.client.get, url, headers=ada.headers)
            try:
                assert stack.upstream.has_slow.wait(RECOVERED)
                assert stack.log_out(ada, wait=30)["complete"]
                assert stack.ask("gateway", ada) == REVOKED
            finally:
                stack.upstream.release.set()
            assert (slow.result().status_code, slow.result().text) == (200, "fine")
        assert verdict(stack.client.get(url, headers=ada.headers)) == REVOKED


class TestKeys:
    def test_a_key_that_is_revoked_takes_its_tokens_with_it_and_new_ones_are_good(self, stack: Stack) -> None:
        for _ in range(2):
            ada = stack.people.new()
            assert [stack.ask_all(ada), stack.ask_all(ada)] == [GOOD_EVERYWHERE, GOOD_EVERYWHERE]
            stack.auth_command("keys", "revoke", kid_of(ada))
            wait_until(lambda: is_refused_everywhere(stack, ada), "all refuse what it signed", AT_ONCE)  # noqa: B023 - called at once
            again = stack.log_in(ada)
            assert kid_of(again) != kid_of(ada)
            assert stack.ask_all(again) == GOOD_EVERYWHERE

    def test_so_does_one_that_an_administrator_revokes_and_waits_for(self, stack: Stack) -> None:
        email = f"admin-{os.urandom(4).hex()}@example.com"
        stack.auth_command(
            "users", "create", email, "--role", "user", "--role", "admin", "--password-stdin", stdin=PASSWORD
        )
        admin = stack.log_in(User("", email, {}))
        for _ in range(3):
            ada = stack.people.new()
            assert stack.ask_all(ada) == GOOD_EVERYWHERE
            url = f"{stack.urls['auth']}/admin/keys/{kid_of(ada)}/revoke"
            answer = stack.client.post(url, headers={**admin.headers, "Prefer": "wait=30"})
            assert answer.status_code == 200, answer.text
            assert answer.json()["complete"]
            assert is_refused_everywhere(stack, ada)
            again, admin = stack.log_in(ada), stack.log_in(admin)
            assert stack.ask_all(again) == stack.ask_all(admin) == GOOD_EVERYWHERE

    def test_they_change_as_soon_as_all_verifiers_hold_the_next_one_and_nobody_notices(self, stack: Stack) -> None:
        users = [stack.people.new() for _ in range(2)]
        late = PlayedVerifier(stack)
        late.ask(keys="others", lease=60)
        done = threading.Event()
        with ThreadPoolExecutor(len(users)) as pool:
            using = [pool.submit(use, stack, user, done) for user in users]
            try:
                assert not stack.rotate_keys()
                late.leave()
                # It is not published for long enough yet, if it were not known who holds it.
                for _ in range(2):
                    signing = kid_of(stack.log_in(users[0]))
                    wait_until(stack.rotate_keys, "the keys change", RECOVERED)
                    wait_until(lambda: kid_of(stack.log_in(users[0])) != signing, "the next one signs", RECOVERED)  # noqa: B023 - called at once
            finally:
                done.set()
            assert [each.result() for each in using] == [set(GOOD_EVERYWHERE.items())] * len(users)
        assert stack.ask_all(users[0]) == GOOD_EVERYWHERE


def kid_of(user: User) -> str:
    return str(jwt.get_unverified_header(user.tokens["access_token"])["kid"])


def is_refused_everywhere(stack: Stack, user: User) -> bool:
    return set(stack.ask_all(user).values()) <= {REVOKED, "unknown_key"}


def use(stack: Stack, user: User, done: threading.Event) -> set[tuple[str, str]]:
    """Log in and ask everywhere, again and again, and return who said what."""
    said = set()
    while not done.is_set():
        said |= set(stack.ask_all(stack.log_in(user)).items())
    return said


class TestDeathOfAuth:
    def test_strict_routes_wait_for_it_and_the_others_go_on(self, own_stack: Stack) -> None:
        own_stack.start_all()
        ada, bob, cy = (own_stack.people.new() for _ in range(3))
        assert [own_stack.ask_all(user) for user in (ada, bob, cy)] == [GOOD_EVERYWHERE] * 3
        assert own_stack.log_out(ada, wait=30)["complete"]
        # Nobody has waited for this one, and still it is not to be lost.
        own_stack.log_out_unwaited(cy)
        own_stack.signal("auth", signal.SIGKILL)
        killed_at = time.monotonic()
        for name in own_stack.proxies:
            assert (own_stack.ask(name, ada), own_stack.ask(name, bob)) == (REVOKED, GOOD)
            assert last_yes(lambda name=name: own_stack.ask_strictly(name, bob)) < killed_at + STRICT  # type: ignore[misc]  # a default binds the name
            assert own_stack.ask_strictly(name, cy) in {STALE, REVOKED}
            assert (own_stack.ask(name, ada), own_stack.ask(name, bob)) == (REVOKED, GOOD)
        own_stack.start("auth")
        wait_until(lambda: own_stack.all_accept_strictly(bob), "all is well again", RECOVERED)
        assert own_stack.ask_all(ada) == own_stack.ask_all(cy) == REVOKED_EVERYWHERE
        assert own_stack.ask_all(bob) == GOOD_EVERYWHERE

    def test_nobody_is_ready_before_a_first_full_set(self, own_stack: Stack) -> None:
        url, operations = own_stack.urls["gateway"], own_stack.operations["gateway"]
        proxy = own_stack.proxies["gateway"]
        own_stack.start("gateway", wait=False)
        wait_until(partial(is_alive, url), "the gateway is alive")
        refusal = own_stack.client.get(f"{operations}/readyz")
        assert (refusal.status_code, refusal.json()["failing"]) == (503, ["verifier"])
        proxy.only = "/feed"
        proxy.cut()
        own_stack.start("auth")
        ada = own_stack.people.new()
        wait_until(lambda: own_stack.ask("gateway", ada) != "keys_unavailable", "it holds keys", RECOVERED)
        # Without revocations, it cannot say yes, and does not want to be asked.
        assert own_stack.ask("gateway", ada) == own_stack.ask_strictly("gateway", ada) == STALE
        assert not is_ready(operations)
        proxy.heal()
        wait_until(partial(is_ready, operations), "it is ready by itself", RECOVERED)
        assert own_stack.ask("gateway", ada) == own_stack.ask_strictly("gateway", ada) == GOOD


class TestEndOfTime:
    """What takes as long as a lease or a token; it has been going on since the first test."""

    def test_a_stream_ends_when_its_token_expires_and_not_before(self, far: FarAway) -> None:
        claims = jwt.decode(far.ada.tokens["access_token"], options={"verify_signature": False})
        assert far.stream.ended.wait(max(0.0, claims["exp"] + LEEWAY + SLACK - time.time()))
        assert claims["exp"] <= far.stream.ended_at < claims["exp"] + LEEWAY + SLACK

    def test_a_verifier_whose_news_come_late_and_are_fresh_enough_goes_on(self, far: FarAway) -> None:
        lasts = True
        while lasts:
            lasts = time.time() < far.since + FAR_LEASE + FAR
            ada = far.stack.log_in(far.ada)
            assert far.stack.ask_all(ada) == GOOD_EVERYWHERE
            assert far.stack.ask_strictly("profile", ada) == STALE
