"""A consumer per queue: every event has its effects once, however often it is delivered.

A FastStream subscriber takes messages, single events or message batches, and submits each event to a group committer.
One transaction holds the effects, the events that follow, and the rows of the inbox. The message is acknowledged after
COMMIT.

The inbox is the table of processed events. Nearly all events are new, so a batch is processed without a look into it,
and it is written with everything else. If an event was processed before, that fails: the transaction fails as a whole
and the batch is processed again, deduplicated. Decision record 22 has the measurements.
"""

import asyncio
import math
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, Final, Generic, TypeVar
from uuid import UUID

import structlog
from faststream import AckPolicy
from faststream.rabbit import Channel, RabbitBroker, RabbitMessage, RabbitQueue
from prometheus_client import Counter
from pydantic import ValidationError
from sqlalchemy import BigInteger
from sqlmodel import Field

from chassis import crash_points
from chassis.database.group_commit import GroupCommitter, OnCommit
from chassis.database.tables import Table, statements
from chassis.database.transaction import Pool, Transaction
from chassis.messaging.dead_letters import DeadLetterQueue
from chassis.messaging.message import from_message
from chassis.messaging.outbox import GROUP, bits
from chassis.messaging.retries import RETRY_DELAYS, FailedEvents
from chassis.messaging.topology import queue_name
from events.base import Envelope, Event

log = structlog.get_logger(__name__)

PREFETCH_MESSAGES: Final = 16
"""Unacknowledged messages per queue: up to 16 message batches of 64 events."""

SHUFFLE_SECONDS: Final = 0.2
"""Redelivered messages are processed in random order, spread over this time. In a fixed order, a message that kills the
process would keep those behind it from being processed until the broker dead-letters all of them."""

ISOLATE_AFTER: Final = 3
"""Deliveries after which the events of a message batch are processed one by one: the others are done before the event
that kills the process, and the broker dead-letters only what is left."""

PROCESSED = Counter("chorus_inbox_processed_total", "Events processed.", ["queue"])
DUPLICATES = Counter(
    "chorus_inbox_duplicates_total", "Events delivered again and skipped.", ["queue"]
)

E = TypeVar("E", bound=Event)
Handler = Callable[[Transaction, Sequence[Envelope[E]]], Awaitable[object]]
"""A use case for new events. It may publish; it must not commit."""


class InboxRow(Table, table=True):
    """Processed events of one publisher whose ids differ in the last six bits alone, as those of one message often do.

    The row outlives every possible redelivery; `retention` purges it later.
    """

    __tablename__ = "inbox"
    on_conflict = """
        ON CONFLICT (id, source) DO UPDATE SET received_at = excluded.received_at,
            members = CASE WHEN inbox.members & excluded.members = 0 THEN inbox.members | excluded.members END
    """
    # The column takes no NULL: an event that was processed before makes the statement fail.

    id: UUID = Field(primary_key=True)
    """Of the events, with zeros in these bits."""
    source: str = Field(primary_key=True)
    """The exchange of the publisher: nobody else can use its ids up."""
    members: int = Field(sa_type=BigInteger)
    """A bit for each event that was processed, at the number that its id has in these bits."""
    received_at: datetime


KNOWN: Final = statements(InboxRow).where("source = $1 AND id = ANY($2)")


