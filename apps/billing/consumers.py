"""Door 2: what billing hears, and what it does about it."""

from collections.abc import Sequence

from apps.billing import use_cases
from chassis.database.transaction import Transaction
from chassis.messaging.consumer import Inbox
from events.base import Envelope
from events.orders import OrderCancelled, OrderPlaced
from events.users import UserRegistered, UserUpdated

inbox = Inbox("billing")


@inbox.hears(UserRegistered)
async def open_the_account(tx: Transaction, received: Sequence[Envelope[UserRegistered]]) -> None:
    """A user needs an account."""
    await use_cases.open_accounts(tx, received)


@inbox.hears(UserUpdated)
async def update_the_holder(tx: Transaction, received: Sequence[Envelope[UserUpdated]]) -> None:
    """The account's holder has another name or address."""
    await use_cases.update_holders(tx, received)


@inbox.hears(OrderPlaced)
async def debit(tx: Transaction, received: Sequence[Envelope[OrderPlaced]]) -> None:
    """An order wants to be paid."""
    await use_cases.charge_orders(tx, received)


@inbox.hears(OrderCancelled)
async def give_back(tx: Transaction, received: Sequence[Envelope[OrderCancelled]]) -> None:
    """What was debited for the order goes back."""
    await use_cases.refund_orders(tx, received)
