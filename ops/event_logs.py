"""Publishes events of the event logs again, with the broker administrator's login, while the system runs.

Events keep their ids, so a consumer that has processed one skips it. A row of an event log is published as the relay
does it, and in batches that the broker confirms; what is published first was committed first. Rows that the relay has
not published yet are left to it.
"""

from collections import Counter
from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from json.encoder import encode_basestring_ascii as quoted
from typing import Final
from uuid import UUID

from chassis.messaging.message import MessageBatch, message_batches, to_message
from chassis.messaging.outbox import GROUP, Row
from chassis.messaging.publisher import Publication, Publisher, publication
from chassis.messaging.topology import DEAD, JOURNAL, JOURNAL_PREFIX, queue_name
from events.base import Event, least_id
from ops.audit.databases import Databases
from ops.audit.delivery import DELIVERIES
from ops.audit.digests import HIGHEST, LOWEST
from ops.audit.rules import View
from ops.subscriptions import SUBSCRIPTIONS, TOPOLOGY

CHUNK: Final = 256
"""Rows that are read and published at a time."""

ROWS: Final = f"""
SELECT {", ".join(Row._fields)} FROM event_log l
WHERE exchange = $7 AND id > $1 AND id < $2 AND ($3::uuid[] IS NULL OR id = ANY($3))
    AND ($4::varchar[] IS NULL OR routing_key = ANY($4))
    AND ($5::varchar IS NULL OR strpos(cloudevents, $5) > 0) AND ($6::varchar IS NULL OR strpos(cloudevents, $6) > 0)
    AND NOT EXISTS (SELECT FROM outbox o WHERE o.id = l.id)
ORDER BY id LIMIT {CHUNK}
"""  # noqa: S608 - of names in the code


EVENT_QUEUES: Final = [queue for queue in TOPOLOGY.queues if not queue.name.endswith(f".{DEAD}")]


@dataclass(frozen=True)
class Chosen:
    """Which rows of an event log are meant: those that meet every condition that is given."""

    since: datetime | None = None
    until: datetime | None = None
    events: Collection[UUID] | None = None
    """Rows with at least one of these events."""
    types: Collection[str] | None = None
    aggregate: str | None = None
    correlation: str | None = None
    queue: str | None = None
    """Only what is routed to this queue, and to this queue alone."""

    def keys(self) -> list[str] | None:
        """The routing keys, None for all. Raises LookupError for an unknown event or queue."""
        if self.types is None and self.queue is None:
            return None
        known = {kind.__name__: kind.key for kind in Event.by_key.values()}
        if unknown := {*(self.types or ())} - known.keys():
            raise LookupError(f"there is no event {', '.join(sorted(unknown))}")
        keys = {known[name] for name in self.types or known}
        if self.queue is not None:
            bound = {
                key
                for queue in EVENT_QUEUES
                if queue.name == self.queue
                for _, key in queue.bindings
            }
            if not bound:
                raise LookupError(f"there is no queue {self.queue!r} that receives events")
            keys &= keys if self.queue == JOURNAL else bound
        return sorted(keys)

    async def rows(
        self, logs: Databases, service: str, after: UUID | None = None
    ) -> AsyncIterator[list[Row]]:
        """The rows of a service's log, in chunks in the order of their ids, from those after an id on.

        Rows for another service's exchange are left out: only the administrator, who publishes, could send them.
        """
        low = after or (least_id(self.since) if self.since else LOWEST)
        high = least_id(self.until) if self.until else HIGHEST
        groups = self.events and [UUID(int=id.int // GROUP * GROUP) for id in self.events]
        about = self.aggregate and f'"subject":{quoted(self.aggregate)}'
        flow = self.correlation and f'"correlationid":{quoted(self.correlation)}'
        while True:
            records = await logs[service].rows(
                ROWS, low, high, groups, self.keys(), about, flow, service
            )
            if not records:
                return
            rows = [Row(*record.values()) for record in records]
            yield rows
            low = rows[-1].id


async def publish_rows(
    publisher: Publisher | None, rows: Sequence[Row], queue: str | None = None
) -> int:
    """Publish rows to their exchanges, or to one queue; returns how many events. Without a publisher only counts.

    Raises ConnectionError for the first message that is not confirmed, or what `Publisher.publish` raises.
    """
    batches = list(message_batches(rows)) if publisher else []
    messages = [_on_its_way(batch, queue) for batch in batches]
    for batch, error in zip(
        batches, await publisher.publish(messages) if publisher else (), strict=True
    ):
        if error is not None:
            raise ConnectionError(f"{batch[0].routing_key} of {batch[0].id}: {error!r}")
    return sum(row.events for row in rows)


def _on_its_way(batch: MessageBatch, queue: str | None) -> Publication:
    # Recovery believes what came to the journal by the exchange of its publisher.
    if queue is None or queue == JOURNAL:
        return publication(batch, JOURNAL_PREFIX if queue else "")
    return Publication("", queue, to_message(batch))


async def publish_missing(publisher: Publisher | None, logs: Databases, view: View) -> Counter[str]:
    """Publish to each queue what its service lacks; returns how many events by queue. Without a publisher only counts.

    What is younger than the view's grace may be on its way, and is left out; so is what no log has any more.
    """
    counts: Counter[str] = Counter()
    for delivery in DELIVERIES:
        source, service = delivery.one.service, delivery.other.service
        findings = await delivery.find(view)
        ids = [one.subject.id for one in findings if one.subject and not one.in_flight]
        events = [event for event in SUBSCRIPTIONS[service] if event.exchange == source]
        for event in events if ids else ():
            chosen = Chosen(events=ids, queue=queue_name(service, event))
            async for rows in chosen.rows(logs, source):
                counts[queue_name(service, event)] += await publish_rows(
                    publisher, rows, chosen.queue
                )
    return counts
