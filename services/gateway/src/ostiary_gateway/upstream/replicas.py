"""The endpoints of one URL: one for each IP address that its host name has, so that all of them share the load.

The name is looked up again at intervals, sooner while an endpoint or the look-up fails, and by each connection that
fails. What was known last stays while there is no answer.

- An address of several joins once it takes a connection: nothing may listen on one of them, as often with `localhost`,
  or not yet. While none has ever taken one, all are used.
- An address that the name no longer has leaves: it gets no more requests, and those under way go on.
- Before the first look-up, a single endpoint stands for all addresses, and connects to whichever takes the connection.
"""

import asyncio
import math
import random
from collections.abc import Callable, Sequence

import structlog

from ostiary_gateway.upstream.dialer import name_in
from ostiary_gateway.upstream.endpoint import Endpoint
from ostiary_gateway.upstream.name import Name

#: Seconds between two look-ups of a name, and while that or one of its endpoints fails; nothing tells the time to live.
LOOK_UP_SECONDS = 5.0
FAILING_LOOK_UP_SECONDS = 1.0

#: An interval is multiplied by a random factor from this one to 1, so that a gateway with hundreds of names does not
#: start hundreds of threads at the same time again and again.
MIN_JITTER = 0.6

_log = structlog.stdlib.get_logger("upstream")


class Replicas:
    """The endpoints of one URL."""

    def __init__(self, upstream: str, url: str, make: Callable[[Name | None, str], Endpoint]) -> None:
        """`make` makes an endpoint, given the host name in the URL, if there is one, and an IP address or ""."""
        self._upstream = upstream
        self._url = url
        self._name = name_in(url)
        self._make = make
        #: Those that get requests, and those that do not any more but have some under way.
        self.current: Sequence[Endpoint] = [make(self._name, "")]
        self.leaving: list[Endpoint] = []
        self._by_address: dict[str, Endpoint] = {}
        self._looked_up_at = -math.inf
        self._jitter = 1.0
        self._is_unknown = False
        self._look_up: asyncio.Task[None] | None = None

    def on_tick(self, now: float) -> None:
        """Look the name up if it is time to, and let endpoints join and leave."""
        self.leaving = [endpoint for endpoint in self.leaving if endpoint.pool.outstanding]
        if self._name is None:
            return
        if self._look_up is None or self._look_up.done():
            is_failing = self._is_unknown or any(endpoint.is_failing for endpoint in self.current)
            seconds = FAILING_LOOK_UP_SECONDS if is_failing else LOOK_UP_SECONDS
            # A connection that failed has looked the name up, too.
            has_changed = self._name.addresses and self._by_address.keys() != set(self._name.addresses)
            if has_changed or now >= self._looked_up_at + seconds * self._jitter:
                self._looked_up_at, self._jitter = now, random.uniform(MIN_JITTER, 1.0)  # noqa: S311 - no secret
                self._look_up = asyncio.create_task(self._find(self._name))
        self._settle()

    def retire(self) -> None:
        """Take no more requests, and look nothing up."""
        if self._look_up is not None:
            self._look_up.cancel()
        for endpoint in self.current:
            endpoint.retire()

    async def _find(self, name: Name) -> None:
        """Look the name up, and find out which new addresses take connections."""
        try:
            addresses = await name.look_up()
        except OSError as error:
            if not self._is_unknown:
                self._is_unknown = True
                _log.warning("look-up failed", upstream=self._upstream, endpoint=self._url, error=type(error).__name__)
            return
        self._is_unknown = False
        known = {each: self._endpoint_at(name, each) for each in addresses}
        if len(known) > 1:
            await asyncio.gather(*(endpoint.connects() for endpoint in known.values() if not endpoint.has_connected))
        self._by_address = known

    def _endpoint_at(self, name: Name, address: str) -> Endpoint:
        known = self._by_address.get(address)
        # One that had to leave because others took connections may join later, as a new one.
        return self._make(name, address) if known is None or known.is_retired else known

    def _settle(self) -> None:
        known = [endpoint for endpoint in self._by_address.values() if not endpoint.is_retired]
        current = [endpoint for endpoint in known if endpoint.has_connected] or known
        # Name servers return addresses in another order each time.
        if not current or set(current) == set(self.current):
            return
        leaving = [endpoint for endpoint in self.current if endpoint not in current]
        for endpoint in leaving:
            endpoint.retire()
        self.leaving += leaving
        self.current = current
        _log.info("addresses changed", upstream=self._upstream, endpoint=self._url, addresses=len(current))
