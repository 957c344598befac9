"""RFC 7518, JSON Web Algorithms: every algorithm but RS256, each token validly signed with it."""

import hashlib
import hmac
import json
from collections.abc import Callable

import pytest
from catalogue import Target, b64, unb64
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA1, SHA256, SHA384, SHA512
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ostiary.testing import Issuer

Sign = Callable[[bytes], bytes]


def signed(issuer: Issuer, alg: object, sign: Sign, **header: object) -> str:
    """Return a token that is valid but for its algorithm."""
    payload = issuer.token(scopes=["admin"]).split(".")[1]
    head = b64(json.dumps({"alg": alg, "typ": "at+jwt", "kid": issuer.kid, **header}).encode())
    return f"{head}.{payload}.{b64(sign(f'{head}.{payload}'.encode()))}"


class TestNone:
    """Section 3.6."""

    @pytest.mark.parametrize("alg", ["none", "None", "NONE", "nOnE", "none ", "", None, 0, False, [], {}])
    def test_an_unsigned_token_is_rejected(self, target: Target, issuer: Issuer, alg: object) -> None:
        assert target.refuses(signed(issuer, alg, lambda _: b"x")) == "unsupported_alg"
        assert target.refuses(signed(issuer, alg, lambda _: b"")) == "malformed"

    def test_a_valid_signature_does_not_permit_alg_none(self, target: Target, issuer: Issuer) -> None:
        assert target.refuses(issuer.token(header={"alg": "none"})) == "unsupported_alg"

    def test_a_token_without_an_algorithm_is_rejected(self, target: Target, issuer: Issuer) -> None:
        assert target.refuses(issuer.token(header={"alg": Issuer.REMOVED})) == "unsupported_alg"


class TestHmac:
    """Section 3.2, and RFC 8725 section 2.1: the public key as an HMAC secret."""

    @pytest.mark.parametrize("digest", ["sha256", "sha384", "sha512"])
    @pytest.mark.parametrize("form", ["pem", "pem-stripped", "pkcs1", "der", "jwk", "jwk-n", "empty"])
    @pytest.mark.parametrize("alg", ["honest", "RS256"])
    def test_the_public_key_is_no_secret(
        self, target: Target, issuer: Issuer, digest: str, form: str, alg: str
    ) -> None:
        public_key = issuer.private_key.public_key()
        pem = public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        secret = {
            "pem": pem,
            "pem-stripped": pem.strip(),
            "pkcs1": public_key.public_bytes(Encoding.PEM, PublicFormat.PKCS1),
            "der": public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
            "jwk": json.dumps(issuer.jwk()).encode(),
            "jwk-n": issuer.jwk()["n"].encode(),
            "empty": b"",
        }[form]
        token = signed(
            issuer,
            f"HS{digest[3:]}" if alg == "honest" else alg,
            lambda signing_input: hmac.new(secret, signing_input, digest).digest(),
        )
        assert target.refuses(token) == ("unsupported_alg" if alg == "honest" else "bad_signature")


class TestOtherSignatures:
    """Sections 3.3 to 3.5 and RFC 8037: valid signatures of other algorithms, under our kid."""

    def other_algorithms(self, issuer: Issuer) -> dict[str, Sign]:
        curve = ec.generate_private_key(ec.SECP256R1())
        edwards = ed25519.Ed25519PrivateKey.generate()

        def es256(data: bytes) -> bytes:
            r, s = decode_dss_signature(curve.sign(data, ec.ECDSA(SHA256())))
            return r.to_bytes(32, "big") + s.to_bytes(32, "big")

        def pss(data: bytes) -> bytes:
            return issuer.private_key.sign(data, padding.PSS(padding.MGF1(SHA256()), 32), SHA256())

        return {
            "ES256": es256,
            "PS256": pss,
            "EdDSA": edwards.sign,
            "RS384": lambda data: issuer.private_key.sign(data, padding.PKCS1v15(), SHA384()),
            "RS512": lambda data: issuer.private_key.sign(data, padding.PKCS1v15(), SHA512()),
            "RS1": lambda data: issuer.private_key.sign(data, padding.PKCS1v15(), SHA1()),
        }

    @pytest.mark.parametrize("alg", ["ES256", "PS256", "EdDSA", "RS384", "RS512", "RS1"])
    def test_another_algorithm_is_rejected(self, target: Target, issuer: Issuer, alg: str) -> None:
        sign = self.other_algorithms(issuer)[alg]
        assert target.refuses(signed(issuer, alg, sign)) == "unsupported_alg"
        assert target.refuses(signed(issuer, "RS256", sign)) == "bad_signature"

    @pytest.mark.parametrize("alg", ["rs256", "RS256 ", "Rs256", "RS256\x00", ["RS256"], {"RS256": 1}, True])
    def test_another_spelling_is_another_algorithm(self, target: Target, issuer: Issuer, alg: object) -> None:
        assert target.refuses(issuer.token(header={"alg": alg})) == "unsupported_alg"


