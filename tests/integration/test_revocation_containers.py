"""What must hold of revocations between containers."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
from clusters import need_engine, wait_until
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
    Containers,
    last_yes,
)

pytestmark = [pytest.mark.docker, pytest.mark.serial]


@pytest.fixture(scope="module")
def containers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Containers]:
    need_engine()
    with ExitStack() as stack:
        containers = Containers(tmp_path_factory.mktemp("compose"))
        stack.callback(containers.down)
        containers.up()
        yield containers


class TestContainers:
    def test_what_is_said_to_be_in_force_is_refused_everywhere_at_once(self, containers: Containers) -> None:
        for _ in range(2):
            ada = containers.people.new()
            assert containers.ask_all(ada) == GOOD_EVERYWHERE
            answer = containers.log_out(ada, wait=30)
            assert containers.ask_all(ada) == REVOKED_EVERYWHERE
            assert answer["complete"]
            assert answer["acknowledged_by"] == 5
            assert answer["in_force_after_ms"] < AT_ONCE * 1000

    def test_who_is_cut_off_stops_accepting_and_the_others_refuse_at_once(self, containers: Containers) -> None:
        ada, bob = containers.people.new(), containers.people.new()
        assert containers.ask_all(ada) == containers.ask_all(bob) == GOOD_EVERYWHERE
        with containers.cut_off("profile"), ThreadPoolExecutor(1) as pool:
            cut_at = time.monotonic()
            waiting = pool.submit(containers.log_out, ada, wait=30)
            wait_until(lambda: containers.ask("gateway", ada) == REVOKED, "the gateway refuses", AT_ONCE)
            assert containers.ask("auth", ada) == REVOKED
            assert last_yes(lambda: containers.ask_strictly(bob)) < cut_at + STRICT
            answer = waiting.result()
            assert containers.ask("profile", ada) == containers.ask("profile", bob) == STALE
        assert answer["complete"]
        assert LEASE - STRICT < answer["in_force_after_ms"] / 1000 < LEASE + SLACK
        wait_until(lambda: containers.ask_strictly(bob) == GOOD, "it hears again", RECOVERED)
        assert containers.ask_all(ada) == REVOKED_EVERYWHERE
        assert containers.ask_all(bob) == GOOD_EVERYWHERE
        assert containers.client.get("/profiles/me", headers=bob.headers).status_code == 200

    def test_nothing_is_forgotten_when_the_database_breaks_down(self, containers: Containers) -> None:
        ada, bob, cy = (containers.people.new() for _ in range(3))
        assert containers.log_out(ada, wait=30)["complete"]
        containers.client.post("/auth/logout", headers=cy.headers).raise_for_status()
        containers.container("postgres").kill()
        try:
            wait_until(lambda: containers.ask_strictly(bob) == STALE, "there are no news without a database")
            assert containers.ask("gateway", ada) in {STALE, REVOKED}
        finally:
            containers.start("postgres")
        wait_until(lambda: containers.ask_all(bob) == GOOD_EVERYWHERE, "all follow again", RECOVERED)
        wait_until(lambda: containers.ask_strictly(bob) == GOOD, "strict routes, too", RECOVERED)
        assert containers.ask_all(ada) == containers.ask_all(cy) == REVOKED_EVERYWHERE
        assert containers.log_out(bob, wait=30)["complete"]
        assert containers.ask_all(bob) == REVOKED_EVERYWHERE
