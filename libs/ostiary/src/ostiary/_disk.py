"""The last good key set on disk, for restarts while the issuer is down."""

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
    """Return an issuer's stored document and its age in seconds, or None if there is no usable one."""
    try:
        stored = _json.parse_object(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        _log.warning("stored keys unreadable", extra={"path": str(path), "reason": type(error).__name__})
        return None
    fetched_at, document = stored.get("fetched_at"), stored.get("document")
    if stored.get("issuer") != issuer or not isinstance(fetched_at, int | float) or not isinstance(document, str):
        _log.warning("stored keys invalid", extra={"path": str(path)})
        return None
    age = time.time() - fetched_at
    # After the clock was set back the age is unknown, which counts as too old.
    return (document.encode(), age) if 0 <= age <= max_age else None


def store(path: Path, issuer: str, document: bytes) -> None:
    """Store a document atomically. A failure is only logged, as the keys in memory stay valid."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    text = json.dumps({"issuer": issuer, "fetched_at": time.time(), "document": document.decode()})
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        draft.replace(path)
    except OSError as error:
        _log.warning("keys not stored", extra={"path": str(path), "reason": error.strerror})
        with contextlib.suppress(OSError):
            draft.unlink()
