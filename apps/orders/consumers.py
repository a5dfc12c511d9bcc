"""Door 2: what orders hears, and what it does about it."""

from collections.abc import Sequence

from apps.orders import use_cases
from chassis.database.transaction import Transaction
from chassis.messaging.consumer import Inbox
from events.base import Heard
from events.billing import PaymentRefunded, PaymentRejected, PaymentSucceeded
from events.users import UserRegistered, UserUpdated

inbox = Inbox("orders")


@inbox.hears(UserRegistered)
async def remember_the_customer(tx: Transaction, heard: Sequence[Heard[UserRegistered]]) -> None:
    """A user may place orders."""
    await use_cases.remember_customers(tx, heard)


@inbox.hears(UserUpdated)
async def update_the_customer(tx: Transaction, heard: Sequence[Heard[UserUpdated]]) -> None:
    """A customer has another name or address."""
    await use_cases.remember_customers(tx, heard)


@inbox.hears(PaymentSucceeded)
async def mark_as_paid(tx: Transaction, heard: Sequence[Heard[PaymentSucceeded]]) -> None:
    """The order is paid."""
    await use_cases.mark_paid(tx, heard)


@inbox.hears(PaymentRejected)
async def mark_as_rejected(tx: Transaction, heard: Sequence[Heard[PaymentRejected]]) -> None:
    """The order will not be paid."""
    await use_cases.mark_rejected(tx, heard)


@inbox.hears(PaymentRefunded)
async def mark_as_refunded(tx: Transaction, heard: Sequence[Heard[PaymentRefunded]]) -> None:
    """The cancelled order's money is back."""
    await use_cases.mark_refunded(tx, heard)
