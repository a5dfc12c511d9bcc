"""Reads the messages in `<service>.dead`, and replays or drops them.

Messages are held unacknowledged, and return to their queue when the connection closes. Reading them is a delivery, so
the delivery limit of these queues is far above any use. A replay is published to the one queue the message was consumed
from, not to its exchange, so no other service receives it again. The original is acknowledged after the copy is
confirmed: a crash in between leaves two, which the inbox deduplicates, and never none.
"""

from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Self

import aio_pika
from aio_pika.abc import AbstractIncomingMessage

from chassis.messaging.addresses import connect
from chassis.messaging.errors import connection_may_be_lost
from chassis.messaging.message import copied
from chassis.messaging.publisher import Publisher
from chassis.messaging.topology import DEAD, queue_name
from ops.subscriptions import SUBSCRIPTIONS

HEADER_PREFIX: Final = "dead_letter_"
"""Headers that dead-lettering adds and a replay omits."""

BROKERS_OWN: Final = ("x-death", "x-first-death-", "x-delivery-count", "x-last-death-")
"""Headers that the broker adds; in a replay they would continue its counts."""


class NotReplayedError(Exception):
    """A message cannot be replayed, or its copy was not confirmed. The original is still in its queue."""


@dataclass(frozen=True)
class DeadLetter:
    """A message in a dead-letter queue, held unacknowledged until the connection closes."""

    service: str
    message: AbstractIncomingMessage

    @property
    def id(self) -> str:
        """The message's id; for a message with one event, the event's."""
        return self.message.message_id or ""

    @property
    def type(self) -> str:
        """The event's type from the message's properties; empty if it is not set."""
        return self.message.type or ""

    @property
    def origin(self) -> str:
        """The queue it was consumed from; empty if that is unknown."""
        return str(self._header("dead_letter_queue") or self._death().get("queue", ""))

    @property
    def reason(self) -> str:
        """Why it was dead-lettered, in a line."""
        return str(self._header("dead_letter_error") or self._death().get("reason", "unknown"))

    @property
    def traceback(self) -> str:
        """The traceback; empty if the broker dead-lettered it, and not the service."""
        return str(self._header("dead_letter_traceback") or "")

    @property
    def attempts(self) -> int | None:
        """How often the service tried to handle it; None if the broker dead-lettered it."""
        attempts = self._header("dead_letter_attempts")
        return attempts if isinstance(attempts, int) else None

    @property
    def since(self) -> datetime | None:
        """When it was dead-lettered, as an aware datetime; None if that is unknown."""
        at = self._header("dead_letter_at") or self._death().get("time")
        if isinstance(at, datetime):
            return at.astimezone(UTC)
        try:
            return datetime.fromisoformat(str(at)) if at else None
        except ValueError:
            return None

    def as_json(self) -> dict[str, Any]:
        """A summary without headers and body."""
        return {
            "id": self.id,
            "service": self.service,
            "type": self.type,
            "queue": self.origin,
            "reason": self.reason,
            "attempts": self.attempts,
            "since": self.since.isoformat() if self.since else None,
            "correlationId": self.message.correlation_id,
        }

    def _header(self, name: str) -> Any:
        return (self.message.headers or {}).get(name)

    def _death(self) -> dict[str, Any]:
        deaths = self._header("x-death")
        if isinstance(deaths, list) and deaths and isinstance(deaths[0], dict):
            return deaths[0]
        return {}


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
            for service in services:
                queue = await self._channel.get_queue(f"{service}.{DEAD}", ensure=False)
                while (message := await queue.get(fail=False)) is not None:
                    found.append(DeadLetter(service, message))
        return found

    async def replay(self, letters: Sequence[DeadLetter]) -> None:
        """Publish messages to the queues they were consumed from, one after another.

        Only a queue of the service that dead-lettered a message is accepted, so that a forged header cannot route it to
        another service. Raises NotReplayedError at the first copy that is not confirmed, and after all others were
        replayed for messages without such a queue.
        """
        unfit = []
        for letter in letters:
            if letter.origin not in {
                queue_name(letter.service, e) for e in SUBSCRIPTIONS[letter.service]
            }:
                unfit.append(letter)
                continue
            copy = _as_published(letter.message)
            [error] = await self._publisher.publish([("", letter.origin, copy)])
            if error is not None:
                raise NotReplayedError(f"{letter.id} to {letter.origin}: {error!r}") from error
            await self.drop([letter])
        if unfit:
            raise NotReplayedError("; ".join(map(_why_not, unfit)))

    async def drop(self, letters: Sequence[DeadLetter]) -> None:
        """Acknowledge messages, which deletes them."""
        with connection_may_be_lost():
            for letter in letters:
                await letter.message.ack()


def _as_published(message: AbstractIncomingMessage) -> aio_pika.Message:
    copy = copied(message)
    copy.headers = {
        name: value
        for name, value in copy.headers.items()
        if not name.startswith((HEADER_PREFIX, *BROKERS_OWN))
    }
    return copy


def _why_not(letter: DeadLetter) -> str:
    if not letter.origin:
        return f"{letter.id}: the queue it was consumed from is unknown"
    return f"{letter.id}: {letter.service} does not consume {letter.origin}"
