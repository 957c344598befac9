"""For tests of services: an issuer with a new key of its own.

    issuer = Issuer()
    app = create_app(verifier=issuer.verifier())
    headers = {"Authorization": f"Bearer {issuer.token(subject='u1', scopes=['orders:read'])}"}

Its tokens are signed and verified as in production. It is not meant for production.
"""

import json
import math
import secrets
import time
import uuid
from collections.abc import Collection, Mapping

from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256

from ostiary import _base64url
from ostiary._keyset import KeySet
from ostiary._source import LocalKeys, LocalRevocations
from ostiary._verifier import Verifier, VerifierConfig
from ostiary.browser import cookie_names
from ostiary.feed import EVERYTHING, GENESIS, Answer, Kind, Revocation, chain

_REMOVED = object()


class Issuer:
    """An issuer of access tokens, for tests."""

    #: As a value in `claims` or `header`: omit this member.
    REMOVED = _REMOVED

    def __init__(
        self,
        issuer: str = "https://issuer.example",
        audience: str = "ostiary",
        kid: str = "test-key",
        private_key: RSAPrivateKey | None = None,
    ) -> None:
        """Generate a key of 2048 bits, unless one is given: that saves some 50 ms."""
        self.issuer = issuer
        self.audience = audience
        self.kid = kid
        self.private_key = private_key or generate_private_key(65537, 2048)
        self._revoked = LocalRevocations()
        self._revoked.revocations.fresh_at = math.inf
        self._digest, self._head = GENESIS, 0

    def token(
        self,
        *,
        subject: str = "user-1",
        scopes: Collection[str] = (),
        roles: Collection[str] = (),
        claims: Mapping[str, object] | None = None,
        header: Mapping[str, object] | None = None,
    ) -> str:
        """Return a token that is valid for 15 minutes. `claims` and `header` override its members."""
        now = int(time.time())
        members: dict[str, object] = {
            "iss": self.issuer,
            "aud": self.audience,
            "sub": subject,
            "client_id": "test-client",
            "iat": now,
            "nbf": now,
            "exp": now + 900,
            "jti": str(uuid.uuid4()),
            "sid": str(uuid.uuid4()),
            "auth_time": now,
            "scope": " ".join(scopes),
            "roles": list(roles),
            "rev": self._head,
        }
        protected: dict[str, object] = {"alg": "RS256", "typ": "at+jwt", "kid": self.kid}
        return self.sign(_overridden(protected, header), _overridden(members, claims))

    def cookies(
        self,
        *,
        subject: str = "user-1",
        scopes: Collection[str] = (),
        roles: Collection[str] = (),
        claims: Mapping[str, object] | None = None,
    ) -> dict[str, str]:
        """Return the cookies of a browser's session, by name, with a token as `token` makes it.

        The issuer's URL has to be https, or that of a loopback address.
        """
        session_id = str((claims or {}).get("sid", uuid.uuid4()))
        token = self.token(subject=subject, scopes=scopes, roles=roles, claims={"sid": session_id, **(claims or {})})
        names = cookie_names(self.issuer)
        return {names.session.decode(): f"{session_id}.{secrets.token_urlsafe(32)}", names.token.decode(): token}

    def revoke(self, kind: Kind, target: str = EVERYTHING) -> None:
        """Revoke a session by its `sid`, a token by its `jti`, or all tokens so far of a subject, a client or a key.

        It takes effect at once in all verifiers of this issuer.
        """
        now = int(time.time())
        revocation = Revocation(self._head + 1, kind, target, now + 900)
        self._head, self._digest = revocation.number, chain(self._digest, revocation)
        answer = Answer(
            issuer=self.issuer,
            issued_at=now,
            epoch="test",
            first=self._head,
            head=self._head,
            more=False,
            digest=self._digest,
            reset=False,
            revocations=(revocation,),
            keys="",
        )
        self._revoked.revocations.apply(answer, 0.0)

    def sign(self, header: bytes, payload: bytes) -> str:
        """Return the compact serialisation of any header and payload, with a valid signature."""
        signing_input = _base64url.encode(header) + b"." + _base64url.encode(payload)
        signature = self.private_key.sign(signing_input, PKCS1v15(), SHA256())
        return (signing_input + b"." + _base64url.encode(signature)).decode()

    def jwk(self) -> dict[str, str]:
        """Return the public key as a JWK."""
        numbers = self.private_key.public_key().public_numbers()
        return {
            "kty": "RSA",
            "kid": self.kid,
            "use": "sig",
            "alg": "RS256",
            "n": _base64url.encode(numbers.n.to_bytes(256, "big")).decode(),
            "e": "AQAB",
        }

    def jwks(self) -> bytes:
        """Return the JWKS document."""
        return json.dumps({"keys": [self.jwk()]}).encode()

    def verifier(self) -> Verifier:
        """Return a verifier of this issuer's tokens, which needs no network."""
        return Verifier(self.config())

    def config(self, *, leeway: float = 5.0) -> VerifierConfig:
        """Return the configuration of such a verifier."""
        keys = LocalKeys(KeySet.from_json(self.jwks()))
        return VerifierConfig(
            issuer=self.issuer,
            audience=self.audience,
            key_source=keys,
            revocation_source=self._revoked,
            leeway=leeway,
        )


def _overridden(members: Mapping[str, object], changes: Mapping[str, object] | None) -> bytes:
    merged = {**members, **(changes or {})}
    return json.dumps({name: value for name, value in merged.items() if value is not _REMOVED}).encode()
