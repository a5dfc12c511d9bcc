"""Door 2: what orders hears, and what it does about it."""

from collections.abc import Sequence

from apps.orders import use_cases
from chassis.database.transaction import Transaction
from chassis.messaging.consumer import Inbox
from events.base import Envelope
from events.billing import PaymentRefunded, PaymentRejected, PaymentSucceeded
from events.users import UserRegistered, UserUpdated

inbox = Inbox("orders")


@inbox.hears(UserRegistered)
async def remember_the_customer(
    tx: Transaction, received: Sequence[Envelope[UserRegistered]]
) -> None:
    """A user may place orders."""
    await use_cases.remember_customers(tx, received)


@inbox.hears(UserUpdated)
async def update_the_customer(tx: Transaction, received: Sequence[Envelope[UserUpdated]]) -> None:
    """A customer has another name or address."""
    await use_cases.remember_customers(tx, received)


@inbox.hears(PaymentSucceeded)
async def mark_as_paid(tx: Transaction, received: Sequence[Envelope[PaymentSucceeded]]) -> None:
    """The order is paid."""
    await use_cases.mark_paid(tx, received)


@inbox.hears(PaymentRejected)
async def mark_as_rejected(tx: Transaction, received: Sequence[Envelope[PaymentRejected]]) -> None:
    """The order will not be paid."""
    await use_cases.mark_rejected(tx, received)


@inbox.hears(PaymentRefunded)
async def mark_as_refunded(tx: Transaction, received: Sequence[Envelope[PaymentRefunded]]) -> None:
    """The cancelled order's money is back."""
    await use_cases.mark_refunded(tx, received)
