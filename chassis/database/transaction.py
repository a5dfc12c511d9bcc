"""The unit of work: reads, locks and writes rows in sets, and commits them together with their events.

This is the one place in Chorus that begins and commits transactions. `publish` writes to the outbox: it needs no
broker, and an event exists if and only if the change that it reports is committed.
"""

import contextlib
import math
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from datetime import UTC, datetime
from itertools import chain
from typing import Any, Final, TypeAlias
from uuid import UUID

import asyncpg
import uuid_utils
from asyncpg.pgproto import pgproto

from chassis.database.errors import CONNECTION_LOST, CommitUnknownError
from chassis.database.tables import T, Table, Write, arrays, combined, from_record, statements
from chassis.messaging import outbox
from events.base import Causation, Event

Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"
Connection: TypeAlias = "asyncpg.pool.PoolConnectionProxy[asyncpg.Record]"

ACQUIRE_SECONDS: Final = 4.0
"""How long to wait for a connection of the pool; less than the timeout of a request."""


_UNUSABLE: Final = (
    CommitUnknownError,
    asyncpg.InternalClientError,
    asyncpg.ReadOnlySQLTransactionError,
)
"""Errors after which a connection is not used any more."""

CLOCK_SECONDS: Final = 60.0
"""How long a connection may use its last measurement of the server's clock."""


class TimedConnection(asyncpg.Connection):  # type: ignore[misc]
    """A connection that knows its server's time, whatever the clock of this process's machine does.

    Times of rows are compared with `now()` by statements: both must be of one clock. Between measurements the
    monotonic clock counts: a step of the machine's clock has no effect, one of the server's for CLOCK_SECONDS at most.
    The time is never ahead of the server's: what is due at once must not be in the future for the next statement.
    """

    _ahead = 0.0
    """The server's time less this process's monotonic time, in seconds."""
    _measured = -math.inf

    def now(self) -> datetime:
        """The server's time, as of `measure`."""
        return datetime.fromtimestamp(time.monotonic() + self._ahead, UTC)

    async def measure(self) -> None:
        """Read the server's clock if that was done more than CLOCK_SECONDS ago: one round trip."""
        sent = time.monotonic()
        if sent - self._measured > CLOCK_SECONDS:
            moment = await self.fetchval("SELECT extract(epoch FROM clock_timestamp())::float8")
            self._measured = time.monotonic()
            self._ahead = moment - self._measured  # read before the reply arrived


