"""A TCP proxy on loopback that can cut, refuse, freeze, and lose the reply to a chosen request."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Self
from urllib.parse import urlsplit, urlunsplit

from tools.servers.ports import private_port

_CHUNK = 65_536


class Proxy:
    """Stands between a service and a server."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self.port = private_port()
        self.delay = 0.0
        """Seconds by which everything comes later, each way."""
        self.lost_replies = 0
        """How many replies have been lost since `lose_reply_to`."""
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._pumps: set[asyncio.Task[None]] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._needle = b""
        self._to_lose = 0
        self._replies_until_cut: int | None = None

    @classmethod
    @contextlib.asynccontextmanager
    async def before(cls, url: str) -> AsyncIterator[Self]:
        """A proxy in front of the server that a URL names."""
        parts = urlsplit(url)
        assert parts.hostname is not None
        assert parts.port is not None
        proxy = cls(parts.hostname, parts.port)
        await proxy.accept()
        try:
            yield proxy
        finally:
            await proxy.refuse()
            await asyncio.gather(*proxy._pumps, return_exceptions=True)

    def url(self, url: str) -> str:
        """The URL, through this proxy."""
        parts = urlsplit(url)
        login = parts.netloc.rpartition("@")[0]
        return urlunsplit(parts._replace(netloc=f"{login}@127.0.0.1:{self.port}"))

    def point_at(self, port: int) -> None:
        """New connections go to another port of this machine."""
        self._target = ("127.0.0.1", port)

    async def accept(self) -> None:
        """Let connections in."""
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", self.port)

    async def refuse(self) -> None:
        """The server is gone: what is open is cut, what comes is refused."""
        if self._server is not None:
            self._server.close()
        self.cut()
        self._flowing.set()

    def cut(self) -> None:
        """Cut every connection; new ones are let in."""
        for writer in self._writers:
            writer.transport.abort()

    def freeze(self) -> None:
        """Hold back all traffic; connections stay open."""
        self._flowing.clear()

    def lose(self) -> None:
        """Cut every connection; what was held back never arrives."""
        for pump in self._pumps:
            pump.cancel()
        self.cut()
        self._flowing.set()

    def thaw(self) -> None:
        """What was held back goes on."""
        self._flowing.set()

    def lose_reply_to(self, needle: bytes, times: int = 1) -> None:
        """The next requests that contain `needle` reach the server; the connection is cut before the reply."""
        self._needle = needle
        self._to_lose = times
        self.lost_replies = 0

    def cut_after(self, replies: int) -> None:
        """Let so many replies through, then cut every connection, once."""
        self._replies_until_cut = replies

    @property
    def is_cut(self) -> bool:
        """Whether `cut_after` has had its effect."""
        return self._replies_until_cut is None

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._pumps) // 2

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            upstream_reader, upstream = await asyncio.open_connection(*self._target)
        except OSError:
            writer.transport.abort()
            return
        for direction in (
            self._pump(reader, upstream, writer, requests=True),
            self._pump(upstream_reader, writer, upstream, requests=False),
        ):
            task = asyncio.create_task(direction)
            self._pumps.add(task)
            task.add_done_callback(self._pumps.discard)

    def _count_reply(self) -> None:
        if self._replies_until_cut is not None:
            self._replies_until_cut -= 1
            if self._replies_until_cut <= 0:
                self._replies_until_cut = None
                self.cut()

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        other: asyncio.StreamWriter,
        *,
        requests: bool,
    ) -> None:
        self._writers.add(writer)
        try:
            while data := await reader.read(_CHUNK):
                await self._flowing.wait()
                if self.delay:
                    await asyncio.sleep(self.delay)
                lost = requests and self._to_lose > 0 and self._needle in data
                if lost:
                    # The client is cut off first, so that no reply can overtake.
                    self._to_lose -= 1
                    other.transport.abort()
                writer.write(data)
                await writer.drain()
                if lost:
                    self.lost_replies += 1
                if not requests:
                    self._count_reply()
        except OSError:
            pass
        finally:
            self._writers.discard(writer)
            writer.close()
