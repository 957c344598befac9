"""Parses the only accepted form of signed documents: the compact serialisation of a JWS (RFC 7515 section 7.1).

There is no cryptography here: a parsed token is well-formed, names an accepted algorithm and type,
and still has to be verified.
"""

from functools import lru_cache

from ostiary import _base64url, _json
from ostiary.errors import Malformed, TooLarge, UnsupportedAlg, WrongType

#: Characters of a whole token. HTTP servers reject header fields over 8 to 16 KiB, so no larger one arrives.
MAX_TOKEN_LENGTH = 8 * 1024

#: Characters of the encoded header; ours take 112. It bounds the time to parse a hostile one.
MAX_HEADER_LENGTH = 1024

#: Characters of a `kid`; ours are 43.
MAX_KID_LENGTH = 128

#: The only algorithm (RFC 8725 section 3.1: an allow-list, whatever the token names).
ALGORITHM = "RS256"

#: The type of an access token (RFC 9068 section 2.1), in both spellings of RFC 7515 section 4.1.9.
ACCESS_TOKEN_TYPES = frozenset({"at+jwt", "application/at+jwt"})

#: Header members that change how a token has to be interpreted. We implement none of them, so RFC 7515
#: section 4.1.11 requires us to reject the token.
_REJECTED_HEADER_MEMBERS = frozenset({"crit", "b64", "zip", "enc"})

#: Parsed headers in the cache. All tokens of one key have the same, so an issuer has two or three.
_CACHED_HEADERS = 64


class SignedClaims:
    """A well-formed JWT of any algorithm and type, whose signature is not verified yet."""

    __slots__ = ("claims", "header", "signature", "signing_input")

    def __init__(
        self, header: dict[str, object], claims: dict[str, object], signing_input: bytes, signature: bytes
    ) -> None:
        self.header = header
        self.claims = claims
        self.signing_input = signing_input
        self.signature = signature


class CompactJws:
    """A well-formed token of our algorithm and type whose signature is not verified yet."""

    __slots__ = ("claims", "kid", "signature", "signing_input")

    # Not a dataclass: creating a frozen one takes longer, and each new token needs one.
    def __init__(self, kid: str, claims: dict[str, object], signing_input: bytes, signature: bytes) -> None:
        self.kid = kid
        self.claims = claims
        self.signing_input = signing_input
        self.signature = signature


def parse(token: str, *, types: frozenset[str] = ACCESS_TOKEN_TYPES, max_length: int = MAX_TOKEN_LENGTH) -> CompactJws:
    """Parse a token of one of these types. Raises TooLarge, Malformed, UnsupportedAlg or WrongType."""
    header, payload, signing_input, signature = _split(token, max_length)
    kid = _read_header(header, types)
    try:
        return CompactJws(
            kid, _json.parse_object(_base64url.decode(payload)), signing_input, _base64url.decode(signature)
        )
    except ValueError as error:
        raise Malformed(str(error)) from error


def parse_any(token: str, max_length: int) -> SignedClaims:
    """Parse a JWT whose algorithm and type are the caller's affair. Raises TooLarge or Malformed."""
    header, payload, signing_input, signature = _split(token, max_length)
    try:
        claims = _json.parse_object(_base64url.decode(payload))
        return SignedClaims(_parse_header(header), claims, signing_input, _base64url.decode(signature))
    except ValueError as error:
        raise Malformed(str(error)) from error


def _split(token: str, max_length: int) -> tuple[bytes, bytes, bytes, bytes]:
    """Return header and payload, what is signed, and the signature."""
    if len(token) > max_length:
        raise TooLarge("token")
    try:
        signing_input, _, signature = token.encode("ascii").rpartition(b".")
    except UnicodeEncodeError as error:
        raise Malformed("not ASCII") from error
    header, _, payload = signing_input.partition(b".")
    if not header or not payload or not signature or b"." in payload:
        raise Malformed("not three segments")
    return header, payload, signing_input, signature


@lru_cache(maxsize=_CACHED_HEADERS)
def _read_header(segment: bytes, types: frozenset[str]) -> str:
    """Check a protected header, and return its `kid`. `jwk`, `jku`, `x5u` and `x5c` are ignored."""
    header = _parse_header(segment)
    if header.get("alg") != ALGORITHM:
        raise UnsupportedAlg
    typ = header.get("typ")
    if not isinstance(typ, str) or typ.lower() not in types:
        raise WrongType
    kid = header.get("kid")
    if not isinstance(kid, str) or not 0 < len(kid) <= MAX_KID_LENGTH:
        raise Malformed("kid")
    return kid


def _parse_header(segment: bytes) -> dict[str, object]:
    if len(segment) > MAX_HEADER_LENGTH:
        raise TooLarge("header")
    try:
        header = _json.parse_object(_base64url.decode(segment))
    except ValueError as error:
        raise Malformed(str(error)) from error
    if not _REJECTED_HEADER_MEMBERS.isdisjoint(header):
        raise Malformed("unsupported header member")
    return header
