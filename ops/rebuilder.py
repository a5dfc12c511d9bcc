"""Makes a projection again from what its owner has, while the system runs. Nothing is published.

First from the owner's current state, a span of keys at a time: one transaction deletes the copies, then reads the
owner's rows, and passes them to the service's projector as the events that were published about them. Readers see the
former copies until it commits. The owner had committed whatever the service has received, so the rows that are read
after the deletion contain it; what is received later waits for the transaction, and is newer or known.

Then from the owner's event log, in order: a projection may keep more than the current state. An event of which the
projector does all that the service does is marked as processed, so that nothing delivers it again. What the owner does
not have any more, such as a revoked key, is not brought back.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Final, NamedTuple

import asyncpg
import stamina

from chassis.database.errors import is_transient
from chassis.database.tables import Statements, from_record
from chassis.database.transaction import Pool, Transaction, transaction
from chassis.messaging.consumer import Handler, deduplicate, mark_processed
from chassis.messaging.message import from_message, message_batches, to_message
from events.base import Causation, Envelope, Event
from ops.audit.databases import Database, Databases
from ops.event_logs import Chosen
from ops.projections import Projection

SPAN: Final = 256
"""Rows of the owner in one transaction: a few milliseconds, for which consumers of the same keys wait."""

DEADLOCK: Final = "SET LOCAL deadlock_timeout = '50ms'"
"""A projector may lock before it writes, in another order than this. The rebuild notices it first, and tries again."""

RETRY_SECONDS: Final = 60.0

SKEW: Final = timedelta(minutes=1)
"""How far the clock that made an event's id may be ahead."""

CAUSE: Final = Causation("chorus rebuild")

Envelopes = Sequence[Envelope[Event]]


class Progress(NamedTuple):
    """What one transaction has done, or would do."""

    read: int
    """Rows of the owner, or events of its log."""
    mended: int
    """Copies that differed; or events that were not marked as processed."""


class PublishingProjectorError(Exception):
    """A projector has published: it decides, and does not only copy."""


