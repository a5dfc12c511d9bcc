"""Rules on the delivery of events: nothing is left over, and what was published was received."""

from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from itertools import product
from typing import Final

from apps import SERVICES
from chassis.messaging.topology import DEAD
from events.base import Event
from ops.audit.digests import Ids, Lines
from ops.audit.findings import Finding
from ops.audit.rules import Comparison, View
from ops.subscriptions import SUBSCRIPTIONS

OUTBOXES: Final = """
SELECT name, coalesce(sum(coalesce(events, 1)), 0) AS events,
    coalesce(sum(coalesce(events, 1)) FILTER
        (WHERE $1::interval = '0' OR coalesce(occurred_at, '-infinity') <= now() - $1), 0) AS overdue
FROM (SELECT 'outbox' AS name, id FROM outbox UNION ALL SELECT 'journal_outbox', id FROM journal_outbox) AS waiting
    LEFT JOIN event_log USING (id)
GROUP BY name ORDER BY name DESC
"""
UNSENT: Final = "SELECT count(*) FROM notifications WHERE status IN ('waiting', 'pending')"


class Leftovers:
    """Nothing stays in an outbox, the journal's included, nothing is dead-lettered.

    At rest all queues are empty and nothing is unsent.

    The figures are those of the last time it was evaluated.
    """

    queues: Mapping[str, int] | None = None
    """Messages by queue; None if the broker was not available."""
    unsent = 0
    """Notifications that are neither sent nor failed."""

    def __init__(self, depths: Callable[[], Awaitable[Mapping[str, int] | None]]) -> None:
        self._depths = depths
        self.outboxes: dict[str, int] = {}
        """Events by service."""

    async def find(self, view: View, _ids: Ids = None) -> list[Finding]:
        found, resting = [], not view.grace
        self.queues = await self._depths()
        for queue, messages in (self.queues or {}).items():
            if messages and (resting or queue.endswith(f".{DEAD}")):
                found.append(f"{messages} messages lie in {queue}")
        for service, database in view.databases.items():
            self.outboxes[service] = 0
            for outbox, events, overdue in await database.rows(OUTBOXES, view.grace):
                self.outboxes[service] += events
                if overdue:
                    found.append(f"{overdue} events stay in the {outbox} of {service}")
        self.unsent = await view.databases["notifications"].value(UNSENT)
        if resting and self.unsent:
            found.append(f"{self.unsent} notifications are not sent")
        return [Finding(8, text) for text in found if 8 in view.numbers]


BITS: Final = "CASE WHEN events = 64 THEN -1 ELSE ~(-1::bigint << events) END"
"""A row's events as the inbox has them."""


def _published(service: str, events: Collection[type[Event]]) -> Lines:
    """What is still in the outbox is in flight: some queues may have it, while a full one refuses it."""
    keys = ", ".join(sorted(f"'{event.key}'" for event in events))
    sql = f"""
        SELECT l.id, 'events ' || to_hex({BITS}) AS line,
            CASE WHEN o.id IS NULL THEN occurred_at ELSE now() END AS at
        FROM event_log l LEFT JOIN outbox o ON o.id = l.id WHERE routing_key IN ({keys})
    """  # noqa: S608 - of names in the code
    return Lines(service, sql)


def _received(service: str, source: str) -> Lines:
    sql = f"""
        SELECT id, 'events ' || to_hex(members) AS line, received_at AS at FROM inbox WHERE source = '{source}'
    """  # noqa: S608 - of names in the code
    return Lines(service, sql)


SLOW_CLOCKS: Final = (
    "l.id < least_id(now() - interval '7 days') AND occurred_at > now() - interval '7 days'"
)
"""What was published lately by the database's clock, and has an id of a machine's clock that was days slow."""


def _deliveries() -> Iterator[Comparison]:
    for service, publisher in product(SERVICES, SERVICES):
        if events := [event for event in SUBSCRIPTIONS[service] if event.exchange == publisher]:
            published, received = _published(publisher, events), _received(service, publisher)
            yield Comparison(9, "event", published, received)
            slow = Lines(publisher, f"{published.sql} AND {SLOW_CLOCKS}")
            yield Comparison(9, "event", slow, received, subset=True, of_any_time=True)


DELIVERIES: Final = tuple(_deliveries())
"""What a service has published is in the inbox of each subscriber, and nothing else is: event by event."""
