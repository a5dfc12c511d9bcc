"""A publisher that writes content headers byte by byte: what the client library cannot encode."""

import asyncio
import contextlib
import struct
from collections.abc import Iterable
from typing import Final, NamedTuple, Self
from urllib.parse import unquote, urlsplit

import pamqp.frame
from pamqp import commands
from pamqp.base import Frame

CHANNEL: Final = 1
HEADER, BODY, END = 2, 3, b"\xce"


class RawMessage(NamedTuple):
    """A message to a queue; its properties as they stand in a content header, with the flags before them."""

    queue: str
    properties: bytes
    body: bytes


def shortstr(value: bytes) -> bytes:
    return bytes([len(value)]) + value


def longstr(value: bytes) -> bytes:
    """Also a table, an array or a byte array: all begin with their length."""
    return struct.pack(">I", len(value)) + value


class RawPublisher:
    """One connection with one channel, without confirms."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def open(cls, url: str) -> Self:
        at = urlsplit(url)
        opened = cls(*await asyncio.open_connection(at.hostname, at.port))
        opened._writer.write(b"AMQP\0\0\x09\x01")
        await opened._answer()
        login = f"\0{unquote(at.username or '')}\0{unquote(at.password or '')}"
        opened._send(commands.Connection.StartOk({}, "PLAIN", login, "en_US"), 0)
        tune = await opened._answer()
        assert isinstance(tune, commands.Connection.Tune)
        opened._send(commands.Connection.TuneOk(tune.channel_max, tune.frame_max, 0), 0)
        opened._send(commands.Connection.Open(unquote(at.path[1:])), 0)
        await opened._answer()
        opened._send(commands.Channel.Open(), CHANNEL)
        await opened._answer()
        return opened

    async def publish(self, messages: Iterable[RawMessage]) -> None:
        """Publish all, and wait until the broker has read them. Raises AssertionError if it refuses one."""
        try:
            for queue, properties, body in messages:
                self._send(commands.Basic.Publish(routing_key=queue), CHANNEL)
                self._frame(HEADER, struct.pack(">HHQ", 60, 0, len(body)) + properties)
                self._frame(BODY, body)
            self._send(commands.Channel.Close(200, "", 0, 0), CHANNEL)
            closed = await self._answer()
            assert isinstance(closed, commands.Channel.CloseOk), closed
        finally:
            self._writer.close()
            with contextlib.suppress(ConnectionError):
                await self._writer.wait_closed()

    def _send(self, method: Frame, channel: int) -> None:
        self._writer.write(pamqp.frame.marshal(method, channel))

    def _frame(self, kind: int, payload: bytes) -> None:
        self._writer.write(struct.pack(">BHI", kind, CHANNEL, len(payload)) + payload + END)

    async def _answer(self) -> pamqp.frame.FrameTypes:
        start = await self._reader.readexactly(7)
        rest = await self._reader.readexactly(struct.unpack(">I", start[3:])[0] + 1)
        answer = pamqp.frame.unmarshal(start + rest)[2]
        assert not isinstance(answer, commands.Connection.Close), dict(answer)
        return answer