class _RollBackError(Exception):
    """Ends a transaction that changes nothing, or may not."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress


@dataclass(frozen=True)
class Rebuilder:
    """Rebuilds one projection."""

    projection: Projection
    databases: Databases
    """Of all services, to read."""
    pool: Pool
    """Of the service's database, with the administrator's login: services may not delete copies."""
    dry_run: bool = False

    @property
    def _owner(self) -> Database:
        return self.databases[self.projection.owner]

    async def from_state(self) -> AsyncIterator[Progress]:
        """Replace all copies by the owner's current state."""
        low = None
        while True:
            keys = await self._keys(low)
            high = keys[-1] if len(keys) == SPAN else None
            yield await self._transact(partial(self._replace, low, high))
            if (low := high) is None:
                return

    async def _keys(self, low: Any) -> list[Any]:
        """The owner's next keys."""
        table, key = self.projection.originals, self.projection.original_key
        condition, values = _within(table, key, low, None)
        sql = f"SELECT {key} FROM {table.table} WHERE {condition} ORDER BY {_ordered(table, key)}"  # noqa: S608 - names
        return [key for [key] in await self._owner.rows(f"{sql} LIMIT {SPAN}", *values)]

    async def _replace(self, low: Any, high: Any, tx: Transaction) -> Progress:
        projection = self.projection
        copies, originals = projection.copies, projection.originals
        condition, values = _within(copies, projection.key, low, high)
        among = f"{copies.where(condition)} ORDER BY {', '.join(copies.primary_key)}"
        before = await tx.fetch(f"{among} FOR UPDATE", *values)
        await tx.execute(f"DELETE FROM {copies.table} WHERE {condition}", *values)  # noqa: S608 - names
        condition, values = _within(originals, projection.original_key, low, high)
        rows = await self._owner.rows(originals.where(condition), *values)
        owned = [from_record(projection.snapshot.table, row) for row in rows]
        events = [event for row in owned for event in projection.snapshot.history(row)]
        await self._project(tx, [Envelope(tx.new_id(), event, tx.now, CAUSE) for event in events])
        after = await tx.fetch(among, *values)
        differing = {
            tuple(row[name] for name in copies.primary_key) for row in {*before} ^ {*after}
        }
        progress = Progress(len(rows), len(differing))
        if self.dry_run or not differing:
            raise _RollBackError(progress)
        return progress

    async def from_log(self) -> AsyncIterator[Progress]:
        """Project what the owner's event log holds, and mark it as processed."""
        types = {one.event.__name__ for one in self.projection.subscriptions}
        # Later ones are delivered. Without an end, a busy owner would keep this running.
        chosen = Chosen(types=types, until=datetime.now(UTC) + SKEW)
        async for rows in chosen.rows(self.databases, self.projection.owner):
            for batch in message_batches(rows):
                found = from_message(to_message(batch), Event.by_key[batch[0].routing_key])
                # What cannot be read is left out: a consumer dead-letters it.
                if received := [one for one in found if isinstance(one, Envelope)]:
                    yield await self._transact(partial(self._replay, received))

    async def _replay(self, received: Envelopes, tx: Transaction) -> Progress:
        table, key = self.projection.originals, self.projection.original_key
        subjects = [*{one.event.subject for one in received}]
        among = f"{key} = ANY($1::{table.columns[key]}[])"
        sql = f"SELECT {key}::text FROM {table.table} WHERE {among}"  # noqa: S608 - names
        rows = await self._owner.rows(sql, subjects)
        existing = {subject for [subject] in rows}
        await self._project(tx, [one for one in received if one.event.subject in existing])
        whole = {one.event for one in self.projection.subscriptions if one.projector is None}
        done = [one for one in received if type(one.event) in whole]
        new = await deduplicate(tx, done) if done else []
        if new:
            await mark_processed(tx, new)
        progress = Progress(len(received), len(new))
        if self.dry_run:
            raise _RollBackError(progress)
        return progress

    async def _project(self, tx: Transaction, received: Envelopes) -> None:
        handlers: dict[Handler[Any], list[Envelope[Event]]] = {}
        projectors = {
            one.event: one.projector or one.handler for one in self.projection.subscriptions
        }
        for one in received:
            if projector := projectors.get(type(one.event)):
                handlers.setdefault(projector, []).append(one)
        for projector, envelopes in handlers.items():
            await projector(tx, envelopes)
        if tx.outbox:
            raise PublishingProjectorError(tx.outbox[0].routing_key)

    async def _transact(self, work: Callable[[Transaction], Awaitable[Progress]]) -> Progress:
        """Do this in a transaction, again if it was in another's way; roll back what is only tried or was in order."""
        async for attempt in stamina.retry_context(
            on=_may_succeed_later, attempts=None, timeout=RETRY_SECONDS
        ):
            with attempt:
                try:
                    async with transaction(self.pool) as tx:
                        await tx.execute(DEADLOCK)
                        return await work(tx)
                except _RollBackError as nothing:
                    return nothing.progress
        raise AssertionError("the last attempt raises")


def _may_succeed_later(error: Exception) -> bool:
    """A consumer that has processed the same event meanwhile violates the inbox's NOT NULL."""
    return is_transient(error) or isinstance(error, asyncpg.NotNullViolationError)


def _ordered(table: Statements, key: str) -> str:
    """A key in an order that all databases have in common."""
    return key if table.columns[key] == "UUID" else f'{key} COLLATE "C"'


def _within(table: Statements, key: str, low: Any, high: Any) -> tuple[str, list[Any]]:
    """A condition for the keys of a span, above `low` and up to `high`, and its values; None is no bound."""
    bounds = [(sign, value) for sign, value in ((">", low), ("<=", high)) if value is not None]
    terms = [f"{_ordered(table, key)} {sign} ${n}" for n, (sign, _) in enumerate(bounds, 1)]
    return " AND ".join(terms) or "true", [value for _, value in bounds]
