"""The events that notifications consumes, and the use case for each."""

from collections.abc import Sequence

from apps.notifications import use_cases
from chassis.database.transaction import Transaction
from chassis.messaging.consumer import Inbox
from events.base import Envelope
from events.billing import PaymentRefunded, PaymentRejected, PaymentSucceeded
from events.users import UserRegistered, UserUpdated

inbox = Inbox("notifications")


@inbox.hears(UserRegistered)
async def save_recipient(tx: Transaction, received: Sequence[Envelope[UserRegistered]]) -> None:
    """Stores a recipient; notifications that waited for it are sent."""
    await use_cases.save_recipients(tx, received)


@inbox.hears(UserUpdated)
async def update_recipient(tx: Transaction, received: Sequence[Envelope[UserUpdated]]) -> None:
    """Updates the name, address and language of a recipient."""
    await use_cases.save_recipients(tx, received)


@inbox.hears(PaymentSucceeded)
async def notify_of_payment(
    tx: Transaction, received: Sequence[Envelope[PaymentSucceeded]]
) -> None:
    """Sends a notification of joy: the order is paid."""
    await use_cases.notify_of_payments(tx, received)


@inbox.hears(PaymentRejected)
async def notify_of_rejection(
    tx: Transaction, received: Sequence[Envelope[PaymentRejected]]
) -> None:
    """Sends a notification of sorrow: the order will not be paid."""
    await use_cases.notify_of_rejections(tx, received)


@inbox.hears(PaymentRefunded)
async def notify_of_refund(tx: Transaction, received: Sequence[Envelope[PaymentRefunded]]) -> None:
    """Sends a notification of the refund: the money is back."""
    await use_cases.notify_of_refunds(tx, received)
