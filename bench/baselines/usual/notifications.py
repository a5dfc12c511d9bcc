"""Notifications, as usual: remembers users, and writes a letter about each outcome."""

from datetime import UTC, datetime
from functools import partial

from fastapi import APIRouter
from faststream.rabbit.annotations import RabbitMessage
from uuid_utils.compat import uuid7

from apps.notifications.api import list_notifications, view_notification
from apps.notifications.bell import bell
from apps.notifications.models import Notification, Recipient
from bench.baselines.common import create_app
from bench.baselines.parts import keys
from bench.baselines.parts.callees import callees
from bench.baselines.parts.mailer import sending
from bench.baselines.usual.session import sessions_of
from bench.baselines.usual.wiring import NotYetError, broker_of, causation, subscription, working
from chassis.web.routing import StrictRoute
from events.billing import PaymentRejected, PaymentSucceeded
from events.users import UserRegistered

sessions = sessions_of("notifications")
broker = broker_of("notifications")
router = APIRouter(prefix="/notification", route_class=StrictRoute)
router.add_api_route("/{notificationId}", view_notification, methods=["GET"])
router.add_api_route("", list_notifications, methods=["GET"])


@broker.subscriber(**subscription("notifications", UserRegistered))
async def remember_the_recipient(registered: UserRegistered, message: RabbitMessage) -> None:
    """A user may get letters."""
    async with sessions.begin() as session:
        if not await session.heard_before(message.message_id):
            session.insert(*Recipient.copies([registered.user]))


@broker.subscriber(**subscription("notifications", PaymentSucceeded))
async def write_of_joy(payment: PaymentSucceeded, message: RabbitMessage) -> None:
    """The order is paid: a letter of joy."""
    await _write(payment, message)


@broker.subscriber(**subscription("notifications", PaymentRejected))
async def write_of_sorrow(refusal: PaymentRejected, message: RabbitMessage) -> None:
    """The order will not be paid: a letter of sorrow."""
    await _write(refusal, message)


async def _write(outcome: PaymentSucceeded | PaymentRejected, message: RabbitMessage) -> None:
    async with sessions.begin() as session:
        if await session.heard_before(message.message_id):
            return
        recipient = await session.find(Recipient, id=outcome.order.user_id)
        if recipient is None:
            raise NotYetError(f"nobody has told of user {outcome.order.user_id} yet")
        now = datetime.now(UTC)
        notification = Notification.about(
            "joy" if isinstance(outcome, PaymentSucceeded) else "sorrow",
            outcome.order,
            outcome.order.total,
            outcome.account,
            id=uuid7(),
            cause=causation(message),
            now=now,
            reason=None if isinstance(outcome, PaymentSucceeded) else outcome.reason,
        )
        notification.render_for(recipient, now)
        session.insert(notification)
    bell.ring()


app = create_app(
    "notifications",
    [router],
    [
        callees.open,
        keys.fetched,
        sending,
        partial(working, sessions=sessions, broker=broker),
    ],
)
