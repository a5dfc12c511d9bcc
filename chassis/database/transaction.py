"""A business transaction: rows are read, locked and written in sets, and events leave with the same COMMIT.

This is the one place in Chorus that begins and commits. `publish` means "write to the outbox": whoever
publishes needs no broker, and an event exists if and only if the change that it tells of does.
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
from chassis.database.tables import T, Table, Write, arrays, from_record, statements, together
from chassis.messaging import outbox
from events.base import Causation, Event

if TYPE_CHECKING:
    Pool: TypeAlias = asyncpg.Pool[asyncpg.Record]
    Connection: TypeAlias = asyncpg.pool.PoolConnectionProxy[asyncpg.Record]
else:
    Pool = asyncpg.Pool
    Connection = asyncpg.Connection

ACQUIRE_SECONDS: Final = 4.0
"""How long a connection of the pool is waited for; less than the patience of a request."""


class Transaction:
    """What a use case works with: sets of rows, and events to publish.

    Rows come and go in whole sets. Locks are taken in key order, so that of two transactions that need the same
    rows one waits for the other, and they never deadlock.

    Round trips are what a batch costs, so there are as few as can be. What is inserted and updated waits for the end,
    or for a statement that could see it, and then all of it goes in one statement, with the outbox. And BEGIN waits for
    a lock, or for any statement of the use case's own. Where there is none, that one statement is the transaction.
    """

    def __init__(self, connection: Connection, now: datetime) -> None:
        self.now = now
        """The time of this transaction, aware, in UTC."""
        self.outbox: list[outbox.Row] = []
        """The rows that COMMIT writes to the outbox."""
        self.events: list[Event] = []
        """The events in them that `publish` has written."""
        self._connection = connection
        self._begun: asyncpg.transaction.Transaction | None = None
        self._writes: list[tuple[Write, Sequence[list[Any]]]] = []
        self._after_commit: list[Callable[[], None]] = []

    async def fetch(self, sql: str, *values: Any) -> list[asyncpg.Record]:
        """The records that a statement of the use case's own gives."""
        await self._catch_up()
        records: list[asyncpg.Record] = await self._connection.fetch(sql, *values)
        return records

    async def execute(self, sql: str, *values: Any) -> str:
        """Execute a statement of the use case's own; returns what PostgreSQL calls it, such as `DELETE 3`."""
        await self._catch_up()
        return str(await self._connection.execute(sql, *values))

    async def load(
        self, table: type[T], keys: Iterable[Any], *, key: str | None = None
    ) -> dict[Any, T]:
        """Rows by `key` (a unique column; the primary key if not named). Missing rows are left out."""
        return await self._select(table, keys, key, lock=False)

    async def lock(
        self, table: type[T], keys: Iterable[Any], *, key: str | None = None
    ) -> dict[Any, T]:
        """The same, locked against every other writer until the end of the transaction."""
        return await self._select(table, keys, key, lock=True)

    async def lock_all(
        self, table: type[T], keys: Iterable[Any], *, key: str | None = None
    ) -> dict[Any, T]:
        """The same if no row is missing; else nothing is locked, and nothing returned."""
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
            await self._catch_up()
        made = statements(table)
        name = key or made.primary_key[0]
        sql = made.select(name, lock=lock, complete=complete)
        records = await self._connection.fetch(sql, wanted)
        return {record[name]: from_record(table, record) for record in records}

    async def insert(self, rows: Sequence[Table]) -> None:
        """Write new rows of one table, whose keys are new in this transaction, and so in nobody's way.

        The transaction fails with asyncpg.UniqueViolationError if one exists.
        """
        if rows:
            await self._write_rows(Write(type(rows[0])), rows)

    async def insert_columns(self, table: type[Table], *columns: list[Any]) -> None:
        """The same for rows that come as one list for each column of the table, in the order of declaration."""
        await self._write_later(Write(table), columns)

    async def insert_missing(self, rows: Sequence[Table], *, key: str | None = None) -> None:
        """Write those rows that do not exist yet, where nobody asks which.

        `key` is the column by which others may write the same rows; the primary key if not named.
        """
        if rows:
            await self._write_rows(Write(type(rows[0]), if_missing=True), _in_order(rows, key))

    async def insert_new(self, rows: Sequence[Table]) -> set[Any]:
        """The same at once; returns the primary keys of those that were written (tuples where composite)."""
        return await self._insert_some(rows, lambda made: made.insert_new())

    async def upsert_newer(self, rows: Sequence[Table]) -> set[Any]:
        """Write rows that are new or whose `version` is higher than the stored one; returns their keys.

        The mechanism behind every projection: delivery order is not trusted, versions are.
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
        """Write the `changed` columns of rows that nobody else can write now.

        They are locked by this transaction, made by it, or guarded by its lock on another row.
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
        """A UUIDv7: unique, and greater than every one that this process has made before.

        Rows that are made in some order are therefore inserted in it. It is of the kind that comes out of the database,
        which is written as text and sent several times as fast as Python's own.
        """
        id: UUID = pgproto.UUID(uuid_utils.uuid7().bytes)
        return id

    def after_commit(self, callback: Callable[[], None]) -> None:
        """Once the transaction is durable, run a callback, which must not fail; never after a rollback."""
        self._after_commit.append(callback)

    async def commit(self) -> None:
        """Write what waits, and make all durable.

        Raises CommitUnknownError if the connection is lost during COMMIT, or the one statement that stands for it.
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
        """Undo what has been done, unless the connection is lost, and all with it."""
        if self._begun is not None and not self._connection.is_closed():
            with _discarding(self._connection):
                await self._begun.rollback()

    def committed(self) -> None:
        """Run what was registered by `after_commit`."""
        for callback in self._after_commit:
            callback()

    async def _write_rows(self, write: Write, rows: Sequence[Table]) -> None:
        await self._write_later(write, arrays(rows, write.names))

    async def _write_later(self, write: Write, columns: Sequence[list[Any]]) -> None:
        # One statement does not see what it has done itself.
        if any(waiting.table is write.table for waiting, _ in self._writes):
            await self._catch_up()
        self._writes.append((write, columns))

    async def _catch_up(self) -> None:
        """Send BEGIN if that is not done yet, then all writes that wait."""
        if self._begun is None:
            begun = self._connection.transaction()
            await begun.start()
            self._begun = begun
        await self._write()

    async def _write(self) -> None:
        if self._writes:
            writes, columns = zip(*self._writes, strict=True)
            self._writes = []
            await self._connection.execute(together(writes), *chain.from_iterable(columns))


def _in_order(rows: Sequence[Table], key: str | None = None) -> list[Table]:
    """Of two batches that insert the same keys one waits for the other, and they never deadlock."""
    names = [key] if key else statements(type(rows[0])).primary_key
    return sorted(rows, key=lambda row: [row.__dict__[name] for name in names])


@contextlib.asynccontextmanager
async def begin(pool: Pool) -> AsyncIterator[Transaction]:
    """A transaction that commits at the end of the block and rolls back on anything raised, cancellation too.

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
                with contextlib.suppress(*_UNDONE_ANYWAY):
                    await tx.rollback()
                raise
    tx.committed()


_UNDONE_ANYWAY = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
)
"""What a ROLLBACK may fail with: the connection has gone or will be closed, and PostgreSQL undoes what it had begun."""


@contextlib.contextmanager
def _discarding(connection: Connection) -> Iterator[None]:
    """Close a connection that a dying server has left in a state that asyncpg itself does not understand.

    The pool would hand it out again, and it would fail again.
    """
    try:
        yield
    except asyncpg.InternalClientError:
        connection.terminate()
        raise
