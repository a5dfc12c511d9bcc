"""What a trace reads: events and their deliveries, orders with charge and ledger, notifications, the broker."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from events.base import Event
from ops.audit.broker import Queues

Record = Mapping[str, Any]
"""A row of a table, by column."""


class Published(NamedTuple):
    """An event in the log of its publisher."""

    id: UUID
    name: str
    """Its type."""
    subject: str
    correlation_id: str
    causation_id: UUID | None
    committed_at: datetime
    batch: int
    """The events of its row: those of one transaction and routing key, up to 64."""
    row: UUID
    """The row's id."""

    @property
    def kind(self) -> type[Event]:
        return next(kind for kind in Event.by_key.values() if kind.__name__ == self.name)

    @property
    def service(self) -> str:
        """The publisher."""
        return self.kind.exchange


class Received(NamedTuple):
    """An event in the inbox of a subscriber."""

    at: datetime
    """When the transaction began that handled it; of the last one, if events of one row were handled apart."""
    batch: int
    """The events of its row of the inbox."""


class DeadLettered(NamedTuple):
    """A message in a dead-letter queue."""

    service: str
    queue: str
    reason: str
    attempts: int | None
    since: datetime | None
    text: str
    """Its id, and its body if it is a batch."""

    def holds(self, event: UUID, queue: str) -> bool:
        return self.queue == queue and str(event) in self.text


@dataclass
class Facts:
    """Everything about one id. Events are read first, queues last: what is on its way is not missed."""

    now: datetime
    events: dict[UUID, Published] = field(default_factory=dict)
    absent: list[tuple[str, str, datetime]] = field(default_factory=list)
    """Events that tables prove and no log has: the type, the subject, and when it was committed."""
    outbox: dict[UUID, datetime | None] = field(default_factory=dict)
    """Rows that are not published, with the time until which the relay lets them rest."""
    received: dict[tuple[str, UUID], Received] = field(default_factory=dict)
    """By service and event."""
    users: list[Record] = field(default_factory=list)
    orders: dict[UUID, Record | None] = field(default_factory=dict)
    """None for an order that only others know."""
    charges: dict[UUID, Record] = field(default_factory=dict)
    ledger: list[Record] = field(default_factory=list)
    notifications: list[Record] = field(default_factory=list)
    sessions: Mapping[str, int] = field(default_factory=dict)
    """How many connections each service has to its database; a service that does not run has none."""
    queues: Queues | None = None
    dead: Sequence[DeadLettered] | None = None
    """None if the dead-letter queues could not be read."""
