"""Gives a service whose database was restored its own facts back: events that it published and its log does not have.

An event carries the whole state of its aggregate, with a version. The service's `recovery.py` writes that state, and
the event returns to the event log under its own id, in one transaction. It is not published again: its subscribers have
received it. What caused it is not marked as processed; that is delivered again, and has no second effect.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, NamedTuple, TypeAlias
from uuid import UUID

from chassis.database.transaction import Pool, Transaction, transaction
from chassis.messaging.outbox import GROUP, EventLog, bits, grouped, row
from events.base import Envelope, Event

LOGGED: Final = "SELECT id, events FROM event_log WHERE id = ANY($1::uuid[])"


class Remark(NamedTuple):
    """What an operator must know about an event that was lost."""

    event: UUID
    text: str
    written: bool = False
    """Whether its fact was written nevertheless. If not it stays lost, and is named again."""


Recover: TypeAlias = Callable[[Transaction, Sequence[Envelope[Event]]], Awaitable[Sequence[Remark]]]
"""Writes the facts of a service's own lost events, given in the order of their ids. What is written already, or by a
newer version, stays as it is. Returns what contradicts a later fact, and is not written."""


async def lost_events(
    fetch: Callable[..., Awaitable[Sequence[Any]]], published: Sequence[Envelope[Event]]
) -> list[Envelope[Event]]:
    """Of these events of one service, those that its log does not have, each once, in the order of their ids."""
    once = {envelope.id.int: envelope for envelope in published}
    groups = {UUID(int=number // GROUP * GROUP) for number in once}
    records = await fetch(LOGGED, list(groups))
    logged = {record["id"].int // GROUP: record["events"] for record in records}
    return [once[n] for n in sorted(once) if n % GROUP >= logged.get(n // GROUP, 0)]


async def recover_events(
    pool: Pool, recover: Recover, published: Sequence[Envelope[Event]]
) -> Sequence[Remark]:
    """Write those of these events that are lost, in one transaction."""
    async with transaction(pool) as tx:
        lost = await lost_events(tx.fetch, published)
        remarks = await recover(tx, lost) if lost else []
        refused = {remark.event for remark in remarks if not remark.written}
        rows = grouped(row(e.id, e.event, e.cause, e.time) for e in lost if e.id not in refused)
        kept = bits(e.id for e in lost if e.id not in refused)
        # A row of the log holds the events of its group from number 0 on: one with a gap stays lost.
        await tx.insert(
            [
                EventLog(**one._asdict())
                for one in rows
                if kept[one.id.int // GROUP] & (2**GROUP - 1) == 2**one.events - 1
            ]
        )
    return remarks