class Transaction:
    """The interface of a use case to its database: sets of rows, and events to publish.

    Locks are taken in key order: two transactions that need the same rows wait for each other and never deadlock.

    Round trips dominate the cost of a batch, so there are as few as possible. Inserts and updates are deferred until
    COMMIT, or until a statement that could read them, and then sent as one statement together with the outbox. BEGIN is
    deferred until a lock or a statement of the use case's own; without either, the one statement is the transaction.
    """

    def __init__(self, connection: Connection, now: datetime) -> None:
        self.now = now
        """The time of this transaction by the server's clock, aware, in UTC."""
        self.outbox: list[outbox.Row] = []
        """The events that COMMIT writes to the event log and to the outbox, a row each; it groups them."""
        self.events: list[Event] = []
        """The events of these rows, in the order of `publish`."""
        self.after_commit: list[Callable[[], None]] = []
        """Called once the transaction is durable, and never after a rollback. They must not raise."""
        self._connection = connection
        self._last_ids: dict[str, int] = {}
        """By routing key, the id of the last event."""
        self._writes: list[tuple[Write, Sequence[Sequence[Any]]]] = []

    async def fetch(self, sql: str, *values: Any) -> list[asyncpg.Record]:
        """The records that a statement of the use case's own returns."""
        await self._flush()
        records: list[asyncpg.Record] = await self._connection.fetch(sql, *values)
        return records

    async def execute(self, sql: str, *values: Any) -> str:
        """Execute a statement of the use case's own; returns its command tag, such as `DELETE 3`."""
        await self._flush()
        return str(await self._connection.execute(sql, *values))

    async def load(self, table: type[T], keys: Iterable[Any], *, key: str = "") -> dict[Any, T]:
        """Rows by `key` (a unique column, by default the primary key). Missing rows are left out."""
        return await self._select(table, keys, key, lock=False)

    async def lock(self, table: type[T], keys: Iterable[Any], *, key: str = "") -> dict[Any, T]:
        """The same, locked against other writers until the end of the transaction."""
        return await self._select(table, keys, key, lock=True)

    async def lock_all(self, table: type[T], keys: Iterable[Any], *, key: str = "") -> dict[Any, T]:
        """The same if no row is missing; otherwise locks and returns none."""
        return await self._select(table, keys, key, lock=True, complete=True)

    async def load_all(self, table: type[T], keys: Iterable[Any], *, key: str) -> list[T]:
        """All rows with one of these values in `key`, a column that is not unique, ordered by it."""
        return await self._rows(table, keys, key, lock=False)

    async def _select(
        self, table: type[T], keys: Iterable[Any], key: str, *, lock: bool, complete: bool = False
    ) -> dict[Any, T]:
        name = key or statements(table).primary_key[0]
        rows = await self._rows(table, keys, name, lock=lock, complete=complete)
        return {row.__dict__[name]: row for row in rows}

    async def _rows(
        self, table: type[T], keys: Iterable[Any], key: str, *, lock: bool, complete: bool = False
    ) -> list[T]:
        if not (wanted := list(set(keys))):
            return []
        if lock or self._writes:
            await self._flush()
        sql = statements(table).select(key, lock=lock, complete=complete)
        return [from_record(table, record) for record in await self._connection.fetch(sql, wanted)]

    async def insert(self, rows: Sequence[Table]) -> None:
        """Write new rows of one table, with keys that no other transaction uses.

        The transaction fails with asyncpg.UniqueViolationError if one exists.
        """
        await self._defer(rows)

    async def insert_missing(self, rows: Sequence[Table]) -> None:
        """Write those rows that do not exist yet."""
        if rows:
            await self._defer(_in_order(rows), if_missing=True)

    async def update(self, rows: Sequence[Table], *changed: str) -> None:
        """Write the `changed` columns of rows that no other transaction can write at the same time.

        The rows are locked or inserted by this transaction, or guarded by its lock on another row.
        """
        await self._defer(rows, changed)

    async def insert_new(self, rows: Sequence[Table]) -> set[Any]:
        """Write at once those rows that do not exist yet; returns their primary keys (tuples where composite)."""
        return await self._insert_now(rows, lambda made: made.insert_new())

    async def upsert_newer(self, rows: Sequence[Table]) -> set[Any]:
        """Write at once rows that are new or have a higher `version` than the stored ones; returns their keys.

        Every projection uses it: events may arrive in any order.
        """
        newest: dict[Any, Table] = {}
        for row in sorted(rows, key=lambda row: row.__dict__["version"]):
            newest[row.__dict__[statements(type(row)).primary_key[0]]] = row
        return await self._insert_now(list(newest.values()), lambda made: made.upsert_newer())

    async def _insert_now(self, rows: Sequence[Table], sql: Callable[[Any], str]) -> set[Any]:
        if not rows:
            return set()
        made = statements(type(rows[0]))
        records = await self.fetch(sql(made), *arrays(_in_order(rows), made.columns))
        return {record[0] if len(record) == 1 else tuple(record) for record in records}

    def publish(self, event: Event, cause: Causation) -> UUID:
        """Write an event to the outbox; the relay publishes it after COMMIT. Returns the event's id."""
        id = self._event_id(event.key)
        self.outbox.append(outbox.row(id, event, cause, self.now))
        self.events.append(event)
        return id

    def _event_id(self, routing_key: str) -> UUID:
        """The ids of up to GROUP events of one routing key are consecutive: they share a row of the event log."""
        number = self._last_ids.get(routing_key, -1) + 1
        if number % outbox.GROUP == 0:
            number = self.new_id().int // outbox.GROUP * outbox.GROUP
        self._last_ids[routing_key] = number
        id: UUID = pgproto.UUID(number.to_bytes(16, "big"))
        return id

    def new_id(self) -> UUID:
        """A UUIDv7: unique, and greater than all that this process has made before.

        It is of asyncpg's UUID class, which is formatted and sent several times as fast as Python's own.
        """
        id: UUID = pgproto.UUID(uuid_utils.uuid7().bytes)
        return id

    async def commit(self) -> None:
        """Send the deferred writes and COMMIT.

        Raises CommitUnknownError if the connection is lost during COMMIT, or during the one statement that replaces it.
        """
        if self.outbox:
            columns = list(zip(*outbox.grouped(self.outbox), strict=True))
            waiting = [columns[0], [None] * len(columns[0])]
            self._writes += [(Write(outbox.EventLog), columns), (Write(outbox.Outbox), waiting)]
        if self._connection.is_closed():
            raise asyncpg.ConnectionDoesNotExistError("the connection was lost before COMMIT")
        if begun := self._connection.is_in_transaction():
            await self._write()
        try:
            await (self._connection.execute("COMMIT") if begun else self._write())
        except asyncpg.QueryCanceledError:
            raise  # a statement timeout: the server has rolled back, and has answered
        except CONNECTION_LOST as error:
            raise CommitUnknownError(str(error)) from error

    async def rollback(self, error: BaseException) -> None:
        """Undo all changes after an error, and raise nothing: the error is what counts.

        A connection that is lost, in an invalid state or to a read-only server is closed: PostgreSQL then rolls back by
        itself, and the pool connects anew, after a failover to another server.
        """
        lost = isinstance(error, _UNUSABLE)
        try:
            if not lost and self._connection.is_in_transaction():
                await self._connection.execute("ROLLBACK")
        except Exception:
            lost = True
        if lost:
            with contextlib.suppress(asyncpg.InterfaceError):  # the pool has taken it back already
                self._connection.terminate()

    async def _defer(
        self, rows: Sequence[Table], changed: tuple[str, ...] = (), *, if_missing: bool = False
    ) -> None:
        if rows:
            table = type(rows[0])
            # The parts of one statement do not see each other's effects.
            if any(waiting.table is table for waiting, _ in self._writes):
                await self._flush()
            columns = arrays(rows, statements(table).written(changed))
            self._writes.append((Write(table, changed, if_missing), columns))

    async def _flush(self) -> None:
        """Send BEGIN if it has not been sent, then the deferred writes."""
        if not self._connection.is_in_transaction():
            await self._connection.execute("BEGIN")
        await self._write()

    async def _write(self) -> None:
        if self._writes:
            writes, columns = zip(*self._writes, strict=True)
            self._writes = []
            await self._connection.execute(combined(writes), *chain.from_iterable(columns))


