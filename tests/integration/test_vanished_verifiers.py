"""How long others wait for a service that has ended: not at all if it says so, else until its lease is over."""

import signal
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from clusters import SERVICES
from stacks import AT_ONCE, LEASE, SLACK, Stack

pytestmark = pytest.mark.serial


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    with closing(Stack(tmp_path)) as stack:
        stack.start_all()
        yield stack


def test_one_that_was_killed_is_waited_for_until_its_lease_is_over_and_never_again(stack: Stack) -> None:
    ada, bob, cy = (stack.people.new() for _ in range(3))
    assert stack.log_out(ada, wait=30)["acknowledged_by"] == 3
    stack.signal("profile", signal.SIGKILL)
    killed_at = time.monotonic()
    assert not stack.log_out(bob, wait=0)["complete"]
    assert time.monotonic() - killed_at < LEASE / 2, "too slow to see anything"
    time.sleep(LEASE / 2)
    # A revocation that comes later is not waited for longer.
    answer = stack.log_out(cy, wait=30)
    assert (answer["complete"], answer["acknowledged_by"]) == (True, 2)
    assert time.monotonic() - killed_at < LEASE + SLACK
    for _ in range(3):
        answer = stack.log_out(stack.people.new(), wait=30)
        assert (answer["complete"], answer["acknowledged_by"]) == (True, 2)
        assert answer["in_force_after_ms"] < AT_ONCE * 1000


@pytest.mark.parametrize("first", [(), ("auth",), ("gateway", "profile")], ids=["at-once", "auth-first", "auth-last"])
def test_services_that_end_together_sign_off(stack: Stack, first: tuple[str, ...]) -> None:
    processes = {service: stack.process(service) for service in SERVICES}
    assert stack.log_out(stack.people.new(), wait=30)["acknowledged_by"] == 3
    for services in (first, tuple(service for service in SERVICES if service not in first)):
        for service in services:
            processes[service].send_signal(signal.SIGTERM)
        # One order differs from another by this.
        time.sleep(0.3 if services else 0.0)
    for process in processes.values():
        process.wait(20)
    assert stack.auth_command("revocations", "verifiers") == "none\n"