async def deduplicate(tx: Transaction, received: Sequence[Envelope[E]]) -> list[Envelope[E]]:
    """The events that are not in the inbox, each once, in the order of arrival."""
    once = {envelope.id.int: envelope for envelope in received}
    groups = {UUID(int=number // GROUP * GROUP) for number in once}
    records = await tx.fetch(KNOWN, received[0].event.exchange, list(groups))
    known = {record["id"].int // GROUP: record["members"] for record in records}
    return [once[n] for n in once if not known.get(n // GROUP, 0) >> n % GROUP & 1]


async def mark_processed(tx: Transaction, processed: Sequence[Envelope[E]]) -> None:
    """Write events to the inbox; COMMIT fails with asyncpg.NotNullViolationError if one is there already.

    The rows are written by the last statement of the transaction, after every lock, and in the order of their ids:
    two consumers of the same events wait for each other and never deadlock.
    """
    source = processed[0].event.exchange
    await tx.insert(
        [
            InboxRow(id=UUID(int=group * GROUP), source=source, members=new, received_at=tx.now)
            for group, new in bits(envelope.id for envelope in processed).items()
        ]
    )


@dataclass(frozen=True, slots=True)
class Subscription(Generic[E]):
    """A service consumes an event: the use case that handles it. Each service lists its own in `consumers.py`."""

    event: type[E]
    handler: Handler[E]
    projection: type[Table] | None = None
    """The table in which the service copies what the event is about, if it does. The first column of its primary key
    is the owner's key. `chorus rebuild` makes the table again."""
    projector: Handler[E] | None = None
    """The part of the handler that writes the projection; by default it does nothing else. It publishes nothing, uses
    nothing of an envelope but its event, and ignores what the projection already has, or a newer version of it."""
    fallback: Handler[E] | None = None
    """Handles a batch whose handler failed; by default the handler does. With one, the handler may rely on what nearly
    always holds, if it fails otherwise."""


Subscriptions = tuple[Subscription[Any], ...]


class Consumer(Generic[E]):
    """Consumes one queue: commits events in groups, dead-letters what cannot be processed, acknowledges."""

    def __init__(
        self,
        service: str,
        subscription: Subscription[E],
        broker: RabbitBroker,
        pool: Pool,
        dead_letters: DeadLetterQueue,
        on_commit: OnCommit,
    ) -> None:
        self._event = subscription.event
        self._handler = subscription.handler
        self._fallback = subscription.fallback or subscription.handler
        self.queue = queue_name(service, subscription.event)
        self._duplicates_total = DUPLICATES.labels(self.queue)
        self._processed_total = PROCESSED.labels(self.queue)
        self._redelivered = asyncio.Lock()
        self.committer: GroupCommitter[Envelope[E], None] = GroupCommitter(
            pool,
            self._process,
            fallback=self._process_new,
            name=self.queue,
            on_commit=on_commit,
            waiting_limit=math.inf,
        )
        self._failed = FailedEvents(self.queue, subscription.event, self.committer, dead_letters)
        broker.subscriber(
            RabbitQueue(self.queue, declare=False),
            channel=Channel(prefetch_count=PREFETCH_MESSAGES),
            ack_policy=AckPolicy.MANUAL,
            decoder=_undecoded,
            no_reply=True,
            title=self.queue,
            description=subscription.handler.__doc__,
        )(self._on_message)

    async def _process(self, tx: Transaction, received: Sequence[Envelope[E]]) -> list[None]:
        """Process events without a look into the inbox; the transaction fails if one was processed before."""
        if len({event.id for event in received}) < len(received):
            return await self._process_new(tx, received)
        return await self._handle(tx, self._handler, received, len(received))

    async def _process_new(self, tx: Transaction, received: Sequence[Envelope[E]]) -> list[None]:
        """Process the events that were not processed before."""
        new = await deduplicate(tx, received)
        return await self._handle(tx, self._fallback, new, len(received))

    async def _handle(
        self, tx: Transaction, handler: Handler[E], new: Sequence[Envelope[E]], received: int
    ) -> list[None]:
        if new:
            await handler(tx, new)
            await mark_processed(tx, new)
        self._reached("after_mark_processed")
        tx.after_commit.append(partial(self._count, len(new), received - len(new)))
        return [None] * received

    def _count(self, new: int, duplicates: int) -> None:
        self._processed_total.inc(new)
        self._duplicates_total.inc(duplicates)

    async def _on_message(self, message: RabbitMessage) -> None:
        try:
            await self._consume(message)
        except Exception as error:
            # A fault of this module, not of an event: FastStream would swallow it and the message would hang.
            log.critical("consumer.fault", queue=self.queue, exc_info=error)
            await asyncio.sleep(RETRY_DELAYS[-1])
            await message.nack(requeue=True)

    def _reached(self, point: str) -> None:
        if crash_points.ARMED:
            crash_points.reached(f"inbox.{point}", [self._event.__name__])

    async def _consume(self, message: RabbitMessage) -> None:
        self._reached("on_receive")
        if message.raw_message.redelivered:
            found, attempts = await self._attempt_again(message)
        else:
            found = from_message(message.raw_message, self._event)
            attempts = [self._submit(event) for event in found]
            await asyncio.wait(attempts)
        # Cancelled means that the process is stopping: this raises, and the message will be delivered again.
        errors = [attempt.exception() for attempt in attempts]
        if all(error is None for error in errors) or await self._failed.handle(
            message, found, errors
        ):
            self._reached("before_ack")
            await message.ack()
        else:
            await message.reject(requeue=False)
        self._reached("after_ack")

    async def _attempt_again(
        self, message: RabbitMessage
    ) -> tuple[Sequence[Envelope[E] | ValidationError], Sequence[asyncio.Future[None]]]:
        """Process a redelivered message, which may be the one that killed the process: one at a time."""
        await asyncio.sleep(random.random() * SHUFFLE_SECONDS)  # noqa: S311 - no secret
        async with self._redelivered:
            found = from_message(message.raw_message, self._event)
            if _is_suspicious(message.raw_message.headers):
                return found, await self._one_by_one(found)
            attempts = [self._submit(event) for event in found]
            await asyncio.wait(attempts)
            return found, attempts

    async def _one_by_one(
        self, found: Sequence[Envelope[E] | ValidationError]
    ) -> list[asyncio.Future[None]]:
        attempts = {}
        for index in random.sample(range(len(found)), len(found)):
            attempts[index] = self._submit(found[index])
            await asyncio.wait([attempts[index]])
        return [attempts[index] for index in range(len(found))]

    def _submit(self, event: Envelope[E] | ValidationError) -> asyncio.Future[None]:
        if isinstance(event, Envelope):
            return self.committer.submit(event)
        malformed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        malformed.set_exception(event)
        return malformed


def _is_suspicious(headers: Any) -> bool:
    # Quorum queues count deliveries in this header.
    count = (headers or {}).get("x-delivery-count", 0)
    return isinstance(count, int) and count >= ISOLATE_AFTER


async def _undecoded(message: RabbitMessage) -> RabbitMessage:
    """Pass the message on as it is: `from_message` reads the body by the type that the queue carries."""
    return message
