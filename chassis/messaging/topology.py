"""The topology: every exchange, queue, binding and permission on the broker. This module alone owns it.

Exchanges are named after publishers. A queue belongs to one consumer and one event, and is named so:
`billing.order-placed`. Messages that cannot be handled lie in `<service>.dead`. Everything that is published is
also kept in the stream `journal`. Services connect as users of their own and can declare nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from events.base import Event

DEAD: Final = "dead"
JOURNAL: Final = "journal"

DELIVERY_LIMIT: Final = 100
"""Deliveries before the broker itself sets a message aside. Generous, because a message that was prefetched and never
looked at counts as delivered, and every crash of a consumer would bring innocent ones closer to the limit."""

LOOKING_LIMIT: Final = 1_000_000
"""The same for parked messages: as good as none. Each look with "Get messages" is a delivery, and past the limit, 20 on
RabbitMQ 4 if none is named, a message that has nowhere to go is gone. (-1 means none there, and at once before.)"""

QUEUE_LIMIT: Final = 1_000_000
"""Messages per queue. A full queue refuses, and the publisher's outbox holds the rest."""

CONSUMER_TIMEOUT_MILLISECONDS: Final = 30 * 24 * 3600 * 1000
"""How long a consumer may keep a message unacknowledged: 30 days. While a database is away messages wait in hand, and
after 30 minutes, if nothing else is said, RabbitMQ would take them back and close the channel."""

JOURNAL_AGE: Final = "7D"
JOURNAL_BYTES: Final = 2_000_000_000
JOURNAL_SEGMENT_BYTES: Final = 100_000_000


@dataclass(frozen=True)
class Queue:
    """A queue and what it is bound to. `service` is who may read it; None for the journal."""

    name: str
    service: str | None
    arguments: dict[str, Any] = field(hash=False)
    bindings: tuple[tuple[str, str], ...]
    """Pairs of exchange and routing key."""


@dataclass(frozen=True)
class Topology:
    """All of it, as values."""

    exchanges: tuple[str, ...]
    queues: tuple[Queue, ...]

    def permissions(self, service: str) -> dict[str, str]:
        """RabbitMQ permissions of a service: configure nothing, write its exchange and `dead`, read its queues."""
        return {
            "configure": "^$",
            "write": f"^({service}|{DEAD})$",
            "read": rf"^{service}\..*$",
        }


def queue_name(service: str, kind: type[Event]) -> str:
    """The queue in which a service hears an event. Later versions have queues beside that of the first one."""
    later = f".v{kind.version}" if kind.version > 1 else ""
    return f"{service}.{kind.queue_key()}{later}"


def topology(subscriptions: Mapping[str, Sequence[type[Event]]]) -> Topology:
    """The topology for the events that each service consumes, by the service's name."""
    exchanges = tuple(sorted(subscriptions))
    received = [
        _event_queue(service, kind) for service, kinds in subscriptions.items() for kind in kinds
    ]
    dead = [_dead_queue(service) for service in subscriptions]
    journal = Queue(
        JOURNAL,
        None,
        {
            "x-queue-type": "stream",
            "x-max-age": JOURNAL_AGE,
            "x-max-length-bytes": JOURNAL_BYTES,
            "x-stream-max-segment-size-bytes": JOURNAL_SEGMENT_BYTES,
        },
        tuple((exchange, "#") for exchange in exchanges),
    )
    return Topology((*exchanges, DEAD), (*received, *dead, journal))


def _event_queue(service: str, kind: type[Event]) -> Queue:
    arguments = {
        "x-queue-type": "quorum",
        "x-dead-letter-exchange": DEAD,
        "x-dead-letter-routing-key": service,
        "x-dead-letter-strategy": "at-least-once",
        "x-overflow": "reject-publish",
        "x-delivery-limit": DELIVERY_LIMIT,
        "x-max-length": QUEUE_LIMIT,
        "x-consumer-timeout": CONSUMER_TIMEOUT_MILLISECONDS,
    }
    return Queue(queue_name(service, kind), service, arguments, ((kind.exchange, kind.key),))


def _dead_queue(service: str) -> Queue:
    arguments = {"x-queue-type": "quorum", "x-delivery-limit": LOOKING_LIMIT}
    return Queue(f"{service}.{DEAD}", service, arguments, ((DEAD, service),))


def mermaid(what: Topology) -> str:
    """The topology as a mermaid flowchart: exchange -> queue -> service."""
    lines = ["flowchart LR"]
    for queue in what.queues:
        name = queue.name.replace(".", "_").replace("-", "_")
        shape = f"{name}[({queue.name})]" if queue.name == JOURNAL else f"{name}[{queue.name}]"
        for exchange, key in queue.bindings:
            lines.append(f"  {exchange}{{{{{exchange}}}}} -->|{key}| {shape}")
        if queue.service and not queue.name.endswith(f".{DEAD}"):
            lines.append(f"  {name} --> {queue.service}_service([{queue.service}])")
    return "\n".join(lines) + "\n"
