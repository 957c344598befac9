"""How an application observes a verifier: outcomes and durations, never anything from a token."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

_log = logging.getLogger("ostiary.observer")


class Observer(Protocol):
    """Receives each verification, key fetch and feed poll. Called on the request path: it must not block or raise."""

    def verified(self, outcome: str, seconds: float) -> None:
        """Record a verification. `outcome` is `verified`, `cached` or the `code` of the error."""

    def fetched(self, issuer: str, outcome: str, seconds: float) -> None:
        """Record a fetch of keys. `outcome` is `changed`, `unchanged` or `failed`."""

    def followed(self, issuer: str, outcome: str, seconds: float, number: int | None) -> None:
        """Record a poll of the revocation feed. `number` is the last revocation applied, None if the poll failed.

        `outcome` is `updated`, `unchanged`, `failed`, or `rejected` for a response that must not be applied, such as a
        fork of the log.
        """


@contextmanager
def harmless() -> Iterator[None]:
    """Log what an observer raises, so that it cannot end a background task."""
    try:
        yield
    except Exception:  # noqa: BLE001 - it is the application's code
        _log.exception("observer failed")
