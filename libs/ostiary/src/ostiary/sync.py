"""The verifier for code without an event loop: Flask, Django, workers.

verifier = SyncVerifier(VerifierConfig(issuer=..., audience=..., jwks_url=...))
verifier.start()                      # once per process, after a pre-forking server has forked
token = verifier.verify(raw_token)    # from any thread
"""

import asyncio
import threading
from types import EllipsisType
from typing import Self

from ostiary._token import VerifiedToken
from ostiary._verifier import CACHED_TOKENS, MAX_STALENESS, Verifier, VerifierConfig
from ostiary.observer import Observer


class SyncVerifier:
    """A Verifier whose keys and revocations are refreshed by a thread."""

    def __init__(
        self,
        *configs: VerifierConfig,
        remember: int = CACHED_TOKENS,
        max_staleness: float | None = MAX_STALENESS,
        observer: Observer | None = None,
    ) -> None:
        """See Verifier for the arguments."""
        self._verifier = Verifier(*configs, remember=remember, max_staleness=max_staleness, observer=observer)
        self._thread = threading.Thread(target=self._run, name="ostiary-keys", daemon=True)
        self._started = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop = asyncio.Event()

    def start(self) -> Self:
        """Start the thread. Returns when the first fetches have succeeded or failed."""
        self._thread.start()
        self._started.wait()
        return self

    def close(self) -> None:
        """Stop the thread."""
        loop, self._loop = self._loop, None
        if loop is not None:
            loop.call_soon_threadsafe(self._stop.set)
            self._thread.join()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def ready(self) -> bool:
        """Whether `verify` can decide; see Verifier.ready."""
        return self._verifier.ready

    def verify(
        self, token: str, *, now: float | None = None, max_staleness: float | EllipsisType | None = ...
    ) -> VerifiedToken:
        """Return the verified token; see Verifier.verify."""
        return self._verifier.verify(token, now=now, max_staleness=max_staleness)

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        finally:
            self._started.set()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        async with self._verifier:
            self._started.set()
            await self._stop.wait()
