"""A business transaction: rows are read, locked and written in sets, and events leave with the same COMMIT.

This is the one place in Chorus that begins and commits. `publish` means "write to the outbox": whoever
publishes needs no broker, and an event exists if and only if the change that it tells of does.
"""

import contextlib
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, TypeAlias
from uuid import UUID

import asyncpg
import uuid_utils
from asyncpg.pgproto import pgproto

from events.base import Cause, Event
from events.bus import outbox
from events.bus.statements import T, Table, arrays, from_record, statements

if TYPE_CHECKING:
    Pool: TypeAlias = asyncpg.Pool[asyncpg.Record]
    Connection: TypeAlias = asyncpg.pool.PoolConnectionProxy[asyncpg.Record]
else:
    Pool = asyncpg.Pool
    Connection = asyncpg.Connection

ACQUIRE_SECONDS: Final = 4.0
"""How long a connection of the pool is waited for; less than the patience of a request."""


class CommitUnknownError(Exception):
    """The connection was lost during COMMIT: the transaction may have happened or not."""


class Transaction:
    """What a use case works with: sets of rows, and events to publish.

    Rows come and go in whole sets, one statement each. Locks are taken in key order, so that two transactions
    that need the same rows wait for each other and never deadlock.
    """

    def __init__(self, connection: Connection, now: datetime) -> None:
        self.connection = connection
        self.now = now
        """The time of this transaction, aware, in UTC."""
        self.outbox: list[outbox.Row] = []
        self._after_commit: list[Callable[[], None]] = []

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

    async def _select(
        self, table: type[T], keys: Iterable[Any], key: str | None, *, lock: bool
    ) -> dict[Any, T]:
        wanted = list(set(keys))
        if not wanted:
            return {}
        name = key or statements(table).primary_key[0]
        records = await self.connection.fetch(statements(table).select(name, lock=lock), wanted)
        return {record[name]: from_record(table, record) for record in records}

    async def insert(self, rows: Sequence[Table]) -> None:
        """Write new rows of one table, whose keys are new in this transaction, and so in nobody's way.

        Raises asyncpg.UniqueViolationError if one exists.
        """
        if rows:
            made = statements(type(rows[0]))
            await self.connection.execute(made.insert(), *arrays(rows, list(made.columns)))

    async def insert_new(self, rows: Sequence[Table]) -> set[Any]:
        """Write those rows that do not exist yet; returns their primary keys (tuples where composite)."""
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
        # In key order: two batches that insert the same keys wait for each other instead of deadlocking.
        ordered = sorted(rows, key=lambda row: [row.__dict__[name] for name in made.primary_key])
        values = arrays(ordered, list(made.columns))
        records = await self.connection.fetch(sql(made), *values)
        return {record[0] if len(record) == 1 else tuple(record) for record in records}

    async def update(self, rows: Sequence[Table], *changed: str) -> None:
        """Write the `changed` columns of rows that nobody else can write now.

        They are locked by this transaction, made by it, or guarded by its lock on another row.
        """
        if rows:
            made = statements(type(rows[0]))
            values = arrays(rows, [*made.primary_key, *changed])
            await self.connection.execute(made.update(changed), *values)

    def publish(self, event: Event, because: Cause) -> UUID:
        """Write an event to the outbox; the relay publishes it after COMMIT. Returns the event's id."""
        id = self.new_id()
        self.outbox.append(outbox.row(id, event, because, self.now))
        return id

    def new_id(self) -> UUID:
        """A UUIDv7: unique, and greater than every one that this process has made before.

        Rows that are made in some order are therefore inserted in it. It is of the kind that comes out of the database,
        which is written as text and sent several times as fast as Python's own.
        """
        id: UUID = pgproto.UUID(uuid_utils.uuid7().bytes)
        return id

    def after_commit(self, callback: Callable[[], None]) -> None:
        """Run a callback that must not fail once the transaction is durable; never after a rollback."""
        self._after_commit.append(callback)

    async def flush(self) -> None:
        """Write what `publish` has collected."""
        await outbox.write(self.connection, self.outbox)

    def committed(self) -> None:
        """Run what was registered by `after_commit`."""
        for callback in self._after_commit:
            callback()


@contextlib.asynccontextmanager
async def begin(pool: Pool) -> AsyncIterator[Transaction]:
    """A transaction that commits at the end of the block and rolls back on anything raised, cancellation too.

    Raises CommitUnknownError if the connection is lost while COMMIT is under way, and TimeoutError if no connection is
    free within ACQUIRE_SECONDS.
    """
    async with pool.acquire(timeout=ACQUIRE_SECONDS) as connection:
        underlying = connection.transaction()
        with _discarding(connection):
            await underlying.start()
        tx = Transaction(connection, datetime.now(UTC))
        try:
            yield tx
            await tx.flush()
        except BaseException:
            with (
                contextlib.suppress(
                    asyncpg.PostgresError,
                    asyncpg.InterfaceError,
                    asyncpg.InternalClientError,
                    OSError,
                ),
                _discarding(connection),
            ):
                if not connection.is_closed():
                    await underlying.rollback()
            raise
        try:
            await underlying.commit()
        except _LOST as error:
            raise CommitUnknownError(str(error)) from error
    tx.committed()


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


_LOST = (
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
)
"""What may hide a COMMIT that succeeded; any other error of a COMMIT says that it did not."""

_TRANSIENT_CLASSES = frozenset({"08", "40", "53", "55", "57", "58"})
"""SQLSTATE classes that tell of the server's state, not of the statement: connection, rollback (deadlock,
serialization), resources, lock not available, operator intervention, system error.
https://www.postgresql.org/docs/current/errcodes-appendix.html"""


_READ_ONLY: Final = "25006"
_IDLE_IN_TRANSACTION: Final = "25P03"


def is_transient(error: BaseException) -> bool:
    """Whether the same work may well succeed later because the fault lies with a server or the network."""
    if isinstance(error, asyncpg.PostgresError):
        state = error.sqlstate or ""
        return state[:2] in _TRANSIENT_CLASSES or state in {_READ_ONLY, _IDLE_IN_TRANSACTION}
    return isinstance(error, (CommitUnknownError, *_LOST))  # a TimeoutError is an OSError
