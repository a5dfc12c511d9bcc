"""The broker, under the test's control: behind the channel that `Publisher` opens, and before what `Inbox` subscribes.

It has the queues and bindings of the real topology, and promises what RabbitMQ promises: a confirmed message is in its
queues until it is acknowledged. Everything else may happen: messages come in any order, late, more than once; confirms
are refused or lost.
"""

import asyncio
from collections import defaultdict, deque
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Literal, cast

import aio_pika
from aio_pika.exceptions import DeliveryError, PublishError
from aiormq.abc import DeliveredMessage
from pamqp.commands import Basic
from pamqp.header import ContentHeader

from chassis.messaging import message as wire
from chassis.messaging.consumer import PREFETCH_MESSAGES
from chassis.messaging.publisher import CONFIRM_SECONDS
from chassis.messaging.topology import JOURNAL_PREFIX, dead_letter_exchange
from events.base import Envelope, Event
from ops.subscriptions import TOPOLOGY
from tests.simulation.loop import SimulatedLoop, resolve

if TYPE_CHECKING:
    from tests.simulation.process import Process

PublishTrouble = Literal["refused", "returned", "lost", "unconfirmed", "silent", "slow", "doubled"]
"""What becomes of a publish: the broker refuses it; no queue takes it; the connection is lost before the broker has it,
or before the confirm comes; no confirm comes, or late; it is there twice."""

PUBLISH_TROUBLES: Final = (
    "refused", "returned", "lost", "unconfirmed", "silent", "slow", "doubled",
)  # fmt: skip


@dataclass(eq=False)
class Message:
    """A message in a queue: what was published, and how often it was delivered in vain."""

    sent: aio_pika.Message
    deliveries: int = 0


COPIED: Final = (
    "content_type",
    "content_encoding",
    "correlation_id",
    "message_id",
    "type",
    "app_id",
    "timestamp",
)
"""The properties that a message is delivered with as it was published."""


@dataclass(eq=False)
class Delivered:
    """What a consumer gets of it: as much as the inbox reads of FastStream's message, and of the raw one in it."""

    broker: "Broker"
    process: "Process"
    queue: str
    message: Message
    body: bytes = b""
    headers: Mapping[str, Any] = field(default_factory=dict)
    content_type: str | None = None
    content_encoding: str | None = None
    correlation_id: str | None = None
    message_id: str | None = None
    type: str | None = None
    app_id: str | None = None
    timestamp: datetime | None = None
    redelivered: bool = False

    def __post_init__(self) -> None:
        sent, deliveries = self.message.sent, self.message.deliveries
        self.body = sent.body
        self.headers = {**sent.headers, **({"x-delivery-count": deliveries} if deliveries else {})}
        for name in COPIED:
            setattr(self, name, getattr(sent, name))
        self.redelivered = deliveries > 0

    @property
    def raw_message(self) -> "Delivered":
        return self

    async def ack(self) -> None:
        self.process.check()
        self.broker.loop.outside(f"ack of {self.queue}", self.broker.acknowledged, self)

    async def nack(self, *, requeue: bool) -> None:
        assert requeue
        self.process.check()
        self.broker.loop.outside(f"nack of {self.queue}", self.broker.take_back, self)


Handler = Callable[[Any], Coroutine[Any, Any, None]]


@dataclass(eq=False)
class Consumer:
    """A process that listens to a queue."""

    process: "Process"
    handler: Handler
    in_hand: list[Delivered] = field(default_factory=list)


