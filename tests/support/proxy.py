"""A TCP proxy that does to connections what networks do: between clients and Postgres, Redis or Valkey.

    with Proxy.to(redis_url) as proxy:
        client = connect(proxy.url(redis_url))
        proxy.cut()        # every live connection ends, now
        proxy.stall()      # from now on nothing is delivered …
        proxy.heal()       # … until now
        proxy.counts       # what really hit a connection

What is drawn (where a reply is torn, how long a delay is) depends on the seed and on the connection's number alone.
"""

from __future__ import annotations

import asyncio
import ctypes
import random
import socket
import struct
import threading
from collections import Counter
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

T = TypeVar("T")

CHUNK = 65536
_RESET = struct.pack("ii", 1, 0)
_ATTACH_FILTER, _DETACH_FILTER = 26, 27  # Linux' SO_ATTACH_FILTER, SO_DETACH_FILTER: Python does not name them
_DROP_ALL = ctypes.create_string_buffer(struct.pack("HBBI", 6, 0, 0, 0))  # "ret #0" in BPF


class Link:
    """One client's connection, and ours to the server on its behalf."""

    def __init__(self, number: int, seed: int | str, client: asyncio.StreamWriter) -> None:
        self.number = number
        self.chance = random.Random(f"{seed} {number}")
        self.client = client
        self.server: asyncio.StreamWriter | None = None
        self.twin: asyncio.StreamWriter | None = None
        self.hit: set[str] = set()

    @property
    def writers(self) -> list[asyncio.StreamWriter]:
        return [writer for writer in (self.client, self.server, self.twin) if writer is not None]

    @property
    def lives(self) -> bool:
        return self.server is not None and not any(
            writer.transport.is_closing() for writer in (self.client, self.server)
        )

    def end(self, *, reset: bool) -> None:
        """Ends both connections at once: what is not yet delivered is lost. reset: RST, else FIN."""
        for writer in self.writers:
            if reset and not writer.transport.is_closing():
                _socket(writer).setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            writer.transport.abort()