class TestSignatureValues:
    """Section 3.3: the signature is as long as the modulus, and a number below it."""

    def test_forged_values_are_rejected(self, target: Target, issuer: Issuer) -> None:
        head, _, encoded = issuer.token().rpartition(".")
        modulus = issuer.private_key.public_key().public_numbers().n
        good = int.from_bytes(unb64(encoded), "big")
        for value in (0, 1, modulus - 1, modulus, good + 1, modulus - good):
            assert target.refuses(f"{head}.{b64(value.to_bytes(256, 'big'))}") == "bad_signature"
        if good + modulus < 2**2048:
            assert target.refuses(f"{head}.{b64((good + modulus).to_bytes(256, 'big'))}") == "bad_signature"
        for length in (1, 255, 257, 512):
            assert target.refuses(f"{head}.{b64(bytes(length))}") == "bad_signature"

    def test_a_leading_or_trailing_zero_is_rejected(self, target: Target, issuer: Issuer) -> None:
        head, _, encoded = issuer.token().rpartition(".")
        signature = unb64(encoded)
        for changed in (b"\0" + signature, signature + b"\0", signature[1:], signature[:-1]):
            assert target.refuses(f"{head}.{b64(changed)}") == "bad_signature"

    def test_a_malformed_digest_is_rejected(self, target: Target, issuer: Issuer) -> None:
        """RFC 8017 section 9.2: raw RSA over the digest without its DigestInfo."""
        numbers = issuer.private_key.private_numbers()

        def raw(data: bytes) -> bytes:
            block = b"\x00\x01" + b"\xff" * 221 + b"\x00" + hashlib.sha256(data).digest()
            return pow(int.from_bytes(block, "big"), numbers.d, numbers.public_numbers.n).to_bytes(256, "big")

        assert target.refuses(signed(issuer, "RS256", raw)) == "bad_signature"


class TestEncryption:
    """Section 4, RFC 7516 and RFC 7518 section 4.8: a JWE is rejected before anything expensive."""

    @pytest.mark.parametrize("alg", ["RSA-OAEP", "RSA1_5", "dir", "A128KW", "PBES2-HS256+A128KW"])
    def test_an_encrypted_token_is_rejected(self, target: Target, issuer: Issuer, alg: str) -> None:
        header = {"alg": alg, "enc": "A128GCM", "typ": "at+jwt", "kid": issuer.kid, "p2c": 2**31, "p2s": "AAAA"}
        head = b64(json.dumps(header).encode())
        assert target.refuses(f"{head}.AAAA.AAAA.AAAA.AAAA") == "malformed"
        assert target.refuses(f"{head}.{b64(b'{}')}.AAAA") == "malformed"
        del header["enc"]
        assert target.refuses(f"{b64(json.dumps(header).encode())}.{b64(b'{}')}.AAAA") == "unsupported_alg"


def test_a_small_key_does_not_stand_in_for_ours(target: Target, issuer: Issuer) -> None:
    """Section 3.3: 2048 bits or more."""
    small = rsa.generate_private_key(65537, 1024)
    token = signed(issuer, "RS256", lambda data: small.sign(data, padding.PKCS1v15(), SHA256()))
    assert target.refuses(token) == "bad_signature"
