"""What a verifier tells about its work: outcomes and times, never anything out of a token."""

from typing import Protocol


class Observer(Protocol):
    """Is told about each verification and each fetch. Called on the request path: it must not wait."""

    def verified(self, outcome: str, seconds: float) -> None:
        """Note a verification: `verified`, `remembered`, or the `code` of the error, and how long it took."""

    def fetched(self, issuer: str, outcome: str, seconds: float) -> None:
        """Note a fetch of keys: `changed`, `unchanged` or `failed`, and how long it took."""

    def followed(self, issuer: str, outcome: str, seconds: float, number: int | None) -> None:
        """Note a question to the revocation feed, how long it took, and how far the log has been applied since.

        `news`, `quiet`, `failed`, or `refused`: an answer that must not be applied, as a fork of the log.
        """
