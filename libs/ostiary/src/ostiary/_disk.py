"""The last good key set on disk, so that a restart during an outage of the issuer works."""

import contextlib
import json
import logging
import os
import secrets
import time
from pathlib import Path

from ostiary import _json

_log = logging.getLogger("ostiary.keys")


def load(path: Path, issuer: str, max_age: float) -> tuple[bytes, float] | None:
    """Return the document that was stored for an issuer and its age in seconds; None if there is no usable one."""
    try:
        stored = _json.parse_object(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        _log.warning("the stored keys cannot be read: %s", type(error).__name__)
        return None
    fetched_at, document = stored.get("fetched_at"), stored.get("document")
    if stored.get("issuer") != issuer or not isinstance(fetched_at, int | float) or not isinstance(document, str):
        _log.warning("the stored keys are of somebody else, or no stored keys")
        return None
    age = time.time() - fetched_at
    # A clock that went back makes the age unknown, and an unknown age is too old.
    return (document.encode(), age) if 0 <= age <= max_age else None


def store(path: Path, issuer: str, document: bytes) -> None:
    """Store a document, all of it or nothing. A failure is logged: the keys in memory are good all the same."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    text = json.dumps({"issuer": issuer, "fetched_at": time.time(), "document": document.decode()})
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        draft.replace(path)
    except OSError as error:
        _log.warning("the keys cannot be stored: %s", error.strerror)
        with contextlib.suppress(OSError):
            draft.unlink()
