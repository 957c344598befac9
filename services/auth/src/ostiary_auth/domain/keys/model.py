"""Signing keys as they are stored, and the states of their life.

    next     published, so that every verifier holds it before it signs
    signing  signs; exactly one key is in this state
    retired  published until the last token that it signed has expired
    gone     deleted

A revoked key is deleted at once, and every token it has signed is revoked with it.
"""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum


class KeyState(StrEnum):
    NEXT = "next"
    SIGNING = "signing"
    RETIRED = "retired"


@dataclass(frozen=True, slots=True)
class StoredKey:
    """A stored signing key. `since` is when it entered its state."""

    kid: str
    state: KeyState
    since: datetime
    created_at: datetime
    sealed_private_key: bytes = field(repr=False)
