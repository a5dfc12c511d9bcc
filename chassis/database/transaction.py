"""The unit of work: reads, locks and writes rows in sets, and commits them together with their events.

This is the one place in Chorus that begins and commits transactions. `publish` writes to the outbox: it needs no
broker, and an event exists if and only if the change that it reports is committed.
"""

import contextlib
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import chain
from typing import TYPE_CHECKING, Any, Final, TypeAlias
from uuid import UUID

import asyncpg
import uuid_utils
from asyncpg.pgproto import pgproto

from chassis.database.errors import CommitUnknownError, commit_may_be_lost
from chassis.database.tables import T, Table, Write, arrays, combined, from_record, statements
from chassis.messaging import outbox
from events.base import Causation, Event

if TYPE_CHECKING:
    Pool: TypeAlias = asyncpg.Pool[asyncpg.Record]
    Connection: TypeAlias = asyncpg.pool.PoolConnectionProxy[asyncpg.Record]
else:
    Pool = asyncpg.Pool
    Connection = asyncpg.Connection

DRIVER_ERRORS: Final = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
)
"""The errors that a statement may fail with, in the server, the driver or the network."""

ACQUIRE_SECONDS: Final = 4.0
"""How long to wait for a connection of the pool; less than the timeout of a request."""


class Transaction:
    """The interface of a use case to its database: sets of rows, and events to publish.

    Locks are taken in key order: two transactions that need the same rows wait for each other and never deadlock.

    Round trips dominate the cost of a batch, so there are as few as possible. Inserts and updates are deferred until
    COMMIT, or until a statement that could read them, and then sent as one statement together with the outbox. BEGIN is
    deferred until a lock or a statement of the use case's own; without either, the one statement is the transaction.
    """

    def __init__(self, connection: Connection, now: datetime) -> None:
        self.now = now
        """The time of this transaction, aware, in UTC."""
        self.outbox: list[outbox.Row] = []
        """The rows that COMMIT writes to the outbox."""
        self.events: list[Event] = []
        """The events of these rows, in the order of `publish`."""
        self._connection = connection
        self._begun: asyncpg.transaction.Transaction | None = None
        self._writes: list[tuple[Write, Sequence[list[Any]]]] = []
        self._after_commit: list[Callable[[], None]] = []

    async def fetch(self, sql: str, *values: Any) -> list[asyncpg.Record]:
        """The records that a statement of the use case's own returns."""
        await self._flush()
        records: list[asyncpg.Record] = await self._connection.fetch(sql, *values)
        return records

    async def execute(self, sql: str, *values: Any) -> str:
        """Execute a statement of the use case's own; returns its command tag, such as `DELETE 3`."""
        await self._flush()
        return str(await self._connection.execute(sql, *values))

    async def load(
        self, table: type[T], keys: Iterable[Any], *, key: str | None = None
    ) -> dict[Any, T]:
        """Rows by `key` (a unique column, by default the primary key). Missing rows are left out."""
        return await self._select(table, keys, key, lock=False)

    async def lock(
        self, table: type[T], keys: Iterable[Any], *, key: str | None = None
    ) -> dict[Any, T]:
        """The same, locked against other writers until the end of the transaction."""
        return await self._select(table, keys, key, lock=True)

    async def lock_all(
        self, table: type[T], keys: Iterable[Any], *, key: str | None = None
    ) -> dict[Any, T]:
        """The same if no row is missing; otherwise locks and returns none."""
        return await self._select(table, keys, key, lock=True, complete=True)

    async def _select(
        self,
        table: type[T],
        keys: Iterable[Any],
        key: str | None,
        *,
        lock: bool,
        complete: bool = False,
    ) -> dict[Any, T]:
        wanted = list(set(keys))
        if not wanted:
            return {}
        if lock or self._writes:
            await self._flush()
        made = statements(table)
        name = key or made.primary_key[0]
        sql = made.select(name, lock=lock, complete=complete)
        records = await self._connection.fetch(sql, wanted)
        return {record[name]: from_record(table, record) for record in records}

    async def insert(self, rows: Sequence[Table]) -> None:
        """Write new rows of one table, with keys that no other transaction uses.

        The transaction fails with asyncpg.UniqueViolationError if one exists.
        """
        if rows:
            await self._write_rows(Write(type(rows[0])), rows)

    async def insert_columns(self, table: type[Table], *columns: list[Any]) -> None:
        """The same for rows given as one list for each column of the table, in the order of declaration."""
        await self._write_later(Write(table), columns)

    async def insert_missing(self, rows: Sequence[Table], *, key: str | None = None) -> None:
        """Write those rows that do not exist yet.

        `key` is the column in whose order they are written, by default the primary key: concurrent transactions that
        write the same rows use the same order.
        """
        if rows:
            await self._write_rows(Write(type(rows[0]), if_missing=True), _in_order(rows, key))

    async def insert_new(self, rows: Sequence[Table]) -> set[Any]:
        """The same without deferring it; returns the primary keys of the written rows (tuples where composite)."""
        return await self._insert_some(rows, lambda made: made.insert_new())

    async def upsert_newer(self, rows: Sequence[Table]) -> set[Any]:
        """Write rows that are new or have a higher `version` than the stored ones; returns their keys.

        Every projection uses it, because events may arrive in any order.
        """
        if not rows:
            return set()
        key = statements(type(rows[0])).primary_key[0]
        newest: dict[Any, Table] = {}
        for row in sorted(rows, key=lambda row: row.__dict__["version"]):
            newest[row.__dict__[key]] = row
        return await self._insert_some(list(newest.values()), lambda made: made.upsert_newer())

    async def _insert_some(self, rows: Sequence[Table], sql: Callable[[Any], str]) -> set[Any]:
        if not rows:
            return set()
        made = statements(type(rows[0]))
        records = await self.fetch(sql(made), *arrays(_in_order(rows), list(made.columns)))
        return {record[0] if len(record) == 1 else tuple(record) for record in records}

    async def update(self, rows: Sequence[Table], *changed: str) -> None:
        """Write the `changed` columns of rows that no other transaction can write at the same time.

        The rows are locked or inserted by this transaction, or guarded by its lock on another row.
        """
        if rows:
            await self._write_rows(Write(type(rows[0]), changed), rows)

    def publish(self, event: Event, cause: Causation) -> UUID:
        """Write an event to the outbox; the relay publishes it after COMMIT. Returns the event's id."""
        id = self.new_id()
        self.outbox.append(outbox.row(id, event, cause, self.now))
        self.events.append(event)
        return id

    def new_id(self) -> UUID:
        """A UUIDv7: unique, and greater than all that this process has made before.

        It is of asyncpg's UUID class, which is formatted and sent several times as fast as Python's own.
        """
        id: UUID = pgproto.UUID(uuid_utils.uuid7().bytes)
        return id

    def after_commit(self, callback: Callable[[], None]) -> None:
        """Run a callback once the transaction is durable, and never after a rollback. It must not raise."""
        self._after_commit.append(callback)

    async def commit(self) -> None:
        """Send the deferred writes and COMMIT.

        Raises CommitUnknownError if the connection is lost during COMMIT, or during the one statement that replaces it.
        """
        if self.outbox:
            await self.insert_columns(outbox.Outbox, *map(list, zip(*self.outbox, strict=True)))
        if self._connection.is_closed():
            raise asyncpg.ConnectionDoesNotExistError("the connection was lost before COMMIT")
        if self._begun is None:
            with commit_may_be_lost(), _discarding(self._connection):
                await self._write()
        else:
            await self._write()
            with commit_may_be_lost(), _discarding(self._connection):
                await self._begun.commit()

    async def rollback(self) -> None:
        """Undo all changes. With a lost connection there is nothing to do: PostgreSQL rolls back itself."""
        if self._begun is not None and not self._connection.is_closed():
            with _discarding(self._connection):
                await self._begun.rollback()

    def committed(self) -> None:
        """Run the callbacks registered by `after_commit`."""
        for callback in self._after_commit:
            callback()

    async def _write_rows(self, write: Write, rows: Sequence[Table]) -> None:
        await self._write_later(write, arrays(rows, write.names))

    async def _write_later(self, write: Write, columns: Sequence[list[Any]]) -> None:
        # The parts of one statement do not see each other's effects.
        if any(waiting.table is write.table for waiting, _ in self._writes):
            await self._flush()
        self._writes.append((write, columns))

    async def _flush(self) -> None:
        """Send BEGIN if it has not been sent, then the deferred writes."""
        if self._begun is None:
            begun = self._connection.transaction()
            await begun.start()
            self._begun = begun
        await self._write()

    async def _write(self) -> None:
        if self._writes:
            writes, columns = zip(*self._writes, strict=True)
            self._writes = []
            await self._connection.execute(combined(writes), *chain.from_iterable(columns))


