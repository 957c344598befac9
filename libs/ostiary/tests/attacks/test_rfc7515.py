"""RFC 7515, JSON Web Signature: header members and serialisations that are not ours."""

import json

import pytest
from catalogue import Target, b64

from ostiary.testing import Issuer


class TestHeaderParameters:
    """Section 4.1: keys and URLs of keys in the token are ignored."""

    @pytest.mark.parametrize("name", ["jwk", "jku", "x5u", "x5c", "x5t", "x5t#S256"])
    def test_a_token_does_not_bring_its_own_key(
        self, target: Target, issuer: Issuer, stranger: Issuer, name: str
    ) -> None:
        values = {
            "jwk": stranger.jwk(),
            "jku": "http://127.0.0.1:1/jwks.json",
            "x5u": "http://169.254.169.254/latest/meta-data",
            "x5c": [b64(b"certificate")],
        }
        header = {name: values.get(name, "AAAA")}
        assert target.refuses(stranger.token(header=header)) == "bad_signature"
        assert target.refuses(stranger.token(header={**header, "kid": "theirs"})) == "unknown_key"
        # Beside a good signature they change nothing.
        assert target.verifier.verify(issuer.token(header=header)).issuer == issuer.issuer

    @pytest.mark.parametrize(
        "header",
        [
            {"crit": ["exp"], "exp": 1},
            {"crit": []},
            {"crit": ["b64"], "b64": False},
            {"b64": False},
            {"b64": True},
            {"zip": "DEF"},
            {"enc": "A128GCM"},
        ],
    )
    def test_header_members_that_change_the_interpretation_are_rejected(
        self, target: Target, issuer: Issuer, header: dict[str, object]
    ) -> None:
        """Section 4.1.11; RFC 7797 section 6; RFC 7516 section 4.1.3."""
        assert target.refuses(issuer.token(header=header)) == "malformed"

    @pytest.mark.parametrize(
        "kid",
        [
            *("../../../../dev/null", "/etc/passwd", "file:///etc/passwd", "http://127.0.0.1/key"),
            *(
                "' OR '1'='1",
                "x' UNION SELECT 'key",
                "key; id",
                "$(id)",
                "`id`",
                "%00",
                "\x00",
                "test-key\x00",
                " test-key",
            ),
        ],
    )
    def test_a_kid_is_only_a_name(self, target: Target, issuer: Issuer, kid: str) -> None:
        """Section 4.1.4."""
        assert target.refuses(issuer.token(header={"kid": kid})) == "unknown_key"

    @pytest.mark.parametrize("kid", [None, 1, True, [], ["test-key"], {"test-key": 1}, "", "k" * 129])
    def test_a_kid_is_a_short_string(self, target: Target, issuer: Issuer, kid: object) -> None:
        assert target.refuses(issuer.token(header={"kid": kid})) == "malformed"

    def test_a_huge_kid_is_rejected_early(self, target: Target, issuer: Issuer) -> None:
        assert target.refuses(issuer.token(header={"kid": "k" * 100_000})) == "too_large"
        assert target.refuses(issuer.token(header={"kid": "k" * 4_000})) == "too_large"

    def test_a_token_without_a_kid_is_rejected(self, target: Target, issuer: Issuer) -> None:
        assert target.refuses(issuer.token(header={"kid": Issuer.REMOVED})) == "malformed"


