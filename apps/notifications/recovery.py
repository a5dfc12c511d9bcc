"""What notifications has published gives its table back: which were sent, which failed; none is sent twice."""

from collections import defaultdict
from collections.abc import Sequence
from operator import attrgetter
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
    await _number(tx, [row for row in rows.values() if row.order_id and row.id not in known])
    new = await tx.insert_new([row for row in rows.values() if row.id not in known])
    open_ones = {id for id, row in known.items() if row.status in ("waiting", "pending")}
    await tx.update([row for row in rows.values() if row.id in open_ones], *FINAL)
    return [
        Remark(id, f"about order {row.order_id} is refused: it has another notification")
        for id, row in rows.items()
        if row.id not in new | known.keys()
    ]


async def _number(tx: Transaction, lost: Sequence[Notification]) -> None:
    """Give each its place after those about the same order that were created before it."""
    about = defaultdict(list)
    for one in await tx.load_all(Notification, [row.order_id for row in lost], key="order_id"):
        about[one.order_id].append(one)
    for row in sorted(lost, key=attrgetter("created_at")):
        row.follow([one for one in about[row.order_id] if one.created_at <= row.created_at])
        about[row.order_id].append(row)


def _notification(envelope: Envelope[Published]) -> Notification:
    event, cause = envelope.event, envelope.cause
    state = event.notification
    return Notification(
        **vars(state) | {"address": state.to},
        **cause._asdict(),
        answer=event.reason if isinstance(event, NotificationFailed) else None,
    )
