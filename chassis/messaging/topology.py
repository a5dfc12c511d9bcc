"""The topology: every exchange, queue, binding and permission on the broker. No other module defines any.

An exchange is named after its publisher. A queue belongs to one consumer and one event, and is named after both:
`billing.order-placed`. Messages that cannot be processed are kept in `<service>.dead`. The service publishes them
to its own exchange `dead.<service>`; the broker to `dead`, to which no service may write. The stream `journal` keeps a
copy of every event, published apart under `journal.<key>`: nothing else waits for a stream. Each service connects as
its own user, which can declare nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from events.base import Event

DEAD: Final = "dead"
JOURNAL: Final = "journal"
JOURNAL_PREFIX: Final = f"{JOURNAL}."
"""Precedes the event's own routing key in what is published for the journal."""

DELIVERY_LIMIT: Final = 100
"""Deliveries after which the broker itself dead-letters a message. High, since a message that was only prefetched
counts as delivered: every crash of a consumer brings unrelated messages closer to the limit."""

DEAD_DELIVERY_LIMIT: Final = 1_000_000
"""The same for dead-lettered messages, high enough never to be reached. "Get messages" of the management page is a
delivery, and a message without a dead-letter exchange is dropped at the limit, which is 20 by default on RabbitMQ 4.
(-1 means no limit there, but an immediate drop in earlier releases.)"""

QUEUE_LIMIT: Final = 1_000_000
"""Messages per queue. A full queue refuses more, and the publisher's outbox keeps the rest."""

DEAD_LIMIT: Final = 50_000
DEAD_BYTES: Final = 500_000_000
"""Messages and bytes of a dead-letter queue, as many as `chorus dead` can hold in memory. A full one refuses more: the
broker keeps them in the queues they came from, and counts them there."""

CONSUMER_TIMEOUT_MILLISECONDS: Final = 30 * 24 * 3600 * 1000
"""How long a consumer may keep a message unacknowledged: 30 days. Consumers keep messages while their database is away;
by default RabbitMQ would requeue them and close the channel after 30 minutes."""

JOURNAL_AGE: Final = "7D"
JOURNAL_BYTES: Final = 2_000_000_000
JOURNAL_SEGMENT_BYTES: Final = 100_000_000


@dataclass(frozen=True)
class Queue:
    """A queue and its bindings. `service` may read it; None for the journal."""

    name: str
    service: str | None
    arguments: dict[str, Any] = field(hash=False)
    bindings: tuple[tuple[str, str], ...]
    """Pairs of exchange and routing key."""


@dataclass(frozen=True)
class Topology:
    """All exchanges and queues."""

    exchanges: tuple[str, ...]
    queues: tuple[Queue, ...]

    def permissions(self, service: str) -> dict[str, str]:
        """RabbitMQ permissions of a service: configure nothing, write to its two exchanges, read its queues."""
        return {
            "configure": "^$",
            "write": rf"^({DEAD}\.)?{service}$",
            "read": rf"^{service}\..*$",
        }


def dead_letter_exchange(service: str) -> str:
    """The exchange to which a service publishes what it cannot process. Only its own dead letters come that way."""
    return f"{DEAD}.{service}"


def queue_name(service: str, kind: type[Event]) -> str:
    """The queue of one service for one event. Each later version of an event has a queue of its own."""
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
        tuple((exchange, f"{JOURNAL_PREFIX}#") for exchange in exchanges),
    )
    dead_exchanges = (DEAD, *(dead_letter_exchange(service) for service in exchanges))
    return Topology((*exchanges, *dead_exchanges), (*received, *dead, journal))


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
    arguments = {
        "x-queue-type": "quorum",
        "x-delivery-limit": DEAD_DELIVERY_LIMIT,
        "x-max-length": DEAD_LIMIT,
        "x-max-length-bytes": DEAD_BYTES,
        "x-overflow": "reject-publish",
    }
    bindings = ((DEAD, service), (dead_letter_exchange(service), service))
    return Queue(f"{service}.{DEAD}", service, arguments, bindings)


def mermaid(what: Topology) -> str:
    """The topology as a mermaid flowchart: exchange -> queue -> service."""
    lines = ["flowchart LR"]
    for queue in what.queues:
        name = queue.name.replace(".", "_").replace("-", "_")
        shape = f"{name}[({queue.name})]" if queue.name == JOURNAL else f"{name}[{queue.name}]"
        for exchange, key in queue.bindings:
            lines.append(f"  {exchange.replace('.', '_')}{{{{{exchange}}}}} -->|{key}| {shape}")
        if queue.service and not queue.name.endswith(f".{DEAD}"):
            lines.append(f"  {name} --> {queue.service}_service([{queue.service}])")
    return "\n".join(lines) + "\n"
