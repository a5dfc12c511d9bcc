"""Reads the messages in `<service>.dead`, and replays or drops them.

Messages are held unacknowledged, and return to their queue when the connection closes. Reading them is a delivery, so
the delivery limit of these queues is far above any use. A replay is published to the one queue the message was consumed
from, not to its exchange, so no other service receives it again. The original is acknowledged after the copy is
confirmed: a crash in between leaves two, which the inbox deduplicates, and never none.
"""

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Self

import aio_pika
from aio_pika.abc import AbstractIncomingMessage
from pydantic import ValidationError

from chassis.messaging.addresses import connect
from chassis.messaging.content_headers import UNREADABLE
from chassis.messaging.errors import connection_may_be_lost
from chassis.messaging.message import copied, from_message
from chassis.messaging.publisher import Publication, Publisher
from chassis.messaging.topology import DEAD, dead_letter_exchange, queue_name
from ops.subscriptions import SUBSCRIPTIONS

PREFETCH: Final = 65_535
"""The most messages of a queue that are held; more than a dead-letter queue takes."""

IDLE_SECONDS: Final = 2.0
"""How long a message may take to come, while its queue has some."""

REPLAYED_AT_ONCE: Final = 256

ACKNOWLEDGED_AT_ONCE: Final = 16
"""A channel of RabbitMQ sends a quorum queue 32 commands before the first is applied. It keeps further ones back, and
forgets them when it closes."""

NOT_PUBLISHED: Final = (
    "dead_letter_", "x-death", "x-first-death-", "x-delivery-count", "x-last-death-"
)  # fmt: skip
"""Headers that dead-lettering and the broker add, by their beginnings. In a replay the broker would go on counting."""


class NotReplayedError(Exception):
    """A message cannot be replayed, or its copy was not confirmed. The original is still in its queue."""


@dataclass(frozen=True)
class DeadLetter:
    """A message in a dead-letter queue, held unacknowledged until the connection closes. What is unknown is empty."""

    service: str
    message: AbstractIncomingMessage
    id: str
    """The message's id; for a message with one event, the event's."""
    type: str
    """The event's type, from the message's properties."""
    queue: str
    """The queue it was consumed from."""
    reason: str
    """Why it was dead-lettered, in a line."""
    attempts: int | None
    """How often the service tried to handle it; None if the broker dead-lettered it."""
    since: datetime | None
    """When it was dead-lettered, as an aware datetime."""

    @classmethod
    def of(cls, service: str, message: AbstractIncomingMessage) -> Self:
        """Read what the service says in the headers of dead-lettering, or the broker in the first of `x-death`.

        The exchange tells which: both kinds of headers may have been written by the message's publisher.
        """
        headers: dict[str, Any] = dict(message.headers or {})
        death: dict[str, Any] = {}
        if message.exchange != dead_letter_exchange(service):
            match headers.get("x-death"):
                case [dict(death), *_]:
                    pass
            headers = {}
        attempts = headers.get("dead_letter_attempts")
        queue = str(headers.get("dead_letter_queue") or death.get("queue", ""))
        return cls(
            service,
            message,
            message.message_id or "",
            message.type or "",
            queue,
            str(
                headers.get("dead_letter_error")
                or headers.get(UNREADABLE)
                or _malformed(message, queue)
                or death.get("reason", "unknown")
            ),
            attempts if isinstance(attempts, int) else None,
            _moment(headers.get("dead_letter_at") or death.get("time")),
        )

    def as_json(self) -> dict[str, Any]:
        """A summary without headers and body."""
        return {
            "id": self.id,
            "service": self.service,
            "type": self.type,
            "queue": self.queue,
            "reason": self.reason,
            "attempts": self.attempts,
            "since": self.since.isoformat() if self.since else None,
            "correlationId": self.message.correlation_id,
        }


KINDS: Final = {
    queue_name(service, kind): kind for service, kinds in SUBSCRIPTIONS.items() for kind in kinds
}


def _malformed(message: AbstractIncomingMessage, queue: str) -> str | None:
    """Why the consumer of a queue cannot read a message, if so: one that the broker dead-lettered has no reason."""
    for found in from_message(message, KINDS[queue]) if queue in KINDS else ():
        if isinstance(found, ValidationError):
            return f"ValidationError: {found}"[:1000]
    return None


