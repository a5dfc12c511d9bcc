"""Everything that was ever published in a vhost, as the stream `journal` keeps it and as it comes."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar
from uuid import UUID

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractIncomingMessage

from chassis.messaging import outbox
from chassis.messaging.outbox import Row
from chassis.messaging.topology import JOURNAL
from events.base import Envelope, Event
from ops.journal import MARK
from tests.support.broker import opened

E = TypeVar("E", bound=Event)


class Journal:
    """Reads the stream from its beginning, for as long as it is open."""

    queue = JOURNAL

    def __init__(self, url: str, copied: Callable[[], Awaitable[None]] | None = None) -> None:
        """`copied` waits until the services have copied to the stream what they have published by now."""
        self._url = url
        self._copied = copied
        self._connection: AbstractConnection | None = None
        self._channel: AbstractChannel | None = None
        self._marks: dict[str, asyncio.Event] = {}
        self._events: dict[UUID, Envelope[Event]] = {}

    async def open(self) -> None:
        self._connection = await aio_pika.connect(self._url)
        self._channel = await self._connection.channel()
        await self._channel.set_qos(prefetch_count=500)
        queue = await self._channel.get_queue(self.queue, ensure=False)
        await queue.consume(self._receive, arguments={"x-stream-offset": "first"})

    async def close(self) -> None:
        if self._connection is not None:
            await self._connection.close()

    async def _receive(self, message: AbstractIncomingMessage) -> None:
        self._take_down(message)
        await message.ack()

    def _take_down(self, message: AbstractIncomingMessage) -> None:
        if message.type == MARK:
            if message.message_id in self._marks:
                self._marks[message.message_id].set()
            return
        for received in opened(message):
            self._events.setdefault(received.id, received)

    async def up_to_now(self, *, within: float = 20) -> None:
        """Return once everything has been read that the broker had confirmed before. Raises TimeoutError."""
        assert self._channel is not None
        if self._copied is not None:
            await self._copied()
        mark = secrets.token_hex(8)
        read = self._marks[mark] = asyncio.Event()
        message = aio_pika.Message(b"", type=MARK, message_id=mark)
        await self._channel.default_exchange.publish(message, self.queue)
        async with asyncio.timeout(within):
            await read.wait()

    def events(self, *kinds: type[Event]) -> list[Envelope[Event]]:
        """Every event once, those of each service in the order of publishing; only some kinds if any are named."""
        return [e for e in self._events.values() if not kinds or isinstance(e.event, kinds)]

    def flow(self, *correlations: str) -> list[Envelope[Event]]:
        """The events of flows whose correlation ids begin so."""
        return [e for e in self._events.values() if e.cause.correlation_id.startswith(correlations)]


def of_kind(events: Iterable[Envelope[Event]], kind: type[E]) -> list[E]:
    """The facts of one kind among events."""
    return [received.event for received in events if isinstance(received.event, kind)]


def outbox_row_of(received: Envelope[Event], *, id: UUID | None = None) -> Row:
    """Return an event as its publisher's outbox row: published again, it is a duplicate."""
    return outbox.row(id or received.id, received.event, received.cause, received.time)
