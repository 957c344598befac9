"""Helpers of the attack catalogue."""

import base64
from dataclasses import dataclass, field

import httpx
import pytest

from ostiary import RemoteKeys, Verifier, VerifierConfig, errors
from ostiary.testing import Issuer


def b64(data: bytes) -> str:
    """Return base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def unb64(text: str) -> bytes:
    """Decode base64url without padding."""
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


@dataclass
class Target:
    """A verifier under attack that fetches its keys over HTTP, and the requests that it makes."""

    issuer: Issuer
    requests: list[httpx.Request] = field(default_factory=list)

    def __post_init__(self) -> None:
        keys = RemoteKeys(self.issuer.issuer, f"{self.issuer.issuer}/jwks", transport=httpx.MockTransport(self._answer))
        config = VerifierConfig(issuer=self.issuer.issuer, audience=self.issuer.audience, key_source=keys)
        self.verifier = Verifier(config)

    def _answer(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        stream = httpx.ByteStream(self.issuer.jwks())
        return httpx.Response(200, headers={"Content-Type": "application/json"}, stream=stream)

    def refuses(self, token: str) -> str:
        """Return the code of the error for a token, from two verifications, so that a cache cannot hide one."""
        codes = set()
        for _ in range(2):
            with pytest.raises(errors.TokenError) as caught:
                self.verifier.verify(token)
            codes.add(caught.value.code)
        (code,) = codes
        return code
