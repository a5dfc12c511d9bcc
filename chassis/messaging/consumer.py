"""The inbox: every event that a service hears has its effects once, however often it is delivered.

A FastStream subscriber per queue takes messages, plain or packs, and hands each event to a group committer. In one
transaction stand the row in `inbox`, the effects, and the events that follow. The message is acknowledged after COMMIT.

Nearly all events are new, so a batch is handled as if all were, and the inbox is written with everything else. Where
one was known its key is there already: the transaction fails whole, and the batch is handled again with a look into the
inbox first. Decision 22 tells what that gains.
"""

import asyncio
import contextlib
import math
import random
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Any, Final, Generic, TypeVar
from uuid import UUID

import structlog
from faststream import AckPolicy
from faststream.rabbit import Channel, RabbitBroker, RabbitMessage, RabbitQueue
from prometheus_client import Counter
from sqlmodel import Field

from chassis.database.group_commit import GroupCommitter
from chassis.database.tables import Table
from chassis.database.transaction import Pool, Transaction
from chassis.messaging import message as wire
from chassis.messaging.dead_letters import DEAD_LETTERED, DeadLetterQueue, with_reason
from chassis.messaging.topology import queue_name
from chassis.runtime import crash_points as crash
from events.base import Envelope, Event

log = structlog.get_logger(__name__)

PREFETCH_MESSAGES: Final = 16
"""Unacknowledged messages per queue: up to 16 packs of 64 events."""

ATTEMPT_DELAYS: Final = (0.1, 0.5, 2.0)
"""Seconds before the second, third and fourth attempt of an event that fails; then it is parked."""

SHUFFLE_SECONDS: Final = 0.2
"""Messages that come again are handled in an order that is left to chance, spread over this time. In the same order
each time, one that kills us would keep those behind it from ever being handled, until the broker sets all aside."""

SUSPECT_DELIVERIES: Final = 3
"""A pack that comes so often again has its events handled one by one: those beside the one that kills us are done
before the broker sets the whole pack aside."""

PROCESSED = Counter("chorus_inbox_processed_total", "Events handled.", ["queue"])
DUPLICATES = Counter(
    "chorus_inbox_duplicates_total", "Events delivered again and skipped.", ["queue"]
)

E = TypeVar("E", bound=Event)
Subscriber = Callable[[Transaction, Sequence[Envelope[E]]], Awaitable[object]]
"""Handles events that have not been handled before. May publish; must not commit."""


class InboxRow(Table, table=True):
    """An event that has had its effects. It outlives every possible redelivery, then it is forgotten."""

    __tablename__ = "inbox"

    event_id: UUID = Field(primary_key=True)
    received_at: datetime


async def deduplicate(tx: Transaction, received: Sequence[Envelope[E]]) -> list[Envelope[E]]:
    """The events that are new, each once."""
    once = {event.id: event for event in received}
    known = await tx.load(InboxRow, once)
    return [event for id, event in once.items() if id not in known]


async def mark_processed(tx: Transaction, received: Sequence[Envelope[E]]) -> None:
    """From this transaction on these events are known. It fails if one was known before.

    The inbox is written with the last statement, after every lock, whichever way a batch is handled: so two consumers
    of the same events wait for each other in one order. Among events that is the order of ids.
    """
    ids = sorted(event.id for event in received)
    await tx.insert_columns(InboxRow, ids, [tx.now] * len(ids))


class Inbox:
    """What one service hears. `hears` registers, `attach` connects to servers."""

    def __init__(self, service: str) -> None:
        self.service = service
        self.subscribers: dict[type[Event], Subscriber[Any]] = {}

    def hears(self, kind: type[E]) -> Callable[[Subscriber[E]], Subscriber[E]]:
        """Register the subscriber of an event. Its name says what it does about the event."""

        def register(subscriber: Subscriber[E]) -> Subscriber[E]:
            if self.subscribers.setdefault(kind, subscriber) is not subscriber:
                raise TypeError(f"{self.service} hears {kind.__name__} already")
            return subscriber

        return register

    def attach(
        self,
        broker: RabbitBroker,
        pool: Pool,
        dead_letters: DeadLetterQueue,
        published: Callable[[], None],
    ) -> list["Consumer[Any]"]:
        """Subscribe to the queues of all registered events; messages arrive once the broker is started."""
        return [
            Consumer(self.service, kind, subscriber, broker, pool, dead_letters, published)
            for kind, subscriber in self.subscribers.items()
        ]


