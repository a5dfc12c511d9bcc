"""What the billing service tells: accounts, money put in and taken out, and the outcome of every payment."""

from typing import Literal
from uuid import UUID

from events.base import Event, Moment, State, Version
from events.money import Money
from events.orders import OrderState

TransactionKind = Literal["deposit", "withdrawal", "payment", "refund"]
RejectionReason = Literal["insufficient_funds", "order_cancelled"]


class AccountState(State):
    """A user's account and its balance after the change that the event tells of."""

    id: UUID
    user_id: UUID
    balance: Money
    currency: str
    version: Version


class TransactionState(State):
    """One movement of money. `amount` is always positive; `kind` tells the direction."""

    id: UUID
    kind: TransactionKind
    amount: Money
    created_at: Moment


class PaymentState(State):
    """What was debited for an order, once and for all."""

    id: UUID
    order_id: UUID
    amount: Money
    created_at: Moment


class RefundState(State):
    """What went back for a payment, once and for all."""

    id: UUID
    payment_id: UUID
    order_id: UUID
    amount: Money
    created_at: Moment


class AccountOpened(Event, exchange="billing", key="account-opened.v1", subject="account.id"):
    """A user has an account, with nothing on it."""

    account: AccountState


class FundsDeposited(Event, exchange="billing", key="funds-deposited.v1", subject="account.id"):
    """Money has been put into the account."""

    account: AccountState
    transaction: TransactionState


class FundsWithdrawn(Event, exchange="billing", key="funds-withdrawn.v1", subject="account.id"):
    """Money has been taken out of the account."""

    account: AccountState
    transaction: TransactionState


class PaymentSucceeded(Event, exchange="billing", key="payment-succeeded.v1", subject="order.id"):
    """The order's total has left the account."""

    payment: PaymentState
    order: OrderState
    account: AccountState


class PaymentRejected(Event, exchange="billing", key="payment-rejected.v1", subject="order.id"):
    """Nothing has left the account for this order, and nothing will. `account` is as it was at that moment."""

    reason: RejectionReason
    order: OrderState
    account: AccountState


class PaymentRefunded(Event, exchange="billing", key="payment-refunded.v1", subject="order.id"):
    """What had been debited for the order is back on the account."""

    refund: RefundState
    payment: PaymentState
    order: OrderState
    account: AccountState
