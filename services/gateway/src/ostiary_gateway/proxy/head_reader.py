"""Reads the heads of a connection's requests. A head that repeats is parsed once."""

from ostiary_gateway.access.request import RequestContext, RequestIds
from ostiary_gateway.http1.errors import BadMessage
from ostiary_gateway.http1.parser import head_end, parse_request

#: Bytes of a head that is kept while its connection is idle: there may be very many connections.
MAX_KEPT_HEAD = 4096

#: What a client sends first that takes the port for one of `https` (RFC 8446 section 5.1).
_TLS_HANDSHAKE = b"\x16\x03"


class HeadReader:
    """Finds the end of a head and parses it. No I/O here."""

    __slots__ = ("_ids", "_last_context", "_last_head", "searched")

    def __init__(self, ids: RequestIds) -> None:
        self._ids = ids
        #: How many bytes of an incomplete head have been searched for its end.
        self.searched = 0
        #: The last head without a body, and its context; None if there was none.
        self._last_head = b""
        self._last_context: RequestContext | None = None

    def read(self, data: bytes, peer: str) -> tuple[RequestContext | None, bytes]:
        """Return the request at the start of `data`, None if its head is incomplete, and what follows.

        `peer` is the address of the connection's other end. An incomplete head has to come again, with more after it.
        Raises BadMessage.
        """
        # RFC 9112 section 2.2: an empty line before a request is ignored. One.
        start = 2 if data.startswith(b"\r\n") else 0
        last = self._last_context
        if last is not None and data.startswith(self._last_head, start):
            self.searched = 0
            return last.reuse(self._ids.id_for(last.request)), data[start + len(self._last_head) :]
        end = head_end(data, self.searched)
        if end < 0:
            if data.startswith(_TLS_HANDSHAKE):
                # Its sender would wait for an answer until the head is overdue.
                raise BadMessage("TLS instead of HTTP")
            self.searched = len(data)
            return None, data
        self.searched = 0
        head = data[start:end]
        request = parse_request(head)
        context = RequestContext(request, peer, b"http", self._ids.id_for(request))
        if request.body is None and len(head) <= MAX_KEPT_HEAD:
            self._last_head, self._last_context = head, context
        return context, data[end:]