def _in_order(rows: Sequence[Table], key: str | None = None) -> list[Table]:
    """Sort rows by key: two batches that insert the same keys wait for each other and never deadlock."""
    names = [key] if key else statements(type(rows[0])).primary_key
    return sorted(rows, key=lambda row: [row.__dict__[name] for name in names])


@contextlib.asynccontextmanager
async def transaction(pool: Pool) -> AsyncIterator[Transaction]:
    """A transaction that commits at the end of the block and rolls back on any exception, cancellation included.

    Raises CommitUnknownError as `Transaction.commit` does, and TimeoutError if no connection is free within
    ACQUIRE_SECONDS.
    """
    async with pool.acquire(timeout=ACQUIRE_SECONDS) as connection:
        tx = Transaction(connection, datetime.now(UTC))
        with _discarding(connection):
            try:
                yield tx
                await tx.commit()
            except CommitUnknownError:
                raise
            except BaseException:
                with contextlib.suppress(
                    *DRIVER_ERRORS
                ):  # PostgreSQL rolls back without a connection
                    await tx.rollback()
                raise
    tx.committed()


@contextlib.contextmanager
def _discarding(connection: Connection) -> Iterator[None]:
    """Close a connection whose protocol state is invalid after its server died.

    The pool would lend it again, and it would fail again.
    """
    try:
        yield
    except asyncpg.InternalClientError:
        connection.terminate()
        raise
