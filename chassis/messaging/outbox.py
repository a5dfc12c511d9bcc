"""The outbox: events that are true, committed with the change they tell of, and not yet on the broker.

A row lives for milliseconds: the relay deletes it in the transaction in which the broker confirmed it. An event waits
in the form in which it travels with others, as CloudEvents' JSON, so that a relay with much to do only joins texts.
"""

import json
from datetime import datetime
from functools import cache, lru_cache
from json.encoder import encode_basestring_ascii as quoted
from typing import TYPE_CHECKING, Final, NamedTuple
from uuid import UUID

from sqlmodel import Field

from chassis.database.tables import Table
from events.base import SPECVERSION, Causation, Event, rfc3339

if TYPE_CHECKING:
    from chassis.database.transaction import Transaction

JSON: Final = "application/json"

_DATA: Final = ',"data":'
"""Begins the last member of a CloudEvent as written here. Inside a JSON text its quotes would be escaped, so the
first place where this stands is the place."""


class Row(NamedTuple):
    """One event that waits, in the order of the table's columns."""

    id: UUID
    exchange: str
    routing_key: str
    occurred_at: datetime
    cloudevent: str
    """The event in the JSON format of CloudEvents 1.0, with `correlationid`, `causationid` and `traceparent` as
    extensions; `data`, the event's body, comes last."""
    retry_at: datetime | None = None
    """Not before this moment; set on a row that the broker returned or refused."""

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
    """The table behind `Row`. Ids are UUIDv7, so the primary key is the order in which rows leave."""

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
    # Written by hand: the body is JSON already, and only the texts that may come from outside need escaping.
    causation = f',"causationid":"{cause.causation_id}"' if cause.causation_id else ""
    trace = f',"traceparent":{quoted(cause.traceparent)}' if cause.traceparent else ""
    cloudevent = (
        f'{{{_constants(kind)},"id":"{id}","time":"{_time(now)}","subject":{quoted(event.subject)},'
        f'"correlationid":{quoted(cause.correlation_id)}{causation}{trace}'
        f"{_DATA}{event.model_dump_json()}}}"
    )
    return Row(id, kind.exchange, kind.key, now, cloudevent)


_time: Final = lru_cache(maxsize=16)(rfc3339)
"""Everything that a transaction publishes has its time, which is in UTC."""


@cache
def _constants(kind: type[Event]) -> str:
    attributes = {
        "specversion": SPECVERSION,
        "type": kind.__name__,
        "source": source(kind.exchange),
        "dataschema": kind.dataschema(),
        "datacontenttype": JSON,
    }
    return json.dumps(attributes)[1:-1]


def source(exchange: str) -> str:
    """The CloudEvents source of a publisher."""
    return f"/chorus/{exchange}"


TAKE = f"""
DELETE FROM outbox WHERE id = ANY(ARRAY(
    SELECT id FROM outbox WHERE retry_at IS NULL OR retry_at <= now()
    ORDER BY id LIMIT $1 FOR UPDATE SKIP LOCKED))
RETURNING {", ".join(Row._fields)}
"""
# An array is made once. `IN` may be planned as a join that asks the inner query again for each row, and each time it
# locks others: slow, and more than the limit. It is planned so once the table has been analysed while it was empty.


async def take(tx: "Transaction", limit: int) -> list[Row]:
    """Take up to `limit` waiting rows out of the table, oldest first.

    They are gone with the caller's COMMIT and back with its rollback. Rows that another relay holds are passed over.
    What is unpublished is selected, never "what comes after the last id": rows commit out of the order of ids.
    """
    records = await tx.fetch(TAKE, limit)
    return sorted(Row(*record.values()) for record in records)
