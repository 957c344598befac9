"""What a verifier tells about its work: outcomes and times, never anything out of a token."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

_log = logging.getLogger("ostiary.observer")


class Observer(Protocol):
    """Is told about each verification and each fetch. Called on the request path: it must neither wait nor raise."""

    def verified(self, outcome: str, seconds: float) -> None:
        """Note a verification: `verified`, `remembered`, or the `code` of the error, and how long it took."""

    def fetched(self, issuer: str, outcome: str, seconds: float) -> None:
        """Note a fetch of keys: `changed`, `unchanged` or `failed`, and how long it took."""

    def followed(self, issuer: str, outcome: str, seconds: float, number: int | None) -> None:
        """Note a question to the revocation feed, how long it took, and how far the log has been applied since.

        `news`, `quiet`, `failed`, or `refused`: an answer that must not be applied, as a fork of the log.
        """


@contextmanager
def harmless() -> Iterator[None]:
    """Log what an observer raises nevertheless, where it would end what goes on in the background."""
    try:
        yield
    except Exception:  # noqa: BLE001 - it is the application's
        _log.exception("an observer has raised")
