"""Browsers as load: asynchronous clients with a cookie jar each, behind what a load balancer does for them."""

import asyncio
import re
import time
from collections.abc import Sequence

from common import HOST, Answer, Connection, request
from contenders import BROWSER_FIELDS

SET_COOKIE = re.compile(rb"(?i)\r\nset-cookie: *([^=;\r]+)=([^;\r]*)([^\r]*)")
MAX_AGE = re.compile(rb"(?i); *max-age=(-?\d+)")


class Jar:
    """A browser's cookies for one site."""

    def __init__(self) -> None:
        self._values: dict[bytes, tuple[bytes, float]] = {}

    def take(self, head: bytes) -> None:
        """Keep what a response sets."""
        now = time.monotonic()
        for name, value, attributes in SET_COOKIE.findall(head + b"\r\n"):
            age = MAX_AGE.search(attributes)
            self._values[name] = value, now + int(age[1]) if age else float("inf")

    def set(self, field: str) -> None:
        """Keep the pairs of a `Cookie` field."""
        for pair in field.partition(": ")[2].encode().split(b"; "):
            name, _, value = pair.partition(b"=")
            self._values[name] = value, float("inf")

    def copy(self) -> "Jar":
        """Return a thief's copy."""
        other = Jar()
        other._values = dict(self._values)
        return other

    def fields(self) -> tuple[str, ...]:
        """Return the `Cookie` field with what has not expired, or nothing."""
        now = time.monotonic()
        live = [name + b"=" + value for name, (value, expires_at) in self._values.items() if expires_at > now]
        return (f"Cookie: {b'; '.join(live).decode()}",) if live else ()


class Tab:
    """Sends one request after the other, to the first of these ports that answers.

    As load balancers do, it asks the next one if a connection is refused or breaks before there is an answer, but never
    sends a POST twice.
    """

    def __init__(self, ports: Sequence[int], jar: Jar, *fields: str) -> None:
        self._ports = list(ports)
        self._jar = jar
        self._fields = fields
        self._connection: Connection | None = None

    async def send(self, method: str, path: str, body: bytes = b"", *fields: str) -> Answer:
        """Return the response. Raises OSError if no port gives one."""
        failed = OSError("no ports")
        for _ in range(2 * len(self._ports)):
            is_sent = False
            try:
                connection = await self._connected()
                query = request(method, path, body, *BROWSER_FIELDS, *self._jar.fields(), *self._fields, *fields)
                answering = connection.ask(query)
                is_sent = True
                answer = await answering
            except OSError as error:
                self.close()
                if is_sent and method == "POST":
                    raise
                if not is_sent and not isinstance(error, ConnectionResetError):
                    self._ports.append(self._ports.pop(0))
                failed = error
                continue
            except asyncio.CancelledError:
                # An answer that comes later belongs to nobody.
                self.close()
                raise
            self._jar.take(answer.head)
            if b"\r\nconnection: close" in answer.head.lower():
                self.close()
            return answer
        raise failed

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = None

    async def _connected(self) -> Connection:
        if self._connection is None:
            loop = asyncio.get_running_loop()
            _, self._connection = await loop.create_connection(Connection, HOST, self._ports[0])
        return self._connection
