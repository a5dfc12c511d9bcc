"""Accounts, charges and transfers, with their rules and refusals. Amounts are minor units."""

from datetime import datetime
from typing import ClassVar, Final, Literal, Self
from uuid import UUID

from sqlmodel import BigInteger, Field, String

from chassis.database.tables import Table
from chassis.web.problems import Problem
from events.base import ByOperator
from events.billing import (
    AccountState,
    PaymentState,
    RefundState,
    RejectionReason,
    TransactionKind,
    TransactionState,
)
from events.money import CURRENCY, to_text
from events.orders import OrderState

CASH: Final = UUID(int=1)
"""The ledger account for money outside the system: deposits debit it, withdrawals credit it."""

REVENUE: Final = UUID(int=2)
"""The ledger account for revenue from orders."""

MAX_BALANCE: Final = 10**17
"""The highest balance of an account, in minor units: a tenth of what an event can carry."""

ChargeStatus = Literal["paid", "rejected", "refunded", "cancelled"]


class InsufficientFunds(Problem, status=403, reason="insufficient_funds"):
    """There is not enough money on the account."""

    @classmethod
    def of(cls, balance: int) -> Self:
        """The refusal, with the balance in minor units at that moment."""
        return cls(f"The balance is {to_text(balance)}.", balance=to_text(balance))


class BalanceLimit(Problem, status=403, reason="balance_limit"):
    """The account cannot hold that much."""


class Holder(Table, table=True):
    """A user who may hold an account."""

    __tablename__ = "holders"

    id: UUID = Field(primary_key=True)
    version: int


class Transfer(Table, table=True):
    """A transaction of the double-entry ledger: moves `amount` from `debit_account` to `credit_account`.

    One row holds both sides, so every transaction sums to zero by construction; the view `ledger_entries` shows it as
    two entries. `account_id` is the user's account; `account_version` and `balance` are those of the account after it.
    Rows are never changed or deleted.
    """

    __tablename__ = "transfers"

    id: UUID = Field(primary_key=True)
    kind: TransactionKind = Field(sa_type=String)
    debit_account: UUID
    credit_account: UUID
    amount: int = Field(sa_type=BigInteger)
    account_id: UUID
    account_version: int
    balance: int = Field(sa_type=BigInteger)
    order_id: UUID | None = None
    created_at: datetime

    def state(self, by_operator: ByOperator | None = None) -> TransactionState:
        """The transaction for events."""
        return TransactionState(**vars(self), by_operator=by_operator)


class Account(Table, table=True):
    """A user's account. Every change of its balance is a transfer and a new version.

    Refunds are never refused: 0 <= balance <= net_deposits <= MAX_BALANCE.
    """

    __tablename__ = "accounts"
    currency: ClassVar[str] = CURRENCY

    id: UUID = Field(primary_key=True)
    user_id: UUID = Field(unique=True)
    balance: int = Field(default=0, sa_type=BigInteger)
    version: int = 1
    opened_at: datetime
    net_deposits: int = Field(default=0, sa_type=BigInteger)
    """Deposits less withdrawals: the balance and all payments that may still be refunded."""

    def deposit(self, amount: int, id: UUID, now: datetime) -> Transfer | BalanceLimit:
        """Credit an amount, unless the balance could then exceed MAX_BALANCE, even after all refunds."""
        if self.net_deposits + amount > MAX_BALANCE:
            return BalanceLimit()
        self.net_deposits += amount
        return self._change("deposit", amount, CASH, id, now)

    def withdraw(self, amount: int, id: UUID, now: datetime) -> Transfer | InsufficientFunds:
        """Debit an amount, if the balance covers it."""
        if amount > self.balance:
            return InsufficientFunds.of(self.balance)
        self.net_deposits -= amount
        return self._change("withdrawal", -amount, CASH, id, now)

    def charge(
        self, order: OrderState, id: UUID, now: datetime
    ) -> "tuple[Charge, Transfer | None]":
        """Debit an order's total if the balance covers it; otherwise reject and record the balance."""
        if order.total > self.balance:
            return Charge.of(order, self, "rejected", id, now), None
        transfer = self._change("payment", -order.total, REVENUE, id, now, order.id)
        return Charge.of(order, self, "paid", id, now), transfer

    def refund(self, charge: "Charge", id: UUID, now: datetime) -> Transfer:
        """Credit the amount that was debited for an order."""
        charge.status, charge.refund_id, charge.refunded_at = "refunded", id, now
        return self._change("refund", charge.amount, REVENUE, id, now, charge.order_id)

    def _change(
        self,
        kind: TransactionKind,
        change: int,
        other: UUID,
        id: UUID,
        now: datetime,
        order_id: UUID | None = None,
    ) -> Transfer:
        """Add a change to the balance; a negative one is a debit. `other` is the other side of the transfer."""
        self.balance += change
        self.version += 1
        return Transfer(
            id=id,
            kind=kind,
            debit_account=other if change > 0 else self.id,
            credit_account=self.id if change > 0 else other,
            amount=abs(change),
            account_id=self.id,
            account_version=self.version,
            balance=self.balance,
            order_id=order_id,
            created_at=now,
        )

    def state(self) -> AccountState:
        """The account for events."""
        return AccountState(**vars(self), currency=self.currency)


class Charge(Table, table=True):
    """Billing's decision about an order, made once. Its key deduplicates longer than the inbox does.

    `cancelled` is a tombstone: the cancellation arrived before the order. `balance` and `account_version` are those of
    the account after the decision.
    """

    __tablename__ = "charges"

    order_id: UUID = Field(primary_key=True)
    payment_id: UUID = Field(unique=True)
    user_id: UUID
    account_id: UUID
    amount: int = Field(sa_type=BigInteger)
    status: ChargeStatus = Field(sa_type=String)
    reason: RejectionReason | None = Field(default=None, sa_type=String)
    balance: int = Field(sa_type=BigInteger)
    account_version: int
    refund_id: UUID | None = None
    created_at: datetime
    refunded_at: datetime | None = None

    @classmethod
    def of(
        cls, order: OrderState, account: Account, status: ChargeStatus, id: UUID, now: datetime
    ) -> Self:
        """The decision about an order, with the state of the account after it."""
        return cls(
            order_id=order.id,
            payment_id=id,
            user_id=order.user_id,
            account_id=account.id,
            amount=order.total,
            status=status,
            reason="insufficient_funds" if status == "rejected" else None,
            balance=account.balance,
            account_version=account.version,
            created_at=now,
        )

    def payment(self) -> PaymentState:
        """The payment for events."""
        return PaymentState(**vars(self), id=self.payment_id)

    def refunded(self) -> RefundState:
        """The refund for events. Raises ValidationError if the charge is not refunded."""
        return RefundState.model_validate(
            vars(self) | {"id": self.refund_id, "created_at": self.refunded_at}
        )
