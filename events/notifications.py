"""Events of notifications: which were sent, and which never will be."""

from typing import Literal
from uuid import UUID

from pydantic import Field

from events.base import Event, Moment, State
from events.money import Money
from events.users import Locale

NotificationKind = Literal["joy", "sorrow", "refund", "message"]
NotificationStatus = Literal["waiting", "pending", "sent", "failed"]


class NotificationState(State):
    """A notification. `to`, `locale`, `subject` and `body` are None until its recipient is known.

    `reason` is why the order was rejected, `amount` its total.
    """

    id: UUID
    user_id: UUID
    order_id: UUID | None = None
    kind: NotificationKind
    channel: str = "email"
    reason: str | None = None
    amount: Money | None = None
    locale: Locale | None = None
    to: str | None = Field(default=None, max_length=254)
    subject: str | None = None
    body: str | None = None
    status: NotificationStatus
    created_at: Moment
    sent_at: Moment | None = None


class NotificationSent(
    Event,
    exchange="notifications",
    key="notification-sent.v1",
    subject="notification.id",
    subscribed=False,
):
    """The channel's server has accepted the notification."""

    notification: NotificationState


class NotificationFailed(
    Event,
    exchange="notifications",
    key="notification-failed.v1",
    subject="notification.id",
    subscribed=False,
):
    """It will not be sent: refused, deferred for three days, or without a valid address, as `reason` says."""

    notification: NotificationState
    reason: str
