"""Properties of all tokens, some with PyJWT as an oracle."""

import base64
import json
import time

import jwt
from hypothesis import given
from hypothesis import strategies as st

from ostiary import Verifier, errors
from ostiary.testing import Issuer

ISSUER = Issuer()
VERIFIER = Verifier(ISSUER.config(), remember=0)
REMEMBERING = ISSUER.verifier()

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
claim_names = st.sampled_from(
    ["iss", "aud", "sub", "client_id", "exp", "iat", "nbf", "jti", "sid", "auth_time", "scope", "roles", "other"]
)
dates = st.sampled_from([0, int(time.time()) - 1000, int(time.time()) + 1000, 2**31, 1e308])


def accepted(token: str) -> dict[str, object] | None:
    """Return subject and scopes of a token that our verifier accepts."""
    try:
        verified = VERIFIER.verify(token)
    except errors.TokenError:
        return None
    return {"sub": verified.subject, "jti": verified.token_id, "exp": verified.expires_at, "iss": verified.issuer}


def by_pyjwt(token: str) -> dict[str, object]:
    claims = jwt.decode(
        token,
        ISSUER.private_key.public_key(),
        algorithms=["RS256"],
        audience=ISSUER.audience,
        issuer=ISSUER.issuer,
        leeway=5,
    )
    return {name: claims[name] for name in ("sub", "jti", "exp", "iss")}


@given(data=st.data())
def test_no_changed_character_goes_unnoticed(data: st.DataObject) -> None:
    token = ISSUER.token(scopes=["a"])
    REMEMBERING.verify(token)
    position = data.draw(st.integers(0, len(token) - 1))
    replacement = data.draw(st.characters(min_codepoint=1, max_codepoint=255) | st.sampled_from("AZaz09-_=.+/"))
    changed = token[:position] + replacement + token[position + 1 :]
    if changed != token:
        for verifier in (VERIFIER, REMEMBERING):
            try:
                verifier.verify(changed)
            except errors.TokenError:
                continue
            raise AssertionError(changed)


@given(data=st.data())
def test_no_character_more_or_less_goes_unnoticed(data: st.DataObject) -> None:
    token = ISSUER.token()
    position = data.draw(st.integers(0, len(token)))
    inserted = data.draw(st.sampled_from("A=.\n _-"))
    for changed in (token[:position] + inserted + token[position:], token[:position] + token[position + 1 :]):
        assert changed == token or accepted(changed) is None


@given(
    st.dictionaries(claim_names, json_values | dates, max_size=4),
    st.dictionaries(st.text(max_size=4), json_values, max_size=2),
)
def test_what_ours_accepts_pyjwt_accepts_with_the_same_claims(
    claims: dict[str, object], header: dict[str, object]
) -> None:
    token = ISSUER.token(claims=claims, header={k: v for k, v in header.items() if k not in {"alg", "kid", "typ"}})
    ours = accepted(token)
    if ours is not None:
        assert by_pyjwt(token) == ours


@given(st.binary(max_size=60))
def test_any_payload_that_ours_accepts_pyjwt_reads_the_same(payload: bytes) -> None:
    header = json.dumps({"alg": "RS256", "typ": "at+jwt", "kid": ISSUER.kid}).encode()
    good = base64.urlsafe_b64decode(ISSUER.token().split(".")[1] + "==")
    for content in (payload, good[:-1] + payload + b"}", payload + good):
        token = ISSUER.sign(header, content)
        ours = accepted(token)
        if ours is not None:
            assert by_pyjwt(token) == ours


@given(st.text(max_size=200) | st.binary(max_size=200).map(lambda raw: raw.decode("latin-1")))
def test_arbitrary_input_is_rejected_with_the_right_error(text: str) -> None:
    assert accepted(text) is None