class Broker:
    """Queues, their consumers, and the next faults."""

    def __init__(self, loop: SimulatedLoop) -> None:
        self.loop = loop
        self.troubles: deque[str] = deque()
        """What becomes of the next publishes, one after the other."""
        self.late = 0
        """Confirmations that arrived after the publisher had stopped waiting."""
        self.published: dict[Any, Envelope[Event]] = {}
        """Every event that was ever published, by id."""
        self.journal: dict[Any, Envelope[Event]] = {}
        """Those that the stream has."""
        self.queues: dict[str, list[Message]] = {}
        self._consumers: dict[str, list[Consumer]] = defaultdict(list)
        self._bound: dict[tuple[str, str], list[str]] = defaultdict(list)
        self._sent: list[tuple[str, str, aio_pika.Message]] = []
        for queue in TOPOLOGY.queues:
            if queue.service is not None:  # the journal is an attribute
                self.queues[queue.name] = []
                for binding in queue.bindings:
                    self._bound[binding].append(queue.name)

    def counts(self) -> dict[str, int]:
        """Messages by queue, unacknowledged ones included."""
        counts = {name: len(messages) for name, messages in self.queues.items()}
        for name, consumers in self._consumers.items():
            counts[name] += sum(len(consumer.in_hand) for consumer in consumers)
        return counts

    # Publishing.

    def arrived(
        self,
        exchange: str,
        key: str,
        message: aio_pika.Message,
        confirm: "asyncio.Future[object]",
        *,
        mandatory: bool,
    ) -> None:
        """A publish has come over its connection."""
        trouble = self.troubles.popleft() if self.troubles else ""
        if trouble == "returned" and mandatory:
            answer: object = PublishError(_returned(message), Basic.Return())
        elif trouble == "refused":
            answer = DeliveryError(None, Basic.Nack())
        elif trouble == "lost":
            answer = ConnectionError("lost before it was sent")
        else:
            for _ in range(2 if trouble == "doubled" else 1):
                self.enqueue(exchange, key, message)
            answer = ConnectionError("lost before it was confirmed")
            if trouble == "silent":
                return
            if trouble == "slow":
                seconds = self.loop.dice.uniform(0.8, 1.6) * CONFIRM_SECONDS
                self.loop.call_later(seconds, self._answer, confirm, Basic.Ack())
                return
            if trouble != "unconfirmed":
                answer = Basic.Ack()
        what = f"answer to {key}: {type(answer).__name__}"
        self.loop.outside(what, self._answer, confirm, answer)

    def _answer(self, confirm: "asyncio.Future[object]", answer: object) -> None:
        if not resolve(confirm, answer):
            self.late += 1

    def enqueue(self, exchange: str, key: str, message: aio_pika.Message) -> None:
        """Into all queues that are bound to the key."""
        if exchange != dead_letter_exchange(key):
            to_journal = key.startswith(JOURNAL_PREFIX)
            if not to_journal:
                self._sent.append((exchange, key, message))
            for received in wire.from_message(
                message, Event.by_key[key.removeprefix(JOURNAL_PREFIX)]
            ):
                assert isinstance(received, Envelope), received
                kept = self.journal if to_journal else self.published
                kept.setdefault(received.id, received)
        for queue in self._bound[exchange, key]:
            self._offer(queue, Message(message))

    def say_again(self, which: int) -> None:
        """One of the messages that were published is published once more."""
        if self._sent:
            self.enqueue(*self._sent[which % len(self._sent)])

    # Delivering.

    def listen(self, queue: str, consumer: Consumer) -> None:
        """A process subscribes."""
        self._consumers[queue].append(consumer)
        for _ in self.queues[queue]:
            self.loop.outside(f"{queue} delivers", self._deliver, queue)

    def _offer(self, queue: str, message: Message) -> None:
        self.queues[queue].append(message)
        if self._consumers[queue]:
            self.loop.outside(f"{queue} delivers", self._deliver, queue)

    def _deliver(self, queue: str) -> None:
        """Deliver one message to a consumer below its prefetch limit. If there is none, the next ack makes one."""
        waiting = self.queues[queue]
        free = [c for c in self._consumers[queue] if len(c.in_hand) < PREFETCH_MESSAGES]
        if not waiting or not free:
            return
        consumer = self.loop.dice.choice(free)
        message = waiting.pop(self.loop.dice.randrange(len(waiting)))
        delivered = Delivered(self, consumer.process, queue, message)
        consumer.in_hand.append(delivered)
        consumer.process.begin(consumer.handler(delivered), f"consumes {queue}")

    def acknowledged(self, delivered: Delivered) -> None:
        """An ack has come over its connection; the broker forgets the message."""
        if self._out_of_hand(delivered) and self.queues[delivered.queue]:
            self.loop.outside(f"{delivered.queue} delivers", self._deliver, delivered.queue)

    def take_back(self, delivered: Delivered) -> None:
        """Put an unacknowledged message back into its queue, with its delivery count raised."""
        if self._out_of_hand(delivered):
            delivered.message.deliveries += 1
            self._offer(delivered.queue, delivered.message)

    def _out_of_hand(self, delivered: Delivered) -> bool:
        for consumer in self._consumers[delivered.queue]:
            if delivered in consumer.in_hand:
                consumer.in_hand.remove(delivered)
                return True
        return False

    def gone(self, process: "Process") -> None:
        """A process has died: what it had in hand goes to others."""
        for queue, consumers in self._consumers.items():
            for consumer in [one for one in consumers if one.process is process]:
                consumers.remove(consumer)
                for delivered in consumer.in_hand:
                    delivered.message.deliveries += 1
                    self._offer(queue, delivered.message)


def _returned(message: aio_pika.Message) -> DeliveredMessage:
    return DeliveredMessage(Basic.Return(), ContentHeader(), message.body, cast(Any, None))