class TestSerialisation:
    """Section 7: only the compact serialisation."""

    def test_other_numbers_of_segments_are_rejected(self, target: Target, issuer: Issuer) -> None:
        header, payload, signature = issuer.token().split(".")
        for token in (
            *(f"{header}.{payload}", f"{header}.{payload}.", f".{payload}.{signature}", f"{header}..{signature}"),
            *(f"{header}.{payload}.{signature}.", f"{header}.{payload}.{signature}.{signature}"),
            f"{header}.{payload}.{signature}.{signature}.{signature}",  # the form of a JWE
        ):
            assert target.refuses(token) == "malformed"

    def test_the_json_serialisations_are_rejected(self, target: Target, issuer: Issuer) -> None:
        header, payload, signature = issuer.token().split(".")
        flattened = {"protected": header, "payload": payload, "signature": signature}
        general = {"payload": payload, "signatures": [{"protected": header, "signature": signature}]}
        for form in (flattened, general):
            assert target.refuses(json.dumps(form)) == "malformed"

    @pytest.mark.parametrize("position", [0, 1, 2])
    @pytest.mark.parametrize(
        "change", ["{}=", "{}==", " {}", "{} ", "{}\t", "{}\n", "\n{}", "{}%3D", "+{}", "{}\u200b"]
    )
    def test_other_spellings_of_a_segment_are_rejected(
        self, target: Target, issuer: Issuer, position: int, change: str
    ) -> None:
        segments = issuer.token().split(".")
        segments[position] = change.format(segments[position])
        assert target.refuses(".".join(segments)) == "malformed"

    def test_spare_bits_are_rejected(self, target: Target, issuer: Issuer) -> None:
        """Section 2: a decoder that ignores them lets one token have many forms."""
        token = issuer.token()
        alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
        first = alphabet.index(token[-1])
        for other in alphabet[first + 1 : first + 16]:
            assert target.refuses(token[:-1] + other) == "malformed"

    def test_the_standard_alphabet_is_rejected(self, target: Target, issuer: Issuer) -> None:
        header, payload, signature = issuer.token().split(".")
        while not {"-", "_"} & set(signature):
            header, payload, signature = issuer.token().split(".")
        standard = signature.replace("-", "+").replace("_", "/")
        assert target.refuses(f"{header}.{payload}.{standard}") == "malformed"


class TestJson:
    """Section 4 and RFC 8259: what two parsers could interpret differently, though it is signed."""

    @pytest.mark.parametrize(
        "payload",
        [
            b"",
            b"{}x",
            b"[]",
            b"null",
            b'"text"',
            b"{'sub':'u'}",
            b'\xef\xbb\xbf{"sub":"u"}',
            '{"sub":"u"}'.encode("utf-16"),
            '{"sub":"u"}'.encode("utf-32"),
            b'{"sub":"\xff"}',
            b'{"sub":"\xed\xa0\x80"}',
            b'{"sub":"user","sub":"admin"}',
            b'{"sub":"user","\\u0073ub":"admin"}',
            b'{"a":{"b":1,"b":2}}',
            b'{"exp":NaN}',
            b'{"exp":Infinity}',
            b'{"exp":-Infinity}',
            b'{"sub":"\\ud800"}',
            b'{"\\udfff":1}',
            b'{"sub":"\\ud800\\ud800"}',
            b'{"a":' * 900 + b"1" + b"}" * 900,
            b"[" * 5_000,
            b'{"exp":' + b"9" * 5_000 + b"}",
            b'{"sub":"u",}',
            b'{"sub":"u"}\n',
            b'/**/{"sub":"u"}',
        ],
    )
    def test_a_payload_that_is_not_strict_json_is_rejected(
        self, target: Target, issuer: Issuer, payload: bytes
    ) -> None:
        header = json.dumps({"alg": "RS256", "typ": "at+jwt", "kid": issuer.kid}).encode()
        assert target.refuses(issuer.sign(header, payload)) in {"malformed", "missing_claim"}

    @pytest.mark.parametrize(
        "header",
        [
            b'{"alg":"none","alg":"RS256","typ":"at+jwt","kid":"test-key"}',
            b'{"alg":"RS256","typ":"JWT","typ":"at+jwt","kid":"test-key"}',
            b'{"alg":"RS256","typ":"at+jwt","kid":"test-key","x":NaN}',
            b'\xef\xbb\xbf{"alg":"RS256","typ":"at+jwt","kid":"test-key"}',
            b'["RS256"]',
            b"",
        ],
    )
    def test_a_header_that_is_not_strict_json_is_rejected(self, target: Target, issuer: Issuer, header: bytes) -> None:
        assert target.refuses(issuer.sign(header, b"{}")) == "malformed"

    def test_a_token_over_the_limit_is_rejected_before_parsing(self, target: Target, issuer: Issuer) -> None:
        assert target.refuses(issuer.token(claims={"x": "x" * 10_000})) == "too_large"
        assert target.refuses("\u00e9" * 9_000) == "too_large"
        assert target.refuses("\ud800.a.b") == "malformed"
