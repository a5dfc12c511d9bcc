"""The inbox: the table of the events that a service has processed.

Nearly all events are new, so a batch is processed without a look into it, and it is written with everything else. If an
event was processed before, that fails: the transaction fails as a whole and the batch is processed again, deduplicated.
Decision record 22 has the measurements.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Final, TypeVar
from uuid import UUID

from sqlalchemy import BigInteger
from sqlmodel import Field

from chassis.database.tables import Table, statements
from chassis.database.transaction import Transaction
from chassis.messaging.outbox import GROUP, bits
from events.base import Envelope, Event

E = TypeVar("E", bound=Event)


class InboxRow(Table, table=True):
    """Processed events of one publisher whose ids differ in the last six bits alone, as those of one message often do.

    The row outlives every possible redelivery; `retention` purges it later.
    """

    __tablename__ = "inbox"
    on_conflict = """
        ON CONFLICT (id, source) DO UPDATE SET received_at = excluded.received_at,
            members = CASE WHEN inbox.members & excluded.members = 0 THEN inbox.members | excluded.members END
    """
    # The column takes no NULL: an event that was processed before makes the statement fail.

    id: UUID = Field(primary_key=True)
    """Of the events, with zeros in these bits."""
    source: str = Field(primary_key=True)
    """The exchange of the publisher: nobody else can use its ids up."""
    members: int = Field(sa_type=BigInteger)
    """A bit for each event that was processed, at the number that its id has in these bits."""
    received_at: datetime


KNOWN: Final = statements(InboxRow).where("source = $1 AND id = ANY($2)")


async def deduplicate(tx: Transaction, received: Sequence[Envelope[E]]) -> list[Envelope[E]]:
    """The events that are not in the inbox, each once, in the order of arrival."""
    once = {envelope.id.int: envelope for envelope in received}
    groups = {UUID(int=number // GROUP * GROUP) for number in once}
    records = await tx.fetch(KNOWN, received[0].event.exchange, list(groups))
    known = {record["id"].int // GROUP: record["members"] for record in records}
    return [once[n] for n in once if not known.get(n // GROUP, 0) >> n % GROUP & 1]


async def mark_processed(tx: Transaction, processed: Sequence[Envelope[E]]) -> None:
    """Write events to the inbox; COMMIT fails with asyncpg.NotNullViolationError if one is there already.

    The rows are written by the last statement of the transaction, after every lock, and in the order of their ids:
    two consumers of the same events wait for each other and never deadlock.
    """
    source = processed[0].event.exchange
    await tx.insert(
        [
            InboxRow(id=UUID(int=group * GROUP), source=source, members=new, received_at=tx.now)
            for group, new in bits(envelope.id for envelope in processed).items()
        ]
    )
