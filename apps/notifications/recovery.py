"""What notifications has published gives its table back: which were sent, which failed; none is sent twice."""

from collections.abc import Sequence
from typing import Final, TypeAlias, cast

from apps.notifications.models import Notification
from chassis.database.transaction import Transaction
from chassis.messaging.recovery import Remark
from events.base import Envelope, Event
from events.notifications import NotificationFailed, NotificationSent

Published: TypeAlias = NotificationSent | NotificationFailed

FINAL: Final = (
    "address", "locale", "subject", "body", "status", "due_at", "answer", "sent_at"
)  # fmt: skip
"""The columns in which a notification may differ from what it was when it was created."""


async def recover(tx: Transaction, lost: Sequence[Envelope[Event]]) -> list[Remark]:
    """Write notifications. One that has another about the same order in its place is refused."""
    rows = {e.id: _notification(e) for e in cast("Sequence[Envelope[Published]]", lost)}
    known = await tx.lock(Notification, [row.id for row in rows.values()])
    new = await tx.insert_new([row for row in rows.values() if row.id not in known])
    open_ones = {id for id, row in known.items() if row.status in ("waiting", "pending")}
    await tx.update([row for row in rows.values() if row.id in open_ones], *FINAL)
    return [
        Remark(id, f"about order {row.order_id} is refused: it has another notification")
        for id, row in rows.items()
        if row.id not in new | known.keys()
    ]


def _notification(envelope: Envelope[Published]) -> Notification:
    event, cause = envelope.event, envelope.cause
    state = event.notification
    return Notification(
        **vars(state) | {"address": state.to},
        **cause._asdict(),
        answer=event.reason if isinstance(event, NotificationFailed) else None,
    )
