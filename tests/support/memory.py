"""A database in memory: what a use case sees of PostgreSQL, without waiting for anything.

Rows are copied on the way in and out, so a change that a use case forgets to save is lost here as it is there.
"""

from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID

from chassis.database.tables import T, Table, from_record, statements
from chassis.database.transaction import Transaction
from events.base import Causation, Event

Result = TypeVar("Result")
Rows = dict[type[Table], dict[Any, dict[str, Any]]]


class DuplicateError(Exception):
    """A row with this key, or with this value in a unique column, exists."""


class Memory:
    """Tables, and every event that was published, in the order of their commits."""

    def __init__(self) -> None:
        self.tables: Rows = {}
        self.published: list[tuple[Event, Causation]] = []
        self.now = datetime(2026, 11, 22, 13, 0, tzinfo=UTC)
        self.ids = 0
        self._read: dict[type[Table], list[Any]] = {}

    def rows(self, table: type[T]) -> list[T]:
        """Everything in a table, in the order of insertion, to look at."""
        if table not in self._read:
            rows = self.tables.get(table, {}).values()
            self._read[table] = [from_record(table, dict(row)) for row in rows]
        return self._read[table]

    def events(self, kind: type[Event]) -> list[Any]:
        """The published events of one kind."""
        return [event for event, _ in self.published if type(event) is kind]

    @contextmanager
    def transaction(self) -> Iterator["MemoryTransaction"]:
        """All or nothing."""
        before = {
            table: {key: dict(row) for key, row in rows.items()}
            for table, rows in self.tables.items()
        }
        self.now += timedelta(microseconds=1)
        self._read.clear()
        tx = MemoryTransaction(self)
        try:
            yield tx
        except BaseException:
            self.tables = before
            raise
        self.published += tx.recorded
        for callback in tx.after_commit:
            callback()

    def run(self, work: Callable[[Transaction, Any], Awaitable[Result]], items: Any) -> Result:
        """One batch of a use case, in a transaction of its own."""
        with self.transaction() as tx:
            return at_once(work(tx, items))


def at_once(work: Awaitable[Result]) -> Result:
    """Run what needs no event loop, because it waits for nothing."""
    assert isinstance(work, Coroutine)
    try:
        work.send(None)
    except StopIteration as done:
        result: Result = done.value
        return result
    work.close()
    raise AssertionError("it waits for something")


class MemoryTransaction(Transaction):
    """A transaction of a `Memory`."""

    def __init__(self, memory: Memory) -> None:
        super().__init__(None, memory.now)
        self.memory = memory
        self.recorded: list[tuple[Event, Causation]] = []

    def _table(self, table: type[Table]) -> dict[Any, dict[str, Any]]:
        return self.memory.tables.setdefault(table, {})

    async def _rows(
        self, table: type[T], keys: Iterable[Any], key: str, *, lock: bool, complete: bool = False
    ) -> list[T]:
        wanted = set(keys)
        found = [row for row in self._table(table).values() if row[key] in wanted]
        if complete and len(found) < len(wanted):
            return []
        return [from_record(table, dict(row)) for row in found]

    async def insert(self, rows: Sequence[Table]) -> None:
        for row in rows:
            if not self._insert(row):
                raise DuplicateError(f"{type(row).__name__} {_key(row)}")

    async def insert_new(self, rows: Sequence[Table]) -> set[Any]:
        return {_key(row) for row in rows if self._insert(row)}

    async def insert_missing(self, rows: Sequence[Table]) -> None:
        await self.insert_new(rows)

    async def upsert_newer(self, rows: Sequence[Table]) -> set[Any]:
        taken = set()
        for row in rows:
            there = self._table(type(row)).get(_key(row))
            if there is None or there["version"] < row.__dict__["version"]:
                self._table(type(row))[_key(row)] = _columns(row)
                taken.add(_key(row))
        return taken

    async def update(self, rows: Sequence[Table], *changed: str) -> None:
        for row in rows:
            there = self._table(type(row))[_key(row)]
            there |= {name: row.__dict__[name] for name in changed}

    def _insert(self, row: Table) -> bool:
        table, columns = self._table(type(row)), _columns(row)
        unique = [c.name for c in type(row).__table__.columns if c.unique]  # type: ignore[attr-defined]
        taken = any(
            there[name] == columns[name] is not None for there in table.values() for name in unique
        )
        if _key(row) in table or taken:
            return False
        table[_key(row)] = columns
        return True

    def publish(self, event: Event, cause: Causation) -> UUID:
        self.recorded.append((event, cause))
        return self.new_id()

    def new_id(self) -> UUID:
        self.memory.ids += 1
        return UUID(int=0x0193 << 112 | 7 << 76 | 2 << 62 | self.memory.ids)


def _columns(row: Table) -> dict[str, Any]:
    return {name: row.__dict__[name] for name in statements(type(row)).columns}


def _key(row: Table) -> Any:
    key = tuple(row.__dict__[name] for name in statements(type(row)).primary_key)
    return key[0] if len(key) == 1 else key
