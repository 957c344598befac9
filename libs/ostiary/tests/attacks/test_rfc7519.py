"""RFC 7519, JSON Web Token: invalid dates, and tokens before and after their lifetime."""

import time

import pytest
from catalogue import Target

from ostiary import Verifier, errors
from ostiary.testing import Issuer

NOW = 1_700_000_000


class TestDates:
    """Section 2, NumericDate."""

    @pytest.mark.parametrize("name", ["exp", "iat", "nbf", "auth_time"])
    @pytest.mark.parametrize(
        "value",
        ["9999999999", "", True, [9_999_999_999], {"$gt": 0}, 1e308, -1, -0.5, 253_402_300_800, 10**30, 10**400],
    )
    def test_an_invalid_date_is_rejected(self, target: Target, issuer: Issuer, name: str, value: object) -> None:
        assert target.refuses(issuer.token(claims={name: value})) == "malformed"

    @pytest.mark.parametrize("name", ["exp", "iat"])
    @pytest.mark.parametrize("value", [None, Issuer.REMOVED])
    def test_a_token_has_a_beginning_and_an_end(self, target: Target, issuer: Issuer, name: str, value: object) -> None:
        assert target.refuses(issuer.token(claims={name: value})) == "missing_claim"

    def test_a_date_may_have_a_fraction(self, target: Target, issuer: Issuer) -> None:
        assert target.verifier.verify(issuer.token(claims={"exp": time.time() + 1.5})).expires_at % 1 != 0


class TestBoundaries:
    """Sections 4.1.4 to 4.1.6, to the second, new and cached alike."""

    @pytest.mark.parametrize("leeway", [0, 5, 60])
    def test_exp_is_the_first_second_that_is_too_late(self, issuer: Issuer, leeway: float) -> None:
        verifier = Verifier(issuer.config(leeway=leeway))
        token = issuer.token(claims={"exp": NOW, "iat": NOW - 900, "nbf": NOW - 900})
        for _ in range(2):
            assert verifier.verify(token, now=NOW + leeway - 0.001).expires_at == NOW
            with pytest.raises(errors.Expired):
                verifier.verify(token, now=NOW + leeway)

    @pytest.mark.parametrize("name", ["nbf", "iat"])
    @pytest.mark.parametrize("leeway", [0, 5, 60])
    def test_nbf_and_iat_are_the_first_valid_second(self, issuer: Issuer, name: str, leeway: float) -> None:
        verifier = Verifier(issuer.config(leeway=leeway))
        token = issuer.token(claims={"exp": NOW + 900, "iat": NOW - 900, "nbf": NOW - 900, name: NOW})
        for _ in range(2):
            with pytest.raises(errors.NotYetValid):
                verifier.verify(token, now=NOW - leeway - 0.001)
            assert verifier.verify(token, now=NOW - leeway).expires_at == NOW + 900
