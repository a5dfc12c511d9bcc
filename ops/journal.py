"""Reads the stream `journal`: what was published, in the order of publishing, up to now."""

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Final

import structlog
from aio_pika import Message
from aio_pika.abc import AbstractIncomingMessage
from uuid_utils.compat import uuid7

from chassis.messaging.addresses import connect
from chassis.messaging.errors import connection_may_be_lost
from chassis.messaging.message import from_message
from chassis.messaging.publisher import Publication, Publisher
from chassis.messaging.topology import JOURNAL
from events.base import Envelope, Event

log = structlog.get_logger(__name__)

MARK: Final = "chorus.mark"
"""The type of a message without an event, which is written to the stream to know where its present end is."""

MESSAGES: Final = 200
"""Messages in a chunk; each holds up to 64 events."""

TIMEOUT_SECONDS: Final = 30.0
"""How long to wait for the next message."""


async def journal(
    address: str, publisher: Publisher, since: datetime | None = None
) -> AsyncIterator[list[Envelope[Event]]]:
    """The events of the stream, in chunks, from somewhat before a time on; some occur more than once.

    Needs an administrator's login. Raises OSError or an AMQP error if the broker or the stream does not answer.
    """
    mark, received = str(uuid7()), asyncio.Queue[AbstractIncomingMessage]()
    with connection_may_be_lost():
        async with await connect(address) as connection:
            channel = await connection.channel()
            await channel.set_qos(prefetch_count=MESSAGES)
            queue = await channel.get_queue(JOURNAL, ensure=False)
            await queue.consume(received.put, arguments={"x-stream-offset": since or "first"})
            end = Message(type=MARK, message_id=mark, body=b"")
            [error] = await publisher.publish([Publication("", JOURNAL, end)])
            if error is not None:
                raise ConnectionError(f"the stream {JOURNAL} does not confirm: {error!r}")
            while True:
                messages = await _next(received)
                yield [envelope for message in messages for envelope in _events(message)]
                if any(message.message_id == mark for message in messages):
                    return


async def _next(
    received: "asyncio.Queue[AbstractIncomingMessage]",
) -> list[AbstractIncomingMessage]:
    async with asyncio.timeout(TIMEOUT_SECONDS):
        messages = [await received.get()]
    while not received.empty():
        messages.append(received.get_nowait())
    await messages[-1].ack(multiple=True)
    return messages


def _events(message: AbstractIncomingMessage) -> list[Envelope[Event]]:
    """The events of a message that came by the exchange of their publisher: nobody else may write to it."""
    kinds = {(kind.exchange, kind.__name__): kind for kind in Event.by_key.values()}
    kind = kinds.get((message.exchange or "", message.type or ""))
    found = from_message(message, kind) if kind else []
    events = [one for one in found if isinstance(one, Envelope)]
    if len(events) < len(found):
        log.warning("journal.unreadable", message_id=message.message_id, type=message.type)
    return events
