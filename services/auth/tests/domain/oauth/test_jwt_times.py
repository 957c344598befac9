import math
from datetime import UTC, datetime

import pytest

from ostiary_auth.domain.oauth.jwt_times import is_current

SECONDS = 1_800_000_000
NOW = datetime.fromtimestamp(SECONDS, UTC)


@pytest.mark.parametrize(
    "claims",
    [
        {},
        {"exp": SECONDS + 1},
        {"exp": SECONDS + 1.5},
        {"nbf": SECONDS, "iat": SECONDS},
        {"exp": SECONDS + 1, "nbf": SECONDS - 60, "iat": SECONDS - 60},
    ],
)
def test_claims_are_valid_from_nbf_until_before_exp(claims: dict[str, object]) -> None:
    assert is_current(claims, NOW)


@pytest.mark.parametrize(
    "claims",
    [
        {"exp": SECONDS},
        {"exp": SECONDS + 0.9},
        {"exp": SECONDS - 1},
        {"nbf": SECONDS + 1},
        {"iat": SECONDS + 1},
        {"exp": SECONDS + 60, "nbf": SECONDS + 1},
        {"exp": SECONDS + 60, "iat": SECONDS + 1},
    ],
)
def test_claims_are_not_valid_outside_of_their_time(claims: dict[str, object]) -> None:
    assert not is_current(claims, NOW)


@pytest.mark.parametrize("name", ["exp", "nbf", "iat"])
@pytest.mark.parametrize("value", [None, "soon", [], {}, math.inf, math.nan])
def test_a_time_that_is_not_a_number_is_not_valid(name: str, value: object) -> None:
    assert not is_current({name: value}, NOW)
