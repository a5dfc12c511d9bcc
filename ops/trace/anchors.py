"""Which events the tables of the services prove, and when these were committed.

A change and its event are of one transaction, so they have the same time to the microsecond.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from events.base import Event
from events.billing import (
    AccountOpened,
    FundsDeposited,
    FundsWithdrawn,
    PaymentRefunded,
    PaymentRejected,
    PaymentSucceeded,
)
from events.notifications import NotificationFailed, NotificationSent
from events.orders import OrderCancelled, OrderPaid, OrderPlaced, OrderRejected
from events.users import UserRegistered, UserUpdated
from ops.trace.facts import Record


class Anchor(NamedTuple):
    """An event that a table proves: one of these types about a subject, at a time or since then."""

    types: Sequence[type[Event]]
    subject: UUID
    at: datetime | None
    """None: it has not happened."""
    later: bool = False
    """Whether the event was committed later than that, and no table says when."""


def of_account(account: Record) -> Anchor:
    """The opening of an account."""
    return Anchor((AccountOpened,), account["id"], account["opened_at"])


def of_transfer(transfer: Record) -> Anchor:
    """The event of a deposit or a withdrawal."""
    types = FundsDeposited, FundsWithdrawn
    return Anchor(types, transfer["account_id"], transfer["created_at"])


def of_user(user: Record) -> list[Anchor]:
    """A registration, and the last change."""
    changed = (
        [Anchor((UserUpdated,), user["id"], user["updated_at"])] if user["version"] > 1 else []
    )
    return [Anchor((UserRegistered,), user["id"], user["created_at"]), *changed]


def of_order(id: UUID, order: Record | None, charge: Record | None) -> list[Anchor]:
    """What became of an order."""
    anchors = []
    if order is not None:
        anchors.append(Anchor((OrderPlaced,), id, order["placed_at"]))
        if order["status"] == "rejected":
            anchors.append(Anchor((OrderRejected,), id, order["settled_at"]))
        if order["status"] == "paid" or order["version"] == 3:
            anchors.append(Anchor((OrderPaid,), id, order["settled_at"]))
        if order["status"] == "cancelled":
            later = order["version"] == 3  # it had been paid: `settled_at` is the time of that
            anchors.append(Anchor((OrderCancelled,), id, order["settled_at"], later))
    if charge is not None and charge["status"] != "cancelled":
        rejected = charge["status"] == "rejected"
        decided = PaymentRejected if rejected else PaymentSucceeded
        later = charge["reason"] == "order_cancelled"  # the row is as old as the cancellation
        anchors.append(Anchor((decided,), id, charge["created_at"], later))
        anchors.append(Anchor((PaymentRefunded,), id, charge["refunded_at"]))
    return anchors


def of_notifications(notifications: Sequence[Record]) -> list[Anchor]:
    """The outcomes of notifications."""
    sent = [Anchor((NotificationSent,), one["id"], one["sent_at"]) for one in notifications]
    failed = [
        Anchor((NotificationFailed,), one["id"], one["created_at"], later=True)
        for one in notifications
        if one["status"] == "failed"
    ]
    return sent + failed
