"""The outbox: events that are true, committed with the change they tell of, and not yet on the broker.

A row lives for milliseconds: the relay deletes it in the transaction in which the broker confirmed it.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from sqlmodel import Field

from events.base import Cause, Event
from events.bus.statements import Table, statements


class Row(NamedTuple):
    """One event that waits, in the order of the table's columns. `data` is the event's JSON."""

    id: UUID
    exchange: str
    routing_key: str
    type: str
    subject: str
    dataschema: str
    occurred_at: datetime
    correlation_id: str
    causation_id: UUID | None
    traceparent: str | None
    data: str
    retry_at: datetime | None = None
    """Not before this moment; set on a row that the broker returned or refused."""


class Outbox(Table, table=True):
    """The table behind `Row`. Ids are UUIDv7, so the primary key is the order in which rows leave."""

    __tablename__ = "outbox"

    id: UUID = Field(primary_key=True)
    exchange: str
    routing_key: str
    type: str
    subject: str
    dataschema: str
    occurred_at: datetime
    correlation_id: str
    causation_id: UUID | None
    traceparent: str | None
    data: str
    retry_at: datetime | None


def row(id: UUID, event: Event, because: Cause, now: datetime) -> Row:
    """The row of an event that a use case publishes."""
    kind = type(event)
    return Row(
        id=id,
        exchange=kind.exchange,
        routing_key=kind.key,
        type=kind.__name__,
        subject=event.subject,
        dataschema=kind.dataschema(),
        occurred_at=now,
        correlation_id=because.correlation_id,
        causation_id=because.causation_id,
        traceparent=because.traceparent,
        data=event.model_dump_json(),
    )


async def write(connection: Any, rows: Sequence[Row]) -> None:
    """Write rows in one statement."""
    if rows:
        await connection.execute(statements(Outbox).insert(), *map(list, zip(*rows, strict=True)))


TAKE = f"""
DELETE FROM outbox WHERE id IN (
    SELECT id FROM outbox WHERE retry_at IS NULL OR retry_at <= now()
    ORDER BY id LIMIT $1 FOR UPDATE SKIP LOCKED)
RETURNING {", ".join(Row._fields)}
"""


async def take(connection: Any, limit: int) -> list[Row]:
    """Take up to `limit` waiting rows out of the table, oldest first.

    They are gone with the caller's COMMIT and back with its rollback. Rows that another relay holds are passed over.
    What is unpublished is selected, never "what comes after the last id": rows commit out of the order of ids.
    """
    records = await connection.fetch(TAKE, limit)
    return sorted(Row(*record.values()) for record in records) if records else []
