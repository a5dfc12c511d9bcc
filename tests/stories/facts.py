"""Everything that the audit speaks about, taken down at rest: databases, journal, queues, wishes and mail."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from apps.common.settings import SERVICES
from events.base import Event, Heard

if TYPE_CHECKING:
    from tests.stories.customers import Attempt
    from tests.stories.stack import Stack

Rows = list[dict[str, Any]]

Findings = Iterator[str]
"""What is wrong, a line each."""

COPIES: Final = {"billing": "holders", "orders": "customers", "notifications": "recipients"}
"""Where services keep their copies of users."""

USER: Final = "id, email, name, locale, version"


@dataclass(frozen=True)
class Facts:
    """Everything that the invariants speak about, taken down at rest."""

    users: Rows
    copies: Mapping[str, Rows]
    keys: Mapping[str, Rows]
    accounts: Rows
    transfers: Rows
    entries: Rows
    charges: Rows
    orders: Rows
    letters: Rows
    outboxes: Mapping[str, int]
    queues: Mapping[str, int]
    inboxes: Mapping[str, set[UUID]]
    events: list[Heard[Event]]
    retold: set[UUID]
    """Ids of events that a story told again under new ids: heard by all, and no news."""
    attempts: "list[Attempt]"
    mail: list[tuple[str, tuple[str, ...], str]]
    """The notification's id, recipients and subject of each letter that arrived."""
    refused_for_good: set[str]
    extra_copies: int

    def told_of(self, kind: type[Event]) -> Counter[UUID]:
        """How many different events of a kind there are about each aggregate."""
        return Counter(
            UUID(heard.event.subject)
            for heard in self.events
            if isinstance(heard.event, kind) and heard.id not in self.retold
        )


async def gather(stack: "Stack") -> Facts:
    """Take everything down. The stack must be at rest."""
    return Facts(
        users=await stack.rows("users", f"SELECT {USER} FROM users ORDER BY id"),
        copies={
            service: await stack.rows(service, f"SELECT {USER} FROM {table} ORDER BY id")
            for service, table in COPIES.items()
        },
        keys={
            service: await stack.rows(service, "SELECT * FROM signing_keys ORDER BY key_id")
            for service in SERVICES
        },
        accounts=await stack.rows("billing", "SELECT * FROM accounts"),
        transfers=await stack.rows("billing", "SELECT * FROM transfers ORDER BY account_version"),
        entries=await stack.rows("billing", "SELECT * FROM ledger_entries"),
        charges=await stack.rows("billing", "SELECT * FROM charges"),
        orders=await stack.rows("orders", "SELECT * FROM orders"),
        letters=await stack.rows("notifications", "SELECT * FROM letters"),
        outboxes={
            service: await stack.value(service, "SELECT count(*) FROM outbox")
            for service in SERVICES
        },
        queues=await stack.queues(),
        inboxes={service: await stack.inbox(service) for service in SERVICES},
        events=stack.journal.events(),
        retold=set(stack.retold),
        attempts=list(stack.attempts),
        mail=[
            (letter.notification_id, tuple(letter.recipients), letter.subject)
            for letter in stack.mail.letters
        ],
        refused_for_good=set(stack.refused_for_good),
        extra_copies=stack.extra_copies,
    )


def by_id(rows: Iterable[dict[str, Any]]) -> dict[UUID, dict[str, Any]]:
    return {row["id"]: row for row in rows}
