"""Events of billing: accounts, deposits, withdrawals, and the outcome of every payment."""

from typing import Literal
from uuid import UUID

from events.base import ByOperator, Event, Moment, State, Version
from events.money import Money
from events.orders import OrderState

TransactionKind = Literal["deposit", "withdrawal", "payment", "refund"]
RejectionReason = Literal["insufficient_funds", "order_cancelled"]


class AccountState(State):
    """A user's account, with its balance after the change that the event is about."""

    id: UUID
    user_id: UUID
    balance: Money
    currency: str
    version: Version


class TransactionState(State):
    """One movement of money. `amount` is always positive; `kind` implies the direction."""

    id: UUID
    kind: TransactionKind
    amount: Money
    created_at: Moment
    by_operator: ByOperator | None = None


class PaymentState(State):
    """The debit for an order. There is at most one for each order."""

    id: UUID
    order_id: UUID
    amount: Money
    created_at: Moment


class RefundState(State):
    """The refund of a payment. There is at most one for each payment."""

    id: UUID
    payment_id: UUID
    order_id: UUID
    amount: Money
    created_at: Moment


class AccountOpened(
    Event, exchange="billing", key="account-opened.v1", subject="account.id", subscribed=False
):
    """A user has an account, and its balance is zero."""

    account: AccountState


class FundsDeposited(
    Event, exchange="billing", key="funds-deposited.v1", subject="account.id", subscribed=False
):
    """Money has been credited to the account."""

    account: AccountState
    transaction: TransactionState


class FundsWithdrawn(
    Event, exchange="billing", key="funds-withdrawn.v1", subject="account.id", subscribed=False
):
    """Money has been withdrawn from the account."""

    account: AccountState
    transaction: TransactionState


class PaymentSucceeded(Event, exchange="billing", key="payment-succeeded.v1", subject="order.id"):
    """The order's total has been debited from the account. `order` is as it was placed: pending, of version 1."""

    payment: PaymentState
    order: OrderState
    account: AccountState


class PaymentRejected(Event, exchange="billing", key="payment-rejected.v1", subject="order.id"):
    """Nothing has been debited for this order, and nothing will be.

    `account` is its state at that moment; `order` is as it was placed.
    """

    reason: RejectionReason
    order: OrderState
    account: AccountState


class PaymentRefunded(Event, exchange="billing", key="payment-refunded.v1", subject="order.id"):
    """The amount debited for the order has been credited to the account again."""

    refund: RefundState
    payment: PaymentState
    order: OrderState
    account: AccountState
