"""What lies in `<service>.dead`: looked at, sent back to where it was heard, or thrown away.

A message is held unacknowledged while it is decided about; whatever has not been decided goes back to its queue when
the connection closes, so that looking uses nothing up (the delivery limit of these queues is as good as none). A replay
is published to the one queue in which the message was heard, not to its exchange: nobody else hears it again. The
original is acknowledged only once the copy is confirmed, so a crash in between makes two of it, which the inbox makes
one again, and never none.
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
"""Headers that parking adds, and that a replay leaves out."""

BROKERS_OWN: Final = ("x-death", "x-first-death-", "x-delivery-count", "x-last-death-")
"""Headers that the broker adds; it would count on where it was."""


class NotReplayedError(Exception):
    """The broker did not take the copy. The original is where it was."""


@dataclass(frozen=True)
class DeadLetter:
    """A message that lies in a dead queue, held until its connection closes."""

    service: str
    message: AbstractIncomingMessage

    @property
    def id(self) -> str:
        """The message's id; for an event that is alone, the event's."""
        return self.message.message_id or ""

    @property
    def type(self) -> str:
        """The event's type as the message has it; empty if it has none."""
        return self.message.type or ""

    @property
    def origin(self) -> str:
        """The queue in which it was heard; empty if nobody has noted that."""
        return str(self._header("dead_letter_queue") or self._death().get("queue", ""))

    @property
    def reason(self) -> str:
        """What went wrong, in a line."""
        return str(self._header("dead_letter_error") or self._death().get("reason", "unknown"))

    @property
    def traceback(self) -> str:
        """Where it went wrong; empty if the broker set it aside, and not the service."""
        return str(self._header("dead_letter_traceback") or "")

    @property
    def attempts(self) -> int | None:
        """How often it was tried; None if the broker set it aside."""
        attempts = self._header("dead_letter_attempts")
        return attempts if isinstance(attempts, int) else None

    @property
    def since(self) -> datetime | None:
        """When it was set aside, aware; None if nobody has noted that."""
        at = self._header("dead_letter_at") or self._death().get("time")
        if isinstance(at, datetime):
            return at.astimezone(UTC)
        try:
            return datetime.fromisoformat(str(at)) if at else None
        except ValueError:
            return None

    def as_json(self) -> dict[str, Any]:
        """What can be said of it in short."""
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
    """All dead queues of some services, as an administrator of their vhost sees them."""

    def __init__(self, channel: aio_pika.abc.AbstractChannel, publisher: Publisher) -> None:
        self._channel = channel
        self._publisher = publisher

    @classmethod
    @asynccontextmanager
    async def of(cls, address: str) -> AsyncIterator[Self]:
        """Connect for a block; at its end everything that was not decided about lies where it lay.

        The address names every node of a cluster, separated by commas. Raises OSError or an AMQP error if there is no
        connection to be had.
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
        """Everything that lies in the dead queues of these services now, in the order of the queues."""
        found: list[DeadLetter] = []
        with connection_may_be_lost():
            for service in services:
                queue = await self._channel.get_queue(f"{service}.{DEAD}", ensure=False)
                while (message := await queue.get(fail=False)) is not None:
                    found.append(DeadLetter(service, message))
        return found

    async def replay(self, letters: Sequence[DeadLetter]) -> None:
        """Send messages back to the queues in which they were heard, one after another.

        A header that was written by hand must not let anybody else hear a message: only a queue of the service that
        has set it aside will do. Raises NotReplayedError about those that cannot go, once the others have gone, and
        at the first copy that is not confirmed.
        """
        unfit = []
        for letter in letters:
            if letter.origin not in _queues_of(letter.service):
                unfit.append(letter)
                continue
            copy = _as_published(letter.message)
            [error] = await self._publisher.publish([("", letter.origin, copy)])
            if error is not None:
                raise NotReplayedError(f"{letter.id} to {letter.origin}: {error!r}") from error
            await self.drop([letter])  # the copy is there
        if unfit:
            raise NotReplayedError("; ".join(map(_why_not, unfit)))

    async def drop(self, letters: Sequence[DeadLetter]) -> None:
        """Throw messages away."""
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


def _queues_of(service: str) -> set[str]:
    """Where a service hears events."""
    return {queue_name(service, kind) for kind in SUBSCRIPTIONS[service]}


def _why_not(letter: DeadLetter) -> str:
    if not letter.origin:
        return f"{letter.id}: nobody has noted where it was heard"
    return f"{letter.id}: {letter.service} does not hear anything in {letter.origin}"
