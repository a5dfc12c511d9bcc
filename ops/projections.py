"""What every service copies of others' data, and from which of their tables, as services and owners declare it."""

import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Final

from apps import SERVICES
from chassis.database.tables import Statements, Table, statements
from chassis.messaging.consumer import Subscription, Subscriptions
from chassis.messaging.snapshot import Snapshot
from events.base import Event


@dataclass(frozen=True)
class Projection:
    """A table of a service that holds copies of what another one owns."""

    service: str
    table: type[Table]
    subscriptions: Subscriptions
    """Those that write it."""
    owner: str
    snapshot: Snapshot[Any]
    """Of the owner's table."""

    @property
    def copies(self) -> Statements:
        """The table's name, columns and keys."""
        return statements(self.table)

    @property
    def name(self) -> str:
        """The table's name."""
        return self.copies.table

    @property
    def key(self) -> str:
        """The column of a copy that holds the owner's key."""
        return self.copies.primary_key[0]

    @property
    def originals(self) -> Statements:
        """Those of the owner's table."""
        table: type[Table] = self.snapshot.table
        return statements(table)

    @property
    def original_key(self) -> str:
        """The owner's key."""
        return self.originals.primary_key[0]

    @property
    def is_copy(self) -> bool:
        """Whether it has one row for each of the owner's rows, by the same UUID."""
        return self.copies.primary_key == (self.key,) and self.copies.columns[self.key] == "UUID"

    @property
    def shared(self) -> tuple[str, ...]:
        """The columns that copies have in common with the owner's rows; not the key."""
        columns = self.copies.columns.keys() - {self.key}
        return tuple(name for name in self.originals.columns if name in columns)


def _snapshot(event: type[Event]) -> Snapshot[Any]:
    """The owner's table that an event is about. Raises LookupError if the owner does not declare it."""
    models = importlib.import_module(f"apps.{event.exchange}.models")
    for one in getattr(models, "SNAPSHOTS", ()):
        if event in one.events:
            snapshot: Snapshot[Any] = one
            return snapshot
    raise LookupError(f"{event.exchange} declares no snapshot of {event.__name__}")


def _declared(service: str) -> Iterator[Projection]:
    declared: Subscriptions = importlib.import_module(f"apps.{service}.consumers").SUBSCRIPTIONS
    copying = sorted((one for one in declared if one.projection), key=_name)
    for _, group in groupby(copying, key=_name):
        found = tuple(group)
        snapshots = {_snapshot(one.event).table: one.event for one in found}
        if len(snapshots) > 1 or found[0].projection is None:
            raise LookupError(f"{_name(found[0])} of {service} copies several tables")
        [event] = snapshots.values()
        yield Projection(service, found[0].projection, found, event.exchange, _snapshot(event))


def _name(subscription: Subscription[Any]) -> str:
    return str(subscription.projection and subscription.projection.__tablename__)


PROJECTIONS: Final = tuple(one for service in SERVICES for one in _declared(service))
"""All that services declare in `consumers.py`; a test holds that owners declare their side."""
