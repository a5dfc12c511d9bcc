"""Set-based SQL generated from SQLModel tables: one statement for many rows.

A SQLModel class declares a table. An ORM session costs about a millisecond of CPU per row; these statements send whole
columns as arrays (`unnest`) over a plain asyncpg connection and cost about ten microseconds per row.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, NamedTuple, Self, TypeVar

from sqlalchemy import Table as SqlTable
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import configure_mappers
from sqlmodel import SQLModel
from sqlmodel.main import SQLModelMetaclass

_DIALECT = postgresql.dialect()  # type: ignore[no-untyped-call]

T = TypeVar("T", bound="Table")


class _Untracked(SQLModelMetaclass):
    """Makes tables whose rows are plain objects without the state by which SQLAlchemy tracks changes."""

    _defaults: dict[str, Any]

    def __init__(cls, name: str, bases: tuple[type, ...], names: Any, **more: Any) -> None:  # noqa: N805
        super().__init__(name, bases, names, **more)
        if more.get("table"):
            configure_mappers()  # otherwise attributes work only after the first query
            for column in cls.__table__.columns:  # type: ignore[attr-defined]
                type.__setattr__(cls, column.name, _Column(cls.__dict__[column.name]))
            # A default is always a value; `default_factory` is not supported.
            fields = cls.model_fields.items()
            cls._defaults = {n: f.get_default() for n, f in fields if not f.is_required()}

    def __call__(cls, **values: Any) -> Any:  # noqa: N805
        """A row without the state of pydantic and SQLAlchemy: 2 microseconds instead of 30."""
        row: Any = object.__new__(cls)  # type: ignore[arg-type]
        row.__dict__.update(cls._defaults, **values)
        return row


class _Column:
    """An attribute that is a SQLAlchemy column on the class and a plain value on a row.

    Without `__set__` Python finds the value in the row's dictionary first, in a tenth of the time.
    """

    def __init__(self, mapped: Any) -> None:
        self._mapped = mapped

    def __get__(self, row: object, table: type) -> Any:
        return self._mapped.__get__(row, table)


class Table(SQLModel, metaclass=_Untracked):
    """The base of every table. A row is made by keyword and is not validated.

    No session tracks rows: `Transaction` writes them, sessions only read.
    """

    on_conflict: ClassVar[str] = ""
    """What an insert does with a row whose key exists, as SQL; by default it fails."""

    # Changes are not tracked: `Transaction.update` names the changed columns.
    __setattr__ = object.__setattr__  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        names = type(self).model_fields
        return type(self) is type(other) and arrays([self], names) == arrays([other], names)

    __hash__ = None  # type: ignore[assignment]

    def snapshot(self) -> Self:
        """A copy, for results: later items of the same batch may change the row."""
        return from_record(type(self), self.__dict__)


def from_record(table: type[T], record: Any) -> T:
    """A row from a record, without running a constructor."""
    row = object.__new__(table)
    row.__dict__.update(record.items())
    return row


def arrays(rows: Sequence[Table], names: Iterable[str]) -> list[list[Any]]:
    """One list for each column, the arguments of `unnest`."""
    values = [row.__dict__ for row in rows]
    return [[value[name] for value in values] for name in names]


@dataclass(frozen=True)
class Statements:
    """The statements of one table. Each writes or reads many rows; `first` is the number of its first parameter."""

    table: str
    columns: dict[str, str]
    """Column name -> PostgreSQL type, in the order of declaration."""
    primary_key: tuple[str, ...]
    on_conflict: str = ""

    def where(self, condition: str) -> str:
        """All columns of the rows that meet a condition."""
        return f"SELECT {', '.join(self.columns)} FROM {self.table} WHERE {condition}"

    def select(self, key: str, *, lock: bool, complete: bool = False) -> str:
        """Rows whose `key` is in $1, ordered by it, so that two batches lock in the same order.

        `complete`: no rows unless there is one for each key; the keys must be distinct.
        """
        among = f"{key} = ANY($1::{self.columns[key]}[])"
        if complete:
            among += f" AND cardinality($1) = (SELECT count(*) FROM {self.table} WHERE {among})"
        return self.where(f"{among} ORDER BY {key}{' FOR NO KEY UPDATE' * lock}")

    def insert(self, first: int = 1, *, if_missing: bool = False) -> str:
        """Insert all columns of rows. An existing row is an error, or with `if_missing` stays unchanged."""
        source = f"SELECT * FROM unnest({self._arrays(self.columns, first)})"
        sql = f"INSERT INTO {self.table} ({', '.join(self.columns)}) {source}"
        return (
            f"{sql} ON CONFLICT DO NOTHING" if if_missing else f"{sql} {self.on_conflict}".rstrip()
        )

    def insert_new(self) -> str:
        """Insert the rows that do not exist; returns their keys."""
        return f"{self.insert(if_missing=True)} RETURNING {', '.join(self.primary_key)}"

    def upsert_newer(self) -> str:
        """Insert rows or replace those of a lower version; returns the keys of the written rows."""
        changed = [name for name in self.columns if name not in self.primary_key]
        key = ", ".join(self.primary_key)
        assignments = ", ".join(f"{name} = excluded.{name}" for name in changed)
        return (
            f"{self.insert()} ON CONFLICT ({key}) DO UPDATE SET {assignments}"
            f" WHERE {self.table}.version < excluded.version RETURNING {key}"
        )

    def written(self, changed: Iterable[str]) -> Sequence[str]:
        """The columns of which a write takes an array: the key and the `changed` ones, or all if none is named."""
        return (*self.primary_key, *changed) if changed else tuple(self.columns)

    def update(self, changed: Iterable[str], first: int = 1) -> str:
        """Set the `changed` columns of rows, found by their primary key."""
        names = self.written(changed)
        assignments = ", ".join(f"{name} = new.{name}" for name in changed)
        match = " AND ".join(f"{self.table}.{name} = new.{name}" for name in self.primary_key)
        return (
            f"UPDATE {self.table} SET {assignments}"
            f" FROM unnest({self._arrays(names, first)}) AS new({', '.join(names)}) WHERE {match}"
            # Redundant, but it prevents plans that scan the whole table.
            f" AND {self.table}.{self.primary_key[0]} = ANY(${first})"
        )

    def _arrays(self, names: Iterable[str], first: int) -> str:
        return ", ".join(f"${n}::{self.columns[name]}[]" for n, name in enumerate(names, first))


@cache
def statements(table: type[Table]) -> Statements:
    """The statements of a table, generated from its SQLModel class."""
    sql: SqlTable = table.__table__  # type: ignore[attr-defined]
    kinds = {column.name: column.type.compile(dialect=_DIALECT) for column in sql.columns}
    columns = {name: kind.split("(")[0] for name, kind in kinds.items()}
    key = tuple(column.name for column in sql.primary_key)
    return Statements(sql.name, columns, key, table.on_conflict)


class Write(NamedTuple):
    """A write to many rows of one table: an insert of all columns, or an update of the `changed` ones."""

    table: type[Table]
    changed: tuple[str, ...] = ()
    if_missing: bool = False
    """Whether existing rows stay unchanged instead of being an error."""


@cache
def combined(writes: tuple[Write, ...]) -> str:
    """One statement for several writes; its parameters are those of each write in turn.

    The writes do not see each other's effects, so no row may occur in two of them. PostgreSQL executes them in any
    order, so rows that other transactions write too must be guarded by a lock, or written only by such statements.
    """
    parts, first = [], 1
    for table, changed, if_missing in writes:
        made = statements(table)
        insert = made.insert(first, if_missing=if_missing)
        parts.append(made.update(changed, first) if changed else insert)
        first += len(made.written(changed))
    *before, last = parts
    named = ", ".join(f"write_{n} AS ({part})" for n, part in enumerate(before, 1))
    return f"WITH {named} {last}" if before else last