class Consumer(Generic[E]):
    """One queue: unpacks messages, commits events in groups, parks what cannot succeed, acknowledges."""

    def __init__(
        self,
        service: str,
        kind: type[E],
        subscriber: Subscriber[E],
        broker: RabbitBroker,
        pool: Pool,
        dead_letters: DeadLetterQueue,
        published: Callable[[], None],
    ) -> None:
        self._kind = kind
        self._subscriber = subscriber
        self._dead_letters = dead_letters
        self.queue = queue_name(service, kind)
        self._duplicates_total = DUPLICATES.labels(self.queue)
        self._processed_total = PROCESSED.labels(self.queue)
        # There from the start: an alarm on a rise misses a series that begins with 1.
        DEAD_LETTERED.labels(self.queue)
        self._redelivered = asyncio.Lock()
        self.committer: GroupCommitter[Envelope[E], None] = GroupCommitter(
            pool,
            self._handle,
            fallback=self._handle_new,
            name=self.queue,
            published=published,
            waiting_limit=math.inf,
        )
        broker.subscriber(
            RabbitQueue(self.queue, declare=False),
            channel=Channel(prefetch_count=PREFETCH_MESSAGES),
            ack_policy=AckPolicy.MANUAL,
            decoder=_undecoded,
            no_reply=True,
            title=self.queue,
            description=subscriber.__doc__,
        )(self._on_message)

    async def _handle(self, tx: Transaction, received: Sequence[Envelope[E]]) -> list[None]:
        """Handle events as if none had been handled before; the transaction fails if one was."""
        await self._have_effects(tx, received, doubled=0)
        return [None] * len(received)

    async def _handle_new(self, tx: Transaction, received: Sequence[Envelope[E]]) -> list[None]:
        """Handle those events that have not been handled before."""
        new = await deduplicate(tx, received)
        await self._have_effects(tx, new, doubled=len(received) - len(new))
        return [None] * len(received)

    async def _have_effects(
        self, tx: Transaction, new: Sequence[Envelope[E]], *, doubled: int
    ) -> None:
        if new:
            await self._subscriber(tx, new)
            await mark_processed(tx, new)
        self._reached("after_mark_processed")
        tx.after_commit(lambda: self._count(len(new), doubled))

    def _count(self, new: int, doubled: int) -> None:
        self._processed_total.inc(new)
        self._duplicates_total.inc(doubled)

    async def _on_message(self, message: RabbitMessage) -> None:
        try:
            await self._take(message)
        except Exception as error:
            # A fault of this module, not of an event: FastStream would swallow it and the message would hang.
            log.critical("inbox.fault", queue=self.queue, exc_info=error)
            await asyncio.sleep(ATTEMPT_DELAYS[-1])
            await message.nack(requeue=True)

    def _reached(self, point: str) -> None:
        if crash.ARMED:
            crash.reached(f"inbox.{point}", [self._kind.__name__])

    async def _take(self, message: RabbitMessage) -> None:
        self._reached("on_receive")
        raw = message.raw_message
        if raw.redelivered:
            await asyncio.sleep(random.random() * SHUFFLE_SECONDS)  # noqa: S311 - no secret
        # What comes again may be what killed us the last time: one message at a time.
        async with self._redelivered if raw.redelivered else contextlib.nullcontext():
            found = wire.from_message(raw, self._kind)
            attempts = await self._attempt(found, apart=_is_suspect(raw.headers))
            failed = [i for i in range(len(found)) if i not in attempts or _failed(attempts[i])]
            await asyncio.gather(
                *(self._retry(message, i, found[i], attempts.get(i)) for i in failed)
            )
            self._reached("before_ack")
            await message.ack()
            self._reached("after_ack")

    async def _attempt(
        self, found: Sequence[Envelope[E] | wire.MalformedEvent], *, apart: bool
    ) -> dict[int, asyncio.Future[None]]:
        """Handle the events among these, together or one after the other; returns their attempts, all done."""
        events = [
            (index, event) for index, event in enumerate(found) if isinstance(event, Envelope)
        ]
        attempts: dict[int, asyncio.Future[None]] = {}
        if apart:
            random.shuffle(events)
        for index, event in events:
            attempts[index] = self.committer.submit(event)
            if apart:
                await asyncio.wait([attempts[index]])
        if attempts:
            await asyncio.wait(attempts.values())
        return attempts

    async def _retry(
        self,
        message: RabbitMessage,
        index: int,
        event: Envelope[E] | wire.MalformedEvent,
        attempt: asyncio.Future[None] | None,
    ) -> None:
        """Try an event again after a fault of its own, with backoff; park it once that has no point."""
        if isinstance(event, wire.MalformedEvent) or attempt is None:
            assert isinstance(event, wire.MalformedEvent)
            await self._dead_letter(message, index, event.error, attempts=1)
            return
        for delay in (*ATTEMPT_DELAYS, None):
            try:
                await attempt
                return
            except Exception as error:
                log.warning(
                    "inbox.failed", queue=self.queue, event_id=str(event.id), exc_info=error
                )
                if delay is None:
                    await self._dead_letter(message, index, error, attempts=len(ATTEMPT_DELAYS) + 1)
                    return
                await asyncio.sleep(delay)
                attempt = self.committer.submit(event)

    async def _dead_letter(
        self, message: RabbitMessage, index: int, error: Exception, attempts: int
    ) -> None:
        dead_letter = with_reason(
            wire.alone(message.raw_message, index),
            queue=self.queue,
            exchange=self._kind.exchange,
            key=self._kind.key,
            error=error,
            attempts=attempts,
        )
        await self._dead_letters.put(dead_letter, self.queue)


def _is_suspect(headers: Any) -> bool:
    # Quorum queues count deliveries in this header.
    count = (headers or {}).get("x-delivery-count", 0)
    return isinstance(count, int) and count >= SUSPECT_DELIVERIES


def _failed(attempt: asyncio.Future[None]) -> bool:
    # Cancelled means that the process is stopping: nothing is acknowledged, the message comes again.
    if attempt.cancelled():
        raise asyncio.CancelledError
    return attempt.exception() is not None


async def _undecoded(message: RabbitMessage) -> RabbitMessage:
    """What the subscriber gets: the message itself. `wire` reads the body, by the type that the queue carries."""
    return message
