"""The event log and the outbox: events that are committed with the change they describe.

A row of the event log holds events of one transaction and one routing key, as a message carries them: under load one
row for up to 64 events. It is written once and kept for days, so that events can be published again
(`chorus republish`). The outbox refers to the rows that the broker has not confirmed yet; the relay deletes a reference
in the transaction in which the broker confirmed the message, milliseconds later.

Events are held in the JSON format of CloudEvents, so that the relay only concatenates texts.
"""

import json
from collections.abc import Iterable
from datetime import datetime
from functools import cache, lru_cache
from json.encoder import encode_basestring_ascii as quoted
from typing import Final, NamedTuple
from uuid import UUID

from sqlalchemy import SmallInteger
from sqlmodel import Field

from chassis.database.tables import Table
from events.base import SPECVERSION, Causation, Event, rfc3339

JSON: Final = "application/json"

_DATA: Final = ',"data":'
"""Begins the last member of a CloudEvent as written here. Inside a JSON string its quotes would be escaped, so the
first occurrence is the right one."""


GROUP: Final = 64
"""The most events in a row. Their ids differ in the last six bits alone, in which they count from 0."""


class Row(NamedTuple):
    """Events of one routing key, in the order of the columns of the event log."""

    id: UUID
    """Of the first event."""
    exchange: str
    routing_key: str
    occurred_at: datetime
    events: int
    """How many."""
    cloudevents: str
    """The events in the JSON format of CloudEvents 1.0, separated by commas, with `correlationid`, `causationid` and
    `traceparent` as extensions; `data`, the event's body, comes last in each."""

    @property
    def attributes(self) -> dict[str, str]:
        """The first event's CloudEvents attributes and extensions; `causationid` and `traceparent` are optional."""
        found: dict[str, str] = json.loads(self.cloudevents.partition(_DATA)[0] + "}")
        return found

    @property
    def data(self) -> str:
        """The body, as JSON, of a row's only event."""
        return self.cloudevents.partition(_DATA)[2][:-1]


class EventLog(Table, table=True):
    """The table behind `Row`, partitioned by the day of the id, a UUIDv7: `retention` drops the oldest partitions."""

    __tablename__ = "event_log"

    id: UUID = Field(primary_key=True)
    exchange: str
    routing_key: str
    occurred_at: datetime
    events: int = Field(sa_type=SmallInteger)
    cloudevents: str


class Outbox(Table, table=True):
    """A row of the event log that is not published yet. The primary key is the order of publishing."""

    __tablename__ = "outbox"

    id: UUID = Field(primary_key=True)
    retry_at: datetime | None = None
    """The relay skips the row until this moment; set if the broker returned or refused the message."""


class JournalOutbox(Table, table=True):
    """A row of the event log that is published, and that the stream `journal` does not have yet."""

    __tablename__ = "journal_outbox"

    id: UUID = Field(primary_key=True)


def bits(ids: Iterable[UUID]) -> dict[int, int]:
    """By group, in order, a bit for each id: at the number in its last six bits, as in PostgreSQL's bigint."""
    found: dict[int, int] = {}
    for group, number in sorted([divmod(id.int, GROUP) for id in ids]):
        found[group] = found.get(group, 0) | (1 << number if number < GROUP - 1 else -1 << number)
    return found


def grouped(rows: Iterable[Row]) -> list[Row]:
    """The same events in as few rows as possible: those of one exchange and routing key whose ids are of one group."""
    groups: dict[tuple[str, str, int], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.exchange, row.routing_key, row.id.int // GROUP), []).append(row)
    return [_joined(group) if len(group) > 1 else group[0] for group in groups.values()]


def _joined(rows: list[Row]) -> Row:
    return rows[0]._replace(
        events=sum(row.events for row in rows),
        cloudevents=",".join([row.cloudevents for row in rows]),
    )


def row(id: UUID, event: Event, cause: Causation, now: datetime) -> Row:
    """The row of one event that a use case publishes; COMMIT writes it with others (`grouped`)."""
    kind = type(event)
    # Built by hand for speed: the body is JSON already, and only texts that clients may supply need escaping.
    causation = f',"causationid":"{cause.causation_id}"' if cause.causation_id else ""
    trace = f',"traceparent":{quoted(cause.traceparent)}' if cause.traceparent else ""
    cloudevent = (
        f'{{{_constants(kind)},"id":"{id}","time":"{_time(now)}","subject":{quoted(event.subject)},'
        f'"correlationid":{quoted(cause.correlation_id)}{causation}{trace}'
        f"{_DATA}{event.model_dump_json()}}}"
    )
    return Row(id, kind.exchange, kind.key, now, 1, cloudevent)


_time: Final = lru_cache(maxsize=16)(rfc3339)
"""All events of a transaction have its time, in UTC."""


@cache
def _constants(kind: type[Event]) -> str:
    attributes = {
        "specversion": SPECVERSION,
        "type": kind.__name__,
        "source": source(kind.exchange),
        "dataschema": kind.dataschema,
        "datacontenttype": JSON,
    }
    return json.dumps(attributes)[1:-1]


def source(exchange: str) -> str:
    """The CloudEvents source of a publisher."""
    return f"/chorus/{exchange}"
