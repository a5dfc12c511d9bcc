"""HTTP bodies and queries of notifications."""

from typing import Annotated, Final, Self
from uuid import UUID

from pydantic import Field, StringConstraints

from apps.notifications.models import Notification
from chassis.web.pagination import PageQuery
from chassis.web.schemas import LINE_BREAKS, Body, View
from events.base import Moment
from events.notifications import NotificationKind, NotificationStatus

_CONTROLS: Final = r"\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f"

Subject = Annotated[
    str,
    StringConstraints(min_length=1, max_length=200, pattern=rf"^[^{LINE_BREAKS}]+$"),
    Field(description="All on one line.", examples=["About your order"]),
]
MessageText = Annotated[
    str,
    StringConstraints(min_length=1, max_length=10_000, pattern=rf"^[^{_CONTROLS}]+$"),
    Field(description="Plain text.", examples=["It is on its way.\n\nYours, Chorus"]),
]


class MessageBody(Body):
    """An operator's message to a user."""

    user_id: UUID
    subject: Subject
    body: MessageText


class NotificationQuery(PageQuery):
    """Filters of a list of notifications."""

    user_id: UUID | None = Field(None, description="Only notifications to this user.")
    order_id: UUID | None = Field(None, description="Only notifications about this order.")
    kind: NotificationKind | None = Field(None, description="Only notifications of this kind.")
    status: NotificationStatus | None = Field(
        None, description="Only notifications with this status."
    )


class AcceptedView(View):
    """The id of a notification that will be sent."""

    notification_id: UUID = Field(validation_alias="id")


class NotificationView(View):
    """A notification. `to`, `subject` and `body` are null while its recipient is not known yet."""

    notification_id: UUID = Field(validation_alias="id")
    user_id: UUID
    order_id: UUID | None
    kind: NotificationKind
    to: str | None = Field(examples=["ann@example.com"])
    subject: str | None = Field(examples=["Your order is paid: 150.00 EUR"])
    body: str | None = Field(description="The plain text; an e-mail has it as HTML, too.")
    status: NotificationStatus
    created_at: Moment
    sent_at: Moment | None = Field(description="When the channel's server accepted it.")

    @classmethod
    def of(cls, notification: Notification) -> Self:
        """A notification as it is now."""
        return cls.model_validate(notification.state())
