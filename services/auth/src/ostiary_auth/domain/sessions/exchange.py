"""The exchange: a gateway turns the secret of a browser's session into access tokens.

It never changes the secret, so no lost answer and no second tab can break a session. Why, and what replaces the
detection of theft that rotation would allow, is in ADR 26.
"""

from collections.abc import Mapping, Sequence
from datetime import timedelta

from ostiary_auth.domain.batched import Batched
from ostiary_auth.domain.clock import Clock
from ostiary_auth.domain.errors import SessionEnded, TooManyExchanges
from ostiary_auth.domain.ports import Store
from ostiary_auth.domain.sessions.model import Entitlement
from ostiary_auth.domain.sessions.session_secrets import SessionProof, parse

#: Exchanges of one session at once, and seconds for each further one. A gateway needs one in the lifetime of a token.
FREE_EXCHANGES = 120
SECONDS_PER_EXCHANGE = 1.0

#: Statements at a time in this process, and sessions in each. After an outage, thousands are exchanged at once.
LANES = 2
MOST_AT_ONCE = 64

#: Sessions whose exchanges are counted. The one that was exchanged longest ago is forgotten first.
MAX_COUNTED = 50_000


class Exchange:
    """Exchanges sessions. `idle` is how long one may go unused."""

    def __init__(self, store: Store, idle: timedelta, clock: Clock) -> None:
        self._store = store
        self._idle = idle
        self._clock = clock
        self._throttle = ExchangeThrottle(clock)
        self._use = Batched(self._use_all, lanes=LANES, most=MOST_AT_ONCE)

    async def entitle(self, presented: str) -> Entitlement:
        """Use a session, given as `SID.SECRET`; return what its next access token states.

        Raises SessionEnded or TooManyExchanges.
        """
        proof = parse(presented)
        self._throttle.admit(proof)
        entitlement = await self._use(proof)
        if entitlement is None:
            raise SessionEnded
        return entitlement

    async def _use_all(self, proofs: Sequence[SessionProof]) -> Mapping[SessionProof, Entitlement]:
        async with self._store.write() as transaction:
            return await transaction.sessions.use(proofs, self._idle, self._clock.now())


class ExchangeThrottle:
    """Limits the exchanges of each session, in this process.

    Counted by id and secret: whoever knows the id alone, which is in every access token, cannot block the owner.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        #: When the last exchanges would have been made, had they waited for their turns.
        self._turns: dict[SessionProof, float] = {}

    def admit(self, proof: SessionProof) -> None:
        """Count an exchange. Raises TooManyExchanges, and then does not count it."""
        now = self._clock.monotonic()
        turn = max(self._turns.pop(proof, now), now)
        wait = turn - now - (FREE_EXCHANGES - 1) * SECONDS_PER_EXCHANGE
        self._turns[proof] = turn if wait > 0 else turn + SECONDS_PER_EXCHANGE
        if len(self._turns) > MAX_COUNTED:
            del self._turns[next(iter(self._turns))]
        if wait > 0:
            raise TooManyExchanges(wait)
