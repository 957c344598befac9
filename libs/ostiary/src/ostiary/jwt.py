"""Strict reading of JWTs for a server that has the keys itself: of its own tokens, and of its clients' assertions.

The parser is the verifier's: canonical base64url, strict JSON without repeated members, no header member that changes
how the rest has to be interpreted. So the issuer and its verifiers never read one token differently.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from ostiary import _jws
from ostiary._jws import SignedClaims
from ostiary._keyset import KeySet
from ostiary._token import VerifiedToken, numeric_date, read_claims
from ostiary._verifier import DEFAULT_LEEWAY, MAX_LEEWAY
from ostiary.errors import WrongIssuer

__all__ = ["DEFAULT_LEEWAY", "MAX_LEEWAY", "IssuedToken", "SignedClaims", "numeric_date", "parse", "read_issued"]


@dataclass(frozen=True, slots=True)
class IssuedToken:
    """An access token that an issuer has signed, for any audience and of any time, with its claims as signed."""

    token: VerifiedToken
    claims: Mapping[str, object]


def read_issued(token: str, issuer: str, keys: KeySet) -> IssuedToken:
    """Read an issuer's own access token.

    Its time (`VerifiedToken.check_time`), audience and revocation are the caller's affair. Raises a TokenError.
    """
    jws = _jws.parse(token)
    keys.verify(jws.kid, jws.signing_input, jws.signature)
    if jws.claims.get("iss") != issuer:
        raise WrongIssuer
    claims = dict(jws.claims)
    return IssuedToken(read_claims(jws.claims, issuer, None, jws.kid), claims)


def parse(token: str, max_length: int) -> SignedClaims:
    """Parse a JWT whose signature the caller verifies. Raises TooLarge or Malformed."""
    return _jws.parse_any(token, max_length)
