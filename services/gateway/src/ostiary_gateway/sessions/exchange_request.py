"""One exchange of a session for an access token, on one of the pooled connections to the auth service.

    CONNECTING -- connection --> SENT -- answer, or no answer --> ENDED
        ^                          |
        +---- sent once more ------+

An exchange changes nothing but when the session was used last, so it can be sent again if there is no answer.
"""

import json
from collections.abc import Callable
from typing import Final

from ostiary_gateway.http1.fields import Fields
from ostiary_gateway.http1.parser import Response
from ostiary_gateway.routing.browser import EXCHANGE_PATH
from ostiary_gateway.sessions.answers import MAX_ANSWER_BYTES, Answer, read_answer
from ostiary_gateway.state import State
from ostiary_gateway.upstream.cluster import Cluster
from ostiary_gateway.upstream.connection import SWITCHING_PROTOCOLS, Failure, UpstreamConnection
from ostiary_gateway.upstream.pool import Pool

PATH: Final = EXCHANGE_PATH.encode()

#: Seconds for a connection.
CONNECT_SECONDS: Final = 2.0

#: How often an exchange is sent at most: a server that is restarted closes its connections.
MAX_ATTEMPTS: Final = 2

CONNECTING: Final = State("connecting")
SENT: Final = State("sent")
ENDED: Final = State("ended")
CONNECTING.leads_to(CONNECTING, SENT, ENDED)
SENT.leads_to(CONNECTING, ENDED)

_HEAD = (
    b"POST %b HTTP/1.1\r\nhost: %b\r\nuser-agent: ostiary-gateway\r\nauthorization: %b\r\naccept: application/json\r\n"
    b"content-type: application/json\r\ncontent-length: %d\r\n\r\n"
)

#: After these, another attempt may help.
_REPEATABLE = frozenset({Failure.UNREACHABLE, Failure.STALE, Failure.BROKEN})


class ExchangeRequest:
    """An exchange; the module's head draws its states. A ResponseHandler."""

    #: A connection is checked before it is used, as for other requests that are not idempotent.
    is_repeatable = False

    def __init__(
        self,
        cluster: Cluster,
        session: bytes,
        authorization: bytes,
        caller: str,
        on_answer: Callable[[Answer], None],
    ) -> None:
        """`session` is `SID.SECRET`, `authorization` the gateway's own credential."""
        self._cluster = cluster
        self._session_id = session.partition(b".")[0].decode()
        self._body: bytes = json.dumps({"session": session.decode()}).encode()
        self._authorization = authorization
        self.caller = caller
        self._on_answer = on_answer
        self._state: State = CONNECTING
        self._tried: tuple[Pool, ...] = ()
        self._attempts = 0
        self._lease: Pool | None = None
        self._connection: UpstreamConnection | None = None
        self._status, self._retry_after = 0, b""
        self._content: list[bytes] = []
        self._size = 0

    def start(self) -> None:
        """Ask for a connection. The answer may come at once."""
        self._attempts += 1
        pool = self._lease = self._cluster.choose(self._tried)
        if pool is None:
            self._end(Answer(fault=Failure.OVERLOADED.value))
            return
        self._tried += (pool,)
        pool.lease(self, CONNECT_SECONDS, new=self._attempts > 1)

    def give_up(self) -> None:
        """End without an answer; nobody is told."""
        if self._state is not ENDED:
            self._leave()
            self._enter(ENDED)

    # Called by the pool and the connection.

    def on_connection(self, connection: UpstreamConnection) -> None:
        self._lease = None
        self._enter(SENT)
        self._connection = connection
        host = self._cluster.own_host(connection.host)
        connection.send_request(
            self, "POST", _HEAD % (PATH, host, self._authorization, len(self._body)), has_content=True
        )
        connection.write(self._body)
        connection.end_request()

    def on_head(self, response: Response) -> None:
        if response.status == SWITCHING_PROTOCOLS:
            self._fail("unexpected switch of protocols")
        elif response.is_final:
            self._status = response.status
            self._retry_after = response.by_name.get(b"retry-after", b"")

    def on_content(self, content: bytes) -> None:
        self._size += len(content)
        if self._size > MAX_ANSWER_BYTES:
            self._fail("answer too large")
        else:
            self._content.append(content)

    def on_end(self, _trailers: Fields) -> None:
        self._connection = None
        self._end(read_answer(self._status, self._retry_after, b"".join(self._content), self._session_id))

    def on_failure(self, failure: Failure) -> None:
        self._lease = self._connection = None
        if self._state is ENDED:
            return
        self._cluster.failures[failure] += 1
        if failure in _REPEATABLE and self._attempts < MAX_ATTEMPTS:
            if failure is Failure.STALE:
                # That says nothing about the endpoint.
                self._tried = ()
            self._status, self._content, self._size = 0, [], 0
            self._enter(CONNECTING)
            self.start()
        else:
            self._end(Answer(fault=failure.value))

    def on_read_complete(self) -> None:
        """Nothing: content is collected."""

    def on_tunnel(self, data: bytes) -> None:
        """Nothing: the exchange has failed."""

    def on_writable(self, writable: bool) -> None:
        """Nothing: the request is small, and written at once."""

    def _fail(self, fault: str) -> None:
        self._leave()
        self._end(Answer(fault=fault))

    def _leave(self) -> None:
        lease, self._lease = self._lease, None
        connection, self._connection = self._connection, None
        if lease is not None:
            lease.cancel(self)
        if connection is not None:
            connection.abort()

    def _end(self, answer: Answer) -> None:
        self._enter(ENDED)
        self._on_answer(answer)

    def _enter(self, state: State) -> None:
        self._state = self._state.to(state)
