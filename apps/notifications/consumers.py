"""Door 2: what notifications hears, and what it does about it."""

from collections.abc import Sequence

from apps.notifications import use_cases
from chassis.database.transaction import Transaction
from chassis.messaging.consumer import Inbox
from events.base import Envelope
from events.billing import PaymentRefunded, PaymentRejected, PaymentSucceeded
from events.users import UserRegistered, UserUpdated

inbox = Inbox("notifications")


@inbox.hears(UserRegistered)
async def remember_the_recipient(
    tx: Transaction, received: Sequence[Envelope[UserRegistered]]
) -> None:
    """A user may get letters; those that waited for him go out."""
    await use_cases.remember_recipients(tx, received)


@inbox.hears(UserUpdated)
async def update_the_recipient(tx: Transaction, received: Sequence[Envelope[UserUpdated]]) -> None:
    """A recipient has another name, address or language."""
    await use_cases.remember_recipients(tx, received)


@inbox.hears(PaymentSucceeded)
async def write_of_joy(tx: Transaction, received: Sequence[Envelope[PaymentSucceeded]]) -> None:
    """The order is paid: a letter of joy."""
    await use_cases.write_joy(tx, received)


@inbox.hears(PaymentRejected)
async def write_of_sorrow(tx: Transaction, received: Sequence[Envelope[PaymentRejected]]) -> None:
    """The order will not be paid: a letter of sorrow."""
    await use_cases.write_sorrow(tx, received)


@inbox.hears(PaymentRefunded)
async def write_of_refund(tx: Transaction, received: Sequence[Envelope[PaymentRefunded]]) -> None:
    """The money is back: a letter of refund."""
    await use_cases.write_refund(tx, received)
