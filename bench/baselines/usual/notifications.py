"""Notifications of the usual build: stores recipients, and a notification about each outcome."""

from datetime import UTC, datetime
from functools import partial

from fastapi import APIRouter
from faststream.rabbit.annotations import RabbitMessage
from uuid_utils.compat import uuid7

from apps.notifications.api import list_notifications, view_notification
from apps.notifications.models import Notification, Recipient
from bench.baselines.common import create_app, written
from bench.baselines.parts import keys
from bench.baselines.parts.mailer import sending
from bench.baselines.parts.services import services
from bench.baselines.usual.broker import (
    UnknownUserError,
    broker_of,
    causation,
    messaging,
    subscription,
)
from bench.baselines.usual.session import sessions_of
from chassis.web.routing import StrictRoute
from events.billing import PaymentRejected, PaymentSucceeded
from events.users import UserRegistered

sessions = sessions_of("notifications")
broker = broker_of("notifications")
router = APIRouter(prefix="/notification", route_class=StrictRoute)
router.add_api_route("/{notificationId}", view_notification, methods=["GET"])
router.add_api_route("", list_notifications, methods=["GET"])


@broker.subscriber(**subscription("notifications", UserRegistered))
async def store_recipient(registered: UserRegistered, message: RabbitMessage) -> None:
    """Store the recipient."""
    async with sessions.begin() as session:
        if not await session.is_duplicate(message.message_id):
            session.insert(*Recipient.copies([registered.user]))


@broker.subscriber(**subscription("notifications", PaymentSucceeded))
async def notify_of_payment(payment: PaymentSucceeded, message: RabbitMessage) -> None:
    """The order is paid: a notification of joy."""
    await _write(payment, message)


@broker.subscriber(**subscription("notifications", PaymentRejected))
async def notify_of_rejection(refusal: PaymentRejected, message: RabbitMessage) -> None:
    """The order is rejected: a notification of sorrow."""
    await _write(refusal, message)


async def _write(outcome: PaymentSucceeded | PaymentRejected, message: RabbitMessage) -> None:
    async with sessions.begin() as session:
        if await session.is_duplicate(message.message_id):
            return
        recipient = await session.find(Recipient, id=outcome.order.user_id)
        if recipient is None:
            raise UnknownUserError(f"UserRegistered of {outcome.order.user_id} is not received yet")
        now = datetime.now(UTC)
        notification = Notification(
            id=uuid7(),
            user_id=outcome.order.user_id,
            order_id=outcome.order.id,
            kind="joy" if isinstance(outcome, PaymentSucceeded) else "sorrow",
            reason=None if isinstance(outcome, PaymentSucceeded) else outcome.reason,
            amount=outcome.order.total,
            balance=outcome.account.balance,
            currency=outcome.account.currency,
            created_at=now,
            **causation(message)._asdict(),
        )
        notification.render_for(recipient, now)
        session.insert(notification)
    written.set()


app = create_app(
    "notifications",
    [router],
    [
        services.open,
        keys.refreshing,
        sending,
        partial(messaging, sessions=sessions, broker=broker),
    ],
)