def _in_order(rows: Sequence[Table]) -> list[Table]:
    """Sort rows by key: two batches that insert the same keys wait for each other and never deadlock."""
    names = statements(type(rows[0])).primary_key
    return sorted(rows, key=lambda row: [row.__dict__[name] for name in names])


@contextlib.asynccontextmanager
async def transaction(pool: Pool) -> AsyncIterator[Transaction]:
    """A transaction that commits at the end of the block and rolls back on any exception, cancellation included.

    Raises CommitUnknownError as `Transaction.commit` does, and TimeoutError if no connection is free within
    ACQUIRE_SECONDS.
    """
    async with pool.acquire(timeout=ACQUIRE_SECONDS) as connection:
        # Only a pool that `Database` has opened measures the server's clock.
        now = getattr(connection, "now", None)
        tx = Transaction(connection, now() if now else datetime.now(UTC))
        try:
            yield tx
            await tx.commit()
        except BaseException as error:
            await tx.rollback(error)
            raise
    for callback in tx.after_commit:
        callback()


async def measure_clock(connection: Any) -> None:
    """Keep the clock of a TimedConnection that the pool is about to lend."""
    await connection.measure()


async def keep_session(connection: object) -> None:
    """Reset nothing when a connection returns to the pool: transactions change no session setting.

    It takes the place of asyncpg's reset, which costs a round trip.
    """