def _moment(value: object) -> datetime | None:
    try:
        at = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
        return at.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


class DeadLetters:
    """The dead-letter queues of services, with an administrator's login to their vhost."""

    def __init__(self, channel: aio_pika.abc.AbstractChannel, publisher: Publisher) -> None:
        self._channel = channel
        self._publisher = publisher

    @classmethod
    @asynccontextmanager
    async def of(cls, address: str) -> AsyncIterator[Self]:
        """Connect for a block. At its end every message that was neither replayed nor dropped is back in its queue.

        The address has every node of a cluster, separated by commas. Raises OSError or an AMQP error if no node can be
        connected to.
        """
        publisher = Publisher(address, "chorus dead replay")
        connection = await connect(address)
        try:
            async with connection:
                with connection_may_be_lost():
                    channel = await connection.channel()
                yield cls(channel, publisher)
        finally:
            await publisher.close()

    async def hold(self, services: Collection[str]) -> list[DeadLetter]:
        """All messages that are in the dead-letter queues of these services now, in the order of the queues."""
        found: list[DeadLetter] = []
        with connection_may_be_lost():
            await self._channel.set_qos(prefetch_count=PREFETCH)
            for service in services:
                queue = await self._channel.get_queue(f"{service}.{DEAD}", ensure=False)
                first = await queue.get(fail=False)
                if first is None:
                    continue
                found.append(DeadLetter.of(service, first))
                held: asyncio.Queue[AbstractIncomingMessage] = asyncio.Queue()
                consumer = await queue.consume(held.put)
                for _ in range(first.message_count or 0):
                    try:
                        message = await asyncio.wait_for(held.get(), IDLE_SECONDS)
                    except TimeoutError:  # somebody else holds the rest
                        break
                    found.append(DeadLetter.of(service, message))
                await queue.cancel(consumer)
        return found

    async def replay(self, letters: Sequence[DeadLetter]) -> None:
        """Publish messages to the queues they were consumed from, REPLAYED_AT_ONCE at a time.

        Only a queue of the service that dead-lettered a message is accepted, so that a forged header cannot route it to
        another service. Raises NotReplayedError if a copy is not confirmed, and after all others were replayed for
        messages without such a queue.
        """
        own = [letter for letter in letters if _is_own(letter)]
        for start in range(0, len(own), REPLAYED_AT_ONCE):
            batch = own[start : start + REPLAYED_AT_ONCE]
            errors = await self._publisher.publish(
                [Publication("", letter.queue, _as_published(letter.message)) for letter in batch]
            )
            replayed = list(zip(batch, errors, strict=True))
            await self.drop([letter for letter, error in replayed if error is None])
            for letter, error in replayed:
                if error is not None:
                    raise NotReplayedError(f"{letter.id} to {letter.queue}: {error!r}") from error
        foreign = [
            f"{letter.id}: {letter.service} does not consume {letter.queue or 'an unknown queue'}"
            for letter in letters
            if not _is_own(letter)
        ]
        if foreign:
            raise NotReplayedError("; ".join(foreign))

    async def drop(self, letters: Sequence[DeadLetter]) -> None:
        """Acknowledge messages: when this returns, they are deleted."""
        with connection_may_be_lost():
            for start in range(0, len(letters), ACKNOWLEDGED_AT_ONCE):
                batch = letters[start : start + ACKNOWLEDGED_AT_ONCE]
                for letter in batch:
                    await letter.message.ack()
                for service in {letter.service for letter in batch}:
                    await self._applied(service)

    async def _applied(self, service: str) -> None:
        """Wait until a service's queue has applied what was sent before: it answers in order.

        A message that has come meanwhile is held, too, and returns to the queue at the end.
        """
        queue = await self._channel.get_queue(f"{service}.{DEAD}", ensure=False)
        await queue.get(fail=False)


def _is_own(letter: DeadLetter) -> bool:
    return letter.queue in {
        queue_name(letter.service, kind) for kind in SUBSCRIPTIONS[letter.service]
    }


def _as_published(message: AbstractIncomingMessage) -> aio_pika.Message:
    copy = copied(message)
    kept = (name for name in copy.headers if not name.startswith(NOT_PUBLISHED))
    copy.headers = {name: copy.headers[name] for name in kept}
    return copy
