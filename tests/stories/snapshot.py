"""What only a test knows at rest: every published event, the mail that arrived, and rows to compare them with."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Final
from uuid import UUID

from apps import SERVICES
from bench.answers import History
from events.base import Envelope, Event
from ops.audit.databases import Databases, reading

if TYPE_CHECKING:
    from tests.stories.stack import Stack

Row = SimpleNamespace
"""A row, with its columns as attributes."""

TABLES: Final = {
    "users": ("users", "id, email, name, locale, version"),
    "orders": ("orders", "id, user_id, total, status, reason, placed_at, version"),
    "accounts": ("billing", "id, user_id, balance, version"),
    "notifications": ("notifications", "id, user_id, order_id, address, subject, status"),
}
"""By table the service and the columns that are read."""


@dataclass(frozen=True)
class Mail:
    """What the test's mail server has received."""

    arrived: Sequence[tuple[str, tuple[str, ...], str]]
    """The notification's id, recipients and subject of each e-mail that arrived."""
    refused_for_good: Collection[str] = ()
    """Addresses whose e-mails were refused with 5xx."""
    extra_copies: int = 0
    """How many e-mails may have been sent twice, because a dispatcher was killed between sending and recording."""


@dataclass
class Snapshot:
    """Rows of all services, events, and mail, at rest."""

    users: list[Row]
    orders: list[Row]
    accounts: list[Row]
    notifications: list[Row]
    inboxes: dict[str, set[UUID]]
    """Ids of received events by service."""
    events: list[Envelope[Event]]
    """Everything that was ever published, in order."""
    mail: Mail
    history: History


async def read_snapshot(
    databases: Databases, events: Sequence[Envelope[Event]], mail: Mail, history: History
) -> Snapshot:
    """Read the rows."""
    rows = {
        table: [
            Row(**row)
            for row in await databases[service].rows(f"SELECT {columns} FROM {table} ORDER BY id")
        ]
        for table, (service, columns) in TABLES.items()
    }
    inboxes: Mapping[str, set[UUID]] = {
        service: {
            id for [id] in await databases[service].rows("SELECT event_id FROM processed_events")
        }
        for service in SERVICES
    }
    return Snapshot(**rows, inboxes=dict(inboxes), events=[*events], mail=mail, history=history)


async def snapshot_of(stack: "Stack") -> Snapshot:
    """The snapshot of a stack, which must be at rest."""
    arrived = [
        (mail.notification_id, tuple(mail.recipients), mail.subject) for mail in stack.mail.emails
    ]
    mail = Mail(arrived, set(stack.refused_for_good), stack.extra_copies)
    async with reading(stack.urls.databases) as databases:
        return await read_snapshot(databases, stack.journal.events(), mail, stack.history)
