"""The one form of token that is accepted: the compact serialisation of a JWS (RFC 7515 section 7.1).

Nothing here trusts the token, and nothing here does cryptography: a token that gets through is
well-formed, names an accepted algorithm and type, and still has to be verified.
"""

from dataclasses import dataclass

from ostiary import _base64url, _json
from ostiary.errors import Malformed, TooLarge, UnsupportedAlg, WrongType

#: Bytes of a whole token. HTTP servers refuse header fields of 8 to 16 KiB, so no larger one arrives.
MAX_TOKEN_BYTES = 8 * 1024

#: Bytes of the encoded header; ours take 80. Keeps a hostile one from costing a long parse.
MAX_HEADER_BYTES = 1024

#: Bytes of a `kid`; ours are 43. A key id is a name, not a document.
MAX_KID_BYTES = 128

#: The only algorithm (RFC 8725 section 3.1: an allow-list, never what the token asks for).
ALGORITHM = "RS256"

#: Header members that change how a token is to be read. We implement none of them, and
#: RFC 7515 section 4.1.11 demands that a recipient which does not understand refuses.
_REFUSED_HEADER_MEMBERS = frozenset({"crit", "b64", "zip", "enc"})


@dataclass(frozen=True, slots=True)
class CompactJws:
    """A well-formed token that nobody has verified yet."""

    kid: str
    claims: dict[str, object]
    signing_input: bytes
    signature: bytes


def parse(token: str, accepted_types: frozenset[str]) -> CompactJws:
    """Take a token apart.

    `accepted_types` are the media types that `typ` may name, in lower case and without the
    prefix `application/` (RFC 7515 section 4.1.9).

    Raises TooLarge, Malformed, UnsupportedAlg or WrongType.
    """
    raw = _as_bytes(token)
    segments = raw.split(b".")
    if len(segments) != 3:  # noqa: PLR2004 - header, payload, signature (RFC 7515 section 7.1)
        raise Malformed("not three segments")
    header_segment, payload_segment, signature_segment = segments
    if len(header_segment) > MAX_HEADER_BYTES:
        raise TooLarge("header")
    kid = _check_header(_decode_object(header_segment, "header"), accepted_types)
    return CompactJws(
        kid=kid,
        claims=_decode_object(payload_segment, "payload"),
        signing_input=raw[: len(header_segment) + 1 + len(payload_segment)],
        signature=_decode(signature_segment, "signature"),
    )


def _as_bytes(token: str) -> bytes:
    if len(token) > MAX_TOKEN_BYTES:
        raise TooLarge("token")
    try:
        return token.encode("ascii")
    except UnicodeEncodeError as error:
        raise Malformed("not ASCII") from error


def _decode(segment: bytes, name: str) -> bytes:
    try:
        return _base64url.decode(segment)
    except ValueError as error:
        raise Malformed(f"{name}: {error}") from error


def _decode_object(segment: bytes, name: str) -> dict[str, object]:
    try:
        return _json.parse_object(_decode(segment, name))
    except ValueError as error:
        raise Malformed(f"{name} is not strict JSON") from error


def _check_header(header: dict[str, object], accepted_types: frozenset[str]) -> str:
    """Check the protected header and return its `kid`. `jwk`, `jku`, `x5u` and `x5c` are never looked at."""
    if not _REFUSED_HEADER_MEMBERS.isdisjoint(header):
        raise Malformed("header member that is not supported")
    if header.get("alg") != ALGORITHM:
        raise UnsupportedAlg
    typ = header.get("typ")
    if not isinstance(typ, str) or typ.lower().removeprefix("application/") not in accepted_types:
        raise WrongType
    kid = header.get("kid")
    if not isinstance(kid, str) or not 0 < len(kid) <= MAX_KID_BYTES:
        raise Malformed("kid")
    return kid
