"""Snapshots: what a service owns, as events for a subscriber that cannot receive them any more."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic

from chassis.database.tables import T
from events.base import Event


@dataclass(frozen=True)
class Snapshot(Generic[T]):
    """How a row becomes the events that have been published about it. An owner lists its own in `models.py`.

    The subject of the events is the row's primary key. A row that is gone was revoked or erased: nothing tells of it.
    """

    table: type[T]
    history: Callable[[T], Sequence[Event]]
    """What has been published about a row, in order, as far as the row tells; its current state at least."""
    events: tuple[type[Event], ...]
    """The types of these events."""
    changed_at: str
    """When a row was changed last, as SQL."""
