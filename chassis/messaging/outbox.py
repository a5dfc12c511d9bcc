"""The outbox: events that are committed with the change they describe, and not yet confirmed by the broker.

The relay deletes a row in the transaction in which the broker confirmed it, milliseconds later. A row holds the event
in the JSON format of CloudEvents, as message batches carry it, so that the relay only concatenates texts.
"""

import json
from datetime import datetime
from functools import cache, lru_cache
from json.encoder import encode_basestring_ascii as quoted
from typing import Final, NamedTuple
from uuid import UUID

from sqlmodel import Field

from chassis.database.tables import Table
from events.base import SPECVERSION, Causation, Event, rfc3339

JSON: Final = "application/json"

_DATA: Final = ',"data":'
"""Begins the last member of a CloudEvent as written here. Inside a JSON string its quotes would be escaped, so the
first occurrence is the right one."""


class Row(NamedTuple):
    """One unpublished event, in the order of the table's columns."""

    id: UUID
    exchange: str
    routing_key: str
    occurred_at: datetime
    cloudevent: str
    """The event in the JSON format of CloudEvents 1.0, with `correlationid`, `causationid` and `traceparent` as
    extensions; `data`, the event's body, comes last."""
    retry_at: datetime | None = None
    """The relay skips the row until this moment; set if the broker returned or refused the event."""

    @property
    def attributes(self) -> dict[str, str]:
        """The CloudEvents attributes and extensions; `causationid` and `traceparent` only where there is one."""
        found: dict[str, str] = json.loads(self.cloudevent.partition(_DATA)[0] + "}")
        return found

    @property
    def data(self) -> str:
        """The event's body as JSON."""
        return self.cloudevent.partition(_DATA)[2][:-1]


class Outbox(Table, table=True):
    """The table behind `Row`. Ids are UUIDv7, so the primary key is the order of publishing."""

    __tablename__ = "outbox"

    id: UUID = Field(primary_key=True)
    exchange: str
    routing_key: str
    occurred_at: datetime
    cloudevent: str
    retry_at: datetime | None


def row(id: UUID, event: Event, cause: Causation, now: datetime) -> Row:
    """The row of an event that a use case publishes."""
    kind = type(event)
    # Built by hand for speed: the body is JSON already, and only texts that clients may supply need escaping.
    causation = f',"causationid":"{cause.causation_id}"' if cause.causation_id else ""
    trace = f',"traceparent":{quoted(cause.traceparent)}' if cause.traceparent else ""
    cloudevent = (
        f'{{{_constants(kind)},"id":"{id}","time":"{_time(now)}","subject":{quoted(event.subject)},'
        f'"correlationid":{quoted(cause.correlation_id)}{causation}{trace}'
        f"{_DATA}{event.model_dump_json()}}}"
    )
    return Row(id, kind.exchange, kind.key, now, cloudevent)


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
