"""SQL statements for one row of Chorus' tables, for a plain asyncpg connection."""

from functools import cache
from typing import Any

from chassis.database.tables import Table, statements


@cache
def insert(table: type[Table]) -> str:
    """Insert one row, unless it exists. Returns true if the row is new."""
    columns = statements(table).columns
    names, places = ", ".join(columns), ", ".join(f"${n}" for n in range(1, len(columns) + 1))
    name = statements(table).table
    return (
        f"INSERT INTO {name} ({names}) VALUES ({places})"  # noqa: S608 - made of names in this code
        " ON CONFLICT DO NOTHING RETURNING true"
    )


def values(row: Table) -> list[Any]:
    """The parameters of `insert`."""
    return [getattr(row, name) for name in statements(type(row)).columns]


@cache
def select(table: type[Table], key: str) -> str:
    """One row by a column."""
    return statements(table).where(f"{key} = $1")
