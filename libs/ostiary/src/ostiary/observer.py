"""What a verifier tells about its work: outcomes and times, never anything out of a token."""

from typing import Protocol


class Observer(Protocol):
    """Is told about each verification and each fetch of keys. Called on the request path: it must not wait."""

    def verified(self, outcome: str, seconds: float) -> None:
        """Note a verification: `verified`, `remembered`, or the `code` of the error, and how long it took."""

    def fetched(self, issuer: str, outcome: str, seconds: float) -> None:
        """Note a fetch of keys: `changed`, `unchanged` or `failed`, and how long it took."""
