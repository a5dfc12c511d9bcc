"""The tables of a service, as its models declare them."""

import importlib
from collections.abc import Iterator

from sqlalchemy import Table as SqlTable

from chassis.database.tables import Table

_EVERYBODY_S = ("chassis.",)


def tables_of(service: str) -> dict[str, SqlTable]:
    """A service's own tables and those that every service has, by name."""
    declared: dict[str, SqlTable] = {
        str(kind.__tablename__): kind.__table__  # type: ignore[attr-defined]
        for kind in models_of(service)
    }
    return declared


def models_of(service: str) -> list[type[Table]]:
    """The models of the same tables."""
    importlib.import_module(f"apps.{service}.main")
    return [
        kind
        for kind in _below(Table)
        if kind.__module__.startswith((f"apps.{service}.", *_EVERYBODY_S))
        and hasattr(kind, "__table__")
    ]


def _below(kind: type[Table]) -> Iterator[type[Table]]:
    for one in kind.__subclasses__():
        yield one
        yield from _below(one)