class Proxy:
    """Listens on a port of 127.0.0.1 and forwards to one server. Its methods may be called from any thread.

    Switches stay on until `heal`: `delay`, `stall`, `unplug`, `refuse`. Shots hit once: `cut` what is connected now,
    `tear` and `duplicate` what comes next.
    """

    def __init__(self, host: str, port: int, seed: int | str = 0) -> None:
        self.counts: Counter[str] = Counter()
        """What was really injected, by kind: connections hit, refused, or torn. Nothing that hit no connection."""
        self.port = 0
        self._target = (host, port)
        self._seed = seed
        self._links: dict[int, Link] = {}
        self._accepted = 0
        self._delay = (0.0, 0.0)
        self._refusing = False
        self._unplugged = False
        self._torn: Counter[str] = Counter()
        self._duplicates = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"proxy to {port}", daemon=True)

    @classmethod
    def to(cls, url: str, seed: int | str = 0) -> Self:
        """A proxy to the server that a URL names."""
        parts = urlsplit(url)
        assert parts.hostname and parts.port
        return cls(parts.hostname, parts.port, seed)

    def url(self, url: str) -> str:
        """The same URL by way of this proxy."""
        login, at, _ = urlsplit(url).netloc.rpartition("@")
        return urlsplit(url)._replace(netloc=f"{login}{at}127.0.0.1:{self.port}").geturl()

    def __enter__(self) -> Self:
        self._thread.start()
        self._call(self._listen())
        return self

    def __exit__(self, *_: object) -> None:
        self._call(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def connections(self) -> int:
        """How many live now."""
        return sum(link.lives for link in list(self._links.values()))

    def cut(self, *, reset: bool = True, share: float = 1.0) -> int:
        """Ends live connections with RST, or FIN; how many. share: of them, each by its own luck."""
        return self._call(self._cut(reset, share))

    def delay(self, least: float, most: float) -> None:
        """Every piece of every request and reply takes so many seconds longer, between these two."""
        self._call(self._switch("delay", delay=(least, most)))

    def stall(self) -> None:
        """A server that hangs: connections are accepted and acknowledged, and nothing is delivered either way."""
        self._call(self._switch("stall", flowing=False))

    def unplug(self) -> int:
        """A pulled cable: no packet is answered, not even those of new connections. How many it hit. Linux only."""
        return self._call(self._unplug())

    def refuse(self) -> None:
        """New connections are reset at once; those that live go on."""
        self._call(self._switch("refuse", refusing=True))

    def tear(self, what: str = "reply", count: int = 1) -> None:
        """Of the next `count` pieces of this kind, "reply" or "request", a part is delivered; then the cut."""
        self._call(self._switch(f"torn {what}", torn=count))

    def duplicate(self, count: int = 1) -> None:
        """The next `count` connections are made twice: all that the client says is delivered on a second one too.

        The second's replies go nowhere. Whether it hears each request before or after the first is drawn.
        """
        self._call(self._switch("duplicate", duplicates=count))

    def heal(self) -> None:
        """Ends all that was switched on or yet to come. What was withheld is delivered."""
        self._call(self._heal())

    # ------------------------------------------------------------------------------------ within the loop's thread

    async def _listen(self) -> None:
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        self._server.close()
        for link in list(self._links.values()):
            link.end(reset=True)
        self._flowing.set()
        await asyncio.gather(*(asyncio.all_tasks() - {asyncio.current_task()}), return_exceptions=True)

    async def _cut(self, reset: bool, share: float) -> int:
        links = [link for link in self._links.values() if link.lives and link.chance.random() < share]
        for link in links:
            link.end(reset=reset)
        self.counts["reset" if reset else "close"] += len(links)
        return len(links)

    async def _switch(
        self,
        fault: str,
        *,
        delay: tuple[float, float] | None = None,
        flowing: bool = True,
        refusing: bool = False,
        torn: int = 0,
        duplicates: int = 0,
    ) -> None:
        for link in self._links.values():
            link.hit.discard(fault)
        self._delay = delay or self._delay
        self._refusing |= refusing
        self._torn[fault] += torn
        self._duplicates += duplicates
        if not flowing:
            self._flowing.clear()

    async def _unplug(self) -> int:
        self._unplugged = True
        links = [link for link in self._links.values() if link.lives]
        for link in links:
            _drop_packets(link.writers)
        for listening in self._server.sockets:
            _filter(listening, True)
        self.counts["unplug"] += len(links)
        return len(links)

    async def _heal(self) -> None:
        self._delay = (0.0, 0.0)
        self._refusing = False
        self._torn.clear()
        self._duplicates = 0
        self._flowing.set()
        if self._unplugged:
            self._unplugged = False
            for listening in self._server.sockets:
                _filter(listening, False)
            for link in self._links.values():
                _drop_packets(link.writers, False)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._accepted += 1
        link = Link(self._accepted, self._seed, writer)
        if self._refusing:
            self.counts["refuse"] += 1
            link.end(reset=True)
            return
        self._links[link.number] = link
        try:
            await self._withhold(link)
            replies, link.server = await asyncio.open_connection(*self._target)
            if self._duplicates > 0:
                self._duplicates -= 1
                unheard, link.twin = await asyncio.open_connection(*self._target)
                self.counts["duplicate"] += 1
            async with asyncio.TaskGroup() as pumps:
                pumps.create_task(self._pump(link, "request", reader, link.server))
                pumps.create_task(self._pump(link, "reply", replies, writer))
                if link.twin:
                    pumps.create_task(_drain(unheard))
        except* OSError:  # one of the two is gone, so the other goes
            link.end(reset=True)
        finally:
            link.end(reset=False)
            del self._links[link.number]

    async def _pump(self, link: Link, what: str, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(CHUNK):
            if self._delay[1]:
                self._count("delay", link)
                await asyncio.sleep(link.chance.uniform(*self._delay))
            await self._withhold(link)
            if self._torn[f"torn {what}"] > 0:
                self._torn[f"torn {what}"] -= 1
                self.counts[f"torn {what}"] += 1
                sink.write(data[: link.chance.randrange(len(data))])
                await asyncio.sleep(0.001)  # the part goes out before the cut
                link.end(reset=link.chance.random() < 0.5)
                return
            sinks = [sink]
            if what == "request" and link.twin is not None:
                sinks.insert(link.chance.randrange(2), link.twin)
            for each in sinks:
                if not each.transport.is_closing():
                    each.write(data)
            await sink.drain()
        if what == "reply":
            link.end(reset=False)  # the server has closed: nothing is left to say
        elif link.server is not None:
            for writer in link.writers[1:]:
                writer.write_eof()

    async def _withhold(self, link: Link) -> None:
        if not self._flowing.is_set():
            self._count("stall", link)
            await self._flowing.wait()

    def _count(self, fault: str, link: Link) -> None:
        """Once for each connection and each time that the fault was switched on."""
        if fault not in link.hit:
            link.hit.add(fault)
            self.counts[fault] += 1

    def _call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(30)


async def _drain(reader: asyncio.StreamReader) -> None:
    with suppress(OSError):
        while await reader.read(CHUNK):
            pass


def _socket(writer: asyncio.StreamWriter) -> socket.socket:
    found: socket.socket = writer.get_extra_info("socket")
    return found


def _drop_packets(writers: list[asyncio.StreamWriter], drop: bool = True) -> None:
    for writer in writers:
        if not writer.transport.is_closing():
            _filter(_socket(writer), drop)


def _filter(each: socket.socket, drop: bool) -> None:
    """Lets the kernel drop every packet for this socket unanswered: what the other side sends is never acknowledged."""
    program = struct.pack("HL", 1, ctypes.addressof(_DROP_ALL)) if drop else 0
    with suppress(OSError):  # nothing to detach: it was connected after the heal began
        each.setsockopt(socket.SOL_SOCKET, _ATTACH_FILTER if drop else _DETACH_FILTER, program)
