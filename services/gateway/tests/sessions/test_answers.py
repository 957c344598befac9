"""Answers of the auth service to an exchange."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ostiary_gateway.sessions.answers import MAX_RETRY_SECONDS, Answer, read_answer

SID = "0b7a8e8e-0000-4000-8000-000000000001"
GOOD = {"access_token": "a.b-_.c", "expires_in": 900, "session_id": SID, "persistent": True}


def read(status: int, members: object, retry_after: bytes = b"") -> Answer:
    return read_answer(status, retry_after, json.dumps(members).encode(), SID)


def test_a_token_is_taken() -> None:
    answer = read(200, {**GOOD, "expires_at": "2030-01-01T00:00:00Z"})
    assert (answer.token, answer.expires_in, answer.is_persistent) == ("a.b-_.c", 900, True)
    assert (answer.is_ended, answer.fault) == (False, "")


@pytest.mark.parametrize(
    "changes",
    [
        {"access_token": None},
        {"access_token": "a.b"},
        {"access_token": "a.b.c\n"},
        {"access_token": "a.b.c; Path=/"},
        {"access_token": f"a.b.{'c' * 5000}"},
        {"session_id": "0b7a8e8e-0000-4000-8000-000000000002"},
        {"session_id": None},
        {"expires_in": -1},
        {"expires_in": 1e9},
        {"expires_in": "900"},
        {"persistent": None},
        {"persistent": 1},
    ],
)
def test_anything_but_what_is_agreed_says_nothing(changes: dict[str, object]) -> None:
    answer = read(200, {**GOOD, **changes})
    assert (answer.token, answer.is_ended) == ("", False)
    assert answer.fault


@pytest.mark.parametrize(
    ("status", "members"),
    [
        (410, {}),
        (410, {"code": "gone"}),
        (410, []),
        (404, {"code": "session_ended"}),
        (401, {"code": "session_ended"}),
        (500, {"code": "session_ended"}),
        (204, {}),
    ],
)
def test_only_one_answer_ends_a_session(status: int, members: object) -> None:
    answer = read(status, members)
    assert not answer.is_ended
    assert answer.fault == f"status {status}"
    assert read(410, {"code": "session_ended"}).is_ended


@pytest.mark.parametrize(
    ("status", "value", "seconds"),
    [
        (429, b"7", 7),
        (503, b"2", 2),
        (503, b"", 0),
        (503, b"soon", 0),
        (503, b"-1", 0),
        (500, b"7", 0),
        (503, b"99999", 60),
    ],
)
def test_the_auth_service_says_when_to_ask_again(status: int, value: bytes, seconds: int) -> None:
    answer = read(status, {}, value)
    assert answer.retry_after == seconds <= MAX_RETRY_SECONDS
    assert answer.is_throttled is (status == 429)
    assert not answer.is_refused


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_gateway_is_not_the_sessions_fault(status: int) -> None:
    assert read(status, {"code": "invalid_client"}).is_refused


@given(st.integers(100, 599), st.binary(max_size=40), st.binary(max_size=200))
def test_no_answer_raises_or_lets_anybody_in(status: int, retry_after: bytes, content: bytes) -> None:
    answer = read_answer(status, retry_after, content, SID)
    assert answer.fault
    assert not answer.token
    assert not answer.is_ended


def test_deep_nesting_is_no_answer() -> None:
    assert read_answer(200, b"", b"[" * 60_000, SID).fault
