"""Publishes events of the event logs again, with the broker administrator's login, while the system runs.

Events keep their ids, so a consumer that has processed one skips it. A row of an event log is published as the relay
does it, and in batches that the broker confirms; what is published first was committed first. Rows that the relay has
not published yet are left to it.
"""

from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from json.encoder import encode_basestring_ascii as quoted
from typing import Final
from uuid import UUID

from chassis.messaging.message import message_batches, to_message
from chassis.messaging.outbox import GROUP, Row
from chassis.messaging.publisher import Publisher
from chassis.messaging.topology import queue_name
from events.base import Event, least_id
from ops.audit.databases import Database, Databases
from ops.audit.delivery import DELIVERIES
from ops.audit.digests import HIGHEST, LOWEST
from ops.audit.rules import View
from ops.subscriptions import TOPOLOGY

CHUNK: Final = 256
"""Rows that are read and published at a time."""

ROWS: Final = f"""
SELECT {", ".join(Row._fields)} FROM event_log l
WHERE id > $1 AND id < $2 AND ($3::uuid[] IS NULL OR id = ANY($3)) AND ($4::varchar[] IS NULL OR routing_key = ANY($4))
    AND ($5::varchar IS NULL OR strpos(cloudevents, $5) > 0) AND ($6::varchar IS NULL OR strpos(cloudevents, $6) > 0)
    AND NOT EXISTS (SELECT FROM outbox o WHERE o.id = l.id)
ORDER BY id LIMIT {CHUNK}
"""  # noqa: S608 - of names in the code


class NotPublishedError(Exception):
    """The broker did not confirm a message. What was published before it stays published."""


@dataclass(frozen=True)
class Chosen:
    """Which rows of an event log are meant: those that meet every condition that is given."""

    since: datetime | None = None
    """Of events that were committed at this moment or later."""
    until: datetime | None = None
    """Of events that were committed before this moment."""
    events: Collection[UUID] | None = None
    """Rows with at least one of these events."""
    types: Collection[str] | None = None
    """Names of events, such as OrderPlaced."""
    aggregate: str | None = None
    """Rows with an event about this aggregate."""
    correlation: str | None = None
    """Rows with an event of this flow."""
    queue: str | None = None
    """Only what is routed to this queue, and to this queue alone."""

    def keys(self) -> list[str] | None:
        """The routing keys, None for all. Raises LookupError for an unknown event or queue."""
        keys = {kind.key: kind.__name__ for kind in Event.by_key.values()}
        if unknown := {*(self.types or ())} - {*keys.values()}:
            raise LookupError(f"there is no event {', '.join(sorted(unknown))}")
        wanted = (
            None if self.types is None else {k for k, name in keys.items() if name in self.types}
        )
        if self.queue is not None:
            found = [queue for queue in TOPOLOGY.queues if queue.name == self.queue]
            if not found or found[0].name.endswith(".dead"):
                raise LookupError(f"there is no queue {self.queue!r} that receives events")
            bound = {key for _, key in found[0].bindings}
            routed = keys.keys() if "#" in bound else bound
            wanted = {*routed} if wanted is None else wanted & routed
        return None if wanted is None else sorted(wanted)

    async def rows(self, log: Database, after: UUID = LOWEST) -> AsyncIterator[list[Row]]:
        """The rows of a service's log, in chunks in the order of their ids, from those after an id on."""
        low = max(after, least_id(self.since)) if self.since else after
        high = least_id(self.until) if self.until else HIGHEST
        groups = self.events and [UUID(int=id.int // GROUP * GROUP) for id in self.events]
        about = self.aggregate and f'"subject":{quoted(self.aggregate)}'
        flow = self.correlation and f'"correlationid":{quoted(self.correlation)}'
        while True:
            records = await log.rows(ROWS, low, high, groups, self.keys(), about, flow)
            if not records:
                return
            rows = [Row(*record.values()) for record in records]
            yield rows
            low = rows[-1].id


async def publish_rows(publisher: Publisher, rows: Sequence[Row], queue: str | None = None) -> int:
    """Publish rows to their exchanges, or to one queue; returns how many events. Raises NotPublishedError."""
    batches = list(message_batches(rows))
    results = await publisher.publish(
        [
            ("", queue, to_message(batch))
            if queue
            else (batch[0].exchange, batch[0].routing_key, to_message(batch))
            for batch in batches
        ]
    )
    for batch, error in zip(batches, results, strict=True):
        if error is not None:
            raise NotPublishedError(f"{batch[0].routing_key} of {batch[0].id}: {error!r}")
    return sum(row.events for row in rows)


async def missing(view: View) -> dict[tuple[str, str], list[UUID]]:
    """What subscribers lack of what was published: ids of rows by publisher and subscriber.

    What is younger than the view's grace may be on its way, and is left out.
    """
    found: dict[tuple[str, str], list[UUID]] = {}
    for delivery in DELIVERIES:
        findings = await delivery.find(view)
        ids = [one.subject.id for one in findings if one.subject and not one.in_flight]
        if ids:
            found[delivery.one.service, delivery.other.service] = ids
    return found


async def republish_missing(
    logs: Databases,
    publisher: Publisher | None,
    lacking: Mapping[tuple[str, str], Sequence[UUID]],
) -> dict[str, int]:
    """Publish each row to the queue of the subscriber that lacks it; returns how many events by queue.

    Without a publisher only counts. What is in no log any more cannot be published, and is not counted.
    """
    counts: dict[str, int] = {}
    for (source, service), ids in lacking.items():
        async for rows in Chosen(events=ids).rows(logs[source]):
            for queue, part in _by_queue(service, rows):
                published = (
                    await publish_rows(publisher, part, queue)
                    if publisher
                    else sum(row.events for row in part)
                )
                counts[queue] = counts.get(queue, 0) + published
    return counts


def _by_queue(service: str, rows: Iterable[Row]) -> Iterable[tuple[str, list[Row]]]:
    parts: dict[str, list[Row]] = {}
    for row in rows:
        parts.setdefault(queue_name(service, Event.by_key[row.routing_key]), []).append(row)
    return parts.items()
