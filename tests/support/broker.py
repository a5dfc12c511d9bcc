"""An administrator's view of one vhost: publishes, subscribes to any exchange, and inspects queues."""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Sequence
from typing import Final

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractIncomingMessage

from chassis.messaging import message as wire
from chassis.messaging.outbox import Row
from chassis.messaging.topology import DEAD, JOURNAL_PREFIX, queue_name
from events.base import Envelope, Event
from tests.support.builders import outbox_row
from tests.support.eventually import eventually

_MARK: Final = "tests.mark"


class Broker:
    """A vhost of the tests' broker."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._connection: AbstractConnection | None = None
        self._channel: AbstractChannel | None = None

    async def open(self) -> None:
        self._connection = await aio_pika.connect(self._url)
        self._channel = await self._connection.channel(on_return_raises=True)

    async def close(self) -> None:
        if self._connection is not None:
            await self._connection.close()

    @property
    def channel(self) -> AbstractChannel:
        assert self._channel is not None
        return self._channel

    async def publish(self, *rows: Event | Row, as_batch: bool = False) -> list[Row]:
        """Publish events as the relays do, to queues and journal, each alone or in message batches."""
        identified = [row if isinstance(row, Row) else outbox_row(row) for row in rows]
        message_batches = (
            list(wire.message_batches(identified)) if as_batch else [[row] for row in identified]
        )
        await asyncio.gather(
            *(
                self.send(wire.to_message(batch), batch[0].exchange, prefix + batch[0].routing_key)
                for batch in message_batches
                for prefix in ("", JOURNAL_PREFIX)
            )
        )
        return identified

    async def send(self, message: aio_pika.Message, exchange: str, key: str) -> None:
        """Publish a raw message; the exchange "" leads straight to the queue `key`."""
        target = (
            await self.channel.get_exchange(exchange, ensure=False)
            if exchange
            else self.channel.default_exchange
        )
        await target.publish(message, key, mandatory=not exchange)  # not every event has a queue

    async def waiting(self, queue: str) -> int:
        """How many messages are ready in a queue."""
        found = await self.channel.declare_queue(queue, passive=True)
        return found.declaration_result.message_count or 0

    async def take(self, queue: str) -> AbstractIncomingMessage | None:
        """Take one message out of a queue, if one is there."""
        found = await self.channel.get_queue(queue, ensure=False)
        return await found.get(no_ack=True, fail=False)

    async def dead_letter(self, service: str, count: int = 1) -> list[AbstractIncomingMessage]:
        """Wait for `count` messages in a service's dead-letter queue and take them out."""
        found: list[AbstractIncomingMessage] = []

        async def enough() -> bool:
            while (message := await self.take(f"{service}.{DEAD}")) is not None:
                found.append(message)
            return len(found) >= count

        await eventually(enough, what=f"{len(found)} of {count} dead-lettered")
        assert len(found) == count, [message.headers.get("dead_letter_error") for message in found]
        return found

    async def purge(self, queue: str) -> None:
        await (await self.channel.get_queue(queue, ensure=False)).purge()

    @contextlib.asynccontextmanager
    async def withheld(self, kind: type[Event], *services: str) -> AsyncIterator[None]:
        """Events of a kind that are published in this block reach the services only at its end."""
        queues = [
            await self.channel.get_queue(queue_name(service, kind), ensure=False)
            for service in services
        ]
        async with self.tap(kind.exchange, kind.key) as tap:
            for queue in queues:
                await queue.unbind(kind.exchange, kind.key)
            try:
                yield
            finally:
                for queue in queues:
                    await queue.bind(kind.exchange, kind.key)
                await tap.flush()
                for message in tap.messages:
                    for queue in queues:
                        await self.send(wire.copied(message), "", queue.name)

    @contextlib.asynccontextmanager
    async def tap(self, exchange: str, key: str = "#") -> AsyncIterator["Tap"]:
        """Collect every message that an exchange receives from now on, but for those to the journal."""
        assert self._connection is not None
        channel = await self._connection.channel()
        queue = await channel.declare_queue(exclusive=True)
        await queue.bind(exchange, key)
        tap = Tap(self, queue.name)
        consumer = await queue.consume(tap.collect, no_ack=True)
        try:
            yield tap
        finally:
            await queue.cancel(consumer)
            await channel.queue_delete(queue.name)
            await channel.close()


class Tap:
    """What was published to an exchange since the tap was opened, in order."""

    def __init__(self, broker: Broker, queue: str) -> None:
        self._broker = broker
        self._queue = queue
        self._marks: dict[str, asyncio.Event] = {}
        self.messages: list[AbstractIncomingMessage] = []

    async def collect(self, message: AbstractIncomingMessage) -> None:
        if message.type == _MARK:
            self._marks[message.message_id or ""].set()
        elif not (message.routing_key or "").startswith(JOURNAL_PREFIX):
            self.messages.append(message)

    async def flush(self) -> None:
        """Return once everything has arrived that the broker had confirmed before."""
        mark = secrets.token_hex(8)
        arrived = self._marks[mark] = asyncio.Event()
        await self._broker.send(aio_pika.Message(b"", type=_MARK, message_id=mark), "", self._queue)
        async with asyncio.timeout(30):
            await arrived.wait()

    @property
    def received(self) -> list[Envelope[Event]]:
        """The events in the messages, with their identities and causes."""
        return [event for message in self.messages for event in opened(message)]

    @property
    def events(self) -> list[Event]:
        return [received.event for received in self.received]


def opened(message: AbstractIncomingMessage) -> Sequence[Envelope[Event]]:
    """The events in a message; a message that carries anything else is an error."""
    key = (message.routing_key or "").removeprefix(JOURNAL_PREFIX)
    found = wire.from_message(message, Event.by_key[key])
    events = [event for event in found if isinstance(event, Envelope)]
    assert len(events) == len(found), found
    return events
