"""Reads the heads of a connection's requests. A head that repeats is parsed once."""

from ostiary_gateway.access.request import RequestContext, RequestIds
from ostiary_gateway.http1.errors import BadMessage, NoRoom
from ostiary_gateway.http1.parser import DEFAULT_HEAD_BYTES, check_line_ends, head_end, parse_request

#: Bytes of a head that is kept while its connection is idle: there may be very many connections.
MAX_KEPT_HEAD = 4096

#: Bytes of all heads over the default limit that a process has at a time, whoever sends them.
MAX_LARGE_HEAD_BYTES = 64 * 1024 * 1024

#: What a client sends first that takes the port for one of `https` (RFC 8446 section 5.1).
_TLS_HANDSHAKE = b"\x16\x03"


class LargeHeads:
    """The memory that heads over the default limit take, of all connections of a process."""

    def __init__(self) -> None:
        self.bytes = 0

    def take(self, size: int) -> None:
        """Reserve memory. Raises NoRoom."""
        if self.bytes + size > MAX_LARGE_HEAD_BYTES:
            raise NoRoom("too many large heads")
        self.bytes += size

    def give(self, size: int) -> None:
        """Give memory back."""
        self.bytes -= size


class HeadReader:
    """Finds the end of a head and parses it. No I/O here."""

    __slots__ = ("_ids", "_large_heads", "_last_context", "_last_head", "_partial", "_searched", "_taken")

    def __init__(self, ids: RequestIds, large_heads: LargeHeads) -> None:
        self._ids = ids
        self._large_heads = large_heads
        #: Bytes taken for a head over the default limit, until its request has ended.
        self._taken = 0
        #: An incomplete head, and how many of its bytes have been searched for its end.
        self._partial = bytearray()
        self._searched = 0
        #: The last head without a body, and its context; None if there was none.
        self._last_head = b""
        self._last_context: RequestContext | None = None

    @property
    def is_partial(self) -> bool:
        """Whether a part of a head has been read."""
        return len(self._partial) > 0

    @property
    def partial(self) -> bytes:
        """What has been read of an incomplete head, or of one that cannot be parsed and came in parts."""
        return bytes(self._partial)

    def drop(self) -> None:
        """Forget what has been read."""
        self._partial.clear()
        self.release()

    def release(self) -> None:
        """Give back the memory of a request that has ended."""
        if self._taken:
            self._large_heads.give(self._taken)
            self._taken = 0

    def read(self, data: bytes, peer: str, limit: int = DEFAULT_HEAD_BYTES) -> tuple[RequestContext | None, bytes]:
        """Return the request that ends in `data`, None if its head is incomplete, and what follows.

        `peer` is the address of the connection's other end, `limit` the most bytes of a head. Raises BadMessage.
        """
        partial = self._partial
        if partial:
            partial += data
            if head_end(partial, self._searched, limit) < 0:
                check_line_ends(partial, self._searched)
                self._searched = len(partial)
                self._take(self._searched)
                return None, b""
            data = bytes(partial)
        # RFC 9112 section 2.2: an empty line before a request is ignored. One.
        start = 2 if data.startswith(b"\r\n") else 0
        last = self._last_context
        if last is not None and data.startswith(self._last_head, start):
            partial.clear()
            return last.reuse(self._ids.id_for(last.request)), data[start + len(self._last_head) :]
        end = head_end(data, self._searched if partial else 0, limit)
        if end < 0:
            if data.startswith(_TLS_HANDSHAKE):
                # Its sender would wait for an answer until the head is overdue.
                raise BadMessage("TLS instead of HTTP")
            check_line_ends(data)
            partial += data
            self._searched = len(data)
            self._take(self._searched)
            return None, b""
        head = data[start:end]
        self._take(len(head))
        request = parse_request(head)
        context = RequestContext(request, peer, b"http", self._ids.id_for(request))
        if request.body is None and len(head) <= MAX_KEPT_HEAD:
            self._last_head, self._last_context = head, context
        partial.clear()
        return context, data[end:]

    def _take(self, size: int) -> None:
        """Take memory for a head if it is a large one. Raises NoRoom."""
        if size > DEFAULT_HEAD_BYTES and size > self._taken:
            self._large_heads.take(size - self._taken)
            self._taken = size
