"""The inbox: the table of processed events, by which an event that is delivered again has no second effect."""

from collections.abc import Sequence
from datetime import datetime
from typing import TypeVar
from uuid import UUID

from sqlmodel import Field

from chassis.database.tables import Table
from chassis.database.transaction import Transaction
from events.base import Envelope, Event

E = TypeVar("E", bound=Event)


class InboxRow(Table, table=True):
    """A processed event. The row outlives every possible redelivery; `retention` purges it later."""

    __tablename__ = "inbox"

    event_id: UUID = Field(primary_key=True)
    received_at: datetime


async def deduplicate(tx: Transaction, received: Sequence[Envelope[E]]) -> list[Envelope[E]]:
    """The events that are not in the inbox, each once, in the order of arrival."""
    once = {envelope.id: envelope for envelope in received}
    known = await tx.load(InboxRow, once)
    return [envelope for id, envelope in once.items() if id not in known]


async def mark_processed(tx: Transaction, processed: Sequence[Envelope[E]]) -> None:
    """Insert events into the inbox; COMMIT fails with asyncpg.UniqueViolationError if one is there already.

    The rows are written by the last statement of the transaction, after every lock, and in the order of event ids:
    two consumers of the same events wait for each other and never deadlock.
    """
    ids = sorted(envelope.id for envelope in processed)
    await tx.insert_columns(InboxRow, ids, [tx.now] * len(ids))
