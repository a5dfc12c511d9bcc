"""Accounts, charges and transfers, and the rules on them. Amounts are minor units."""

from datetime import datetime
from typing import Final, Literal
from uuid import UUID

from sqlmodel import BigInteger, Field, String

from apps.billing.problems import BalanceLimit, InsufficientFunds
from chassis.database.tables import Table
from events.billing import (
    AccountState,
    PaymentState,
    RefundState,
    RejectionReason,
    TransactionKind,
    TransactionState,
)
from events.money import CURRENCY
from events.orders import OrderState

CASH: Final = UUID(int=1)
"""The ledger's account for money outside: deposits come from it, withdrawals go to it."""

REVENUE: Final = UUID(int=2)
"""The ledger's account for what orders have brought in."""

MAX_BALANCE: Final = 10**17
"""The most that an account holds, in minor units; far below what a BIGINT does."""

ChargeStatus = Literal["paid", "rejected", "refunded", "cancelled"]


class Holder(Table, table=True):
    """A user who may hold an account."""

    __tablename__ = "holders"

    id: UUID = Field(primary_key=True)
    version: int


class Transfer(Table, table=True):
    """One movement in the double-entry ledger: `amount` leaves `debit_account` and enters `credit_account`.

    Both sides stand in one row, so every transaction sums to zero by construction; the view `ledger_entries` shows
    it as two entries. `account_id` is the wallet that it belongs to, `account_version` its place in that wallet's
    order, `balance` what the wallet held afterwards. Rows are never changed or deleted.
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

    def state(self) -> TransactionState:
        """The movement as events carry it."""
        return TransactionState.model_validate(self, from_attributes=True)


class Account(Table, table=True):
    """A user's wallet. Its balance never falls below zero; every change is a transfer and a new version."""

    __tablename__ = "accounts"

    id: UUID = Field(primary_key=True)
    user_id: UUID = Field(unique=True)
    balance: int = Field(default=0, sa_type=BigInteger)
    version: int = 1
    opened_at: datetime

    def deposit(self, amount: int, id: UUID, now: datetime) -> Transfer | BalanceLimit:
        """Put money in, as far as the account can hold it."""
        if self.balance + amount > MAX_BALANCE:
            return BalanceLimit()
        return self._move("deposit", amount, id, now)

    def withdraw(self, amount: int, id: UUID, now: datetime) -> Transfer | InsufficientFunds:
        """Take money out, if it is there."""
        if amount > self.balance:
            return InsufficientFunds.of(self.balance)
        return self._move("withdrawal", amount, id, now)

    def charge(
        self, order: OrderState, id: UUID, now: datetime
    ) -> "tuple[Charge, Transfer | None]":
        """Debit an order's total, or refuse and record the balance at that moment."""
        if order.total > self.balance:
            return Charge.of(order, self, "rejected", id, now, reason="insufficient_funds"), None
        transfer = self._move("payment", order.total, id, now, order.id)
        return Charge.of(order, self, "paid", id, now), transfer

    def refund(self, charge: "Charge", id: UUID, now: datetime) -> Transfer:
        """Give back what was debited for an order."""
        charge.status, charge.refund_id, charge.refunded_at = "refunded", id, now
        return self._move("refund", charge.amount, id, now, charge.order_id)

    def _move(
        self,
        kind: TransactionKind,
        amount: int,
        id: UUID,
        now: datetime,
        order_id: UUID | None = None,
    ) -> Transfer:
        other = CASH if kind in ("deposit", "withdrawal") else REVENUE
        incoming = kind in ("deposit", "refund")
        self.balance += amount if incoming else -amount
        self.version += 1
        return Transfer(
            id=id,
            kind=kind,
            debit_account=other if incoming else self.id,
            credit_account=self.id if incoming else other,
            amount=amount,
            account_id=self.id,
            account_version=self.version,
            balance=self.balance,
            order_id=order_id,
            created_at=now,
        )

    def state(self) -> AccountState:
        """The account as events carry it."""
        return AccountState(
            id=self.id,
            user_id=self.user_id,
            balance=self.balance,
            currency=CURRENCY,
            version=self.version,
        )


class Charge(Table, table=True):
    """What billing decided about an order, once: the business key that outlives the inbox.

    `cancelled` is a tombstone: the cancellation came before the order. `balance` and `account_version` tell how
    the account stood after the decision.
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
        cls,
        order: OrderState,
        account: Account,
        status: ChargeStatus,
        id: UUID,
        now: datetime,
        reason: RejectionReason | None = None,
    ) -> "Charge":
        """The decision about an order, with the account as it stands after it."""
        return cls(
            order_id=order.id,
            payment_id=id,
            user_id=order.user_id,
            account_id=account.id,
            amount=order.total,
            status=status,
            reason=reason,
            balance=account.balance,
            account_version=account.version,
            created_at=now,
        )

    def payment(self) -> PaymentState:
        """The payment as events carry it."""
        return PaymentState(
            id=self.payment_id,
            order_id=self.order_id,
            amount=self.amount,
            created_at=self.created_at,
        )

    def refunded(self) -> RefundState:
        """The refund as events carry it. The charge must be refunded."""
        assert self.refund_id is not None
        assert self.refunded_at is not None
        return RefundState(
            id=self.refund_id,
            payment_id=self.payment_id,
            order_id=self.order_id,
            amount=self.amount,
            created_at=self.refunded_at,
        )
