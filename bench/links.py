"""Networks that misbehave: TCP relays which delay, hold back, or cut what goes through them."""

import asyncio
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from common import HOST, free_ports

CHUNK = 65536


class Link:
    """A relay to the first of several ports that takes a connection, starting with another one each time.

    Its properties may be set at any time, from any thread, and count for what arrives from then on.
    """

    def __init__(self, *targets: int) -> None:
        (self.port,) = free_ports(1)
        #: Seconds that everything takes, in each direction.
        self.delay = 0.0
        #: Whether nothing gets through, and nothing is lost.
        self.is_stalled = False
        self._targets = list(targets)
        self._is_cut = False
        self._connections: set[asyncio.Transport | asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()

    @contextmanager
    def running(self) -> Iterator["Link"]:
        """Relay in a thread of its own."""
        started = threading.Event()
        stopped = asyncio.Event()

        async def serve() -> None:
            async with await asyncio.start_server(self._serve, HOST, self.port):
                started.set()
                await stopped.wait()
            self._break()

        thread = threading.Thread(target=self._loop.run_until_complete, args=(serve(),), daemon=True)
        thread.start()
        started.wait()
        try:
            yield self
        finally:
            self._loop.call_soon_threadsafe(stopped.set)
            thread.join()

    def cut(self) -> None:
        """Break all connections, and refuse new ones."""
        self._is_cut = True
        self._loop.call_soon_threadsafe(self._break)

    def mend(self) -> None:
        """Take connections again."""
        self._is_cut = False

    def _break(self) -> None:
        for each in self._connections:
            each.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends = [writer]
        self._connections.add(writer)
        try:
            if not self._is_cut:
                onward, other = await self._connect()
                ends.append(other)
                self._connections.add(other)
                forth = asyncio.create_task(self._forward(reader, other))
                await self._forward(onward, writer)
                await forth
        except OSError:
            # No target takes a connection, or one end has gone: the other one is told.
            pass
        finally:
            for each in ends:
                self._connections.discard(each)
                each.close()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect to a target. Raises OSError if none takes a connection."""
        self._targets.append(self._targets.pop(0))
        refusal = OSError("no targets")
        for port in self._targets:
            try:
                return await asyncio.open_connection(HOST, port)
            except OSError as error:
                refusal = error
        raise refusal

    async def _forward(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        """Pass on what one end sends until it ends, keeping its pace however long it takes."""
        loop = asyncio.get_running_loop()
        under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

        async def deliver() -> None:
            while True:
                due, data = await under_way.get()
                await asyncio.sleep(due - loop.time())
                while self.is_stalled:  # noqa: ASYNC110 - set by other threads
                    await asyncio.sleep(0.005)
                if not data:
                    break
                sink.write(data)
                await sink.drain()
            if sink.can_write_eof():
                sink.write_eof()

        delivery = asyncio.create_task(deliver())
        data = b"start"
        while data:
            data = b""
            with suppress(OSError):
                data = await source.read(CHUNK)
            under_way.put_nowait((loop.time() + self.delay, data))
        with suppress(OSError):
            await delivery


@contextmanager
def running_links(links: Sequence[Link]) -> Iterator[Sequence[Link]]:
    """Run several relays."""
    if not links:
        yield links
        return
    with links[0].running(), running_links(links[1:]):
        yield links
