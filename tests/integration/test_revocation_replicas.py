"""What must hold of revocations with two auth services on one database."""

import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial

import httpx
import pytest
from clusters import is_ready, wait_until
from databases import PostgresServer, replicas
from people import User
from stacks import AT_ONCE, GOOD, RECOVERED, REVOKED, SLACK, STALE, PlayedVerifier, Stack

#: Seconds that the verifiers of the replicas go without news.
REPLICAS_LEASE = 2.0


class Replicas:
    """Two auth services on one database. The gateway follows the first one, the profile service the second."""

    def __init__(self, first: Stack, second: Stack) -> None:
        self.first, self.second = first, second
        self.services = ((first, "auth"), (second, "auth"), (first, "gateway"), (second, "profile"))
        for member, service in self.services:
            member.start(service, wait=False)
        for member, service in self.services:
            wait_until(partial(is_ready, member.operations[service]), "all are ready")

    def ask_all(self, user: User) -> list[str]:
        return [member.ask(service, user) for member, service in self.services]


@pytest.fixture(scope="module")
def both(postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replicas]:
    directory = tmp_path_factory.mktemp("replicas")
    first, second = (Stack(directory / name, lease=REPLICAS_LEASE) for name in ("first", "second"))
    with replicas(postgres_server, first, second), closing(first), closing(second):
        yield Replicas(first, second)


@pytest.mark.docker
@pytest.mark.serial
class TestReplicas:
    @pytest.mark.parametrize("balanced", [False, True], ids=["each-its-own", "in-turn"])
    def test_what_one_says_to_be_in_force_is_refused_everywhere(self, both: Replicas, balanced: bool) -> None:
        first, second = both.first, both.second
        gateway, profile = first.proxies["gateway"], second.proxies["profile"]
        own = gateway.upstreams, profile.upstreams
        if balanced:
            # Their questions go now to this one, now to that one.
            gateway.upstreams = profile.upstreams = (first.urls["auth"], second.urls["auth"])
        for member in (first, second) * 4:
            ada = first.people.new()
            assert both.ask_all(ada) == [GOOD] * 4
            answer = member.log_out(ada, wait=30)
            assert both.ask_all(ada) == [REVOKED] * 4
            assert answer["complete"]
            assert answer["acknowledged_by"] == 4
            assert answer["in_force_after_ms"] < (AT_ONCE + SLACK) * 1000
        gateway.upstreams, profile.upstreams = own

    def test_a_service_that_was_killed_is_waited_for_by_no_replica_when_its_lease_is_over(self, both: Replicas) -> None:
        first, second = both.first, both.second
        assert first.log_out(first.people.new(), wait=30)["acknowledged_by"] == 4
        # It follows the second one.
        second.signal("profile", signal.SIGKILL)
        killed_at = time.monotonic()
        assert not first.log_out(first.people.new(), wait=0)["complete"]
        answer = first.log_out(first.people.new(), wait=30)
        assert (answer["complete"], answer["acknowledged_by"]) == (True, 3)
        assert time.monotonic() - killed_at < REPLICAS_LEASE + SLACK
        for member in (first, second) * 2:
            answer = member.log_out(first.people.new(), wait=30)
            assert (answer["complete"], answer["acknowledged_by"]) == (True, 3)
            assert answer["in_force_after_ms"] < (AT_ONCE + SLACK) * 1000
        second.start("profile")

    def test_one_that_dies_while_somebody_waits_leaves_the_other_to_answer(self, both: Replicas) -> None:
        first, second = both.first, both.second
        ada, bob = first.people.new(), first.people.new()
        asleep = PlayedVerifier(first)
        asleep.ask(keys="any", lease=20)
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(second.log_out, ada, wait=30)
            wait_until(lambda: first.ask("gateway", ada) == REVOKED, "it has been revoked", AT_ONCE)
            assert not waiting.done()
            second.signal("auth", signal.SIGKILL)
            assert isinstance(waiting.exception(), httpx.HTTPError)
        assert first.ask("gateway", ada) == first.ask("auth", ada) == REVOKED
        asleep.leave()
        answer = first.log_out(bob, wait=20)
        assert second.ask("profile", bob) in {STALE, REVOKED}
        assert first.ask("gateway", bob) == first.ask("auth", bob) == REVOKED
        # The dead one accepts nothing any more, and is not waited for longer than it could have.
        assert answer["complete"]
        second.start("auth")
        cy = first.people.new()
        wait_until(lambda: both.ask_all(cy) == [GOOD] * 4, "all is well again", RECOVERED)
        assert both.ask_all(ada) == both.ask_all(bob) == [REVOKED] * 4
