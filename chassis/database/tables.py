"""Set-based SQL made from SQLModel tables: one statement for many rows.

SQLModel owns the shape of a table. A session of its ORM costs about a millisecond of CPU per row; these statements
send whole columns as arrays (`unnest`) over a plain asyncpg connection and cost about ten microseconds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple, Self, TypeVar

from sqlalchemy import Column
from sqlalchemy import Table as SqlTable
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import configure_mappers
from sqlmodel import SQLModel
from sqlmodel.main import SQLModelMetaclass

_DIALECT = postgresql.dialect()  # type: ignore[no-untyped-call]


class _Untracked(SQLModelMetaclass):
    """Makes tables whose rows are plain objects, of which SQLAlchemy keeps no record."""

    def __init__(cls, name: str, bases: tuple[type, ...], names: Any, **more: Any) -> None:  # noqa: N805
        super().__init__(name, bases, names, **more)
        if more.get("table"):
            configure_mappers()  # else attributes would work from the first query on, not before
            # SQLAlchemy has put a constructor of its own around the class's.
            type.__setattr__(cls, "__init__", Table.__init__)
            for column in cls.__table__.columns:  # type: ignore[attr-defined]
                type.__setattr__(cls, column.name, _Column(cls.__dict__[column.name]))


class _Column:
    """An attribute that is SQLAlchemy's where a query names it on the class, and a row's own value on a row.

    Without `__set__` Python looks into the row's dictionary first, and never asks here: a tenth of the time.
    """

    def __init__(self, mapped: Any) -> None:
        self._mapped = mapped

    def __get__(self, row: object, table: type) -> Any:
        return self._mapped.__get__(row, table)


class Table(SQLModel, metaclass=_Untracked):
    """Base of every table. A row is made by keyword, and taken as it is: rules stand on models and schemas.

    No session ever tracks one: `Transaction` writes rows, sessions only read.
    """

    def __new__(cls, *_: Any, **__: Any) -> Self:
        """A row without what pydantic and SQLAlchemy keep beside its values: 2 microseconds instead of 30."""
        return object.__new__(cls)

    def __init__(self, **values: Any) -> None:
        # Defaults are values: a Table's field has no default_factory.
        self.__dict__.update(_defaults(type(self)))
        self.__dict__.update(values)

    # Nobody asks the ORM what has changed: `Transaction.update` is told.
    __setattr__ = object.__setattr__  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self._values() == other._values()

    __hash__ = None  # type: ignore[assignment]

    def snapshot(self) -> Self:
        """The row as it is now, whatever is done to it later in the same batch."""
        return from_record(type(self), self.__dict__)

    def _values(self) -> dict[str, Any]:
        return {name: self.__dict__.get(name) for name in type(self).model_fields}


T = TypeVar("T", bound=Table)


@cache
def _defaults(table: type[Table]) -> dict[str, Any]:
    fields = table.model_fields.items()
    return {name: field.get_default() for name, field in fields if not field.is_required()}


def from_record(table: type[T], record: Any) -> T:
    """A row as it was read, without running any constructor."""
    row = object.__new__(table)
    row.__dict__.update(record.items())
    return row


def arrays(rows: Sequence[Table], names: Sequence[str]) -> list[list[Any]]:
    """The rows turned into one list per column, as `unnest` takes them."""
    values = [row.__dict__ for row in rows]
    return [[value[name] for value in values] for name in names]


@dataclass(frozen=True)
class Statements:
    """The statements of one table, made once."""

    table: str
    columns: dict[str, str]
    """Column name -> PostgreSQL type, in the order of declaration."""
    primary_key: tuple[str, ...]

    def where(self, condition: str) -> str:
        """All columns of the rows that meet a condition."""
        return f"SELECT {', '.join(self.columns)} FROM {self.table} WHERE {condition}"

    def select(self, key: str, *, lock: bool, complete: bool = False) -> str:
        """Rows whose `key` stands in $1, in its order, so that two batches lock in the same order.

        `complete`: none of them unless there is one for each key, all of which differ.
        """
        among = f"{key} = ANY($1::{self.columns[key]}[])"
        if complete:
            among += f" AND cardinality($1) = (SELECT count(*) FROM {self.table} WHERE {among})"
        sql = self.where(f"{among} ORDER BY {key}")
        return f"{sql} FOR NO KEY UPDATE" if lock else sql

    def insert(self, first: int = 1) -> str:
        """All columns of many rows, from parameter $`first` on; a row that exists already is an error."""
        parameters = ", ".join(f"${n}::{t}[]" for n, t in enumerate(self.columns.values(), first))
        names = ", ".join(self.columns)
        return f"INSERT INTO {self.table} ({names}) SELECT * FROM unnest({parameters})"

    def insert_missing(self, first: int = 1) -> str:
        """The same, except that rows which exist already are left alone."""
        return f"{self.insert(first)} ON CONFLICT DO NOTHING"

    def insert_new(self) -> str:
        """The same; returns the keys of the new ones."""
        return f"{self.insert_missing()} RETURNING {', '.join(self.primary_key)}"

    def upsert_newer(self) -> str:
        """Insert, or replace a row of a lower version; returns the keys of those that were taken."""
        changed = [name for name in self.columns if name not in self.primary_key]
        key = ", ".join(self.primary_key)
        assignments = ", ".join(f"{name} = excluded.{name}" for name in changed)
        return (
            f"{self.insert()} ON CONFLICT ({key}) DO UPDATE SET {assignments}"
            f" WHERE {self.table}.version < excluded.version RETURNING {key}"
        )

    def update(self, changed: Sequence[str], first: int = 1) -> str:
        """Set the `changed` columns of many rows, found by their primary key; parameters from $`first` on."""
        names = [*self.primary_key, *changed]
        kinds = [self.columns[name] for name in names]
        parameters = ", ".join(f"${n}::{kind}[]" for n, kind in enumerate(kinds, first))
        assignments = ", ".join(f"{name} = new.{name}" for name in changed)
        match = " AND ".join(f"{self.table}.{name} = new.{name}" for name in self.primary_key)
        return (
            f"UPDATE {self.table} SET {assignments}"
            f" FROM unnest({parameters}) AS new({', '.join(names)}) WHERE {match}"
            # Says the same again, in a way that no plan can answer by reading the whole table.
            f" AND {self.table}.{self.primary_key[0]} = ANY(${first})"
        )


@cache
def statements(table: type[Table]) -> Statements:
    """The statements of a table, from its SQLModel declaration."""
    sql_table: SqlTable = table.__table__  # type: ignore[attr-defined]
    return Statements(
        table=sql_table.name,
        columns={column.name: _type(column) for column in sql_table.columns},
        primary_key=tuple(column.name for column in sql_table.primary_key),
    )


def _type(column: Column[Any]) -> str:
    return str(column.type.compile(dialect=_DIALECT)).split("(")[0]


class Write(NamedTuple):
    """What is done to many rows of one table: all columns are inserted, or those that `changed` are updated."""

    table: type[Table]
    changed: tuple[str, ...] = ()
    if_missing: bool = False
    """Rows that exist already are left alone."""

    @property
    def names(self) -> tuple[str, ...]:
        """The columns that it takes, in the order of its parameters."""
        made = statements(self.table)
        return (*made.primary_key, *self.changed) if self.changed else tuple(made.columns)

    def sql(self, first: int) -> str:
        """Its statement, with parameters from $`first` on."""
        made = statements(self.table)
        if self.changed:
            return made.update(self.changed, first)
        return made.insert_missing(first) if self.if_missing else made.insert(first)


@cache
def together(writes: tuple[Write, ...]) -> str:
    """One statement that does all of these, which must not meet in any row: none sees what another does.

    It takes the parameters of each, one after the other. PostgreSQL does them in an order of its own. So rows that
    another transaction may write as well are guarded by a lock, or always written here.
    """
    parts, first = [], 1
    for write in writes:
        parts.append(write.sql(first))
        first += len(write.names)
    *before, last = parts
    named = ", ".join(f"write_{n} AS ({part})" for n, part in enumerate(before, 1))
    return f"WITH {named} {last}" if before else last
